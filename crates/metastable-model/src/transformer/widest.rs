//! Plain loops compiled for the widest vector registers of the machine.
//!
//! The loops fix the order of every sum and use no fused operations, so the registers change the speed and not one bit
//! of the result.

use pulp::{Arch, Simd, WithSimd};

/// Runs a loop compiled for the machine's widest registers, as far as what it calls is inlined.
#[inline(always)]
pub(crate) fn widest<R>(work: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(Dispatched(work))
}

struct Dispatched<F>(F);

impl<R, F: FnOnce() -> R> WithSimd for Dispatched<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> R {
        (self.0)()
    }
}
