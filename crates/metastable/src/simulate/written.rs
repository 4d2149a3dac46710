//! The config of `simulate` as a user writes it; [`super::meant`] turns it into what is run.

use metastable_dynamics::attention::{Mask, Score};
use metastable_dynamics::solver::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::observables::CLOSE_COSINE;

use super::forms::{MatrixConfig, OneOrMany, Save, VectorConfig};
use super::gaussian::written::GaussianConfig;

/// A simulation: tokens, heads, kernel, space, time, and optionally a LoRA adapter for a twin run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimulateConfig {
    /// Shown on the report; the config's file name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Seed of the initial tokens.
    #[serde(default)]
    pub seed: u64,
    /// "f64", or "f32" for attention fields in single precision: less than half of the time for many tokens, tolerances
    /// from 1e-6 on, plain coordinates only.
    #[serde(default)]
    pub precision: Precision,
    /// The initial tokens.
    #[serde(default, skip_serializing_if = "TokensConfig::is_absent")]
    pub tokens: TokensConfig,
    /// Instead of tokens: a Gaussian, whose mean and covariance are followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gaussian: Option<GaussianConfig>,
    /// The heads; one identity head by default.
    #[serde(default = "one_identity_head")]
    pub head: Vec<HeadConfig>,
    /// Weights that change with depth: one table a layer, each with heads of its own, instead of `head`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer: Vec<LayerConfig>,
    /// A linear layer W x + b beside attention, of tokens or of a Gaussian.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed_forward: Option<FeedForwardConfig>,
    /// Noise on every token, or on a Gaussian.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoiseConfig>,
    /// Score, normalization, mask and beta.
    #[serde(default)]
    pub kernel: KernelConfig,
    /// Where tokens live.
    #[serde(default)]
    pub space: SpaceConfig,
    /// How long, with which method, what to save.
    pub time: TimeConfig,
    /// Low-rank updates; with any, a twin run is made from the same tokens.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub lora: OneOrMany<LoraConfig>,
    /// What is measured.
    #[serde(default)]
    pub observe: ObserveConfig,
}

fn one_identity_head() -> Vec<HeadConfig> {
    vec![HeadConfig::default()]
}

/// Number format of the attention fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 64-bit floating point.
    #[default]
    F64,
    /// 32-bit floating point for scores, weights and their sums; state, time and error estimates stay 64-bit.
    F32,
}

impl Precision {
    /// As in the config and in a report's provenance.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
        }
    }
}

/// The initial tokens: exactly one of `file`, `values` and `law`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// A `.npy` or `.safetensors` file of shape [n, d], relative to the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The tensor's name in a `.safetensors` file of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor: Option<String>,
    /// One row a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Vec<f64>>>,
    /// A law to draw from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub law: Option<Law>,
    /// Number of tokens to draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// Dimension of tokens to draw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d: Option<usize>,
    /// Lower side of the box of the uniform law; -1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper side of the box of the uniform law; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// Mean of the Gaussian law, `[d]`; zero by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Covariance of the Gaussian law, [d, d], symmetric; the identity by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covariance: Option<MatrixConfig>,
}

impl TokensConfig {
    /// Whether the config has no such table.
    pub fn is_absent(&self) -> bool {
        *self == Self::default()
    }
}

/// A law of initial tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Law {
    /// Independent, uniform in the box [low, high]^d.
    Uniform,
    /// Independent N(mean, covariance).
    Gaussian,
    /// Independent, uniform on the unit sphere of R^d.
    Sphere,
    /// The first n vectors of the standard basis (n <= d).
    Orthonormal,
    /// As `numpy.random.RandomState(seed).uniform(low, high, (n, d))` draws them.
    NumpyUniform,
    /// As `numpy.random.RandomState(seed).randn(n, d)` draws them.
    NumpyRandn,
}

/// Heads that are in force until a depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// The heads.
    pub head: Vec<HeadConfig>,
    /// The time until which they are in force, given in all tables or in none; equal shares of `time.end` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// For how many layers the table stands; random matrices are drawn anew for each. 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<usize>,
}

impl LayerConfig {
    /// How many layers the table stands for.
    pub fn count(&self) -> usize {
        self.repeat.unwrap_or(1)
    }
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

/// dx = F dt + √(2 temperature) dB: of tokens by Euler-Maruyama steps of `time.dt` (method "euler"), of a Gaussian by its
/// moments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoiseConfig {
    /// τ.
    pub temperature: f64,
}

/// One head: scores <Q x, K y>, messages W V y.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Q, [k, d].
    #[serde(default)]
    pub query: MatrixConfig,
    /// K, [k, d].
    #[serde(default)]
    pub key: MatrixConfig,
    /// V, [d, d], or [m, d] with an output matrix.
    #[serde(default)]
    pub value: MatrixConfig,
    /// W, [d, m]; the identity if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<MatrixConfig>,
}

impl Default for HeadConfig {
    fn default() -> Self {
        let identity = MatrixConfig::default();
        Self { query: identity.clone(), key: identity.clone(), value: identity, output: None }
    }
}

