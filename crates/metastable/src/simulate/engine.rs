//! The integration of a simulation: base run, twin run, and a second look at the twin once its own final clusters
//! are known. Everything between two steps can be saved and taken up again to the bit.

use std::time::{Duration, Instant};

use metastable_dynamics::TokensRef;
use metastable_dynamics::field::{NoisyFlow, VectorField};
use metastable_dynamics::observe::{Assignment, BracketedTime, Clusters, single_linkage};
use metastable_dynamics::solver::{
    Advance, Crossing, DenseStep, Direction, EventLocator, Outcome, Sampler, SolverState, Stepper, StopReason,
};
use serde::{Deserialize, Serialize};

use super::depth::{self, Flows, Piece};
use super::meant::Simulation;
use super::merges::{MergeTargets, Merges};
use crate::error::LabError;
use crate::watch::{Interruption, Watcher};

/// How far a simulation has come; what a checkpoint holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The base run, once it is over.
    pub base: Option<Run>,
    /// The twin run, once it is over.
    pub twin: Option<Run>,
    /// When the twin had formed its own clusters, once that is known.
    pub second: Option<BracketedTime>,
    leg: Option<Leg>,
}

/// A run that is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The saved states.
    pub sampler: Sampler,
    /// Why and when it ended, and its work.
    pub outcome: Outcome,
    /// The state it ended in.
    pub end: Vec<f64>,
    /// What was seen on the way (twin only).
    pub events: Events,
}

/// What is watched for while a twin runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Events {
    /// When all tokens had reached their base clusters.
    pub arrival: BracketedTime,
    /// When one had left again.
    pub departure: BracketedTime,
    /// The solver's state before the step of the departure.
    before_departure: Option<SolverState>,
    /// Predicted merges, as they were seen.
    pub merges: Merges,
}

/// A run under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Leg {
    solver: SolverState,
    sampler: Sampler,
    events: Events,
    settled: BracketedTime,
}

/// What the outside is asked for between two steps: to be told, to save, to stop.
pub struct Outside<'a, P = Progress> {
    /// Hears of progress and says when to stop.
    pub watcher: &'a mut dyn Watcher,
    /// Saves a checkpoint.
    pub save: &'a mut dyn FnMut(&P) -> Result<(), LabError>,
    last_save: Instant,
    last_word: Instant,
}

impl<'a, P> Outside<'a, P> {
    /// Nothing was saved yet.
    pub fn new(watcher: &'a mut dyn Watcher, save: &'a mut dyn FnMut(&P) -> Result<(), LabError>) -> Self {
        let now = Instant::now();
        Self { watcher, save, last_save: now, last_word: now }
    }

    /// Whether the state should be saved now, and whether to stop then.
    pub fn is_save_due(&self) -> (bool, Option<Interruption>) {
        let interruption = self.watcher.interrupted();
        let is_late = self.last_save.elapsed() >= self.watcher.checkpoint_interval();
        (interruption.is_some() || is_late, interruption)
    }

    /// Saves, and says so.
    ///
    /// # Errors
    /// [`LabError`] of the saver.
    pub fn save_now(&mut self, progress: &P, message: &str) -> Result<(), LabError> {
        (self.save)(progress)?;
        self.last_save = Instant::now();
        self.watcher.detail(&format!("state saved: {message}"));
        Ok(())
    }

    /// Tells of progress, ten times a second at most.
    pub fn tell(&mut self, message: impl FnOnce() -> (f64, String)) {
        if self.last_word.elapsed() >= Duration::from_millis(100) {
            self.last_word = Instant::now();
            let (fraction, message) = message();
            self.watcher.progress(fraction, &message);
        }
    }
}

/// Why an integration did not come to its end.
#[derive(Debug)]
pub enum Unfinished {
    /// The outside asked to stop; the state is saved.
    Stopped(Interruption),
    /// Something failed.
    Failed(LabError),
}

