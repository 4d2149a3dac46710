//! Observables over time: base and twin in one panel, the twin times marked.

use crate::render::palette::TWIN;
use crate::render::read::{self, TWIN_TIMES};
use crate::render::svg::{Drawing, INK, Panel, SOFT, Scale, Stroke, legend, time_mark};
use serde_json::Value;

const WIDTH: f64 = 560.0;
const PLOT: (f64, f64) = (66.0, 544.0);
const TOP: f64 = 52.0;
const BOTTOM: f64 = 292.0;

pub(super) type Points = Vec<(f64, Option<f64>)>;

/// One line of a plot with its words for the legend.
pub(super) struct Line<'a> {
    pub(super) words: String,
    pub(super) points: Points,
    pub(super) stroke: Stroke<'a>,
}

/// Draws `clusters.svg`: the number of clusters against time.
pub(super) fn clusters(report: &Value) -> Option<String> {
    let radius = read::number(report, "/clusters/radius")
        .map_or(String::new(), |r| format!("Clusters: single linkage at radius {}.", read::short(r)));
    plot(report, "Number of clusters", "number of clusters", pair(report, "n_clusters", ""), &radius)
}

/// Draws `energy.svg`: the interaction energy, or its logarithm where the energy itself overflows.
pub(super) fn energy(report: &Value) -> Option<String> {
    let complete = |column: &str| read::column(report, &format!("/series/{column}")).iter().all(Option::is_some);
    let has_log = !read::column(report, "/series/log_energy").is_empty();
    if has_log && !complete("energy") {
        plot(report, "Interaction energy", "log energy, log $E$", pair(report, "log_energy", ""), "")
    } else {
        plot(report, "Interaction energy", "interaction energy $E$", pair(report, "energy", ""), "")
    }
}

/// Draws `cosine.svg`: mean, least and greatest cosine between tokens.
pub(super) fn cosine(report: &Value) -> Option<String> {
    let mut lines = pair(report, "mean_cosine", "mean");
    for (column, words) in [("min_cosine", "least"), ("max_cosine", "greatest")] {
        let points = read::curve(report, "/series/t", &format!("/series/{column}"));
        if points.iter().any(|(_, y)| y.is_some()) {
            let stroke = Stroke {
                colour: SOFT,
                width: 1.0,
                dash: if column == "min_cosine" { "1.5 2.5" } else { "5 2.5" },
                opacity: 1.0,
            };
            lines.push(Line { words: format!("{words}, base"), points, stroke });
        }
    }
    plot(report, "Cosine between tokens", "cosine", lines, "Cosines over pairs of different tokens.")
}

/// Draws `distances.svg`: measured distances between base and twin, and the proven envelope, on a logarithmic axis.
///
/// The axis ends four decades above the greatest measured distance; the envelope may leave the panel there.
pub(super) fn distances(report: &Value) -> Option<String> {
    let twin = &report["twin"];
    let times = if twin.pointer("/series/t").is_some() { "/twin/series/t" } else { "/series/t" };
    let curve = |path: &str| read::curve(report, times, path);
    let stroke = |colour, width, dash| Stroke { colour, width, dash, opacity: 1.0 };
    let measured = [
        ("largest, max", curve("/twin/paired_distance/max"), stroke(TWIN, 1.8, "")),
        ("root mean square", curve("/twin/paired_distance/rms"), stroke("#0072b2", 1.5, "6 2.5")),
        ("$W_2$", curve("/twin/wasserstein2"), stroke("#009e73", 1.5, "1.5 2.5")),
    ];
    let mut lines: Vec<Line> = measured
        .into_iter()
        .map(|(words, points, stroke)| Line { words: words.to_owned(), points, stroke })
        .filter(|line| line.points.iter().any(|(_, y)| y.is_some_and(|y| y > 0.0)))
        .collect();
    let positive = || lines.iter().flat_map(|line| &line.points).filter_map(|(_, y)| y.filter(|y| *y > 0.0));
    let (low, high) = positive().fold((f64::INFINITY, 0.0f64), |(low, high), y| (low.min(y), high.max(y)));
    if high == 0.0 {
        return None;
    }
    let bound = curve("/twin/bound");
    let has_bound = bound.iter().any(|(_, y)| y.is_some());
    if has_bound {
        let words = format!("proven envelope {}", read::text(twin, "/bound_name"));
        lines.push(Line { words, points: bound, stroke: stroke(INK, 1.3, "") });
    }
    let ceiling = if has_bound { high * 1e4 } else { high * 3.0 };
    let panel = Panel { x: time_scale(&lines)?, y: Scale::log((low.max(high * 1e-14), ceiling), (BOTTOM, TOP)) };
    let source = match read::text(twin, "/bound_source") {
        "" => read::text(twin, "/bound_reason"),
        source => source,
    };
    let what = if report["gaussian"].is_null() { "tokens" } else { "Gaussians (Bures-Wasserstein)" };
    let words = format!("Distance between base and LoRA {what}. {source}");
    Some(finish(report, "Distance between base and twin", "distance $\u{3b4}$", &lines, &panel, &words))
}

