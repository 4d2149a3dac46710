//! Softmax attention with V = vI and a linear feed-forward part W x: a Riccati equation solved by one exponential.

use nalgebra::{DMatrix, DVector};

use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// Σ' = vΣ(A + Aᵀ)Σ + WΣ + ΣWᵀ in closed form.
///
/// The precision Y = Σ^{-1} obeys Y' = -v(A + Aᵀ) - YW - WᵀY, which is linear:
///
/// ```text
/// exp(t [[-Wᵀ, -v(A + Aᵀ)], [0, W]]) = [[E11, E12], [0, E22]],   Y = (E11 Y_0 + E12) E22^{-1}        [checked]
/// Σ(t) = E22 Σ_0 (E11 + E12 Σ_0)^{-1}       (the same, and fine for singular Σ_0)                     [derived]
/// equilibrium: WᵀY + YW = -v(A + Aᵀ)                                                                  [checked]
/// ```
///
/// If all eigenvalues of W have positive real part and v(A + Aᵀ) < 0, the equilibrium attracts every Σ_0 > 0: an
/// unstable feed-forward part balances the collapse of attention \[checked\].
///
/// # References
/// Alcalde, Ji, Zuazua, arXiv 2606.07600 (abstract: Riccati structure); formulas derived here.
#[derive(Debug, Clone)]
pub struct FeedForwardRiccati {
    weight: Matrix,
    /// v (A + Aᵀ).
    pull: Matrix,
}

impl FeedForwardRiccati {
    /// For logits A, value vI and feed-forward weight W, all [d, d].
    ///
    /// # Errors
    /// [`DynamicsError::Shape`].
    pub fn new(logits: &Matrix, v: f64, weight: Matrix) -> Result<Self, DynamicsError> {
        let d = weight.rows();
        for (name, matrix) in [("logits", logits), ("feed_forward", &weight)] {
            if (matrix.rows(), matrix.columns()) != (d, d) {
                return Err(DynamicsError::shape(name, format!("[{d}, {d}]"), matrix.shape()));
            }
        }
        Ok(Self { weight, pull: logits.add_scaled(1.0, &logits.transpose()).scaled(v) })
    }

    /// Σ(t) from Σ_0 = `covariance`; none if the matrix to invert is singular. It knows no blow-up on the way to t:
    /// beyond t* the formula gives a matrix that is not a covariance. O(d³).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`].
    pub fn covariance(&self, covariance: &Matrix, t: f64) -> Result<Option<Matrix>, DynamicsError> {
        let d = self.weight.rows();
        if (covariance.rows(), covariance.columns()) != (d, d) {
            return Err(DynamicsError::shape("covariance", format!("[{d}, {d}]"), covariance.shape()));
        }
        let exponential = self.hamiltonian().scaled(t).exp()?;
        let block =
            |row: usize, column: usize| Matrix::from_fn(d, d, |i, j| exponential.at(row * d + i, column * d + j));
        let inner = block(0, 0).add_scaled(1.0, &block(0, 1).multiply(covariance));
        let Ok(inverse) = inner.inverse() else { return Ok(None) };
        let result = block(1, 1).multiply(covariance).multiply(&inverse);
        Ok(Some(Matrix::from_fn(d, d, |i, j| 0.5 * (result.at(i, j) + result.at(j, i)))))
    }

    /// The stationary covariance of full rank, if WᵀY + YW = -v(A + Aᵀ) has an invertible solution. It solves d²
    /// linear equations: O(d⁶), for d of a few dozen at most.
    pub fn equilibrium(&self) -> Option<Matrix> {
        let d = self.weight.rows();
        // Row (i, j): Σ_k W_ki Y_kj + Y_ik W_kj = -pull_ij.
        let mut system = DMatrix::zeros(d * d, d * d);
        for (i, j) in (0..d * d).map(|at| (at / d, at % d)) {
            for k in 0..d {
                system[(i * d + j, k * d + j)] += self.weight.at(k, i);
                system[(i * d + j, i * d + k)] += self.weight.at(k, j);
            }
        }
        let right = DVector::from_iterator(d * d, self.pull.as_slice().iter().map(|entry| -entry));
        let solution = system.lu().solve(&right)?;
        let precision = Matrix::new("precision", d, d, solution.as_slice().to_vec()).ok()?;
        let inverse = precision.inverse().ok()?;
        Some(Matrix::from_fn(d, d, |i, j| 0.5 * (inverse.at(i, j) + inverse.at(j, i))))
    }

    /// [[-Wᵀ, -v(A + Aᵀ)], [0, W]].
    fn hamiltonian(&self) -> Matrix {
        let d = self.weight.rows();
        Matrix::from_fn(2 * d, 2 * d, |i, j| match (i < d, j < d) {
            (true, true) => -self.weight.at(j, i),
            (true, false) => -self.pull.at(i, j - d),
            (false, true) => 0.0,
            (false, false) => self.weight.at(i - d, j - d),
        })
    }
}
