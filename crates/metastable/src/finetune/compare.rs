//! Several finished runs side by side, from their reports alone.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::LabError;
use crate::provenance::{Provenance, fingerprint};
use crate::publish;
use crate::run_dir::{Existing, RunDir, SCHEMA};

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct CompareRequest {
    /// Folders of finished fine-tuning runs.
    pub runs: Vec<PathBuf>,
    /// Where the comparison goes.
    pub output: PathBuf,
    /// What to do if it exists.
    pub existing: Existing,
}

/// The content of a comparison's report.json.
#[derive(Debug, Clone, Serialize)]
pub struct ComparisonReport {
    /// The version of this layout.
    pub schema: u32,
    /// "comparison".
    pub job: &'static str,
    /// How many runs.
    pub title: String,
    /// What stands out, in sentences.
    pub summary: Vec<String>,
    /// What makes losses hard to compare.
    pub warnings: Vec<String>,
    /// Program, machine, and the hash of each report.
    pub provenance: Provenance,
    /// The runs in the order they were named.
    pub runs: Vec<ComparedRun>,
}

/// One run as its report has it.
#[derive(Debug, Clone, Serialize)]
pub struct ComparedRun {
    /// The last part of its folder; the whole path where two runs share that.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Its title.
    pub title: String,
    /// The model that was adapted.
    pub model: String,
    /// The method.
    pub method: String,
    /// The learning rate after warm-up.
    pub learning_rate: Option<f64>,
    /// r.
    pub rank: Option<u64>,
    /// alpha.
    pub alpha: Option<f64>,
    /// The seed.
    pub seed: Option<u64>,
    /// Steps made.
    pub steps: Option<u64>,
    /// The training loss of the last step.
    pub final_loss: Option<f64>,
    /// The loss on held-out examples before training.
    pub base_eval_loss: Option<f64>,
    /// The same of the saved adapter.
    pub eval_loss: Option<f64>,
    /// The share of held-out labels that the saved adapter gets right.
    pub eval_accuracy: Option<f64>,
    /// The median condition number at the last step.
    pub kappa: Option<f64>,
    /// What it would be in balance.
    pub kappa_balanced: Option<f64>,
    /// ‖ΔW‖/‖W‖ at the last step.
    pub relative_change: Option<f64>,
    /// ‖X̃ - X‖/‖X‖ of the last level of the probe text, where there was one.
    pub probe_shift: Option<f64>,
    /// Trained tokens a second.
    pub tokens_per_second: Option<f64>,
    /// The most memory the process had.
    pub peak_memory_bytes: Option<u64>,
    /// Its rows of metrics.jsonl.
    pub series: Vec<Value>,
}

/// Writes the comparison of finished runs into a run folder: curves laid over each other, and a table.
///
/// # Errors
/// [`LabError::NotFinished`], [`LabError::Read`], [`LabError::Content`] for a folder that holds no finished fine-tuning
/// run; those of [`RunDir::begin`]. Nothing is written then.
pub fn compare(request: &CompareRequest) -> Result<ComparisonReport, LabError> {
    let reports = request.runs.iter().map(|run| read(run)).collect::<Result<Vec<_>, _>>()?;
    let mut provenance = Provenance::new(0, "f64");
    for run in &request.runs {
        let file = run.join("report.json");
        provenance.add_input(&file.display().to_string(), &file)?;
    }
    let mut runs: Vec<ComparedRun> = request.runs.iter().zip(&reports).map(|(run, report)| row(run, report)).collect();
    let shared = |name: &str| runs.iter().filter(|run| run.name == name).count() > 1;
    let names: Vec<bool> = runs.iter().map(|run| shared(&run.name)).collect();
    runs.iter_mut().zip(names).filter(|(_, shared)| *shared).for_each(|(run, _)| run.name.clone_from(&run.folder));
    let report = ComparisonReport {
        schema: SCHEMA,
        job: "comparison",
        title: format!("{} fine-tuning runs", runs.len()),
        summary: summary(&runs),
        warnings: warnings(&reports),
        provenance,
        runs,
    };
    let mut folder = RunDir::begin(&request.output, request.existing, &fingerprint(&report.title, &report.provenance))?;
    publish::publish_without_clouds(&mut folder, &report)?;
    folder.finish()?;
    Ok(report)
}

