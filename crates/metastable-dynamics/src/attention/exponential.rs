//! e^x for x <= 0, the one transcendental function of attention: written so that the compiler works on whole rows.
//!
//! A library call is scalar, slow where results underflow (in rescaled flows nearly all of them do), and may differ
//! in its last bit between machines. This one has no branch and uses sums and products only: the same bits everywhere.

/// Below this e^x is no normal number: taken as 0, which is exact to 2.3e-308 beside a weight of 1.
const UNDERFLOW: f64 = -708.0;
/// 1.5·2^52: adding it rounds to an integer, which then stands in the last bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// ln 2 in two parts; the first has enough zeros at its end that multiples of it up to 2^11 are exact (fdlibm, `e_exp.c`).
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// e^x for x <= 0, within one unit in the last place; NaN for NaN.
///
/// x = k ln 2 + r with |r| <= ln(2)/2, and e^r = 1 + r + r² (1/2! + r/3! + … + r¹¹/13!), whose tail is below 5e-18.
#[inline(always)]
pub(super) fn exp_below_zero(x: f64) -> f64 {
    // Not `f64::max`, which would lose a NaN.
    let kept = if x < UNDERFLOW { UNDERFLOW } else { x };
    let shifted = kept * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (kept - k * LN_2_HIGH) - k * LN_2_LOW;
    // Estrin's order: pairs side by side, so that no sum waits long for another.
    let (r2, r4) = (r * r, (r * r) * (r * r));
    let pair = |low: f64, high: f64| low + high * r;
    let low = pair(1.0 / 2.0, 1.0 / 6.0) + pair(1.0 / 24.0, 1.0 / 120.0) * r2;
    let middle = pair(1.0 / 720.0, 1.0 / 5_040.0) + pair(1.0 / 40_320.0, 1.0 / 362_880.0) * r2;
    let high = pair(1.0 / 3_628_800.0, 1.0 / 39_916_800.0) + pair(1.0 / 479_001_600.0, 1.0 / 6_227_020_800.0) * r2;
    let tail = low + (middle + high * r4) * r4;
    let mantissa = 1.0 + (r + r2 * tail);
    // Adds k to the exponent.
    let power = f64::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 52));
    if x < UNDERFLOW { 0.0 } else { power }
}

#[cfg(test)]
mod tests {
    use super::exp_below_zero;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_exponential_to_a_unit_in_the_last_place(x in -708.0_f64..0.0, tiny in -40.0_f64..0.0) {
            for x in [x, -(tiny.exp())] {
                // One unit of ours, half a unit and a bit of the library's.
                let exact = x.exp();
                prop_assert!((exp_below_zero(x) - exact).abs() <= 2.0 * f64::EPSILON * exact, "{x}");
            }
        }

        #[test]
        fn it_never_decreases(x in -700.0_f64..0.0, step in 1e-12_f64..1.0) {
            // Monotone beyond its own error of a unit.
            prop_assert!(exp_below_zero(x - step) <= exp_below_zero(x) * (1.0 + 2.0 * f64::EPSILON));
        }
    }

    #[test]
    fn its_ends_are_exact() {
        assert_eq!(exp_below_zero(0.0), 1.0);
        assert_eq!(exp_below_zero(-0.0), 1.0);
        for x in [-708.1, -1e4, -1e300, f64::NEG_INFINITY] {
            assert_eq!(exp_below_zero(x), 0.0);
        }
        assert!(exp_below_zero(-708.0) > 0.0);
        assert!(exp_below_zero(f64::NAN).is_nan());
    }
}
