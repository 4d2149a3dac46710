//! The integration of a Gaussian run: base, twin, the family of other starts, the particles. Between two steps, and
//! between two members of a family, it can be saved and taken up again to the bit.

use metastable_dynamics::field::GaussianFlow;
use metastable_dynamics::gaussian::{JudgeOptions, Regime, judge};
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::measure::Gaussian;
use metastable_dynamics::solver::{Advance, Outcome, Sampler, SolverState, Stepper};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::meant::GaussianSimulation;
use super::particles::{self, Draw};
use crate::error::LabError;
use crate::simulate::engine::{Outside, Unfinished};

/// How far a Gaussian run has come; what a checkpoint holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The base run, once it is over.
    pub base: Option<Run>,
    /// The twin run, once it is over.
    pub twin: Option<Run>,
    /// The members of the family that are over.
    pub family: Vec<Member>,
    /// The particle runs that are over.
    pub draws: Vec<Draw>,
    leg: Option<Leg>,
}

/// A run that is over. States are (mean, factor), with noise (mean, covariance).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The saved states.
    pub sampler: Sampler,
    /// Why and when it ended, and its work.
    pub outcome: Outcome,
}

/// A member of the family.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// Its covariances [S, d, d] at the saved times that it reached.
    pub covariances: Vec<f64>,
    /// Its regime.
    pub regime: String,
    /// The rank of its limit, where it has one.
    pub limit_rank: Option<usize>,
    /// When it blows up, if it does.
    pub blow_up_time: Option<f64>,
}

/// A run under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Leg {
    solver: SolverState,
    sampler: Sampler,
}

type Save<'a> = Outside<'a, Progress>;

/// Members of a family that are followed between two looks at the outside.
const BATCH: usize = 64;

/// Integrates until everything is over.
///
/// # Errors
/// [`Unfinished`].
pub fn integrate(
    simulation: &GaussianSimulation,
    progress: &mut Progress,
    outside: &mut Save,
) -> Result<(), Unfinished> {
    if progress.base.is_none() {
        let flow = simulation.flow(&simulation.heads, &simulation.start)?;
        progress.base = Some(follow(simulation, &flow, progress, outside)?);
        (outside.save)(progress)?;
    }
    if let (None, Some(adapted)) = (&progress.twin, &simulation.adapted) {
        let flow = simulation.flow(adapted, &simulation.start)?;
        progress.twin = Some(follow(simulation, &flow, progress, outside)?);
        (outside.save)(progress)?;
    }
    while progress.family.len() < simulation.family.len() {
        let from = progress.family.len();
        let batch = &simulation.family[from..simulation.family.len().min(from + BATCH)];
        let members = batch.par_iter().map(|start| member(simulation, start)).collect::<Result<Vec<_>, _>>()?;
        progress.family.extend(members);
        pause(simulation, progress, outside, 0.0)?;
    }
    if let Some(particles) = &simulation.particles {
        while progress.draws.len() < particles.draws().len() {
            let draw = particles::follow(simulation, particles, progress.draws.len())?;
            progress.draws.push(draw);
            pause(simulation, progress, outside, 0.0)?;
        }
    }
    Ok(())
}