impl<E: Into<LabError>> From<E> for Unfinished {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Integrates until base, twin and second look are over.
///
/// # Errors
/// [`Unfinished`].
pub fn integrate(simulation: &Simulation, progress: &mut Progress, outside: &mut Outside) -> Result<(), Unfinished> {
    if progress.base.is_none() {
        let flows = simulation.flows(depth::Run::Base)?;
        let leg = run_leg(simulation, &flows, progress, outside, &mut |_, _, _| Ok(()))?;
        progress.base = Some(leg);
        (outside.save)(progress)?;
    }
    let (Some(base), true) = (&progress.base, simulation.adapted.is_some()) else { return Ok(()) };
    let flows = simulation.flows(depth::Run::Adapted)?;
    let base_clusters = clusters_of(simulation, &base.end);
    if progress.twin.is_none() {
        let targets = MergeTargets::new(simulation.cascade.as_ref(), &base_clusters, simulation.tokens.dim())?;
        let mut watch = TwinWatch::new(simulation, &base_clusters, targets)?;
        let twin = run_leg(simulation, &flows, progress, outside, &mut |step, leg, before| {
            watch.observe(step, leg, before);
            Ok(())
        })?;
        progress.twin = Some(twin);
        (outside.save)(progress)?;
    }
    if progress.second.is_none() {
        let second = second_look(simulation, &flows, progress, outside)?;
        progress.second = Some(second);
        (outside.save)(progress)?;
    }
    Ok(())
}

/// The clusters of a state at the configured radius.
pub fn clusters_of(simulation: &Simulation, state: &[f64]) -> Clusters {
    single_linkage(TokensRef::new(simulation.tokens.dim(), state), simulation.config.observe.cluster_radius)
}

type OnStep<'a> = dyn FnMut(&DenseStep, &mut Leg, &SolverState) -> Result<(), LabError> + 'a;

/// One run from the initial tokens (or the checkpoint's state) to the end.
fn run_leg(
    simulation: &Simulation,
    flows: &Flows,
    progress: &mut Progress,
    outside: &mut Outside,
    on_step: &mut OnStep,
) -> Result<Run, Unfinished> {
    let initial = simulation.tokens.as_slice().to_vec();
    let (leg, outcome, end) = follow(simulation, flows, progress, outside, on_step, || {
        let piece = flows.piece(0.0);
        let stepper = Stepper::new(&piece.flow, &*piece.geometry, simulation.solver.clone(), 0.0, initial)?;
        let sampler = Sampler::new(simulation.times.clone(), stepper.values())?;
        let (events, settled) = (Events::default(), BracketedTime::default());
        Ok(Leg { solver: stepper.state(), sampler, events, settled })
    })?;
    Ok(Run { sampler: leg.sampler, outcome, end, events: leg.events })
}

/// Steps a leg to the end of time; saves, reports and stops as the outside asks.
fn follow(
    simulation: &Simulation,
    flows: &Flows,
    progress: &mut Progress,
    outside: &mut Outside,
    on_step: &mut OnStep,
    start: impl FnOnce() -> Result<Leg, LabError>,
) -> Result<(Leg, Outcome, Vec<f64>), Unfinished> {
    let mut leg = match progress.leg.take() {
        Some(leg) => leg,
        None => start()?,
    };
    let end = simulation.config.time.end;
    loop {
        let t = leg.solver.t;
        let piece = flows.piece(t);
        if flows.begins_at(t) {
            // Another field begins here: its slope is not the one that ended the last step.
            leg.solver.slope_counted = false;
        }
        let (kept, outcome) = follow_piece(simulation, piece, leg, progress, outside, on_step)?;
        leg = kept;
        if outcome.stop != StopReason::EndTime || outcome.t >= end {
            let reached = leg.solver.y.clone();
            return Ok((leg, outcome, reached));
        }
    }
}

/// Steps a leg to the end of one piece.
fn follow_piece(
    simulation: &Simulation,
    piece: &Piece,
    mut leg: Leg,
    progress: &mut Progress,
    outside: &mut Outside,
    on_step: &mut OnStep,
) -> Result<(Leg, Outcome), Unfinished> {
    let (flow, geometry) = (&piece.flow, &*piece.geometry);
    let noisy = simulation.noise.map(|noise| NoisyFlow::new(flow, noise, !geometry.is_flat()));
    let field: &dyn VectorField = noisy.as_ref().map_or(flow as &dyn VectorField, |noisy| noisy);
    let end = simulation.config.time.end;
    let mut stepper = Stepper::resume(field, geometry, simulation.solver.clone(), leg.solver.clone())?;
    let stop: StopReason = loop {
        let before = stepper.state();
        match stepper.advance(piece.end) {
            Advance::Stopped(stop) => break stop,
            Advance::Step(step) => {
                leg.sampler.observe(&step);
                on_step(&step, &mut leg, &before)?;
            }
        }
        let (is_due, interruption) = outside.is_save_due();
        if is_due {
            leg.solver = stepper.state();
            progress.leg = Some(leg);
            outside.save_now(progress, &message(progress, stepper.time(), end))?;
            if let Some(interruption) = interruption {
                return Err(Unfinished::Stopped(interruption));
            }
            // Just put there.
            let Some(kept) = progress.leg.take() else { unreachable!("the leg was stored above") };
            leg = kept;
        }
        let t = stepper.time();
        outside.tell(|| (overall(simulation, progress, t / end), message(progress, t, end)));
    };
    if matches!(stop, StopReason::BlowUp | StopReason::StepUnderflow)
        && let Some(failure) = flow.failure()
    {
        // Not a property of the flow but of how its field is computed.
        return Err(Unfinished::Failed(failure.into()));
    }
    leg.solver = stepper.state();
    Ok((leg, Outcome { t: stepper.time(), stop, stats: stepper.stats() }))
}

fn overall(simulation: &Simulation, progress: &Progress, fraction: f64) -> f64 {
    let legs = if simulation.adapted.is_some() { 3.0 } else { 1.0 };
    let done = f64::from(u8::from(progress.base.is_some())) + f64::from(u8::from(progress.twin.is_some()));
    (done + fraction) / legs
}

fn message(progress: &Progress, t: f64, end: f64) -> String {
    let name = match (&progress.base, &progress.twin) {
        (None, _) => "base run",
        (Some(_), None) => "twin run",
        (Some(_), Some(_)) => "second clusters",
    };
    format!("{name}, t = {t:.4} of {end}")
}

/// Watches a twin arrive at the base clusters and leave them.
struct TwinWatch {
    assignment: Assignment,
    dim: usize,
    locator: EventLocator,
    targets: MergeTargets,
}

impl TwinWatch {
    fn new(simulation: &Simulation, base: &Clusters, targets: MergeTargets) -> Result<Self, LabError> {
        let assignment = Assignment::new(base, simulation.config.observe.cluster_radius)?;
        let locator = EventLocator::new(simulation.tokens.as_slice().len());
        Ok(Self { assignment, dim: simulation.tokens.dim(), locator, targets })
    }

