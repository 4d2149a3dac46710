//! The door of a checkpoint: a Hugging Face folder or a GGUF file, validated before anything is used.
//!
//! Nothing is ever unpickled. A file's header is trusted only after its size, its structure and the byte ranges of its
//! tensors have been checked; then each tensor that is asked for is checked for shape, type and finite entries, and
//! converted to f32. Files are mapped, so opening a checkpoint does not cost its size, and one can be read tensor by
//! tensor.

mod directory;
mod folder;
mod layout;

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::config::{Config, gguf_config};
use crate::error::ModelError;
use crate::gguf::{Gguf, MAGIC};
use crate::mapped::map;
use crate::names::{Naming, Parameter, Spelling};
pub(crate) use directory::describe;
use directory::{Directory, Entry};
pub(crate) use folder::weight_files;

/// An opened checkpoint.
pub(crate) struct Checkpoint {
    config: Config,
    path: PathBuf,
    naming: Naming,
    directory: Directory,
}

impl Checkpoint {
    /// Opens a folder or a GGUF file, reads its config and maps its weights. O(headers).
    ///
    /// # Errors
    /// As [`Config::read`]; [`ModelError::Missing`] or [`ModelError::WeightFormat`] if there are no safetensors files;
    /// [`ModelError::Unreadable`]; [`ModelError::Malformed`].
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let metadata = fs::metadata(path).map_err(|error| ModelError::reading(path, MODEL, error))?;
        if !metadata.is_dir() {
            return Self::open_gguf(path);
        }
        let config = Config::read(&path.join("config.json"))?;
        Ok(Self { config, path: path.into(), naming: Naming::HuggingFace, directory: folder::weights(path)? })
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let bytes = map(path, MODEL)?;
        let malformed = |expected, found| ModelError::Malformed { path: path.into(), expected, found };
        if !bytes.starts_with(MAGIC) {
            return Err(malformed(MODEL, "a file without GGUF's magic number".into()));
        }
        let gguf = Gguf::parse(&bytes).map_err(|found| malformed("a GGUF file", found))?;
        let config = gguf_config(path, &gguf)?;
        let mut directory = Directory::empty();
        directory.add_gguf(&gguf);
        directory.add_file(path, bytes);
        Ok(Self { config, path: path.into(), naming: Naming::Gguf, directory })
    }

    /// The validated config.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The folder or file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a single GGUF file.
    pub(crate) fn is_gguf(&self) -> bool {
        self.naming == Naming::Gguf
    }

    /// The files that hold weights.
    pub(crate) fn weight_files(&self) -> impl Iterator<Item = &Path> {
        self.directory.paths()
    }

    /// The tensors, by canonical names.
    pub(crate) fn tensors(&self) -> Tensors<'_> {
        Tensors { checkpoint: self }
    }
}

/// Checks a safetensors file as a checkpoint's is checked and decodes every tensor of numbers; answers how many tensors
/// there are. O(size).
pub(crate) fn check_safetensors(path: &Path, bytes: &[u8]) -> Result<usize, ModelError> {
    let entries = directory::entries(path, bytes, 0)?;
    for entry in entries.values() {
        let _ = entry.kind.map(|kind| kind.decode(&bytes[entry.range()]).len());
    }
    Ok(entries.len())
}

/// Checks a GGUF file, reads the config out of it, and decodes every tensor; answers how many there are. O(size).
pub(crate) fn check_gguf(path: &Path, bytes: &[u8]) -> Result<usize, ModelError> {
    let gguf = Gguf::parse(bytes).map_err(|found| ModelError::Malformed {
        path: path.into(),
        expected: "a GGUF file",
        found,
    })?;
    for tensor in &gguf.tensors {
        let _ = tensor.kind.decode(&bytes[tensor.bytes.clone()]).len();
    }
    gguf_config(path, &gguf)?;
    Ok(gguf.tensors.len())
}

