//! Where a LoRA update of V takes a cloud on the sphere that has collapsed to one point.

/// The angle to the leading eigenvector u_1 of V~ = I + eps M (M symmetric, eigenvalues mu_1 > mu_2 in the plane of u_1
/// and the start) after a time t: tan theta(t) = tan theta_0 e^{-eps (mu_1 - mu_2) t}.
///
/// The collapsed cloud follows x(t) = normalise(e^{t V~} x(0)), so this is exact \[derived\]\[checked\].
pub fn angle(initial: f64, slow_rate: f64, t: f64) -> f64 {
    (initial.tan() * (-slow_rate * t).exp()).atan()
}

/// T*: when base (at rest at angle theta_0 to u_1) and twin are an angle `delta` apart, 0 < delta < theta_0 < pi/2:
/// [ln tan theta_0 - ln tan(theta_0 - delta)]/(eps (mu_1 - mu_2)); `slow_rate` = eps (mu_1 - mu_2).
///
/// It is a smooth crossover of width 1/eps, not a jump \[derived\]\[checked\]; it stands beside Theorem 4.6 of
/// 2402.15415v2 \[2nd\], whose statement we have not seen.
///
/// # Example
/// ```
/// use metastable_dynamics::closed_form::drift::{angle, critical_time};
/// let t = critical_time(1.0, 0.25, 0.02);
/// assert!((angle(1.0, 0.02, t) - 0.75).abs() < 1e-14);
/// ```
pub fn critical_time(initial: f64, delta: f64, slow_rate: f64) -> f64 {
    (initial.tan() / (initial - delta).tan()).ln() / slow_rate
}
