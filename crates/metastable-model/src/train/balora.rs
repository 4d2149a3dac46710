//! BaLoRA: after a step of the base optimizer, back to the balanced manifold.

use metastable_dynamics::DynamicsError;
use metastable_dynamics::balance::{Attempt, LowRankPair, nearest_balanced};
use serde::{Deserialize, Serialize};

use crate::train::base::Moments;
use crate::train::method::Stepped;

/// When and how a pair is balanced.
///
/// A projection is skipped, and counted, while it would end training: at B = 0 and while σ_r < 1e-6·σ_1.
///
/// # References
/// Castin et al. 2026: projection after every step \[2nd, code\], moments left alone \[code\]; transport, signs and skips
/// are ours \[derived\].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Balora {
    /// Which balanced pair.
    pub form: Form,
    /// Whether Adam's moments follow the change of factors. The authors leave them.
    pub transport: bool,
    /// A projection after every so many steps, at least 1.
    pub every: u64,
}

/// Which balanced pair of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Form {
    /// (Σ^½ Vᵀ, U Σ^½), with the signs of the incoming factors.
    Canonical,
    /// The one nearest to the incoming factors; disturbs moments least, but its path depends on the gauge.
    Nearest,
}

impl Default for Balora {
    fn default() -> Self {
        Self { form: Form::Canonical, transport: true, every: 1 }
    }
}

impl Balora {
    /// The authors' published form: canonical, after every step, moments left where they were.
    pub fn untransported() -> Self {
        Self { transport: false, ..Self::default() }
    }
}

/// The largest relative change of the product that a projection may make: 100 roundings of a pair of a thousand rows.
const PRODUCT_KEPT: f64 = 1e-9;

/// Projects `moved` if step number `step` asks for it.
pub(super) fn apply(
    settings: Balora,
    moved: LowRankPair,
    step: u64,
    moments: &mut Moments,
) -> Result<Stepped, DynamicsError> {
    if !step.is_multiple_of(settings.every.max(1)) {
        return Ok(Stepped::plain(moved));
    }
    let balanced = match moved.try_project()? {
        Attempt::Skipped(skip) => return Ok(Stepped { pair: moved, skipped: Some(skip) }),
        Attempt::Projected(balanced) => balanced,
    };
    let (pair, gauge) = match (settings.form, &balanced.gauge) {
        (Form::Canonical, Some(gauge)) => (balanced.pair.clone(), gauge.clone()),
        _ => nearest_balanced(&moved, &balanced)?,
    };
    require_invariants(&moved, &pair, balanced.spectrum[0])?;
    if settings.transport {
        moments.transport(&gauge);
    }
    Ok(Stepped::plain(pair))
}

/// B A unchanged (through its action on one vector, O((in + out)·r)) and the gap closed.
fn require_invariants(before: &LowRankPair, after: &LowRankPair, largest: f64) -> Result<(), DynamicsError> {
    let probe = vec![1.0 / (before.a().columns() as f64).sqrt(); before.a().columns()];
    let action = |pair: &LowRankPair| {
        let (mut inner, mut outer) = (vec![0.0; pair.rank()], vec![0.0; pair.b().rows()]);
        pair.a().apply(&probe, &mut inner);
        pair.b().apply(&inner, &mut outer);
        outer
    };
    let change = action(before).iter().zip(action(after)).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
    if change <= PRODUCT_KEPT * largest && after.gap() <= PRODUCT_KEPT * largest {
        return Ok(());
    }
    Err(DynamicsError::Decomposition { name: "adapter".into(), what: "projection to the balanced manifold" })
}
