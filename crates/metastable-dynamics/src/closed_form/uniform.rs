//! Independent uniform tokens on a sphere.

/// P(n uniform points of S^{d-1} lie in one open hemisphere) = 2^{1-n} Σ_{k<d} C(n-1, k).
///
/// In that event attention with V = I gathers all tokens at one point exponentially fast. O(d), exact to rounding.
///
/// # Example
/// ```
/// use metastable_dynamics::closed_form::uniform::hemisphere_probability;
/// assert_eq!(hemisphere_probability(4, 2), 0.5);
/// assert_eq!(hemisphere_probability(10, 3), 0.08984375);
/// ```
///
/// # References
/// J. Wendel, "A problem in geometric probability", 1962; used in 2312.10794 \[text\].
pub fn hemisphere_probability(n: usize, d: usize) -> f64 {
    if n <= d {
        return 1.0;
    }
    // Each term carries the power of two, so that nothing overflows; 2^{1-n} underflows harmlessly.
    let mut term = (1.0 - n as f64).exp2();
    let mut sum = 0.0;
    for k in 0..d {
        sum += term;
        term *= (n - 1 - k) as f64 / (k + 1) as f64;
    }
    sum
}

/// E e^{beta <x, y>} for independent uniform x, y on S^{d-1}: Gamma(d/2)(2/b)^{d/2-1} I_{d/2-1}(b), that is I_0(b) for
/// d = 2 and sinh(b)/b for d = 3.
///
/// Summed as the series Σ_m (b²/4)^m / (m! (d/2)(d/2 + 1)...(d/2 + m - 1)), whose terms are positive: relative error
/// of a few units in the last place. Overflows for b beyond about 700. O(b) terms.
///
/// # References
/// Mean of the interaction energy of 2312.10794 under the uniform law \[text\]\[checked\].
pub fn kernel_mean(beta: f64, d: usize) -> f64 {
    let (x, half) = (0.25 * beta * beta, 0.5 * d as f64);
    let (mut term, mut sum, mut m) = (1.0, 0.0, 0.0);
    while term > sum * 0.25 * f64::EPSILON {
        sum += term;
        term *= x / ((m + 1.0) * (half + m));
        m += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closed_form::circle::scaled_bessel;

    #[test]
    fn the_plane_gives_bessel_and_space_gives_sinh() {
        for beta in [0.1_f64, 1.0, 9.0, 40.0] {
            let bessel = scaled_bessel(0, beta)[0] * beta.exp();
            // Sums of positive terms on both sides.
            assert!((kernel_mean(beta, 2) / bessel - 1.0).abs() < 1e-14);
            assert!((kernel_mean(beta, 3) * beta / beta.sinh() - 1.0).abs() < 1e-14);
        }
    }

    #[test]
    fn one_more_point_halves_and_mixes_dimensions() {
        // Pascal's rule: P(n, d) = (P(n-1, d) + P(n-1, d-1))/2.
        for (n, d) in [(5, 2), (10, 3), (32, 8)] {
            let mixed = 0.5 * (hemisphere_probability(n - 1, d) + hemisphere_probability(n - 1, d - 1));
            assert!((hemisphere_probability(n, d) - mixed).abs() < 1e-15);
        }
    }
}
