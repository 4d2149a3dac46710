//! The few matrices and decompositions we use; products and decompositions come from `nalgebra`.

use nalgebra::{DMatrix, DMatrixView, Dyn};
use serde::{Deserialize, Serialize};

use crate::error::{DynamicsError, require_finite};

/// A dense row-major matrix of f64, at least 1 x 1, all entries finite at construction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

/// A matrix as stored: checked like any other before it is one.
#[derive(Deserialize)]
struct Written {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

impl TryFrom<Written> for Matrix {
    type Error = DynamicsError;

    fn try_from(written: Written) -> Result<Self, DynamicsError> {
        Self::new("stored matrix", written.rows, written.columns, written.values)
    }
}

impl Matrix {
    /// Takes rows·columns values, row after row; `name` appears in errors.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if a side is 0 or the length differs; [`DynamicsError::NotFinite`].
    pub fn new(name: &str, rows: usize, columns: usize, values: Vec<f64>) -> Result<Self, DynamicsError> {
        if rows == 0 || columns == 0 || rows.checked_mul(columns) != Some(values.len()) {
            return Err(DynamicsError::shape(
                name,
                format!("[{rows}, {columns}] with both sides >= 1"),
                format!("{} values", values.len()),
            ));
        }
        require_finite(name, &values)?;
        Ok(Self { rows, columns, values })
    }

    /// Takes one slice a row.
    ///
    /// # Errors
    /// As [`Matrix::new`]; also if rows differ in length.
    pub fn from_rows<R: AsRef<[f64]>>(name: &str, rows: &[R]) -> Result<Self, DynamicsError> {
        let columns = rows.first().map_or(0, |row| row.as_ref().len());
        if let Some((i, row)) = rows.iter().enumerate().find(|(_, row)| row.as_ref().len() != columns) {
            return Err(DynamicsError::shape(
                &format!("{name}, row {i}"),
                format!("{columns} entries"),
                row.as_ref().len(),
            ));
        }
        let values = rows.iter().flat_map(|row| row.as_ref().iter().copied()).collect();
        Self::new(name, rows.len(), columns, values)
    }

    /// Builds from a function of (row, column). Trusts the function to give finite numbers.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn from_fn(rows: usize, columns: usize, f: impl Fn(usize, usize) -> f64) -> Self {
        assert!(rows > 0 && columns > 0, "a matrix has at least one entry");
        let values = (0..rows * columns).map(|k| f(k / columns, k % columns)).collect();
        Self { rows, columns, values }
    }

    /// c·I of size d.
    pub fn scaled_identity(d: usize, c: f64) -> Self {
        Self::from_fn(d, d, |i, j| if i == j { c } else { 0.0 })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// "[rows, columns]", for messages.
    pub fn shape(&self) -> String {
        format!("[{}, {}]", self.rows, self.columns)
    }

    /// Row i.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..(i + 1) * self.columns]
    }

