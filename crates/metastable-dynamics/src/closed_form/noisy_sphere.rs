//! Unnormalised attention with noise on a sphere: when the uniform law loses its stability.

use super::romberg::root;

/// K_#(β) on S^{d-1}: the strength of attention over noise at which the uniform law stops being stable,
///
/// K_# = β^{d/2} / (2^{d/2} Γ(d/2) I_{d/2}(β)) = 1 / Σ_m (β²/4)^m / (m! (d/2)(d/2 + 1) … (d/2 + m)),
///
/// a series of positive terms. It falls from d/2 at β = 0. Relative error of a few units in the last place; O(β) terms.
///
/// # Example
/// On the circle it is β / (2 I_1(β)).
/// ```
/// use metastable_dynamics::closed_form::{circle::scaled_bessel, noisy_sphere::linear_threshold};
/// let bessel = scaled_bessel(1, 1.5)[1] * 1.5_f64.exp();
/// assert!((linear_threshold(2, 1.5) - 1.5 / (2.0 * bessel)).abs() < 1e-15);
/// ```
///
/// # References
/// arXiv 2606.05140, from its abstract \[2nd\]; values \[checked\].
pub fn linear_threshold(d: usize, beta: f64) -> f64 {
    let (x, half) = (0.25 * beta * beta, 0.5 * d as f64);
    let (mut term, mut sum, mut m) = (1.0 / half, 0.0, 0.0);
    while term > sum * 0.25 * f64::EPSILON {
        sum += term;
        m += 1.0;
        term *= x / (m * (half + m));
    }
    1.0 / sum
}

/// β_*(d), where I_{d/2+1}(β)/I_{d/2}(β) = 1/d: the transition to clusters is continuous iff β <= β_*. d >= 2.
///
/// # References
/// arXiv 2606.05140, from its abstract \[2nd\]; values \[checked\].
pub fn critical_beta(d: usize) -> f64 {
    let order = 0.5 * d as f64;
    // The ratio rises from 0 to 1, and exceeds x/(2ν + 2 + x) (Amos 1974): at β = 2d it is above 1/d.
    root(|beta| bessel_ratio(order, beta) - 1.0 / d as f64, 0.0, 2.0 * d as f64 + 4.0)
}

/// I_{ν+1}(x) / I_ν(x) by its continued fraction 1/(2(ν+1)/x + 1/(2(ν+2)/x + …)), from far down upwards; x >= 0.
fn bessel_ratio(order: f64, x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    let depth = 40 + (2.0 * x) as u32;
    (1..=depth).rev().fold(0.0, |below, k| 1.0 / (2.0 * (order + f64::from(k)) / x + below))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed with twelve to fourteen digits.
    #[test]
    fn thresholds_of_noisy_attention_on_spheres_have_their_reference_values() {
        let table = [
            (2, 2.446918311289, 0.88470661884),
            (3, 1.8161545254359, 1.35914091423),
            (4, 1.5752571500921, 1.84165223925),
            (8, 1.2665530245211, 3.80570301099),
        ];
        for (d, beta, threshold) in table {
            assert!((critical_beta(d) - beta).abs() < 1e-12, "{d}: {}", critical_beta(d));
            assert!((linear_threshold(d, 1.0) - threshold).abs() < 5e-12, "{d}: {}", linear_threshold(d, 1.0));
            // Without interaction kernel only the mean direction counts: K_#(0) = d/2.
            assert!((linear_threshold(d, 0.0) - 0.5 * d as f64).abs() < 1e-15);
        }
    }

    /// In space I_{3/2} is elementary: sqrt(2/(πx)) (cosh x - sinh x / x).
    #[test]
    fn in_space_the_threshold_is_elementary() {
        for beta in [0.5_f64, 1.0, 4.0] {
            let bessel = (2.0 / (std::f64::consts::PI * beta)).sqrt() * (beta.cosh() - beta.sinh() / beta);
            let gamma = 0.5 * std::f64::consts::PI.sqrt();
            let expected = beta.powf(1.5) / (2.0_f64.powf(1.5) * gamma * bessel);
            // cosh - sinh/x cancels one digit at 0.5.
            assert!((linear_threshold(3, beta) / expected - 1.0).abs() < 1e-13, "{beta}");
        }
    }
}
