//! What a sweep did, in sentences: the same for the terminal and for the page.

use super::meant::Sweep;
use super::report::{ColumnReport, SweepReport};

/// What is averaged over.
pub(super) fn ensemble(sweep: &Sweep) -> String {
    let draws = sweep.axes.iter().filter(|axis| axis.is_ensemble);
    let mut parts: Vec<String> = draws.map(|axis| format!("{} values of {}", axis.values.len(), axis.name)).collect();
    parts.push(match sweep.seeds[..] {
        [one] => format!("seed {one}"),
        [first, .., last] if last.checked_sub(first) == Some(sweep.seeds.len() as u64 - 1) => {
            format!("{} seeds, {first} to {last}", sweep.seeds.len())
        }
        _ => format!("{} seeds", sweep.seeds.len()),
    });
    parts.join(" x ")
}

/// What the intervals are.
pub(super) fn intervals(confidence: f64) -> String {
    let percent = 100.0 * confidence;
    format!("{percent} % confidence: Student's t for means, Wilson's for shares")
}

/// What the user should know.
pub(super) fn warnings(report: &SweepReport) -> Vec<String> {
    let mut warnings = Vec::new();
    let points = report.points;
    if points.failed > 0 {
        warnings.push(format!("{} of {} points failed: see the column `error`", points.failed, points.total));
    }
    for column in &report.columns {
        if points.failed < points.total && column.count.iter().all(|count| *count == 0) {
            warnings
                .push(format!("the column `{}` is empty: no point has a number at \"{}\"", column.name, column.path));
        }
    }
    warnings
}

/// The summary of a report.
pub(super) fn sentences(report: &SweepReport) -> Vec<String> {
    let axes: Vec<String> =
        report.axes.iter().map(|axis| format!("{} values of {}", axis.values.len(), axis.name)).collect();
    let over = if axes.is_empty() { String::new() } else { format!("{}; ", axes.join(" x ")) };
    let points = report.points;
    let failed = if points.failed > 0 { format!(", {} failed", points.failed) } else { String::new() };
    let mut sentences = vec![format!("{} points{failed}: {over}{}.", points.total, report.ensemble)];
    // One cell or a few can be said; more are for figures and table.
    if report.axes.iter().map(|axis| axis.values.len()).product::<usize>() == 1 {
        sentences.extend(report.columns.iter().filter_map(one_cell));
    }
    sentences.push(format!("Intervals: {}.", report.intervals));
    sentences
}

/// What a column of one cell says.
fn one_cell(column: &ColumnReport) -> Option<String> {
    let count = column.count[0];
    if let Some(shares) = &column.shares {
        let parts: Vec<String> =
            shares.iter().map(|share| format!("{} in {}", share.value.text(), share.hits[0])).collect();
        return Some(format!("{}: {} of {count} runs.", column.name, parts.join(", ")));
    }
    let mean = column.mean.as_ref()?[0]?;
    let ends = (column.low.as_ref()?[0], column.high.as_ref()?[0]);
    let interval = if let (Some(low), Some(high)) = ends { format!(" [{low:.6}, {high:.6}]") } else { String::new() };
    Some(format!("{}: mean {mean:.6}{interval} of {count} runs.", column.name))
}
