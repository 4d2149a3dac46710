//! Explicit Runge-Kutta solvers for flows: resumable, with dense output, events and reasons to stop.
//!
//! A solve is a [`Stepper`]: it takes one accepted step after the other, shows each as a [`DenseStep`], and at any
//! point between two steps gives its [`SolverState`] away, from which another process goes on bit-identically.
//! [`integrate`] is the loop around it; a [`Sampler`] reads states at chosen times off the steps, an [`EventLocator`]
//! the times at which something happens. Divergence, a pole, rest and exhausted patience are a [`StopReason`] with
//! the time reached, not errors.
//!
//! What holds:
//! - observed orders equal those of [`Method`], on flat spaces and on spheres;
//! - fixed steps lie on the grid t0 + k dt without accumulated rounding, steps that reach the end land on it exactly;
//! - adaptive steps keep the estimated error of *every block* of the state (every token) below its own tolerance;
//! - jumps of the field (hard-max switches) cost rejections, not accuracy nor the solve;
//! - a step allocates nothing, and results do not depend on threads (all sums here are sequential);
//! - on curved spaces states, stages and dense output are retracted, states keep to them to rounding.
//!
//! What this is not: no implicit methods (attention flows of tokens are not stiff until two tokens have merged to
//! rounding; Gaussian flows that are have theirs in `gaussian/stiff`),
//! no steps backward in time, no symplectic methods, no noise. A field that is discontinuous in *time* (layers) is
//! better solved from one jump to the next, with `advance` to each.
//!
//! Reading order: `tableau` (the form of a method), `method` (the methods; `dop853` holds the long one), `options`, `slopes` (stages of one
//! step), `control` (how long a step may be), `stepper`, `dense`, then `run`, `sampler`, `event`.

mod control;
mod dense;
mod dop853;
mod event;
mod method;
mod options;
mod run;
mod sampler;
mod slopes;
mod stepper;
mod stop;
mod tableau;
#[cfg(test)]
mod tests;

pub use dense::DenseStep;
pub use event::{Crossing, Direction, EventLocator};
pub use method::Method;
pub use options::{SolverOptions, StepSize};
pub use run::{Outcome, integrate};
pub use sampler::Sampler;
pub use stepper::{Advance, SolverState, Stats, Stepper};
pub use stop::StopReason;
