//! The job `simulate`: attention flows of a cloud of tokens, and of its twin under a LoRA adapter.
//!
//! Data flow: [`written`] (config as a user writes it) → [`meant`] (validated) → [`engine`] (runs, resumable) →
//! [`assemble`] (observables) → [`report`] → run folder. [`forms`], [`inputs`], [`law`], `kernel` and [`seed`] serve the
//! first arrow, [`depth`] is what moves tokens at which time, [`laws`] what theory says of the run; [`cascade`],
//! [`merges`] and [`bound`] serve the twin, [`summary`] the reader; [`field`] and [`lipschitz`] ask one question of a
//! config without moving anything.

pub mod assemble;
pub mod bound;
pub mod cascade;
pub mod depth;
pub mod engine;
pub mod field;
pub mod forms;
pub mod gaussian;
pub mod inputs;
mod kernel;
pub mod law;
pub mod laws;
pub mod lipschitz;
pub mod meant;
pub mod merges;
pub mod report;
pub mod resolved;
pub mod seed;
pub mod summary;
pub mod written;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use gaussian::GaussianSimulation;
pub use meant::Simulation;
use serde::Serialize;
use serde::de::DeserializeOwned;
pub use written::SimulateConfig;

use crate::arrays::{Tensor, TensorData, safetensors_bytes};
use crate::document::{read_document, to_toml};
use crate::error::LabError;
use crate::observables::Series;
use crate::provenance::{Provenance, fingerprint};
use crate::publish;
use crate::run_dir::{Checkpoint, Existing, RunDir};
use crate::table::{Column, Table};
use crate::watch::Watcher;
use engine::{Outside, Progress, Unfinished};

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct SimulateRequest {
    /// The config file.
    pub config: PathBuf,
    /// `--set key=value` overrides.
    pub overrides: Vec<String>,
    /// Overrides the config's seed.
    pub seed: Option<u64>,
    /// The run folder.
    pub output: PathBuf,
    /// What to do if it exists.
    pub existing: Existing,
}

/// Reads and validates a config without running it.
///
/// # Errors
/// [`LabError`] naming file, key, what was expected and found.
pub fn load(config: &Path, overrides: &[String], seed: Option<u64>) -> Result<Simulation, LabError> {
    Simulation::new(read(config, overrides, seed)?, config)
}

/// A validated config: of particles or of a Gaussian.
#[derive(Debug)]
pub enum Loaded {
    /// `[tokens]`.
    Particles(Box<Simulation>),
    /// `[gaussian]`.
    Gaussian(Box<GaussianSimulation>),
}

impl Loaded {
    /// The config as resolved.
    pub fn config(&self) -> &SimulateConfig {
        match self {
            Self::Particles(simulation) => &simulation.config,
            Self::Gaussian(simulation) => &simulation.config,
        }
    }
}

/// The report of particles or of a Gaussian.
#[derive(Debug)]
pub enum Finished {
    /// `[tokens]`.
    Particles(Box<report::SimulateReport>),
    /// `[gaussian]`.
    Gaussian(Box<gaussian::report::GaussianReport>),
}

/// Reads and validates a config of either kind without running it.
///
/// # Errors
/// [`LabError`] naming file, key, what was expected and found.
pub fn load_any(config: &Path, overrides: &[String], seed: Option<u64>) -> Result<Loaded, LabError> {
    meant(read(config, overrides, seed)?, config)
}

/// Runs whatever the config describes, particles or a Gaussian, into its run folder, continuing an interrupted run.
///
/// # Errors
/// [`LabError`]; [`LabError::Stopped`] after the watcher asked to stop and the state was saved.
pub fn run_any(request: &SimulateRequest, watcher: &mut dyn Watcher) -> Result<Finished, LabError> {
    Ok(match load_any(&request.config, &request.overrides, request.seed)? {
        Loaded::Particles(simulation) => Finished::Particles(Box::new(run_particles(&simulation, request, watcher)?)),
        Loaded::Gaussian(simulation) => Finished::Gaussian(Box::new(gaussian::run(&simulation, request, watcher)?)),
    })
}

/// Reads a config and overrides its seed.
fn read(config: &Path, overrides: &[String], seed: Option<u64>) -> Result<SimulateConfig, LabError> {
    let mut written: SimulateConfig = read_document(config, overrides)?;
    written.seed = seed.unwrap_or(written.seed);
    if i64::try_from(written.seed).is_err() {
        // Every seed must fit into the resolved config.
        let expected = "at most 9223372036854775807, the largest integer of TOML".into();
        return Err(LabError::Setting { name: "seed".into(), expected, found: written.seed.to_string() });
    }
    Ok(written)
}

