//! The report of a simulation, as it stands in `report.json`.

use metastable_dynamics::observe::BracketedTime;
use metastable_dynamics::solver::{Stats, StopReason};
use serde::Serialize;

use super::laws::LawSeries;
use super::written::SimulateConfig;
use crate::observables::{ClusterHistory, Series};
use crate::report::{ClusterSummary, Header};

/// Everything a simulation found.
#[derive(Debug, Clone, Serialize)]
pub struct SimulateReport {
    /// Title, summary, provenance, and what is drawn.
    #[serde(flatten)]
    pub header: Header,
    /// The config as resolved.
    pub config: SimulateConfig,
    /// Why and when the base run stopped.
    pub stop: Stop,
    /// The work of the base run.
    pub solver: SolverSummary,
    /// The clusters of the base run at its end.
    pub clusters: ClusterSummary,
    /// Observables of the base run over time.
    pub series: Series,
    /// Clusters of the base run over time.
    pub cluster_history: ClusterHistory,
    /// What theory says is constant or monotone along the base run.
    pub laws: Vec<LawSeries>,
    /// The run under the adapter.
    pub twin: Option<TwinReport>,
}

/// Why and when a run stopped.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stop {
    /// The reason.
    pub reason: StopReason,
    /// The time reached.
    pub time: f64,
}

/// The work of a run.
#[derive(Debug, Clone, Serialize)]
pub struct SolverSummary {
    /// The method.
    pub method: String,
    /// Accepted steps.
    pub steps: u64,
    /// Rejected steps.
    pub rejected: u64,
    /// Evaluations of the field.
    pub evaluations: u64,
}

impl SolverSummary {
    /// The counters of a run by `method`.
    pub fn new(method: &str, stats: Stats) -> Self {
        let Stats { steps, rejected, evaluations } = stats;
        Self { method: method.into(), steps, rejected, evaluations }
    }
}

/// The run under the adapter, beside the base run.
#[derive(Debug, Clone, Serialize)]
pub struct TwinReport {
    /// Why and when it stopped.
    pub stop: Stop,
    /// Its work.
    pub solver: SolverSummary,
    /// Its clusters at its end.
    pub clusters: ClusterSummary,
    /// Its observables.
    pub series: Series,
    /// Its clusters over time.
    pub cluster_history: ClusterHistory,
    /// What theory says is constant or monotone along it.
    pub laws: Vec<LawSeries>,
    /// When it had formed the base clusters.
    pub cluster_time: BracketedTime,
    /// When it left them.
    pub departure_time: BracketedTime,
    /// When it had formed its own.
    pub second_cluster_time: BracketedTime,
    /// Largest distance of a token from its base twin over all saved times.
    pub max_distance: Option<f64>,
    /// max and rms over tokens of |x_i - x~_i|, over time.
    pub paired_distance: PairedSeries,
    /// Exact W2 of the two clouds over time; none for clouds too large for an exact assignment.
    pub wasserstein2: Vec<Option<f64>>,
    /// The proven envelope of max |x_i - x~_i| over time.
    pub bound: Vec<Option<f64>>,
    /// ln of the envelope, which survives where it overflows.
    pub log_bound: Vec<Option<f64>>,
    /// Which envelope.
    pub bound_name: Option<&'static str>,
    /// Where it comes from.
    pub bound_source: Option<&'static str>,
    /// Why there is none.
    pub bound_reason: Option<String>,
    /// The predicted schedule of departures and merges, beside the simulated one.
    pub cascade: Option<CascadeReport>,
}

/// Distances of paired tokens over time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PairedSeries {
    /// max_i |x_i - x~_i|.
    pub max: Vec<Option<f64>>,
    /// Root of the mean of |x_i - x~_i|².
    pub rms: Vec<Option<f64>>,
}

/// The slow-time cascade: prediction and simulation.
#[derive(Debug, Clone, Serialize)]
pub struct CascadeReport {
    /// Distance that counts as merged.
    pub radius: f64,
    /// eps = ‖ΔV‖: slow time is s = eps·t.
    pub slow_scale: f64,
    /// Releases in order of time.
    pub events: Vec<CascadeEventReport>,
    /// Base clusters that are left at the end.
    pub final_clusters: Vec<usize>,
    /// Where the prediction comes from.
    pub source: &'static str,
}

/// One release and merge.
#[derive(Debug, Clone, Serialize)]
pub struct CascadeEventReport {
    /// s.
    pub slow_time: f64,
    /// s / eps.
    pub release_time: f64,
    /// The base cluster that is released.
    pub from: usize,
    /// The base cluster it moves to.
    pub into: usize,
    /// Its tokens.
    pub tokens: Vec<usize>,
    /// When theory says it is within the radius.
    pub merge_time: f64,
    /// When the simulation was.
    pub simulated_merge_time: Option<f64>,
}