    fn observe(&mut self, step: &DenseStep, leg: &mut Leg, before: &SolverState) {
        let events = &mut leg.events;
        let (assignment, dim) = (&self.assignment, self.dim);
        let mut excess = |_: f64, state: &[f64]| assignment.excess(TokensRef::new(dim, state));
        if events.arrival.value.is_none() && before.t == before.t0 && excess(before.t, &before.y) <= 0.0 {
            events.arrival = BracketedTime { value: Some(before.t), bracket: Some([before.t; 2]) };
        }
        if events.departure.value.is_none() {
            for crossing in self.locator.crossings(step, &mut excess) {
                match crossing.direction {
                    Direction::Falling if events.arrival.value.is_none() => events.arrival = bracketed(crossing),
                    Direction::Rising if events.arrival.value.is_some() && events.departure.value.is_none() => {
                        events.departure = bracketed(crossing);
                        events.before_departure = Some(before.clone());
                    }
                    _ => {}
                }
            }
        }
        self.targets.observe(step, &mut self.locator, &mut events.merges);
    }
}

fn bracketed(crossing: &Crossing) -> BracketedTime {
    BracketedTime { value: Some(crossing.time), bracket: Some(crossing.bracket) }
}

/// Since when all tokens of the twin stay within the radius of their own final clusters, after the departure.
///
/// The final clusters are known only at the end, so the twin is integrated once more from its departure; the steps
/// are the same to the bit.
fn second_look(
    simulation: &Simulation,
    flows: &Flows,
    progress: &mut Progress,
    outside: &mut Outside,
) -> Result<BracketedTime, Unfinished> {
    let Some(twin) = progress.twin.clone() else { return Ok(BracketedTime::default()) };
    let Some(before) = twin.events.before_departure else { return Ok(BracketedTime::default()) };
    let departure = twin.events.departure;
    let own = Assignment::new(&clusters_of(simulation, &twin.end), simulation.config.observe.cluster_radius)?;
    let dim = simulation.tokens.dim();
    let mut excess = |_: f64, state: &[f64]| own.excess(TokensRef::new(dim, state));
    let settled = if excess(before.t, &before.y) <= 0.0 { departure } else { BracketedTime::default() };
    let mut locator = EventLocator::new(before.y.len());
    let mut on_step = |step: &DenseStep, leg: &mut Leg, _: &SolverState| {
        for crossing in locator.crossings(step, &mut excess) {
            leg.settled = match crossing.direction {
                Direction::Falling if Some(crossing.time) < departure.value => departure,
                Direction::Falling => bracketed(crossing),
                Direction::Rising => BracketedTime::default(),
            };
        }
        Ok(())
    };
    let (leg, _, _) = follow(simulation, flows, progress, outside, &mut on_step, || {
        // No samples are needed this time: the sampler's only time has passed.
        let sampler = Sampler::new(vec![before.t], &before.y)?;
        Ok(Leg { solver: before.clone(), sampler, events: Events::default(), settled })
    })?;
    Ok(leg.settled)
}
