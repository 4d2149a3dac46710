//! A .safetensors file of kohya's tools: `<name>.lora_down.weight` [r, in], `<name>.lora_up.weight` [out, r], and a
//! scalar `<name>.alpha`; without one, alpha = r.
//!
//! Paths are joined by underscores there, so that `q_proj` cannot be told from `q.proj`: names stay as the file has
//! them, and a model must say what they mean.
//!
//! # References
//! kohya-ss/sd-scripts, `networks/lora.py` \[2nd\].

use std::collections::BTreeMap;
use std::path::Path;

use super::adapter::{Adapter, Factor, Layout, LoraModule, ModuleKind, Survey, natural_key};
use super::assemble::judge_zeros;
use super::finding::{Code, Finding};
use super::tensor_file::{Entry, TensorFile};
use crate::error::ModelError;

/// Endings of keys.
const ENDINGS: [&str; 4] = [".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"];

/// Reads and judges one file.
pub(super) fn survey(path: &Path) -> Result<Survey, ModelError> {
    if path.extension().is_none_or(|ending| ending != "safetensors") {
        let found = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        return Err(ModelError::AdapterFormat { path: path.into(), found });
    }
    let file = TensorFile::read(path)?;
    let mut findings = Vec::new();
    let mut places: BTreeMap<&str, BTreeMap<&str, &Entry>> = BTreeMap::new();
    for entry in file.entries() {
        match ENDINGS.iter().find_map(|ending| Some((entry.name.strip_suffix(ending)?, *ending))) {
            Some((name, ending)) => {
                places.entry(name).or_default().insert(ending, entry);
            }
            None => findings.push(Finding::error(
                Code::UnknownKey,
                &entry.name,
                "is no tensor of kohya's layout; a PEFT adapter is opened by its folder",
            )),
        }
    }
    let mut modules: Vec<LoraModule> =
        places.into_iter().filter_map(|(name, parts)| module(&file, name, &parts, &mut findings)).collect();
    modules.sort_by_key(|module| natural_key(&module.name));
    if modules.is_empty() {
        findings.push(Finding::error(Code::Empty, "adapter", "has no usable LoRA module"));
    }
    let adapter = Adapter {
        folder: path.into(),
        layout: Layout::Kohya,
        modules,
        whole: Vec::new(),
        settings: None,
        source: None,
    };
    Ok(Survey { adapter, findings })
}

fn module(
    file: &TensorFile,
    name: &str,
    parts: &BTreeMap<&str, &Entry>,
    findings: &mut Vec<Finding>,
) -> Option<LoraModule> {
    let mut take = |ending: &str| parts.get(ending).map(|entry| (*entry, finite(file, entry, findings)));
    let (down, up, alpha, magnitude) = (take(ENDINGS[0]), take(ENDINGS[1]), take(ENDINGS[2]), take(ENDINGS[3]));
    let (Some((down, a)), Some((up, b))) = (down, up) else {
        findings.push(Finding::error(Code::MissingPartner, name, "lacks lora_down or lora_up"));
        return None;
    };
    let fits = down.shape.len() >= 2 && up.shape.len() >= 2 && !down.shape.contains(&0) && !up.shape.contains(&0);
    if !fits || up.shape[1] != down.shape[0] || up.shape[2..].iter().any(|side| *side != 1) {
        let message = format!("expected lora_up [out, {}], found {:?}", down.shape.first().unwrap_or(&0), up.shape);
        findings.push(Finding::error(Code::RankMismatch, name, message));
        return None;
    }
    let rank = down.shape[0];
    let alpha = match alpha {
        None => rank as f64,
        Some((entry, values)) => match values?.as_slice() {
            [value] if *value != 0.0 => f64::from(*value),
            other => {
                let message = format!("expected one number other than 0, found {other:?}");
                findings.push(Finding::error(Code::ZeroScale, &entry.name, message));
                return None;
            }
        },
    };
    let matrix = |entry: &Entry, values: Vec<f32>| {
        let rows = entry.shape[0];
        Factor { rows, columns: values.len() / rows, values }
    };
    let (a, b) = (matrix(down, a?), matrix(up, b?));
    judge_zeros(name, &a, &b, findings);
    let kernel = down.shape[2..].to_vec();
    let kind = if kernel.is_empty() { ModuleKind::Linear } else { ModuleKind::Convolution(kernel) };
    let magnitude = magnitude.and_then(|(_, values)| values);
    Some(LoraModule { name: name.into(), kind, a, b, alpha, scale: alpha / rank as f64, magnitude, bias: None })
}

fn finite(file: &TensorFile, entry: &Entry, findings: &mut Vec<Finding>) -> Option<Vec<f32>> {
    let values = match file.values(entry) {
        Ok(values) => values,
        Err(message) => {
            findings.push(Finding::error(Code::Dtype, &entry.name, message));
            return None;
        }
    };
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let message = format!("expected finite numbers, found {} at entry {index}", values[index]);
        findings.push(Finding::error(Code::NotFinite, &entry.name, message));
        return None;
    }
    Some(values)
}
