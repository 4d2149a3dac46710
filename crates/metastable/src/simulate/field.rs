//! One evaluation of the field at the tokens of a config, without integration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metastable_dynamics::attention::statistics;
use metastable_dynamics::field::{AttentionFlow, VectorField};

use super::depth::Run;
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

/// Evaluates the field at t = 0 and writes `field` [n, d], `weights` [heads, n, n], `jvp` and `vjp` [n, d] as asked;
/// under a LoRA adapter also `field_lora` and so on, as `tokens` and `tokens_lora` of a trajectory.
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
    let direction = request.direction.as_deref().map(|file| read_like(file, &simulation)).transpose()?;
    let cotangent = request.cotangent.as_deref().map(|file| read_like(file, &simulation)).transpose()?;
    let mut arrays = Vec::new();
    for (suffix, run) in [("", Run::Base), ("_lora", Run::Adapted)] {
        if run == Run::Adapted && simulation.adapted.is_none() {
            continue;
        }
        let flows = simulation.flows(run)?;
        let flow = flows.at(0.0);
        let state = simulation.tokens.as_slice();
        let mut add = |name: &str, fill: &dyn Fn(&mut [f64])| -> Result<(), LabError> {
            let mut values = vec![0.0; state.len()];
            fill(&mut values);
            arrays.push((format!("{name}{suffix}"), vec![simulation.tokens.count(), simulation.tokens.dim()], values));
            flow.failure().map_or(Ok(()), |failure| Err(failure.into()))
        };
        add("field", &|out| flow.evaluate(0.0, state, out))?;
        if let Some(direction) = &direction {
            add("jvp", &|out| flow.jvp(0.0, state, direction, out))?;
        }
        if let Some(cotangent) = &cotangent {
            add("vjp", &|out| flow.vjp(0.0, state, cotangent, out))?;
        }
        if request.weights {
            arrays.push((format!("weights{suffix}"), weights_shape(flow, &simulation), weights(flow, state)));
        }
    }
    let tensors: Vec<Tensor> =
        arrays.iter().map(|(name, shape, values)| Tensor::new(name, shape, TensorData::F64(values))).collect();
    write_file(&request.output, &safetensors_bytes(&tensors, &BTreeMap::new()))
}

fn weights_shape(flow: &AttentionFlow, simulation: &Simulation) -> Vec<usize> {
    let n = simulation.tokens.count();
    vec![flow.heads(), n, n]
}

/// The n x n weights of every head, one after the other.
fn weights(flow: &AttentionFlow, state: &[f64]) -> Vec<f64> {
    let of_head = |h| statistics::weights(&flow.projections(h, 0.0, state), flow.kernel()).as_slice().to_vec();
    (0..flow.heads()).flat_map(of_head).collect()
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
