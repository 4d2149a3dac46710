//! A whole solve: steps until there is a reason to stop.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::dense::DenseStep;
use super::stepper::{Advance, Stats, Stepper};
use super::stop::StopReason;

/// The end of a solve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The time reached.
    pub t: f64,
    /// Why there.
    pub stop: StopReason,
    /// The cost since the solve began, resumed parts included.
    pub stats: Stats,
}

/// Steps to `t_end` and shows each accepted step to `observer`, who may break the solve off (after that step; calling
/// again goes on).
///
/// # Example
/// ```
/// use std::ops::ControlFlow;
/// use metastable_dynamics::field::VectorField;
/// use metastable_dynamics::geometry::Euclidean;
/// use metastable_dynamics::solver::{integrate, Method, SolverOptions, Stepper, StopReason};
///
/// struct Square;
/// impl VectorField for Square {
///     fn len(&self) -> usize { 1 }
///     fn block_len(&self) -> usize { 1 }
///     fn evaluate(&self, _t: f64, y: &[f64], velocity: &mut [f64]) { velocity[0] = y[0] * y[0]; }
/// }
///
/// let options = SolverOptions::adaptive(Method::Tsit5, 1e-10, 1e-10);
/// let mut stepper = Stepper::new(&Square, &Euclidean, options, 0.0, vec![1.0]).unwrap();
/// let outcome = integrate(&mut stepper, 5.0, &mut |_| ControlFlow::Continue(()));
/// assert_eq!(outcome.stop, StopReason::BlowUp);
/// assert!((outcome.t - 1.0).abs() < 1e-8);
/// ```
pub fn integrate(
    stepper: &mut Stepper<'_>,
    t_end: f64,
    observer: &mut dyn FnMut(&DenseStep<'_>) -> ControlFlow<()>,
) -> Outcome {
    let stop = loop {
        match stepper.advance(t_end) {
            Advance::Stopped(stop) => break stop,
            Advance::Step(step) if observer(&step).is_break() => break StopReason::Observer,
            Advance::Step(_) => {}
        }
    };
    Outcome { t: stepper.time(), stop, stats: stepper.stats() }
}
