//! What is proven about a flow before it runs.

use super::bounds::{Pair, blow_up_not_after};
use super::closed_form::ScalarValue;
use crate::error::DynamicsError;
use crate::field::{GaussianFlow, GaussianKernel};
use crate::linalg::Matrix;
use crate::measure::Gaussian;

/// What a theorem says about a flow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Claim {
    /// Σ(t) tends to a covariance of this rank, smaller than at the start.
    Collapse {
        /// The rank of the limit.
        rank: usize,
    },
    /// Σ(t) exists for ever, is bounded and keeps its rank in the limit.
    Bounded,
    /// Σ(t) exists for ever.
    Global,
    /// Σ(t) blows up, at this time if it is known exactly.
    BlowUp {
        /// t*.
        time: Option<f64>,
    },
    /// The spectrum of Σ(t) is constant.
    Isospectral,
    /// Nothing that we can prove.
    Nothing,
}

impl Claim {
    /// Its name in reports and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Collapse { .. } => "collapse",
            Self::Bounded => "bounded",
            Self::Global => "global",
            Self::BlowUp { .. } => "blow_up",
            Self::Isospectral => "isospectral",
            Self::Nothing => "nothing",
        }
    }
}

/// A claim and the statement it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// What is proven.
    pub claim: Claim,
    /// By what, with its mark.
    pub statement: &'static str,
}

/// The strongest statement known to us about the flow from `start`. O(H d³).
///
/// Definiteness is decided up to rounding (1e-12 of the largest eigenvalue).
///
/// # Errors
/// [`DynamicsError::Shape`] if `start` has another dimension; [`DynamicsError::Decomposition`].
pub fn certify(flow: &GaussianFlow, start: &Gaussian) -> Result<Certificate, DynamicsError> {
    if flow.dim() != start.dim() {
        return Err(DynamicsError::shape("gaussian", format!("d = {}", flow.dim()), format!("d = {}", start.dim())));
    }
    if let Some(pair) = Pair::of(flow) {
        let found = match flow.feed_forward() {
            Some((weight, _)) => with_feed_forward(flow, &pair, weight, start)?,
            None => single_head(flow, &pair, start)?,
        };
        if let Some(certificate) = found {
            return Ok(certificate);
        }
    }
    Ok(existence(flow)?.unwrap_or(NOTHING))
}

const NOTHING: Certificate =
    Certificate { claim: Claim::Nothing, statement: "no certificate known: the verdict is the run's" };

fn certificate(claim: Claim, statement: &'static str) -> Result<Option<Certificate>, DynamicsError> {
    Ok(Some(Certificate { claim, statement }))
}

/// One head, nothing else.
fn single_head(flow: &GaussianFlow, pair: &Pair, start: &Gaussian) -> Result<Option<Certificate>, DynamicsError> {
    let is_softmax = matches!(flow.kernel(), GaussianKernel::Softmax { .. });
    if is_softmax && let Some(v) = scalar(&pair.value) {
        return scalar_value(&ScalarValue::new(start, &pair.logits, v)?, start);
    }
    if is_skew(&pair.value) && is_isotropic(flow, pair, start) {
        return certificate(Claim::Isospectral, "V skew, A = aI: Σ' = [V, g(Σ)] is a Lax pair [checked]");
    }
    let value = pair.value_definiteness()?;
    if value.lowest <= 0.0 {
        return Ok(None);
    }
    if is_repulsive(flow, pair)? && start.rank() == start.dim() {
        let rank = start.dim() - rank_of(&pair.logits)?;
        let statement = "V > 0, A = -QᵀQ, Σ_0 > 0: tr(V⁻¹Σ) decreases, QΣ → 0 and NᵀΣ⁻¹N is conserved on the kernel \
                         of A, so the limit has rank dim ker A [checked]";
        let claim = if rank == start.dim() { Claim::Bounded } else { Claim::Collapse { rank } };
        return certificate(claim, statement);
    }
    if is_softmax && pair.pull_definiteness()?.highest <= 0.0 {
        return certificate(Claim::Global, "V > 0, A + Aᵀ <= 0: tr(V⁻¹Σ) never grows, so Σ stays bounded [derived]");
    }
    if blow_up_not_after(flow, start)?.is_some() {
        let statement = "V > 0, A + Aᵀ > 0: tr(V⁻¹Σ) grows at least quadratically [derived]";
        return certificate(Claim::BlowUp { time: None }, statement);
    }
    Ok(None)
}

fn scalar_value(exact: &ScalarValue, start: &Gaussian) -> Result<Option<Certificate>, DynamicsError> {
    let statement = "V = vI, softmax: Σ(t) = L(I - vt Lᵀ(A + Aᵀ)L)⁻¹Lᵀ in closed form [checked]";
    if let Some((_, rank)) = exact.limit() {
        let claim = if rank == start.rank() { Claim::Bounded } else { Claim::Collapse { rank } };
        return certificate(claim, statement);
    }
    certificate(Claim::BlowUp { time: exact.blow_up_time() }, statement)
}

