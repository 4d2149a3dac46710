//! From finished Gaussian runs to the report: the verdict, observables at every saved time, the twin beside the base.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use metastable_dynamics::field::GaussianFlow;
use metastable_dynamics::gaussian::bounds::{blow_up_not_after, blow_up_not_before};
use metastable_dynamics::gaussian::{JudgeOptions, Regime, Verdict, judge_while};
use metastable_dynamics::measure::Gaussian;
use metastable_dynamics::solver::StopReason;

use super::comparison;
use super::drawn::{Drawn, drawn};
use super::engine::{Member, Progress, Run};
use super::meant::GaussianSimulation;
use super::report::{
    BlowUpReport, CertificateReport, FamilyRegime, FamilyReport, GaussianReport, GaussianSummary, GaussianTwin,
};
use super::series::{self, RANK_TOLERANCE, distances};
use crate::error::LabError;
use crate::provenance::Provenance;
use crate::render::Display;
use crate::report::{Axis, Header, TokensSummary};
use crate::simulate::engine::{Outside, Unfinished};
use crate::simulate::report::{SolverSummary, Stop};

/// The report, what is drawn beside it, and the paths.
pub struct Assembled {
    /// The report.
    pub report: GaussianReport,
    /// The drawn arrays.
    pub display: Display,
    /// The base run at its saved times.
    pub base: Vec<Gaussian>,
    /// The twin run at its saved times.
    pub twin: Option<Vec<Gaussian>>,
}

/// Observes everything. Deterministic in the progress.
///
/// # Errors
/// [`Unfinished::Stopped`] if the outside asks; [`LabError`] from decompositions.
pub fn assemble(
    simulation: &GaussianSimulation,
    progress: &Progress,
    provenance: Provenance,
    outside: &mut Outside<Progress>,
) -> Result<Assembled, Unfinished> {
    let Some(run) = &progress.base else { unreachable!("assembled only after the base run") };
    let flow = simulation.flow(&simulation.heads, &simulation.start)?;
    let base = series::path(&flow, run)?;
    let verdict = verdict(simulation, &flow, outside)?;
    let mut gaussian = summarize(&flow, &simulation.start, &verdict)?;
    gaussian.family = family(&progress.family);
    if let Some(particles) = &simulation.particles {
        gaussian.particles = comparison::compare(particles, &progress.draws, &base, &simulation.times);
    }
    let (twin, twin_path) = match simulation.adapted.as_ref().zip(progress.twin.as_ref()) {
        None => (None, None),
        Some((heads, run)) => {
            let flow = simulation.flow(heads, &simulation.start)?;
            let path = series::path(&flow, run)?;
            (Some(twin_report(simulation, &flow, run, [&base, &path], outside)?), Some(path))
        }
    };
    let labels = labels(&gaussian, &progress.family);
    let shown = simulation.particles.as_ref().and_then(|particles| progress.draws.get(particles.shown()));
    let Drawn { display, cone, history } =
        drawn(simulation, &base, twin_path.as_deref(), labels, &progress.family, shown);
    gaussian.cone = cone;
    gaussian.still = super::still::measure(simulation, &flow)?;
    let mut report = GaussianReport {
        header: header(simulation, provenance, warnings(simulation, run, &base, &gaussian, &verdict)),
        config: simulation.config.clone(),
        stop: stop_of(run),
        solver: SolverSummary::new(simulation.solver.method.name(), run.outcome.stats),
        series: series::series(&flow, &simulation.times, &base)?,
        gaussian,
        twin,
        cluster_history: history,
    };
    report.header.summary = super::summary::sentences(&report);
    Ok(Assembled { report, display, base, twin: twin_path })
}

fn stop_of(run: &Run) -> Stop {
    Stop { reason: run.outcome.stop, time: run.outcome.t }
}

