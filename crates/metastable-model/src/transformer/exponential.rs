//! Exponentials of whole rows, compiled for the widest vector registers of the machine.
//!
//! No fused operations and sums in a fixed order: the registers change the speed and not one bit of the result.

use pulp::{Arch, Simd, WithSimd};

/// e^x for f32 within 2e-7 relative; 0 below e^-86.9 = 1.8e-38, infinity above the largest number, NaN for NaN.
///
/// x = k·ln 2 + r with |r| ≤ ln 2 / 2; e^r by the polynomial of Cephes `expf` (S. Moshier) \[code\], and 2^k put together
/// from its bits. No branch, so loops over it become vector instructions.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5·2^23: adding it leaves the nearest integer in the lowest bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = x - k * LN_2_HIGH - k * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // Half of 2^k: k = 128 occurs below the largest number, and 2^128 is none.
    let half = f32::from_bits(rounded.to_bits().wrapping_add(126) << 23);
    let y = y * half * 2.0;
    let y = if x < SMALLEST { 0.0 } else { y };
    if x > LARGEST { f32::INFINITY } else { y }
}

/// Where half of 2^k is the smallest normal number.
const SMALLEST: f32 = -86.9;

/// ln of the largest number.
const LARGEST: f32 = 88.722_83;

/// Numbers that are handled side by side; sums have so many lanes.
const LANES: usize = 16;

/// Softmax of a row, in place; shifted by the largest entry, so it never overflows. Entries of -∞ get exactly 0.
pub(super) fn softmax(row: &mut [f32]) {
    Arch::new().dispatch(Softmax(row));
}

struct Softmax<'a>(&'a mut [f32]);

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let row = self.0;
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = row.chunks_exact(LANES);
        let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = if *x > *lane { *x } else { *lane };
            }
        }
        let largest = lanes.iter().fold(rest, |m, x| if *x > m { *x } else { m });
        let mut lanes = [0.0; LANES];
        let mut chunks = row.chunks_exact_mut(LANES);
        for chunk in &mut chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = exp(*x - largest);
                *lane += *x;
            }
        }
        let mut total: f32 = lanes.iter().sum();
        for x in chunks.into_remainder() {
            *x = exp(*x - largest);
            total += *x;
        }
        let scale = 1.0 / total;
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

/// x·σ(slope(x)) for every entry, σ(z) = 1/(1 + e^{-z}).
pub(super) fn gate(values: &mut [f32], slope: impl Fn(f32) -> f32) {
    Arch::new().dispatch(Gate { values, slope });
}

struct Gate<'a, F> {
    values: &'a mut [f32],
    slope: F,
}

impl<F: Fn(f32) -> f32> WithSimd for Gate<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.values.iter_mut().for_each(|x| *x /= 1.0 + exp(-(self.slope)(*x)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_their_stated_error() {
        for i in -868_999..=887_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(89.0)), (1.0, 0.0, f32::INFINITY));
        assert_eq!((exp(f32::NEG_INFINITY), exp(f32::INFINITY)), (0.0, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan() && exp(88.72).is_finite());
    }

    #[test]
    fn softmax_agrees_with_its_formula_at_any_length() {
        for n in [1, 2, 15, 16, 17, 100] {
            let scores: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.3).collect();
            let mut row = scores.clone();
            softmax(&mut row);
            let total: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
            for (weight, score) in row.iter().zip(&scores) {
                // The exponential's error, that of the sum and two roundings.
                assert!((f64::from(*weight) - f64::from(*score).exp() / total).abs() < 1e-6, "{n} {score}");
            }
        }
    }

    #[test]
    fn a_nan_among_the_scores_is_not_hidden() {
        for place in [0, 3, 17] {
            let mut row = vec![1.0; 20];
            row[place] = f32::NAN;
            softmax(&mut row);
            assert!(row.iter().any(|weight| weight.is_nan()), "{place}");
        }
        let mut row = vec![f32::INFINITY, 1.0];
        softmax(&mut row);
        assert!(row[0].is_nan());
    }
}
