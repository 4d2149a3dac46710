//! The job `sweep`: one simulation over named parameters and seeds, on all cores, into one table.
//!
//! Data flow: [`written`] (config as a user writes it) → [`meant`] (axes, seeds, columns; the config of every point) →
//! [`engine`] (points, each one thread; a journal of what is done) → [`mod@report`] → run folder. [`axis`] and [`keep`] serve
//! the first arrow, `aggregate` and [`statistics`] the last.
//!
//! A sweep knows nothing of attention: a point is a config of `simulate`, and what is kept of it are entries of its
//! `report.json`, by their paths.

mod aggregate;
pub mod axis;
pub mod engine;
mod inputs;
pub mod keep;
pub mod meant;
mod overlay;
pub mod report;
pub mod statistics;
mod summary;
pub mod written;

use std::path::{Path, PathBuf};

pub use meant::Sweep;
pub use written::SweepConfig;

use crate::error::LabError;
use crate::provenance::{Provenance, fingerprint};
use crate::publish;
use crate::run_dir::{Existing, RunDir};
use crate::simulate::engine::Unfinished;
use crate::watch::Watcher;
use engine::Outcome;
use report::{Points, SweepReport};

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct SweepRequest {
    /// The config file.
    pub config: PathBuf,
    /// `--set key=value` overrides of the sweep's config.
    pub overrides: Vec<String>,
    /// Overrides the seed of the simulation.
    pub seed: Option<u64>,
    /// The run folder.
    pub output: PathBuf,
    /// What to do if it exists.
    pub existing: Existing,
}

/// Reads and validates a sweep without running it.
///
/// # Errors
/// [`LabError`] naming file, key, what was expected and found.
pub fn load(config: &Path, overrides: &[String], seed: Option<u64>) -> Result<Sweep, LabError> {
    Sweep::read(config, overrides, seed)
}

/// Runs a sweep into its run folder, continuing an interrupted one with the points that it lacks.
///
/// The results do not depend on the number of threads, nor on interruptions: every point is computed by one thread from
/// its own config, and the table is in the order of the points.
///
/// # Errors
/// [`LabError`]; [`LabError::Stopped`] after the watcher asked to stop. Points that fail are no error here: they stand in
/// the report ([`SweepReport::points`]), and [`failed_points`] makes an error of them.
pub fn run(request: &SweepRequest, watcher: &mut dyn Watcher) -> Result<SweepReport, LabError> {
    let sweep = load(&request.config, &request.overrides, request.seed)?;
    let resolved = sweep.resolved()?;
    let mut provenance = Provenance::new(sweep.seeds[0], "f64");
    for (name, file) in &sweep.inputs {
        provenance.add_input(name, file)?;
    }
    let fingerprint = fingerprint(&crate::document::to_toml(&sweep.config)?, &provenance);
    let mut folder = RunDir::begin(&request.output, request.existing, &fingerprint)?;
    folder.write("config.resolved.toml", resolved.as_bytes())?;
    let outcomes = match engine::run(&sweep, &mut folder, watcher) {
        Ok(outcomes) => outcomes,
        Err(Unfinished::Failed(error)) => return Err(error),
        Err(Unfinished::Stopped(interruption)) => {
            return Err(LabError::Stopped { folder: request.output.clone(), interruption });
        }
    };
    watcher.progress(1.0, "writing the report");
    let table = aggregate::table(&sweep, &outcomes)?;
    folder.write("points.parquet", &table.to_parquet()?)?;
    folder.write("points.csv", table.to_csv().as_bytes())?;
    let report = assemble(&sweep, &outcomes, provenance);
    publish::publish_without_clouds(&mut folder, &report)?;
    folder.finish()?;
    Ok(report)
}

/// The report of a sweep whose points are done.
fn assemble(sweep: &Sweep, outcomes: &[Outcome], provenance: Provenance) -> SweepReport {
    let cells = aggregate::Cells::new(sweep, outcomes);
    let columns = cells.columns(sweep, outcomes);
    let failed = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count();
    let draws: usize = sweep.axes.iter().filter(|axis| axis.is_ensemble).map(|axis| axis.values.len()).product();
    let mut report = SweepReport {
        schema: crate::run_dir::SCHEMA,
        job: "sweep",
        title: sweep.config.title.clone().unwrap_or_default(),
        summary: Vec::new(),
        warnings: Vec::new(),
        provenance,
        config: sweep.config.clone(),
        points: Points { total: outcomes.len(), failed, per_cell: draws * sweep.seeds.len() },
        failures: aggregate::failures(sweep, outcomes),
        axes: cells.axes,
        ensemble: summary::ensemble(sweep),
        intervals: summary::intervals(sweep.config.confidence),
        columns,
        overlays: sweep.overlays().to_vec(),
    };
    report.warnings = summary::warnings(&report);
    report.summary = summary::sentences(&report);
    report
}

/// The error of a sweep some of whose points failed: its folder is complete all the same.
pub fn failed_points(report: &SweepReport, folder: &Path) -> Option<LabError> {
    let first = report.failures.first()?;
    Some(LabError::PointsFailed {
        folder: folder.to_owned(),
        failed: report.points.failed,
        total: report.points.total,
        first: format!("{}: {}", first.place, first.error),
    })
}
