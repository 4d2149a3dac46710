//! RefLoRA, matrix mode: the gradient step that the balanced pair would make, made by the pair as it is.

use metastable_dynamics::DynamicsError;
use metastable_dynamics::balance::{Attempt, LowRankPair, Skip};

use crate::train::base::Gradient;

/// g_A ← S⁻¹ g_A, g_B ← g_B S with S (A Aᵀ) S = BᵀB, the geometric mean of (A Aᵀ)⁻¹ and BᵀB.
///
/// The authors form it from Gram matrices, which squares the condition number; here S⁻¹ = M Mᵀ comes from the gauge M of
/// the balanced projection \[derived\]. With plain descent the product then moves exactly as that of BaLoRA \[derived,
/// checked\]: the methods differ only through optimizers with memory or elementwise maps.
///
/// # References
/// Y. Zhang et al., "RefLoRA", arXiv 2505.18877, 2025 \[code, as vendored by the authors of BaLoRA\].
pub(super) fn precondition(
    pair: &LowRankPair,
    gradient: &Gradient,
    warm: bool,
) -> Result<(Gradient, Option<Skip>), DynamicsError> {
    if !warm {
        return Ok((gradient.clone(), None));
    }
    let balanced = match pair.try_project()? {
        Attempt::Skipped(skip) => return Ok((gradient.clone(), Some(skip))),
        Attempt::Projected(balanced) => balanced,
    };
    let Some(gauge) = balanced.gauge else { return Ok((gradient.clone(), None)) };
    let (m, inverse) = (gauge.m(), gauge.inverse());
    let a = m.multiply(&m.transpose().multiply(&gradient.a));
    let b = gradient.b.multiply(&inverse.transpose()).multiply(inverse);
    Ok((Gradient { a, b }, None))
}
