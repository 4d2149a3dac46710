//! How fast gradient descent converges near a minimiser, as its condition number says.

/// The step 2/(λ_max + λ_min) that contracts the slowest and the steepest direction alike.
pub fn best_step([least, most]: [f64; 2]) -> f64 {
    2.0 / (most + least)
}

/// The factor ((κ - 1)/(κ + 1))² of the loss in one step of descent with [`best_step`], in the limit of small errors.
///
/// # Example
/// ```
/// use metastable_dynamics::balance::rate::loss_factor;
/// // Singular values 4 and 1, balanced: κ = 8, measured elsewhere 0.60508.
/// assert!((loss_factor(8.0) - 0.60494).abs() < 1e-5);
/// ```
///
/// # References
/// Castin et al. 2026: condition numbers decide \[2nd\]; the rate is the textbook's for quadratics \[derived, checked\].
pub fn loss_factor(kappa: f64) -> f64 {
    ((kappa - 1.0) / (kappa + 1.0)).powi(2)
}

/// The steps from a loss to a smaller one at a factor a step: ln(goal/start)/ln(factor).
///
/// # Example
/// ```
/// use metastable_dynamics::balance::rate::{loss_factor, steps_to};
/// assert!((steps_to(1e-4, 1e-24, loss_factor(8.0)) - 91.6).abs() < 0.1);
/// ```
pub fn steps_to(start: f64, goal: f64, factor: f64) -> f64 {
    (goal / start).ln() / factor.ln()
}

/// κ of descent whose B learns `ratio` times faster than A (LoRA+), at an exact fit of ½‖B A - Z‖² with in, out > r, from
/// the squares of the largest and smallest singular values of the factors: that of the pair in which A is √ratio times larger
/// \[derived, checked\].
///
/// In the coordinates (A, B/√ratio) the descent is even, and the Hessian's eigenvalues are σ_i(B)² + ratio·σ_j(A)²,
/// σ_i(B)², ratio·σ_j(A)².
pub fn kappa_of_uneven_rates(of_a: [f64; 2], of_b: [f64; 2], ratio: f64) -> f64 {
    (ratio * of_a[0] + of_b[0]) / (ratio * of_a[1]).min(of_b[1])
}

/// The factor max (1 - τλ)² of the loss in one step of length τ, over Hessian eigenvalues between the two given;
/// [`loss_factor`] at [`best_step`].
pub fn factor_of_step(step: f64, extremes: [f64; 2]) -> f64 {
    extremes.map(|value| (1.0 - step * value).powi(2)).into_iter().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_step_has_the_factor_of_the_condition_number_and_no_other_has_less() {
        for extremes in [[1.0, 8.0], [0.3, 0.4], [1e-3, 7.0]] {
            let (step, factor) = (best_step(extremes), loss_factor(extremes[1] / extremes[0]));
            // A few roundings of numbers of order one.
            assert!((factor_of_step(step, extremes) - factor).abs() < 1e-14);
            for other in [0.5, 0.9, 1.1, 1.5] {
                assert!(factor_of_step(other * step, extremes) > factor);
            }
        }
    }

    #[test]
    fn equal_rates_are_the_ordinary_condition_number() {
        // σ_1 = 4, σ_r = 1, balanced: 2·4/1; κ(A·√ratio) otherwise.
        assert_eq!(kappa_of_uneven_rates([4.0, 1.0], [4.0, 1.0], 1.0), 8.0);
        assert_eq!(kappa_of_uneven_rates([4.0, 1.0], [4.0, 1.0], 4.0), 20.0);
        assert_eq!(kappa_of_uneven_rates([1.0, 0.25], [4.0, 1.0], 4.0), 8.0);
    }
}
