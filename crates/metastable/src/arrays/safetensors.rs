//! `.safetensors`: read through the `safetensors` crate, written by ours.
//!
//! The crate keeps metadata in a hash map and so writes them in a random order; our files are equal to the bit
//! whenever their content is, so we write the header ourselves.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{Array, content, shape_text};
use crate::error::LabError;

/// The header's length is a multiple of this, so that the data are aligned.
const ALIGNMENT: usize = 8;
/// Integers beyond this have no exact f64.
const MAX_EXACT: u64 = 1 << 53;

/// Reads all tensors of a `.safetensors` file; `file` is for messages. O(size).
///
/// # Errors
/// [`LabError::Content`] if the file is truncated, its header is too large, its offsets overlap or leave holes, or a
/// tensor holds something else than f64, f32, bf16, integers or booleans.
pub fn parse_safetensors(file: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Array>, LabError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|error| content(file, "a complete .safetensors file", format!("a broken one ({error})")))?;
    let mut arrays = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        let values = decode(view.dtype(), view.data()).ok_or_else(|| {
            let expected = format!("real numbers that f64 can hold in tensor `{name}`");
            content(file, expected, format!("{:?} of shape {}", view.dtype(), shape_text(view.shape())))
        })?;
        arrays.insert(name, Array::new(view.shape().to_vec(), values));
    }
    Ok(arrays)
}

/// All entries as f64; none for other types and for integers that f64 cannot hold.
fn decode(dtype: Dtype, data: &[u8]) -> Option<Vec<f64>> {
    macro_rules! entries {
        ($type:ty, $convert:expr) => {
            data.as_chunks::<{ size_of::<$type>() }>()
                .0
                .iter()
                .map(|&entry| $convert(<$type>::from_le_bytes(entry)))
                .collect()
        };
    }
    match dtype {
        Dtype::F64 => entries!(f64, Some),
        Dtype::F32 => entries!(f32, |value| Some(f64::from(value))),
        // A bf16 is the upper half of an f32.
        Dtype::BF16 => entries!(u16, |bits| Some(f64::from(f32::from_bits(u32::from(bits) << 16)))),
        Dtype::U8 | Dtype::BOOL => entries!(u8, |value| Some(f64::from(value))),
        Dtype::I8 => entries!(i8, |value| Some(f64::from(value))),
        Dtype::U16 => entries!(u16, |value| Some(f64::from(value))),
        Dtype::I16 => entries!(i16, |value| Some(f64::from(value))),
        Dtype::U32 => entries!(u32, |value| Some(f64::from(value))),
        Dtype::I32 => entries!(i32, |value| Some(f64::from(value))),
        Dtype::U64 => entries!(u64, |value: u64| (value <= MAX_EXACT).then_some(value as f64)),
        Dtype::I64 => entries!(i64, |value: i64| (value.unsigned_abs() <= MAX_EXACT).then_some(value as f64)),
        _ => None,
    }
}

