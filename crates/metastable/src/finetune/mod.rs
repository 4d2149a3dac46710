//! The job `finetune`: adapters of a real checkpoint, trained on real text, written as PEFT reads them.
//!
//! Data flow: [`written`] (config as a user writes it) → `meant` (validated) → `data` (records, with line numbers) →
//! `examples` (tokens, labels, order) → `training` (steps, evaluations, checkpoints) → [`report`], `card`, run folder.

mod card;
pub mod compare;
mod data;
mod examples;
mod meant;
mod memory;
mod probe;
pub mod progress;
pub mod report;
mod tensorboard;
mod training;
pub mod written;

use std::path::{Path, PathBuf};

use metastable_model::lora::PeftFiles;
use metastable_model::train::{Example, Session, Setting};
use metastable_model::{Model, Text, Weights};

pub use probe::ProbeRow;
pub use written::FinetuneConfig;

use crate::document::{read_document, to_toml};
use crate::error::LabError;
use crate::provenance::{Provenance, fingerprint, sha256_hex};
use crate::publish;
use crate::run_dir::{Checkpoint, Existing, RunDir, SCHEMA};
use crate::watch::Watcher;
use examples::Masking;
use probe::Probe;
use progress::Progress;
use report::{AdapterSummary, DataSummary, EffectiveSummary, FinetuneReport};
use training::{Ended, Work};
use written::TaskName;

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct FinetuneRequest {
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
    /// Whether a model's name on the Hub is looked up in the local cache alone.
    pub offline: bool,
}

/// Reads and validates a config without running it.
///
/// # Errors
/// [`LabError`] naming file, key, what was expected and found.
pub fn load(config: &Path, overrides: &[String], seed: Option<u64>) -> Result<FinetuneConfig, LabError> {
    let mut written: FinetuneConfig = read_document(config, overrides)?;
    written.seed = seed.unwrap_or(written.seed);
    meant::validate(&written, config)?;
    Ok(written)
}

/// Trains an adapter into a run folder: the best one in `adapter/`, the one of the last step in `checkpoints/`, where the
/// state of an unfinished run is too. An interrupted run is continued, and ends with the adapter, to the bit, that an
/// uninterrupted one ends with.
///
/// # Errors
/// [`LabError`]: before the first step the folder is not touched. [`LabError::Stopped`] after the watcher asked to stop
/// and the state was saved. If training diverges, the last
/// state and the best adapter so far are kept.
pub fn run(request: &FinetuneRequest, watcher: &mut dyn Watcher) -> Result<FinetuneReport, LabError> {
    let config = load(&request.config, &request.overrides, request.seed)?;
    let (path, base) = meant::model_path(&request.config, &config.model, request.offline, watcher)?;
    watcher.progress(0.0, "opening the model");
    let weights = Weights::open(&path)?;
    let model = Model::load(&weights)?;
    require_length(&config, &model, &request.config)?;
    let text = model.text()?;
    watcher.progress(0.0, "reading the data");
    let data = Data::read(&config, &request.config, &text)?;
    let masking = masking(&config, &model, &text)?;
    // Before the session: some starting points change the base weights.
    let probe = config.probe.as_ref().map(|probe| Probe::of(probe, &request.config, &model, &text)).transpose()?;
    let mut session = Session::new(model, meant::settings(&config, data.labels.len())?)?;
    let provenance = provenance(&config, &request.config, &weights)?;
    drop(weights);
    let mut folder = RunDir::begin_with_checkpoints(
        &request.output,
        request.existing,
        &fingerprint(&to_toml(&config)?, &provenance),
    )?;
    folder.write("config.resolved.toml", to_toml(&config)?.as_bytes())?;
    let mut progress = take_up(&folder, &mut session, watcher)?;
    let is_special = |id| text.is_special(id);
    let work = Work {
        config: &config,
        schedule: meant::schedule(&config.optimizer),
        train: &data.train,
        held_out: &data.held_out,
        masking: masking.map(|masking| (masking, &is_special as &dyn Fn(u32) -> bool)),
        probe,
    };
    let outcome = training::train(&work, &mut session, &mut progress, &mut folder, watcher);
    match outcome {
        Ok(()) => {}
        Err(Ended::Failed(error)) => return Err(error),
        Err(Ended::Stopped(interruption)) => {
            return Err(LabError::Stopped { folder: request.output.clone(), interruption });
        }
        Err(Ended::Diverged(error)) => {
            folder.write("metrics.jsonl", &progress.lines())?;
            let kept = keep_adapter(&base, &mut session, &progress, &mut folder)?;
            return Err(LabError::Diverged {
                folder: request.output.clone(),
                step: progress.step,
                kept,
                source: error.into(),
            });
        }
    }
    watcher.progress(1.0, "writing the adapter and the report");
    let report = assemble(request, config, &session, &progress, data, provenance);
    write_peft(&base, &session, "checkpoints", &mut folder)?;
    write_adapter(&base, &mut session, &progress, &mut folder)?;
    folder.write("adapter/README.md", card::card(&report).as_bytes())?;
    folder.write("metrics.jsonl", &progress.lines())?;
    publish::publish_without_clouds(&mut folder, &report)?;
    folder.finish()?;
    Ok(report)
}

