//! The table `[gaussian]` as a user writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::simulate::forms::{MatrixConfig, OneOrMany};

/// A Gaussian whose mean and covariance are followed instead of tokens.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GaussianConfig {
    /// The mean, `[d]`: a list or a file; zero by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<VectorConfig>,
    /// The covariance, [d, d], symmetric and positive semidefinite; with a grid I/2 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covariance: Option<MatrixConfig>,
    /// The dimension, where neither mean nor covariance tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d: Option<usize>,
    /// A linear feed-forward part W x + b.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed_forward: Option<FeedForwardConfig>,
    /// Noise sqrt(2 tau) dB of this strength tau >= 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// More starts, for the picture of the cone of covariances (d = 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridConfig>,
    /// Particles beside the moments: a number n of tokens drawn from the Gaussian, or a list of numbers.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub particles: OneOrMany<usize>,
    /// Independent draws for every number of particles; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<usize>,
}

/// W x + b beside attention.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedForwardConfig {
    /// W, [d, d].
    pub weight: MatrixConfig,
    /// b, `[d]`; zero by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<VectorConfig>,
}

/// Covariances of trace 1 on a square grid of (S_11 - S_22, 2 S_12); points outside the unit disc, which are no
/// covariances, are left out.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GridConfig {
    /// Points on a side.
    pub points: usize,
    /// The grid spans [-reach, reach]²; 1 by default.
    #[serde(default = "one")]
    pub reach: f64,
}

fn one() -> f64 {
    1.0
}

/// A vector: a list of numbers, or a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "invalid type: something else, expected a list of numbers, a file name, or {file, tensor}"
)]
pub enum VectorConfig {
    /// Inline.
    Values(Vec<f64>),
    /// A `.npy` or `.safetensors` file, relative to the config.
    File(String),
    /// A tensor of a `.safetensors` file.
    Tensor {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
    },
}

impl VectorConfig {
    /// The name of its file, if it is in one.
    pub fn file_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Values(_) => None,
            Self::File(file) | Self::Tensor { file, .. } => Some(file),
        }
    }
}

impl GaussianConfig {
    /// Adds its matrices and vectors to the lists, for those who look for files.
    pub fn inputs_mut<'a>(
        &'a mut self,
        matrices: &mut Vec<&'a mut MatrixConfig>,
        vectors: &mut Vec<&'a mut VectorConfig>,
    ) {
        vectors.extend(&mut self.mean);
        matrices.extend(&mut self.covariance);
        if let Some(part) = &mut self.feed_forward {
            part.inputs_mut(matrices, vectors);
        }
    }
}

impl FeedForwardConfig {
    /// Adds its matrix and vector to the lists, for those who look for files.
    pub fn inputs_mut<'a>(
        &'a mut self,
        matrices: &mut Vec<&'a mut MatrixConfig>,
        vectors: &mut Vec<&'a mut VectorConfig>,
    ) {
        matrices.push(&mut self.weight);
        vectors.extend(&mut self.bias);
    }
}