/// One run from the start (or the checkpoint's state) to the end of time.
fn follow(
    simulation: &GaussianSimulation,
    flow: &GaussianFlow,
    progress: &mut Progress,
    outside: &mut Save,
) -> Result<Run, Unfinished> {
    let mut leg = match progress.leg.take() {
        Some(leg) => leg,
        None => {
            let state = flow.state(&simulation.start)?;
            let stepper = Stepper::new(flow, &Euclidean, simulation.solver.clone(), 0.0, state)?;
            Leg { solver: stepper.state(), sampler: Sampler::new(simulation.times.clone(), stepper.values())? }
        }
    };
    let end = simulation.config.time.end;
    let mut stepper = Stepper::resume(flow, &Euclidean, simulation.solver.clone(), leg.solver.clone())?;
    let stop = loop {
        match stepper.advance(end) {
            Advance::Stopped(stop) => break stop,
            Advance::Step(step) => leg.sampler.observe(&step),
        }
        if outside.is_save_due().0 {
            leg.solver = stepper.state();
            progress.leg = Some(leg.clone());
            pause(simulation, progress, outside, stepper.time())?;
            progress.leg = None;
        }
        outside.tell(|| {
            (overall(simulation, progress, stepper.time() / end), message(simulation, progress, stepper.time()))
        });
    };
    let outcome = Outcome { t: stepper.time(), stop, stats: stepper.stats() };
    Ok(Run { sampler: leg.sampler, outcome })
}

/// Saves where it is time to, and stops where the outside asks.
fn pause(simulation: &GaussianSimulation, progress: &Progress, outside: &mut Save, t: f64) -> Result<(), Unfinished> {
    let (is_due, interruption) = outside.is_save_due();
    if is_due {
        outside.save_now(progress, &message(simulation, progress, t))?;
    }
    if let Some(interruption) = interruption {
        return Err(Unfinished::Stopped(interruption));
    }
    outside.tell(|| (overall(simulation, progress, 0.0), message(simulation, progress, t)));
    Ok(())
}

/// A member followed through the saved times, and judged.
fn member(simulation: &GaussianSimulation, start: &Gaussian) -> Result<Member, LabError> {
    let flow = simulation.flow(&simulation.heads, start)?;
    let mut stepper = Stepper::new(&flow, &Euclidean, simulation.solver.clone(), 0.0, flow.state(start)?)?;
    let mut sampler = Sampler::new(simulation.times.clone(), stepper.values())?;
    while let Advance::Step(step) = stepper.advance(simulation.config.time.end) {
        sampler.observe(&step);
    }
    let mut covariances = Vec::with_capacity(sampler.filled() * start.dim() * start.dim());
    for s in 0..sampler.filled() {
        covariances.extend(flow.gaussian(sampler.sample(s))?.covariance().as_slice());
    }
    let verdict = judge(&flow, start, &JudgeOptions::default())?;
    let (limit_rank, blow_up_time) = match verdict.regime {
        _ if !verdict.is_settled => (None, None),
        Regime::Collapse { rank } => (Some(rank), None),
        Regime::Bounded | Regime::Isospectral => (Some(start.rank()), None),
        Regime::BlowUp(pole) => (None, Some(pole.time)),
        Regime::Growth { .. } => (None, None),
    };
    Ok(Member { covariances, regime: verdict.name().into(), limit_rank, blow_up_time })
}

/// The share of all work that is done; a member of the family counts for a hundredth of a run.
fn overall(simulation: &GaussianSimulation, progress: &Progress, fraction: f64) -> f64 {
    let draws = simulation.particles.as_ref().map_or(0, |particles| particles.draws().len());
    let runs = 1 + usize::from(simulation.adapted.is_some());
    let all = runs as f64 + 0.01 * simulation.family.len() as f64 + draws as f64;
    let over = usize::from(progress.base.is_some()) + usize::from(progress.twin.is_some()) + progress.draws.len();
    let done = over as f64 + 0.01 * progress.family.len() as f64;
    (done + fraction) / all
}

fn message(simulation: &GaussianSimulation, progress: &Progress, t: f64) -> String {
    let end = simulation.config.time.end;
    match (&progress.base, &progress.twin) {
        (None, _) => format!("base run, t = {t:.4} of {end}"),
        (Some(_), None) if simulation.adapted.is_some() => format!("twin run, t = {t:.4} of {end}"),
        _ if progress.family.len() < simulation.family.len() => {
            format!("family, {} of {}", progress.family.len(), simulation.family.len())
        }
        _ => format!("particles, draw {}", progress.draws.len()),
    }
}
