//! adapter_config.json: as PEFT writes it, then as meant; whatever would change the meaning is refused.

use std::path::Path;

use serde_json::Value;

use super::finding::{Code, Finding};
use super::pattern::{Pattern, Targets};
use super::tensor_file::Entries;
use crate::error::ModelError;

/// What adapter_config.json says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) rslora: bool,
    pub(super) dora: bool,
    pub(super) rank_pattern: Vec<(Pattern, usize)>,
    pub(super) alpha_pattern: Vec<(Pattern, f64)>,
    pub(super) targets: Targets,
    pub(super) modules_to_save: Vec<String>,
    pub(super) bias: String,
    pub(super) task: Option<String>,
    pub(super) base: Option<String>,
    /// All keys as they came, in their order.
    pub(super) document: Vec<(String, Value)>,
}

/// PEFT's own defaults: a missing number means this, not 0.
const DEFAULT_RANK: usize = 8;
const DEFAULT_ALPHA: f64 = 8.0;

/// Largest rank or shape side that is believed.
const LARGEST_RANK: u64 = 1 << 20;

/// Keys that do not change what the adapter computes, given its tensors.
const HARMLESS: [&str; 29] = [
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "exclude_modules",
    "lora_dropout",
    "fan_in_fan_out",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "ensure_weight_tying",
    "lora_bias",
    "runtime_config",
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "target_modules",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "bias",
    "init_lora_weights",
];

/// The two patterns.
const PATTERNS: [&str; 2] = ["rank_pattern", "alpha_pattern"];

/// Initialisations that subtract something from the base: their adapter belongs to a changed base model.
const MUTATED: [&str; 5] = ["pissa", "olora", "corda", "lora_ga", "loftq"];

impl Settings {
    /// Parses a config; `findings` collects what would change the meaning.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] for no JSON object or a repeated key; [`ModelError::Config`] for a key of the wrong
    /// type or a tuner that is not LoRA.
    pub(super) fn parse(path: &Path, bytes: &[u8], findings: &mut Vec<Finding>) -> Result<Self, ModelError> {
        let entries: Entries = serde_json::from_slice(bytes).map_err(|error| ModelError::Malformed {
            path: path.into(),
            expected: "a JSON object with the keys of a PEFT adapter",
            found: error.to_string(),
        })?;
        let reader = Reader { path, entries: &entries.0 };
        let tuner = reader.text("peft_type")?;
        if tuner.as_deref() != Some("LORA") {
            let found = tuner.unwrap_or_else(|| "none".into());
            return Err(reader.refuse("peft_type", "LORA", &found));
        }
        let settings = Self {
            rank: reader.rank()?,
            alpha: reader.number("lora_alpha")?.unwrap_or(DEFAULT_ALPHA),
            rslora: reader.flag("use_rslora")?,
            dora: reader.flag("use_dora")?,
            rank_pattern: reader.ranks()?,
            alpha_pattern: reader.alphas()?,
            targets: reader.targets()?,
            modules_to_save: reader.texts("modules_to_save")?,
            bias: reader.text("bias")?.unwrap_or_else(|| "none".into()),
            task: reader.text("task_type")?,
            base: reader.text("base_model_name_or_path")?,
            document: Vec::new(),
        };
        if settings.alpha == 0.0 {
            findings.push(Finding::error(Code::ZeroScale, "lora_alpha", "is 0: the adapter would do nothing"));
        }
        reader.judge_the_rest(findings);
        Ok(Self { document: entries.0, ..settings })
    }

    /// The rank that the config promises for a module: the first pattern in file order that matches, else `r`.
    pub(super) fn rank_of(&self, module: &str) -> usize {
        first(&self.rank_pattern, module).map_or(self.rank, |(_, rank)| *rank)
    }

    /// The alpha of a module, likewise.
    pub(super) fn alpha_of(&self, module: &str) -> f64 {
        first(&self.alpha_pattern, module).map_or(self.alpha, |(_, alpha)| *alpha)
    }

    /// alpha/r, or alpha/sqrt(r).
    pub(super) fn scale(&self, alpha: f64, rank: usize) -> f64 {
        scale(alpha, rank, self.rslora)
    }

    /// Patterns that match one module together: re-ordered keys would change which one wins.
    pub(super) fn ambiguous(&self, module: &str) -> Option<Vec<&str>> {
        let ranks = matching(&self.rank_pattern, module);
        let alphas = matching(&self.alpha_pattern, module);
        [ranks, alphas].into_iter().find(|names| names.len() > 1)
    }
}

/// alpha/r, or alpha/sqrt(r) for rsLoRA.
///
/// # References
/// D. Kalajdzievski, rsLoRA, 2023 \[code\].
pub(super) fn scale(alpha: f64, rank: usize, rslora: bool) -> f64 {
    let rank = rank as f64;
    if rslora { alpha / rank.sqrt() } else { alpha / rank }
}