/// One softmax head with V = vI and W x.
fn with_feed_forward(
    flow: &GaussianFlow,
    pair: &Pair,
    weight: &Matrix,
    start: &Gaussian,
) -> Result<Option<Certificate>, DynamicsError> {
    let is_softmax = matches!(flow.kernel(), GaussianKernel::Softmax { .. });
    let (Some(v), true) = (scalar(&pair.value), is_softmax) else { return Ok(None) };
    let pull = pair.pull_definiteness()?;
    let growth: Vec<f64> = weight.eigenvalues()?.into_iter().map(|(real, _)| real).collect();
    if pull.highest <= 0.0 && growth.iter().all(|real| *real < 0.0) {
        let statement = "V = vI, A + Aᵀ <= 0, W stable: the precision grows without bound, Σ → 0 [checked]";
        return certificate(Claim::Collapse { rank: 0 }, statement);
    }
    let is_full = start.rank() == start.dim();
    if v > 0.0 && pull.highest < 0.0 && growth.iter().all(|real| *real > 0.0) && is_full {
        let statement = "V = vI, A + Aᵀ < 0, all eigenvalues of W to the right: the precision solves a stable linear \
                         equation, Σ tends to a covariance of full rank [checked]";
        return certificate(Claim::Bounded, statement);
    }
    Ok(None)
}

/// Existence for ever, for any number of heads, feed-forward part and noise.
fn existence(flow: &GaussianFlow) -> Result<Option<Certificate>, DynamicsError> {
    match flow.kernel() {
        GaussianKernel::Sinkhorn { .. } => {
            certificate(Claim::Global, "Sinkhorn: |Σ'| <= (2/ε) Σ_h|V_h| |Σ| (+ feed-forward, noise) [derived]")
        }
        GaussianKernel::SquaredDistance { beta } if *beta > 0.0 => {
            for head in flow.heads() {
                let is_tied = head.query() == head.key() || *head.query() == head.key().scaled(-1.0);
                if !is_tied && rank_of(head.key())? < flow.dim() {
                    return Ok(None);
                }
            }
            certificate(
                Claim::Global,
                "L2 with K injective or Q = ±K in every head: |B| is bounded, |Σ| grows at \
                                        most exponentially [derived]",
            )
        }
        _ => Ok(None),
    }
}

/// Whether A is symmetric and <= 0 in the way that the kernel needs (K = -Q for L2, where M enters too).
fn is_repulsive(flow: &GaussianFlow, pair: &Pair) -> Result<bool, DynamicsError> {
    if pair.logits.asymmetry() > 1e-12 * pair.logits.max_abs() || pair.pull_definiteness()?.highest > 0.0 {
        return Ok(false);
    }
    Ok(match flow.kernel() {
        GaussianKernel::Softmax { .. } | GaussianKernel::Sinkhorn { .. } => true,
        GaussianKernel::SquaredDistance { .. } => {
            flow.heads().iter().all(|head| *head.query() == head.key().scaled(-1.0)) && pair.value == flow.values()[0]
        }
        GaussianKernel::Linear { .. } => false,
    })
}

/// Whether B = V g(Σ) with g a function of matrices: A = aI, for L2 also KᵀK = mI, for linear attention α = 0 for ever.
fn is_isotropic(flow: &GaussianFlow, pair: &Pair, start: &Gaussian) -> bool {
    let keys = flow.heads()[0].key();
    scalar(&pair.logits).is_some()
        && match flow.kernel() {
            GaussianKernel::Softmax { .. } | GaussianKernel::Sinkhorn { .. } => true,
            GaussianKernel::SquaredDistance { .. } => scalar(&keys.transpose().multiply(keys)).is_some(),
            GaussianKernel::Linear { .. } => start.mean().iter().all(|entry| *entry == 0.0),
        }
}

/// v if the matrix is vI to the bit.
fn scalar(matrix: &Matrix) -> Option<f64> {
    let v = matrix.at(0, 0);
    (*matrix == Matrix::scaled_identity(matrix.rows(), v)).then_some(v)
}

fn is_skew(matrix: &Matrix) -> bool {
    matrix.add_scaled(1.0, &matrix.transpose()).max_abs() == 0.0
}

/// The number of singular values above 1e-12 of the largest.
fn rank_of(matrix: &Matrix) -> Result<usize, DynamicsError> {
    let values = matrix.singular_values()?;
    let cutoff = 1e-12 * values.first().copied().unwrap_or(0.0);
    Ok(values.iter().filter(|s| **s > cutoff).count())
}
