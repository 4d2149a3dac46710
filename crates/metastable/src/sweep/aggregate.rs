//! From outcomes to the table and to the statistics of the report.

use std::collections::BTreeMap;

use super::axis::{AxisKind, Label};
use super::engine::Outcome;
use super::keep::{Cell, Row};
use super::meant::{Sweep, is_by_time};
use super::report::{AxisReport, Bins, ColumnReport, Failure, ShareReport};
use super::statistics::{Mean, wilson};
use crate::error::LabError;
use crate::table::{Column, Table};

/// A column of whole numbers with at most so many values is also counted.
const MOST_SHARES: usize = 16;
/// The report names at most so many failures; the table has them all.
const MOST_FAILURES: usize = 20;

/// A row of the table with its point.
struct Placed<'a> {
    point: usize,
    row: &'a Row,
}

fn placed(outcomes: &[Outcome]) -> impl Iterator<Item = Placed<'_>> {
    outcomes.iter().enumerate().flat_map(|(point, outcome)| {
        let rows = match outcome {
            Outcome::Rows(rows) => rows.as_slice(),
            Outcome::Failed(_) => &[],
        };
        rows.iter().map(move |row| Placed { point, row })
    })
}

/// The table: point, what varies, seed, t where rows are saved times, what is kept, error. A failed point has one row.
pub(super) fn table(sweep: &Sweep, outcomes: &[Outcome]) -> Result<Table, LabError> {
    let no_row = Row { t: None, cells: vec![Cell::Missing; sweep.kept.len()] };
    let mut rows: Vec<(usize, &Row, &str)> = Vec::new();
    for (point, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Outcome::Rows(of_point) => rows.extend(of_point.iter().map(|row| (point, row, ""))),
            Outcome::Failed(error) => rows.push((point, &no_row, error.as_str())),
        }
    }
    let mut table = Table::new("points");
    // Points and seeds fit: they come from TOML or are counted.
    table.push("point", Column::Integer(rows.iter().map(|(point, ..)| *point as i64).collect()))?;
    let places: Vec<_> = rows.iter().map(|(point, ..)| sweep.place(*point)).collect();
    for (a, axis) in sweep.axes.iter().enumerate() {
        let labels: Vec<&Label> = places.iter().map(|place| &axis.values[place.at[a]].label).collect();
        table.push(&axis.name, label_column(&labels))?;
    }
    table.push("seed", Column::Integer(places.iter().map(|place| place.seed as i64).collect()))?;
    if is_by_time(&sweep.config) {
        table.push("t", Column::Float(rows.iter().map(|(_, row, _)| row.t).collect()))?;
    }
    for (c, kept) in sweep.kept.iter().enumerate() {
        table.push(&kept.name, cell_column(rows.iter().map(|(_, row, _)| &row.cells[c])))?;
    }
    table.push("error", Column::Text(rows.iter().map(|(.., error)| (*error).to_owned()).collect()))?;
    Ok(table)
}

fn label_column(labels: &[&Label]) -> Column {
    let integers: Option<Vec<i64>> =
        labels.iter().map(|label| if let Label::Integer(i) = label { Some(*i) } else { None }).collect();
    let numbers: Option<Vec<Option<f64>>> = labels.iter().map(|label| label.number().map(Some)).collect();
    match (integers, numbers) {
        (Some(integers), _) => Column::Integer(integers),
        (None, Some(numbers)) => Column::Float(numbers),
        (None, None) => Column::Text(labels.iter().map(|label| label.text()).collect()),
    }
}

/// Numbers and truth values (0 and 1, gaps allowed) as numbers; a column with a word as words.
fn cell_column<'a>(cells: impl Iterator<Item = &'a Cell> + Clone) -> Column {
    if cells.clone().any(|cell| matches!(cell, Cell::Text(_))) {
        let text = |cell: &Cell| match cell {
            Cell::Missing => String::new(),
            Cell::Number(number) => format!("{number:?}"),
            Cell::Flag(flag) => flag.to_string(),
            Cell::Text(text) => text.clone(),
        };
        return Column::Text(cells.map(text).collect());
    }
    Column::Float(cells.map(number).collect())
}

fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Number(number) => Some(*number),
        Cell::Flag(flag) => Some(f64::from(u8::from(*flag))),
        Cell::Missing | Cell::Text(_) => None,
    }
}

/// The first failures.
pub(super) fn failures(sweep: &Sweep, outcomes: &[Outcome]) -> Vec<Failure> {
    let failure = |(point, outcome): (usize, &Outcome)| match outcome {
        Outcome::Failed(error) => Some(Failure { point, place: words(sweep, point), error: error.clone() }),
        Outcome::Rows(_) => None,
    };
    outcomes.iter().enumerate().filter_map(failure).take(MOST_FAILURES).collect()
}

/// Where a point is, as "beta = 2, seed 3".
fn words(sweep: &Sweep, point: usize) -> String {
    let place = sweep.place(point);
    let values = sweep.axes.iter().zip(&place.at);
    let mut parts: Vec<String> =
        values.map(|(axis, at)| format!("{} = {}", axis.name, axis.values[*at].label.text())).collect();
    parts.push(format!("seed {}", place.seed));
    parts.join(", ")
}

/// The cells of the report: axes that are not averaged over, and `t` where rows are saved times.
pub(super) struct Cells {
    /// The axes.
    pub(super) axes: Vec<AxisReport>,
    /// The cell of every row of the table's finished points, in order.
    of_rows: Vec<usize>,
    count: usize,
}

impl Cells {
    pub(super) fn new(sweep: &Sweep, outcomes: &[Outcome]) -> Self {
        let drawn: Vec<usize> = (0..sweep.axes.len()).filter(|a| !sweep.axes[*a].is_ensemble).collect();
        let report = |a: &usize| {
            let axis = &sweep.axes[*a];
            let values = axis.values.iter().map(|value| value.label.clone()).collect();
            AxisReport { name: axis.name.clone(), kind: axis.kind, values }
        };
        let mut axes: Vec<AxisReport> = drawn.iter().map(report).collect();
        // Times as bits: equal ones come from the same grid.
        let mut times: Vec<f64> = Vec::new();
        if is_by_time(&sweep.config) {
            times = placed(outcomes).filter_map(|placed| placed.row.t).collect();
            times.sort_by(f64::total_cmp);
            times.dedup();
            let values = times.iter().map(|t| Label::Number(*t)).collect();
            axes.push(AxisReport { name: "t".into(), kind: AxisKind::Linear, values });
        }
        let cell = |placed: Placed| {
            let place = sweep.place(placed.point);
            let cell = drawn.iter().fold(0, |cell, a| cell * sweep.axes[*a].values.len() + place.at[*a]);
            match placed.row.t {
                Some(t) => cell * times.len() + times.partition_point(|other| *other < t),
                None => cell,
            }
        };
        let of_rows = placed(outcomes).map(cell).collect();
        let count = axes.iter().map(|axis| axis.values.len()).product();
        Self { axes, of_rows, count }
    }

    /// The statistics of every column.
    pub(super) fn columns(&self, sweep: &Sweep, outcomes: &[Outcome]) -> Vec<ColumnReport> {
        (0..sweep.kept.len()).map(|c| self.column(sweep, outcomes, c)).collect()
    }

    fn column(&self, sweep: &Sweep, outcomes: &[Outcome], c: usize) -> ColumnReport {
        let mut groups: Vec<Vec<&Cell>> = vec![Vec::new(); self.count];
        for (placed, cell) in placed(outcomes).zip(&self.of_rows) {
            let entry = &placed.row.cells[c];
            // A number that JSON could not hold says nothing about a mean.
            if *entry != Cell::Missing && number(entry).is_none_or(f64::is_finite) {
                groups[*cell].push(entry);
            }
        }
        let confidence = sweep.config.confidence;
        let has_words = groups.iter().flatten().any(|cell| matches!(cell, Cell::Text(_) | Cell::Flag(_)));
        let numbers: Vec<Vec<f64>> =
            groups.iter().map(|group| group.iter().filter_map(|cell| number(cell)).collect()).collect();
        let means: Option<Vec<Option<Mean>>> =
            (!has_words).then(|| numbers.iter().map(|numbers| Mean::of(numbers, confidence)).collect());
        let of_means = |part: fn(&Mean) -> Option<f64>| {
            means.as_ref().map(|means| means.iter().map(|mean| mean.as_ref().and_then(part)).collect())
        };
        ColumnReport {
            name: sweep.kept[c].name.clone(),
            path: sweep.kept[c].path.clone(),
            count: groups.iter().map(Vec::len).collect(),
            mean: of_means(|mean| Some(mean.mean)),
            low: of_means(|mean| mean.interval.map(|interval| interval[0])),
            high: of_means(|mean| mean.interval.map(|interval| interval[1])),
            shares: shares(&groups, confidence),
            bins: if self.count == 1 && !has_words { bins(&numbers[0]) } else { None },
        }
    }
}