/// The texts of all patterns that match.
fn matching<'a, T>(patterns: &'a [(Pattern, T)], module: &str) -> Vec<&'a str> {
    patterns.iter().filter(|(pattern, _)| pattern.matches(module)).map(|(pattern, _)| pattern.text.as_str()).collect()
}

fn first<'a, T>(patterns: &'a [(Pattern, T)], module: &str) -> Option<&'a (Pattern, T)> {
    patterns.iter().find(|(pattern, _)| pattern.matches(module))
}

/// Typed access to a config; every refusal names the key.
struct Reader<'a> {
    path: &'a Path,
    entries: &'a [(String, Value)],
}

impl Reader<'_> {
    fn refuse(&self, name: &str, expected: &str, found: impl ToString) -> ModelError {
        ModelError::AdapterConfig {
            path: self.path.into(),
            name: name.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// A value that is there and not null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<String>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| self.refuse(name, "a string", value))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let texts = value
            .as_array()
            .and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>());
        texts.ok_or_else(|| self.refuse(name, "a list of strings", value))
    }

    fn flag(&self, name: &str) -> Result<bool, ModelError> {
        let Some(value) = self.get(name) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.refuse(name, "true or false", value))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.refuse(name, "a finite number", value)),
        }
    }

    fn rank(&self) -> Result<usize, ModelError> {
        self.get("r").map_or(Ok(DEFAULT_RANK), |value| self.as_rank("r", value))
    }

    fn as_rank(&self, name: &str, value: &Value) -> Result<usize, ModelError> {
        match value.as_u64() {
            Some(rank @ 1..=LARGEST_RANK) => Ok(rank as usize),
            _ => Err(self.refuse(name, "an integer from 1 to 2^20", value)),
        }
    }

    fn pattern_entries(&self, name: &str) -> Result<Vec<(Pattern, &Value)>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let map = value.as_object().ok_or_else(|| self.refuse(name, "an object of patterns", value))?;
        map.iter()
            .map(|(key, value)| {
                let pattern = Pattern::of_key(key).map_err(|error| self.refuse(name, "regular expressions", error))?;
                Ok((pattern, value))
            })
            .collect()
    }

    fn ranks(&self) -> Result<Vec<(Pattern, usize)>, ModelError> {
        let entries = self.pattern_entries("rank_pattern")?;
        entries.into_iter().map(|(pattern, value)| Ok((pattern, self.as_rank("rank_pattern", value)?))).collect()
    }

    fn alphas(&self) -> Result<Vec<(Pattern, f64)>, ModelError> {
        let alpha = |value: &Value| match value.as_f64() {
            Some(number) if number.is_finite() && number != 0.0 => Ok(number),
            _ => Err(self.refuse("alpha_pattern", "finite numbers other than 0", value)),
        };
        let entries = self.pattern_entries("alpha_pattern")?;
        entries.into_iter().map(|(pattern, value)| Ok((pattern, alpha(value)?))).collect()
    }

    fn targets(&self) -> Result<Targets, ModelError> {
        const NAME: &str = "target_modules";
        match self.get(NAME) {
            None => Ok(Targets::Unsaid),
            Some(Value::String(text)) if text == "all-linear" => Ok(Targets::AllLinear),
            Some(Value::String(text)) => {
                let pattern = Pattern::whole(text);
                Ok(Targets::Expression(pattern.map_err(|error| self.refuse(NAME, "a regular expression", error))?))
            }
            Some(_) => Ok(Targets::Suffixes(self.texts(NAME)?)),
        }
    }

    /// Keys that change the meaning in a way we do not apply, and keys we do not know.
    fn judge_the_rest(&self, findings: &mut Vec<Finding>) {
        for (name, value) in self.entries {
            let known = HARMLESS.contains(&name.as_str()) || PATTERNS.contains(&name.as_str());
            if !known && !is_off(value) {
                let message =
                    format!("is set to {}, which changes the adapter in a way that is not applied here", short(value));
                findings.push(Finding::error(Code::UnknownSetting, name, message));
            }
        }
        if let Some(Value::String(init)) = self.get("init_lora_weights")
            && let Some(kind) = MUTATED.iter().find(|kind| init.starts_with(*kind))
        {
            let message = format!(
                "is `{kind}`: the adapter belongs to a changed base model; save it with PEFT's \
                 path_initial_model_for_weight_conversion first"
            );
            findings.push(Finding::error(Code::MutatedBase, "init_lora_weights", message));
        }
    }
}

/// Whether a value says nothing: null, false, or empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The start of a value, for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 { text } else { format!("{}…", text.chars().take(40).collect::<String>()) }
}
