//! The report of a Gaussian run, as it stands in `report.json`.

use metastable_dynamics::gaussian::{BlowUp, Regime, Verdict};
use serde::Serialize;

use crate::observables::ClusterHistory;
use crate::report::Header;
use crate::simulate::report::{SolverSummary, Stop};
use crate::simulate::written::SimulateConfig;

/// Everything a Gaussian run found.
#[derive(Debug, Clone, Serialize)]
pub struct GaussianReport {
    /// Title, summary, provenance, and what is drawn.
    #[serde(flatten)]
    pub header: Header,
    /// The config as resolved.
    pub config: SimulateConfig,
    /// Why and when the base run stopped.
    pub stop: Stop,
    /// The work of the base run.
    pub solver: SolverSummary,
    /// The verdict on the base flow.
    pub gaussian: GaussianSummary,
    /// Observables of the base run over time.
    pub series: GaussianSeries,
    /// The flow under the adapter.
    pub twin: Option<GaussianTwin>,
    /// Regimes of the family as labels of the drawn points; empty without a drawn cone.
    pub cluster_history: ClusterHistory,
}

/// What becomes of a Gaussian, and on what grounds.
#[derive(Debug, Clone, Serialize)]
pub struct GaussianSummary {
    /// "collapse", "bounded", "blow_up", "growth" or "isospectral"; "open" where the run took all its steps before any of
    /// these was clear, and then nothing is said of ranks, poles and rates.
    pub regime: &'static str,
    /// The rank of the limit, where there is one.
    pub limit_rank: Option<usize>,
    /// When it blows up: the fit, or the closed form.
    pub blow_up_time: Option<f64>,
    /// That time between its bounds.
    pub blow_up: Option<BlowUpReport>,
    /// d/dt ln tr Σ at the end, for growth.
    pub growth_rate: Option<f64>,
    /// What the verdict rests on.
    pub certificate: CertificateReport,
    /// Whether the run behind the verdict escaped, came to rest or reached its horizon.
    pub is_settled: bool,
    /// The time to which the flow was followed for the verdict; 0 where the certificate made that needless.
    pub followed_to: f64,
    /// Evaluations of the field for the verdict.
    pub evaluations: u64,
    /// Eigenvalues below this part of the largest do not count in `series.rank`.
    pub rank_tolerance: f64,
    /// The other starts, if the config has a grid.
    pub family: Option<FamilyReport>,
    /// How covariances are drawn in the cone, for d = 2.
    pub cone: Option<&'static str>,
    /// Particles beside the moments.
    pub particles: Vec<ParticlesReport>,
    /// Eigenvalues where the covariance has become still, if the config asks.
    pub still: Option<StillReport>,
}

/// Eigenvalues where the covariance has become still.
#[derive(Debug, Clone, Serialize)]
pub struct StillReport {
    /// "still", "escaped" or "exhausted".
    pub end: &'static str,
    /// When.
    pub time: f64,
    /// Steps taken.
    pub steps: u64,
    /// Eigenvalues above the threshold; none if it did not become still.
    pub rank: Option<usize>,
    /// The eigenvalues, largest first.
    pub eigenvalues: Vec<f64>,
}

/// The time of a blow-up, bracketed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BlowUpReport {
    /// Not before this.
    pub lower: f64,
    /// The fit, or the closed form.
    pub fit: f64,
    /// Not after this.
    pub upper: f64,
    /// Whether the upper end is proven, and not only twice the fitted rest.
    pub upper_is_proven: bool,
    /// What was known at the start: t* is not before this.
    pub not_before: f64,
    /// What was known at the start: t* is not after this.
    pub not_after: Option<f64>,
}

/// The grounds of a verdict.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CertificateReport {
    /// "collapse", "bounded", "global", "blow_up", "isospectral" or "nothing".
    pub claim: &'static str,
    /// The statement, with its mark.
    pub statement: &'static str,
    /// Whether it alone proves the regime; otherwise the run shows it.
    pub is_proven: bool,
}

/// How many starts end how.
#[derive(Debug, Clone, Serialize)]
pub struct FamilyReport {
    /// Number of starts beside the first one.
    pub count: usize,
    /// Regimes and ranks, most frequent first.
    pub regimes: Vec<FamilyRegime>,
    /// Least, median and greatest time of blow-up.
    pub blow_up_times: Option<[f64; 3]>,
}

/// The starts that end alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FamilyRegime {
    /// The regime.
    pub regime: String,
    /// The rank of the limit.
    pub limit_rank: Option<usize>,
    /// How many.
    pub count: usize,
}

