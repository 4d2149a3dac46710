//! Arrays of four numbers in plain Rust, for machines without AVX2; products are not fused, for a fused one without its
//! instruction is a library call.

use std::marker::PhantomData;

use super::polynomial::{CENTRED_F32, CENTRED_F64, ROUND_F32, ROUND_F64};
use super::{Lanes, Real};

/// Numbers of type T, four at a time.
#[derive(Clone, Copy)]
pub(super) struct Portable<T>(PhantomData<T>);

impl<T> Portable<T> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

/// Numbers in a vector.
pub(super) const WIDTH: usize = 4;

macro_rules! portable {
    ($real:ty, $exp2:ident) => {
        impl Lanes for Portable<$real> {
            type Real = $real;
            type Vector = [$real; WIDTH];
            const WIDTH: usize = WIDTH;
            const MANY_REGISTERS: bool = false;

            #[inline(always)]
            fn splat(self, x: $real) -> Self::Vector {
                [x; WIDTH]
            }
            #[inline(always)]
            fn load(self, from: &[$real]) -> Self::Vector {
                *from.first_chunk().expect("a slice of WIDTH numbers")
            }
            #[inline(always)]
            fn store(self, v: Self::Vector, into: &mut [$real]) {
                *into.first_chunk_mut().expect("a slice of WIDTH numbers") = v;
            }
            #[inline(always)]
            fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| a[l] + b[l])
            }
            #[inline(always)]
            fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| a[l] - b[l])
            }
            #[inline(always)]
            fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| a[l] * b[l])
            }
            #[inline(always)]
            fn sum(self, v: Self::Vector) -> $real {
                super::tree_sum!(v)
            }
            #[inline(always)]
            fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| a[l] / b[l])
            }
            #[inline(always)]
            fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| a[l] * b[l] + c[l])
            }
            #[inline(always)]
            fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| c[l] - a[l] * b[l])
            }
            #[inline(always)]
            fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
            }
            #[inline(always)]
            fn select_at_least(self, [a, b]: [Self::Vector; 2], yes: Self::Vector, no: Self::Vector) -> Self::Vector {
                std::array::from_fn(|l| if a[l] >= b[l] { yes[l] } else { no[l] })
            }
            #[inline(always)]
            fn exp2(self, x: Self::Vector) -> Self::Vector {
                x.map($exp2)
            }
        }
    };
}

portable!(f32, exp2_f32);
portable!(f64, exp2_f64);

#[inline(always)]
fn exp2_f32(x: f32) -> f32 {
    let shifted = x + ROUND_F32;
    let fraction = x - (shifted - ROUND_F32);
    let [rest @ .., last] = CENTRED_F32;
    let mantissa = rest.iter().rev().fold(last, |sum, c| sum * fraction + c);
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    if x <= -f32::CUT as f32 { 0.0 } else { mantissa * scale }
}

#[inline(always)]
fn exp2_f64(x: f64) -> f64 {
    let shifted = x + ROUND_F64;
    let fraction = x - (shifted - ROUND_F64);
    let [rest @ .., last] = CENTRED_F64;
    let mantissa = rest.iter().rev().fold(last, |sum, c| sum * fraction + c);
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0_f64.to_bits()));
    if x <= -f64::CUT { 0.0 } else { mantissa * scale }
}