/// Examples to learn from and to hold out.
struct Data {
    train: Vec<Example>,
    held_out: Vec<Example>,
    labels: Vec<String>,
    cut: usize,
    empty: usize,
}

impl Data {
    fn read(config: &FinetuneConfig, file: &Path, text: &Text) -> Result<Self, LabError> {
        let data = &config.data;
        let source = meant::data_path(file, &data.file);
        let records = data::read(&source, data)?;
        let labels = match data.task {
            TaskName::Classification => data::classes(&source, &records, data)?,
            _ => Vec::new(),
        };
        let is_text = |file: &Path| file.extension().is_some_and(|ending| ending == "txt");
        let encode = |file: &Path, records: &[data::Record]| {
            examples::encode(text, records, data, &labels, data.packing || is_text(file))
        };
        let found = encode(&source, &records)?;
        let (train, held_out) = match &data.eval_file {
            Some(name) => {
                let other = meant::data_path(file, name);
                let records = data::read(&other, data)?;
                data::require_known(&other, &records, &labels)?;
                (found.all, encode(&other, &records)?.all)
            }
            None => split(found.all, config, is_text(&source)),
        };
        if train.is_empty() {
            let expected = "at least one example to learn from".into();
            return Err(LabError::Content { file: source, expected, found: "none".into() });
        }
        let mut held_out = held_out;
        held_out.truncate(config.evaluation.max_examples.unwrap_or(usize::MAX));
        Ok(Self { train, held_out, labels, cut: found.cut, empty: found.empty })
    }
}

/// The end of a text, or a random part of records.
fn split(all: Vec<Example>, config: &FinetuneConfig, is_text: bool) -> (Vec<Example>, Vec<Example>) {
    let held = (config.data.eval_fraction * all.len() as f64).round() as usize;
    let held = held.min(all.len().saturating_sub(1));
    let order = match is_text {
        true => (0..all.len()).rev().collect(),
        // Another order than that of any epoch.
        false => examples::shuffled(all.len(), config.seed, u64::MAX - 1),
    };
    let mut is_held = vec![false; all.len()];
    order.into_iter().take(held).for_each(|i| is_held[i] = true);
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (example, held) in all.into_iter().zip(is_held) {
        if held { held_out.push(example) } else { train.push(example) }
    }
    (train, held_out)
}

fn require_length(config: &FinetuneConfig, model: &Model, file: &Path) -> Result<(), LabError> {
    let positions = model.config().positions;
    if config.data.max_seq_length <= positions {
        return Ok(());
    }
    let expected = format!("at most {positions}, the longest text of the model");
    Err(LabError::wrong_value(file, "data.max_seq_length", expected, config.data.max_seq_length.to_string()))
}

