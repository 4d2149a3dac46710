//! An adapter put on a model: every module finds its map, or the adapter is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::adapter::{Adapter, LoraModule, ModuleKind, Strictness, WholeTensor};
use crate::config::Family;
use crate::error::ModelError;
use crate::linear::{Linear, Update};
use crate::model::Model;
use crate::names::{Parameter, Part, Spelling, Storage, spellings};
use crate::transformer::Transformer;

/// A model with an adapter, and what was left aside.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Adapted {
    /// The base model's function changed by the adapter; unchanged maps are shared with it.
    pub model: Model,
    /// Modules that found their map.
    pub applied: usize,
    /// What the adapter holds and the forward pass does not use, in words.
    pub notes: Vec<String>,
}

/// Modules above the hidden states, which belong to a task and not to the forward pass.
const TASK_HEADS: [&str; 8] =
    ["classifier", "score", "qa_outputs", "pooler", "pre_classifier", "predictions", "cls", "vocab_transform"];

impl Model {
    /// The model with an adapter: W' = W + scale·B A on every adapted map, DoRA's magnitudes, biases and whole tensors
    /// included. The sum is made in f64 and rounded once. O(adapted weights·r).
    ///
    /// # Errors
    /// [`ModelError::AdapterMismatch`] for a module that is no map of this model, or of another shape (with
    /// [`Strictness::Partial`] a module without a map becomes a note).
    ///
    /// # Example
    /// ```no_run
    /// use std::path::Path;
    /// use metastable_model::{Input, Model, lora::{Adapter, Strictness}};
    /// let model = Model::open(Path::new("base"))?;
    /// let adapter = Adapter::open(Path::new("adapter"), Strictness::Closed)?;
    /// let adapted = model.with_adapter(&adapter, Strictness::Closed)?.model;
    /// let hidden = adapted.forward(&Input::new(vec![1, 2, 3])?)?;
    /// # Ok::<(), metastable_model::ModelError>(())
    /// ```
    pub fn with_adapter(&self, adapter: &Adapter, strictness: Strictness) -> Result<Adapted, ModelError> {
        let mut attachment = Attachment {
            family: self.config().family,
            modules: adapter.modules().iter().map(|module| (module.name.as_str(), module)).collect(),
            whole: adapter.whole_tensors().iter().map(|tensor| (plain(&tensor.name), tensor)).collect(),
            used: BTreeSet::new(),
        };
        let mut model = self.clone();
        attachment.attach(model.transformer_mut())?;
        let applied = attachment.modules.keys().filter(|name| attachment.used.contains(**name)).count();
        let notes = attachment.rest(strictness)?;
        Ok(Adapted { model, applied, notes })
    }
}

/// The name of a whole tensor without the segment that PEFT's wrappers put in.
fn plain(name: &str) -> String {
    name.replace(".base_layer.", ".")
}

/// What is still to be placed.
struct Attachment<'a> {
    family: Family,
    modules: BTreeMap<&'a str, &'a LoraModule>,
    whole: BTreeMap<String, &'a WholeTensor>,
    used: BTreeSet<String>,
}

impl<'a> Attachment<'a> {
    fn attach(&mut self, transformer: &mut Transformer) -> Result<(), ModelError> {
        for (parameter, layer, map) in transformer.maps_mut() {
            self.change(map, |part| parameter(layer, part))?;
        }
        for (parameter, layer, norm) in transformer.norms_mut() {
            for part in [Part::Weight, Part::Bias] {
                let width = norm.gain().len();
                if let Some(values) = self.whole(parameter(layer, part), &[width])? {
                    norm.replace(part, values);
                }
            }
        }
        self.change_ends(transformer)
    }

