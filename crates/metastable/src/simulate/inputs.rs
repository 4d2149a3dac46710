//! Matrices and vectors named by a config: built from words, inline rows or files, with errors that name file and key.

use std::path::{Path, PathBuf};

use metastable_dynamics::{DynamicsError, Matrix};

use super::forms::{MatrixConfig, VectorConfig};
use crate::arrays;
use crate::error::{LabError, Location};

/// A key and the part of it that the mathematics complains about, said once.
fn place(key: &str, name: &str) -> String {
    if name.starts_with(key) { name.to_owned() } else { format!("{key} ({name})") }
}

/// The config's file and the files that it names, as they are read.
#[derive(Debug)]
pub struct Inputs {
    config: PathBuf,
    files: Vec<(String, PathBuf)>,
    seed: u64,
}

impl Inputs {
    /// Files relative to the folder of `config`.
    pub fn new(config: &Path) -> Self {
        Self { config: config.into(), files: Vec::new(), seed: 0 }
    }

    /// With the seed of random matrices that name none.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// All files read so far: the name that the config gives, and where that is.
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        self.files.clone()
    }

    /// An error about a key of the config.
    pub fn wrong(&self, key: &str, expected: impl ToString, found: impl ToString) -> LabError {
        LabError::wrong_value(&self.config, key, expected.to_string(), found.to_string())
    }

    /// An error about a key that is absent at the top of the config.
    pub fn missing(&self, key: &str) -> LabError {
        let (file, location) = (self.config.clone(), Location::default());
        LabError::MissingKey { file, location, key: String::new(), missing: key.into() }
    }

    /// The mathematics' refusal of what a key says.
    pub fn refused(&self, key: &str, source: DynamicsError) -> LabError {
        match source {
            DynamicsError::Shape { name, expected, found } => {
                let shape = if expected.starts_with('[') { "shape " } else { "" };
                self.wrong(&place(key, &name), format!("{shape}{expected}"), found)
            }
            DynamicsError::Domain { name, expected, found } => self.wrong(&place(key, &name), expected, found),
            DynamicsError::NotFinite { index, value, .. } => {
                self.wrong(key, "finite numbers", format!("{value} at entry {index}"))
            }
            DynamicsError::NotSymmetric { asymmetry, .. } => {
                self.wrong(key, "a symmetric matrix", format!("an asymmetry of {asymmetry:e}"))
            }
            other => LabError::Dynamics(other),
        }
    }

    /// The numbers of a file beside the config: shape and values.
    pub fn array(&mut self, file: &str, tensor: Option<&str>) -> Result<(PathBuf, arrays::Array), LabError> {
        let folder = self.config.parent().unwrap_or(Path::new(""));
        let path = folder.join(file);
        let array = arrays::read_array(&path, tensor.unwrap_or(""))?;
        if self.files.iter().all(|(name, _)| name != file) {
            self.files.push((file.to_owned(), path.clone()));
        }
        Ok((path, array))
    }

    /// A vector.
    pub fn vector(&mut self, key: &str, written: &VectorConfig) -> Result<Vec<f64>, LabError> {
        let (file, tensor) = match written {
            VectorConfig::Values(values) => {
                if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                    return Err(self.wrong(key, "finite numbers", format!("{} at entry {index}", values[index])));
                }
                return Ok(values.clone());
            }
            VectorConfig::File(file) => (file, None),
            VectorConfig::Tensor { file, tensor } => (file, Some(tensor.as_str())),
        };
        if !(file.ends_with(".npy") || file.ends_with(".safetensors")) {
            return Err(self.wrong(key, "a list of numbers, or a .npy or .safetensors file", file));
        }
        let (path, array) = self.array(file, tensor)?;
        array.into_vector(&path)
    }

    /// A matrix of `columns` columns, and of `rows` rows where that is known.
    pub fn matrix(
        &mut self,
        key: &str,
        written: &MatrixConfig,
        rows: Option<usize>,
        columns: usize,
    ) -> Result<Matrix, LabError> {
        let square = |c: f64| match rows {
            Some(rows) if rows != columns => {
                Err(self.wrong(key, format!("a [{rows}, {columns}] matrix"), "a multiple of the identity"))
            }
            None => Err(self.wrong(key, format!("a matrix of {columns} columns"), "a multiple of the identity")),
            Some(_) if !c.is_finite() => Err(self.wrong(key, "a finite number", c)),
            Some(_) => Ok(Matrix::scaled_identity(columns, c)),
        };
        let matrix = match written {
            MatrixConfig::Identity => return square(1.0),
            MatrixConfig::Zero => match rows {
                Some(rows) => return Ok(Matrix::from_fn(rows, columns, |_, _| 0.0)),
                None => return square(0.0),
            },
            MatrixConfig::Scalar(c) => return square(*c),
            MatrixConfig::Rows(list) => Matrix::from_rows(key, list).map_err(|source| self.refused(key, source))?,
            MatrixConfig::Random(law) => law
                .draw(key, self.seed, columns)
                .map_err(|refusal| self.wrong(&format!("{key}.{}", refusal.key), refusal.expected, refusal.found))?,
            MatrixConfig::File(file, tensor) => {
                let (path, array) = self.array(file, tensor.as_deref())?;
                let found = array.into_matrix(&path)?;
                if found.columns() != columns || rows.is_some_and(|rows| found.rows() != rows) {
                    let rows = rows.map_or("r".to_string(), |rows| rows.to_string());
                    return Err(LabError::Content {
                        file: path,
                        expected: format!("shape [{rows}, {columns}] for `{key}`"),
                        found: found.shape(),
                    });
                }
                found
            }
        };
        if matrix.columns() != columns || rows.is_some_and(|rows| matrix.rows() != rows) {
            let rows = rows.map_or("r".to_string(), |rows| rows.to_string());
            return Err(self.wrong(key, format!("shape [{rows}, {columns}]"), matrix.shape()));
        }
        Ok(matrix)
    }
}
