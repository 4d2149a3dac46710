//! What is measured of a Gaussian at every saved time.

use metastable_dynamics::DynamicsError;
use metastable_dynamics::field::GaussianFlow;
use metastable_dynamics::gaussian::Invariants;
use metastable_dynamics::linalg::norm;
use metastable_dynamics::measure::Gaussian;
use metastable_dynamics::measure::gaussian::bures_squared;

use super::engine::Run;
use super::report::GaussianSeries;

/// Eigenvalues below this part of the largest do not count for the rank.
pub const RANK_TOLERANCE: f64 = 1e-10;

/// The Gaussians of a run at the saved times that it reached.
///
/// # Errors
/// As [`GaussianFlow::gaussian`].
pub fn path(flow: &GaussianFlow, run: &Run) -> Result<Vec<Gaussian>, DynamicsError> {
    (0..run.sampler.filled()).map(|s| flow.gaussian(run.sampler.sample(s))).collect()
}

/// Observables of Gaussians at the given times. O(S d³).
///
/// # Errors
/// [`DynamicsError::Decomposition`].
pub fn series(flow: &GaussianFlow, times: &[f64], path: &[Gaussian]) -> Result<GaussianSeries, DynamicsError> {
    let invariants = Invariants::of(flow)?;
    let mut series = GaussianSeries { t: times[..path.len()].to_vec(), ..GaussianSeries::default() };
    for gaussian in path {
        observe(&mut series, gaussian)?;
        series.kernel_invariant.push(invariants.kernel_trace(gaussian));
        series.value_trace.push(invariants.value_trace(gaussian));
    }
    for column in [&mut series.kernel_invariant, &mut series.value_trace] {
        if column.iter().all(Option::is_none) {
            column.clear();
        }
    }
    Ok(series)
}

fn observe(series: &mut GaussianSeries, gaussian: &Gaussian) -> Result<(), DynamicsError> {
    let d = gaussian.dim();
    let mut eigenvalues = gaussian.spectrum()?;
    eigenvalues.resize(d, 0.0);
    let (largest, smallest) = (eigenvalues[0], eigenvalues[d - 1]);
    let rank = eigenvalues.iter().filter(|value| **value > RANK_TOLERANCE * largest).count();
    series.trace.push(finite(gaussian.trace()));
    series.log_det.push(finite(gaussian.log_det()?));
    series.largest_eigenvalue.push(finite(largest));
    series.smallest_eigenvalue.push(finite(smallest));
    series.rank.push(Some(rank as f64));
    series.condition.push(finite(largest / smallest));
    series.mean_norm.push(finite(norm(gaussian.mean())));
    series.eigenvalues.push(eigenvalues);
    let (covariance, drawn) = (gaussian.covariance(), d.min(2));
    series.drawn_mean.push(gaussian.mean()[..drawn].to_vec());
    series.drawn_covariance.push((0..drawn).flat_map(|i| (i..drawn).map(move |j| covariance.at(i, j))).collect());
    Ok(())
}

/// Of two Gaussians: W2, and its parts from covariances and from means.
///
/// # Errors
/// [`DynamicsError::Decomposition`].
pub fn distances(a: &Gaussian, b: &Gaussian) -> Result<[Option<f64>; 3], DynamicsError> {
    let bures = bures_squared(a, b)?;
    let between_means = metastable_dynamics::linalg::squared_distance(a.mean(), b.mean());
    Ok([bures + between_means, bures, between_means].map(|square| finite(square.sqrt())))
}

/// The number, if it is one.
pub fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|v| v.is_finite())
}

impl GaussianSeries {
    /// The columns of one number a time, by name; empty ones are left out.
    pub fn columns(&self) -> Vec<(&'static str, &[Option<f64>])> {
        let all: [(&str, &[Option<f64>]); 9] = [
            ("trace", &self.trace),
            ("log_det", &self.log_det),
            ("largest_eigenvalue", &self.largest_eigenvalue),
            ("smallest_eigenvalue", &self.smallest_eigenvalue),
            ("rank", &self.rank),
            ("condition", &self.condition),
            ("mean_norm", &self.mean_norm),
            ("kernel_invariant", &self.kernel_invariant),
            ("value_trace", &self.value_trace),
        ];
        all.into_iter().filter(|(_, column)| !column.is_empty()).collect()
    }
}
