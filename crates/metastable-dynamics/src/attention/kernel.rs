//! What a kernel is: how two tokens are scored, how scores become weights, who sees whom.

use crate::error::DynamicsError;

/// How a query and a key are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// <Q x, K y>.
    Dot,
    /// -|Q x - K y|².
    SquaredDistance,
}

/// How the scores S_ij = beta·score of one row become weights P_ij.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Normalization {
    /// P_ij = e^{S_ij} / Σ_k e^{S_ik} over the visible tokens.
    Softmax,
    /// P_ij = e^{S_ij} / (number of visible tokens): the unnormalised model M4 (USA).
    Exponential,
    /// P_ij = σ(S_ij + bias) / (number of visible tokens), σ the logistic function.
    Sigmoid {
        /// Added to every score.
        bias: f64,
    },
    /// P_ij = S_ij / (number of visible tokens).
    Linear,
    /// The mean over the arg-max set of the row: softmax at infinite beta.
    Hardmax,
    /// P_ij = e^{S_ij/ε + f_i + g_j} / (n ε) with all row and column sums 1/ε: full mask only.
    Sinkhorn(Sinkhorn),
}

/// Double normalisation of e^{S/ε}: k_ij = e^{S_ij/ε + f_i + g_j} with (1/n) Σ_j k_ij = (1/n) Σ_i k_ij = 1.
///
/// # References
/// Castin, Ablin, Carrillo, Peyré 2501.18322, equation (2.4) \[via citation\]; Sander, Ablin, Blondel, Peyré,
/// Sinkformers, 2110.11773 \[code\].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinkhorn {
    /// Entropic regularisation ε > 0: divides the scores, and the weights.
    pub epsilon: f64,
    /// When the alternation of row and column steps ends.
    pub stop: SinkhornStop,
}

/// When the alternation of row and column steps ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SinkhornStop {
    /// When both marginals are uniform.
    Converged {
        /// The largest relative error of a column sum that passes (row sums are exact).
        tolerance: f64,
        /// Passes over all pairs and back, at most; beyond is an error.
        max_iterations: u32,
    },
    /// After so many half-steps, row step first, as Sinkformers count them: one is softmax at temperature ε; after
    /// an odd number the rows are exact, after an even number the columns.
    HalfSteps(u32),
}

impl Sinkhorn {
    /// The default of `tolerance`: rounding of sums of a few hundred weights.
    pub const TOLERANCE: f64 = 1e-12;
    /// The default of `max_iterations`.
    pub const MAX_ITERATIONS: u32 = 1000;

    /// Iterated to [`Sinkhorn::TOLERANCE`] within [`Sinkhorn::MAX_ITERATIONS`].
    pub fn converged(epsilon: f64) -> Self {
        let stop = SinkhornStop::Converged { tolerance: Self::TOLERANCE, max_iterations: Self::MAX_ITERATIONS };
        Self { epsilon, stop }
    }

    /// Whether half-steps are counted, instead of iterating to a tolerance.
    pub fn counts_half_steps(self) -> bool {
        matches!(self.stop, SinkhornStop::HalfSteps(_))
    }

    fn validate(self) -> Result<(), DynamicsError> {
        let positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(DynamicsError::domain(name, "a finite number > 0", value)),
        };
        positive("epsilon", self.epsilon)?;
        match self.stop {
            SinkhornStop::Converged { tolerance, max_iterations } => {
                positive("tolerance", tolerance)?;
                positive("max_iterations", f64::from(max_iterations))
            }
            SinkhornStop::HalfSteps(count) => positive("half_steps", f64::from(count)),
        }
    }
}

impl Normalization {
    /// Whether every row of weights is non-negative and sums to one.
    pub fn is_stochastic(self) -> bool {
        matches!(self, Self::Softmax | Self::Hardmax)
    }
}

/// Which tokens j a token i attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// All tokens.
    Full,
    /// j <= i (model M5).
    Causal,
}

impl Mask {
    /// How many of the n tokens token i sees: they are the first ones.
    pub fn visible(self, i: usize, n: usize) -> usize {
        match self {
            Self::Full => n,
            Self::Causal => i + 1,
        }
    }

    /// Which of the n tokens see token j: the transpose of [`Mask::visible`].
    pub fn observers(self, j: usize, n: usize) -> std::ops::Range<usize> {
        match self {
            Self::Full => 0..n,
            Self::Causal => j..n,
        }
    }
}

/// What Sinkhorn asks of a mask, and why.
const CAUSAL_SINKHORN: &str =
    "full for sinkhorn (the only lower triangular matrix with equal row and column sums is diagonal: no attention)";

/// Attention as a function of queries and keys: S_ij = beta·score(Q x_i, K x_j), weights by `normalization`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionKernel {
    score: Score,
    normalization: Normalization,
    mask: Mask,
    beta: f64,
}

impl AttentionKernel {
    /// Checks that the numbers are finite.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] for a beta or bias that is not finite, for options of Sinkhorn out of range, and for
    /// Sinkhorn under the causal mask.
    pub fn new(score: Score, normalization: Normalization, mask: Mask, beta: f64) -> Result<Self, DynamicsError> {
        if !beta.is_finite() {
            return Err(DynamicsError::domain("beta", "a finite number", beta));
        }
        match normalization {
            Normalization::Sigmoid { bias } if !bias.is_finite() => {
                return Err(DynamicsError::domain("bias", "a finite number", bias));
            }
            Normalization::Sinkhorn(sinkhorn) => {
                sinkhorn.validate()?;
                if mask == Mask::Causal {
                    return Err(DynamicsError::domain("mask", CAUSAL_SINKHORN, "causal"));
                }
            }
            _ => {}
        }
        Ok(Self { score, normalization, mask, beta })
    }

    /// Full softmax attention of scalar products at inverse temperature `beta`.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] if `beta` is not finite.
    pub fn softmax(beta: f64) -> Result<Self, DynamicsError> {
        Self::new(Score::Dot, Normalization::Softmax, Mask::Full, beta)
    }

    /// The same kernel under another mask.
    ///
    /// # Panics
    /// For Sinkhorn under the causal mask, which [`AttentionKernel::new`] refuses.
    pub fn masked(self, mask: Mask) -> Self {
        let is_sinkhorn = matches!(self.normalization, Normalization::Sinkhorn(_));
        assert!(!(is_sinkhorn && mask == Mask::Causal), "mask: expected {CAUSAL_SINKHORN}");
        Self { mask, ..self }
    }

    /// How two tokens are scored.
    pub fn score(&self) -> Score {
        self.score
    }

    /// How scores become weights.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// Who sees whom.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// The factor in front of every score.
    pub fn beta(&self) -> f64 {
        self.beta
    }
}
