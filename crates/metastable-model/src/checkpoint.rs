//! The door of a Hugging Face folder: config.json and one model.safetensors, validated before anything is used.
//!
//! Nothing is ever unpickled. A file's header is trusted only after the `safetensors` crate has checked its size, its
//! JSON, and that the tensors' byte ranges tile the file without gap or overlap; then each tensor that the model needs
//! is checked for shape, type and finite entries, and converted to f32.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};

use crate::config::Config;
use crate::error::ModelError;
use crate::names::{Parameter, spellings};

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
pub(crate) fn describe(error: &SafeTensorError, length: usize) -> String {
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
        let names = spellings(self.config.family, parameter);
        let refuse = |tensor: &str, expected: String, found: String| ModelError::Tensor {
            path: self.path.into(),
            tensor: tensor.into(),
            expected,
            found,
        };
        let Some((name, view)) = names.iter().find_map(|name| self.file.tensor(name).ok().map(|view| (name, view)))
        else {
            return Err(refuse(&names[0], format!("shape {shape:?}"), "no such tensor".into()));
        };
        if view.shape() != shape {
            return Err(refuse(name, format!("shape {shape:?}"), format!("{:?}", view.shape())));
        }
        let values = to_f32(view.dtype(), view.data())
            .ok_or_else(|| refuse(name, "F32, F16 or BF16".into(), view.dtype().to_string()))?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(refuse(name, "finite numbers".into(), format!("{} at entry {index}", values[index]))),
            None => Ok(values),
        }
    }

    /// How many floating-point numbers the file holds, heads and poolers that the forward does not use included.
    pub(crate) fn parameters(&self) -> usize {
        let floating =
            |view: &TensorView<'_>| matches!(view.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
        let views = self.file.iter().map(|(_, view)| view).filter(floating);
        views.map(|view| view.shape().iter().product::<usize>()).sum()
    }
}

/// Entries as f32; none for types other than F32, F16 and BF16.
pub(crate) fn to_f32(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    let halves = || data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        Dtype::F32 => Some(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Dtype::BF16 => Some(halves().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()),
        Dtype::F16 => Some(halves().map(f32_from_f16).collect()),
        _ => None,
    }
}

/// The IEEE half-precision number with these bits; exact, every half is an f32.
fn f32_from_f16(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let mantissa = f32::from(bits & 0x3ff);
    match exponent {
        0 => sign * mantissa * 2.0_f32.powi(-24),
        0x1f if mantissa == 0.0 => sign * f32::INFINITY,
        0x1f => f32::NAN,
        _ => sign * (1.0 + mantissa / 1024.0) * 2.0_f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_numbers_convert_exactly() {
        let cases = [
            (0x0000, 0.0),
            (0x0001, 2.0_f32.powi(-24)),
            (0x03ff, 1023.0 * 2.0_f32.powi(-24)),
            (0x0400, 2.0_f32.powi(-14)),
            (0x3c00, 1.0),
            (0x3555, 0.333_251_95),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, expected) in cases {
            assert_eq!(f32_from_f16(bits), expected, "{bits:#x}");
        }
        assert!(f32_from_f16(0x7e00).is_nan());
        assert!(f32_from_f16(0x8000).is_sign_negative());
    }
}
