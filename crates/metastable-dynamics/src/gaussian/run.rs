//! A covariance followed until it is clear what becomes of it.

use std::ops::ControlFlow;

use super::clock::OwnTime;
use super::stiff::{Implicit, Stepped};
use crate::error::DynamicsError;
use crate::field::{GaussianFlow, VectorField};
use crate::geometry::Euclidean;
use crate::measure::Gaussian;
use crate::solver::{Advance, Method, SolverOptions, Stepper};

/// How long and how carefully to look. Times are in units of the flow's own scale |L|/|L'| at the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgeOptions {
    /// Relative tolerance of the solver.
    pub rtol: f64,
    /// How far in time.
    pub horizon: f64,
    /// At rest where t |Σ'| / |Σ| falls below this.
    pub stillness: f64,
    /// Escaped where tr Σ has grown by this factor.
    pub escape: f64,
    /// Steps to take at most.
    pub max_steps: u64,
    /// Whether to look at certificates first, and to skip the run where they prove a regime.
    pub use_certificates: bool,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self { rtol: 1e-11, horizon: 1e8, stillness: 1e-6, escape: 1e12, max_steps: 20_000, use_certificates: true }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    /// tr Σ has grown by the factor asked for.
    Escaped,
    /// tr Σ grows at one rate, for long enough.
    Steady,
    AtRest,
    Vanished,
    Horizon,
    Exhausted,
}

/// A moment of a run.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) t: f64,
    pub(super) trace: f64,
    /// tr Σ / (tr Σ)'.
    pub(super) growth_time: f64,
    pub(super) gaussian: Gaussian,
}

/// A run that is over.
pub(super) struct Run {
    pub(super) end: End,
    /// Moments at least a quarter later or a decade larger than the one before; the first is the start.
    pub(super) moments: Vec<Moment>,
    pub(super) last: Moment,
    pub(super) evaluations: u64,
    /// The relative tolerance of the steps that were taken.
    pub(super) rtol: f64,
}

/// What the explicit part of a run leaves.
enum Explicit<'f> {
    Over(Run),
    /// Explicit steps are limited by stability; the evaluations so far.
    Stiff(Implicit<'f>, Vec<Moment>, u64),
    BrokenOff,
}

type Observer<'o> = &'o mut dyn FnMut(f64) -> ControlFlow<()>;

impl Run {
    /// Follows the flow in its own time by explicit steps and, from where these are limited by stability, by implicit
    /// ones. None if the observer breaks it off.
    pub(super) fn new(
        flow: &GaussianFlow,
        start: &Gaussian,
        options: &JudgeOptions,
        observer: Observer<'_>,
    ) -> Result<Option<Self>, DynamicsError> {
        let state = flow.state(start)?;
        let own_time = OwnTime::new(flow, &state);
        match explicit(flow, start, &own_time, state, options, &mut *observer)? {
            Explicit::Over(run) => Ok(Some(run)),
            Explicit::BrokenOff => Ok(None),
            Explicit::Stiff(implicit, moments, evaluations) => {
                let watch = Watch { options, unit: own_time.unit(), first: moments[0].trace };
                let run = follow_stiff(implicit, moments, watch, observer)?;
                Ok(run.map(|run| Self { evaluations: run.evaluations + evaluations, ..run }))
            }
        }
    }
}

fn explicit<'f>(
    flow: &'f GaussianFlow,
    start: &Gaussian,
    own_time: &OwnTime<'_>,
    mut state: Vec<f64>,
    options: &JudgeOptions,
    observer: Observer<'_>,
) -> Result<Explicit<'f>, DynamicsError> {
    state.push(0.0);
    // The time starts at zero: an absolute tolerance in its own unit. A factor's scale is its own size.
    let atol = 1e-3 * options.rtol * own_time.unit().min(start.trace().sqrt()).max(f64::MIN_POSITIVE);
    let solver =
        SolverOptions { max_steps: options.max_steps, ..SolverOptions::adaptive(Method::Dop853, options.rtol, atol) };
    let mut stepper = Stepper::new(own_time, &Euclidean, solver, 0.0, state)?;
    let mut moments = vec![moment(flow, own_time, stepper.values())?.0];
    let watch = Watch { options, unit: own_time.unit(), first: moments[0].trace };
    let (mut since, mut previous) = (0_u64, 0.0);
    let mut path = Vec::new();
    loop {
        let (mut now, unrest) = moment(flow, own_time, stepper.values())?;
        since += 1;
        path.push((now.t, now.trace.ln()));
        if keeps(&moments[moments.len() - 1], &now) {
            moments.push(now.clone());
            since = 0;
        }
        let step = now.t - previous;
        previous = now.t;
        let mut end = watch.end(now.t, now.trace, unrest);
        if end.is_none() && !Implicit::is_affordable(flow) && watch.is_steady(&path, SHORT) {
            end = Some(End::Steady);
            now.growth_time = mean_growth_times(&path, SHORT).0;
        }
        if end.is_none() && since > 0 && since.is_multiple_of(PATIENCE) {
            let moments_now = &stepper.values()[..flow.len()];
            let rtol = options.rtol.max(IMPLICIT_RTOL);
            if let Some(implicit) = Implicit::if_longer(flow, moments_now, now.t, LONGER * step, rtol) {
                return Ok(Explicit::Stiff(implicit, moments, stepper.stats().evaluations));
            }
        }
        let end =
            end.or_else(|| matches!(stepper.advance(f64::INFINITY), Advance::Stopped(_)).then_some(End::Exhausted));
        if let Some(end) = end {
            let evaluations = stepper.stats().evaluations;
            return Ok(Explicit::Over(Run { end, moments, last: now, evaluations, rtol: options.rtol }));
        }
        if observer(now.t).is_break() {
            return Ok(Explicit::BrokenOff);
        }
    }
}

