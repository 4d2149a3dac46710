//! Nonlinearities of the feed-forward block.

use crate::config::Activation;

/// Applies the nonlinearity to every entry.
pub(super) fn activate(activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::Gelu => values.iter_mut().for_each(|x| *x = gelu(*x)),
        Activation::GeluTanh => values.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
    }
}

/// x Φ(x) = x/2 (1 + erf(x/√2)).
///
/// # References
/// D. Hendrycks, K. Gimpel, "Gaussian error linear units", 2016, section 2 [2nd].
#[inline]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
///
/// # References
/// D. Hendrycks, K. Gimpel, "Gaussian error linear units", 2016, section 2 [2nd].
fn gelu_tanh(x: f32) -> f32 {
    let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// The error function, as x·P(x²)/Q(x²) for |x| < 3.9 and ±1 beyond; absolute error below 4e-7 (tested against its
/// series).
///
/// No branch and no table, so loops over it become vector instructions. The coefficients are those of the rational
/// minimax approximation in Eigen (`generic_fast_erf_float`) and XLA [code].
#[inline]
fn erf(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.726_142_4e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_4e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329_4e-3, -1.426_473_9e-2];
    let square = x * x;
    let numerator = P.iter().fold(0.0, |sum, c| sum * square + c);
    let denominator = Q.iter().fold(0.0, |sum, c| sum * square + c);
    if x.abs() < 3.9 { x * numerator / denominator } else { 1.0_f32.copysign(x) }
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
        let mut worst = (0.0, 0.0);
        for i in -60_000..=60_000 {
            let x = i as f32 * 1e-4;
            let error = (f64::from(erf(x)) - erf_by_series(f64::from(x))).abs();
            worst = if error > worst.0 { (error, x) } else { worst };
            assert!(error < 4e-7, "erf({x}) is off by {error:e}");
        }
        eprintln!("WORST {worst:?}");
        assert_eq!(erf(0.0), 0.0);
    }

    #[test]
    fn gelu_variants_agree_with_their_formulas() {
        for i in -800..=800 {
            let x = f64::from(i) * 0.01;
            let exact = 0.5 * x * (1.0 + erf_by_series(x * std::f64::consts::FRAC_1_SQRT_2));
            // |x|/2 times the error of erf, plus the rounding of the f32 result.
            let tolerance = 0.5 * x.abs() * 4e-7 + 1e-7 * (1.0 + x.abs());
            assert!((f64::from(gelu(x as f32)) - exact).abs() < tolerance, "gelu({x})");
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let exact = 0.5 * x * (1.0 + inner.tanh());
            assert!((f64::from(gelu_tanh(x as f32)) - exact).abs() < 5e-7 * (1.0 + x.abs()), "gelu_tanh({x})");
        }
    }

    #[test]
    fn gelu_is_the_identity_far_right_and_zero_far_left() {
        for x in [8.0, 1e3, 1e30] {
            assert_eq!((gelu(x), gelu(-x)), (x, 0.0));
        }
    }
}