/// The entries of a tensor to be written, in row-major order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TensorData<'a> {
    /// Numbers of full precision.
    F64(&'a [f64]),
    /// Numbers of single precision.
    F32(&'a [f32]),
    /// Integers, such as token ids.
    I64(&'a [i64]),
    /// Bytes, such as flags.
    U8(&'a [u8]),
}

impl TensorData<'_> {
    fn dtype_and_size(self) -> (&'static str, usize) {
        match self {
            Self::F64(_) => ("F64", 8),
            Self::F32(_) => ("F32", 4),
            Self::I64(_) => ("I64", 8),
            Self::U8(_) => ("U8", 1),
        }
    }

    fn count(self) -> usize {
        match self {
            Self::F64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::U8(values) => values.len(),
        }
    }

    fn append_to(self, bytes: &mut Vec<u8>) {
        match self {
            Self::F64(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F32(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::I64(values) => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::U8(values) => bytes.extend(values),
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    name: &'a str,
    shape: Vec<usize>,
    data: TensorData<'a>,
}

impl<'a> Tensor<'a> {
    /// Joins a name, a shape and its entries.
    ///
    /// # Panics
    /// If the shape has another number of entries.
    pub fn new(name: &'a str, shape: &[usize], data: TensorData<'a>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.count(), "a shape of all entries of `{name}`");
        Self { name, shape: shape.to_vec(), data }
    }
}

/// The bytes of a `.safetensors` file: equal content gives equal bytes, whatever the order of the arguments.
/// Wider types stand first, so that every tensor is aligned. O(size).
///
/// # Panics
/// If two tensors have one name.
///
/// # Example
/// ```
/// use std::{collections::BTreeMap, path::Path};
/// use metastable::arrays::{Tensor, TensorData, parse_safetensors, safetensors_bytes};
/// let time = Tensor::new("time", &[2], TensorData::F64(&[0.0, 0.5]));
/// let bytes = safetensors_bytes(&[time], &BTreeMap::new());
/// let tensors = parse_safetensors(Path::new("trajectory.safetensors"), &bytes).unwrap();
/// assert_eq!(tensors["time"].as_slice(), [0.0, 0.5]);
/// ```
pub fn safetensors_bytes(tensors: &[Tensor<'_>], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut ordered: Vec<&Tensor<'_>> = tensors.iter().collect();
    ordered.sort_by_key(|tensor| (std::cmp::Reverse(tensor.data.dtype_and_size().1), tensor.name));
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut end = 0;
    for tensor in &ordered {
        let (dtype, size) = tensor.data.dtype_and_size();
        let begin = end;
        end += tensor.data.count() * size;
        let entry = serde_json::json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [begin, end] });
        let previous = header.insert(tensor.name.to_owned(), entry);
        assert!(previous.is_none(), "one tensor `{}`", tensor.name);
    }
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    let mut bytes = Vec::with_capacity(ALIGNMENT + text.len() + end);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    ordered.iter().for_each(|tensor| tensor.data.append_to(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file_with(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn refusal(bytes: &[u8]) -> String {
        parse_safetensors(Path::new("x.safetensors"), bytes).unwrap_err().to_string()
    }

    #[test]
    fn equal_content_gives_equal_bytes_in_any_order() {
        let (flags, time) = ([1u8, 0, 1], [0.0, 1.0]);
        let a = Tensor::new("flags", &[3], TensorData::U8(&flags));
        let b = Tensor::new("time", &[2], TensorData::F64(&time));
        let metadata: BTreeMap<String, String> =
            ["z", "a", "m"].iter().map(|key| (key.to_string(), "1".to_string())).collect();
        let bytes = safetensors_bytes(&[a.clone(), b.clone()], &metadata);
        assert_eq!(bytes, safetensors_bytes(&[b, a], &metadata));
        let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
        assert!(text.starts_with(r#"{"__metadata__":{"a":"1","m":"1","z":"1"},"time":{"dtype":"F64""#), "{text}");
    }

    #[test]
    fn hostile_headers_are_refused() {
        let huge = u64::MAX.to_le_bytes().to_vec();
        let overlapping = file_with(
            r#"{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F64","shape":[1],"data_offsets":[4,12]}}"#,
            &[0; 12],
        );
        let hole = file_with(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}"#, &[0; 5]);
        let too_long = file_with(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, &[0; 5]);
        let too_short = file_with(r#"{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}"#, &[0; 8]);
        let overflow =
            file_with(r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#, &[0; 8]);
        for bytes in [huge, overlapping, hole, too_long, too_short, overflow, vec![], vec![1, 2, 3]] {
            assert!(refusal(&bytes).contains("expected a complete .safetensors file"));
        }
    }

    #[test]
    fn bf16_is_the_upper_half_of_f32_and_f16_is_refused_by_name() {
        let bf16 = file_with(r#"{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#, &0xbfc0u16.to_le_bytes());
        let arrays = parse_safetensors(Path::new("x.safetensors"), &bf16).unwrap();
        assert_eq!(arrays["a"].as_slice(), [-1.5]);
        let f16 = file_with(r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#, &[0; 2]);
        assert!(refusal(&f16).ends_with("in tensor `a`, found F16 of shape [1]"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            wide in prop::collection::vec(any::<f64>(), 0..20),
            narrow in prop::collection::vec(any::<f32>(), 0..20),
            ids in prop::collection::vec(-(1i64 << 53)..=1 << 53, 0..5),
            flags in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let tensors = [
                Tensor::new("flags", &[1, flags.len()], TensorData::U8(&flags)),
                Tensor::new("narrow", &[narrow.len(), 1], TensorData::F32(&narrow)),
                Tensor::new("ids", &[ids.len()], TensorData::I64(&ids)),
                Tensor::new("\"wide\"\n", &[wide.len()], TensorData::F64(&wide)),
            ];
            let bytes = safetensors_bytes(&tensors, &BTreeMap::new());
            let arrays = parse_safetensors(Path::new("x.safetensors"), &bytes).unwrap();
            let same = |left: f64, right: f64| left == right || (left.is_nan() && right.is_nan());
            prop_assert_eq!(arrays["flags"].shape(), [1, flags.len()]);
            prop_assert!(arrays["\"wide\"\n"].as_slice().iter().zip(&wide).all(|(x, y)| x.to_bits() == y.to_bits()));
            prop_assert!(arrays["narrow"].as_slice().iter().zip(&narrow).all(|(x, y)| same(*x, f64::from(*y))));
            prop_assert!(arrays["flags"].as_slice().iter().zip(&flags).all(|(x, y)| *x == f64::from(*y)));
            prop_assert!(arrays["ids"].as_slice().iter().zip(&ids).all(|(x, y)| *x == *y as f64));
        }

        #[test]
        fn random_headers_never_panic(text in "[ -~]{0,80}", data in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_safetensors(Path::new("x.safetensors"), &file_with(&text, &data));
        }
    }
}
