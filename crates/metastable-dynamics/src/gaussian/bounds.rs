//! When a Gaussian can and must blow up: proven bounds from operator norms and definiteness.

use crate::error::DynamicsError;
use crate::field::{GaussianFlow, GaussianKernel};
use crate::linalg::Matrix;
use crate::measure::Gaussian;

/// A time before which the covariance cannot blow up, infinite if it never can by this bound.
///
/// With a = Σ_h |U_h| |A_h|, w = |W| and y = |Σ_0|: |Σ'| <= 2a|Σ|² + 2w|Σ| for softmax, so
///
/// t* >= 1/(2ay),  with feed-forward t* >= ln(1 + w/(ay)) / (2w);
///
/// for L2 2a takes the place of a, because (Σ^{-1} + 2M)^{-1} <= Σ. For Sinkhorn |Σ'| <= (2/ε)|V||Σ|: never. Linear
/// attention has softmax's bound if it is centred; otherwise, and with noise, nothing is claimed: 0 \[derived\].
/// O(H d³).
///
/// # Errors
/// [`DynamicsError::Decomposition`].
pub fn blow_up_not_before(flow: &GaussianFlow, start: &Gaussian) -> Result<f64, DynamicsError> {
    let factor = match flow.kernel() {
        GaussianKernel::Sinkhorn { .. } => return Ok(f64::INFINITY),
        _ if flow.noise() > 0.0 => return Ok(0.0),
        GaussianKernel::Softmax { .. } => 1.0,
        GaussianKernel::SquaredDistance { .. } => 2.0,
        GaussianKernel::Linear { .. } if start.mean().iter().all(|m| *m == 0.0) && is_unbiased(flow) => 1.0,
        GaussianKernel::Linear { .. } => return Ok(0.0),
    };
    let mut strength = 0.0;
    for (h, value) in flow.values().iter().enumerate() {
        strength += factor * value.operator_norm()? * flow.logits(h).operator_norm()?;
    }
    let pace = strength * start.factor().operator_norm()?.powi(2);
    if pace == 0.0 {
        return Ok(f64::INFINITY);
    }
    let weight = flow.feed_forward().map_or(Ok(0.0), |(weight, _)| weight.operator_norm())?;
    // ln(1 + w/p) / (2w), whose limit for w = 0 is 1/(2p).
    Ok(if weight == 0.0 { 0.5 / pace } else { 0.5 * (weight / pace).ln_1p() / weight })
}

/// A time before which the covariance must have blown up, if that is proven:
///
/// one softmax head with V > 0 symmetric and A + Aᵀ > 0 (or both < 0), Σ_0 ≠ 0:
/// t* <= d / (λ_min(A + Aᵀ) λ_min(V)² tr(V^{-1}Σ_0)), from d/dt tr(V^{-1}Σ) = tr(Σ(A + Aᵀ)Σ) \[derived\]. O(d³).
///
/// # Errors
/// [`DynamicsError::Decomposition`].
pub fn blow_up_not_after(flow: &GaussianFlow, start: &Gaussian) -> Result<Option<f64>, DynamicsError> {
    let Some(pair) = Pair::of(flow) else { return Ok(None) };
    let is_softmax = matches!(flow.kernel(), GaussianKernel::Softmax { .. });
    let (value, pull) = (pair.value_definiteness()?, pair.pull_definiteness()?);
    if !is_softmax || flow.feed_forward().is_some() || start.trace() == 0.0 || value.lowest <= 0.0 || pull.lowest <= 0.0
    {
        return Ok(None);
    }
    let weighted = value_trace(&pair.value, start)?;
    Ok(Some(start.dim() as f64 / (pull.lowest * value.lowest * value.lowest * weighted)))
}

/// tr(V^{-1}Σ), which never grows where V > 0 and A = -QᵀQ (softmax, L2 with K = -Q, Sinkhorn) \[checked\].
///
/// # Errors
/// [`DynamicsError::Decomposition`] if V is singular.
pub fn value_trace(value: &Matrix, gaussian: &Gaussian) -> Result<f64, DynamicsError> {
    let product = value.inverse()?.multiply(gaussian.covariance());
    Ok((0..product.rows()).map(|i| product.at(i, i)).sum())
}

/// Nᵀ Σ^{-1} N, constant in time if A N = 0 for every head (for L2 with Q N = K N = 0, or A N = 0), whatever V is,
/// for softmax, L2 and Sinkhorn without feed-forward part and noise \[checked\].
///
/// # Errors
/// [`DynamicsError::Decomposition`] if Σ is singular.
pub fn kernel_invariant(basis: &Matrix, gaussian: &Gaussian) -> Result<Matrix, DynamicsError> {
    Ok(basis.transpose().multiply(&gaussian.covariance().inverse()?).multiply(basis))
}

fn is_unbiased(flow: &GaussianFlow) -> bool {
    flow.feed_forward().is_none_or(|(_, bias)| bias.iter().all(|b| *b == 0.0))
}

/// V and A of a single head without noise, both negated if V is negative definite: only V Σ A matters for Σ.
pub(super) struct Pair {
    pub(super) value: Matrix,
    pub(super) logits: Matrix,
}

/// The ends of a spectrum; values within rounding of 0 (1e-12 of the largest) are 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Definiteness {
    pub(super) lowest: f64,
    pub(super) highest: f64,
}

impl Pair {
    pub(super) fn of(flow: &GaussianFlow) -> Option<Self> {
        let [value] = flow.values() else { return None };
        if flow.noise() > 0.0 {
            return None;
        }
        let trace: f64 = (0..value.rows()).map(|i| value.at(i, i)).sum();
        let sign = if trace < 0.0 { -1.0 } else { 1.0 };
        Some(Self { value: value.scaled(sign), logits: flow.logits(0).scaled(sign) })
    }

    /// Of V if it is symmetric, else nothing (0, 0).
    pub(super) fn value_definiteness(&self) -> Result<Definiteness, DynamicsError> {
        if self.value.asymmetry() > 1e-12 * self.value.max_abs() {
            return Ok(Definiteness { lowest: 0.0, highest: 0.0 });
        }
        Definiteness::of(&self.value)
    }

    /// Of A + Aᵀ.
    pub(super) fn pull_definiteness(&self) -> Result<Definiteness, DynamicsError> {
        Definiteness::of(&self.logits.add_scaled(1.0, &self.logits.transpose()))
    }
}

impl Definiteness {
    pub(super) fn of(symmetric: &Matrix) -> Result<Self, DynamicsError> {
        let (values, _) = symmetric.symmetric_eigen()?;
        let scale = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        let rounded = |v: f64| if v.abs() <= 1e-12 * scale { 0.0 } else { v };
        let (lowest, highest) = (values.first().copied(), values.last().copied());
        Ok(Self { lowest: rounded(lowest.unwrap_or(0.0)), highest: rounded(highest.unwrap_or(0.0)) })
    }
}
