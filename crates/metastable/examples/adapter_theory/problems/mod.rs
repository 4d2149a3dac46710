//! The problems that adapters are trained on.

mod chain;
mod mails;
mod teacher;

use metastable_dynamics::{Matrix, random};

pub(crate) use chain::Chain;
pub(crate) use mails::{Features, Mails};
pub(crate) use teacher::Teacher;

/// A matrix of independent normal numbers of a deviation, from stream `stream` of `seed`.
pub(crate) fn normal(seed: u64, stream: u64, rows: usize, columns: usize, deviation: f64) -> Matrix {
    let draws = random::normals(seed, stream, rows * columns);
    Matrix::from_fn(rows, columns, |i, j| deviation * draws[i * columns + j])
}
