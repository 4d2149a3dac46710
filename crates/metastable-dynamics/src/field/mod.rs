//! Flows: right-hand sides y' = f(t, y) whose state is a cloud of tokens, or the moments of one.
//!
//! [`particle`] moves tokens themselves (models M1, M3, M4, M5), normalised where [`placement`] says; [`rescaled`] moves z = e^{-tV} x (model M2), where
//! clusters stand still; [`noise`] shakes either kind; [`propagator`] holds e^{tV} in a form that never overflows; [`gaussian`] moves the mean and a
//! factor of the covariance of a Gaussian, where attention keeps Gaussians Gaussian.

mod blocks;
pub mod flow;
pub mod gaussian;
pub mod noise;
pub mod particle;
pub mod placement;
pub mod propagator;
pub mod rescaled;

pub use blocks::Blocks;
pub use flow::AttentionFlow;
pub use gaussian::{GaussianFlow, GaussianKernel};
pub use noise::{Noise, NoisyFlow};
pub use particle::{FeedForward, ParticleFlow};
pub use placement::Placement;
pub use rescaled::RescaledFlow;

#[cfg(test)]
mod jacobian_tests;

/// A time-dependent vector field on R^m (for clouds m = n·d, token after token).
pub trait VectorField: Sync {
    /// The number m of state variables.
    fn len(&self) -> usize;

    /// Whether there is nothing to move.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The state is cut into blocks of this many variables (for clouds: d, one block a token);
    /// adaptive solvers control the error of each block relative to its own norm.
    ///
    /// A field whose blocks differ in length overrides [`VectorField::blocks`] and gives here a length that cuts all
    /// of them into whole parts.
    fn block_len(&self) -> usize;

    /// The blocks themselves; by default all of length [`VectorField::block_len`].
    fn blocks(&self) -> Blocks<'_> {
        Blocks::Equal(self.block_len())
    }

    /// Writes f(t, state) into `velocity`. Must be deterministic to the bit, on any number of threads.
    fn evaluate(&self, t: f64, state: &[f64], velocity: &mut [f64]);

    /// As [`VectorField::evaluate`], for fields with an inner iteration: it starts from `memory`, and writes to `next`
    /// what an evaluation near this state may start from. Both are empty where there is nothing to remember.
    ///
    /// Results may depend on the memory within the tolerance of the inner iteration, to the bit on nothing else:
    /// solvers keep the memory in their saved state.
    fn evaluate_from(&self, t: f64, state: &[f64], memory: &[f64], next: &mut Vec<f64>, velocity: &mut [f64]) {
        let _ = memory;
        next.clear();
        self.evaluate(t, state, velocity);
    }
}
