//! Adapters as files that PEFT loads: untouched tensors keep their bytes, new adapters get a config of their own.

use std::collections::BTreeMap;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::adapter::{Adapter, Layout, LoraModule, ModuleKind, Source, WholeTensor, natural_key};
use super::assemble::Place;
use super::peft::{PREFIX, place_of};
use super::tensor_file::{Entry, NewTensor, TensorFile, f32_bytes, write};
use crate::error::ModelError;

/// The two files of a PEFT adapter.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PeftFiles {
    /// The bytes of [`PeftFiles::CONFIG`].
    pub config: Vec<u8>,
    /// The bytes of [`PeftFiles::WEIGHTS`].
    pub tensors: Vec<u8>,
}

impl PeftFiles {
    /// The config's file name.
    pub const CONFIG: &'static str = super::locate::CONFIG;
    /// The weights' file name.
    pub const WEIGHTS: &'static str = super::locate::WEIGHTS;
}

/// The PEFT release whose fields a new config follows.
const PEFT_VERSION: &str = "0.20.0";

impl Adapter {
    /// An adapter of modules that come from no file: a training run, or another tool's layout.
    ///
    /// `rslora` says how `alpha` and `scale` of the modules belong together; `base` and `task` go into the config.
    pub fn from_modules(
        mut modules: Vec<LoraModule>,
        whole: Vec<WholeTensor>,
        rslora: bool,
        base: Option<&str>,
        task: Option<&str>,
    ) -> Self {
        modules.sort_by_key(|module| natural_key(&module.name));
        let config = new_config(&modules, &whole, rslora, base, task);
        let settings =
            super::settings::Settings::parse(std::path::Path::new(PeftFiles::CONFIG), &config, &mut Vec::new()).ok();
        Self { folder: ".".into(), layout: Layout::Peft, modules, whole, settings, source: None }
    }

    /// The files of this adapter, in PEFT's layout. O(size).
    ///
    /// Read from PEFT's files and unchanged, they are equal to the bit to what was read. A factor that changed is
    /// written as F32, whatever it was: rounding to half precision would change the product by 1e-3.
    ///
    /// # Errors
    /// [`ModelError::Input`] for names or settings that PEFT has no place for.
    pub fn to_peft(&self) -> Result<PeftFiles, ModelError> {
        match &self.source {
            Some(source) => Ok(PeftFiles { config: source.config.clone(), tensors: self.updated(source) }),
            None if self.layout == Layout::Kohya => Err(ModelError::input(
                "adapter names",
                "paths of modules",
                "kohya's names joined by underscores: a base model must say what they mean",
            )),
            None => self.to_new_files(),
        }
    }

    /// The source's file with the factors that changed.
    fn updated(&self, source: &Source) -> Vec<u8> {
        let modules: BTreeMap<&str, &LoraModule> = self.modules.iter().map(|m| (m.name.as_str(), m)).collect();
        let file = &source.tensors;
        let new: Vec<Option<Vec<u8>>> = file.entries().iter().map(|entry| changed(file, entry, &modules)).collect();
        if new.iter().all(Option::is_none) {
            return file.bytes().to_vec();
        }
        let tensors: Vec<NewTensor<'_>> = file
            .entries()
            .iter()
            .zip(&new)
            .map(|(entry, new)| NewTensor {
                name: &entry.name,
                shape: &entry.shape,
                dtype: if new.is_some() { Dtype::F32 } else { entry.dtype },
                bytes: new.as_deref().unwrap_or_else(|| file.data(entry)),
            })
            .collect();
        write(file.metadata(), &tensors)
    }

    fn to_new_files(&self) -> Result<PeftFiles, ModelError> {
        if let Some(module) = self.modules.iter().find(|m| matches!(m.kind, ModuleKind::Convolution(_))) {
            return Err(ModelError::input(
                "adapter",
                "linear maps and embeddings",
                format!("a convolution, `{}`", module.name),
            ));
        }
        let (base, task) = (self.base(), self.task());
        let rslora = self.settings.as_ref().is_some_and(|settings| settings.rslora);
        let config = new_config(&self.modules, &self.whole, rslora, base, task);
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut push = |name: String, shape: Vec<usize>, values: &[f32]| tensors.push((name, shape, f32_bytes(values)));
        for module in &self.modules {
            let (a, b) = keys(module);
            push(a, vec![module.a.rows, module.a.columns], &module.a.values);
            push(b, vec![module.b.rows, module.b.columns], &module.b.values);
            if let Some(bias) = &module.bias {
                push(format!("{PREFIX}{}.lora_B.bias", module.name), vec![bias.len()], bias);
            }
            if let Some(magnitude) = &module.magnitude {
                push(format!("{PREFIX}{}.lora_magnitude_vector", module.name), vec![magnitude.len()], magnitude);
            }
        }
        for tensor in &self.whole {
            push(format!("{PREFIX}{}", tensor.name), tensor.shape.clone(), &tensor.values);
        }
        // The order of `safetensors`' own writer: by name, all types being equal.
        tensors.sort_by(|left, right| left.0.cmp(&right.0));
        let views: Vec<NewTensor<'_>> =
            tensors.iter().map(|(name, shape, bytes)| NewTensor { name, dtype: Dtype::F32, shape, bytes }).collect();
        Ok(PeftFiles { config, tensors: write(&[("format".into(), json!("pt"))], &views) })
    }
}

