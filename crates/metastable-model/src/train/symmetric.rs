//! Functions of small symmetric positive semi-definite matrices, through their eigenvectors.

use metastable_dynamics::{DynamicsError, Matrix};

/// Eigenvalues, ascending, and eigenvectors as columns.
pub(super) struct Symmetric {
    pub(super) values: Vec<f64>,
    pub(super) vectors: Matrix,
}

/// Eigenvalues below this share of the largest are rounding: 0.
const CUTOFF: f64 = 1e-14;

impl Symmetric {
    /// Of a matrix that is symmetric up to rounding.
    pub(super) fn of(matrix: &Matrix) -> Result<Self, DynamicsError> {
        let symmetric = matrix.add_scaled(1.0, &matrix.transpose()).scaled(0.5);
        let (values, vectors) = symmetric.symmetric_eigen()?;
        Ok(Self { values, vectors })
    }

    /// Q f(Λ) Qᵀ.
    pub(super) fn map(&self, f: impl Fn(f64) -> f64) -> Matrix {
        let r = self.values.len();
        let scaled = Matrix::from_fn(r, r, |i, j| self.vectors.at(i, j) * f(self.values[j]));
        scaled.multiply(&self.vectors.transpose())
    }

    /// The Moore-Penrose inverse.
    pub(super) fn pseudo_inverse(&self) -> Matrix {
        let smallest = CUTOFF * self.values.last().copied().unwrap_or(0.0).max(0.0);
        self.map(|value| if value > smallest { 1.0 / value } else { 0.0 })
    }
}