/// A config as it is meant: of particles or of a Gaussian.
fn meant(config: SimulateConfig, file: &Path) -> Result<Loaded, LabError> {
    Ok(match config.gaussian {
        Some(_) => Loaded::Gaussian(Box::new(GaussianSimulation::new(config, file)?)),
        None => Loaded::Particles(Box::new(Simulation::new(config, file)?)),
    })
}

/// Says whether a config could be run, without running it.
///
/// # Errors
/// As [`load_any`].
pub fn check(config: SimulateConfig, file: &Path) -> Result<(), LabError> {
    meant(config, file).map(|_| ())
}

/// Runs a simulation in memory and answers its report as `report.json` would hold it, but for the hashes of input files:
/// for callers that run many. Nothing is written or saved.
///
/// # Errors
/// [`Unfinished::Failed`] as [`run_any`]; [`Unfinished::Stopped`] if the watcher asks.
pub fn measure(
    config: SimulateConfig,
    file: &Path,
    watcher: &mut dyn Watcher,
) -> Result<serde_json::Value, Unfinished> {
    let provenance = Provenance::new(config.seed, "f64");
    let report = match meant(config, file)? {
        Loaded::Particles(simulation) => {
            let (mut progress, mut save) = (Progress::default(), |_: &Progress| Ok(()));
            let mut outside = Outside::new(watcher, &mut save);
            engine::integrate(&simulation, &mut progress, &mut outside)?;
            serde_json::to_value(assemble::assemble(&simulation, &progress, provenance, &mut outside)?.report)
        }
        Loaded::Gaussian(simulation) => {
            let (mut progress, mut save) =
                (gaussian::engine::Progress::default(), |_: &gaussian::engine::Progress| Ok(()));
            let mut outside = Outside::new(watcher, &mut save);
            gaussian::engine::integrate(&simulation, &mut progress, &mut outside)?;
            serde_json::to_value(gaussian::assemble::assemble(&simulation, &progress, provenance, &mut outside)?.report)
        }
    };
    Ok(report.expect("reports have string keys only"))
}

/// Runs a simulation of particles into its run folder, continuing an interrupted one.
///
/// # Errors
/// [`LabError`]; [`LabError::Stopped`] after the watcher asked to stop and the state was saved.
pub fn run(request: &SimulateRequest, watcher: &mut dyn Watcher) -> Result<report::SimulateReport, LabError> {
    run_particles(&load(&request.config, &request.overrides, request.seed)?, request, watcher)
}

fn run_particles(
    simulation: &Simulation,
    request: &SimulateRequest,
    watcher: &mut dyn Watcher,
) -> Result<report::SimulateReport, LabError> {
    let provenance = provenance_of(&simulation.config, simulation.config.precision.name(), &simulation.inputs)?;
    let assembled = in_run_folder(
        request,
        &simulation.config,
        &provenance,
        watcher,
        |progress: &mut Progress, outside: &mut Outside<'_, Progress>| {
            engine::integrate(simulation, progress, outside)?;
            assemble::assemble(simulation, progress, provenance.clone(), outside)
        },
        |folder: &mut RunDir, progress: &Progress, assembled: &assemble::Assembled| {
            publish(folder, simulation, progress, assembled)
        },
    )?;
    Ok(assembled.report)
}

