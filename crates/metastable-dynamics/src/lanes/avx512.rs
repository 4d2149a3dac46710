//! 512-bit registers: x - floor(x) is one instruction (`vreduce`), and so is p 2^floor(x) (`vscalef`).

use std::arch::x86_64::{__m512, __m512d, __m512i, _CMP_GE_OQ, _CMP_NLE_UQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEG_INF};
use std::marker::PhantomData;

use pulp::x86::V4;

use super::polynomial::{ROUND_F64, SIXTEENTH_F64, SIXTEENTHS, UNIT_F32};
use super::{Lanes, Real};

/// The proof that the instructions exist, for numbers of type T.
#[derive(Clone, Copy)]
pub(super) struct Avx512<T>(V4, PhantomData<T>);

impl<T> Avx512<T> {
    pub(super) fn new(token: V4) -> Self {
        Self(token, PhantomData)
    }
}

/// The operations that differ between f32 and f64 in the names of their instructions only.
macro_rules! operations {
    ($real:ty, $width:literal, $splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $mul_add:ident,
     $neg_mul_add:ident, $max:ident, $compare:ident, $blend:ident) => {
        const WIDTH: usize = $width;
        const MANY_REGISTERS: bool = true;

        #[inline(always)]
        fn splat(self, x: $real) -> Self::Vector {
            self.0.avx512f.$splat(x)
        }
        #[inline(always)]
        fn load(self, from: &[$real]) -> Self::Vector {
            let (numbers, _) = from.split_first_chunk::<$width>().expect("a slice of WIDTH numbers");
            pulp::cast(*numbers)
        }
        #[inline(always)]
        fn store(self, v: Self::Vector, into: &mut [$real]) {
            let (numbers, _) = into.split_first_chunk_mut::<$width>().expect("a slice of WIDTH numbers");
            *numbers = pulp::cast(v);
        }
        #[inline(always)]
        fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx512f.$add(a, b)
        }
        #[inline(always)]
        fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx512f.$sub(a, b)
        }
        #[inline(always)]
        fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx512f.$mul(a, b)
        }
        #[inline(always)]
        fn sum(self, v: Self::Vector) -> $real {
            super::tree_sum!(pulp::cast::<Self::Vector, [$real; $width]>(v))
        }
        #[inline(always)]
        fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx512f.$div(a, b)
        }
        #[inline(always)]
        fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            self.0.avx512f.$mul_add(a, b, c)
        }
        #[inline(always)]
        fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            self.0.avx512f.$neg_mul_add(a, b, c)
        }
        #[inline(always)]
        fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx512f.$max(a, b)
        }
        #[inline(always)]
        fn select_at_least(self, [a, b]: [Self::Vector; 2], yes: Self::Vector, no: Self::Vector) -> Self::Vector {
            self.0.avx512f.$blend(self.0.avx512f.$compare::<_CMP_GE_OQ>(a, b), no, yes)
        }
    };
}

impl Lanes for Avx512<f32> {
    type Real = f32;
    type Vector = __m512;

    operations!(
        f32,
        16,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_fmadd_ps,
        _mm512_fnmadd_ps,
        _mm512_max_ps,
        _mm512_cmp_ps_mask,
        _mm512_mask_blend_ps
    );

    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        // "Not below or equal" keeps a NaN.
        let kept = self.0.avx512f._mm512_cmp_ps_mask::<_CMP_NLE_UQ>(x, self.splat(-f32::CUT as f32));
        self.0.avx512f._mm512_maskz_scalef_ps(kept, self.mantissa(x), x)
    }

    #[inline(always)]
    fn exp2_above_cut(self, x: __m512) -> __m512 {
        self.0.avx512f._mm512_scalef_ps(self.mantissa(x), x)
    }
}

impl Avx512<f32> {
    /// 2^{x - floor(x)}: a polynomial in x - floor(x).
    #[inline(always)]
    fn mantissa(self, x: __m512) -> __m512 {
        let V4 { avx512dq, .. } = self.0;
        let fraction = avx512dq._mm512_reduce_ps::<{ FLOOR }>(x);
        let [rest @ .., last] = UNIT_F32;
        let mut mantissa = self.splat(last);
        for &c in rest.iter().rev() {
            mantissa = self.mul_add(mantissa, fraction, self.splat(c));
        }
        mantissa
    }
}

impl Lanes for Avx512<f64> {
    type Real = f64;
    type Vector = __m512d;

    operations!(
        f64,
        8,
        _mm512_set1_pd,
        _mm512_add_pd,
        _mm512_sub_pd,
        _mm512_mul_pd,
        _mm512_div_pd,
        _mm512_fmadd_pd,
        _mm512_fnmadd_pd,
        _mm512_max_pd,
        _mm512_cmp_pd_mask,
        _mm512_mask_blend_pd
    );

    #[inline(always)]
    fn exp2(self, x: __m512d) -> __m512d {
        let kept = self.0.avx512f._mm512_cmp_pd_mask::<_CMP_NLE_UQ>(x, self.splat(-f64::CUT));
        self.0.avx512f._mm512_maskz_scalef_pd(kept, self.mantissa(x), x)
    }

    #[inline(always)]
    fn exp2_above_cut(self, x: __m512d) -> __m512d {
        self.0.avx512f._mm512_scalef_pd(self.mantissa(x), x)
    }
}

impl Avx512<f64> {
    /// 2^{x - floor(x)}: 2^{i/16} from a table in two registers, times 1 + r (c_1 + …) for what is left below 1/16.
    #[inline(always)]
    fn mantissa(self, x: __m512d) -> __m512d {
        let V4 { avx512f, avx512dq, .. } = self.0;
        let fraction = avx512dq._mm512_reduce_pd::<{ 4 << 4 | FLOOR }>(x);
        // The sum holds floor(16 x) in its last bits; its last four choose the entry.
        const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        let shifted = avx512f._mm512_add_round_pd::<DOWN>(x, self.splat(ROUND_F64 / 16.0));
        let [low, high]: [__m512d; 2] = pulp::cast(SIXTEENTHS);
        let entry = avx512f._mm512_permutex2var_pd(low, pulp::cast::<__m512d, __m512i>(shifted), high);
        let [_, rest @ .., last] = SIXTEENTH_F64;
        let mut slope = self.splat(last);
        for &c in rest.iter().rev() {
            slope = self.mul_add(slope, fraction, self.splat(c));
        }
        self.mul_add(self.mul(slope, fraction), entry, entry)
    }
}

/// The immediate of `vreduce` for x - floor(x), without exceptions; the bits of the fraction to keep stand above it.
const FLOOR: i32 = 9;
