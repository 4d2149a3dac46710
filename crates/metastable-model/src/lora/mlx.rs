//! The files of mlx-lm: `lora_a` [in, r], `lora_b` [r, out], and a scale given directly.
//!
//! y = W x + scale·(x lora_a) lora_b, so PEFT's A is lora_aᵀ, B is lora_bᵀ, and alpha = scale·r. A square factor that
//! was copied without transposing has the same shape and computes another function; where shapes can tell, they are
//! compared with the rank of the config.
//!
//! # References
//! mlx-lm, `tuner/lora.py` and `tuner/dora.py` \[2nd\].

use std::path::Path;

use serde_json::Value;

use super::adapter::{Adapter, Factor, Layout, LoraModule, ModuleKind, Survey, natural_key};
use super::assemble::judge_zeros;
use super::finding::{Code, Finding};
use super::locate::value;
use super::tensor_file::{Entry, TensorFile};
use crate::error::ModelError;

/// mlx-lm's own defaults.
const DEFAULT_RANK: u64 = 8;
const DEFAULT_SCALE: f64 = 20.0;

/// Reads and judges the files of mlx-lm.
pub(super) fn survey(folder: &Path, config: &[u8], weights: &Path) -> Result<Survey, ModelError> {
    let path = folder.join(super::locate::CONFIG);
    let config: Value = serde_json::from_slice(config).map_err(|error| ModelError::Malformed {
        path: path.clone(),
        expected: "a JSON object with the keys of an mlx-lm adapter",
        found: error.to_string(),
    })?;
    let refuse = |name: &str, expected: &str, found: String| ModelError::AdapterConfig {
        path: path.clone(),
        name: name.into(),
        expected: expected.into(),
        found,
    };
    let kind = value(&config, &["fine_tune_type"]).and_then(Value::as_str).unwrap_or("lora");
    if !["lora", "dora"].contains(&kind) {
        return Err(refuse("fine_tune_type", "lora or dora", kind.into()));
    }
    let rank = value(&config, &["lora_parameters", "rank"]).map_or(Some(DEFAULT_RANK), Value::as_u64);
    let rank = rank.filter(|rank| *rank >= 1).and_then(|rank| usize::try_from(rank).ok());
    let rank = rank.ok_or_else(|| {
        refuse("lora_parameters.rank", "a positive integer", config["lora_parameters"]["rank"].to_string())
    })?;
    let scale = value(&config, &["lora_parameters", "scale"]).map_or(Some(DEFAULT_SCALE), Value::as_f64);
    let scale = scale.filter(|scale| scale.is_finite() && *scale != 0.0);
    let scale = scale.ok_or_else(|| {
        refuse("lora_parameters.scale", "a finite number other than 0", config["lora_parameters"]["scale"].to_string())
    })?;
    let file = TensorFile::read(weights)?;
    let mut findings = Vec::new();
    let mut modules = pairs(&file, rank, scale, &mut findings);
    judge_dora(&modules, kind == "dora", &mut findings);
    modules.sort_by_key(|module| natural_key(&module.name));
    if modules.is_empty() {
        findings.push(Finding::error(Code::Empty, "adapter", "has no usable LoRA module"));
    }
    let adapter = Adapter {
        folder: folder.into(),
        layout: Layout::Mlx,
        modules,
        whole: Vec::new(),
        settings: None,
        source: None,
    };
    Ok(Survey { adapter, findings })
}

fn pairs(file: &TensorFile, rank: usize, scale: f64, findings: &mut Vec<Finding>) -> Vec<LoraModule> {
    let mut modules = Vec::new();
    for entry in file.entries() {
        let Some(name) = entry.name.strip_suffix(".lora_a") else {
            let partner = entry.name.strip_suffix(".lora_b").or_else(|| entry.name.strip_suffix(".m"));
            match partner {
                Some(name) if find(file, &format!("{name}.lora_a")).is_some() => {}
                Some(_) => findings.push(Finding::error(Code::MissingPartner, &entry.name, "has no lora_a beside it")),
                None => findings.push(Finding::error(Code::UnknownKey, &entry.name, "is no tensor of a LoRA adapter")),
            }
            continue;
        };
        let Some(b) = find(file, &format!("{name}.lora_b")) else {
            findings.push(Finding::error(Code::MissingPartner, &entry.name, "has no lora_b beside it"));
            continue;
        };
        let magnitude = find(file, &format!("{name}.m")).and_then(|entry| vector(file, entry, findings));
        let (Some(a), Some(b)) = (transposed(file, entry, 1, rank, findings), transposed(file, b, 0, rank, findings))
        else {
            continue;
        };
        judge_zeros(name, &a, &b, findings);
        modules.push(LoraModule {
            name: name.into(),
            kind: ModuleKind::Linear,
            alpha: scale * rank as f64,
            a,
            b,
            scale,
            magnitude,
            bias: None,
        });
    }
    modules
}

fn find<'a>(file: &'a TensorFile, name: &str) -> Option<&'a Entry> {
    file.entries().iter().find(|entry| entry.name == name)
}

fn vector(file: &TensorFile, entry: &Entry, findings: &mut Vec<Finding>) -> Option<Vec<f32>> {
    let values =
        file.values(entry).map_err(|message| findings.push(Finding::error(Code::Dtype, &entry.name, message))).ok()?;
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let message = format!("expected finite numbers, found {} at entry {index}", values[index]);
        findings.push(Finding::error(Code::NotFinite, &entry.name, message));
        return None;
    }
    Some(values)
}

/// A factor the way PEFT has it; side `rank_side` of the file's shape must be the rank.
fn transposed(
    file: &TensorFile,
    entry: &Entry,
    rank_side: usize,
    rank: usize,
    findings: &mut Vec<Finding>,
) -> Option<Factor> {
    if entry.shape.len() != 2 || entry.shape[rank_side] != rank || entry.shape.contains(&0) {
        let expected = if rank_side == 1 { format!("[in, {rank}]") } else { format!("[{rank}, out]") };
        let message = format!("expected {expected}, found {:?}: a factor that was not transposed?", entry.shape);
        findings.push(Finding::error(Code::RankMismatch, &entry.name, message));
        return None;
    }
    let values = vector(file, entry, findings)?;
    Some(Factor { rows: entry.shape[0], columns: entry.shape[1], values }.transposed())
}

fn judge_dora(modules: &[LoraModule], announced: bool, findings: &mut Vec<Finding>) {
    for module in modules.iter().filter(|module| module.magnitude.is_some() != announced) {
        let message =
            format!("has {} magnitudes, but fine_tune_type says otherwise", if announced { "no" } else { "DoRA" });
        findings.push(Finding::error(Code::Dora, &module.name, message));
    }
}
