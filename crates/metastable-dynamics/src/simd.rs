//! Plain loops compiled for the widest vector registers of the machine, chosen at run time.
//!
//! The loops themselves fix the order of every sum and use no fused operations, so the registers change the speed and
//! not one bit of the result.

use pulp::{Arch, Simd, WithSimd};

/// A loop that the compiler can vectorise.
pub(crate) trait Loop {
    /// Runs it. Must be `#[inline(always)]`, and so must what it calls: only inlined code is compiled for the registers.
    fn run(self);
}

/// Runs a loop compiled for the machine's widest registers.
#[inline]
pub(crate) fn widest(work: impl Loop) {
    Arch::new().dispatch(Dispatched(work));
}

struct Dispatched<L>(L);

impl<L: Loop> WithSimd for Dispatched<L> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.0.run();
    }
}
