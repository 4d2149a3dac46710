//! Equally spaced tokens on the circle: which ripple grows fastest.

use std::f64::consts::TAU;

use super::equiangular::Weights;

/// e^{-x} I_k(x) for k = 0..=order: modified Bessel functions of the first kind, scaled so that none overflows.
///
/// Miller's downward recurrence I_{m-1} = I_{m+1} + (2m/x) I_m, normalised by e^x = I_0 + 2 Σ I_m. `x` >= 0.
/// Relative error of a few units in the last place; O(order + x).
///
/// # Example
/// ```
/// use metastable_dynamics::closed_form::circle::scaled_bessel;
/// // I_0(1) = 1.2660658777520084, I_1(1) = 0.5651591039924851 (Abramowitz and Stegun, table 9.8).
/// let scaled = scaled_bessel(1, 1.0);
/// assert!((scaled[0] * 1.0_f64.exp() - 1.2660658777520084).abs() < 1e-15);
/// assert!((scaled[1] * 1.0_f64.exp() - 0.5651591039924851).abs() < 1e-15);
/// ```
///
/// # References
/// Abramowitz, Stegun (1964), 9.6.26 and 9.6.37, section 9.12 example 1 for the method.
pub fn scaled_bessel(order: usize, x: f64) -> Vec<f64> {
    if x == 0.0 {
        return (0..=order).map(|k| if k == 0 { 1.0 } else { 0.0 }).collect();
    }
    // Beyond max(order, x) + 8 sqrt(...) orders the sequence has fallen by more than 1e-17 of what is asked for.
    let largest = x.max(order as f64);
    let start = order.max(x as usize) + 40 + (8.0 * largest.sqrt()) as usize;
    let mut values = vec![0.0; start + 2];
    values[start] = f64::MIN_POSITIVE.sqrt();
    for m in (1..=start).rev() {
        values[m - 1] = values[m + 1] + 2.0 * m as f64 / x * values[m];
        if values[m - 1] > 1e200 {
            values.iter_mut().for_each(|v| *v *= 1e-200);
        }
    }
    let sum = values[0] + 2.0 * values[1..].iter().sum::<f64>();
    values.truncate(order + 1);
    values.iter_mut().for_each(|v| *v /= sum);
    values
}

/// The growth rate of the ripple cos(2 pi k m / n) in the angles of n equally spaced tokens, V = Q = K = I:
/// USA (1/n) Σ_m g'(2 pi m / n)(cos(2 pi k m / n) - 1) with g'(x) = e^{b cos x}(cos x - b sin² x);
/// SA the same divided by the mean of e^{b cos x} over the tokens \[derived\]\[checked\].
///
/// The exponentials overflow for beta > 700 (USA). O(n).
pub fn mode_growth(weights: Weights, n: usize, mode: usize, beta: f64) -> f64 {
    let (mut rate, mut mass) = (0.0, 0.0);
    for m in 0..n {
        let x = TAU * m as f64 / n as f64;
        // k·m is reduced first, so that the cosine loses no digits.
        let ripple = (TAU * ((mode * m) % n) as f64 / n as f64).cos() - 1.0;
        let weight = match weights {
            Weights::Softmax => (beta * (x.cos() - 1.0)).exp(),
            Weights::Unnormalised => (beta * x.cos()).exp(),
        };
        rate += weight * (x.cos() - beta * x.sin().powi(2)) * ripple;
        mass += weight;
    }
    match weights {
        Weights::Softmax => rate / mass,
        Weights::Unnormalised => rate / n as f64,
    }
}

/// The limit n -> inf of [`mode_growth`]: USA k² I_k(b)/b, SA k² I_k(b)/(b I_0(b)). `beta` > 0.
///
/// # References
/// arXiv 2410.23228: uniform tokens select the most unstable harmonic \[text\]; the formula \[derived\]\[checked\].
pub fn mode_growth_limit(weights: Weights, mode: usize, beta: f64) -> f64 {
    let bessel = scaled_bessel(mode, beta);
    let square = (mode * mode) as f64;
    match weights {
        Weights::Softmax => square * bessel[mode] / (beta * bessel[0]),
        Weights::Unnormalised => square * bessel[mode] * beta.exp() / beta,
    }
}

/// argmax_{k >= 1} k² I_k(beta): the number of clusters that uniform tokens on the circle first form, about
/// sqrt(2 beta). 1, 2, 3, 4, 6, 7, 11, 14 for beta = 1, 2, 4, 9, 16, 25, 64, 100 \[derived\]\[checked\].
pub fn most_unstable_mode(beta: f64) -> usize {
    // k² I_k decreases beyond a few sqrt(2 beta).
    let last = 16 + (8.0 * beta.sqrt()) as usize;
    let bessel = scaled_bessel(last, beta);
    let score = |k: usize| (k * k) as f64 * bessel[k];
    (2..=last).fold(1, |best, k| if score(k) > score(best) { k } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bessel_functions_match_the_power_series() {
        for x in [0.3_f64, 2.0, 9.0] {
            let scaled = scaled_bessel(12, x);
            for (k, value) in scaled.iter().enumerate() {
                let mut term = (1..=k).fold(1.0, |product, m| product * 0.5 * x / m as f64);
                let mut sum = 0.0;
                for m in 1..80 {
                    sum += term;
                    term *= 0.25 * x * x / (m as f64 * (m + k) as f64);
                }
                // Both are sums of positive terms: some tens of roundings.
                assert!((value * x.exp() / sum - 1.0).abs() < 1e-14, "I_{k}({x})");
            }
        }
    }

    #[test]
    fn large_arguments_do_not_overflow() {
        // e^{-x} I_0(x) = (1 + 1/(8x) + 9/(128 x²) + ...)/sqrt(2 pi x); the next term is below 1e-10 for x = 1000.
        let x = 1000.0;
        let leading = (1.0 + 1.0 / (8.0 * x) + 9.0 / (128.0 * x * x)) / (TAU * x).sqrt();
        assert!((scaled_bessel(0, x)[0] / leading - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_zero_mode_is_a_rotation() {
        assert_eq!(mode_growth(Weights::Softmax, 12, 0, 3.0), 0.0);
    }
}