/// Observables of a Gaussian over time.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GaussianSeries {
    /// The saved times that were reached.
    pub t: Vec<f64>,
    /// tr Σ.
    pub trace: Vec<Option<f64>>,
    /// ln det Σ; none for a singular Σ.
    pub log_det: Vec<Option<f64>>,
    /// The largest eigenvalue of Σ.
    pub largest_eigenvalue: Vec<Option<f64>>,
    /// The smallest eigenvalue of Σ.
    pub smallest_eigenvalue: Vec<Option<f64>>,
    /// Eigenvalues above the tolerance.
    pub rank: Vec<Option<f64>>,
    /// The largest eigenvalue over the smallest; none for a singular Σ.
    pub condition: Vec<Option<f64>>,
    /// |α|.
    pub mean_norm: Vec<Option<f64>>,
    /// tr(Nᵀ Σ⁻¹ N) on the common kernel of the heads: constant; empty without one.
    pub kernel_invariant: Vec<Option<f64>>,
    /// tr(V⁻¹ Σ), a Lyapunov function where V > 0 and A + Aᵀ <= 0; empty for several heads or a singular V.
    pub value_trace: Vec<Option<f64>>,
    /// All eigenvalues, largest first, `[S][d]`.
    pub eigenvalues: Vec<Vec<f64>>,
    /// The mean in the first two coordinates, `[S][2]`, for the picture.
    pub drawn_mean: Vec<Vec<f64>>,
    /// Σ_11, Σ_12, Σ_22 (d = 1: Σ_11), for the picture.
    pub drawn_covariance: Vec<Vec<f64>>,
}

/// The flow under the adapter, from the same Gaussian.
#[derive(Debug, Clone, Serialize)]
pub struct GaussianTwin {
    /// Why and when it stopped.
    pub stop: Stop,
    /// Its work.
    pub solver: SolverSummary,
    /// The verdict on it.
    pub gaussian: GaussianSummary,
    /// Its observables.
    pub series: GaussianSeries,
    /// The Bures-Wasserstein distance W2 of the two Gaussians over time.
    pub wasserstein2: Vec<Option<f64>>,
    /// Its part from the covariances alone.
    pub bures: Vec<Option<f64>>,
    /// Its part from the means alone.
    pub mean_distance: Vec<Option<f64>>,
    /// The largest W2 over the saved times.
    pub max_distance: Option<f64>,
}

/// Particles of one number n beside the moments.
#[derive(Debug, Clone, Serialize)]
pub struct ParticlesReport {
    /// n.
    pub count: usize,
    /// Independent draws.
    pub repeats: usize,
    /// Root mean square over the draws of |mean - α| √n, over time: flat in n where particles follow the moments.
    pub mean_error: Vec<Option<f64>>,
    /// Root mean square over the draws of |covariance - Σ| √n (Frobenius), over time.
    pub covariance_error: Vec<Option<f64>>,
    /// What sampling alone gives at time 0: √tr Σ.
    pub sampling_mean_error: f64,
    /// What sampling alone gives at time 0: √((tr Σ)² + tr Σ²).
    pub sampling_covariance_error: f64,
    /// The largest √(xᵀAᵀΣAx) over particles and draws, over time; particles are too few where it nears `limit`.
    pub reach: Vec<Option<f64>>,
    /// √(2 ln n), where an average over n particles saturates.
    pub limit: f64,
    /// The first saved time at which the reach exceeds √ln n, where the partition function's relative variance is 1.
    pub invalid_from: Option<f64>,
}

impl GaussianSummary {
    /// The rank of the limit that a regime implies, from a start of rank `full`.
    pub fn limit_rank(regime: &Regime, full: usize) -> Option<usize> {
        match regime {
            Regime::Collapse { rank } => Some(*rank),
            Regime::Bounded | Regime::Isospectral => Some(full),
            Regime::BlowUp(_) | Regime::Growth { .. } => None,
        }
    }
}

impl CertificateReport {
    /// Of a verdict.
    pub fn of(verdict: &Verdict) -> Self {
        let certificate = &verdict.certificate;
        let is_proven = verdict.is_proven;
        Self { claim: certificate.claim.name(), statement: certificate.statement, is_proven }
    }
}

impl BlowUpReport {
    /// Of a pole, with the bounds that were known at the start.
    pub fn of(pole: &BlowUp, not_before: f64, not_after: Option<f64>) -> Self {
        let [lower, upper] = pole.bracket;
        Self { lower, fit: pole.time, upper, upper_is_proven: pole.is_upper_proven, not_before, not_after }
    }
}
