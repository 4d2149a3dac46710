//! 256-bit registers with fused products: x is rounded by a large addend, whose last bits are then the exponent.

use std::arch::x86_64::{__m256, __m256d, __m256i, _CMP_GE_OQ, _CMP_NLE_UQ};
use std::marker::PhantomData;

use pulp::x86::V3;

use super::polynomial::{CENTRED_F32, CENTRED_F64, ROUND_F32, ROUND_F64};
use super::{Lanes, Real};

/// The proof that the instructions exist, for numbers of type T.
#[derive(Clone, Copy)]
pub(super) struct Avx2<T>(V3, PhantomData<T>);

impl<T> Avx2<T> {
    pub(super) fn new(token: V3) -> Self {
        Self(token, PhantomData)
    }
}

/// The operations that differ between f32 and f64 in the names of their instructions only.
macro_rules! operations {
    ($real:ty, $width:literal, $splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $mul_add:ident,
     $neg_mul_add:ident, $max:ident, $compare:ident, $blend:ident) => {
        const WIDTH: usize = $width;
        const MANY_REGISTERS: bool = false;

        #[inline(always)]
        fn splat(self, x: $real) -> Self::Vector {
            self.0.avx.$splat(x)
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
            self.0.avx.$add(a, b)
        }
        #[inline(always)]
        fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx.$sub(a, b)
        }
        #[inline(always)]
        fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx.$mul(a, b)
        }
        #[inline(always)]
        fn sum(self, v: Self::Vector) -> $real {
            super::tree_sum!(pulp::cast::<Self::Vector, [$real; $width]>(v))
        }
        #[inline(always)]
        fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx.$div(a, b)
        }
        #[inline(always)]
        fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            self.0.fma.$mul_add(a, b, c)
        }
        #[inline(always)]
        fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            self.0.fma.$neg_mul_add(a, b, c)
        }
        #[inline(always)]
        fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            self.0.avx.$max(a, b)
        }
        #[inline(always)]
        fn select_at_least(self, [a, b]: [Self::Vector; 2], yes: Self::Vector, no: Self::Vector) -> Self::Vector {
            self.0.avx.$blend(no, yes, self.0.avx.$compare::<_CMP_GE_OQ>(a, b))
        }
    };
}

impl Lanes for Avx2<f32> {
    type Real = f32;
    type Vector = __m256;

    operations!(
        f32,
        8,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_fmadd_ps,
        _mm256_fnmadd_ps,
        _mm256_max_ps,
        _mm256_cmp_ps,
        _mm256_blendv_ps
    );

    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        let Self(V3 { avx, avx2, .. }, _) = self;
        let shifted = self.add(x, self.splat(ROUND_F32));
        let fraction = self.sub(x, self.sub(shifted, self.splat(ROUND_F32)));
        let [rest @ .., last] = CENTRED_F32;
        let mut mantissa = self.splat(last);
        for &c in rest.iter().rev() {
            mantissa = self.mul_add(mantissa, fraction, self.splat(c));
        }
        let exponent = avx2._mm256_slli_epi32::<23>(pulp::cast::<__m256, __m256i>(shifted));
        let scale: __m256 = pulp::cast(avx2._mm256_add_epi32(exponent, pulp::cast(self.splat(1.0))));
        // "Not below or equal" keeps a NaN.
        let kept = avx._mm256_cmp_ps::<_CMP_NLE_UQ>(x, self.splat(-f32::CUT as f32));
        avx._mm256_and_ps(kept, self.mul(mantissa, scale))
    }
}

impl Lanes for Avx2<f64> {
    type Real = f64;
    type Vector = __m256d;

    operations!(
        f64,
        4,
        _mm256_set1_pd,
        _mm256_add_pd,
        _mm256_sub_pd,
        _mm256_mul_pd,
        _mm256_div_pd,
        _mm256_fmadd_pd,
        _mm256_fnmadd_pd,
        _mm256_max_pd,
        _mm256_cmp_pd,
        _mm256_blendv_pd
    );

    #[inline(always)]
    fn exp2(self, x: __m256d) -> __m256d {
        let Self(V3 { avx, avx2, .. }, _) = self;
        let shifted = self.add(x, self.splat(ROUND_F64));
        let fraction = self.sub(x, self.sub(shifted, self.splat(ROUND_F64)));
        let [rest @ .., last] = CENTRED_F64;
        let mut mantissa = self.splat(last);
        for &c in rest.iter().rev() {
            mantissa = self.mul_add(mantissa, fraction, self.splat(c));
        }
        let exponent = avx2._mm256_slli_epi64::<52>(pulp::cast::<__m256d, __m256i>(shifted));
        let scale: __m256d = pulp::cast(avx2._mm256_add_epi64(exponent, pulp::cast(self.splat(1.0))));
        let kept = avx._mm256_cmp_pd::<_CMP_NLE_UQ>(x, self.splat(-f64::CUT));
        avx._mm256_and_pd(kept, self.mul(mantissa, scale))
    }
}
