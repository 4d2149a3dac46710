//! The eigenvalues that published histograms count: `[gaussian.still]`.

use metastable_dynamics::DynamicsError;
use metastable_dynamics::field::GaussianFlow;
use metastable_dynamics::gaussian::{StillEnd, StillRule, clipped_euler_until_still, exact_until_still};

use super::meant::GaussianSimulation;
use super::report::StillReport;
use super::written::{StillConfig, StillScheme};
use crate::error::LabError;
use crate::simulate::inputs::Inputs;

/// Relative tolerance of the exact flow.
const RTOL: f64 = 1e-11;

/// Says what is wrong with the table, before anything runs.
///
/// # Errors
/// [`LabError`] naming the key.
pub fn check(still: Option<&StillConfig>, inputs: &Inputs) -> Result<(), LabError> {
    let Some(still) = still else { return Ok(()) };
    let positive = [("speed", still.speed), ("threshold", still.threshold), ("escape", still.escape)];
    if let Some((key, value)) = positive.into_iter().find(|(_, value)| !(*value > 0.0 && value.is_finite())) {
        return Err(inputs.wrong(&format!("gaussian.still.{key}"), "a positive number", value));
    }
    if still.max_steps == 0 {
        return Err(inputs.wrong("gaussian.still.max_steps", "a positive number", 0));
    }
    match (still.scheme, still.dt) {
        (StillScheme::ClippedEuler, None) => {
            Err(inputs.wrong("gaussian.still.dt", "a step for scheme = \"clipped_euler\"", "none"))
        }
        (_, Some(dt)) if !(dt > 0.0 && dt.is_finite()) => {
            Err(inputs.wrong("gaussian.still.dt", "a positive number", dt))
        }
        _ => Ok(()),
    }
}

/// Follows the covariance of a run until it is still, if its config asks.
///
/// # Errors
/// [`DynamicsError::Decomposition`].
pub fn measure(simulation: &GaussianSimulation, flow: &GaussianFlow) -> Result<Option<StillReport>, DynamicsError> {
    let Some(still) = simulation.config.gaussian.as_ref().and_then(|gaussian| gaussian.still) else { return Ok(None) };
    let rule = StillRule { speed: still.speed, escape: still.escape, max_steps: still.max_steps };
    let stopped = match still.scheme {
        StillScheme::Exact => exact_until_still(flow, &simulation.start, &rule, RTOL)?,
        StillScheme::ClippedEuler => {
            clipped_euler_until_still(flow, &simulation.start, &rule, still.dt.unwrap_or_default())?
        }
    };
    let rank = stopped.eigenvalues.iter().filter(|value| **value > still.threshold).count();
    let (end, rank) = match stopped.end {
        StillEnd::Still => ("still", Some(rank)),
        StillEnd::Escaped => ("escaped", None),
        StillEnd::Exhausted => ("exhausted", None),
    };
    let (time, steps, eigenvalues) = (stopped.time, stopped.steps, stopped.eigenvalues);
    Ok(Some(StillReport { end, time, steps, rank, eigenvalues }))
}
