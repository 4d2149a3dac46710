//! Oracles O1-O5, O9, O13 and O17 of the balanced manifold, in a small world.
//!
//! Numbers of random draws are those of scripts/golden/adapter_oracles.py (numpy 2.4.6), which shares the draws and no code.

mod analysis;
mod conditioning;
mod hessian;
mod manifold;
mod signs;

use crate::balance::LowRankPair;
use crate::linalg::Matrix;
use crate::random;
use crate::random::numpy::RandomState;

/// A standard normal matrix of stream `seed`.
fn normal(seed: u64, rows: usize, columns: usize) -> Matrix {
    Matrix::new("normal", rows, columns, random::standard_normal(seed, rows, columns)).unwrap()
}

/// `numpy.random.RandomState(seed).randn(rows, columns)`.
fn drawn(seed: u32, rows: usize, columns: usize) -> Matrix {
    from_stream(&mut RandomState::new(seed), rows, columns)
}

/// The next rows · columns numbers of a stream, row by row.
fn from_stream(stream: &mut RandomState, rows: usize, columns: usize) -> Matrix {
    let draws = (0..rows * columns).map(|_| stream.standard_normal()).collect();
    Matrix::new("drawn", rows, columns, draws).unwrap()
}

/// The middle of an odd number of values, the mean of the two in the middle of an even one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    0.5 * (values[(values.len() - 1) / 2] + values[values.len() / 2])
}

/// Gaussian factors A [r, inputs], B [outputs, r].
fn gaussian_pair(seed: u64, outputs: usize, r: usize, inputs: usize) -> LowRankPair {
    LowRankPair::new(normal(2 * seed, r, inputs), normal(2 * seed + 1, outputs, r)).unwrap()
}

/// The 3 x 3 example of rank 2 with σ² = (33 ± sqrt(873))/2.
fn small_pair() -> LowRankPair {
    let a = Matrix::from_rows("a", &[[1.0, 0.0, 1.0], [0.0, 2.0, 1.0]]).unwrap();
    let b = Matrix::from_rows("b", &[[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]).unwrap();
    LowRankPair::new(a, b).unwrap()
}

/// ‖x - y‖ / ‖y‖ in the Frobenius norm.
fn relative_error(x: &Matrix, y: &Matrix) -> f64 {
    x.add_scaled(-1.0, y).frobenius_norm() / y.frobenius_norm()
}

/// |x - y| <= tolerance·|y|.
#[track_caller]
fn close(x: f64, y: f64, tolerance: f64) {
    assert!((x - y).abs() <= tolerance * y.abs(), "{x} instead of {y}");
}
