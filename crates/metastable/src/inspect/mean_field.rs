//! The layers' mean cosine against the mean-field prediction gamma_beta.

use metastable_dynamics::closed_form::equiangular::{Weights, cosine_rate};
use serde::Serialize;

use super::report::{LayerRow, NormRow};

/// The β of the prediction, and of the report's energy.
pub const BETA: f64 = 1.0;

/// How the mean cosine of a text follows the common cosine of equiangular tokens.
#[derive(Debug, Clone, Serialize)]
pub struct MeanField {
    /// β of the prediction.
    pub beta: f64,
    /// How many tokens.
    pub n: usize,
    /// Which tokens: "without special tokens", or "without special tokens and the first" where attention is causal.
    pub tokens: &'static str,
    /// The time that one layer takes: the one number that is fitted, by least squares over the levels.
    pub time_per_layer: f64,
    /// Root mean square of the residuals.
    pub rms_residual: f64,
    /// A row a level.
    pub levels: Vec<MeanFieldLevel>,
}

/// One level.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MeanFieldLevel {
    /// The level.
    pub index: usize,
    /// Mean cosine of the chosen tokens, before the final norm.
    pub mean_cosine: f64,
    /// gamma_β(index·time_per_layer), started at the mean cosine of level 0.
    pub gamma: f64,
    /// mean_cosine - gamma.
    pub residual: f64,
}

/// The prediction g' = 2 e^{βg} (1 - g) ((n-1) g + 1)/(e^β + (n-1) e^{βg}) from level 0 on, at a constant time a layer.
///
/// None for fewer than two tokens or levels, and where a mean cosine does not exist.
///
/// # References
/// B. Geshkovski et al. 2312.10794, section 5: attention with Q = K = V = I on the sphere \[text\]\[code\]; that real
/// layers have some constant speed is an assumption of this comparison, and the residuals are its test.
pub(super) fn of(layers: &[LayerRow], before_norm: Option<&NormRow>) -> Option<MeanField> {
    let (tokens, measured, n) = cosines(layers, before_norm)?;
    if n < 2 || measured.len() < 2 || 1.0 + (n as f64 - 1.0) * measured[0] <= 0.0 || measured[0] >= 1.0 {
        return None;
    }
    let error = |step: f64| -> f64 {
        let curve = gamma(n, measured[0], step, measured.len());
        curve.iter().zip(&measured).map(|(g, m)| (g - m) * (g - m)).sum()
    };
    let step = least(&error, LONGEST_RUN / (measured.len() - 1) as f64);
    let levels: Vec<MeanFieldLevel> = gamma(n, measured[0], step, measured.len())
        .into_iter()
        .zip(&measured)
        .enumerate()
        .map(|(index, (gamma, m))| MeanFieldLevel { index, mean_cosine: *m, gamma, residual: m - gamma })
        .collect();
    let rms_residual = (error(step) / measured.len() as f64).sqrt();
    Some(MeanField { beta: BETA, n, tokens, time_per_layer: step, rms_residual, levels })
}

/// In this time the cosine of any text goes to 1.
const LONGEST_RUN: f64 = 20.0;

/// The tokens that are words, where there are some; of the last level before the final norm.
fn cosines(layers: &[LayerRow], before_norm: Option<&NormRow>) -> Option<(&'static str, Vec<f64>, usize)> {
    let first = layers.first()?;
    let kinds = [
        ("without special tokens and the first", first.without_first.as_ref().map(|row| row.count)),
        ("without special tokens", first.without_special.as_ref().map(|row| row.count)),
    ];
    let of = |name: &str, row: &LayerRow| match name {
        "without special tokens and the first" => row.without_first.as_ref().and_then(|row| row.mean_cosine),
        _ => row.without_special.as_ref().and_then(|row| row.mean_cosine),
    };
    let (name, count) = kinds.into_iter().find_map(|(name, count)| Some((name, count.filter(|n| *n > 1)?)))?;
    let mut measured: Vec<f64> = layers.iter().map(|row| of(name, row)).collect::<Option<_>>()?;
    if let (Some(norm), Some(last)) = (before_norm, measured.last_mut()) {
        let row = if name.ends_with("first") { &norm.without_first } else { &norm.without_special };
        *last = row.as_ref().and_then(|row| row.mean_cosine)?;
    }
    Some((name, measured, count))
}

/// gamma at 0, step, 2·step, …: classical Runge-Kutta with steps of at most 0.02, error below 1e-8.
fn gamma(n: usize, initial: f64, step: f64, levels: usize) -> Vec<f64> {
    let rate = |g: f64| cosine_rate(Weights::Softmax, n, BETA, g);
    let parts = (step / 0.02).ceil().max(1.0);
    let h = step / parts;
    let mut g = initial;
    let mut curve = vec![g];
    for _ in 1..levels {
        for _ in 0..parts as usize {
            let k1 = rate(g);
            let k2 = rate(g + 0.5 * h * k1);
            let k3 = rate(g + 0.5 * h * k2);
            let k4 = rate(g + h * k3);
            g += h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4);
        }
        curve.push(g);
    }
    curve
}

/// The place in [0, end] where `error` is least: the best of a grid, refined by thirds.
fn least(error: &impl Fn(f64) -> f64, end: f64) -> f64 {
    const CELLS: usize = 200;
    // Finer where steps are small.
    let at = |cell: usize| end * (cell as f64 / CELLS as f64).powi(2);
    let values: Vec<f64> = (0..=CELLS).map(|cell| error(at(cell))).collect();
    let best = (0..=CELLS).min_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0);
    let (mut low, mut high) = (at(best.saturating_sub(1)), at((best + 1).min(CELLS)));
    for _ in 0..60 {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if error(a) <= error(b) { high = b } else { low = a }
    }
    // The fit may stand still at 0 exactly.
    let refined = 0.5 * (low + high);
    if error(0.0) <= error(refined) { 0.0 } else { refined }
}

/// What the numbers are.
pub(super) fn definition() -> String {
    format!(
        "mean_field: the mean cosine of the words, before the final norm, against gamma_beta, the common cosine of \
         equiangular tokens under attention with Q = K = V = I and beta = {BETA}, started at level 0; the time of a layer is \
         fitted, residual = mean cosine - gamma_beta."
    )
}

#[cfg(test)]
mod tests {
    use metastable_dynamics::closed_form::equiangular::crossing_time;

    use super::*;

    #[test]
    fn the_curve_crosses_levels_when_the_closed_form_says() {
        let curve = gamma(33, 0.05, 0.4, 6);
        for (k, g) in curve.iter().enumerate().skip(1) {
            let t = crossing_time(Weights::Softmax, 33, BETA, 0.05, *g);
            assert!((t - 0.4 * k as f64).abs() < 1e-7, "{k}: {t}");
        }
    }

    #[test]
    fn a_curve_of_the_law_is_fitted_without_residual_and_a_still_one_with_step_zero() {
        let measured = gamma(20, 0.1, 0.037, 8);
        let error =
            |step: f64| -> f64 { gamma(20, 0.1, step, 8).iter().zip(&measured).map(|(g, m)| (g - m) * (g - m)).sum() };
        assert!((least(&error, LONGEST_RUN / 7.0) - 0.037).abs() < 1e-6);
        let falling = |step: f64| -> f64 { gamma(20, 0.1, step, 8).iter().map(|g| g * g).sum() };
        assert_eq!(least(&falling, LONGEST_RUN / 7.0), 0.0);
    }
}
