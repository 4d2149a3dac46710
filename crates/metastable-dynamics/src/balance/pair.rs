//! Two factors of a low-rank update.

use crate::balance::core::Core;
use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// The factors of B A: A [r, in], B [out, r], r >= 1.
///
/// # Example
/// ```
/// use metastable_dynamics::Matrix;
/// use metastable_dynamics::balance::LowRankPair;
///
/// let a = Matrix::from_rows("a", &[[1.0, 0.0, 1.0], [0.0, 2.0, 1.0]]).unwrap();
/// let b = Matrix::from_rows("b", &[[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]).unwrap();
/// let pair = LowRankPair::new(a, b).unwrap();
/// assert!((pair.gap() - 2.0_f64.sqrt()).abs() < 1e-15);
///
/// let balanced = pair.project().unwrap();
/// assert!(balanced.pair.gap() < 1e-14);
/// assert!((balanced.spectrum[0] - 5.592252).abs() < 1e-6);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankPair {
    a: Matrix,
    b: Matrix,
}

impl LowRankPair {
    /// Takes A [r, in] and B [out, r].
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] unless B has as many columns as A has rows.
    pub fn new(a: Matrix, b: Matrix) -> Result<Self, DynamicsError> {
        if b.columns() != a.rows() {
            let expected = format!("[out, {}] for a {}", a.rows(), a.shape());
            return Err(DynamicsError::shape("lora b", expected, b.shape()));
        }
        Ok(Self { a, b })
    }

    /// A [r, in].
    pub fn a(&self) -> &Matrix {
        &self.a
    }

    /// B [out, r].
    pub fn b(&self) -> &Matrix {
        &self.b
    }

    /// Both factors, (A, B).
    pub fn into_parts(self) -> (Matrix, Matrix) {
        (self.a, self.b)
    }

    /// The nominal rank r.
    pub fn rank(&self) -> usize {
        self.a.rows()
    }

    /// The dense product B A [out, in]. O(out·r·in).
    pub fn product(&self) -> Matrix {
        self.b.multiply(&self.a)
    }

    /// ‖BᵀB - A Aᵀ‖ in the Frobenius norm: 0 exactly on the balanced manifold. O((in + out)·r²).
    ///
    /// # References
    /// Castin et al. 2026, the balanced set \[text\].
    pub fn gap(&self) -> f64 {
        let (b_gram, a_gram) = self.grams();
        b_gram.add_scaled(-1.0, &a_gram).frobenius_norm()
    }

    /// ‖A‖² + ‖B‖², at least twice the nuclear norm of the product, with equality exactly when balanced.
    pub fn squared_norm(&self) -> f64 {
        self.a.frobenius_norm().powi(2) + self.b.frobenius_norm().powi(2)
    }

    /// The r largest singular values of B A, largest first, without forming it (zeros where a side is shorter than r).
    /// O((in + out)·r² + r³).
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn spectrum(&self) -> Result<Vec<f64>, DynamicsError> {
        Ok(Core::of(self)?.singular_values(self.rank()))
    }

    /// (B M, M⁻¹ A): the same product through other factors.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] unless M is r x r; [`DynamicsError::Decomposition`] if it is exactly singular.
    pub fn regauged(&self, m: &Matrix) -> Result<Self, DynamicsError> {
        let r = self.rank();
        if (m.rows(), m.columns()) != (r, r) {
            return Err(DynamicsError::shape("gauge", format!("[{r}, {r}]"), m.shape()));
        }
        Self::new(m.inverse()?.multiply(&self.a), self.b.multiply(m))
    }

    /// (BᵀB, A Aᵀ), both [r, r].
    pub(crate) fn grams(&self) -> (Matrix, Matrix) {
        (self.b.transpose().multiply(&self.b), self.a.multiply(&self.a.transpose()))
    }
}
