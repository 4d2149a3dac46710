//! An adapter merged into the files of its base model, name by name, in the types they had.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::Dtype;

use super::adapter::{Adapter, LoraModule, ModuleKind, WholeTensor};
use super::attach::module_name;
use super::tensor_file::{Entry, NewTensor, TensorFile, f32_bytes, write};
use crate::checkpoint::weight_files;
use crate::config::{Config, OutputHead};
use crate::error::ModelError;
use crate::names::{Parameter, spellings};

/// A merge whose names, types and shapes fit, made file by file: a sharded base never has to fit into memory.
#[derive(Debug)]
pub struct Merging<'a> {
    adapter: &'a Adapter,
    files: Vec<(String, TensorFile)>,
    names: (String, String),
    dtypes: Vec<String>,
    notes: Vec<String>,
}

impl Adapter {
    /// Prepares a merge into the weights of a model folder, one safetensors file or shards: W + scale·B A under the
    /// names, types and orientations of the base's files, in product space; DoRA, biases and whole tensors included.
    /// O(headers).
    ///
    /// # Errors
    /// [`ModelError::AdapterMismatch`] for a module without a tensor of its shape, or one on a tied table, where the
    /// merge would change both ends of the model.
    pub fn merging(&self, folder: &Path) -> Result<Merging<'_>, ModelError> {
        let config = Config::read(&folder.join("config.json"))?;
        let files = weight_files(folder)?
            .into_iter()
            .map(|name| Ok((name.clone(), TensorFile::read(&folder.join(&name))?)))
            .collect::<Result<Vec<_>, ModelError>>()?;
        self.refuse_ties(&config)?;
        let mut merging =
            Merging { names: prefixes(&files, self)?, adapter: self, files, dtypes: Vec::new(), notes: Vec::new() };
        merging.check()?;
        Ok(merging)
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

impl Merging<'_> {
    /// The names of the files, all of which [`Merging::bytes`] makes.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    /// Modules merged.
    pub fn modules(&self) -> usize {
        self.adapter.modules().len()
    }

    /// The names of the types that changed weights are written in, such as `F16`: rounding to it is the error of a
    /// merge.
    pub fn dtypes(&self) -> &[String] {
        &self.dtypes
    }

    /// What is left aside, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every change has its tensor, of its shape.
    fn check(&mut self) -> Result<(), ModelError> {
        let mut dtypes = std::collections::BTreeSet::new();
        for tensor in self.adapter.whole_tensors() {
            let name = whole_name(tensor);
            match self.find(&name) {
                Some(entry) if entry.shape == tensor.shape => {
                    dtypes.insert(entry.dtype.to_string());
                }
                Some(entry) => {
                    return Err(mismatch(&name, format!("{:?}", entry.shape), format!("{:?}", tensor.shape)));
                }
                None => self.notes.push(format!("`{name}` has no place in the base model's file: left out")),
            }
        }
        for module in self.adapter.modules() {
            let absent = |what: &str| mismatch(&module.name, format!("{what} of the base model"), "none".into());
            let weight = self.find(&format!("{}.weight", module.name)).ok_or_else(|| absent("a tensor"))?;
            let expected = stored_shape(module);
            if weight.shape != expected || matches!(module.kind, ModuleKind::Convolution(_)) {
                return Err(mismatch(&module.name, format!("{expected:?}"), format!("{:?}", weight.shape)));
            }
            dtypes.insert(weight.dtype.to_string());
            if let Some(update) = &module.bias {
                let bias = self.find(&format!("{}.bias", module.name)).ok_or_else(|| absent("a bias"))?;
                if bias.shape != [update.len()] {
                    let found = update.len().to_string();
                    return Err(mismatch(&module.name, format!("a bias of {:?}", bias.shape), found));
                }
                dtypes.insert(bias.dtype.to_string());
            }
        }
        self.dtypes = dtypes.into_iter().collect();
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        self.files.iter().find_map(|(_, file)| find(file, &self.names, name))
    }

    /// The bytes of a file after the merge. O(file).
    ///
    /// # Errors
    /// [`ModelError::AdapterMismatch`] if a tensor is of a type that cannot be changed.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        let Some((_, file)) = self.files.iter().find(|(file, _)| file == name) else {
            return Err(ModelError::input("file", "one of the merge's files", name));
        };
        let mut changed: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for tensor in self.adapter.whole_tensors() {
            if let Some(entry) = find(file, &self.names, &whole_name(tensor)) {
                changed.insert(entry.name.clone(), tensor.values.clone());
            }
        }
        for module in self.adapter.modules() {
            merge_module(module, file, &self.names, &mut changed)?;
            merge_bias(module, file, &self.names, &mut changed)?;
        }
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
        Ok(write(file.metadata(), &tensors))
    }
}

/// The name in the base model of a tensor that replaces one of its.
fn whole_name(tensor: &WholeTensor) -> String {
    tensor.name.replace(".base_layer.", ".")
}

/// Conv1D and tables of tokens hold the transpose; a square matrix is settled by the name: only GPT-2 has `c_proj`.
fn is_transposed(module: &LoraModule) -> bool {
    let conv1d = module.name.rsplit('.').next().is_some_and(|part| ["c_attn", "c_proj", "c_fc"].contains(&part));
    conv1d || module.kind == ModuleKind::Embedding
}

fn stored_shape(module: &LoraModule) -> [usize; 2] {
    let [out, inputs] = module.shape();
    if is_transposed(module) { [inputs, out] } else { [out, inputs] }
}

/// What the names of the adapter have in front that the file's lack, or the reverse: (to strip, to add).
fn prefixes(files: &[(String, TensorFile)], adapter: &Adapter) -> Result<(String, String), ModelError> {
    let Some(module) = adapter.modules().first() else { return Ok(Default::default()) };
    let weight = format!("{}.weight", module.name);
    let entries = || files.iter().flat_map(|(_, file)| file.entries());
    let has = |name: &str| entries().any(|entry| entry.name == name);
    if has(&weight) {
        return Ok(Default::default());
    }
    if let Some((first, rest)) = weight.split_once('.')
        && has(rest)
    {
        return Ok((format!("{first}."), String::new()));
    }
    let longer = entries().find_map(|entry| entry.name.strip_suffix(&format!(".{weight}")));
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
    let Some(entry) = find(file, names, &format!("{}.weight", module.name)) else { return Ok(()) };
    let ([out, inputs], transposed) = (module.shape(), is_transposed(module));
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
    Ok(())
}

fn merge_bias(
    module: &LoraModule,
    file: &TensorFile,
    names: &(String, String),
    changed: &mut BTreeMap<String, Vec<f32>>,
) -> Result<(), ModelError> {
    let Some(update) = &module.bias else { return Ok(()) };
    let Some(entry) = find(file, names, &format!("{}.bias", module.name)) else { return Ok(()) };
    let mut bias = match changed.remove(&entry.name) {
        Some(values) => values,
        None => file.values(entry).map_err(|found| mismatch(&module.name, "a floating-point bias".into(), found))?,
    };
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
