//! One-sided Jacobi: a singular value decomposition whose singular pairs keep their signs from call to call.
//!
//! Algorithms that go through bidiagonal form return (u, v) or (-u, -v) as they please, even for a matrix that is
//! already diagonal. An optimizer that remembers gradients cannot live with that: half of the coordinates change sign
//! behind its back after every projection \[derived, checked: the tests show it\]. Rotations that start from the
//! identity do not turn a vector by more than they must.

use crate::error::DynamicsError;
use crate::linalg::{Matrix, dot, norm};

/// K V = W with orthogonal columns: their lengths are the singular values, `right` is V.
#[derive(Debug, Clone, PartialEq)]
pub struct Jacobi {
    /// Singular values, largest first; below max(rows, columns)·eps·|K| they are exactly 0.
    pub values: Vec<f64>,
    /// W = U Σ, one row a singular pair: row i is σ_i·u_i, [columns, rows] of K.
    pub scaled_left: Matrix,
    /// One row a singular pair: row i is v_i, [columns, columns] of K.
    pub right: Matrix,
}

/// Sweeps over all pairs of columns; convergence is quadratic, real cores need six to ten.
const MAX_SWEEPS: usize = 60;

/// Decomposes K [rows, columns] by plane rotations of its columns. O(rows·columns²) a sweep.
///
/// # Errors
/// [`DynamicsError::Decomposition`] if the columns are not orthogonal after 60 sweeps.
///
/// # References
/// J. Demmel and K. Veselić, "Jacobi's method is more accurate than QR", 1992, algorithm 4.1.
pub fn jacobi(k: &Matrix) -> Result<Jacobi, DynamicsError> {
    let n = k.columns();
    let mut columns: Vec<Vec<f64>> = (0..n).map(|j| (0..k.rows()).map(|i| k.at(i, j)).collect()).collect();
    let mut right: Vec<Vec<f64>> = (0..n).map(|j| (0..n).map(|i| f64::from(i == j)).collect()).collect();
    // Entries as small as 1e-200 would lose their squares.
    let scale = k.max_abs();
    if scale > 0.0 {
        columns.iter_mut().flatten().for_each(|entry| *entry /= scale);
    }
    let orthogonal = f64::EPSILON * (k.rows() as f64).sqrt();
    // Columns below the rounding of K itself are noise, which no rotation can make orthogonal: they count as zero.
    let noise = f64::EPSILON * n.max(k.rows()) as f64 * columns.iter().map(|column| norm(column)).fold(0.0, f64::max);
    let converged = (0..MAX_SWEEPS).any(|_| !sweep(&mut columns, &mut right, orthogonal, noise * noise));
    if !converged {
        return Err(DynamicsError::Decomposition { name: "adapter core".into(), what: "one-sided Jacobi iteration" });
    }
    for column in columns.iter_mut().filter(|column| norm(column) <= noise) {
        column.fill(0.0);
    }
    let lengths: Vec<f64> = columns.iter().map(|column| scale * norm(column)).collect();
    let mut order: Vec<usize> = (0..n).collect();
    // A stable sort: pairs of equal value keep their places.
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    Ok(Jacobi {
        values: order.iter().map(|&i| lengths[i]).collect(),
        scaled_left: Matrix::from_fn(n, k.rows(), |i, j| scale * columns[order[i]][j]),
        right: Matrix::from_fn(n, n, |i, j| right[order[i]][j]),
    })
}

/// Rotates every pair of columns once; says whether one of them had to move.
fn sweep(columns: &mut [Vec<f64>], right: &mut [Vec<f64>], orthogonal: f64, noise_squared: f64) -> bool {
    let mut moved = false;
    for j in 1..columns.len() {
        for i in 0..j {
            let (x, y) = (dot(&columns[i], &columns[i]), dot(&columns[j], &columns[j]));
            let product = dot(&columns[i], &columns[j]);
            if product.abs() <= orthogonal * (x * y).sqrt() || x.min(y) <= noise_squared {
                continue;
            }
            moved = true;
            let zeta = (y - x) / (2.0 * product);
            let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
            let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
            rotate(columns, i, j, cosine, cosine * tangent);
            rotate(right, i, j, cosine, cosine * tangent);
        }
    }
    moved
}

fn rotate(vectors: &mut [Vec<f64>], i: usize, j: usize, cosine: f64, sine: f64) {
    let (head, tail) = vectors.split_at_mut(j);
    for (x, y) in head[i].iter_mut().zip(&mut tail[0]) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}