/// The kernel: S_ij = beta·score(Q x_i, K x_j), weights by `normalization`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelConfig {
    /// "dot" <Qx, Ky> or "squared_distance" -|Qx - Ky|².
    #[serde(default = "dot")]
    #[schemars(with = "String")]
    pub score: Score,
    /// How scores become weights.
    #[serde(default)]
    pub normalization: NormalizationName,
    /// "full" or "causal".
    #[serde(default = "full")]
    #[schemars(with = "String")]
    pub mask: Mask,
    /// Multiplies the score.
    #[serde(default = "one")]
    pub beta: f64,
    /// Added to every score of the sigmoid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<f64>,
    /// Entropic regularisation of sinkhorn: divides scores and weights; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// The largest relative error of a column sum of sinkhorn that passes; a hundredth of `time.rtol` by default,
    /// 1e-12 for fixed steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// The most passes over all pairs and back that sinkhorn may take; 1000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_iterations: Option<u32>,
    /// So many half-steps of sinkhorn, row step first, instead of a tolerance: 1 is softmax at temperature epsilon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_steps: Option<u32>,
}

fn dot() -> Score {
    Score::Dot
}

fn full() -> Mask {
    Mask::Full
}

fn one() -> f64 {
    1.0
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            score: dot(),
            normalization: NormalizationName::default(),
            mask: full(),
            beta: one(),
            bias: None,
            epsilon: None,
            tolerance: None,
            max_iterations: None,
            half_steps: None,
        }
    }
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormalizationName {
    /// Row-normalised exponentials.
    #[default]
    Softmax,
    /// Exponentials averaged over the visible tokens.
    Exponential,
    /// Logistic function averaged over the visible tokens.
    Sigmoid,
    /// Scores averaged over the visible tokens.
    Linear,
    /// The mean over the arg-max set.
    Hardmax,
    /// Exponentials of scores / epsilon whose rows and columns all have the same sum.
    Sinkhorn,
}

/// Where tokens live.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpaceConfig {
    /// "euclidean" or "sphere".
    #[serde(default)]
    pub geometry: GeometryName,
    /// "plain", or "rescaled": z = exp(-tV) x.
    #[serde(default)]
    pub coordinates: Coordinates,
    /// Where tokens are normalised: "post" or "ngpt" on the sphere, "none", "pre", "peri" or "mix" in R^d; by default
    /// "post" on the sphere and "none" in R^d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementName>,
    /// The rate of nGPT's updates; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Mix-LN: post-LN until this time, pre-LN from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix_until: Option<f64>,
}

/// Where tokens are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlacementName {
    /// Nowhere: residual attention.
    None,
    /// Post-LN: tokens stay on the sphere.
    Post,
    /// Pre-LN: attention sees directions, tokens move in R^d.
    Pre,
    /// Peri-LN: as "pre", and the output is normalised too.
    Peri,
    /// Mix-LN: "post" until `mix_until`, then "pre".
    Mix,
    /// nGPT: normalised output, tokens on the sphere.
    Ngpt,
}

/// The space of one token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GeometryName {
    /// R^d.
    #[default]
    Euclidean,
    /// The unit sphere of R^d.
    Sphere,
}

/// The coordinates of the flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coordinates {
    /// Tokens themselves.
    #[default]
    Plain,
    /// z = exp(-tV) x, one head.
    Rescaled,
}

/// How long, with which method, what to save.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeConfig {
    /// The final time T.
    pub end: f64,
    /// How many equally spaced times to save (at least 2), or an increasing list of times in [0, end].
    #[serde(default)]
    pub save: Save,
    /// "euler", "heun", "rk4" (with dt), "tsit5", "dopri5", "dop853" (with rtol and atol, or dt).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub method: Option<Method>,
    /// Fixed step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dt: Option<f64>,
    /// Relative tolerance of adaptive methods, per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtol: Option<f64>,
    /// Absolute tolerance of adaptive methods, per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atol: Option<f64>,
    /// Discrete residual layers instead of a flow: L steps of size end / L (then normalised on the sphere).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<u32>,
    /// Give up after this many steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Stop when no token moves faster than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stationary: Option<f64>,
}

/// A LoRA update of query, key or value matrices.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Which matrix, or a list of them (the same update for each).
    pub target: OneOrMany<TargetName>,
    /// Which heads; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<Vec<usize>>,
    /// A, [r, d_in].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a: Option<MatrixConfig>,
    /// B, [d_out, r].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b: Option<MatrixConfig>,
    /// The scale is alpha / r; r by default, that is, scale 1.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "lora_alpha")]
    pub alpha: Option<f64>,
    /// Scale alpha / sqrt(r) instead.
    #[serde(default)]
    pub rslora: bool,
    /// The dense update, instead of a and b.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<MatrixConfig>,
    /// Whether random matrices of the update are drawn anew for every layer, unless they name a stream; by default one
    /// draw is in force in all layers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each_layer: bool,
}

/// A matrix that LoRA may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetName {
    /// Q.
    Query,
    /// K.
    Key,
    /// V.
    Value,
}

/// What is measured.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObserveConfig {
    /// Tokens closer than this are linked into one cluster; also the distance that counts as departure.
    #[serde(default = "default_cluster_radius")]
    pub cluster_radius: f64,
    /// Pairs of tokens count as close (`close_pairs`) where their cosine is above this.
    #[serde(default = "default_close_cosine")]
    pub close_cosine: f64,
    /// The slow-time cascade of a twin: computed where it applies unless set; an error where set and it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cascade: Option<bool>,
}

fn default_cluster_radius() -> f64 {
    0.1
}

fn default_close_cosine() -> f64 {
    CLOSE_COSINE
}

impl Default for ObserveConfig {
    fn default() -> Self {
        Self { cluster_radius: default_cluster_radius(), close_cosine: default_close_cosine(), cascade: None }
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
