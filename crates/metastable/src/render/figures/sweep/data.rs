//! The parts of a sweep's report that figures need.

use crate::render::read;
use serde_json::Value;

/// Axes and columns; a cell is a value of every axis, the last axis fastest.
pub(super) struct Sweep {
    pub(super) axes: Vec<Axis>,
    pub(super) columns: Vec<Column>,
    pub(super) overlays: Vec<Overlay>,
}

/// Something that varies.
pub(super) struct Axis {
    pub(super) name: String,
    /// The numbers, where all values are numbers that are drawn along a scale.
    pub(super) numbers: Option<Vec<f64>>,
    pub(super) labels: Vec<String>,
    pub(super) is_log: bool,
}

/// A column over all cells.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) count: Vec<usize>,
    pub(super) mean: Vec<Option<f64>>,
    pub(super) low: Vec<Option<f64>>,
    pub(super) high: Vec<Option<f64>>,
    pub(super) shares: Vec<Share>,
    pub(super) bins: Option<(Vec<f64>, Vec<usize>)>,
}

/// How often a word was found in every cell.
pub(super) struct Share {
    pub(super) label: String,
    pub(super) hits: Vec<usize>,
    pub(super) low: Vec<Option<f64>>,
    pub(super) high: Vec<Option<f64>>,
}

/// A curve of theory.
pub(super) struct Overlay {
    pub(super) words: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// One value of every axis but those that are drawn.
pub(super) struct Slice {
    /// Which value of every axis; those of drawn axes do not count.
    pub(super) at: Vec<usize>,
    /// As "scheme = exact, d = 3".
    pub(super) words: String,
}

/// Slices beyond this are not drawn.
const MOST_SLICES: usize = 12;

impl Sweep {
    pub(super) fn of(report: &Value) -> Self {
        Self {
            axes: read::array(report, "/axes").iter().map(axis).collect(),
            columns: read::array(report, "/columns").iter().map(column).collect(),
            overlays: read::array(report, "/overlays").iter().map(overlay).collect(),
        }
    }

    /// Axes that are drawn along a scale: at least two numbers.
    pub(super) fn numeric_axes(&self) -> Vec<usize> {
        let is_numeric = |axis: &Axis| axis.numbers.as_ref().is_some_and(|numbers| numbers.len() >= 2);
        (0..self.axes.len()).filter(|a| is_numeric(&self.axes[*a])).collect()
    }

    /// The number of cells.
    pub(super) fn cells(&self) -> usize {
        self.axes.iter().map(|axis| axis.labels.len()).product()
    }

    /// The cell at a value of every axis.
    pub(super) fn cell(&self, at: &[usize]) -> usize {
        self.axes.iter().zip(at).fold(0, |cell, (axis, at)| cell * axis.labels.len() + at)
    }

    /// All combinations of the axes that are not `drawn`, the first few of them.
    pub(super) fn slices(&self, drawn: &[usize]) -> Vec<Slice> {
        let others: Vec<usize> = (0..self.axes.len()).filter(|a| !drawn.contains(a)).collect();
        let mut slices = vec![Slice { at: vec![0; self.axes.len()], words: String::new() }];
        for a in others {
            let axis = &self.axes[a];
            let with = |slice: &Slice, k: usize| {
                let mut at = slice.at.clone();
                at[a] = k;
                let here =
                    if axis.labels.len() > 1 { format!("{} = {}", axis.name, axis.labels[k]) } else { String::new() };
                let between = if slice.words.is_empty() || here.is_empty() { "" } else { ", " };
                Slice { at, words: format!("{}{between}{here}", slice.words) }
            };
            slices = slices
                .iter()
                .flat_map(|slice| (0..axis.labels.len()).map(move |k| (slice, k)))
                .take(MOST_SLICES)
                .map(|(slice, k)| with(slice, k))
                .collect();
        }
        slices
    }
}

/// Says which sweep a figure shows.
pub(super) fn caption(report: &Value) -> String {
    let mut parts = vec![read::text(report, "/title").to_owned(), read::text(report, "/ensemble").to_owned()];
    let version = read::text(report, "/provenance/version");
    if !version.is_empty() {
        parts.push(format!("metastable {version}"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}

/// What the number of a cell is, of the numbers of its runs: a mean, unless the report says otherwise.
pub(super) fn statistic(report: &Value) -> &str {
    match read::text(report, "/statistic") {
        "" => "mean over the runs of a cell",
        other => other,
    }
}

fn label(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), read::short),
        other => other.to_string(),
    }
}

fn axis(value: &Value) -> Axis {
    let values = read::array(value, "/values");
    let kind = read::text(value, "/kind");
    let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
    Axis {
        name: read::text(value, "/name").to_owned(),
        numbers: numbers.filter(|_| kind != "cases"),
        labels: values.iter().map(label).collect(),
        is_log: kind == "logarithmic",
    }
}

fn counts(value: &Value, pointer: &str) -> Vec<usize> {
    // Counts of runs are far below 2^53.
    read::column(value, pointer).into_iter().map(|count| count.unwrap_or(0.0) as usize).collect()
}

fn column(value: &Value) -> Column {
    let share = |share: &Value| Share {
        label: label(&share["value"]),
        hits: counts(share, "/hits"),
        low: read::column(share, "/low"),
        high: read::column(share, "/high"),
    };
    let edges: Vec<f64> = read::column(value, "/bins/edges").into_iter().flatten().collect();
    Column {
        name: read::text(value, "/name").to_owned(),
        count: counts(value, "/count"),
        mean: read::column(value, "/mean"),
        low: read::column(value, "/low"),
        high: read::column(value, "/high"),
        shares: read::array(value, "/shares").iter().map(share).collect(),
        bins: (edges.len() >= 2).then(|| (edges, counts(value, "/bins/counts"))),
    }
}

fn overlay(value: &Value) -> Overlay {
    let point = |point: &Value| Some((point.get(0)?.as_f64()?, point.get(1)?.as_f64()));
    Overlay {
        words: read::text(value, "/words").to_owned(),
        x: read::text(value, "/x").to_owned(),
        y: read::text(value, "/y").to_owned(),
        points: read::array(value, "/points").iter().filter_map(point).collect(),
    }
}
