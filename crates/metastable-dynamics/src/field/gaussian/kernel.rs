//! Which attention kernels keep Gaussians Gaussian, and why the others do not.

use serde::{Deserialize, Serialize};

use crate::attention::{AttentionKernel, Mask, Normalization, Score, SinkhornStop};
use crate::error::DynamicsError;

/// A kernel whose field on N(α, Σ) is affine, so that the mean and the covariance move by themselves.
///
/// Numbers: beta multiplies the scores, A = beta KᵀQ and M = beta KᵀK in all formulas.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GaussianKernel {
    /// Softmax of <Qx, Ky>.
    Softmax {
        /// Inverse temperature.
        beta: f64,
    },
    /// Softmax of -|Qx - Ky|² (L2 attention).
    SquaredDistance {
        /// Inverse temperature.
        beta: f64,
    },
    /// Doubly normalised exp(<Qx, Ky> / ε), times 1/ε.
    ///
    /// Scores -|Qx - Ky|² give the same kernel with 2 beta: the squares are absorbed by the normalisations \[derived\].
    Sinkhorn {
        /// Inverse temperature.
        beta: f64,
        /// Entropic regularisation ε > 0.
        epsilon: f64,
    },
    /// <Qx, Ky>, not normalised. Its moments close for any law, not only Gaussians \[derived\].
    Linear {
        /// Factor of the scores.
        beta: f64,
    },
}

impl GaussianKernel {
    /// Softmax at inverse temperature 1, as the papers write it.
    pub const SOFTMAX: Self = Self::Softmax { beta: 1.0 };

    /// The Gaussian form of an attention kernel.
    ///
    /// # Errors
    /// [`DynamicsError::NoGaussianClosure`] with the reason, for kernels that do not keep Gaussians.
    ///
    /// # References
    /// Castin, Ablin, Carrillo, Peyré, arXiv 2501.18322, and their code, for softmax, L2 and Sinkhorn
    /// \[code\]\[checked\]; linear and the refusals \[derived\].
    pub fn of(kernel: &AttentionKernel) -> Result<Self, DynamicsError> {
        if kernel.mask() == Mask::Causal {
            return refuse("causal", CAUSAL);
        }
        let beta = kernel.beta();
        match (kernel.normalization(), kernel.score()) {
            (Normalization::Softmax, Score::Dot) => Ok(Self::Softmax { beta }),
            (Normalization::Softmax, Score::SquaredDistance) => Ok(Self::SquaredDistance { beta }),
            (Normalization::Linear, Score::Dot) => Ok(Self::Linear { beta }),
            (Normalization::Linear, Score::SquaredDistance) => refuse("linear squared-distance", LINEAR_DISTANCE),
            (Normalization::Exponential, _) => refuse("exponential", EXPONENTIAL),
            (Normalization::Sigmoid { .. }, _) => refuse("sigmoid", SIGMOID),
            (Normalization::Hardmax, _) => refuse("hardmax", HARDMAX),
            // Squares are absorbed by the potentials: only 2 beta <Qx, Ky> is left.
            (Normalization::Sinkhorn(sinkhorn), score) => {
                if let SinkhornStop::HalfSteps(_) = sinkhorn.stop {
                    return refuse("sinkhorn with counted half-steps", HALF_STEPS);
                }
                let factor = if score == Score::Dot { 1.0 } else { 2.0 };
                Ok(Self::Sinkhorn { beta: factor * beta, epsilon: sinkhorn.epsilon })
            }
        }
    }

