//! The triangular factor of tall matrices, without the orthogonal one: all that a spectrum needs.

use crate::linalg::Matrix;
use crate::simd::{Loop, widest};

/// R [r, r] of the thin QR factors of Vᵀ, for V [r, n] whose rows are the tall matrix's columns. 2·r²·n operations.
///
/// Modified Gram-Schmidt: its R is as accurate as Householder's, although its Q need not be orthogonal
/// (Å. Björck, "Numerics of Gram-Schmidt orthogonalization", 1994, section 2.2). The rows are contiguous, so that the
/// loops run through vector registers; sums are of eight partial sums in a fixed order, whatever the registers.
pub(crate) fn triangle(v: &Matrix) -> Matrix {
    let (r, n) = (v.rows(), v.columns());
    let mut rows = v.as_slice().to_vec();
    let mut out = vec![0.0; r * r];
    widest(GramSchmidt { rows: &mut rows, out: &mut out, r, n });
    Matrix::from_fn(r, r, |i, j| out[i * r + j])
}

struct GramSchmidt<'a> {
    rows: &'a mut [f64],
    out: &'a mut [f64],
    r: usize,
    n: usize,
}

impl Loop for GramSchmidt<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { rows, out, r, n } = self;
        for k in 0..r {
            let (head, tail) = rows.split_at_mut((k + 1) * n);
            let pivot = &mut head[k * n..];
            // A largest entry of 1 keeps squares from overflowing and from vanishing.
            let scale = pivot.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
            if scale == 0.0 {
                continue;
            }
            pivot.iter_mut().for_each(|value| *value /= scale);
            let length = sum_of_products(pivot, pivot).sqrt();
            pivot.iter_mut().for_each(|value| *value /= length);
            out[k * r + k] = scale * length;
            for (j, row) in tail.chunks_exact_mut(n).enumerate() {
                let share = sum_of_products(pivot, row);
                out[k * r + k + 1 + j] = share;
                row.iter_mut().zip(pivot.iter()).for_each(|(value, direction)| *value -= share * direction);
            }
        }
    }
}

/// Partial sums of a dot product.
const LANES: usize = 8;

#[inline(always)]
fn sum_of_products(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (x, y) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.0.iter().zip(y.0) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = x.1.iter().zip(y.1).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    #[test]
    fn the_triangle_has_the_gram_matrix_of_the_rows_and_householders_singular_values() {
        for (r, n) in [(1, 1), (3, 7), (8, 100), (5, 3)] {
            let v = Matrix::new("v", r, n, random::standard_normal(9, r, n)).unwrap();
            let found = triangle(&v);
            let gram = v.multiply(&v.transpose());
            let error = found.transpose().multiply(&found).add_scaled(-1.0, &gram).frobenius_norm();
            // n products summed and as many rotations: n·eps, generously.
            assert!(error < 1e-14 * gram.frobenius_norm(), "{r} {n}: {error}");
            let (ours, theirs) = (found.singular_values().unwrap(), v.singular_values().unwrap());
            for (i, expected) in theirs.iter().enumerate() {
                assert!((ours[i] - expected).abs() < 1e-14 * theirs[0], "{r} {n} {i}");
            }
        }
    }

    #[test]
    fn small_singular_values_are_not_lost_as_a_gram_matrix_would_lose_them() {
        // Two rows at an angle of 1e-10: the second singular value is 1e-10/sqrt(2), its square below eps.
        let v = Matrix::from_rows("v", &[[1.0, 0.0, 0.0], [1.0, 1e-10, 0.0]]).unwrap();
        let smallest = triangle(&v).singular_values().unwrap()[1];
        assert!((smallest / (1e-10 / 2.0_f64.sqrt()) - 1.0).abs() < 1e-5, "{smallest}");
    }
}
