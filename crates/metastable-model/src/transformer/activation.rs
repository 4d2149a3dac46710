//! Nonlinearities of the feed-forward block.

use super::exponential::gate;
use super::widest::widest;
use crate::config::Activation;

/// Applies the nonlinearity to every entry.
pub(crate) fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Gelu => widest(
            #[inline(always)]
            || {
                for x in values {
                    *x = gelu(*x);
                }
            },
        ),
        Activation::GeluTanh => gate(values, gelu_tanh_slope),
        Activation::Silu => gate(values, |x| x),
        Activation::Relu => values.iter_mut().for_each(|x| *x = x.max(0.0)),
    }
}

/// x Φ(x) = x/2 (1 + erf(x/√2)), in f64 and rounded once: the block sums over a thousand of these, and a bias of one
/// f32 rounding in each would show in the hidden states.
///
/// # References
/// D. Hendrycks, K. Gimpel, "Gaussian error linear units", 2016, section 2 [2nd].
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

/// 2√(2/π) (x + 0.044715 x³): x/2 (1 + tanh(z)) = x·σ(2z), since (1 + tanh z)/2 = σ(2z). SiLU is x·σ(x).
///
/// # References
/// D. Hendrycks, K. Gimpel, "Gaussian error linear units", 2016, section 2; S. Elfwing, E. Uchibe, K. Doya,
/// "Sigmoid-weighted linear units", 2017, equation 1 \[2nd\].
#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    2.0 * (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)
}

/// The error function, as x·P(x²)/Q(x²) for |x| < 3.84 and ±1 beyond; absolute error below 6e-8, half a rounding of
/// f32 at 1 (tested against its series).
///
/// No table and no call, so loops over it become vector instructions. The coefficients are those of the rational
/// minimax approximation in Eigen (`generic_fast_erf`) [code].
#[inline(always)]
fn erf(x: f64) -> f64 {
    const P: [f64; 6] = [
        2.123_732_201_653_183_4e-6,
        2.861_979_592_125_863e-4,
        3.658_048_342_913_389e-3,
        5.243_302_136_659_622e-2,
        1.874_160_766_601_562_5e-1,
        1.128_379_106_521_606_4,
    ];
    const Q: [f64; 6] = [
        3.891_857_340_931_892_4e-5,
        1.143_296_016_380_190_8e-3,
        1.475_208_811_462_192_6e-2,
        1.129_456_758_499_145_5e-1,
        4.994_257_986_545_563e-1,
        1.0,
    ];
    let square = x * x;
    let (mut numerator, mut denominator) = (0.0, 0.0);
    for (p, q) in P.into_iter().zip(Q) {
        numerator = numerator * square + p;
        denominator = denominator * square + q;
    }
    let inside = x * numerator / denominator;
    if x.abs() < 3.84 { inside } else { 1.0_f64.copysign(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf x = 2/√π e^{-x²} Σ 2^k x^{2k+1} / (1·3·…·(2k+1)): no cancellation (Abramowitz & Stegun 7.1.6).
    fn erf_by_series(x: f64) -> f64 {
        let mut term = x;
        let mut sum = 0.0;
        for k in 1..400 {
            sum += term;
            term *= 2.0 * x * x / f64::from(2 * k + 1);
        }
        2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
    }

    #[test]
    fn erf_is_within_its_stated_error() {
        for i in -60_000..=60_000 {
            let x = f64::from(i) * 1e-4;
            let error = (erf(x) - erf_by_series(x)).abs();
            assert!(error < 6e-8, "erf({x}) is off by {error:e}");
        }
        assert_eq!(erf(0.0), 0.0);
    }

    #[test]
    fn gelu_variants_agree_with_their_formulas() {
        for i in -800..=800 {
            let x = f64::from(i) * 0.01;
            let exact = 0.5 * x * (1.0 + erf_by_series(x * std::f64::consts::FRAC_1_SQRT_2));
            // |x|/2 times the error of erf, plus the rounding of x and of the result to f32.
            let tolerance = 0.5 * x.abs() * 6e-8 + 1.2e-7 * x.abs();
            assert!((f64::from(gelu(x as f32)) - exact).abs() <= tolerance, "gelu({x})");
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let exact = 0.5 * x * (1.0 + inner.tanh());
            let applied = |activation| {
                let mut one = [x as f32];
                activate(activation, &mut one);
                f64::from(one[0])
            };
            assert!((applied(Activation::GeluTanh) - exact).abs() < 5e-7 * (1.0 + x.abs()), "gelu_tanh({x})");
            let exact = x / (1.0 + (-x).exp());
            assert!((applied(Activation::Silu) - exact).abs() < 5e-7 * (1.0 + x.abs()), "silu({x})");
        }
    }

    #[test]
    fn gelu_is_the_identity_far_right_and_zero_far_left() {
        for x in [8.0, 1e3, 1e30] {
            assert_eq!((gelu(x), gelu(-x)), (x, 0.0));
        }
    }
}
