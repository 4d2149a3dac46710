//! Gaussian runs of `simulate`: mean and covariance move by themselves, a verdict says what becomes of them.
//!
//! Data flow, as for particles: [`written`] → [`meant`] → [`engine`] (resumable) → [`assemble`] (verdict, [`series`],
//! [`comparison`] with [`particles`], [`drawn`]) → [`report`] → run folder. [`grid`] makes the starts of a family,
//! [`summary`] the sentences.

pub mod assemble;
pub mod comparison;
pub mod drawn;
pub mod engine;
pub mod grid;
pub mod meant;
pub mod particles;
pub mod report;
pub mod series;
pub mod still;
pub mod summary;
pub mod written;

use std::collections::BTreeMap;

use metastable_dynamics::measure::Gaussian;

pub use meant::GaussianSimulation;

use super::engine::Outside;
use super::{SimulateRequest, in_run_folder, provenance_of};
use crate::arrays::{Tensor, TensorData, safetensors_bytes};
use crate::error::LabError;
use crate::publish;
use crate::run_dir::RunDir;
use crate::table::{Column, Table};
use crate::watch::Watcher;
use assemble::Assembled;
use engine::Progress;

/// Runs a Gaussian into its run folder, continuing an interrupted run.
///
/// # Errors
/// [`LabError`]; [`LabError::Stopped`] after the watcher asked to stop and the state was saved.
pub fn run(
    simulation: &GaussianSimulation,
    request: &SimulateRequest,
    watcher: &mut dyn Watcher,
) -> Result<report::GaussianReport, LabError> {
    let provenance = provenance_of(&simulation.config, "f64", &simulation.inputs)?;
    let assembled = in_run_folder(
        request,
        &simulation.config,
        &provenance,
        watcher,
        |progress: &mut Progress, outside: &mut Outside<'_, Progress>| {
            engine::integrate(simulation, progress, outside)?;
            assemble::assemble(simulation, progress, provenance.clone(), outside)
        },
        |folder: &mut RunDir, progress: &Progress, assembled: &Assembled| {
            folder.write("trajectory.safetensors", &trajectory(simulation, progress, assembled))?;
            folder.write("metrics.parquet", &metrics(&assembled.report)?.to_parquet()?)?;
            publish::publish(folder, &assembled.report, &assembled.display)
        },
    )?;
    Ok(assembled.report)
}

/// `time` [S], `mean` [S, d], `covariance` [S, d, d]; with a twin `mean_lora`, `covariance_lora` at the times that it
/// reached; with a grid `family_covariance` [S', m, d, d] at the times `family_time`, not a number where a member has
/// blown up.
fn trajectory(simulation: &GaussianSimulation, progress: &Progress, assembled: &Assembled) -> Vec<u8> {
    let d = simulation.start.dim();
    let flat = |path: &[Gaussian], of: &dyn Fn(&Gaussian) -> Vec<f64>| path.iter().flat_map(of).collect::<Vec<_>>();
    let mean = |gaussian: &Gaussian| gaussian.mean().to_vec();
    let covariance = |gaussian: &Gaussian| gaussian.covariance().as_slice().to_vec();
    let saved = assembled.base.len();
    let mut arrays = vec![
        ("time", vec![saved], simulation.times[..saved].to_vec()),
        ("mean", vec![saved, d], flat(&assembled.base, &mean)),
        ("covariance", vec![saved, d, d], flat(&assembled.base, &covariance)),
    ];
    if let Some(twin) = &assembled.twin {
        arrays.push(("time_lora", vec![twin.len()], simulation.times[..twin.len()].to_vec()));
        arrays.push(("mean_lora", vec![twin.len(), d], flat(twin, &mean)));
        arrays.push(("covariance_lora", vec![twin.len(), d, d], flat(twin, &covariance)));
    }
    let (members, size) = (progress.family.len(), d * d);
    if let Some(reached) = progress.family.iter().map(|member| member.covariances.len() / size).max() {
        let entry = |s: usize, m: usize| {
            let found = progress.family[m].covariances.get(s * size..(s + 1) * size);
            found.map_or_else(|| vec![f64::NAN; size], <[f64]>::to_vec)
        };
        let values = (0..reached).flat_map(|s| (0..members).flat_map(move |m| entry(s, m))).collect();
        arrays.push(("family_time", vec![reached], simulation.times[..reached].to_vec()));
        arrays.push(("family_covariance", vec![reached, members, d, d], values));
    }
    let tensors: Vec<Tensor> =
        arrays.iter().map(|(name, shape, values)| Tensor::new(name, shape, TensorData::F64(values))).collect();
    safetensors_bytes(&tensors, &BTreeMap::new())
}

/// The series as one table: a row per run and saved time.
fn metrics(report: &report::GaussianReport) -> Result<Table, LabError> {
    let runs: Vec<(&str, &report::GaussianSeries)> = std::iter::once(("base", &report.series))
        .chain(report.twin.as_ref().map(|twin| ("lora", &twin.series)))
        .collect();
    let mut table = Table::new("metrics");
    let names = runs.iter().flat_map(|(name, series)| series.t.iter().map(|_| name.to_string())).collect();
    table.push("run", Column::Text(names))?;
    table.push("t", Column::numbers(runs.iter().flat_map(|(_, series)| series.t.iter().copied())))?;
    for (name, _) in report.series.columns() {
        let column = |series: &report::GaussianSeries| {
            let found = series.columns().into_iter().find(|(other, _)| *other == name);
            found.map_or_else(|| vec![None; series.t.len()], |(_, values)| values.to_vec())
        };
        table.push(name, Column::Float(runs.iter().flat_map(|(_, series)| column(series)).collect()))?;
    }
    for k in 0..report.header.tokens.dim {
        let values = runs.iter().flat_map(|(_, series)| series.eigenvalues.iter().map(|values| values[k]));
        table.push(&format!("eigenvalue_{k}"), Column::numbers(values))?;
    }
    Ok(table)
}
