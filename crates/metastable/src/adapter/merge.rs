//! An adapter merged into its base model, verified before it has a name.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use metastable_model::lora::{Adapter, Strictness};
use metastable_model::{Input, Model, Weights};
use serde::Serialize;
use tempfile::TempDir;

use super::write::{beside, write_folder, write_into};
use crate::error::LabError;
use crate::hub::{Role, cached};

/// What a merge did, and how far it is from base and adapter side by side.
#[derive(Debug, Clone, Serialize)]
pub struct MergeReport {
    /// The base model as given.
    pub model: String,
    /// The adapter as given.
    pub adapter: String,
    /// The folder written.
    pub output: String,
    /// Modules merged.
    pub modules: usize,
    /// Types the changed weights are stored in.
    pub dtypes: Vec<String>,
    /// What was compared: "logits" or "hidden states".
    pub compared: &'static str,
    /// max |merged - (base + adapter)| / max |base + adapter| over the probe's tokens.
    pub error: f64,
    /// The largest accepted error for these types.
    pub tolerance: f64,
    /// max |(base + adapter) - base| / max |base|: what the adapter changes at all.
    pub change: f64,
    /// How many tokens the probe has.
    pub probe: usize,
    /// What was left aside, in words.
    pub notes: Vec<String>,
}

/// Tokens of the probe; any text does, since weights are compared.
const PROBE: usize = 32;

/// Merges `adapter` into the weights of `model`: a folder (one safetensors file, or shards, which stay what they are), or a
/// GGUF file, which becomes a folder of the F32 numbers that its blocks encode. Compares logits (for encoders: last hidden
/// states) with base and adapter side by side, and only then gives the folder `output` its name. Other files are copied.
///
/// # Errors
/// [`LabError::Model`] for files that are refused or do not fit; [`LabError::CheckFailed`] if the merged model computes
/// something else; nothing is written then.
pub fn merge(model: &Path, adapter: &Path, output: &Path, strictness: Strictness) -> Result<MergeReport, LabError> {
    let read = Adapter::open(&cached(adapter, Role::Adapter)?, strictness)?;
    let (base, plain) = Base::of(&cached(model, Role::Model)?, output)?;
    let adapted = plain.with_adapter(&read, strictness)?;
    let input = probe(&plain)?;
    let (before, compared) = answer(&plain, &input)?;
    let (expected, _) = answer(&adapted.model, &input)?;
    drop((plain, adapted.model));
    let merging = read.merging(base.folder())?;
    write_folder(output, |into| {
        copy_others(base.folder(), into)?;
        // File by file: what is in memory at once is one shard.
        for file in merging.files() {
            write_into(into, file, &merging.bytes(file)?)?;
        }
        let (found, _) = answer(&Model::open(into)?, &input)?;
        let report = MergeReport {
            model: model.display().to_string(),
            adapter: adapter.display().to_string(),
            output: output.display().to_string(),
            modules: merging.modules(),
            tolerance: tolerance(merging.dtypes()),
            dtypes: merging.dtypes().to_vec(),
            compared,
            error: distance(&found, &expected),
            change: distance(&expected, &before),
            probe: input.ids().len(),
            notes: [base.notes(), merging.notes()].concat(),
        };
        if report.error > report.tolerance {
            return Err(LabError::CheckFailed {
                check: format!("{compared} of the merged model"),
                expected: format!("within {:e} of base and adapter", report.tolerance),
                found: format!("{:e}", report.error),
            });
        }
        Ok(report)
    })
}

/// The folder to merge into: that of the model, or, since blocks of a few bits cannot hold a merge, one that holds the
/// numbers which the blocks of a GGUF file encode, until the merge is written.
enum Base {
    Given(PathBuf),
    Decoded(TempDir, Vec<String>),
}

impl Base {
    fn of(path: &Path, output: &Path) -> Result<(Self, Model), LabError> {
        let weights = Weights::open(path)?;
        let model = Model::load(&weights)?;
        let Some(decoded) = weights.dequantized()? else { return Ok((Self::Given(path.into()), model)) };
        let folder = beside(output)?;
        for file in decoded.files() {
            write_into(folder.path(), file, &decoded.bytes(file)?)?;
        }
        Ok((Self::Decoded(folder, decoded.notes().to_vec()), model))
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Given(folder) => folder,
            Self::Decoded(folder, _) => folder.path(),
        }
    }

    /// What became of the model before the merge, in words.
    fn notes(&self) -> &[String] {
        match self {
            Self::Given(_) => &[],
            Self::Decoded(_, notes) => notes,
        }
    }
}

/// Files that hold weights, whatever their format.
const WEIGHT_ENDINGS: [&str; 6] = ["safetensors", "bin", "h5", "msgpack", "gguf", "onnx"];

/// Everything beside the weights: config, tokenizer, licence.
fn copy_others(from: &Path, to: &Path) -> Result<(), LabError> {
    let reading = |source| LabError::Read { file: from.to_owned(), source };
    for entry in fs::read_dir(from).map_err(reading)? {
        let path = entry.map_err(reading)?.path();
        let weights = path.extension().and_then(OsStr::to_str).is_some_and(|ending| WEIGHT_ENDINGS.contains(&ending));
        if let (true, false, Some(name)) = (path.is_file(), weights, path.file_name()) {
            let target = to.join(name);
            fs::copy(&path, &target).map_err(|source| LabError::Write { file: target, source })?;
        }
    }
    Ok(())
}

/// Ids spread over the vocabulary.
fn probe(model: &Model) -> Result<Input, LabError> {
    let (vocab, positions) = (model.config().vocab as u64, model.config().positions);
    // A prime step visits different ids whatever the vocabulary.
    let ids = (1..=PROBE.min(positions) as u64).map(|i| (i * 7919 % vocab) as u32).collect();
    Ok(Input::new(ids)?)
}

fn answer(model: &Model, input: &Input) -> Result<(Vec<f32>, &'static str), LabError> {
    let hidden = model.forward(input)?;
    match model.logits(&hidden) {
        Ok(logits) => Ok((logits, "logits")),
        Err(_) => Ok((hidden.last().to_vec(), "hidden states")),
    }
}

/// max |x - y| / max |y|.
fn distance(x: &[f32], y: &[f32]) -> f64 {
    let largest = y.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let worst = x.iter().zip(y).fold(0.0_f32, |worst, (x, y)| worst.max((x - y).abs()));
    f64::from(worst) / f64::from(largest.max(f32::MIN_POSITIVE))
}

/// What rounding the merged weights may do: a few hundred units in the last place of the type, for sums over thousands
/// of products through all layers.
fn tolerance(dtypes: &[String]) -> f64 {
    let coarsest = |name: &str| dtypes.iter().any(|dtype| dtype == name);
    if coarsest("BF16") {
        1e-1
    } else if coarsest("F16") {
        2e-2
    } else {
        1e-5
    }
}
