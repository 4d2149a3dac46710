//! The table `[gaussian]` as a user writes it.

use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::simulate::forms::{MatrixConfig, OneOrMany, VectorConfig};

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
    /// Not here but at the top level: read only to say so.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub feed_forward: Option<IgnoredAny>,
    /// Not here but at the top level: read only to say so.
    #[serde(default, skip_serializing)]
    #[schemars(skip)]
    pub noise: Option<IgnoredAny>,
    /// More starts, for the picture of the cone of covariances (d = 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridConfig>,
    /// Particles beside the moments: a number n of tokens drawn from the Gaussian, or a list of numbers.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub particles: OneOrMany<usize>,
    /// Independent draws for every number of particles; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<usize>,
    /// Eigenvalues counted where the covariance has become still, as published scripts do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<StillConfig>,
}

/// A count of eigenvalues above a threshold where |Σ'| has fallen below a speed. Both are absolute, so this is no rank of
/// the limit (`gaussian.limit_rank` of the report is): it is what published histograms show.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StillConfig {
    /// Still where |Σ'| in the Frobenius norm is below this.
    pub speed: f64,
    /// Eigenvalues above this count.
    pub threshold: f64,
    /// Escaped where tr Σ is above this; 1000 by default.
    #[serde(default = "default_escape")]
    pub escape: f64,
    /// The exact flow, or the authors' scheme.
    #[serde(default)]
    pub scheme: StillScheme,
    /// The step of the authors' scheme; the exact flow chooses its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dt: Option<f64>,
    /// Steps at most; 60000 by default.
    #[serde(default = "default_steps")]
    pub max_steps: u64,
}

fn default_escape() -> f64 {
    1e3
}

fn default_steps() -> u64 {
    60_000
}

/// How the covariance is followed until it is still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StillScheme {
    /// The exact flow, at relative tolerance 1e-11.
    #[default]
    Exact,
    /// Explicit Euler with negative eigenvalues set to 1e-14, as the authors' scripts do: not the flow.
    ClippedEuler,
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

impl GaussianConfig {
    /// Adds its matrices and vectors to the lists, for those who look for files.
    pub fn inputs_mut<'a>(
        &'a mut self,
        matrices: &mut Vec<&'a mut MatrixConfig>,
        vectors: &mut Vec<&'a mut VectorConfig>,
    ) {
        vectors.extend(&mut self.mean);
        matrices.extend(&mut self.covariance);
    }
}
