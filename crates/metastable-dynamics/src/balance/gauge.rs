//! A change of factors, and how an optimizer's moments follow it.

use crate::balance::core::Core;
use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// An invertible M with B⁺ = B M, A⁺ = M⁻¹ A, and its inverse, both [r, r].
///
/// Gradients of a loss of the product change as g_B⁺ = g_B M⁻ᵀ, g_A⁺ = Mᵀ g_A, so first moments are carried along
/// exactly. A diagonal second moment has no exact law; squaring the entries of the same maps works well: after the
/// transport of both, the path of Adam does not depend on the signs of singular pairs \[derived, checked\].
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    m: Matrix,
    inverse: Matrix,
}

impl Gauge {
    /// Takes M [r, r] and inverts it.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if M is not square; [`DynamicsError::Decomposition`] if it is exactly singular.
    pub fn new(m: Matrix) -> Result<Self, DynamicsError> {
        Ok(Self { inverse: m.inverse()?, m })
    }

    /// c·I, which moves norm from A to B for c > 1.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] unless c > 0 and finite.
    pub fn scalar(r: usize, c: f64) -> Result<Self, DynamicsError> {
        if !(c > 0.0 && c.is_finite()) {
            return Err(DynamicsError::domain("scalar gauge", "a finite number > 0", c));
        }
        Ok(Self { m: Matrix::scaled_identity(r, c), inverse: Matrix::scaled_identity(r, 1.0 / c) })
    }

    /// The gauge of a projection: M = R_Aᵀ V Σ^-½, M⁻¹ = Σ^-½ Uᵀ R_B, with the signs of the pairs.
    /// None if a singular value vanishes.
    pub(crate) fn of(core: &Core, spectrum: &[f64], signs: &[f64]) -> Option<Self> {
        let r = spectrum.len();
        if core.decomposition.values.len() < r || core.q_b.columns() < r || spectrum[r - 1] <= 0.0 {
            return None;
        }
        let m = core.r_a.transpose().multiply(&core.decomposition.right.transpose());
        let m = Matrix::from_fn(r, r, |i, j| signs[j] * m.at(i, j) / spectrum[j].sqrt());
        let inverse = core.decomposition.scaled_left.multiply(&core.r_b);
        let inverse = Matrix::from_fn(r, r, |i, j| signs[i] * inverse.at(i, j) / spectrum[i].powf(1.5));
        let finite = |matrix: &Matrix| matrix.as_slice().iter().all(|entry| entry.is_finite());
        (finite(&m) && finite(&inverse)).then_some(Self { m, inverse })
    }

    /// This gauge followed by another: M = M₁ M₂.
    ///
    /// # Panics
    /// If their sides differ.
    pub fn then(&self, next: &Self) -> Self {
        Self { m: self.m.multiply(&next.m), inverse: next.inverse.multiply(&self.inverse) }
    }

    /// M.
    pub fn m(&self) -> &Matrix {
        &self.m
    }

    /// M⁻¹.
    pub fn inverse(&self) -> &Matrix {
        &self.inverse
    }

    /// Mᵀ g_A: a gradient or first moment of A [r, in] in the new factors. O(in·r²).
    pub fn first_moment_a(&self, g_a: &Matrix) -> Matrix {
        self.m.transpose().multiply(g_a)
    }

    /// g_B M⁻ᵀ: a gradient or first moment of B [out, r] in the new factors. O(out·r²).
    pub fn first_moment_b(&self, g_b: &Matrix) -> Matrix {
        g_b.multiply(&self.inverse.transpose())
    }

    /// (Mᵀ)^∘2 v_A: a second moment of A [r, in] in the new factors; stays >= 0. O(in·r²).
    pub fn second_moment_a(&self, v_a: &Matrix) -> Matrix {
        squared(&self.m).transpose().multiply(v_a)
    }

    /// v_B (M⁻ᵀ)^∘2: a second moment of B [out, r] in the new factors; stays >= 0. O(out·r²).
    pub fn second_moment_b(&self, v_b: &Matrix) -> Matrix {
        v_b.multiply(&squared(&self.inverse).transpose())
    }
}

fn squared(matrix: &Matrix) -> Matrix {
    Matrix::from_fn(matrix.rows(), matrix.columns(), |i, j| matrix.at(i, j).powi(2))
}
