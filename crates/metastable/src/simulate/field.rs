//! One evaluation of the field at the tokens of a config, without integration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metastable_dynamics::attention::statistics;
use metastable_dynamics::field::VectorField;

use super::meant::Simulation;
use crate::arrays::{Tensor, TensorData, read_array, safetensors_bytes};
use crate::error::LabError;
use crate::run_dir::write_file;

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct FieldRequest {
    /// The config file.
    pub config: PathBuf,
    /// `--set key=value` overrides.
    pub overrides: Vec<String>,
    /// Overrides the config's seed.
    pub seed: Option<u64>,
    /// The `.safetensors` file to write.
    pub output: PathBuf,
    /// Whether to write the n x n attention weights of every head.
    pub weights: bool,
    /// A direction E [n, d]: also write the Jacobian-vector product.
    pub direction: Option<PathBuf>,
    /// A cotangent G [n, d]: also write the vector-Jacobian product.
    pub cotangent: Option<PathBuf>,
}

/// Evaluates the field at t = 0 and writes `field` [n, d], `weights` [heads, n, n], `jvp` and `vjp` [n, d] as asked.
///
/// # Errors
/// [`LabError`] naming file or key; nothing is written then.
pub fn run(request: &FieldRequest) -> Result<(), LabError> {
    if request.output.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(LabError::Setting {
            name: "--output".into(),
            expected: "a file ending in .safetensors".into(),
            found: request.output.display().to_string(),
        });
    }
    let simulation = super::load(&request.config, &request.overrides, request.seed)?;
    let (n, d) = (simulation.tokens.count(), simulation.tokens.dim());
    let heads = simulation.adapted.as_ref().unwrap_or(&simulation.heads);
    let flow = simulation.flow(heads)?;
    let state = simulation.tokens.as_slice();
    let mut field = vec![0.0; n * d];
    flow.evaluate(0.0, state, &mut field);
    let mut tensors = vec![Tensor::new("field", &[n, d], TensorData::F64(&field))];
    let weights: Vec<f64> = match request.weights {
        true => (0..flow.heads())
            .flat_map(|h| statistics::weights(&flow.projections(h, 0.0, state), flow.kernel()).as_slice().to_vec())
            .collect(),
        false => Vec::new(),
    };
    if request.weights {
        tensors.push(Tensor::new("weights", &[flow.heads(), n, n], TensorData::F64(&weights)));
    }
    let mut products = Vec::new();
    if let Some(file) = &request.direction {
        let direction = read_like(file, &simulation)?;
        let mut jvp = vec![0.0; n * d];
        flow.jvp(0.0, state, &direction, &mut jvp);
        products.push(("jvp", jvp));
    }
    if let Some(file) = &request.cotangent {
        let cotangent = read_like(file, &simulation)?;
        let mut vjp = vec![0.0; n * d];
        flow.vjp(0.0, state, &cotangent, &mut vjp);
        products.push(("vjp", vjp));
    }
    for (name, product) in &products {
        tensors.push(Tensor::new(name, &[n, d], TensorData::F64(product)));
    }
    write_file(&request.output, &safetensors_bytes(&tensors, &BTreeMap::new()))
}

/// An array of the tokens' shape.
fn read_like(file: &Path, simulation: &Simulation) -> Result<Vec<f64>, LabError> {
    let (n, d) = (simulation.tokens.count(), simulation.tokens.dim());
    let tokens = read_array(file, "")?.into_tokens(file)?;
    if (tokens.count(), tokens.dim()) != (n, d) {
        return Err(LabError::Content {
            file: file.to_owned(),
            expected: format!("shape [{n}, {d}], as the tokens"),
            found: format!("shape [{}, {}]", tokens.count(), tokens.dim()),
        });
    }
    Ok(tokens.into_vec())
}