/// The verdict, unless the outside asks to stop meanwhile.
fn verdict(
    simulation: &GaussianSimulation,
    flow: &GaussianFlow,
    outside: &mut Outside<Progress>,
) -> Result<Verdict, Unfinished> {
    let mut interruption = None;
    let verdict = judge_while(flow, &simulation.start, &JudgeOptions::default(), &mut |t| {
        interruption = outside.watcher.interrupted();
        outside.tell(|| (0.99, format!("verdict, t = {t:.4}")));
        if interruption.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match (verdict, interruption) {
        (Some(verdict), _) => Ok(verdict),
        (None, Some(interruption)) => Err(Unfinished::Stopped(interruption)),
        (None, None) => unreachable!("only an interruption breaks the verdict off"),
    }
}

fn summarize(flow: &GaussianFlow, start: &Gaussian, verdict: &Verdict) -> Result<GaussianSummary, LabError> {
    let settled = verdict.is_settled.then_some(&verdict.regime);
    let pole = if let Some(Regime::BlowUp(pole)) = settled { Some(pole) } else { None };
    let blow_up = pole.map(|pole| {
        Ok::<_, LabError>(BlowUpReport::of(pole, blow_up_not_before(flow, start)?, blow_up_not_after(flow, start)?))
    });
    let growth_rate = if let Some(Regime::Growth { rate }) = settled { series::finite(*rate) } else { None };
    // A factor of zeros has a column although its rank is 0.
    let full = start.spectrum()?.iter().filter(|value| **value > 0.0).count();
    Ok(GaussianSummary {
        regime: verdict.name(),
        limit_rank: settled.and_then(|regime| GaussianSummary::limit_rank(regime, full)),
        blow_up_time: pole.map(|pole| pole.time),
        blow_up: blow_up.transpose()?,
        growth_rate,
        certificate: CertificateReport::of(verdict),
        is_settled: verdict.is_settled,
        followed_to: verdict.time,
        evaluations: verdict.evaluations,
        rank_tolerance: RANK_TOLERANCE,
        family: None,
        cone: None,
        particles: Vec::new(),
        still: None,
    })
}

fn twin_report(
    simulation: &GaussianSimulation,
    flow: &GaussianFlow,
    run: &Run,
    [base, path]: [&[Gaussian]; 2],
    outside: &mut Outside<Progress>,
) -> Result<GaussianTwin, Unfinished> {
    let verdict = verdict(simulation, flow, outside)?;
    let between = base.iter().zip(path).map(|(a, b)| distances(a, b)).collect::<Result<Vec<_>, _>>()?;
    let column = |k: usize| between.iter().map(|row| row[k]).collect::<Vec<_>>();
    Ok(GaussianTwin {
        stop: stop_of(run),
        solver: SolverSummary::new(simulation.solver.method.name(), run.outcome.stats),
        gaussian: summarize(flow, &simulation.start, &verdict)?,
        series: series::series(flow, &simulation.times, path)?,
        wasserstein2: column(0),
        bures: column(1),
        mean_distance: column(2),
        max_distance: column(0).into_iter().flatten().reduce(f64::max),
    })
}

/// How many members end how.
fn family(members: &[Member]) -> Option<FamilyReport> {
    let mut tally = BTreeMap::<(String, Option<usize>), usize>::new();
    for member in members {
        *tally.entry((member.regime.clone(), member.limit_rank)).or_default() += 1;
    }
    let mut regimes: Vec<FamilyRegime> =
        tally.into_iter().map(|((regime, limit_rank), count)| FamilyRegime { regime, limit_rank, count }).collect();
    regimes.sort_by_key(|regime| std::cmp::Reverse(regime.count));
    let mut times: Vec<f64> = members.iter().filter_map(|member| member.blow_up_time).collect();
    times.sort_by(f64::total_cmp);
    let blow_up_times = match &times[..] {
        [] => None,
        [first, .., last] => Some([*first, median(&times), *last]),
        [only] => Some([*only; 3]),
    };
    (!members.is_empty()).then_some(FamilyReport { count: members.len(), regimes, blow_up_times })
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { 0.5 * (sorted[middle - 1] + sorted[middle]) }
}

/// The regimes of the drawn points (the first start, then the family) as labels.
fn labels(gaussian: &GaussianSummary, members: &[Member]) -> Vec<u64> {
    let regimes = gaussian.family.as_ref().map_or(&[][..], |family| &family.regimes);
    let label = |regime: &str, rank: Option<usize>| {
        let known = regimes.iter().position(|r| r.regime == regime && r.limit_rank == rank);
        known.unwrap_or(regimes.len()) as u64
    };
    let first = label(gaussian.regime, gaussian.limit_rank);
    std::iter::once(first).chain(members.iter().map(|member| label(&member.regime, member.limit_rank))).collect()
}

fn warnings(
    simulation: &GaussianSimulation,
    run: &Run,
    base: &[Gaussian],
    gaussian: &GaussianSummary,
    verdict: &Verdict,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if base.len() < simulation.times.len() {
        warnings.push(format!("only {} of {} saved times were reached", base.len(), simulation.times.len()));
    }
    if !verdict.is_settled {
        warnings.push(format!(
            "the verdict is open: its run took all its steps until t = {:.4e} without coming to rest or escaping",
            verdict.time
        ));
    }
    if run.outcome.stop == StopReason::BlowUp && !matches!(verdict.regime, Regime::BlowUp(_)) {
        warnings.push(format!(
            "numbers beyond the range that is followed were met at t = {:.6}; that is no pole: the verdict is {}",
            run.outcome.t, gaussian.regime
        ));
    }
    warnings.extend(comparison::warnings(&gaussian.particles));
    warnings
}

fn header(simulation: &GaussianSimulation, provenance: Provenance, warnings: Vec<String>) -> Header {
    Header {
        schema: crate::run_dir::SCHEMA,
        job: "simulate",
        title: simulation.config.title.clone().unwrap_or_default(),
        summary: Vec::new(),
        warnings,
        provenance,
        axis: Axis { name: "time", symbol: "t" },
        tokens: TokensSummary { count: 0, dim: simulation.start.dim(), strings: None, special: None },
        projection: None,
        display_tokens: None,
        attention: None,
    }
}
