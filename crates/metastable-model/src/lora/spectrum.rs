//! What one module's update looks like: its spectrum, its ranks, and how its factors share it.

use metastable_dynamics::balance::SMALLEST_RATIO;

use super::adapter::LoraModule;
use super::rebalance::pair;
use crate::error::ModelError;

/// Whether a module does what its nominal rank says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// All r singular values count.
    Ok,
    /// One factor is exactly 0: the update is 0, but training can move it.
    Untrained,
    /// Both factors are exactly 0: nothing will ever move.
    Dead,
    /// σ_r < 1e-6 σ_1: some of the r directions do nothing.
    RankDeficient,
}

impl Status {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Untrained => "untrained",
            Self::Dead => "dead",
            Self::RankDeficient => "rank_deficient",
        }
    }
}

/// The spectrum of ΔW = scale·B A and the conditioning of its factors.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModuleSpectrum {
    /// Singular values of ΔW, scale included, r of them, largest first.
    pub singular_values: Vec<f64>,
    /// ‖ΔW‖_F.
    pub norm: f64,
    /// ‖ΔW‖_F²/‖ΔW‖², between 1 and the rank; 0 for a zero update.
    pub stable_rank: f64,
    /// exp of the entropy of σ_i/Σσ; 0 for a zero update (O. Roy and M. Vetterli, 2007).
    pub effective_rank: f64,
    /// ‖BᵀB - A Aᵀ‖_F of the factors as they are, scale not included.
    pub gap: f64,
    /// Condition number of the pair; infinite for a deficient factor.
    pub kappa: f64,
    /// The least condition number that other factors of the same product have, 2σ_1/σ_r.
    pub kappa_balanced: f64,
    /// What the numbers amount to.
    pub status: Status,
}

impl LoraModule {
    /// The spectrum of the update through an r x r core. O((in + out)·r² + r³).
    ///
    /// # Errors
    /// [`ModelError::Mathematics`] if a decomposition does not converge.
    ///
    /// # Example
    /// ```
    /// use metastable_model::lora::{Factor, LoraModule, Status};
    /// let a = Factor::new(1, 2, vec![0.0, 1.0])?;
    /// let b = Factor::new(2, 1, vec![0.0, -0.1])?;
    /// let spectrum = LoraModule::linear("value", a, b, 2.0, false)?.spectrum()?;
    /// assert!((spectrum.singular_values[0] - 0.2).abs() < 1e-7);
    /// assert_eq!(spectrum.status, Status::Ok);
    /// # Ok::<(), metastable_model::ModelError>(())
    /// ```
    pub fn spectrum(&self) -> Result<ModuleSpectrum, ModelError> {
        let analysis = pair(self)?.analysis()?;
        let singular_values: Vec<f64> = analysis.spectrum.iter().map(|s| s * self.scale.abs()).collect();
        let (largest, sum) = (singular_values[0], singular_values.iter().sum::<f64>());
        let squares: f64 = singular_values.iter().map(|s| s * s).sum();
        let entropy: f64 =
            singular_values.iter().filter(|s| **s > 0.0).map(|s| s / sum).map(|share| -share * share.ln()).sum();
        let nothing = largest == 0.0;
        Ok(ModuleSpectrum {
            norm: squares.sqrt(),
            stable_rank: if nothing { 0.0 } else { squares / (largest * largest) },
            effective_rank: if nothing { 0.0 } else { entropy.exp() },
            gap: analysis.gap,
            kappa: analysis.condition.kappa,
            kappa_balanced: analysis.condition.balanced,
            status: self.status(&singular_values),
            singular_values,
        })
    }

    fn status(&self, singular_values: &[f64]) -> Status {
        match (self.a.is_zero(), self.b.is_zero()) {
            (true, true) => Status::Dead,
            (true, false) | (false, true) => Status::Untrained,
            _ if singular_values[singular_values.len() - 1] < SMALLEST_RATIO * singular_values[0] => {
                Status::RankDeficient
            }
            // Factors whose product cancels exactly.
            _ if singular_values[0] == 0.0 => Status::RankDeficient,
            _ => Status::Ok,
        }
    }
}