/// The base column and, beside it, the same column of the twin.
fn pair<'a>(report: &Value, column: &str, words: &str) -> Vec<Line<'a>> {
    let named = |run: &str| if words.is_empty() { run.to_owned() } else { format!("{words}, {run}") };
    let line = |of: &str, words, stroke| Line {
        words,
        points: read::curve(report, &format!("{of}/series/t"), &format!("{of}/series/{column}")),
        stroke,
    };
    let base = line("", named("base"), Stroke::solid(INK, 1.6));
    let twin = line("/twin", named("with LoRA"), Stroke { colour: TWIN, width: 1.6, dash: "6 2.5", opacity: 1.0 });
    [base, twin].into_iter().filter(|line| line.points.iter().any(|(_, y)| y.is_some())).collect()
}

pub(super) fn plot(report: &Value, title: &str, y_label: &str, lines: Vec<Line>, words: &str) -> Option<String> {
    let values = || lines.iter().flat_map(|line| &line.points).filter_map(|(_, y)| *y);
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return None;
    }
    let margin = 0.06 * (high - low);
    let y = Scale::linear((low - margin, high + margin), (BOTTOM, TOP));
    let panel = Panel { x: time_scale(&lines)?, y };
    Some(finish(report, title, y_label, &lines, &panel, words))
}

fn time_scale(lines: &[Line]) -> Option<Scale> {
    let times = || lines.iter().flat_map(|line| &line.points).map(|(t, _)| *t);
    let (low, high) = (times().fold(f64::INFINITY, f64::min), times().fold(f64::NEG_INFINITY, f64::max));
    (low <= high).then(|| Scale::linear((low, high), PLOT))
}

fn finish(report: &Value, title: &str, y_label: &str, lines: &[Line], panel: &Panel, words: &str) -> String {
    let mut drawing = Drawing::new(WIDTH, BOTTOM + 92.0, title);
    let x_label = match read::text(report, "/axis/name") {
        "" | "time" => format!("time ${}$", read::axis_symbol(report)),
        name => name.to_owned(),
    };
    drawing.axes(panel, &x_label, y_label);
    for (key, _, symbol) in TWIN_TIMES {
        if let Some(time) = read::twin_time(report, key).and_then(|found| found.value) {
            time_mark(&mut drawing, panel, time, symbol);
        }
    }
    for line in lines {
        drawing.curve(panel, &line.points, line.stroke);
    }
    let entries: Vec<(&str, Stroke)> = lines.iter().map(|line| (line.words.as_str(), line.stroke)).collect();
    legend(&mut drawing, (PLOT.0, 18.0), &entries);
    drawing.caption(BOTTOM + 54.0, PLOT.0, &format!("{}. {words}", read::caption(report)));
    drawing.finish()
}
