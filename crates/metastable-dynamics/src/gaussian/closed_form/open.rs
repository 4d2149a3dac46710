//! Fields on Gaussians of kernels that do *not* keep them Gaussian: how far from affine they are.

/// Γ(x) = ∫ σ(axy) v y dN(m, s)(y) on the line, σ logistic: by Stein's lemma v(m E σ(u) + sax E σ'(u)),
/// u ~ N(max, s(ax)²) \[checked\].
pub fn sigmoid_field([mean, variance]: [f64; 2], a: f64, v: f64, x: f64) -> f64 {
    let (centre, width) = (mean * a * x, variance.sqrt() * (a * x).abs());
    let average = |f: fn(f64) -> f64| normal_mean(|z| f(centre + width * z));
    v * (mean * average(logistic) + variance * a * x * average(logistic_slope))
}

/// The same with the probit Φ in place of σ, in closed form: with w = (ax)²s and u = max,
/// v(m Φ(u/√(1+w)) + s a x φ(u/√(1+w))/√(1+w)) \[checked\].
pub fn probit_field([mean, variance]: [f64; 2], a: f64, v: f64, x: f64) -> f64 {
    let wide = (1.0 + (a * x).powi(2) * variance).sqrt();
    let u = mean * a * x / wide;
    let density = (-0.5 * u * u).exp() / std::f64::consts::TAU.sqrt();
    v * (mean * normal_distribution(u) + variance * a * x * density / wide)
}

/// Φ(u), by quadrature of its density from 0.
fn normal_distribution(u: f64) -> f64 {
    // The trapezoidal rule with Euler and Maclaurin's first correction errs by h⁴: 4e-16 for |u| up to 5.
    let steps = 4096;
    let h = u / f64::from(steps);
    let density = |z: f64| (-0.5 * z * z).exp();
    let inner: f64 = (1..steps).map(|k| density(h * f64::from(k))).sum();
    let sum = h * (inner + 0.5 * (1.0 + density(u))) + h * h / 12.0 * (u * density(u));
    0.5 + sum / std::f64::consts::TAU.sqrt()
}

/// E σ'(√w Z), which falls from ¼ like 1/√(2πw): why the sigmoid's field is linear for small and bounded for large x
/// \[checked\].
pub fn sigmoid_gain(w: f64) -> f64 {
    normal_mean(|z| logistic_slope(w.sqrt() * z))
}

/// d/dt of the excess kurtosis of N(0, 1) at t = 0 under sigmoid attention with a = v = 1: 4 E(x³Γ) - 12 E(xΓ). Not zero,
/// so the law stops being Gaussian at once \[checked\].
pub fn sigmoid_kurtosis_rate() -> f64 {
    normal_mean(|x| (4.0 * x.powi(4) - 12.0 * x * x) * sigmoid_gain(x * x))
}

/// The masked field at position s of (0, 1] when the law at position τ is N(τ, σ²): v(σ²ax + s l(axs)),
/// l(z) = 1/(1 - e^{-z}) - 1/z. Not affine in x \[checked\].
pub fn masked_field(variance: f64, a: f64, v: f64, s: f64, x: f64) -> f64 {
    let z = a * x * s;
    // The series of l at 0 is ½ + z/12 - z³/720.
    let l = if z.abs() < 1e-3 { 0.5 + z / 12.0 - z.powi(3) / 720.0 } else { 1.0 / -(-z).exp_m1() - 1.0 / z };
    v * (variance * a * x + s * l)
}

fn logistic(u: f64) -> f64 {
    1.0 / (1.0 + (-u).exp())
}

fn logistic_slope(u: f64) -> f64 {
    let half = 0.5 / (0.5 * u).cosh();
    half * half
}

/// E f(Z) by the trapezoidal rule, which converges exponentially for f analytic in a strip: the poles of σ(wz) lie at
/// π/w, so steps of 1/64 give full accuracy up to w of about 30.
fn normal_mean(f: impl Fn(f64) -> f64) -> f64 {
    const STEPS: i32 = 640;
    const STEP: f64 = 1.0 / 64.0;
    let weight = |z: f64| (-0.5 * z * z).exp();
    let scale = STEP / std::f64::consts::TAU.sqrt();
    (-STEPS..=STEPS).map(|k| f64::from(k) * STEP).map(|z| weight(z) * f(z)).sum::<f64>() * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: f64, expected: f64) {
        // Printed with 10 to 15 digits.
        assert!((found - expected).abs() < 5e-11, "{found} instead of {expected}");
    }

    #[test]
    fn the_sigmoid_field_has_its_reference_values_and_bends() {
        assert_near(sigmoid_field([0.3, 0.7], 0.88, 1.0, 1.2), 0.32573604826739);
        for (w, gain) in [
            (0.0, 0.25),
            (0.25, 0.23604442243988),
            (1.0, 0.20662096414191),
            (4.0, 0.15142637740054),
            (25.0, 0.075144854427983),
        ] {
            assert_near(sigmoid_gain(w), gain);
        }
        assert_near(sigmoid_kurtosis_rate(), -0.3030639113);
    }

    #[test]
    fn the_probit_field_is_the_average_of_its_weights() {
        let (moments, a, x) = ([0.3, 0.7], 0.88, 1.2);
        assert_near(probit_field(moments, a, 1.0, x), 0.39300668216509);
        let average = normal_mean(|z| {
            let y = 0.3 + 0.7_f64.sqrt() * z;
            normal_distribution(a * x * y) * y
        });
        assert_near(probit_field(moments, a, 1.0, x), average);
        // Φ(1.96), tables.
        assert_near(normal_distribution(1.96), 0.9750021048517795);
    }

    #[test]
    fn the_masked_field_has_its_reference_value_and_no_jump_at_zero() {
        assert_near(masked_field(0.7, 0.88, 1.0, 0.6, 1.2), 1.07067004084688);
        let jump = masked_field(0.7, 1.0, 1.0, 1.0, 1.001e-3) - masked_field(0.7, 1.0, 1.0, 1.0, 0.999e-3);
        // Slope σ²a + 1/12 over 2e-6; 1/z - 1/(1 - e^{-z}) cancels three digits at z = 1e-3.
        assert!((jump - 2e-6 * (0.7 + 1.0 / 12.0)).abs() < 1e-12, "{jump:e}");
    }
}
