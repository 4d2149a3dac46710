//! Vector registers of the machine as values: what the kernels of attention are written in.
//!
//! [`Lanes`] names the few operations a kernel needs; AVX-512, AVX2 and a portable path implement them for `f32` and
//! `f64`, and [`Real::dispatch`] chooses at run time. `pulp` proves that the instructions exist, so that all of this is
//! safe code. Unlike [`crate::simd`], where plain loops give the same bits on every machine, products are fused here
//! and 2^x is computed by the instructions at hand: bits depend on the kind of machine, never on the number of threads.
//!
//! # Error of 2^x
//! Relative to the exact 2^x, for -100 < x <= 100 (`f32`) or -1000 < x <= 1000 (`f64`):
//! 1.7e-7 in `f32` (1.5 units of 2^-23 \[checked\]) and 3.4e-16 in `f64` (1.5 units of 2^-52 \[checked\]).
//! At or below -100 or -1000 the result is exactly 0: no product ever meets a subnormal number, whose operations are
//! up to 60 times slower.

/// The sum of an array of 2^k numbers, half of them added to the other half again and again.
macro_rules! tree_sum {
    ($numbers:expr) => {{
        let mut numbers = $numbers;
        let mut half = numbers.len() / 2;
        while half > 0 {
            for l in 0..half {
                numbers[l] += numbers[l + half];
            }
            half /= 2;
        }
        numbers[0]
    }};
}
use tree_sum;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod polynomial;
mod portable;

/// One vector of WIDTH numbers, and the operations on it. Every function must be `#[inline(always)]`: only inlined code
/// is compiled for the registers. For the same reason kernels keep vectors out of closures and of iterator adaptors:
/// plain loops with vectors in their bodies are ten times faster than `map`, `fold` or `from_fn` of them.
pub trait Lanes: Copy + Send + Sync {
    /// The type of the numbers.
    type Real: Real;
    /// A register.
    type Vector: Copy + Send + Sync;
    /// Numbers in a vector.
    const WIDTH: usize;
    /// Whether there are 32 registers rather than 16.
    const MANY_REGISTERS: bool;

    /// All lanes equal to x.
    fn splat(self, x: Self::Real) -> Self::Vector;
    /// The first WIDTH numbers of a slice.
    fn load(self, from: &[Self::Real]) -> Self::Vector;
    /// Writes into the first WIDTH numbers of a slice.
    fn store(self, v: Self::Vector, into: &mut [Self::Real]);
    /// a + b.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a - b.
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a b.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// All lanes, in the order of a tree.
    fn sum(self, v: Self::Vector) -> Self::Real;
    /// a / b.
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a b + c.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// c - a b.
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger one; b if a is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// yes where a >= b, no elsewhere.
    fn select_at_least(self, a_b: [Self::Vector; 2], yes: Self::Vector, no: Self::Vector) -> Self::Vector;
    /// 2^x for x up to [`Real::CUT`], exactly 0 for x <= -CUT, NaN for NaN.
    fn exp2(self, x: Self::Vector) -> Self::Vector;
    /// 2^x for |x| < [`Real::CUT`], NaN for NaN: spares the comparison.
    #[inline(always)]
    fn exp2_above_cut(self, x: Self::Vector) -> Self::Vector {
        self.exp2(x)
    }
}

/// A computation written once for all registers.
pub trait Work<T: Real> {
    /// What it gives.
    type Output;
    /// Runs it. Must be `#[inline(always)]`, and so must what it calls.
    fn run<L: Lanes<Real = T>>(self, lanes: L) -> Self::Output;
}

/// Kinds of registers, widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// 512 bits, 32 registers.
    Avx512,
    /// 256 bits with fused products, 16 registers.
    Avx2,
    /// Arrays that the compiler vectorises as it can; products are not fused.
    Portable,
}

impl Level {
    /// All kinds that this machine has.
    pub fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let wide = [pulp::x86::V4::try_new().map(|_| Self::Avx512), pulp::x86::V3::try_new().map(|_| Self::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let wide = [None, None];
        wide.into_iter().flatten().chain([Self::Portable]).collect()
    }

    /// Numbers in a register.
    pub(crate) fn width<T: Real>(self) -> usize {
        match self {
            Self::Avx512 => 64 / size_of::<T>(),
            Self::Avx2 => 32 / size_of::<T>(),
            Self::Portable => portable::WIDTH,
        }
    }

    /// The widest kind of this machine.
    pub fn best() -> Self {
        Self::available()[0]
    }
}

/// The numbers kernels compute with: `f32` or `f64`.
pub trait Real: Copy + Default + PartialOrd + std::fmt::Debug + Send + Sync + 'static {
    /// Largest exponent that 2^x accepts; at its negative and below the power is exactly 0.
    const CUT: f64;
    /// Largest factor of scores that products with score differences survive.
    const MAX_FACTOR: f64;
    /// The least finite number: a score that is never the largest.
    const LOWEST: Self;
    /// Rounds to this type.
    fn from_f64(x: f64) -> Self;
    /// The same number in f64.
    fn to_f64(self) -> f64;
    /// Runs `work` with the registers of `level`, or the portable path if this machine has none of them.
    #[doc(hidden)]
    fn dispatch<W: Work<Self>>(level: Level, work: W) -> W::Output;
}

macro_rules! real {
    ($real:ty, cut: $cut:expr, max_factor: $max_factor:expr) => {
        impl Real for $real {
            const CUT: f64 = $cut;
            const MAX_FACTOR: f64 = $max_factor;
            const LOWEST: Self = <$real>::MIN;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $real
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }

            fn dispatch<W: Work<Self>>(level: Level, work: W) -> W::Output {
                #[cfg(target_arch = "x86_64")]
                {
                    if level == Level::Avx512
                        && let Some(token) = pulp::x86::V4::try_new()
                    {
                        let lanes = avx512::Avx512::<$real>::new(token);
                        return token.vectorize(Call { lanes, work });
                    }
                    if level != Level::Portable
                        && let Some(token) = pulp::x86::V3::try_new()
                    {
                        let lanes = avx2::Avx2::<$real>::new(token);
                        return token.vectorize(Call { lanes, work });
                    }
                }
                #[cfg(not(target_arch = "x86_64"))]
                let _ = level;
                work.run(portable::Portable::<$real>::new())
            }
        }
    };
}

real!(f32, cut: 100.0, max_factor: 1e30);
real!(f64, cut: 1000.0, max_factor: 1e261);

/// What `pulp` compiles for the registers.
#[cfg(target_arch = "x86_64")]
struct Call<L, W> {
    lanes: L,
    work: W,
}

#[cfg(target_arch = "x86_64")]
impl<L: Lanes, W: Work<L::Real>> pulp::NullaryFnOnce for Call<L, W> {
    type Output = W::Output;

    #[inline(always)]
    fn call(self) -> W::Output {
        self.work.run(self.lanes)
    }
}

#[cfg(test)]
mod tests;
