//! Two dimensions, V = vI + ωJ (J the rotation by 90 degrees), A = aI, softmax: a flow that does not commute.

use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// The flow of Σ_0 with eigenvalues s_1, s_2 under V = vI + ωJ, A = aI:
///
/// s_i(t) = s_i / (1 - 2vas_i t), and the eigenframe turns by θ = -(ω/2v) Σ_i ln(1 - 2vas_i t); for v = 0 the
/// eigenvalues stay and θ = aω tr(Σ_0) t \[checked\]. At blow-up the frame spins logarithmically for ever.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlaneRotation {
    /// v.
    pub value: f64,
    /// ω.
    pub rotation: f64,
    /// a.
    pub logit: f64,
}

impl PlaneRotation {
    /// θ(t), or none from t* on.
    pub fn angle(&self, eigenvalues: [f64; 2], t: f64) -> Option<f64> {
        let shift = |s: f64| -2.0 * self.value * self.logit * s * t;
        if eigenvalues.iter().any(|s| 1.0 + shift(*s) <= 0.0) {
            return None;
        }
        if self.value == 0.0 {
            return Some(self.logit * self.rotation * (eigenvalues[0] + eigenvalues[1]) * t);
        }
        let logarithms: f64 = eigenvalues.iter().map(|s| shift(*s).ln_1p()).sum();
        Some(-0.5 * self.rotation / self.value * logarithms)
    }

    /// t* = 1/(2va max s_i), if va > 0 and some s_i > 0.
    pub fn blow_up_time(&self, eigenvalues: [f64; 2]) -> Option<f64> {
        let rate = 2.0 * self.value * self.logit * eigenvalues[0].max(eigenvalues[1]);
        (rate > 0.0).then(|| 1.0 / rate)
    }

    /// Σ(t) from Σ_0 [2, 2], or none from t* on.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`], [`DynamicsError::NotSymmetric`], [`DynamicsError::Decomposition`].
    pub fn covariance(&self, covariance: &Matrix, t: f64) -> Result<Option<Matrix>, DynamicsError> {
        if (covariance.rows(), covariance.columns()) != (2, 2) {
            return Err(DynamicsError::shape("covariance", "[2, 2]", covariance.shape()));
        }
        let (values, frame) = covariance.symmetric_eigen()?;
        let Some(angle) = self.angle([values[0], values[1]], t) else { return Ok(None) };
        let rotation = [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]];
        let turned = |i: usize, k: usize| rotation[i][0] * frame.at(0, k) + rotation[i][1] * frame.at(1, k);
        let moved = |k: usize| values[k] / (1.0 - 2.0 * self.value * self.logit * values[k] * t);
        let entry = |i, j| (0..2).map(|k| turned(i, k) * moved(k) * turned(j, k)).sum();
        Ok(Some(Matrix::from_fn(2, 2, entry)))
    }
}
