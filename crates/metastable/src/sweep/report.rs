//! The report of a sweep, as it stands in `report.json`: statistics over seeds, not the table itself.

use serde::Serialize;

use super::axis::{AxisKind, Label};
use super::written::SweepConfig;
use crate::provenance::Provenance;

/// Everything a sweep found.
#[derive(Debug, Clone, Serialize)]
pub struct SweepReport {
    /// The version of this layout.
    pub schema: u32,
    /// "sweep".
    pub job: &'static str,
    /// The config's title.
    pub title: String,
    /// What happened, in sentences.
    pub summary: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Program, seed, machine and inputs.
    pub provenance: Provenance,
    /// The config as resolved.
    pub config: SweepConfig,
    /// How many points there are, and how many failed.
    pub points: Points,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// What varies and is not averaged over; the last is `t` where rows are saved times.
    pub axes: Vec<AxisReport>,
    /// What is averaged over, in words.
    pub ensemble: String,
    /// What the intervals are, in words.
    pub intervals: String,
    /// The columns, over all cells of the axes.
    pub columns: Vec<ColumnReport>,
    /// Curves of theory.
    pub overlays: Vec<Overlay>,
}

/// Numbers of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Points {
    /// All.
    pub total: usize,
    /// Those that ended in an error.
    pub failed: usize,
    /// Points averaged over in each cell.
    pub per_cell: usize,
}

/// A point that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// Its number.
    pub point: usize,
    /// Where it is, in words.
    pub place: String,
    /// Its error.
    pub error: String,
}

/// An axis as it is drawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AxisReport {
    /// Its name.
    pub name: String,
    /// How it is drawn.
    pub kind: AxisKind,
    /// Its values.
    pub values: Vec<Label>,
}

/// A column over all cells; cells are in the order of the axes, the last fastest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub name: String,
    /// Where it stands in the reports of the points.
    pub path: String,
    /// Runs of each cell that have an entry.
    pub count: Vec<usize>,
    /// Means of numbers, none for words.
    pub mean: Option<Vec<Option<f64>>>,
    /// Lower ends of their intervals.
    pub low: Option<Vec<Option<f64>>>,
    /// Upper ends of their intervals.
    pub high: Option<Vec<Option<f64>>>,
    /// How often each word, or each of a few whole numbers, was found.
    pub shares: Option<Vec<ShareReport>>,
    /// How the numbers of a sweep without axes are spread.
    pub bins: Option<Bins>,
}

/// One word (or whole number) of a column over all cells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShareReport {
    /// The word or number.
    pub value: Label,
    /// How often, of `count`.
    pub hits: Vec<usize>,
    /// Lower ends of Wilson's intervals of the shares; none where there is no run.
    pub low: Vec<Option<f64>>,
    /// Upper ends.
    pub high: Vec<Option<f64>>,
}

/// A histogram with equal bins.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bins {
    /// The edges, one more than counts.
    pub edges: Vec<f64>,
    /// The numbers in each bin; the last bin holds its upper edge.
    pub counts: Vec<usize>,
}

/// A curve of theory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overlay {
    /// What it is, for the legend.
    pub words: String,
    /// The axis of its abscissae.
    pub x: String,
    /// The axis of its ordinates.
    pub y: String,
    /// Its points (x, y).
    pub points: Vec<[f64; 2]>,
}
