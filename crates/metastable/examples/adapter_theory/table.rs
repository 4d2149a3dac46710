//! Cells of a grid with several seeds each: their table, and the report that the lab's figures are drawn from.

use std::error::Error;
use std::path::Path;

use metastable::provenance::Provenance;
use metastable::publish::publish_without_clouds;
use metastable::run_dir::{Existing, RunDir};
use metastable::table::{Column, Table};
use serde_json::{Value, json};

use crate::statistics::{bootstrap, median, quantile};

/// What varies: a name, its values, and whether they stand on a logarithmic scale (else side by side or evenly).
pub(crate) enum Axis {
    Words(&'static str, Vec<String>),
    Linear(&'static str, Vec<f64>),
    Logarithmic(&'static str, Vec<f64>),
}

impl Axis {
    fn len(&self) -> usize {
        match self {
            Self::Words(_, values) => values.len(),
            Self::Linear(_, values) | Self::Logarithmic(_, values) => values.len(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Words(name, values) => json!({"name": name, "kind": "cases", "values": values}),
            Self::Linear(name, values) => json!({"name": name, "kind": "linear", "values": values}),
            Self::Logarithmic(name, values) => json!({"name": name, "kind": "logarithmic", "values": values}),
        }
    }
}

/// What bands of figures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Band {
    Quartiles,
    Bootstrap,
}

impl Band {
    fn words(self) -> &'static str {
        match self {
            Self::Quartiles => "lines are medians over seeds, bands go from quartile to quartile",
            Self::Bootstrap => "lines are medians over seeds, bands 95 % bootstrap intervals",
        }
    }

    fn of(self, numbers: &[f64]) -> Option<[f64; 2]> {
        match self {
            Self::Bootstrap => bootstrap(numbers),
            Self::Quartiles => Some([quantile(numbers, 0.25)?, quantile(numbers, 0.75)?]),
        }
    }
}

/// A quantity over all cells, the last axis fastest, with the numbers of all seeds in each.
pub(crate) struct Quantity {
    pub(crate) name: String,
    pub(crate) cells: Vec<Vec<f64>>,
}

/// A finished experiment.
pub(crate) struct Findings {
    pub(crate) title: String,
    pub(crate) sentences: Vec<String>,
    pub(crate) seeds: Vec<u64>,
    pub(crate) axes: Vec<Axis>,
    pub(crate) band: Band,
    pub(crate) quantities: Vec<Quantity>,
    /// All numbers, one row a run.
    pub(crate) table: Table,
    /// What else belongs to the report.
    pub(crate) details: Value,
}

impl Findings {
    /// The report, in the form from which the lab draws sweeps: medians where a sweep has means.
    pub(crate) fn report(&self) -> Value {
        let cells: usize = self.axes.iter().map(Axis::len).product();
        let finite = |x: f64| x.is_finite().then_some(x);
        let column = |quantity: &Quantity| {
            assert_eq!(quantity.cells.len(), cells, "a list of numbers for every cell of {}", quantity.name);
            let middle: Vec<_> = quantity.cells.iter().map(|runs| median(runs).and_then(finite)).collect();
            let ends: Vec<_> = quantity.cells.iter().map(|runs| self.band.of(runs)).collect();
            let end = |k: usize| ends.iter().map(|ends| ends.and_then(|ends| finite(ends[k]))).collect::<Vec<_>>();
            let count: Vec<usize> = quantity.cells.iter().map(Vec::len).collect();
            json!({"name": quantity.name, "path": "", "count": count, "mean": middle, "low": end(0), "high": end(1)})
        };
        // Rows of a Markdown table are for the terminal and for papers/; the page shows sentences.
        let (rows, summary): (Vec<&str>, Vec<&str>) =
            self.sentences.iter().map(String::as_str).partition(|sentence| sentence.starts_with('|'));
        json!({
            "schema": metastable::run_dir::SCHEMA,
            "job": "sweep",
            "title": self.title,
            "summary": summary,
            "markdown": rows.join("\n"),
            "warnings": [],
            "provenance": Provenance::new(self.seeds.first().copied().unwrap_or_default(), "f64"),
            "seeds": self.seeds,
            "points": {"total": self.table.rows(), "failed": 0, "per_cell": self.seeds.len()},
            "axes": self.axes.iter().map(Axis::json).collect::<Vec<_>>(),
            "ensemble": format!("medians over {} seeds", self.seeds.len()),
            "statistic": "median over the seeds of a cell",
            "intervals": self.band.words(),
            "columns": self.quantities.iter().map(column).collect::<Vec<_>>(),
            "overlays": [],
            "details": self.details,
        })
    }
}

/// A run folder and what has already been done in it.
pub(crate) struct Work {
    folder: RunDir,
    done: Vec<Value>,
}

impl Work {
    /// Begins, or continues what was interrupted, in a folder; `experiment` must be the same then.
    pub(crate) fn begin(folder: &Path, experiment: &str) -> Result<Self, Box<dyn Error>> {
        let mut folder = RunDir::begin(folder, Existing::Refuse, experiment)?;
        let records = folder.open_journal()?;
        let done = records.iter().map(|record| serde_json::from_slice(record)).collect::<Result<Vec<Value>, _>>()?;
        Ok(Self { folder, done })
    }

    /// What was finished under that name in an earlier attempt.
    pub(crate) fn found(&self, name: &str) -> Option<&Value> {
        self.done.iter().find(|record| record["run"] == name).map(|record| &record["found"])
    }

    /// Keeps what was found, so that it outlives a kill.
    pub(crate) fn keep(&mut self, name: &str, found: Value) -> Result<(), Box<dyn Error>> {
        let record = json!({"run": name, "found": found});
        self.folder.append(record.to_string().as_bytes())?;
        self.done.push(record);
        Ok(())
    }

    /// The hidden states of the run, if there are any yet.
    pub(crate) fn hidden(&self) -> Option<Vec<u8>> {
        self.folder.read("hidden.safetensors").ok()
    }

    /// Stores hidden states.
    pub(crate) fn keep_hidden(&mut self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        Ok(self.folder.write("hidden.safetensors", bytes)?)
    }

    /// Writes `points.parquet`, `points.csv`, `report.json`, its page and its figures.
    pub(crate) fn finish(mut self, findings: &Findings) -> Result<(), Box<dyn Error>> {
        self.folder.write("points.csv", findings.table.to_csv().as_bytes())?;
        self.folder.write("points.parquet", &findings.table.to_parquet()?)?;
        publish_without_clouds(&mut self.folder, &findings.report())?;
        self.folder.finish()?;
        for sentence in &findings.sentences {
            println!("{sentence}");
        }
        Ok(())
    }
}

/// A column of numbers, gaps where they are not finite.
pub(crate) fn numbers(values: impl IntoIterator<Item = f64>) -> Column {
    Column::Float(values.into_iter().map(|x| x.is_finite().then_some(x)).collect())
}

/// A column of words.
pub(crate) fn texts(values: impl IntoIterator<Item = impl Into<String>>) -> Column {
    Column::Text(values.into_iter().map(Into::into).collect())
}
