//! Particles against moments: errors in units of 1/√n, and whether the comparison is valid.

use metastable_dynamics::linalg::{norm, squared_distance};
use metastable_dynamics::measure::Gaussian;

use super::particles::{Draw, Particles};
use super::report::ParticlesReport;
use super::series::finite;

/// Particles are called too few where their reach exceeds this part of √(2 ln n), that is √ln n: there the relative
/// variance (e^w - 1)/n of the empirical partition function passes one.
const TOO_FAR: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// The comparison for every number of particles, in the order of the config.
pub fn compare(particles: &Particles, draws: &[Draw], path: &[Gaussian], times: &[f64]) -> Vec<ParticlesReport> {
    let of_count = |(k, _): (usize, &usize)| &draws[k * particles.repeats..(k + 1) * particles.repeats];
    let groups = particles.counts.iter().enumerate().map(of_count);
    groups.map(|group| compare_one(group, path, times)).collect()
}

fn compare_one(draws: &[Draw], path: &[Gaussian], times: &[f64]) -> ParticlesReport {
    let (start, count) = (&path[0], draws[0].count);
    let d = start.dim();
    let saved = draws.iter().map(|draw| draw.means.len() / d).min().unwrap_or(0).min(path.len());
    let n = count as f64;
    // Root mean square over the draws, times √n.
    let scaled =
        |square: &dyn Fn(&Draw) -> f64| finite((n * draws.iter().map(square).sum::<f64>() / draws.len() as f64).sqrt());
    let mean_error = (0..saved)
        .map(|s| scaled(&|draw: &Draw| squared_distance(&draw.means[s * d..(s + 1) * d], path[s].mean())))
        .collect();
    let covariance_error = (0..saved)
        .map(|s| {
            let exact = path[s].covariance().as_slice();
            scaled(&|draw: &Draw| squared_distance(&draw.covariances[s * d * d..(s + 1) * d * d], exact))
        })
        .collect();
    let reach: Vec<Option<f64>> = (0..saved)
        .map(|s| draws.iter().map(|draw| draw.reach.as_ref()?.get(s).copied()).reduce(|a, b| Some(a?.max(b?)))?)
        .collect();
    let limit = (2.0 * n.ln()).sqrt();
    let invalid = reach.iter().position(|reach| reach.is_some_and(|reach| reach > TOO_FAR * limit));
    let trace = start.trace();
    ParticlesReport {
        count,
        repeats: draws.len(),
        mean_error,
        covariance_error,
        sampling_mean_error: trace.sqrt(),
        sampling_covariance_error: (trace * trace + norm(start.covariance().as_slice()).powi(2)).sqrt(),
        reach,
        limit,
        invalid_from: invalid.map(|s| times[s]),
    }
}

/// What the user should know about the validity of the comparison.
pub fn warnings(reports: &[ParticlesReport]) -> Vec<String> {
    let warn = |report: &ParticlesReport| {
        let t = report.invalid_from?;
        Some(format!(
            "{} particles are too few to follow the moments from t = {t} on: the largest sqrt(x' A' S A x) exceeds \
             sqrt(ln n) = {:.3}, so an average of e^score over n particles is no average",
            report.count,
            TOO_FAR * report.limit
        ))
    };
    reports.iter().filter_map(warn).collect()
}