    /// Entry (i, j).
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.columns + j]
    }

    /// All entries, row after row.
    pub fn as_slice(&self) -> &[f64] {
        &self.values
    }

    /// The transpose.
    pub fn transpose(&self) -> Self {
        Self::from_fn(self.columns, self.rows, |i, j| self.at(j, i))
    }

    /// self + scale·other.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn add_scaled(&self, scale: f64, other: &Self) -> Self {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns), "sum of equal shapes");
        let values = self.values.iter().zip(&other.values).map(|(a, b)| a + scale * b).collect();
        Self { values, ..*self }
    }

    /// f of each pair of entries of two matrices of equal shape; trusts f to give finite numbers.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn zip_with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns), "entries of equal shapes");
        let values = self.values.iter().zip(&other.values).map(|(a, b)| f(*a, *b)).collect();
        Self { values, ..*self }
    }

    /// scale·self.
    pub fn scaled(&self, scale: f64) -> Self {
        Self { values: self.values.iter().map(|a| scale * a).collect(), ..*self }
    }

    /// The matrix product self·other.
    ///
    /// # Panics
    /// If the inner sides differ.
    pub fn multiply(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows, "inner sides of a product");
        if self.rows * self.columns * other.columns > SMALL_PRODUCT {
            return Self::from_transposed(&(other.transposed() * self.transposed()));
        }
        let mut values = vec![0.0; self.rows * other.columns];
        for (row, out) in self.values.chunks_exact(self.columns).zip(values.chunks_exact_mut(other.columns)) {
            for (a, b) in row.iter().zip(other.values.chunks_exact(other.columns)) {
                out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
            }
        }
        Self { rows: self.rows, columns: other.columns, values }
    }

    /// Writes self·x into `y`. O(rows·columns).
    pub fn apply(&self, x: &[f64], y: &mut [f64]) {
        debug_assert!(x.len() == self.columns && y.len() == self.rows);
        for (row, out) in self.values.chunks_exact(self.columns).zip(y) {
            *out = dot(row, x);
        }
    }

    /// max |M - Mᵀ|, infinite for a matrix that is not square.
    pub fn asymmetry(&self) -> f64 {
        if self.rows != self.columns {
            return f64::INFINITY;
        }
        let mut worst = 0.0_f64;
        for i in 0..self.rows {
            for j in 0..i {
                worst = worst.max((self.at(i, j) - self.at(j, i)).abs());
            }
        }
        worst
    }

    /// max |M_ij|.
    pub fn max_abs(&self) -> f64 {
        self.values.iter().fold(0.0, |m, v| m.max(v.abs()))
    }

    /// The Frobenius norm.
    pub fn frobenius_norm(&self) -> f64 {
        self.values.iter().map(|v| v * v).sum::<f64>().sqrt()
    }

    /// Singular values, largest first.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`] if the iteration does not converge.
    pub fn singular_values(&self) -> Result<Vec<f64>, DynamicsError> {
        let svd = self.transposed().clone_owned().try_svd(false, false, f64::EPSILON, MAX_SWEEPS);
        let svd = svd.ok_or_else(|| failed("singular value decomposition"))?;
        Ok(svd.singular_values.iter().copied().collect())
    }

    /// The operator norm, the largest singular value.
    ///
    /// # Errors
    /// As [`Matrix::singular_values`].
    pub fn operator_norm(&self) -> Result<f64, DynamicsError> {
        Ok(self.singular_values()?.first().copied().unwrap_or(0.0))
    }

    /// Eigenvalues of a square matrix as (real, imaginary), in the library's order.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if not square; [`DynamicsError::Decomposition`].
    pub fn eigenvalues(&self) -> Result<Vec<(f64, f64)>, DynamicsError> {
        self.require_square("eigenvalues")?;
        let schur = self.transposed().clone_owned().try_schur(f64::EPSILON, MAX_SWEEPS);
        let schur = schur.ok_or_else(|| failed("Schur decomposition"))?;
        Ok(schur.complex_eigenvalues().iter().map(|z| (z.re, z.im)).collect())
    }

    /// Eigenvalues (ascending) and eigenvectors (columns) of a symmetric matrix.
    ///
    /// # Errors
    /// [`DynamicsError::NotSymmetric`] beyond rounding (1e-12 relative); [`DynamicsError::Decomposition`].
    pub fn symmetric_eigen(&self) -> Result<(Vec<f64>, Self), DynamicsError> {
        let asymmetry = self.asymmetry();
        if asymmetry > 1e-12 * self.max_abs() {
            return Err(DynamicsError::NotSymmetric { name: "matrix".into(), asymmetry });
        }
        let eigen = self.transposed().clone_owned().try_symmetric_eigen(f64::EPSILON, MAX_SWEEPS);
        let eigen = eigen.ok_or_else(|| failed("symmetric eigenvalue decomposition"))?;
        let mut order: Vec<usize> = (0..self.rows).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[a].total_cmp(&eigen.eigenvalues[b]));
        let values = order.iter().map(|&k| eigen.eigenvalues[k]).collect();
        let vectors = Self::from_fn(self.rows, self.rows, |i, j| eigen.eigenvectors[(i, order[j])]);
        Ok((values, vectors))
    }

    /// The inverse of a square matrix, by LU with partial pivoting.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if not square; [`DynamicsError::Decomposition`] if exactly singular.
    pub fn inverse(&self) -> Result<Self, DynamicsError> {
        self.require_square("inverse")?;
        let inverse = self.transposed().clone_owned().try_inverse();
        inverse.map(|m| Self::from_transposed(&m)).ok_or_else(|| failed("inverse of a singular matrix"))
    }

    /// The matrix exponential, by Padé approximation with scaling and squaring (exact for diagonal matrices).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if not square.
    ///
    /// # References
    /// N. Higham, "The scaling and squaring method for the matrix exponential revisited", 2005.
    pub fn exp(&self) -> Result<Self, DynamicsError> {
        self.require_square("exponential")?;
        if (0..self.rows).all(|i| (0..self.rows).all(|j| i == j || self.at(i, j) == 0.0)) {
            return Ok(Self::from_fn(self.rows, self.rows, |i, j| if i == j { self.at(i, i).exp() } else { 0.0 }));
        }
        Ok(Self::from_transposed(&self.transposed().clone_owned().exp()))
    }

    /// The thin QR factors of a matrix: Q [rows, k] with orthonormal columns, R [k, columns] upper triangular,
    /// k = min(rows, columns). Householder, 2·columns²·rows operations.
    pub fn thin_qr(&self) -> (Self, Self) {
        let (q, r) = self.transposed().transpose().qr().unpack();
        (Self::from_transposed(&q.transpose()), Self::from_transposed(&r.transpose()))
    }

    /// The orthogonal matrix nearest to a square matrix in the Frobenius norm: U Vᵀ of its singular value
    /// decomposition, so the signs of singular pairs do not matter.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if not square; [`DynamicsError::Decomposition`].
    pub fn nearest_orthogonal(&self) -> Result<Self, DynamicsError> {
        self.require_square("nearest orthogonal matrix")?;
        let svd = self.transposed().clone_owned().try_svd(true, true, f64::EPSILON, MAX_SWEEPS);
        let factors = svd.and_then(|svd| svd.u.zip(svd.v_t)).ok_or_else(|| failed("singular value decomposition"))?;
        Ok(Self::from_transposed(&(factors.0 * factors.1)))
    }

    fn require_square(&self, name: &str) -> Result<(), DynamicsError> {
        if self.rows == self.columns {
            return Ok(());
        }
        Err(DynamicsError::shape(name, "a square matrix", self.shape()))
    }

    /// The transpose as the library's (column-major) matrix, without copying.
    fn transposed(&self) -> DMatrixView<'_, f64> {
        DMatrixView::from_slice_generic(&self.values, Dyn(self.columns), Dyn(self.rows))
    }

    fn from_transposed(transposed: &DMatrix<f64>) -> Self {
        Self { rows: transposed.ncols(), columns: transposed.nrows(), values: transposed.as_slice().to_vec() }
    }
}

