//! What a few seeds say: medians, quartiles, and intervals by resampling.

use metastable_dynamics::random;

/// Draws of the bootstrap: the ends of a 95 % interval are then good to about a percent of its level.
const RESAMPLES: usize = 4000;

/// The quantile `q` of numbers, between neighbours along a line; infinities are the largest, none for no number.
pub(crate) fn quantile(numbers: &[f64], q: f64) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (sorted.len().checked_sub(1)? as f64);
    let (low, share) = (place.floor() as usize, place.fract());
    let (below, above) = (sorted[low], sorted[(low + 1).min(sorted.len() - 1)]);
    Some(if share == 0.0 || below == above { below } else { below + share * (above - below) })
}

/// The middle of numbers.
pub(crate) fn median(numbers: &[f64]) -> Option<f64> {
    quantile(numbers, 0.5)
}

/// A 95 % percentile interval of the median by resampling, the same for the same numbers; none for fewer than two. For
/// five runs it nearly is their range: a median of five is not known better.
pub(crate) fn bootstrap(numbers: &[f64]) -> Option<[f64; 2]> {
    let n = numbers.len();
    if n < 2 {
        return None;
    }
    let draws = random::uniforms(0x626f_6f74, n as u64, RESAMPLES * n);
    let resampled = |draw: &[f64]| {
        // A uniform number below 1 times n is below n.
        let picked: Vec<f64> = draw.iter().map(|u| numbers[(u * n as f64) as usize]).collect();
        median(&picked)
    };
    let medians: Vec<f64> = draws.chunks_exact(n).filter_map(resampled).collect();
    Some([quantile(&medians, 0.025)?, quantile(&medians, 0.975)?])
}

/// "median [low, high]" for people.
pub(crate) fn words(numbers: &[f64]) -> String {
    match (median(numbers), bootstrap(numbers)) {
        (Some(middle), Some([low, high])) => format!("{} [{}, {}]", short(middle), short(low), short(high)),
        (Some(middle), None) => short(middle),
        (None, _) => "none".into(),
    }
}

/// Three digits.
pub(crate) fn short(x: f64) -> String {
    if !x.is_finite() {
        return "diverged".into();
    }
    if x == 0.0 || (1e-3..1e5).contains(&x.abs()) {
        let digits = if x == 0.0 { 0 } else { (2 - x.abs().log10().floor() as i32).clamp(0, 6) as usize };
        return format!("{x:.digits$}");
    }
    format!("{x:.2e}")
}
