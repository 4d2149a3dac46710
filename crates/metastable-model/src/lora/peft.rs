//! PEFT's files: keys to modules, validated, and modules back to files that PEFT loads.
//!
//! On disk: `base_model.model.<path>.lora_A.weight` [r, in], `.lora_B.weight` [out, r], without the adapter's name;
//! embeddings `.lora_embedding_A`, `.lora_embedding_B`; DoRA `.lora_magnitude_vector`; everything else is a whole
//! tensor under its plain path.
//!
//! # References
//! Hugging Face PEFT, `utils/save_and_load.py` and `tuners/lora`, at 0.20/0.21 \[code\].

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use super::adapter::{Adapter, Layout, Source, Survey, WholeTensor, natural_key};
use super::assemble::{Assembly, Place};
use super::finding::{Code, Finding};
use super::pattern::{Targets, ends_with};
use super::settings::Settings;
use super::tensor_file::{Entry, TensorFile};
use crate::error::ModelError;

/// In front of every key.
pub(super) const PREFIX: &str = "base_model.model.";

/// The whole tensors that PEFT adds by itself for these tasks.
const TASK_HEADS: [(&str, &[&str]); 4] = [
    ("SEQ_CLS", &["classifier", "score"]),
    ("TOKEN_CLS", &["classifier", "score"]),
    ("QUESTION_ANS", &["qa_outputs"]),
    ("SEQ_2_SEQ_LM", &[]),
];

/// Names of embeddings, which PEFT may store whole.
const EMBEDDINGS: [&str; 6] = ["embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out"];

/// Reads and judges PEFT's two files.
pub(super) fn survey(folder: &Path, config: Vec<u8>, weights: &Path) -> Result<Survey, ModelError> {
    judge(folder, config, || TensorFile::read(weights))
}

/// Judges a config and, if it is sound, the weights that `file` gives.
pub(super) fn judge(
    folder: &Path,
    config: Vec<u8>,
    file: impl FnOnce() -> Result<TensorFile, ModelError>,
) -> Result<Survey, ModelError> {
    let mut findings = Vec::new();
    let settings = Settings::parse(&folder.join(super::locate::CONFIG), &config, &mut findings)?;
    let file = file()?;
    let read = |entry: &Entry| {
        let values = file.values(entry)?;
        let wrong = values.iter().position(|value| !value.is_finite());
        Ok((values, wrong))
    };
    let values: Vec<Result<(Vec<f32>, Option<usize>), String>> = file.entries().par_iter().map(read).collect();
    let mut assembly = Assembly::default();
    let mut whole = BTreeMap::new();
    for (entry, values) in file.entries().iter().zip(values) {
        let (values, wrong) = match values {
            Ok(values) => values,
            Err(message) => {
                findings.push(Finding::error(Code::Dtype, &entry.name, message));
                continue;
            }
        };
        if let Some(index) = wrong {
            let message = format!("expected finite numbers, found {} at entry {index}", values[index]);
            findings.push(Finding::error(Code::NotFinite, &entry.name, message));
            continue;
        }
        let path = judge_prefix(&entry.name, &mut findings);
        match role(path) {
            Role::Factor(module, place) => {
                assembly.put(module, place, &entry.name, &entry.shape, values, &mut findings)
            }
            Role::Named(module, place) => {
                let message = "has the name of an adapter inside, as models in memory have it; PEFT would not load it";
                findings.push(Finding::error(Code::AdapterNameInKey, &entry.name, message));
                assembly.put(module, place, &entry.name, &entry.shape, values, &mut findings);
            }
            Role::Unknown => findings.push(unknown(entry, "is no tensor of a LoRA adapter")),
            Role::Whole(name) => {
                if !announced(name, &settings) {
                    findings.push(unknown(
                        entry,
                        "is neither a factor nor announced by modules_to_save, bias or task_type",
                    ));
                }
                let tensor = WholeTensor { name: name.into(), shape: entry.shape.clone(), values };
                if whole.insert(name.to_owned(), tensor).is_some() {
                    findings.push(Finding::error(
                        Code::Duplicate,
                        &entry.name,
                        "stands for a tensor that is there already",
                    ));
                }
            }
        }
    }
    let mut modules = assembly.modules(&settings, &mut findings);
    modules.sort_by_key(|module| natural_key(&module.name));
    judge_targets(&modules.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(), &settings, &mut findings);
    let adapter = Adapter {
        folder: folder.into(),
        layout: Layout::Peft,
        modules,
        whole: whole.into_values().collect(),
        settings: Some(settings),
        source: Some(Source { config, tensors: file }),
    };
    Ok(Survey { adapter, findings })
}

fn unknown(entry: &Entry, message: &str) -> Finding {
    Finding::error(Code::UnknownKey, &entry.name, message)
}

/// The key without its prefix.
fn judge_prefix<'a>(key: &'a str, findings: &mut Vec<Finding>) -> &'a str {
    let Some(path) = key.strip_prefix(PREFIX) else {
        let message = "expected `base_model.model.` in front; PEFT would not load it";
        findings.push(Finding::error(Code::PrefixMissing, key, message));
        return key;
    };
    let Some(inner) = path.strip_prefix(PREFIX) else { return path };
    findings.push(Finding::error(Code::PrefixDoubled, key, "has `base_model.model.` twice; PEFT would not load it"));
    inner
}

