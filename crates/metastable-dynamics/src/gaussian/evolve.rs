//! Following a Gaussian: continuously to a time, or through a finite number of layers.

use std::ops::ControlFlow;

use super::clock::{LogTime, OwnTime};
use crate::error::DynamicsError;
use crate::field::GaussianFlow;
use crate::geometry::Euclidean;
use crate::measure::Gaussian;
use crate::solver::{Method, Outcome, SolverOptions, Stepper, integrate};

/// The Gaussian at time `end`, or where the flow stopped before (blow-up), by DOP853 on the factor with the relative
/// tolerance `rtol` for the mean and for the factor each.
///
/// # Errors
/// Those of [`GaussianFlow::state`], [`GaussianFlow::gaussian`] and [`Stepper::new`].
pub fn evolve(
    flow: &GaussianFlow,
    start: &Gaussian,
    end: f64,
    rtol: f64,
) -> Result<(Gaussian, Outcome), DynamicsError> {
    let state = flow.state(start)?;
    // A mean or factor that passes through zero has no relative accuracy there: a tiny part of the start's size.
    let size = crate::linalg::norm(&state).max(f64::MIN_POSITIVE);
    let options = SolverOptions::adaptive(Method::Dop853, rtol, 1e-3 * rtol * size);
    run(flow, state, options, end)
}

/// The covariance at time `end`, for long times: DOP853 in logarithmic time u = ln(1 + t/T), T the flow's own scale at
/// the start, so that collapse like 1/t costs a step or so an e-fold. The mean, which grows like e^{tV} for ever, is left
/// at its start (except for linear attention, where it acts on the covariance). The outcome's time is u.
///
/// # Errors
/// As [`evolve`].
pub fn evolve_covariance(
    flow: &GaussianFlow,
    start: &Gaussian,
    end: f64,
    rtol: f64,
) -> Result<(Gaussian, Outcome), DynamicsError> {
    let state = flow.state(start)?;
    let log_time = LogTime(OwnTime::new(flow, &state));
    let atol = 1e-3 * rtol * start.trace().sqrt().max(f64::MIN_POSITIVE);
    let last = (end / log_time.0.unit()).ln_1p();
    let options = SolverOptions::adaptive(Method::Dop853, rtol, atol);
    let mut stepper = Stepper::new(&log_time, &Euclidean, options, 0.0, state)?;
    let outcome = integrate(&mut stepper, last, &mut |_| ControlFlow::Continue(()));
    Ok((flow.gaussian(stepper.values())?, outcome))
}

/// The Gaussian after `depth` residual layers of step time / depth: exactly what the residual network
/// x ← x + (time / depth) Γ_μ(x) makes of N(α, Σ),
///
/// α ← α + h c, Σ ← (I + hB) Σ (I + hB)ᵀ, that is L ← (I + hB) L: explicit Euler on the factor \[derived\]\[checked\].
/// Of first order in 1/depth.
///
/// # Errors
/// [`DynamicsError::Domain`] for depth 0, a time that is not positive, or a flow with noise (layers have none);
/// those of [`evolve`].
pub fn through_layers(
    flow: &GaussianFlow,
    start: &Gaussian,
    depth: usize,
    time: f64,
) -> Result<(Gaussian, Outcome), DynamicsError> {
    if depth == 0 {
        return Err(DynamicsError::domain("depth", "at least one layer", 0));
    }
    if flow.noise() > 0.0 {
        return Err(DynamicsError::domain("noise", "0 for a finite number of layers", flow.noise()));
    }
    let options = SolverOptions::fixed(Method::Euler, time / depth as f64);
    run(flow, flow.state(start)?, options, time)
}

fn run(
    flow: &GaussianFlow,
    state: Vec<f64>,
    options: SolverOptions,
    end: f64,
) -> Result<(Gaussian, Outcome), DynamicsError> {
    let mut stepper = Stepper::new(flow, &Euclidean, options, 0.0, state)?;
    let outcome = integrate(&mut stepper, end, &mut |_| ControlFlow::Continue(()));
    Ok((flow.gaussian(stepper.values())?, outcome))
}
