//! The safetensors file of an adapter, mapped: read with every check, written back with every byte where it was.
//!
//! The `safetensors` crate checks sizes, types and that the byte ranges tile the file. It keeps names in a hash map,
//! which forgets their order and lets a repeated name win silently; both matter for adapters, so the header is read a
//! second time here, as the ordered list it is.

use std::fmt;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::checkpoint::describe;
use crate::error::ModelError;
use crate::mapped::map;

/// A JSON object as the ordered list of its entries; a repeated key is an error.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entries(pub(super) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut seen = std::collections::BTreeSet::new();
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("the key `{key}` twice")));
            }
            entries.push((key, value));
        }
        Ok(Entries(entries))
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    range: Range<usize>,
}

/// The bytes of a file: mapped, or of somebody who has them already.
#[derive(Debug, Clone)]
enum Bytes {
    Mapped(Arc<Mmap>),
    Owned(Arc<Vec<u8>>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// A safetensors file whose header was checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    metadata: Vec<(String, Value)>,
    entries: Vec<Entry>,
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub(crate) struct NewTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

/// Name of the header entry that is no tensor.
const METADATA: &str = "__metadata__";

/// The header's length is a multiple of this, so that the data are aligned.
const ALIGNMENT: usize = 8;

impl TensorFile {
    /// Maps and checks a file. O(header).
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::Unreadable`], [`ModelError::Malformed`].
    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        Self::of(path, Bytes::Mapped(Arc::new(map(path, "the weights of an adapter")?)))
    }

    /// Checks the bytes of a file; `path` is for messages.
    ///
    /// # Errors
    /// [`ModelError::Malformed`].
    pub(super) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, ModelError> {
        Self::of(path, Bytes::Owned(Arc::new(bytes)))
    }

    fn of(path: &Path, bytes: Bytes) -> Result<Self, ModelError> {
        let refuse = |found: String| ModelError::Malformed { path: path.into(), expected: "a safetensors file", found };
        SafeTensors::deserialize(&bytes).map_err(|error| refuse(describe(&error, bytes.len())))?;
        // The library has checked that the first eight bytes and the header lie in the file.
        let length = bytes[..8].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let start = 8 + length;
        let header: Entries =
            serde_json::from_slice(&bytes[8..start]).map_err(|error| refuse(format!("a header with {error}")))?;
        let (mut metadata, mut tensors) = (Vec::new(), Vec::new());
        for (name, value) in header.0 {
            if name == METADATA {
                let entries: Entries = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
                metadata = entries.0;
                continue;
            }
            let info: TensorInfo = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            tensors.push(Entry { name, dtype: info.dtype, shape: info.shape, range });
        }
        Ok(Self { path: path.into(), bytes, metadata, entries: tensors })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors in the order of the header.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of a tensor of this file.
    pub(super) fn data(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.range.clone()]
    }

    /// The whole file as it was read.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A tensor as f32; the finding's text otherwise.
    pub(super) fn values(&self, entry: &Entry) -> Result<Vec<f32>, String> {
        let data = self.data(entry);
        let halves = || data.as_chunks::<2>().0.iter();
        match entry.dtype {
            Dtype::F32 => Ok(data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F16 => Ok(halves().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
            Dtype::BF16 => Ok(halves().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
            other => Err(format!("expected F32, F16 or BF16, found {other}")),
        }
    }

    /// The metadata, in order.
    pub(super) fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }
}

/// The bytes of a safetensors file with its tensors in the order given. O(size).
pub(crate) fn write(metadata: &[(String, Value)], tensors: &[NewTensor<'_>]) -> Vec<u8> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert(METADATA.into(), Value::Object(metadata.iter().cloned().collect()));
    }
    let mut end = 0;
    for tensor in tensors {
        let begin = end;
        end += tensor.bytes.len();
        let entry = serde_json::json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end] });
        header.insert(tensor.name.to_owned(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    let mut bytes = Vec::with_capacity(ALIGNMENT + text.len() + end);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(&text);
    tensors.iter().for_each(|tensor| bytes.extend(tensor.bytes));
    bytes
}

/// Little-endian bytes of f32 numbers.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str, data: &[u8]) -> Result<TensorFile, ModelError> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        TensorFile::parse(Path::new("x.safetensors"), bytes)
    }

    #[test]
    fn what_is_read_is_written_back_in_its_order() {
        let header = r#"{"__metadata__":{"z":"1","format":"pt"},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}}"#;
        let padded = format!("{header}{}", " ".repeat(header.len().next_multiple_of(8) - header.len()));
        let file = parse(&padded, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let tensors: Vec<NewTensor<'_>> = file
            .entries()
            .iter()
            .map(|e| NewTensor { name: &e.name, dtype: e.dtype, shape: &e.shape, bytes: file.data(e) })
            .collect();
        assert_eq!(write(file.metadata(), &tensors), file.bytes());
    }

    #[test]
    fn a_repeated_name_is_refused_although_the_library_lets_it_pass() {
        let entry = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
        let header = format!("{{{entry},{entry}}}");
        let error = parse(&header, &[0]).unwrap_err().to_string();
        assert!(error.contains("the key `a` twice"), "{error}");
    }
}