fn masking(config: &FinetuneConfig, model: &Model, text: &Text) -> Result<Option<Masking>, LabError> {
    if config.data.task != TaskName::MaskedLm {
        return Ok(None);
    }
    let mask = ["[MASK]", "<mask>"].into_iter().find_map(|token| text.id(token));
    let mask = mask.ok_or_else(|| LabError::Setting {
        name: "data.task".into(),
        expected: "a tokenizer with a token [MASK] or <mask> for masked_lm".into(),
        found: "none".into(),
    })?;
    let (vocab, probability) = (model.config().vocab, config.data.mask_probability);
    Ok(Some(Masking { mask, vocab, probability, seed: config.seed }))
}

fn provenance(config: &FinetuneConfig, file: &Path, model: &Weights) -> Result<Provenance, LabError> {
    let mut provenance = Provenance::new(config.seed, "f32");
    for file in model.files() {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        provenance.add_input(&name, &file)?;
    }
    let probe = config.probe.as_ref().and_then(|probe| probe.file.as_ref());
    for name in std::iter::once(&config.data.file).chain(&config.data.eval_file).chain(probe) {
        provenance.add_input(name, &meant::data_path(file, name))?;
    }
    Ok(provenance)
}

/// The progress of an interrupted run, or a fresh one.
fn take_up(folder: &RunDir, session: &mut Session, watcher: &mut dyn Watcher) -> Result<Progress, LabError> {
    match folder.load_checkpoint()? {
        Checkpoint::Intact(bytes) => match postcard::from_bytes::<Progress>(&bytes) {
            Ok(mut progress) => {
                progress.session.take().map(|state| session.restore(state)).transpose()?;
                watcher.detail(&format!("continuing after step {}", progress.step));
                return Ok(progress);
            }
            Err(error) => watcher.notice(&format!("the checkpoint cannot be read ({error}): starting over")),
        },
        Checkpoint::Damaged { reason, .. } => {
            watcher.notice(&format!("the checkpoint is damaged ({reason}): starting over"))
        }
        Checkpoint::Absent => {}
    }
    Ok(Progress::start())
}

/// Writes PEFT's two files for the best state, or for the last where nothing was held out.
fn write_adapter(base: &str, session: &mut Session, progress: &Progress, folder: &mut RunDir) -> Result<(), LabError> {
    if let Some(best) = &progress.best {
        session.restore(best.session.clone())?;
    }
    write_peft(base, session, "adapter", folder)
}

/// Writes PEFT's two files for the present state into a folder of the run; `base` is what they call the model.
fn write_peft(base: &str, session: &Session, into: &str, folder: &mut RunDir) -> Result<(), LabError> {
    let files = session.adapter(base)?.to_peft()?;
    folder.write(&format!("{into}/{}", PeftFiles::CONFIG), &files.config)?;
    folder.write(&format!("{into}/{}", PeftFiles::WEIGHTS), &files.tensors)
}

/// After a divergence: the best adapter so far, if one was measured; says which step it is of.
fn keep_adapter(
    base: &str,
    session: &mut Session,
    progress: &Progress,
    folder: &mut RunDir,
) -> Result<Option<u64>, LabError> {
    let Some(best) = &progress.best else { return Ok(None) };
    write_adapter(base, session, progress, folder)?;
    Ok(Some(best.step))
}

