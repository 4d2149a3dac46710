//! Gradient ascent on the local constant over the ball: worst clouds that no construction knows.
//!
//! At a simple top singular value σ(X) = <u, J_X v> the gradient is ∇_X <u, J_X v> with u, v fixed. Second derivatives
//! of <u, f> are symmetric, hence it is the derivative of X ↦ J_Xᵀ u along v: a central difference of two transposed
//! products gives it to O(h²), without second-derivative code \[derived\].

use super::lanczos::{LanczosOptions, SingularTriplet, top_singular_triplet};
use super::linear_map::FlowJacobian;
use crate::error::DynamicsError;
use crate::field::AttentionFlow;
use crate::linalg::norm;
use crate::tokens::Tokens;

/// How ascent goes.
#[derive(Debug, Clone, PartialEq)]
pub struct AscentOptions {
    /// Steps that are tried at most; each costs one Lanczos run.
    pub max_steps: usize,
    /// The first step, as a fraction of the radius.
    pub step: f64,
    /// Stops when steps are shorter than this fraction of the radius.
    pub least_step: f64,
    /// The seed of Lanczos.
    pub seed: u64,
}

impl Default for AscentOptions {
    fn default() -> Self {
        Self { max_steps: 300, step: 0.1, least_step: 1e-6, seed: 0 }
    }
}

/// Where ascent ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ascent {
    /// The cloud, in the ball.
    pub tokens: Tokens,
    /// Its constant (a lower value).
    pub value: f64,
    /// The constants of accepted steps, rising.
    pub history: Vec<f64>,
}

/// The gradient of σ at `tokens` for the singular pair `pair`, [n, d]. Two transposed products.
pub fn gradient(flow: &AttentionFlow, tokens: &[f64], pair: &SingularTriplet) -> Vec<f64> {
    // Balances the truncation h² against the rounding eps/h, at the size of the cloud.
    let h = 1e-5 * (norm(tokens) / (tokens.len() as f64).sqrt()).max(f64::MIN_POSITIVE);
    let pulled = |h: f64| {
        let moved: Vec<f64> = tokens.iter().zip(&pair.right).map(|(x, v)| x + h * v).collect();
        let mut out = vec![0.0; tokens.len()];
        flow.vjp(0.0, &moved, &pair.left, &mut out);
        out
    };
    pulled(h).iter().zip(pulled(-h)).map(|(above, below)| (above - below) / (2.0 * h)).collect()
}

/// Climbs from `start`, every token kept in the ball of `radius`: steps along the gradient, longer after a success,
/// shorter after a failure, none accepted that does not rise.
///
/// # Errors
/// As [`top_singular_triplet`]; [`DynamicsError::Domain`] unless `radius` is positive.
pub fn ascend(
    flow: &AttentionFlow,
    start: &Tokens,
    radius: f64,
    options: &AscentOptions,
) -> Result<Ascent, DynamicsError> {
    if !(radius > 0.0 && radius.is_finite()) {
        return Err(DynamicsError::domain("radius", "a positive number", radius));
    }
    let dim = start.dim();
    let solve = |tokens: &[f64]| {
        let lanczos = LanczosOptions { seed: options.seed, tolerance: 1e-8, ..Default::default() };
        top_singular_triplet(&FlowJacobian { flow, t: 0.0, state: tokens }, &lanczos)
    };
    let mut tokens = into_ball(start.as_slice().to_vec(), dim, radius);
    let mut pair = solve(&tokens)?;
    let (mut history, mut step) = (vec![pair.value], options.step);
    let mut slope = gradient(flow, &tokens, &pair);
    for _ in 0..options.max_steps {
        let steepest = slope.chunks_exact(dim).map(norm).fold(0.0, f64::max);
        if step < options.least_step || steepest == 0.0 {
            break;
        }
        let rate = step * radius / steepest;
        let moved = tokens.iter().zip(&slope).map(|(x, g)| x + rate * g).collect();
        let moved = into_ball(moved, dim, radius);
        let found = solve(&moved)?;
        if found.value > pair.value {
            (tokens, pair, step) = (moved, found, (2.0 * step).min(1.0));
            history.push(pair.value);
            slope = gradient(flow, &tokens, &pair);
        } else {
            step /= 2.0;
        }
    }
    Ok(Ascent { tokens: Tokens::new(dim, tokens)?, value: pair.value, history })
}

/// Tokens outside the ball are put on its surface.
fn into_ball(mut tokens: Vec<f64>, dim: usize, radius: f64) -> Vec<f64> {
    for token in tokens.chunks_exact_mut(dim) {
        let length = norm(token);
        if length > radius {
            token.iter_mut().for_each(|x| *x *= radius / length);
        }
    }
    tokens
}
