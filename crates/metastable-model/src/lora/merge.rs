//! An adapter merged into the files of its base model, name by name, in the types they had.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::adapter::{Adapter, LoraModule, ModuleKind};
use super::attach::module_name;
use super::tensor_file::{Entry, NewTensor, TensorFile, f32_bytes, write};
use crate::config::{Config, OutputHead};
use crate::error::ModelError;
use crate::names::{Parameter, spellings};

/// The weights of a merged model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Merged {
    /// The bytes of model.safetensors.
    pub tensors: Vec<u8>,
    /// Modules merged.
    pub modules: usize,
    /// The name of the type changed weights were written in, such as `F16`: rounding to it is the error of a merge.
    pub dtypes: Vec<String>,
    /// What was left aside, in words.
    pub notes: Vec<String>,
}

impl Adapter {
    /// Merges the adapter into the weights of a model folder: W + scale·B A under the names, types and orientations of
    /// the base's file, in product space; DoRA, biases and whole tensors included. O(size of the model).
    ///
    /// # Errors
    /// [`ModelError::AdapterMismatch`] for a module without a tensor of its shape, or one on a tied table, where the
    /// merge would change both ends of the model.
    pub fn merged_into(&self, folder: &Path) -> Result<Merged, ModelError> {
        let config = Config::read(&folder.join("config.json"))?;
        let file = TensorFile::read(&folder.join("model.safetensors"))?;
        let names = prefixes(&file, self)?;
        self.refuse_ties(&config)?;
        let mut changed: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        let mut notes = Vec::new();
        for tensor in self.whole_tensors() {
            let name = tensor.name.replace(".base_layer.", ".");
            match find(&file, &names, &name) {
                Some(entry) if entry.shape == tensor.shape => {
                    drop(changed.insert(entry.name.clone(), tensor.values.clone()))
                }
                Some(entry) => {
                    return Err(mismatch(&name, format!("{:?}", entry.shape), format!("{:?}", tensor.shape)));
                }
                None => notes.push(format!("`{name}` has no place in the base model's file: left out")),
            }
        }
        for module in self.modules() {
            merge_module(module, &file, &names, &mut changed)?;
        }
        let mut dtypes: Vec<String> =
            file.entries().iter().filter(|e| changed.contains_key(&e.name)).map(|e| e.dtype.to_string()).collect();
        dtypes.sort();
        dtypes.dedup();
        let bytes: BTreeMap<&str, Vec<u8>> = file
            .entries()
            .iter()
            .filter_map(|entry| Some((entry.name.as_str(), encode(entry.dtype, changed.get(&entry.name)?))))
            .collect();
        let tensors: Vec<NewTensor<'_>> = file
            .entries()
            .iter()
            .map(|entry| NewTensor {
                name: &entry.name,
                dtype: entry.dtype,
                shape: &entry.shape,
                bytes: bytes.get(entry.name.as_str()).map_or_else(|| file.data(entry), Vec::as_slice),
            })
            .collect();
        Ok(Merged { tensors: write(file.metadata(), &tensors), modules: self.modules().len(), dtypes, notes })
    }

    /// A merge into a tied table would change the embedding and the output together, which the adapter does not.
    fn refuse_ties(&self, config: &Config) -> Result<(), ModelError> {
        let tied = config.output == OutputHead::Tied;
        let ends = [Parameter::TokenEmbedding, Parameter::Output].map(|parameter| spellings(config.family, parameter));
        let of_ends = |name: &str| ends.iter().flatten().any(|spelling| module_name(&spelling.name) == name);
        match self.modules().iter().find(|module| tied && of_ends(&module.name)) {
            Some(module) => Err(mismatch(
                &module.name,
                "a table of its own".into(),
                "one tied to the other end of the model".into(),
            )),
            None => Ok(()),
        }
    }
}

/// What the names of the adapter have in front that the file's lack, or the reverse: (to strip, to add).
fn prefixes(file: &TensorFile, adapter: &Adapter) -> Result<(String, String), ModelError> {
    let Some(module) = adapter.modules().first() else { return Ok(Default::default()) };
    let weight = format!("{}.weight", module.name);
    let has = |name: &str| file.entries().iter().any(|entry| entry.name == name);
    if has(&weight) {
        return Ok(Default::default());
    }
    if let Some((first, rest)) = weight.split_once('.')
        && has(rest)
    {
        return Ok((format!("{first}."), String::new()));
    }
    let longer = file.entries().iter().find_map(|entry| entry.name.strip_suffix(&format!(".{weight}")));
    match longer {
        Some(prefix) if !prefix.contains('.') => Ok((String::new(), format!("{prefix}."))),
        _ => Err(mismatch(&module.name, "a tensor of the base model".into(), "none of that name".into())),
    }
}