fn assemble(
    request: &FinetuneRequest,
    config: FinetuneConfig,
    session: &Session,
    progress: &Progress,
    data: Data,
    mut provenance: Provenance,
) -> FinetuneReport {
    let stem = request.config.file_stem().map_or("finetune".into(), |stem| stem.to_string_lossy().into_owned());
    let best = progress.best.as_ref();
    let (lora, optimizer) = (&config.lora, &config.optimizer);
    let setting = Setting {
        learning_rate: optimizer.learning_rate,
        alpha: lora.alpha,
        rank: lora.rank,
        rslora: lora.rslora,
        init_scale: 1.0,
    };
    let effective = setting.effective();
    let names: Vec<String> = session.module_names().into_iter().map(str::to_owned).collect();
    provenance.inputs.insert("adapted modules".into(), sha256_hex(names.join("\n").as_bytes()));
    let mut report = FinetuneReport {
        schema: SCHEMA,
        job: "finetune",
        title: config.title.clone().unwrap_or(stem),
        summary: Vec::new(),
        warnings: Vec::new(),
        provenance,
        final_loss: progress.metrics.last().map_or(0.0, |last| last.loss),
        eval_loss: best.map(|best| best.evaluation.loss),
        eval_accuracy: best.map(|best| best.evaluation.accuracy),
        base_eval_loss: progress.base.map(|base| base.loss),
        tokens_per_second: progress.tokens as f64 / progress.seconds.max(1e-9),
        peak_memory_bytes: memory::peak_bytes(),
        steps: progress.step,
        saved_step: best.map_or(progress.step, |best| best.step),
        stop: if progress.stopped_early { "early_stop" } else { "max_steps" },
        skipped_projections: progress.metrics.iter().map(|metrics| metrics.skipped).sum(),
        clipped_steps: progress.metrics.iter().filter(|metrics| metrics.clipped).count(),
        data: DataSummary {
            train: data.train.len(),
            held_out: data.held_out.len(),
            labels: data.labels.clone(),
            cut: data.cut,
        },
        adapter: AdapterSummary { parameters: session.parameters(), modules: names, scale: setting.scale() },
        effective: EffectiveSummary { learning_rate: effective.learning_rate, sigma: effective.sigma },
        probe: progress.metrics.iter().rev().find_map(|metrics| metrics.probe.clone()),
        series: progress.metrics.clone(),
        config,
    };
    report.summary = summary(&report);
    report.warnings = warnings(&report, &data);
    report
}

fn summary(report: &FinetuneReport) -> Vec<String> {
    let mut sentences = vec![format!(
        "{} steps of {} on {} examples; {} trained numbers in {} modules.",
        report.steps,
        card::serde_name(&report.config.optimizer.method),
        report.data.train,
        report.adapter.parameters,
        report.adapter.modules.len()
    )];
    if let (Some(before), Some(after)) = (report.base_eval_loss, report.eval_loss) {
        let step = report.saved_step;
        sentences
            .push(format!("Held-out loss: {before:.4} before training, {after:.4} after step {step}, which is saved."));
    }
    if let Some(accuracy) = report.eval_accuracy {
        sentences.push(format!("Held-out accuracy of the saved adapter: {accuracy:.4}."));
    }
    if let Some((probe, last)) = report.probe.as_ref().and_then(|probe| Some((probe, probe.layers.last()?))) {
        let clusters = match probe.departure {
            Some(level) => format!("tokens change clusters from level {level} on"),
            None => "no token changes its cluster".to_owned(),
        };
        sentences.push(format!(
            "On the probe text, after the last step, the last layer moved by {:.2e} of its norm (mean cosine {:.4}); \
             {clusters}.",
            last.shift_relative, last.cosine
        ));
    }
    if let Some(last) = report.series.last() {
        let kappa = |value: Option<f64>| value.map_or("infinite".to_owned(), |kappa| format!("{kappa:.3}"));
        sentences.push(format!(
            "Median condition number of the factors: {}, in balance {}; gap {:.1e}; |ΔW|/|W| = {:.2e}.",
            kappa(last.kappa),
            kappa(last.kappa_balanced),
            last.gap,
            last.relative_change
        ));
    }
    sentences
}

fn warnings(report: &FinetuneReport, data: &Data) -> Vec<String> {
    let mut warnings = Vec::new();
    if data.cut > 0 {
        warnings.push(format!("{} texts were cut after {} tokens", data.cut, report.config.data.max_seq_length));
    }
    if data.empty > 0 {
        warnings.push(format!("{} texts were left out: nothing in them can be learned", data.empty));
    }
    // Every module is skipped once: at B = 0.
    if report.skipped_projections > report.adapter.modules.len() {
        warnings.push(format!(
            "{} projections were skipped: a factor was zero, or the product had less than full rank",
            report.skipped_projections
        ));
    }
    if 2 * report.clipped_steps as u64 > report.steps {
        warnings.push(format!("{} of {} gradients were clipped", report.clipped_steps, report.steps));
    }
    if report.data.held_out == 0 {
        warnings.push("nothing was held out: the last adapter is saved, not the best".into());
    }
    warnings
}
