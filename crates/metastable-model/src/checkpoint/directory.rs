//! Where every tensor of a checkpoint lies: names, shapes, types and byte ranges in mapped files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::gguf::blocks::BlockKind;

/// All tensors of a checkpoint, in one file or several.
pub(super) struct Directory {
    files: Vec<(PathBuf, Mmap)>,
    entries: BTreeMap<String, Entry>,
}

/// One tensor.
pub(super) struct Entry {
    file: usize,
    pub(super) shape: Vec<usize>,
    /// How its numbers are stored; none where it holds no numbers that weights are made of.
    pub(super) kind: Option<BlockKind>,
    /// What the file calls that.
    pub(super) kind_name: String,
    bytes: Range<usize>,
}

/// The length of the number that says how long a safetensors header is.
const LENGTH_BYTES: usize = 8;

impl Directory {
    pub(super) fn empty() -> Self {
        Self { files: Vec::new(), entries: BTreeMap::new() }
    }

    /// Adds the tensors of a safetensors file that `wanted` says it should give. O(header).
    ///
    /// # Errors
    /// [`ModelError::Malformed`] with the reason.
    pub(super) fn add_safetensors(
        &mut self,
        path: &Path,
        bytes: Mmap,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), ModelError> {
        for (name, entry) in entries(path, &bytes, self.files.len())?.into_iter().filter(|(name, _)| wanted(name)) {
            self.entries.insert(name, entry);
        }
        self.files.push((path.into(), bytes));
        Ok(())
    }

    /// Adds the tensors of a parsed GGUF file.
    pub(super) fn add_gguf(&mut self, gguf: &Gguf<'_>) {
        for tensor in &gguf.tensors {
            let entry = Entry {
                file: self.files.len(),
                shape: tensor.shape.clone(),
                kind: Some(tensor.kind),
                kind_name: format!("{:?}", tensor.kind),
                bytes: tensor.bytes.clone(),
            };
            self.entries.insert(tensor.name.into(), entry);
        }
    }

    /// Adds a mapped file whose tensors are known.
    pub(super) fn add_file(&mut self, path: &Path, bytes: Mmap) {
        self.files.push((path.into(), bytes));
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter()
    }

    /// The file of a tensor.
    pub(super) fn path(&self, entry: &Entry) -> &Path {
        &self.files[entry.file].0
    }

    /// The bytes of a tensor.
    pub(super) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file].1[entry.bytes.clone()]
    }

    /// The weights files, in the order they were added.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }
}

/// The tensors of a safetensors file, which is number `file` of its checkpoint. O(header).
///
/// # Errors
/// [`ModelError::Malformed`] with the reason; also for a name that is there twice, which the library lets pass.
pub(super) fn entries(path: &Path, bytes: &[u8], file: usize) -> Result<BTreeMap<String, Entry>, ModelError> {
    let refuse = |found: String| ModelError::Malformed { path: path.into(), expected: "a safetensors file", found };
    let broken = |error: SafeTensorError| refuse(describe(&error, bytes.len()));
    let (length, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let start = LENGTH_BYTES + length;
    serde_json::from_slice::<UniqueNames>(&bytes[LENGTH_BYTES..start]).map_err(|error| refuse(error.to_string()))?;
    let entry = |(name, info): (String, &TensorInfo)| {
        let (first, end) = info.data_offsets;
        let (kind, kind_name) = (kind_of(info.dtype), info.dtype.to_string());
        (name, Entry { file, shape: info.shape.clone(), kind, kind_name, bytes: start + first..start + end })
    };
    Ok(metadata.tensors().into_iter().map(entry).collect())
}

/// A JSON object without a repeated key; its values do not matter.
struct UniqueNames;

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = UniqueNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueNames, A::Error> {
                let mut seen = BTreeSet::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    if seen.contains(&name) {
                        return Err(A::Error::custom(format!("two tensors `{name}`")));
                    }
                    seen.insert(name);
                }
                Ok(UniqueNames)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

impl Entry {
    /// Its bytes in the file.
    pub(super) fn range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    /// How many numbers it holds; 0 if they are no weights.
    pub(super) fn numbers(&self) -> usize {
        if self.kind.is_some() || self.kind_name == "F64" { self.shape.iter().product() } else { 0 }
    }
}

fn kind_of(dtype: Dtype) -> Option<BlockKind> {
    match dtype {
        Dtype::F32 => Some(BlockKind::F32),
        Dtype::F16 => Some(BlockKind::F16),
        Dtype::BF16 => Some(BlockKind::BF16),
        _ => None,
    }
}

/// The library's reason with the number it lacks.
pub(crate) fn describe(error: &SafeTensorError, length: usize) -> String {
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::HeaderTooLarge
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => format!("{error} (the file has {length} bytes)"),
        _ => error.to_string(),
    }
}