fn find<'a>(file: &'a TensorFile, (strip, add): &(String, String), name: &str) -> Option<&'a Entry> {
    let spelled = format!("{add}{}", name.strip_prefix(strip.as_str()).unwrap_or(name));
    file.entries().iter().find(|entry| entry.name == spelled)
}

fn merge_module(
    module: &LoraModule,
    file: &TensorFile,
    names: &(String, String),
    changed: &mut BTreeMap<String, Vec<f32>>,
) -> Result<(), ModelError> {
    let absent = || mismatch(&module.name, "a tensor of the base model".into(), "none of that name".into());
    let entry = find(file, names, &format!("{}.weight", module.name)).ok_or_else(absent)?;
    let [out, inputs] = module.shape();
    // Conv1D and tables of tokens hold the transpose; a square matrix is settled by the name: only GPT-2 has `c_proj`.
    let conv1d = module.name.rsplit('.').next().is_some_and(|part| ["c_attn", "c_proj", "c_fc"].contains(&part));
    let transposed = conv1d || module.kind == ModuleKind::Embedding;
    let expected = if transposed { vec![inputs, out] } else { vec![out, inputs] };
    if entry.shape != expected || matches!(module.kind, ModuleKind::Convolution(_)) {
        return Err(mismatch(&module.name, format!("{expected:?}"), format!("{:?}", entry.shape)));
    }
    let mut weight = match changed.remove(&entry.name) {
        Some(values) => values,
        None => file.values(entry).map_err(|found| mismatch(&module.name, "floating-point weights".into(), found))?,
    };
    let at = |i: usize, j: usize| if transposed { j * out + i } else { i * inputs + j };
    for i in 0..out {
        let mut row: Vec<f64> = (0..inputs).map(|j| f64::from(weight[at(i, j)])).collect();
        for k in 0..module.rank() {
            let share = module.scale * f64::from(module.b.values[i * module.rank() + k]);
            let a = &module.a.values[k * inputs..(k + 1) * inputs];
            row.iter_mut().zip(a).for_each(|(w, a)| *w += share * f64::from(*a));
        }
        if let Some(magnitude) = &module.magnitude {
            let length = row.iter().map(|w| w * w).sum::<f64>().sqrt();
            row.iter_mut().for_each(|w| *w *= f64::from(magnitude[i]) / length.max(f64::MIN_POSITIVE));
        }
        row.iter().enumerate().for_each(|(j, w)| weight[at(i, j)] = *w as f32);
    }
    changed.insert(entry.name.clone(), weight);
    merge_bias(module, file, names, changed)
}

fn merge_bias(
    module: &LoraModule,
    file: &TensorFile,
    names: &(String, String),
    changed: &mut BTreeMap<String, Vec<f32>>,
) -> Result<(), ModelError> {
    let Some(update) = &module.bias else { return Ok(()) };
    let absent = || mismatch(&module.name, "a bias in the base model to add to".into(), "none".into());
    let entry = find(file, names, &format!("{}.bias", module.name)).ok_or_else(absent)?;
    let mut bias = match changed.remove(&entry.name) {
        Some(values) => values,
        None => file.values(entry).map_err(|found| mismatch(&module.name, "a floating-point bias".into(), found))?,
    };
    if bias.len() != update.len() {
        return Err(mismatch(&module.name, format!("a bias of {}", bias.len()), update.len().to_string()));
    }
    bias.iter_mut().zip(update).for_each(|(b, u)| *b = (f64::from(*b) + module.scale * f64::from(*u)) as f32);
    changed.insert(entry.name.clone(), bias);
    Ok(())
}

fn mismatch(module: &str, expected: String, found: String) -> ModelError {
    ModelError::AdapterMismatch { module: module.into(), expected, found }
}

/// Numbers in the type a file has them in, rounded to nearest, ties to even.
fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        _ => f32_bytes(values),
    }
}
