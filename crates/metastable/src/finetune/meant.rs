//! The config of `finetune` as it is meant: validated once, in the terms of the model crate.

use std::path::{Path, PathBuf};

use metastable_model::train::targets::TargetModules;
use metastable_model::train::{Balora, Base, Form, Init, LoraRite, Method, Schedule, SessionSettings, Shape, Task};

use super::written::{
    BaseName, FinetuneConfig, InitName, MethodName, OptimizerConfig, ProjectionName, ScheduleName, TargetConfig,
    TaskName,
};
use crate::error::LabError;
use crate::hub::{HubName, Role, fetch};
use crate::watch::Watcher;

/// Refuses values outside their domains; `file` is for messages.
///
/// # Errors
/// [`LabError::WrongValue`] naming the key.
pub(super) fn validate(config: &FinetuneConfig, file: &Path) -> Result<(), LabError> {
    let wrong = |key: &str, expected: &str, found: &dyn ToString| {
        Err(LabError::wrong_value(file, key, expected.into(), found.to_string()))
    };
    let (data, lora, optimizer) = (&config.data, &config.lora, &config.optimizer);
    let positive = [
        ("lora.alpha", lora.alpha),
        ("optimizer.learning_rate", optimizer.learning_rate),
        ("optimizer.epsilon", optimizer.epsilon),
        ("optimizer.ratio", optimizer.ratio),
    ];
    let not_negative = [
        ("optimizer.weight_decay", optimizer.weight_decay),
        ("optimizer.max_grad_norm", optimizer.max_grad_norm),
        ("optimizer.damping", optimizer.damping),
    ];
    let counts = [
        ("lora.rank", lora.rank as u64),
        ("optimizer.batch_size", optimizer.batch_size as u64),
        ("optimizer.gradient_accumulation_steps", optimizer.gradient_accumulation_steps as u64),
        ("optimizer.max_steps", optimizer.max_steps),
        ("optimizer.project_every", optimizer.project_every),
        ("evaluation.every", config.evaluation.every),
    ];
    if i64::try_from(config.seed).is_err() {
        return wrong("seed", "at most 9223372036854775807, the largest integer of TOML", &config.seed);
    }
    if let Some((key, found)) = positive.iter().find(|(_, value)| !(*value > 0.0 && value.is_finite())) {
        return wrong(key, "a finite number > 0", found);
    }
    if let Some((key, found)) = not_negative.iter().find(|(_, value)| !(*value >= 0.0 && value.is_finite())) {
        return wrong(key, "a finite number >= 0", found);
    }
    if let Some((key, found)) = counts.iter().find(|(_, value)| !(1..1 << 40).contains(value)) {
        return wrong(key, "an integer >= 1", found);
    }
    for (key, beta) in [("optimizer.beta1", optimizer.beta1), ("optimizer.beta2", optimizer.beta2)] {
        if !(0.0..1.0).contains(&beta) {
            return wrong(key, "a number from 0 to below 1", &beta);
        }
    }
    if optimizer.warmup_steps > optimizer.max_steps {
        return wrong("optimizer.warmup_steps", "at most optimizer.max_steps", &optimizer.warmup_steps);
    }
    if !(0.0..1.0).contains(&data.eval_fraction) {
        return wrong("data.eval_fraction", "a number from 0 to below 1", &data.eval_fraction);
    }
    if !(data.mask_probability > 0.0 && data.mask_probability < 1.0) {
        return wrong("data.mask_probability", "a number between 0 and 1", &data.mask_probability);
    }
    if data.max_seq_length < 2 {
        return wrong("data.max_seq_length", "an integer >= 2", &data.max_seq_length);
    }
    if let Some(probe) = &config.probe {
        if probe.text.is_some() == probe.file.is_some() {
            return wrong("probe.text", "either this or probe.file", &"both or neither");
        }
        if !(1..1 << 40).contains(&probe.every) {
            return wrong("probe.every", "an integer >= 1", &probe.every);
        }
        if probe.max_tokens < 1 {
            return wrong("probe.max_tokens", "an integer >= 1", &probe.max_tokens);
        }
        if !(probe.cluster_radius > 0.0 && probe.cluster_radius.is_finite()) {
            return wrong("probe.cluster_radius", "a finite number > 0", &probe.cluster_radius);
        }
    }
    if data.prompt_field.is_some() != data.completion_field.is_some() {
        return wrong("data.prompt_field", "together with data.completion_field", &"one of the two");
    }
    if data.prompt_field.is_some() && data.task != TaskName::CausalLm {
        return wrong("data.prompt_field", "only with task = \"causal_lm\"", &"another task");
    }
    Ok(())
}

