//! From finished runs to the report: observables at every saved time, the twin beside the base.

use metastable_dynamics::TokensRef;
use metastable_dynamics::attention::statistics;
use metastable_dynamics::field::AttentionFlow;
use metastable_dynamics::measure::transport;
use metastable_dynamics::observe::{Clusters, numerical_rank};

use super::bound::{Bound, bound};
use super::depth::{self, Flows};
use super::engine::{Outside, Progress, Run, Unfinished};
use super::laws::{LawSeries, laws};
use super::meant::Simulation;
use super::report::{PairedSeries, SimulateReport, SolverSummary, Stop, TwinReport};
use crate::display::{CloudBuilder, GAMMA, Projection, Selection};
use crate::error::LabError;
use crate::observables::{AttentionObservables, ClusterHistory, Collector, Series};
use crate::provenance::Provenance;
use crate::render::{Cloud, Display};
use crate::report::{AttentionNote, Axis, ClusterSummary, Header, TokensSummary};

/// The rank of the attention matrix needs a decomposition of an n x n matrix per saved time.
const MOST_TOKENS_FOR_RANK: usize = 256;
/// Exact W2 costs up to O(n³) per saved time.
const MOST_TOKENS_FOR_TRANSPORT: usize = 1024;

/// The report and what is drawn beside it.
pub struct Assembled {
    /// The report.
    pub report: SimulateReport,
    /// The drawn arrays.
    pub display: Display,
    /// How many saved times were reached.
    pub saved: usize,
}

/// Observes everything. Deterministic in the progress.
///
/// # Errors
/// [`Unfinished::Stopped`] if the outside asks; [`LabError`] from decompositions.
pub fn assemble(
    simulation: &Simulation,
    progress: &Progress,
    provenance: Provenance,
    outside: &mut Outside,
) -> Result<Assembled, Unfinished> {
    let Some(base) = &progress.base else { unreachable!("assembled only after the base run") };
    let twin = simulation.adapted.as_ref().zip(progress.twin.as_ref());
    let d = simulation.tokens.dim();
    let n = simulation.tokens.count();
    let saved = twin.map_or(base.sampler.filled(), |(_, run)| base.sampler.filled().min(run.sampler.filled()));
    let states: Vec<&[f64]> = std::iter::once(base)
        .chain(twin.map(|(_, run)| run))
        .flat_map(|run| (0..saved).map(|s| run.sampler.sample(s)))
        .collect();
    let drawn = Drawn { projection: Projection::of(d, &states)?, selection: Selection::new(n, d.min(3), saved), saved };
    let flows = simulation.flows(depth::Run::Base)?;
    let seen = Observed::of(simulation, &flows, base, &drawn, outside)?;
    let clusters = super::engine::clusters_of(simulation, &base.end);
    let (twin_report, twin_cloud) = match twin {
        None => (None, None),
        Some((_, run)) => {
            let flows = simulation.flows(depth::Run::Adapted)?;
            let observed = Observed::of(simulation, &flows, run, &drawn, outside)?;
            let cloud = observed.cloud.clone();
            (Some(twin_report(simulation, progress, base, run, &flows, observed, &clusters, saved)?), Some(cloud))
        }
    };
    let Drawn { projection, selection, .. } = drawn;
    let mut warnings = simulation.warnings.clone();
    if saved < simulation.times.len() {
        warnings.push(format!("only {saved} of {} saved times were reached", simulation.times.len()));
    }
    let method = simulation.solver.method.name();
    let header = Header {
        schema: crate::run_dir::SCHEMA,
        job: "simulate",
        title: simulation.config.title.clone().unwrap_or_default(),
        summary: Vec::new(),
        warnings,
        provenance,
        axis: Axis { name: "time", symbol: "t" },
        tokens: TokensSummary { count: n, dim: d, strings: None, special: None },
        projection: projection.statement,
        display_tokens: selection.tokens.clone(),
        attention: CloudBuilder::note(n, simulation.heads.len(), saved)
            .map(|note| AttentionNote { gamma: GAMMA, note }),
    };
    let mut report = SimulateReport {
        header,
        config: simulation.config.clone(),
        stop: Stop { reason: base.outcome.stop, time: base.outcome.t },
        solver: SolverSummary::new(method, base.outcome.stats),
        clusters: summarize(&flows, base, clusters),
        series: seen.series,
        cluster_history: seen.history,
        laws: seen.laws,
        twin: twin_report,
    };
    report.header.summary = super::summary::sentences(&report);
    let times = (0..saved).filter(|s| selection.draws(*s)).map(|s| simulation.times[s]).collect();
    Ok(Assembled { report, display: Display { times, base: seen.cloud, twin: twin_cloud, samples: None }, saved })
}

/// What is drawn of both runs.
struct Drawn {
    projection: Projection,
    selection: Selection,
    saved: usize,
}

/// One run as observed.
struct Observed {
    series: Series,
    history: ClusterHistory,
    laws: Vec<LawSeries>,
    cloud: Cloud,
}