/// What a path should lead to.
const MODEL: &str = "a model folder or a GGUF file";

/// The tensors of an opened checkpoint, asked for by canonical name and expected shape.
pub(crate) struct Tensors<'a> {
    checkpoint: &'a Checkpoint,
}

impl Tensors<'_> {
    /// One tensor as f32, row-major. O(tensor).
    ///
    /// # Errors
    /// [`ModelError::Tensor`] if it is absent, has another shape or a type that weights do not have, or holds a NaN or
    /// an infinity.
    pub(crate) fn take(&self, parameter: Parameter, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let directory = &self.checkpoint.directory;
        let Some((Spelling { name, storage }, entry)) = self.find(parameter) else {
            return Err(self.absent(parameter, shape));
        };
        let refuse = |expected: String, found: String| ModelError::Tensor {
            path: directory.path(entry).into(),
            tensor: name.clone(),
            expected,
            found,
        };
        let stored = storage.stored(shape);
        if entry.shape != stored {
            return Err(refuse(format!("shape {stored:?}"), format!("{:?}", entry.shape)));
        }
        let kind = entry.kind.ok_or_else(|| refuse("F32, F16 or BF16".into(), entry.kind_name.clone()))?;
        let values = kind.decode(directory.bytes(entry));
        match first_not_finite(&values) {
            Some(index) => Err(refuse("finite numbers".into(), format!("{} at entry {index}", values[index]))),
            None => Ok(storage.canonical(values, shape)),
        }
    }

    /// Whether the checkpoint has the parameter under one of its names.
    pub(crate) fn has(&self, parameter: Parameter) -> bool {
        self.find(parameter).is_some()
    }

    /// How many numbers the weights files hold, heads and poolers that the forward does not use included.
    pub(crate) fn parameters(&self) -> usize {
        self.checkpoint.directory.iter().map(|(_, entry)| entry.numbers()).sum()
    }

    fn find(&self, parameter: Parameter) -> Option<(Spelling, &Entry)> {
        let spellings = self.checkpoint.naming.spellings(&self.checkpoint.config, parameter).into_iter();
        let found = |spelling: Spelling| Some((self.checkpoint.directory.get(&spelling.name)?, spelling));
        spellings.filter_map(found).map(|(entry, spelling)| (spelling, entry)).next()
    }

    fn absent(&self, parameter: Parameter, shape: &[usize]) -> ModelError {
        let Checkpoint { config, path, naming, directory } = self.checkpoint;
        let usual = naming.spellings(config, parameter).into_iter().next();
        let (tensor, stored) = usual.map(|usual| (usual.name, usual.storage.stored(shape))).unwrap_or_default();
        let mut files = directory.paths();
        // With shards there is no one file to blame.
        let path = match (files.next(), files.next()) {
            (Some(only), None) => only,
            _ => path,
        };
        let found = "no such tensor".into();
        ModelError::Tensor { path: path.into(), tensor, expected: format!("shape {stored:?}"), found }
    }
}

/// The index of the first NaN or infinity.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    /// Numbers judged by one loop without a branch; only in a chunk that fails is the entry looked for.
    const CHUNK: usize = 1 << 14;
    let fails = |chunk: &[f32]| chunk.iter().fold(false, |fails, value| fails | !value.is_finite());
    let first = CHUNK * values.par_chunks(CHUNK).position_first(fails)?;
    values[first..].iter().position(|value| !value.is_finite()).map(|at| first + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_bad_numbers_is_found_wherever_it_stands() {
        let mut values = vec![1.0; 50_000];
        assert_eq!(first_not_finite(&values), None);
        for (at, bad) in [(49_999, f32::NAN), (16_384, f32::INFINITY), (16_383, f32::NEG_INFINITY), (0, f32::NAN)] {
            values[at] = bad;
            assert_eq!(first_not_finite(&values), Some(at));
        }
        assert_eq!(first_not_finite(&[]), None);
    }
}