/// The shell of every run: begins or takes up its folder, works with checkpoints, writes what comes out, finishes.
fn in_run_folder<P: Default + Serialize + DeserializeOwned, A>(
    request: &SimulateRequest,
    config: &SimulateConfig,
    provenance: &Provenance,
    watcher: &mut dyn Watcher,
    work: impl FnOnce(&mut P, &mut Outside<'_, P>) -> Result<A, Unfinished>,
    write: impl FnOnce(&mut RunDir, &P, &A) -> Result<(), LabError>,
) -> Result<A, LabError> {
    let fingerprint = fingerprint(&to_toml(config)?, provenance);
    let mut folder = RunDir::begin(&request.output, request.existing, &fingerprint)?;
    let mut progress: P = take_up(&folder, watcher)?;
    folder.write("config.resolved.toml", resolved::resolved(config, &request.config)?.as_bytes())?;
    let outcome = {
        let mut save = |progress: &P| folder.save_checkpoint(&to_bytes(progress));
        work(&mut progress, &mut Outside::new(watcher, &mut save))
    };
    let assembled = match outcome {
        Ok(assembled) => assembled,
        Err(Unfinished::Failed(error)) => return Err(error),
        Err(Unfinished::Stopped(interruption)) => {
            return Err(LabError::Stopped { folder: request.output.clone(), interruption });
        }
    };
    watcher.progress(1.0, "writing the report");
    write(&mut folder, &progress, &assembled)?;
    folder.finish()?;
    Ok(assembled)
}

/// The input files by the paths that the config gives.
fn provenance_of(
    config: &SimulateConfig,
    precision: &str,
    inputs: &[(String, PathBuf)],
) -> Result<Provenance, LabError> {
    let mut provenance = Provenance::new(config.seed, precision);
    for (name, file) in inputs {
        provenance.add_input(name, file)?;
    }
    Ok(provenance)
}

/// The progress of an interrupted run, or a fresh one.
fn take_up<P: Default + DeserializeOwned>(folder: &RunDir, watcher: &mut dyn Watcher) -> Result<P, LabError> {
    match folder.load_checkpoint()? {
        Checkpoint::Intact(bytes) => match postcard::from_bytes(&bytes) {
            Ok(progress) => return Ok(progress),
            Err(error) => watcher.notice(&format!("the checkpoint cannot be read ({error}): starting over")),
        },
        Checkpoint::Damaged { reason, .. } => {
            watcher.notice(&format!("the checkpoint is damaged ({reason}): starting over"))
        }
        Checkpoint::Absent => {}
    }
    Ok(P::default())
}

fn to_bytes(progress: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(progress).expect("numbers, lists and enums always serialise")
}

fn publish(
    folder: &mut RunDir,
    simulation: &Simulation,
    progress: &Progress,
    assembled: &assemble::Assembled,
) -> Result<(), LabError> {
    let (n, d, saved) = (simulation.tokens.count(), simulation.tokens.dim(), assembled.saved);
    let states = |run: &engine::Run| run.sampler.values()[..saved * n * d].to_vec();
    let base = progress.base.as_ref().map(states).unwrap_or_default();
    let twin = progress.twin.as_ref().map(states);
    let shape = [saved, n, d];
    let mut tensors = vec![
        Tensor::new("time", &[saved], TensorData::F64(&simulation.times[..saved])),
        Tensor::new("tokens", &shape, TensorData::F64(&base)),
    ];
    if let Some(twin) = &twin {
        tensors.push(Tensor::new("tokens_lora", &shape, TensorData::F64(twin)));
    }
    folder.write("trajectory.safetensors", &safetensors_bytes(&tensors, &BTreeMap::new()))?;
    folder.write("metrics.parquet", &metrics(&assembled.report)?.to_parquet()?)?;
    publish::publish(folder, &assembled.report, &assembled.display)
}

/// The series as one table: a row per run and saved time.
fn metrics(report: &report::SimulateReport) -> Result<Table, LabError> {
    let twin = report.twin.as_ref();
    let runs: Vec<(&str, &Series)> =
        std::iter::once(("base", &report.series)).chain(twin.map(|twin| ("lora", &twin.series))).collect();
    let mut table = Table::new("metrics");
    let names = runs.iter().flat_map(|(name, series)| series.t.iter().map(|_| name.to_string())).collect();
    table.push("run", Column::Text(names))?;
    for (c, (name, _)) in report.series.columns().iter().enumerate() {
        let values = runs.iter().flat_map(|(_, series)| series.columns().swap_remove(c).1).collect();
        table.push(name, Column::Float(values))?;
    }
    let laws = report.laws.iter().chain(twin.iter().flat_map(|twin| &twin.laws));
    let names: std::collections::BTreeSet<&str> = laws.map(|law| law.name).collect();
    for name in names {
        let column = |laws: &[laws::LawSeries]| {
            let empty = vec![None; report.series.t.len()];
            laws.iter().find(|law| law.name == name).map_or(empty, |law| law.values.clone())
        };
        let mut values = column(&report.laws);
        values.extend(twin.into_iter().flat_map(|twin| column(&twin.laws)));
        table.push(&format!("law_{name}"), Column::Float(values))?;
    }
    if let Some(twin) = twin {
        let rows = report.series.t.len();
        let mut beside = |name: &str, values: &[Option<f64>]| {
            let mut column = vec![None; rows];
            column.extend(values.iter().copied());
            column.resize(2 * rows, None);
            table.push(name, Column::Float(column))
        };
        beside("paired_max", &twin.paired_distance.max)?;
        beside("paired_rms", &twin.paired_distance.rms)?;
        beside("wasserstein2", &twin.wasserstein2)?;
        beside("bound", &twin.bound)?;
    }
    Ok(table)
}