/// The module and the place of a factor's key; none for other tensors.
pub(super) fn place_of(key: &str) -> Option<(&str, Place)> {
    let mut path = key;
    while let Some(inner) = path.strip_prefix(PREFIX) {
        path = inner;
    }
    match role(path) {
        Role::Factor(module, place) | Role::Named(module, place) => Some((module, place)),
        Role::Whole(_) | Role::Unknown => None,
    }
}

/// What a key stands for.
#[derive(Debug, PartialEq)]
enum Role<'a> {
    Factor(&'a str, Place),
    /// The same with an adapter's name inside.
    Named(&'a str, Place),
    Whole(&'a str),
    Unknown,
}

/// Endings of keys, in the spellings of PEFT and of tools around it.
const ENDINGS: [(&str, Place); 8] = [
    (".lora_A.weight", Place::A),
    (".lora_B.weight", Place::B),
    (".lora_B.bias", Place::Bias),
    (".lora_embedding_A", Place::EmbeddingA),
    (".lora_embedding_B", Place::EmbeddingB),
    (".lora_magnitude_vector", Place::Magnitude),
    (".lora_magnitude_vector.weight", Place::Magnitude),
    (".dora_scale", Place::Magnitude),
];

/// Markers after which an adapter's name may stand, and what the key then is.
const MARKERS: [(&str, Place); 5] = [
    (".lora_A.", Place::A),
    (".lora_B.", Place::B),
    (".lora_embedding_A.", Place::EmbeddingA),
    (".lora_embedding_B.", Place::EmbeddingB),
    (".lora_magnitude_vector.", Place::Magnitude),
];

fn role(path: &str) -> Role<'_> {
    if let Some((ending, place)) = ENDINGS.iter().find(|(ending, _)| path.ends_with(ending)) {
        return Role::Factor(&path[..path.len() - ending.len()], *place);
    }
    for (marker, place) in MARKERS {
        if let Some(at) = path.find(marker) {
            let tail = &path[at + marker.len()..];
            // `<name>.weight`, or for embeddings and magnitudes the name alone; `lora_B.<name>.bias`.
            let (name, place) = match (tail.strip_suffix(".weight"), tail.strip_suffix(".bias")) {
                (Some(name), _) => (name, place),
                (None, Some(name)) if place == Place::B => (name, Place::Bias),
                _ => (tail, place),
            };
            let named = !name.is_empty() && !name.contains('.') && tail != "weight";
            return if named { Role::Named(&path[..at], place) } else { Role::Unknown };
        }
    }
    if path.split('.').any(|part| part.starts_with("lora_")) { Role::Unknown } else { Role::Whole(path) }
}

/// Whether the config lets one expect this whole tensor.
fn announced(name: &str, settings: &Settings) -> bool {
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    // PEFT wraps every module whose path ends with the text, and saves what is inside it.
    let saved = |part: &str| {
        let ends = module.match_indices('.').map(|(dot, _)| dot).chain([module.len()]);
        ends.into_iter().any(|end| module[..end].ends_with(part))
    };
    let task = settings.task.as_deref().unwrap_or_default();
    let heads = TASK_HEADS.iter().filter(|(of, _)| *of == task).flat_map(|(_, heads)| heads.iter());
    let bias = name.ends_with(".bias") && settings.bias != "none";
    let embedding = module.strip_suffix(".base_layer").unwrap_or(module);
    bias || settings.modules_to_save.iter().any(|part| saved(part))
        || heads.into_iter().any(|head| saved(head))
        || EMBEDDINGS.iter().any(|part| ends_with(embedding, part))
}

/// Modules that the config does not target, targets that no module meets, patterns in each other's way.
fn judge_targets(names: &[&str], settings: &Settings, findings: &mut Vec<Finding>) {
    if names.is_empty() {
        findings.push(Finding::error(Code::Empty, "adapter", "has no usable LoRA module"));
        return;
    }
    for name in names {
        if !settings.targets.contain(name) {
            let message = "is in the file but not in target_modules; PEFT would drop it silently";
            findings.push(Finding::error(Code::NotTargeted, *name, message));
        }
        if let Some(patterns) = settings.ambiguous(name) {
            let message = format!("is matched by several patterns ({}): the first one counts", patterns.join(", "));
            findings.push(Finding::warning(Code::AmbiguousPattern, *name, message));
        }
    }
    if let Targets::Suffixes(suffixes) = &settings.targets {
        for suffix in suffixes.iter().filter(|suffix| !names.iter().any(|name| ends_with(name, suffix))) {
            let message = "is in target_modules but no module of the file has that name";
            findings.push(Finding::error(Code::TargetAbsent, suffix, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood_and_an_adapters_name_is_noticed() {
        assert_eq!(role("m.q.lora_A.weight"), Role::Factor("m.q", Place::A));
        assert_eq!(role("m.q.lora_magnitude_vector"), Role::Factor("m.q", Place::Magnitude));
        assert_eq!(role("m.wte.lora_embedding_B"), Role::Factor("m.wte", Place::EmbeddingB));
        assert_eq!(role("m.q.lora_A.default.weight"), Role::Named("m.q", Place::A));
        assert_eq!(role("m.q.lora_B.mine.bias"), Role::Named("m.q", Place::Bias));
        assert_eq!(role("m.wte.lora_embedding_A.default"), Role::Named("m.wte", Place::EmbeddingA));
        assert_eq!(role("classifier.weight"), Role::Whole("classifier.weight"));
        assert_eq!(role("m.q.lora_diag.weight"), Role::Unknown);
    }
}
