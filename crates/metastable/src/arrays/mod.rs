//! Arrays of numbers in files: `.npy` and `.safetensors`, in and out.
//!
//! Whatever a file claims in its header is checked against the file before memory is taken: reading costs at most
//! a small multiple of the file's size.

mod npy;
mod safetensors;

use std::fs::{self, File};
use std::path::Path;

use metastable_dynamics::{Matrix, Tokens};

pub use npy::{npy_bytes, parse_npy};
pub use safetensors::{Tensor, TensorData, parse_safetensors, safetensors_bytes};

use crate::error::LabError;

/// An array of numbers as a file holds it: a shape and the entries in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Array {
    /// Joins a shape with its entries.
    ///
    /// # Panics
    /// If the shape has another number of entries.
    pub fn new(shape: Vec<usize>, values: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "a shape of all entries");
        Self { shape, values }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The entries in row-major order.
    pub fn as_slice(&self) -> &[f64] {
        &self.values
    }

    /// Gives the entries of a one-dimensional array; `file` is for the message.
    ///
    /// # Errors
    /// [`LabError::Content`] for another number of dimensions.
    pub fn into_vector(self, file: &Path) -> Result<Vec<f64>, LabError> {
        match self.shape[..] {
            [_] => Ok(self.values),
            _ => Err(self.unfit(file, "an array of shape [n]")),
        }
    }

    /// Gives [rows, columns] and the entries of a two-dimensional array; `file` is for the message.
    ///
    /// # Errors
    /// [`LabError::Content`] for another number of dimensions.
    pub fn into_rows(self, file: &Path) -> Result<([usize; 2], Vec<f64>), LabError> {
        match self.shape[..] {
            [rows, columns] => Ok(([rows, columns], self.values)),
            _ => Err(self.unfit(file, "an array of shape [rows, columns]")),
        }
    }

    /// Gives a matrix; `file` is for the message.
    ///
    /// # Errors
    /// [`LabError::Content`] for another number of dimensions; [`LabError::InFile`] for NaN, infinities or no entries.
    pub fn into_matrix(self, file: &Path) -> Result<Matrix, LabError> {
        let ([rows, columns], values) = self.into_rows(file)?;
        Matrix::new("matrix", rows, columns, values)
            .map_err(|source| LabError::InFile { file: file.to_owned(), source })
    }

    /// Gives a cloud, one row a token; `file` is for the message.
    ///
    /// # Errors
    /// As [`Array::into_matrix`].
    pub fn into_tokens(self, file: &Path) -> Result<Tokens, LabError> {
        let ([_, dim], values) = self.into_rows(file)?;
        Tokens::new(dim, values).map_err(|source| LabError::InFile { file: file.to_owned(), source })
    }

    fn unfit(&self, file: &Path, expected: &str) -> LabError {
        content(file, expected, format!("shape {}", shape_text(&self.shape)))
    }
}

/// Reads the array of a `.npy` file, or of a `.safetensors` file that holds a single tensor or one called `tensor`.
///
/// # Errors
/// [`LabError::Read`]; [`LabError::Content`] for files that are hostile, truncated or of another kind;
/// [`LabError::MissingTensor`].
///
/// # Example
/// ```
/// use metastable::arrays::read_array;
/// let folder = tempfile::tempdir().unwrap();
/// let file = folder.path().join("x0.npy");
/// std::fs::write(&file, b"not numbers").unwrap();
/// let error = read_array(&file, "tokens").unwrap_err();
/// assert!(error.to_string().ends_with("x0.npy: expected an .npy file, found no NumPy header"));
/// ```
pub fn read_array(file: &Path, tensor: &str) -> Result<Array, LabError> {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("npy") => parse_npy(file, &read_bytes(file)?),
        Some("safetensors") => {
            let mut tensors = parse_safetensors(file, &read_bytes(file)?)?;
            if tensors.len() == 1
                && let Some((_, array)) = tensors.pop_first()
            {
                return Ok(array);
            }
            let found = tensors.keys().cloned().collect();
            tensors.remove(tensor).ok_or_else(|| LabError::MissingTensor {
                file: file.to_owned(),
                tensor: tensor.to_owned(),
                found,
            })
        }
        _ => Err(content(file, "a file ending in .npy or .safetensors", "another ending")),
    }
}

/// Reads a whole regular file: its size is known before memory is taken.
fn read_bytes(file: &Path) -> Result<Vec<u8>, LabError> {
    let failed = |source| LabError::Read { file: file.to_owned(), source };
    let metadata = File::open(file).and_then(|opened| opened.metadata()).map_err(failed)?;
    if !metadata.is_file() {
        return Err(content(file, "a regular file", if metadata.is_dir() { "a folder" } else { "a device or pipe" }));
    }
    fs::read(file).map_err(failed)
}

fn content(file: &Path, expected: impl ToString, found: impl ToString) -> LabError {
    LabError::Content { file: file.to_owned(), expected: expected.to_string(), found: found.to_string() }
}

fn shape_text(shape: &[usize]) -> String {
    format!("{shape:?}")
}