/// Iterations that a decomposition may take; LAPACK allows 30 to 40 a row, our largest side is a few thousand.
const MAX_SWEEPS: usize = 200_000;

/// Below this many products three plain loops beat the library's set-up.
const SMALL_PRODUCT: usize = 512;

fn failed(what: &'static str) -> DynamicsError {
    DynamicsError::Decomposition { name: "matrix".into(), what }
}

/// The scalar product <a, b>, summed in order.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The squared Euclidean distance |a - b|².
pub fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// The Euclidean norm |a|.
pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_of_a_rotation_generator_is_a_rotation() {
        let angle = 37.0_f64;
        let generator = Matrix::from_rows("J", &[[0.0, -angle], [angle, 0.0]]).unwrap();
        let rotation = generator.exp().unwrap();
        let exact = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()];
        // Three squarings of an entry of size 1 lose about norm·eps.
        for (found, expected) in rotation.as_slice().iter().zip(exact) {
            assert!((found - expected).abs() < 37.0 * 1e-15, "{found} {expected}");
        }
    }

    #[test]
    fn exponential_of_a_nilpotent_matrix_is_its_finite_series() {
        let n = Matrix::from_rows("N", &[[0.0, 2.0, 3.0], [0.0, 0.0, -4.0], [0.0, 0.0, 0.0]]).unwrap();
        let exp = n.exp().unwrap();
        let exact = [1.0, 2.0, 3.0 - 4.0, 0.0, 1.0, -4.0, 0.0, 0.0, 1.0];
        for (found, expected) in exp.as_slice().iter().zip(exact) {
            assert!((found - expected).abs() < 1e-14, "{found} {expected}");
        }
    }

    #[test]
    fn singular_values_of_a_diagonal_matrix_are_sorted_absolute_entries() {
        let m = Matrix::from_rows("m", &[[1.0, 0.0], [0.0, -3.0]]).unwrap();
        let s = m.singular_values().unwrap();
        assert!((s[0] - 3.0).abs() < 1e-15 && (s[1] - 1.0).abs() < 1e-15);
        assert!((m.operator_norm().unwrap() - 3.0).abs() < 1e-15);
    }
}
