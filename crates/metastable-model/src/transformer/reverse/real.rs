//! Numbers of a training pass: f32 to train, f64 to check gradients with central differences.

use std::borrow::Cow;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use metastable_dynamics::attention::fused::HeadJacobian;

use super::head_products::HeadProducts;
use crate::config::Activation;
use crate::product::Entry;

/// f32 or f64.
pub(crate) trait Real:
    Entry
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    /// Jacobian products of one head in these numbers.
    type HeadProducts: HeadProducts<Self>;
    /// The nearest number.
    fn from_f64(x: f64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
    /// e^x for x <= 0 or moderate x.
    fn exp(self) -> Self;
    /// Φ(x), the normal distribution function.
    fn normal_distribution(self) -> Self;
    /// Weights as the pass takes them: borrowed in f32, converted in f64.
    fn share(weights: &[f32]) -> Cow<'_, [Self]>;
}

impl Real for f32 {
    type HeadProducts = HeadJacobian<Self>;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    /// Relative error below 2e-7: 2^n times a minimax polynomial of degree 5 on [0, 1]; 0 below 2^-100.
    #[inline(always)]
    fn exp(self) -> Self {
        /// Adding and subtracting 1.5·2^23 rounds to an integer without a call.
        const ROUND: f32 = 12_582_912.0;
        let y = (self * std::f32::consts::LOG2_E).clamp(-126.0, 126.0);
        let rounded = y - 0.5 + ROUND;
        let n = rounded - ROUND;
        let r = y - n;
        let p = ((((0.001_877_576_8 * r + 0.008_989_34) * r + 0.055_826_318) * r + 0.240_153_62) * r + 0.693_153_1) * r
            + 0.999_999_9;
        // n stands in the lowest bits of `rounded`: a conversion that saturates would go number by number.
        let power = f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
        // Exactly 0 below 2^-100: products with denormal numbers would be fifty times slower.
        if y < -100.0 { 0.0 } else { p * power }
    }

    /// Absolute error below 3e-7: 1e-7 of the formula, 2e-7 of the roundings of its alternating sum.
    ///
    /// # References
    /// M. Abramowitz and I. Stegun, 1964, 7.1.26.
    #[inline(always)]
    fn normal_distribution(self) -> Self {
        let x = self.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / (1.0 + 0.327_591_1 * x);
        let p = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6) * t;
        let tail = 0.5 * p * Real::exp(-x * x);
        if self < 0.0 { tail } else { 1.0 - tail }
    }

    fn share(weights: &[f32]) -> Cow<'_, [Self]> {
        Cow::Borrowed(weights)
    }
}

impl Real for f64 {
    type HeadProducts = HeadJacobian<Self>;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    fn exp(self) -> Self {
        f64::exp(self)
    }

    fn normal_distribution(self) -> Self {
        0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2)
    }

    fn share(weights: &[f32]) -> Cow<'_, [Self]> {
        Cow::Owned(weights.iter().map(|x| f64::from(*x)).collect())
    }
}

/// Runs a loop with a known activation, once compiled for each, in the machine's widest registers.
macro_rules! each_activation {
    ($kind:expr, $known:ident, $work:expr) => {
        match $kind {
            Activation::Gelu => each_activation!(@ Activation::Gelu, $known, $work),
            Activation::GeluTanh => each_activation!(@ Activation::GeluTanh, $known, $work),
            Activation::Silu => each_activation!(@ Activation::Silu, $known, $work),
            Activation::Relu => each_activation!(@ Activation::Relu, $known, $work),
        }
    };
    (@ $kind:expr, $known:ident, $work:expr) => {
        widest(#[inline(always)] || {
            let $known = $kind;
            $work
        })
    };
}
pub(super) use each_activation;

/// σ(x) and σ'(x).
#[inline(always)]
pub(super) fn activation<T: Real>(kind: Activation, x: T) -> (T, T) {
    let c = T::from_f64;
    match kind {
        Activation::Gelu => {
            let phi = x.normal_distribution();
            let density = (-x * x * c(0.5)).exp() * c(0.398_942_280_401_432_7);
            (x * phi, phi + x * density)
        }
        Activation::GeluTanh => {
            // tanh u = 2/(1 + e^{-2u}) - 1.
            let (root, cubic) = (c((2.0 / std::f64::consts::PI).sqrt()), c(0.044_715));
            let u = root * (x + cubic * x * x * x);
            let tanh = c(2.0) / (T::ONE + (c(-2.0) * u).exp()) - T::ONE;
            let slope = root * (T::ONE + c(3.0) * cubic * x * x) * (T::ONE - tanh * tanh);
            (c(0.5) * x * (T::ONE + tanh), c(0.5) * (T::ONE + tanh) + c(0.5) * x * slope)
        }
        Activation::Silu => {
            let s = T::ONE / (T::ONE + (-x).exp());
            (x * s, s * (T::ONE + x * (T::ONE - s)))
        }
        Activation::Relu => {
            if x > T::default() {
                (x, T::ONE)
            } else {
                (T::default(), T::default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_exponentials_and_distributions_are_within_their_stated_errors() {
        for i in -6900..=8000 {
            let x = f64::from(i) * 0.01;
            let found = f64::from(Real::exp(x as f32));
            let exact = f64::from(x as f32).exp();
            // The rounding of y = x·log2(e) enters relatively as |y|·2^-24.
            let tolerance = 2e-7 + x.abs() * 1.5 * 6e-8;
            assert!((found / exact - 1.0).abs() < tolerance, "exp({x}) = {found}");
            let found = f64::from((x as f32 * 0.1).normal_distribution());
            let exact = f64::from(x as f32 * 0.1).normal_distribution();
            assert!((found - exact).abs() < 3e-7, "Φ({x}/10) = {found}, {exact}");
        }
        assert!((Real::exp(0.0_f32) - 1.0).abs() < 2e-7);
        assert_eq!([-70.0_f32, -1e30, f32::NEG_INFINITY].map(Real::exp), [0.0; 3]);
        assert!(Real::exp(f32::NAN).is_nan(), "a NaN is not hidden");
    }

    #[test]
    fn activations_and_their_slopes_belong_together() {
        for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            for i in -60..=60 {
                let (x, h) = (f64::from(i) * 0.1 + 0.03, 1e-5);
                let difference = (activation(kind, x + h).0 - activation(kind, x - h).0) / (2.0 * h);
                // Central differences of order two: h² and eps/h.
                assert!((activation(kind, x).1 - difference).abs() < 1e-9, "{kind:?} {x}");
                let single = activation(kind, x as f32);
                assert!((f64::from(single.0) - activation(kind, x).0).abs() < 2e-6, "{kind:?} {x}");
                assert!((f64::from(single.1) - activation(kind, x).1).abs() < 2e-6, "{kind:?} {x}");
            }
        }
    }
}
