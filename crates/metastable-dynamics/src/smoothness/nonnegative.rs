//! Upper bounds for the spectral norm of nonnegative matrices that hold whatever the iteration reached.

use crate::linalg::Matrix;

/// Iterations at most; each costs two passes over the matrix.
const MAX_ITERATIONS: usize = 300;
/// Stops when the enclosure is this narrow, relative.
const ENOUGH: f64 = 1e-11;
/// Entries of the test vector stay above this fraction of the largest: they must be positive.
const FLOOR: f64 = 1e-200;

/// An upper bound of ‖N‖_2 for a matrix without negative entries, nearly always equal to it.
///
/// For every positive x, ‖N‖_2² ≤ max_i (Nᵀ N x)_i / x_i (Collatz-Wielandt, or Schur's test); power iteration from
/// the vector of ones drives the right-hand side down to ‖N‖_2². O(rows·columns) an iteration.
///
/// # References
/// L. Collatz, "Einschließungssatz für die charakteristischen Zahlen von Matrizen", 1942.
///
/// # Example
/// The causal average of two tokens.
/// ```
/// use metastable_dynamics::Matrix;
/// use metastable_dynamics::smoothness::nonnegative::spectral_norm_upper;
/// let cesaro = Matrix::from_rows("C", &[[1.0, 0.0], [0.5, 0.5]]).unwrap();
/// let exact = ((3.0 + 5.0_f64.sqrt()) / 4.0).sqrt();
/// assert!((spectral_norm_upper(&cesaro) - exact).abs() < 1e-11);
/// ```
pub fn spectral_norm_upper(nonnegative: &Matrix) -> f64 {
    debug_assert!(nonnegative.as_slice().iter().all(|x| *x >= 0.0), "no negative entries");
    let scale = nonnegative.max_abs();
    if scale == 0.0 || !scale.is_finite() {
        return scale;
    }
    let (mut x, mut image, mut next) =
        (vec![1.0; nonnegative.columns()], vec![0.0; nonnegative.rows()], vec![0.0; nonnegative.columns()]);
    let mut best = f64::INFINITY;
    for _ in 0..MAX_ITERATIONS {
        next.fill(0.0);
        for (i, image) in image.iter_mut().enumerate() {
            let row = nonnegative.row(i);
            *image = row.iter().zip(&x).map(|(a, x)| a / scale * x).sum();
            next.iter_mut().zip(row).for_each(|(next, a)| *next += a / scale * *image);
        }
        let upper = next.iter().zip(&x).map(|(next, x)| next / x).fold(0.0, f64::max);
        best = best.min(upper);
        let (above, below) = next.iter().zip(&x).fold((0.0, 0.0), |(a, b), (next, x)| (a + next * x, b + x * x));
        let largest = next.iter().copied().fold(0.0, f64::max);
        if best - above / below <= ENOUGH * best || largest == 0.0 {
            break;
        }
        x.iter_mut().zip(&next).for_each(|(x, next)| *x = (next / largest).max(FLOOR));
    }
    scale * best.sqrt()
}