impl Observed {
    fn of(
        simulation: &Simulation,
        flows: &Flows,
        run: &Run,
        drawn: &Drawn,
        outside: &mut Outside,
    ) -> Result<Self, Unfinished> {
        let (n, d) = (simulation.tokens.count(), simulation.tokens.dim());
        let observe = &simulation.config.observe;
        let mut collector = Collector::new(observe.cluster_radius).with_close_cosine(observe.close_cosine);
        let mut cloud = CloudBuilder::new(n, drawn.projection.dim(), &drawn.selection);
        for (s, &t) in simulation.times[..drawn.saved].iter().enumerate() {
            if let Some(interruption) = outside.watcher.interrupted() {
                return Err(Unfinished::Stopped(interruption));
            }
            let (state, flow) = (run.sampler.sample(s), flows.at(t));
            collector.observe(t, TokensRef::new(d, state), attention(flow, n, t, state)?)?;
            if drawn.selection.draws(s) {
                let positions = drawn.projection.apply(d, state, &drawn.selection);
                cloud.push(&positions, &flow.projections(0, t, state), flow.kernel());
            }
        }
        let (series, mut history, _) = collector.finish();
        history.labels.iter_mut().for_each(|labels| *labels = drawn.selection.of(labels));
        let states: Vec<&[f64]> = (0..drawn.saved).map(|s| run.sampler.sample(s)).collect();
        let laws = laws(simulation, flows.at(0.0), &simulation.times[..drawn.saved], &states)?;
        Ok(Self { series, history, laws, cloud: cloud.finish() })
    }
}

/// ln of the energy summed over heads, and the rank of the first head's weights.
fn attention(flow: &AttentionFlow, n: usize, t: f64, state: &[f64]) -> Result<AttentionObservables, LabError> {
    let energies: Option<Vec<f64>> =
        (0..flow.heads()).map(|h| statistics::log_energy(&flow.projections(h, t, state))).collect();
    let log_energy = energies.map(|logs| {
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + logs.iter().map(|l| (l - top).exp()).sum::<f64>().ln()
    });
    let rank = match n <= MOST_TOKENS_FOR_RANK {
        true => {
            let weights = statistics::weights(&flow.projections(0, t, state), flow.kernel());
            let finite = weights.as_slice().iter().all(|w| w.is_finite());
            if finite { Some(numerical_rank(&weights)?.rank) } else { None }
        }
        false => None,
    };
    Ok(AttentionObservables { log_energy, rank })
}

fn summarize(flows: &Flows, run: &Run, clusters: Clusters) -> ClusterSummary {
    let (count, flow) = (clusters.count(), flows.at(run.outcome.t));
    let projections = flow.projections(0, run.outcome.t, &run.end);
    let followed = statistics::followed(&projections, flow.kernel().mask());
    let leaders = statistics::leaders(&clusters.labels, count, &followed);
    let Clusters { radius, labels, centers, sizes } = clusters;
    ClusterSummary { count, radius, labels, centers, sizes, leaders }
}

#[expect(clippy::too_many_arguments, reason = "both runs, both views of them, and what joins them")]
fn twin_report(
    simulation: &Simulation,
    progress: &Progress,
    base: &Run,
    run: &Run,
    flows: &Flows,
    observed: Observed,
    base_clusters: &Clusters,
    saved: usize,
) -> Result<TwinReport, LabError> {
    let (paired_distance, wasserstein2) = distances(simulation, base, run, saved)?;
    let times = &simulation.times[..saved];
    let (values, name, source, reason) = match bound(simulation, times)? {
        Bound::Proven { name, source, values } => (values, Some(name), Some(source), None),
        Bound::None(reason) => (Vec::new(), None, None, Some(reason)),
    };
    let finite = |value: f64| Some(value).filter(|v| v.is_finite());
    let cascade = simulation.cascade.as_ref();
    let prediction = cascade.map(|setting| super::cascade::predict(setting, base_clusters)).transpose()?;
    let radius = base_clusters.radius;
    Ok(TwinReport {
        stop: Stop { reason: run.outcome.stop, time: run.outcome.t },
        solver: SolverSummary::new(simulation.solver.method.name(), run.outcome.stats),
        clusters: summarize(flows, run, super::engine::clusters_of(simulation, &run.end)),
        series: observed.series,
        cluster_history: observed.history,
        laws: observed.laws,
        cluster_time: run.events.arrival,
        departure_time: run.events.departure,
        second_cluster_time: progress.second.unwrap_or_default(),
        max_distance: paired_distance.max.iter().flatten().copied().reduce(f64::max),
        paired_distance,
        wasserstein2,
        bound: values.iter().map(|e| finite(e.value)).collect(),
        log_bound: values.iter().map(|e| finite(e.ln_value)).collect(),
        bound_name: name,
        bound_source: source,
        bound_reason: reason,
        cascade: prediction.map(|p| super::cascade::report(&p, radius, &run.events.merges.times)),
    })
}

/// Paired distances and exact W2 at every saved time.
fn distances(
    simulation: &Simulation,
    base: &Run,
    twin: &Run,
    saved: usize,
) -> Result<(PairedSeries, Vec<Option<f64>>), LabError> {
    let d = simulation.tokens.dim();
    let finite = |value: f64| Some(value).filter(|v| v.is_finite());
    let (mut paired, mut wasserstein) = (PairedSeries::default(), Vec::with_capacity(saved));
    for s in 0..saved {
        let x = TokensRef::new(d, base.sampler.sample(s));
        let y = TokensRef::new(d, twin.sampler.sample(s));
        let distance = transport::paired(x, y)?;
        paired.max.push(finite(distance.max));
        paired.rms.push(finite(distance.rms));
        let exact = x.count() <= MOST_TOKENS_FOR_TRANSPORT && distance.max.is_finite();
        wasserstein.push(if exact { finite(transport::wasserstein2(x, y)?.distance) } else { None });
    }
    Ok((paired, wasserstein))
}
