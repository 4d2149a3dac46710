//! Riemannian preconditioned LoRA, also called ScaledGD.

use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::{DynamicsError, Matrix};

use crate::train::base::Gradient;
use crate::train::symmetric::Symmetric;

/// g_A ← (BᵀB + δI)⁻¹ g_A, g_B ← g_B (A Aᵀ + δI)⁻¹. With δ = 0 and plain descent the path of the product does not
/// depend on the gauge.
///
/// # References
/// F. Zhang and M. Pilanci, arXiv 2402.02347, 2024; T. Tong, C. Ma, Y. Chi, "Accelerating ill-conditioned low-rank
/// matrix estimation via scaled gradient descent", 2021 \[code, as in PEFT\].
pub(super) fn precondition(pair: &LowRankPair, gradient: &Gradient, damping: f64) -> Result<Gradient, DynamicsError> {
    let identity = Matrix::scaled_identity(pair.rank(), 1.0);
    let inverse = |factor: &Matrix| {
        let gram = factor.multiply(&factor.transpose()).add_scaled(damping, &identity);
        Symmetric::of(&gram).map(|gram| gram.pseudo_inverse())
    };
    let (of_b, of_a) = (inverse(&pair.b().transpose())?, inverse(pair.a())?);
    Ok(Gradient { a: of_b.multiply(&gradient.a), b: gradient.b.multiply(&of_a) })
}