/// The word of a cell, or its whole number; nothing for other numbers.
fn word(cell: &Cell) -> Option<(i64, String)> {
    match cell {
        Cell::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some((*number as i64, String::new())),
        Cell::Flag(flag) => Some((0, flag.to_string())),
        Cell::Text(text) => Some((0, text.clone())),
        Cell::Number(_) | Cell::Missing => None,
    }
}

/// How often each word was found, if all entries are words or few whole numbers.
fn shares(groups: &[Vec<&Cell>], confidence: f64) -> Option<Vec<ShareReport>> {
    let mut found: BTreeMap<(i64, String), Vec<usize>> = BTreeMap::new();
    for (g, group) in groups.iter().enumerate() {
        for cell in group {
            let word = word(cell)?;
            found.entry(word).or_insert_with(|| vec![0; groups.len()])[g] += 1;
            if found.len() > MOST_SHARES {
                return None;
            }
        }
    }
    let share = |((integer, text), hits): ((i64, String), Vec<usize>)| {
        let interval = |g: usize| (!groups[g].is_empty()).then(|| wilson(hits[g], groups[g].len(), confidence));
        let (low, high) =
            (0..groups.len()).map(|g| interval(g).map_or((None, None), |[l, h]| (Some(l), Some(h)))).unzip();
        let value = if text.is_empty() { Label::Integer(integer) } else { Label::Text(text) };
        ShareReport { value, hits, low, high }
    };
    (!found.is_empty()).then(|| found.into_iter().map(share).collect())
}

/// A histogram of about √n bins between the least and the greatest number.
fn bins(numbers: &[f64]) -> Option<Bins> {
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !(low < high && (high - low).is_finite()) {
        return None;
    }
    let count = ((numbers.len() as f64).sqrt().ceil() as usize).clamp(2, 60);
    let edges = (0..=count).map(|k| if k == count { high } else { low + (high - low) * (k as f64 / count as f64) });
    let mut counts = vec![0; count];
    for number in numbers {
        // Not negative; the greatest number belongs to the last bin.
        let bin = ((number - low) / (high - low) * count as f64) as usize;
        counts[bin.min(count - 1)] += 1;
    }
    Some(Bins { edges: edges.collect(), counts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_every_number_once() {
        let numbers: Vec<f64> = (0..100).map(|k| f64::from(k) * 0.37).collect();
        let bins = bins(&numbers).unwrap();
        assert_eq!((bins.counts.iter().sum::<usize>(), bins.counts.len(), bins.edges.len()), (100, 10, 11));
        assert_eq!(super::bins(&[1.0, 1.0]), None);
    }

    #[test]
    fn words_and_few_whole_numbers_are_counted_and_others_are_not() {
        let (two, one, half) = (Cell::Number(2.0), Cell::Number(1.0), Cell::Number(0.5));
        let (yes, no) = (Cell::Flag(true), Cell::Flag(false));
        let counted = shares(&[vec![&two, &one, &two], vec![&one]], 0.95).unwrap();
        let hits: Vec<(String, Vec<usize>)> = counted.iter().map(|s| (s.value.text(), s.hits.clone())).collect();
        assert_eq!(hits, [("1".to_string(), vec![1, 1]), ("2".to_string(), vec![2, 0])]);
        assert_eq!(shares(&[vec![&two, &half]], 0.95), None);
        assert_eq!(shares(&[vec![&yes, &no, &yes]], 0.95).unwrap()[1].hits, [2]);
        assert_eq!(shares(&[vec![]], 0.95), None);
    }
}