/// What the model crate needs; `classes` counts the labels of a classification.
///
/// # Errors
/// [`LabError::Model`] for a regular expression that cannot be compiled.
pub(super) fn settings(config: &FinetuneConfig, classes: usize) -> Result<SessionSettings, LabError> {
    let (lora, optimizer) = (&config.lora, &config.optimizer);
    Ok(SessionSettings {
        task: match config.data.task {
            TaskName::CausalLm => Task::CausalLm,
            TaskName::MaskedLm => Task::MaskedLm,
            TaskName::Classification => Task::Classification(classes),
        },
        targets: match &lora.target_modules {
            TargetConfig::One(text) => TargetModules::expression(text)?,
            TargetConfig::Many(names) => TargetModules::names(names.clone()),
        },
        rank: lora.rank,
        alpha: lora.alpha,
        rslora: lora.rslora,
        init: match lora.init {
            InitName::Kaiming => Init::Kaiming,
            InitName::Gaussian => Init::Gaussian,
            InitName::Pissa => Init::Pissa,
            InitName::Olora => Init::Olora,
        },
        dora: lora.dora,
        method: method(optimizer),
        base: match optimizer.base {
            BaseName::Adamw => {
                Base::AdamW { beta1: optimizer.beta1, beta2: optimizer.beta2, epsilon: optimizer.epsilon }
            }
            BaseName::Sgd => Base::Sgd,
            BaseName::Sign => Base::Sign,
        },
        weight_decay: optimizer.weight_decay,
        max_grad_norm: optimizer.max_grad_norm,
        recompute: optimizer.recompute,
        seed: config.seed,
    })
}

/// Steps at the start of RefLoRA that are plain, as its authors have it.
const REFLORA_WARMUP: u64 = 100;

fn method(optimizer: &OptimizerConfig) -> Method {
    match optimizer.method {
        MethodName::Lora => Method::Lora,
        MethodName::LoraPlus => Method::LoraPlus { ratio: optimizer.ratio },
        MethodName::LoraFa => Method::LoraFa,
        MethodName::Riemannian => Method::Riemannian { damping: optimizer.damping },
        MethodName::Reflora => Method::RefLora { warmup: REFLORA_WARMUP.min(optimizer.max_steps / 10) },
        MethodName::LoraPro => Method::LoraPro,
        MethodName::LoraRite => {
            Method::LoraRite(LoraRite { beta1: optimizer.beta1, beta2: optimizer.beta2, ..LoraRite::default() })
        }
        MethodName::NormBalance => Method::NormBalance { transport: optimizer.transport },
        MethodName::Balora => Method::Balora(Balora {
            form: match optimizer.projection {
                ProjectionName::Canonical => Form::Canonical,
                ProjectionName::Nearest => Form::Nearest,
            },
            transport: optimizer.transport,
            every: optimizer.project_every,
        }),
    }
}

/// The learning rate over time.
pub(super) fn schedule(optimizer: &OptimizerConfig) -> Schedule {
    Schedule {
        peak: optimizer.learning_rate,
        warmup: optimizer.warmup_steps,
        steps: optimizer.max_steps,
        shape: match optimizer.schedule {
            ScheduleName::Constant => Shape::Constant,
            ScheduleName::Linear => Shape::Linear,
            ScheduleName::Cosine => Shape::Cosine,
        },
    }
}

/// A data file: beside the config, or, for a bare name, where `scripts/fetch-data` puts data.
pub(super) fn data_path(config: &Path, name: &str) -> PathBuf {
    beside_or_cached(config, name, "METASTABLE_DATA", "data")
}

/// A model: beside the config, or, for a bare name, where `scripts/fetch-models` puts models, or else the files of a name
/// on the Hub, downloaded first unless `offline` forbids it. With the name by which PEFT finds it: of a name on the Hub,
/// the repository.
///
/// # Errors
/// As [`fetch`]; of places that were looked at, the one beside the config is named too.
pub(super) fn model_path(
    config: &Path,
    name: &str,
    offline: bool,
    watcher: &mut dyn Watcher,
) -> Result<(PathBuf, String), LabError> {
    let near = beside_or_cached(config, name, "METASTABLE_MODELS", "models");
    // A path of the working folder is none of the config's.
    let is_elsewhere = !near.exists() && !Path::new(name).exists();
    let Some(hub_name) = HubName::parse(Path::new(name)).filter(|_| is_elsewhere) else {
        return Ok((near, name.into()));
    };
    match fetch(Path::new(name), Role::Model, offline, watcher) {
        Ok(files) => Ok((files, hub_name.repository)),
        Err(LabError::UnknownModel { model, looked }) => {
            let places = std::iter::once(near).chain(looked.into_iter().filter(|place| *place != model));
            Err(LabError::UnknownModel { looked: places.collect(), model })
        }
        Err(error) => Err(error),
    }
}

fn beside_or_cached(config: &Path, name: &str, variable: &str, kind: &str) -> PathBuf {
    let near = config.parent().unwrap_or(Path::new("")).join(name);
    if near.exists() || name.contains(['/', '\\']) {
        return near;
    }
    let read = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || read("XDG_CACHE_HOME").or_else(|| read("HOME").map(|home| home.join(".cache")));
    let folder = read(variable).or_else(|| Some(cache()?.join("metastable").join(kind)));
    match folder.map(|folder| folder.join(name)) {
        Some(cached) if cached.exists() => cached,
        _ => near,
    }
}
