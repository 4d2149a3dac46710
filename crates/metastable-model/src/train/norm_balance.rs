//! Scalar norm balancing: one number per pair. The baseline that BaLoRA has to beat, and RefLoRA's scalar mode.

use metastable_dynamics::DynamicsError;
use metastable_dynamics::balance::{LowRankPair, Skip, norm_balanced};

use crate::train::base::Moments;
use crate::train::method::Stepped;

/// (c·B, A/c) with equal norms; moments follow if they are given.
///
/// # References
/// Y. Zhang et al., RefLoRA, arXiv 2505.18877, 2025: the scalar mode \[code, as vendored by the authors of BaLoRA\].
pub(super) fn apply(moved: LowRankPair, moments: Option<&mut Moments>) -> Result<Stepped, DynamicsError> {
    let Some((pair, gauge)) = norm_balanced(&moved)? else {
        return Ok(Stepped { pair: moved, skipped: Some(Skip::ZeroFactor) });
    };
    if let Some(moments) = moments {
        moments.transport(&gauge);
    }
    Ok(Stepped::plain(pair))
}
