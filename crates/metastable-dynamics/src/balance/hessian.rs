//! The Hessian of a loss of B A in the entries of the factors, and the condition number that descent sees.

use crate::balance::pair::LowRankPair;
use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// The Hessian of g(B A) at a pair, in the entries of A (row by row), then of B: a square of side (in + out)·r.
///
/// H\[(dA, dB)\] = (Bᵀ K\[D\] + dBᵀ G, K\[D\] Aᵀ + G dAᵀ) with D = dB A + B dA, where G = ∇g(B A) [out, in] and
/// `curvature` is K = ∇²g(B A): the identity for ½‖B A - Z‖². O(((in + out)·r)·(out·in·r + cost of K)).
///
/// # References
/// Second derivative of a composition \[derived, checked\]; the spectrum for ½‖B A - Z‖² is that of Castin et al. 2026
/// \[2nd\].
///
/// # Example
/// ```
/// use metastable_dynamics::Matrix;
/// use metastable_dynamics::balance::{LowRankPair, hessian::{factor_hessian, kappa_of}};
///
/// let a = Matrix::from_rows("a", &[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).unwrap();
/// let pair = LowRankPair::new(a.clone(), a.transpose()).unwrap();
/// // At an exact fit the gradient is zero; κ = 2·4/1.
/// let hessian = factor_hessian(&pair, &pair.product().scaled(0.0), Clone::clone);
/// assert!((kappa_of(&hessian, 2).unwrap() - 8.0).abs() < 1e-12);
/// ```
pub fn factor_hessian(pair: &LowRankPair, gradient: &Matrix, curvature: impl Fn(&Matrix) -> Matrix) -> Matrix {
    let (a, b, r) = (pair.a(), pair.b(), pair.rank());
    let (a_t, b_t) = (a.transpose(), b.transpose());
    let (of_a, side) = (r * a.columns(), r * (a.columns() + b.rows()));
    let one = |offset: usize, columns: usize, k: usize, i: usize, j: usize| f64::from(offset + i * columns + j == k);
    let column = |k: usize| {
        let da = Matrix::from_fn(r, a.columns(), |i, j| one(0, a.columns(), k, i, j));
        let db = Matrix::from_fn(b.rows(), r, |i, j| one(of_a, r, k, i, j));
        let curved = curvature(&db.multiply(a).add_scaled(1.0, &b.multiply(&da)));
        let on_a = b_t.multiply(&curved).add_scaled(1.0, &db.transpose().multiply(gradient));
        let on_b = curved.multiply(&a_t).add_scaled(1.0, &gradient.multiply(&da.transpose()));
        [on_a.as_slice(), on_b.as_slice()].concat()
    };
    let columns: Vec<Vec<f64>> = (0..side).map(column).collect();
    Matrix::from_fn(side, side, |i, j| 0.5 * (columns[j][i] + columns[i][j]))
}

/// The smallest and largest eigenvalue of a factor Hessian of rank r outside its r² flat directions, the gauge.
///
/// # Errors
/// [`DynamicsError::Decomposition`]; [`DynamicsError::Domain`] if there is nothing besides the gauge.
pub fn extremes(hessian: &Matrix, rank: usize) -> Result<[f64; 2], DynamicsError> {
    let spectrum = hessian.symmetric_eigen()?.0;
    match spectrum.get(rank * rank..) {
        Some([first, .., last]) => Ok([*first, *last]),
        _ => Err(DynamicsError::domain("hessian", "a side of at least r² + 2", hessian.rows() as f64)),
    }
}

/// The ratio of [`extremes`]; infinite unless the smallest is positive.
///
/// # Errors
/// As [`extremes`].
pub fn kappa_of(hessian: &Matrix, rank: usize) -> Result<f64, DynamicsError> {
    let [least, most] = extremes(hessian, rank)?;
    Ok(if least > 0.0 { most / least } else { f64::INFINITY })
}