fn keys(module: &LoraModule) -> (String, String) {
    let name = &module.name;
    match module.kind {
        ModuleKind::Embedding => {
            (format!("{PREFIX}{name}.lora_embedding_A"), format!("{PREFIX}{name}.lora_embedding_B"))
        }
        _ => (format!("{PREFIX}{name}.lora_A.weight"), format!("{PREFIX}{name}.lora_B.weight")),
    }
}

/// The bytes of a factor that differs from what the file holds.
fn changed(file: &TensorFile, entry: &Entry, modules: &BTreeMap<&str, &LoraModule>) -> Option<Vec<u8>> {
    let (name, place) = place_of(&entry.name)?;
    let module = modules.get(name)?;
    let values = match place {
        Place::A | Place::EmbeddingA => &module.a.values,
        Place::B | Place::EmbeddingB => &module.b.values,
        Place::Magnitude => module.magnitude.as_ref()?,
        Place::Bias => module.bias.as_ref()?,
    };
    let same = file.values(entry).is_ok_and(|old| {
        old.len() == values.len() && old.iter().zip(values).all(|(old, new)| old.to_bits() == new.to_bits())
    });
    (!same).then(|| f32_bytes(values))
}

/// adapter_config.json for modules: the commonest rank and alpha, and patterns for the others.
fn new_config(
    modules: &[LoraModule],
    whole: &[WholeTensor],
    rslora: bool,
    base: Option<&str>,
    task: Option<&str>,
) -> Vec<u8> {
    let rank = commonest(modules.iter().map(|module| module.rank())).unwrap_or(8);
    let alpha = commonest(modules.iter().map(|module| module.alpha.to_bits())).map_or(8.0, f64::from_bits);
    let odd = |wanted: &dyn Fn(&LoraModule) -> Option<Value>| -> Map<String, Value> {
        modules.iter().filter_map(|module| Some((module.name.clone(), wanted(module)?))).collect()
    };
    let ranks = odd(&|module| (module.rank() != rank).then(|| json!(module.rank())));
    let alphas = odd(&|module| (module.alpha != alpha).then(|| number(module.alpha)));
    let config = json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": number(alpha),
        "lora_bias": modules.iter().any(|module| module.bias.is_some()),
        "lora_dropout": 0.0,
        "modules_to_save": saved(whole),
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "r": rank,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": targets(modules),
        "task_type": task,
        "use_dora": modules.iter().any(|module| module.magnitude.is_some()),
        "use_rslora": rslora,
    });
    format!("{config:#}").into_bytes()
}

/// The most frequent value, the smallest of several.
fn commonest<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

/// An integer where the number is one: PEFT's own type for alpha.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The last parts of the paths if every layer has all of them, else whole paths: a short list must not name modules
/// that the adapter lacks.
fn targets(modules: &[LoraModule]) -> Vec<String> {
    let mut by_part: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for module in modules {
        let part = module.name.rsplit('.').next().unwrap_or(&module.name);
        let layer = module.name.split('.').find_map(|piece| piece.parse().ok()).unwrap_or(0);
        by_part.entry(part).or_default().push(layer);
    }
    let complete = by_part.values().all(|layers| layers.iter().enumerate().all(|(i, layer)| *layer == i as u64));
    let equal = by_part.values().map(Vec::len).collect::<std::collections::BTreeSet<_>>().len() <= 1;
    if complete && equal {
        return by_part.keys().map(|part| (*part).to_owned()).collect();
    }
    modules.iter().map(|module| module.name.clone()).collect()
}

fn saved(whole: &[WholeTensor]) -> Option<Vec<String>> {
    let mut names: Vec<String> = whole
        .iter()
        .map(|tensor| tensor.name.rsplit_once('.').map_or(tensor.name.as_str(), |(module, _)| module).to_owned())
        .collect();
    names.dedup();
    (!names.is_empty()).then_some(names)
}