fn read(run: &Path) -> Result<Value, LabError> {
    let file = run.join("report.json");
    if run.is_dir() && !run.join("DONE").is_file() {
        return Err(LabError::NotFinished { folder: run.to_owned() });
    }
    let bytes = std::fs::read(&file).map_err(|source| LabError::Read { file: file.clone(), source })?;
    let refuse = |found: String| LabError::Content {
        file: file.clone(),
        expected: "the report of a fine-tuning run".into(),
        found,
    };
    let report: Value = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    match report["job"].as_str() {
        Some("finetune") => Ok(report),
        Some(other) => Err(refuse(format!("one of `{other}`"))),
        None => Err(refuse("another document".into())),
    }
}

fn row(folder: &Path, report: &Value) -> ComparedRun {
    let text = |pointer: &str| report.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
    let series = report["series"].as_array().cloned().unwrap_or_default();
    let last = |key: &str| series.last().and_then(|row| row[key].as_f64());
    let path = folder.display().to_string();
    let name = folder.file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned());
    let levels = report.pointer("/probe/layers").and_then(Value::as_array);
    ComparedRun {
        name,
        folder: path,
        title: text("/title"),
        model: text("/config/model"),
        method: text("/config/optimizer/method"),
        learning_rate: number("/config/optimizer/learning_rate"),
        rank: count("/config/lora/rank"),
        alpha: number("/config/lora/alpha"),
        seed: count("/config/seed"),
        steps: count("/steps"),
        final_loss: number("/final_loss"),
        base_eval_loss: number("/base_eval_loss"),
        eval_loss: number("/eval_loss"),
        eval_accuracy: number("/eval_accuracy"),
        kappa: last("kappa"),
        kappa_balanced: last("kappa_balanced"),
        relative_change: last("relative_change"),
        probe_shift: levels.and_then(|levels| levels.last()?["shift_relative"].as_f64()),
        tokens_per_second: number("/tokens_per_second"),
        peak_memory_bytes: count("/peak_memory_bytes"),
        series,
    }
}

fn summary(runs: &[ComparedRun]) -> Vec<String> {
    let least = |value: fn(&ComparedRun) -> Option<f64>| {
        let found = runs.iter().filter_map(|run| Some((run, value(run)?)));
        found.min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let mut sentences = Vec::new();
    if let Some((run, loss)) = least(|run| run.eval_loss) {
        sentences.push(format!("The lowest held-out loss, {loss:.4}, is that of {} ({}).", run.name, run.method));
    }
    if let Some((run, loss)) = least(|run| run.final_loss) {
        sentences.push(format!("The lowest training loss at the last step, {loss:.4}, is that of {}.", run.name));
    }
    sentences
}

/// What differs between runs although losses only compare where it does not.
fn warnings(reports: &[Value]) -> Vec<String> {
    let same = ["/config/model", "/config/data", "/config/evaluation/max_examples", "/data/held_out"];
    let Some((first, others)) = reports.split_first() else { return Vec::new() };
    let differs = |pointer: &&str| others.iter().any(|other| other.pointer(pointer) != first.pointer(pointer));
    let name = |pointer: &str| pointer.trim_start_matches('/').replace('/', ".");
    let found: Vec<String> = same.iter().filter(|pointer| differs(pointer)).map(|pointer| name(pointer)).collect();
    if found.is_empty() {
        return Vec::new();
    }
    vec![format!("the runs differ in {}: their losses are not those of one task", found.join(", "))]
}