    /// Its name in messages and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Softmax { .. } => "softmax",
            Self::SquaredDistance { .. } => "squared distance",
            Self::Sinkhorn { .. } => "sinkhorn",
            Self::Linear { .. } => "linear",
        }
    }

    /// The factor of the scores.
    pub fn beta(&self) -> f64 {
        match *self {
            Self::Softmax { beta }
            | Self::SquaredDistance { beta }
            | Self::Sinkhorn { beta, .. }
            | Self::Linear { beta } => beta,
        }
    }

    /// ε for Sinkhorn, 1 for the others: the field is 1/ε times an average of values.
    pub fn epsilon(&self) -> f64 {
        if let Self::Sinkhorn { epsilon, .. } = *self { epsilon } else { 1.0 }
    }

    /// # Errors
    /// [`DynamicsError::Domain`] for a beta that is not finite or an ε that is not positive.
    pub(super) fn validate(&self) -> Result<(), DynamicsError> {
        if !self.beta().is_finite() {
            return Err(DynamicsError::domain("beta", "a finite number", self.beta()));
        }
        let epsilon = self.epsilon();
        if !(epsilon.is_finite() && epsilon > 0.0) {
            return Err(DynamicsError::domain("epsilon", "a finite number > 0", epsilon));
        }
        if let Self::SquaredDistance { beta } = *self
            && beta < 0.0
        {
            // I + 2 Σ M may be singular then, and e^{|beta| |Kx|²} has no integral against wide Gaussians.
            return Err(DynamicsError::domain("beta", "a number >= 0 for squared distances", beta));
        }
        Ok(())
    }
}

const CAUSAL: &str = "a token's field is the average over its prefix, a mixture of Gaussians that differ with position, \
                      so it is not affine; if all positions have the same law, use the full mask: the flows agree";
const LINEAR_DISTANCE: &str = "the field contains the factor |Qx - Ky|² of the token itself, which is not affine";
const EXPONENTIAL: &str = "the field is exp(αᵀAx + ½ xᵀAᵀΣAx) V(α + ΣAx), which is not affine and explodes in x";
const SIGMOID: &str = "the field is V(α E[σ(u)] + ΣAx E[σ'(u)]), u ~ N(αᵀAx, xᵀAᵀΣAx), which is not affine: the \
                       excess kurtosis of N(0, 1) has slope -0.303 at time 0 for a = v = 1";
const HALF_STEPS: &str = "its flow is not among the closed ones: iterate to a tolerance instead of counting half-steps";
const HARDMAX: &str = "a Gaussian has no largest score: the maximum over its support is infinite";

fn refuse<T>(kernel: &'static str, reason: &'static str) -> Result<T, DynamicsError> {
    Err(DynamicsError::NoGaussianClosure { kernel, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Sinkhorn;

    #[test]
    fn kernels_without_closure_are_refused_with_their_reason() {
        let refused = [
            (Normalization::Sigmoid { bias: 0.0 }, Mask::Full, "sigmoid", "kurtosis"),
            (Normalization::Exponential, Mask::Full, "exponential", "explodes"),
            (Normalization::Hardmax, Mask::Full, "hardmax", "no largest score"),
            (Normalization::Softmax, Mask::Causal, "causal", "prefix"),
        ];
        for (normalization, mask, name, reason) in refused {
            let kernel = AttentionKernel::new(Score::Dot, normalization, mask, 1.0).unwrap();
            let error = GaussianKernel::of(&kernel).unwrap_err();
            assert!(matches!(error, DynamicsError::NoGaussianClosure { kernel, .. } if kernel == name));
            assert!(error.to_string().contains(reason), "{error}");
        }
        let kernel = AttentionKernel::softmax(0.5).unwrap();
        assert_eq!(GaussianKernel::of(&kernel).unwrap(), GaussianKernel::Softmax { beta: 0.5 });
        for (score, expected) in [(Score::Dot, 0.7), (Score::SquaredDistance, 1.4)] {
            let sinkhorn = Normalization::Sinkhorn(Sinkhorn::converged(0.3));
            let kernel = AttentionKernel::new(score, sinkhorn, Mask::Full, 0.7).unwrap();
            let found = GaussianKernel::of(&kernel).unwrap();
            assert_eq!(found, GaussianKernel::Sinkhorn { beta: expected, epsilon: 0.3 });
        }
    }
}
