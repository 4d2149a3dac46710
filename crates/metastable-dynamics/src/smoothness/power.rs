//! Power iteration with the stopping rule of the paper's code, counted, beside Lanczos.
//!
//! The code iterates v = Jᵀ J u, µ = <u, v> and stops when |µ - µ_previous| ≤ threshold: an *absolute* threshold on
//! the *squared* constant. At L = 100 a threshold of 1e-4 asks for a relative 5e-9 of L, at L = 0.01 it is met at once.
//!
//! # References
//! Authors' repository `how-smooth-is-attention`, commit 60da456 \[code\].

use super::lanczos::norm;
use super::linear_map::LinearMap;
use crate::error::DynamicsError;
use crate::linalg::dot;
use crate::random;

/// When power iteration stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerRule {
    /// On |µ - µ_previous|, µ the square of the estimate.
    pub threshold: f64,
    /// Iterations at most.
    pub max_iterations: usize,
    /// Seed of the start vector.
    pub seed: u64,
}

impl PowerRule {
    /// The authors' rule for adversarial data and for BERT: 1e-4 and 100 iterations.
    pub fn as_published() -> Self {
        Self { threshold: 1e-4, max_iterations: 100, seed: 0 }
    }
}

/// What power iteration found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerOutcome {
    /// √µ ≤ ‖J‖_2: a lower value, however it stopped.
    pub value: f64,
    /// Iterations; each is one product with J and one with Jᵀ.
    pub iterations: usize,
    /// Whether the threshold was met.
    pub stopped_by_threshold: bool,
}

/// Runs power iteration on Jᵀ J.
///
/// # Errors
/// [`DynamicsError::Domain`] if `max_iterations` is 0 or a product is not finite.
///
/// # Example
/// An identity is known after one iteration, and believed after the second.
/// ```
/// use metastable_dynamics::Matrix;
/// use metastable_dynamics::smoothness::{PowerRule, power_iteration};
/// let outcome = power_iteration(&Matrix::scaled_identity(3, 2.0), &PowerRule::as_published()).unwrap();
/// assert!((outcome.value - 2.0).abs() < 1e-15 && outcome.iterations == 2);
/// ```
pub fn power_iteration(map: &dyn LinearMap, rule: &PowerRule) -> Result<PowerOutcome, DynamicsError> {
    if rule.max_iterations == 0 {
        return Err(DynamicsError::domain("max_iterations", "at least one iteration", 0));
    }
    let mut u = random::standard_normal(rule.seed, 1, map.inputs());
    let (mut image, mut v) = (vec![0.0; map.outputs()], vec![0.0; map.inputs()]);
    let length = norm(&u);
    u.iter_mut().for_each(|x| *x /= length);
    let mut previous = 0.0;
    for iterations in 1..=rule.max_iterations {
        map.apply(&u, &mut image);
        map.apply_transposed(&image, &mut v);
        let (mu, length) = (dot(&u, &v), norm(&v));
        if !length.is_finite() {
            return Err(DynamicsError::domain("jacobian product", "finite numbers", "a number beyond f64"));
        }
        let met = (mu - previous).abs() <= rule.threshold;
        if met || length == 0.0 || iterations == rule.max_iterations {
            let value = mu.max(0.0).sqrt();
            return Ok(PowerOutcome { value, iterations, stopped_by_threshold: met });
        }
        previous = mu;
        u.iter_mut().zip(&v).for_each(|(u, v)| *u = v / length);
    }
    unreachable!("the last iteration returns")
}