    /// The token table and the output map, which may be one.
    fn change_ends(&mut self, transformer: &mut Transformer) -> Result<(), ModelError> {
        let names = |parameter| spellings(self.family, parameter).into_iter().map(|s| module_name(&s.name).to_owned());
        let touched = |mut names: Box<dyn Iterator<Item = String> + '_>| {
            names.any(|name| {
                self.modules.contains_key(name.as_str()) || self.whole.contains_key(&format!("{name}.weight"))
            })
        };
        let output = touched(Box::new(names(Parameter::Output)));
        let table = touched(Box::new(names(Parameter::TokenEmbedding)));
        if !output && !table {
            return Ok(());
        }
        // PEFT changes the table of tokens or the output map, never both: a tie ends where one of them is adapted.
        if let Some(map) = transformer.own_output() {
            self.change(map, |part| if part == Part::Weight { Parameter::Output } else { Parameter::FinalNorm(part) })?;
        }
        self.change(&mut transformer.embedding.token, |_| Parameter::TokenEmbedding)
    }

    /// Whole tensors first, then the low-rank update, as PEFT's wrappers stack them.
    fn change(&mut self, map: &mut Linear, parameter: impl Fn(Part) -> Parameter) -> Result<(), ModelError> {
        let shape = [map.outputs(), map.inputs()];
        let weight = parameter(Part::Weight);
        if let Some(values) = self.whole(weight, &shape)? {
            map.replace_weight(values);
        }
        if map.has_bias()
            && let Some(values) = self.whole(parameter(Part::Bias), &shape[..1])?
        {
            map.replace_bias(values);
        }
        for spelling in spellings(self.family, weight) {
            let name = module_name(&spelling.name).to_owned();
            if let Some(module) = self.modules.get(name.as_str()).copied() {
                *map = adapted(map, module, spelling.storage)?;
                self.used.insert(name);
            }
        }
        Ok(())
    }

    /// The replacement of a parameter, if the adapter has one.
    fn whole(&mut self, parameter: Parameter, shape: &[usize]) -> Result<Option<Vec<f32>>, ModelError> {
        for Spelling { name, storage } in spellings(self.family, parameter) {
            let Some(tensor) = self.whole.get(&name).copied() else { continue };
            let stored = storage.stored(shape);
            if tensor.shape != stored {
                return Err(mismatch(&tensor.name, format!("shape {stored:?}"), format!("{:?}", tensor.shape)));
            }
            self.used.insert(name);
            return Ok(Some(storage.canonical(tensor.values.clone(), shape)));
        }
        Ok(None)
    }

    /// What found no place: an error, or a note where it is no part of the forward pass.
    fn rest(&self, strictness: Strictness) -> Result<Vec<String>, ModelError> {
        let mut notes = Vec::new();
        let family = self.family.name();
        for name in self.modules.keys().filter(|name| !self.used.contains(**name)) {
            if strictness == Strictness::Closed {
                return Err(mismatch(name, format!("a map of a {family} model"), "none of that name".into()));
            }
            notes.push(format!("`{name}` is no map of this model: left out"));
        }
        for name in self.whole.keys().filter(|name| !self.used.contains(*name)) {
            let head = name.split('.').any(|part| TASK_HEADS.contains(&part));
            if !head && strictness == Strictness::Closed {
                return Err(mismatch(name, format!("a tensor of a {family} model"), "none of that name".into()));
            }
            notes.push(format!("`{name}` is not used by the forward pass"));
        }
        Ok(notes)
    }
}

/// The module's name in a tensor's.
pub(super) fn module_name(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").unwrap_or(tensor)
}

fn mismatch(module: &str, expected: String, found: String) -> ModelError {
    ModelError::AdapterMismatch { module: module.into(), expected, found }
}

/// The map with the part of a module that belongs to it.
fn adapted(map: &Linear, module: &LoraModule, storage: Storage) -> Result<Linear, ModelError> {
    let (index, count) = match storage {
        Storage::JoinedColumns { index, count } => (index, count),
        // Adapters have the order of their family's own files, whatever file the base came from.
        Storage::Rows | Storage::Columns | Storage::PairedRows { .. } => (0, 1),
    };
    // The table of tokens is [vocab, dim], its update (B A)ᵀ: the factors change places.
    let transposed = (module.kind == ModuleKind::Embedding).then(|| (module.b.transposed(), module.a.transposed()));
    let (a, b) = transposed.as_ref().map_or((&module.a, &module.b), |(a, b)| (a, b));
    let expected = [count * map.outputs(), map.inputs()];
    if [b.rows, a.columns] != expected {
        let found = format!("{:?}", [b.rows, a.columns]);
        return Err(mismatch(&module.name, format!("an update of shape {expected:?}"), found));
    }
    if module.magnitude.is_some() && transposed.is_some() {
        return Err(mismatch(&module.name, "a linear map for DoRA".into(), "an embedding".into()));
    }
    let rows = index * map.outputs()..(index + 1) * map.outputs();
    Ok(map.adapted(&Update {
        a: &a.values,
        b: &b.values[rows.start * b.columns..rows.end * b.columns],
        scale: module.scale,
        magnitude: module.magnitude.as_ref().map(|values| &values[rows.clone()]),
        bias: module.bias.as_ref().map(|values| &values[rows]),
    }))
}