fn follow_stiff(
    mut implicit: Implicit<'_>,
    mut moments: Vec<Moment>,
    watch: Watch<'_>,
    observer: Observer<'_>,
) -> Result<Option<Run>, DynamicsError> {
    let mut path = vec![(implicit.time(), implicit.trace().ln())];
    let mut last = moments[moments.len() - 1].clone();
    let mut end = None;
    for _ in 0..watch.options.max_steps {
        match implicit.advance() {
            Stepped::Rejected => continue,
            Stepped::Underflow => break,
            Stepped::Accepted => {}
        }
        let (t, trace) = (implicit.time(), implicit.trace());
        let (before, size) = path[path.len() - 1];
        path.push((t, trace.ln()));
        // Not tr Σ / (tr Σ)' at one time: the velocity magnifies what is left of the fast modes.
        let growth_time = (t - before) / (trace.ln() - size);
        last = Moment { t, trace, growth_time, gaussian: implicit.gaussian()? };
        if keeps(&moments[moments.len() - 1], &last) {
            moments.push(last.clone());
        }
        let unrest = implicit.unrest();
        end = watch.end(t, trace, unrest).or_else(|| watch.is_steady(&path, LONG).then_some(End::Steady));
        if end.is_some() {
            break;
        }
        if observer(t).is_break() {
            return Ok(None);
        }
    }
    let (end, evaluations, rtol) = (end.unwrap_or(End::Exhausted), implicit.evaluations(), implicit.rtol());
    if end == End::Steady {
        last.growth_time = mean_growth_times(&path, LONG).0;
    }
    Ok(Some(Run { end, moments, last, evaluations, rtol }))
}

/// When a run is over.
#[derive(Clone, Copy)]
struct Watch<'o> {
    options: &'o JudgeOptions,
    unit: f64,
    first: f64,
}

impl Watch<'_> {
    fn end(&self, t: f64, trace: f64, unrest: f64) -> Option<End> {
        if trace > self.options.escape * self.first {
            Some(End::Escaped)
        } else if trace <= VANISHED * self.first {
            Some(End::Vanished)
        } else if unrest * (self.unit + t) < self.options.stillness {
            Some(End::AtRest)
        } else if t > self.options.horizon * self.unit {
            Some(End::Horizon)
        } else {
            None
        }
    }

    /// Whether tr Σ has grown by the factor that `patience` asks for, and over the last part of it as an exponential: the
    /// two halves took equally long to a tenth (a pole of order p makes the second shorter by e^{-span/2p}), and so does
    /// the present step to a fifth.
    fn is_steady(&self, path: &[(f64, f64)], patience: Patience) -> bool {
        let now = path[path.len() - 1];
        if now.1 < (patience.growth * self.first).ln() || now.1 - path[0].1 < patience.span {
            return false;
        }
        let (late, early) = mean_growth_times(path, patience);
        let before = path.iter().rev().find(|point| point.1 <= now.1 - 0.1).copied().unwrap_or(path[0]);
        let local = (now.0 - before.0) / (now.1 - before.1);
        (late / early - 1.0).abs() < 0.1 && (local / late - 1.0).abs() < 0.2
    }
}

/// How long tr Σ must grow at one rate for that to count as growth for ever.
#[derive(Clone, Copy)]
struct Patience {
    /// Its growth since the start.
    growth: f64,
    /// The logarithm of its growth at one rate.
    span: f64,
}

/// A million times, the last thousand at one rate.
const LONG: Patience = Patience { growth: 1e6, span: 6.907_755_278_982_137 };
/// For flows too large for implicit steps: a thousand times, the last thirty at one rate.
const SHORT: Patience = Patience { growth: 1e3, span: 3.401_197_381_662_155_5 };

/// dt / d ln tr Σ over the last half of the span and over the half before.
fn mean_growth_times(path: &[(f64, f64)], patience: Patience) -> (f64, f64) {
    let now = path[path.len() - 1];
    let half = 0.5 * patience.span;
    let (middle, first) = (time_at(path, now.1 - half), time_at(path, now.1 - 2.0 * half));
    ((now.0 - middle) / half, (middle - first) / half)
}

/// When ln tr Σ last passed a level, between two steps by a straight line.
fn time_at(path: &[(f64, f64)], level: f64) -> f64 {
    let above = path.iter().rposition(|point| point.1 <= level).unwrap_or(0);
    let (a, b) = (path[above], path[(above + 1).min(path.len() - 1)]);
    if b.1 > a.1 { a.0 + (b.0 - a.0) * ((level - a.1) / (b.1 - a.1)).clamp(0.0, 1.0) } else { a.0 }
}

/// Explicit steps within one moment after which implicit ones are tried: accuracy alone takes some twenty.
const PATIENCE: u64 = 40;
/// An implicit step this much longer than the explicit one must be accurate for the flow to count as stiff.
const LONGER: f64 = 4.0;
/// The tolerance of implicit steps, which are of order 4 only.
const IMPLICIT_RTOL: f64 = 1e-7;
/// tr Σ below this part of its start is nothing.
const VANISHED: f64 = 1e-24;

fn keeps(before: &Moment, now: &Moment) -> bool {
    now.t > 1.25 * before.t || now.trace > 10.0 * before.trace
}

fn moment(flow: &GaussianFlow, own_time: &OwnTime<'_>, state: &[f64]) -> Result<(Moment, f64), DynamicsError> {
    let (moments, t) = state.split_at(state.len() - 1);
    let pace = own_time.pace(state);
    let gaussian = flow.gaussian(moments)?;
    Ok((Moment { t: t[0], trace: pace.trace, growth_time: 1.0 / pace.growth, gaussian }, pace.unrest))
}
