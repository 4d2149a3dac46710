//! LoRA-FA: A is frozen, and B's gradient is corrected for it.

use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::{DynamicsError, Matrix};

use crate::train::base::{Gradient, Rates};
use crate::train::symmetric::Symmetric;

/// What PEFT adds to A Aᵀ.
const DAMPING: f64 = 1e-8;

/// g_B ← s⁻² g_B (A Aᵀ + 1e-8 I)⁺; A gets no gradient.
///
/// # References
/// L. Zhang et al., "LoRA-FA", arXiv 2308.03303, 2023 \[code, as in PEFT's optimizer\].
pub(super) fn precondition(pair: &LowRankPair, gradient: &Gradient, scale: f64) -> Result<Gradient, DynamicsError> {
    let gram = pair.a().multiply(&pair.a().transpose());
    let gram = gram.add_scaled(DAMPING, &Matrix::scaled_identity(pair.rank(), 1.0));
    let inverse = Symmetric::of(&gram)?.pseudo_inverse();
    Ok(Gradient { a: gradient.a.scaled(0.0), b: gradient.b.multiply(&inverse).scaled(1.0 / (scale * scale)) })
}

/// A rests; not even weight decay moves it.
pub(super) fn rates(rates: Rates) -> Rates {
    Rates { a: 0.0, ..rates }
}
