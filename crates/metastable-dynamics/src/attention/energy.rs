//! Energies that attention climbs or descends: Lyapunov functions of flows whose value matrix is a multiple of Qᵀ K.
//!
//! With A = Qᵀ K symmetric and weights w(S_ij), S_ij = beta x_iᵀ A x_j, the gradient of
//! E = (1/2n²) Σ_ij Φ(S_ij), Φ' = w, at token i is (beta/n²) Σ_j w(S_ij) A x_j: unnormalised attention with V = A
//! climbs it, softmax attention climbs it with the metric scaled by each token's partition function (the *twisted*
//! Wasserstein structure), also when velocities are projected to spheres; V = -A descends. Sinkhorn attention with
//! V = A descends the transport cost W_ε in the plain metric.
//!
//! # References
//! Geshkovski et al. 2312.10794 section 3 for e^s \[text\]\[lean\]; Castin et al. 2501.18322 for the twisted metric
//! \[via citation\]; Sander et al. 2110.11773 for Sinkhorn \[via citation\]; sigmoid, linear, and the finite-n forms
//! \[derived\].

use rayon::prelude::*;

use super::kernel::{AttentionKernel, Mask, Normalization, Score};
use super::projections::Projections;
use super::sinkhorn;
use crate::error::DynamicsError;
use crate::head::Head;
use crate::linalg::dot;

/// Which way a flow moves its energy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monotone {
    /// It never falls.
    Increasing,
    /// It never rises.
    Decreasing,
}

/// Asymmetries and differences up to this part of the largest entry count as rounding.
const ROUNDING: f64 = 1e-12;

/// Which way the flow of one head moves [`energy`], or the hypothesis that fails.
///
/// Hypotheses: scalar products, full mask, a kernel with an energy, Qᵀ K symmetric, beta > 0, and W V = c Qᵀ K with
/// c ≠ 0. O(d³).
///
/// # Example
/// ```
/// use metastable_dynamics::attention::energy::{Monotone, direction};
/// use metastable_dynamics::attention::AttentionKernel;
/// use metastable_dynamics::Head;
/// let softmax = AttentionKernel::softmax(1.0).unwrap();
/// assert_eq!(direction(&Head::identity(2), &softmax), Ok(Monotone::Increasing));
/// assert!(direction(&Head::identity(2), &AttentionKernel::softmax(-1.0).unwrap()).is_err());
/// ```
///
/// # Errors
/// The hypothesis that fails, in words.
pub fn direction(head: &Head, kernel: &AttentionKernel) -> Result<Monotone, &'static str> {
    if kernel.score() != Score::Dot || kernel.mask() != Mask::Full {
        return Err("scores are scalar products under the full mask");
    }
    match kernel.normalization() {
        Normalization::Hardmax => return Err("weights are a smooth function of scores"),
        Normalization::Sinkhorn(options) if options.counts_half_steps() => return Err("sinkhorn has converged"),
        _ => {}
    }
    if kernel.beta() <= 0.0 {
        return Err("beta is positive");
    }
    let (form, value) = (head.query_key(), head.output_value());
    if form.asymmetry() > ROUNDING * form.max_abs() {
        return Err("Qᵀ K is symmetric");
    }
    let c = dot(value.as_slice(), form.as_slice()) / dot(form.as_slice(), form.as_slice());
    if !c.is_finite() || c == 0.0 || value.add_scaled(-c, &form).max_abs() > ROUNDING * value.max_abs() {
        return Err("the value matrix is a multiple of Qᵀ K");
    }
    // Sinkhorn descends its cost where the others climb their energy.
    let climbs = (c > 0.0) != matches!(kernel.normalization(), Normalization::Sinkhorn(_));
    Ok(if climbs { Monotone::Increasing } else { Monotone::Decreasing })
}

/// The energy of a cloud: E = (1/2n²) Σ_ij Φ(S_ij) with Φ = e^s for softmax and exponential weights,
/// ln(1 + e^{s + bias}) for sigmoid, s²/2 for linear ones; W_ε/ε for Sinkhorn. None for hardmax. O(n² k).
///
/// # Errors
/// [`DynamicsError::NotConverged`] for Sinkhorn.
pub fn energy(projections: &Projections, kernel: &AttentionKernel) -> Result<Option<f64>, DynamicsError> {
    Ok(match kernel.normalization() {
        Normalization::Softmax | Normalization::Exponential => Some(pair_energy(projections, f64::exp)),
        // ln(1 + e^x) = max(x, 0) + ln(1 + e^{-|x|}), which does not overflow.
        Normalization::Sigmoid { bias } => {
            Some(pair_energy(projections, |s| (s + bias).max(0.0) + (-(s + bias).abs()).exp().ln_1p()))
        }
        Normalization::Linear => Some(pair_energy(projections, |s| 0.5 * s * s)),
        Normalization::Sinkhorn(options) => {
            let potentials = sinkhorn::solve(projections, options, &[])?;
            Some(sinkhorn::transport_cost(projections, options, &potentials) / options.epsilon)
        }
        Normalization::Hardmax => None,
    })
}

/// (1/2n²) Σ_ij Φ(S_ij); rows in parallel, sums in order.
fn pair_energy(projections: &Projections, phi: impl Fn(f64) -> f64 + Sync) -> f64 {
    let n = projections.count();
    let of_row = |scratch: &mut Vec<f64>, i: usize| -> f64 {
        let row = projections.scores(i, Mask::Full, scratch);
        row.iter().map(|s| phi(projections.gain() * s)).sum()
    };
    let rows: Vec<f64> = (0..n).into_par_iter().map_init(|| vec![0.0; n], of_row).collect();
    rows.iter().sum::<f64>() / (2.0 * (n * n) as f64)
}
