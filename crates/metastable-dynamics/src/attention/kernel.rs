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
    /// [`DynamicsError::Domain`] for a beta or bias that is not finite.
    pub fn new(score: Score, normalization: Normalization, mask: Mask, beta: f64) -> Result<Self, DynamicsError> {
        if !beta.is_finite() {
            return Err(DynamicsError::domain("beta", "a finite number", beta));
        }
        if let Normalization::Sigmoid { bias } = normalization
            && !bias.is_finite()
        {
            return Err(DynamicsError::domain("bias", "a finite number", bias));
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
    pub fn masked(self, mask: Mask) -> Self {
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
