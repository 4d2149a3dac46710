//! The door of a Hugging Face folder: config.json and one model.safetensors, validated before anything is used.
//!
//! Nothing is ever unpickled. A file's header is trusted only after the `safetensors` crate has checked its size, its
//! JSON, and that the tensors' byte ranges tile the file without gap or overlap; then each tensor that the model needs
//! is checked for shape, type and finite entries, and converted to f32.

mod encoding;
mod layout;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};

use crate::config::Config;
use crate::error::ModelError;
use crate::names::{Parameter, Spelling, spellings};
use encoding::to_f32;

/// An opened folder: the config, and the weights file mapped into memory.
///
/// Meant to live only while a model is built; every tensor is copied out as f32.
pub(crate) struct Checkpoint {
    config: Config,
    path: PathBuf,
    bytes: Mmap,
}

impl Checkpoint {
    /// Opens a folder, reads its config and maps its weights.
    ///
    /// # Errors
    /// As [`Config::read`]; [`ModelError::Missing`] or [`ModelError::WeightFormat`] if there is no single
    /// safetensors file; [`ModelError::Unreadable`].
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let metadata = fs::metadata(folder).map_err(|error| ModelError::reading(folder, "a model folder", error))?;
        if !metadata.is_dir() {
            let found = "a file".into();
            return Err(ModelError::Malformed { path: folder.into(), expected: "a model folder", found });
        }
        let config = Config::read(&folder.join("config.json"))?;
        let path = folder.join(WEIGHTS);
        if !path.exists()
            && let Some(other) = OTHER_WEIGHTS.iter().find(|name| folder.join(name).exists())
        {
            return Err(ModelError::WeightFormat { path: folder.into(), found: (*other).into() });
        }
        let bytes = map(&path)?;
        Ok(Self { config, path, bytes })
    }

    /// The validated config.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Parses and validates the header. O(header).
    ///
    /// # Errors
    /// [`ModelError::Malformed`] with the reason.
    pub(crate) fn tensors(&self) -> Result<Tensors<'_>, ModelError> {
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| ModelError::Malformed {
            path: self.path.clone(),
            expected: "a safetensors file",
            found: describe(&error, self.bytes.len()),
        })?;
        Ok(Tensors { file, config: &self.config, path: &self.path })
    }
}

/// The single weights file we read.
const WEIGHTS: &str = "model.safetensors";

/// What else a folder may hold its weights in; named in the refusal.
const OTHER_WEIGHTS: [&str; 5] = [
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
];

#[allow(unsafe_code)]
fn map(path: &Path) -> Result<Mmap, ModelError> {
    let reading = |error| ModelError::reading(path, "the weights of the model folder", error);
    let file = File::open(path).map_err(reading)?;
    if !file.metadata().map_err(reading)?.is_file() {
        let found = "something that is no regular file".into();
        return Err(ModelError::Malformed { path: path.into(), expected: "a safetensors file", found });
    }
    // SAFETY: the map is read-only and private to `Checkpoint`, which copies every tensor out and is dropped when the
    // model is built. The contract left to the user is the usual one of mapped files: nobody truncates or rewrites
    // model.safetensors during that fraction of a second.
    unsafe { Mmap::map(&file) }.map_err(reading)
}

/// The library's reason with the number it lacks.
fn describe(error: &SafeTensorError, length: usize) -> String {
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::HeaderTooLarge
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => format!("{error} (the file has {length} bytes)"),
        _ => error.to_string(),
    }
}

/// The tensors of an opened checkpoint, asked for by canonical name and expected shape.
pub(crate) struct Tensors<'a> {
    file: SafeTensors<'a>,
    config: &'a Config,
    path: &'a Path,
}

impl Tensors<'_> {
    /// One tensor as f32, row-major.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if it is absent, has another shape, is of a type other than F32, F16 or BF16, or holds
    /// a NaN or an infinity.
    pub(crate) fn take(&self, parameter: Parameter, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let refuse = |tensor: &str, expected: String, found: String| ModelError::Tensor {
            path: self.path.into(),
            tensor: tensor.into(),
            expected,
            found,
        };
        let Some((Spelling { name, storage }, view)) = self.find(parameter) else {
            let usual = spellings(self.config.family, parameter).into_iter().next();
            let (name, stored) = usual.map(|s| (s.name, s.storage.stored(shape))).unwrap_or_default();
            return Err(refuse(&name, format!("shape {stored:?}"), "no such tensor".into()));
        };
        let stored = storage.stored(shape);
        if view.shape() != stored {
            return Err(refuse(&name, format!("shape {stored:?}"), format!("{:?}", view.shape())));
        }
        let values = to_f32(&view).ok_or_else(|| refuse(&name, "F32, F16 or BF16".into(), view.dtype().to_string()))?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(refuse(&name, "finite numbers".into(), format!("{} at entry {index}", values[index]))),
            None => Ok(storage.canonical(values, shape)),
        }
    }

    /// Whether the file has the parameter under one of its names.
    pub(crate) fn has(&self, parameter: Parameter) -> bool {
        self.find(parameter).is_some()
    }

    fn find(&self, parameter: Parameter) -> Option<(Spelling, TensorView<'_>)> {
        let names = spellings(self.config.family, parameter).into_iter();
        names.filter_map(|spelling| self.file.tensor(&spelling.name).ok().map(|view| (spelling, view))).next()
    }

    /// How many floating-point numbers the file holds, heads and poolers that the forward does not use included.
    pub(crate) fn parameters(&self) -> usize {
        let floating =
            |view: &TensorView<'_>| matches!(view.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
        let views = self.file.iter().map(|(_, view)| view).filter(floating);
        views.map(|view| view.shape().iter().product::<usize>()).sum()
    }
}
