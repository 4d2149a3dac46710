//! Curves of theory over a figure.

use std::path::Path;

use metastable_dynamics::closed_form::equiangular::{Weights, crossing_time};

use super::axis::Axis;
use super::report::Overlay;
use super::written::{OverlayConfig, OverlayCurve};
use crate::error::LabError;

/// Points of a curve.
const POINTS: usize = 200;

/// The curves that a config asks for, over the axis of beta.
///
/// gamma_beta is the common cosine of n tokens that start orthogonal; the curve is where it reaches the level, that is
/// t = ∫_0^level dg / g'(g; beta). Tokens that start uniform on a sphere of high dimension follow it \[text\].
///
/// # Errors
/// [`LabError`] if no axis varies `kernel.beta`, for a level outside (0, 1), or an unknown number of tokens.
///
/// # References
/// Geshkovski et al. 2312.10794, section 6 and figure 5 (phase diagram over t and beta).
pub(super) fn overlays(
    written: &[OverlayConfig],
    axes: &[Axis],
    base: &toml::Table,
    file: &Path,
) -> Result<Vec<Overlay>, LabError> {
    let curve = |(k, overlay): (usize, &OverlayConfig)| {
        let wrong = |key: &str, expected: &str, found: String| {
            LabError::wrong_value(file, &format!("overlay[{k}].{key}"), expected.to_owned(), found)
        };
        let is_beta =
            |axis: &&Axis| axis.values.iter().all(|value| value.set.iter().any(|(key, _)| key == "kernel.beta"));
        let Some(axis) = axes.iter().find(is_beta) else {
            return Err(wrong("curve", "an entry of vary with the key \"kernel.beta\"", "none".into()));
        };
        let betas: Vec<f64> = axis.values.iter().filter_map(|value| value.label.number()).collect();
        if !(overlay.level > 0.0 && overlay.level < 1.0) {
            return Err(wrong("level", "a cosine between 0 and 1", overlay.level.to_string()));
        }
        let of_base = || base.get("tokens")?.get("n")?.as_integer().and_then(|n| usize::try_from(n).ok());
        let n = match overlay.n.or_else(of_base) {
            Some(n) if n >= 2 => n,
            other => return Err(wrong("n", "at least two tokens", other.map_or("none".into(), |n| n.to_string()))),
        };
        let weights = match overlay.curve {
            OverlayCurve::Gamma => Weights::Softmax,
            OverlayCurve::GammaUnnormalised => Weights::Unnormalised,
        };
        let low = betas.iter().copied().fold(f64::INFINITY, f64::min);
        let high = betas.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let beta = |k: usize| low + (high - low) * (k as f64 / (POINTS - 1) as f64);
        let points = (0..POINTS).map(|k| [crossing_time(weights, n, beta(k), 0.0, overlay.level), beta(k)]);
        Ok(Overlay {
            words: format!("gamma_beta(t) = {} for n = {n}", overlay.level),
            x: "t".into(),
            y: axis.name.clone(),
            points: points.filter(|[t, _]| t.is_finite()).collect(),
        })
    };
    written.iter().enumerate().map(curve).collect()
}
