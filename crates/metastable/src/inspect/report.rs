//! The report of an inspection, as it stands in `report.json`.

use metastable_model::SurrogateLevel;
use serde::Serialize;

use super::export::Idealised;
use super::heads::HeadRow;
use super::mean_field::MeanField;
use super::twin::{AdapterReport, LayerTwin};
use crate::observables::{ClusterHistory, Series};
use crate::report::{ClusterSummary, Header};

/// Everything an inspection found.
#[derive(Debug, Clone, Serialize)]
pub struct InspectReport {
    /// Title, summary, provenance, and what is drawn.
    #[serde(flatten)]
    pub header: Header,
    /// What was asked.
    pub config: InspectConfig,
    /// The checkpoint.
    pub model: ModelSummary,
    /// Clusters at the last level.
    pub clusters: ClusterSummary,
    /// Observables over the levels.
    pub series: Series,
    /// Clusters over the levels.
    pub cluster_history: ClusterHistory,
    /// The same observables, a row a level; and without special tokens.
    pub layers: Vec<LayerRow>,
    /// The last level before the final norm, in families that have one; `layers` and `series` show it after the norm.
    pub before_final_norm: Option<NormRow>,
    /// The mean cosine against gamma_beta; null where too few tokens have one.
    pub mean_field: Option<MeanField>,
    /// Spectra of every head.
    pub heads: Vec<HeadRow>,
    /// A block of the model as an autonomous flow, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idealised: Option<Idealised>,
    /// What the adapter did, where there is one.
    pub adapter: Option<AdapterReport>,
    /// The adapted run, as pages draw twins.
    pub twin: Option<LayerTwin>,
}

/// What was asked, and the definitions that numbers depend on.
#[derive(Debug, Clone, Serialize)]
pub struct InspectConfig {
    /// The model as given.
    pub model: String,
    /// Where the text came from: a file, or "prompt".
    pub text: String,
    /// The limit on tokens.
    pub max_tokens: usize,
    /// Tokens dropped by the limit.
    pub dropped_tokens: usize,
    /// Levels whose heads were analysed.
    pub layers: Vec<usize>,
    /// Definitions of clusters and energy.
    pub definitions: Vec<String>,
    /// The linking radius of clusters, between tokens normalised to the unit sphere.
    pub cluster_radius: f64,
    /// Relative positions at which query-key circuits were measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<usize>,
    /// The head that was run as an idealised flow: "layer.head", or "layer".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_head: Option<String>,
    /// The adapter as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Factors on its scale that were tried as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scale_sweep: Vec<f64>,
}

/// A checkpoint in a few figures.
#[derive(Debug, Clone, Serialize)]
pub struct ModelSummary {
    /// `model_type`, or the architecture of a GGUF file.
    pub family: String,
    /// Blocks.
    pub layers: usize,
    /// Width of a token.
    pub hidden: usize,
    /// Query heads a block.
    pub heads: usize,
    /// Key and value heads a block.
    pub kv_heads: usize,
    /// Token embeddings.
    pub vocab: usize,
    /// Numbers in the weights files.
    pub parameters: usize,
    /// Of the weights file; of the hashes of all files, a line each, where weights are sharded.
    pub sha256: String,
    /// Which tokens a token sees: "full", "causal", or "causal, the last N" with a sliding window.
    pub attention: String,
}

/// One level: 0 is the embedding, l the output of block l.
#[derive(Debug, Clone, Serialize)]
pub struct LayerRow {
    /// The level.
    pub index: usize,
    /// Mean cosine over pairs i ≠ j of all tokens.
    pub mean_cosine: Option<f64>,
    /// Clusters at the stated radius.
    pub n_clusters: Option<f64>,
    /// Share of tokens in the largest.
    pub max_mass: Option<f64>,
    /// exp of the entropy of the covariance spectrum.
    pub effective_rank: Option<f64>,
    /// Share of the leading direction.
    pub anisotropy: Option<f64>,
    /// E at beta = 1 of the normalised tokens.
    pub energy: Option<f64>,
    /// Mean norm.
    pub radius_mean: Option<f64>,
    /// How steep the attention of the block that made this level is.
    pub lipschitz: LipschitzRow,
    /// The tokens against a Gaussian that goes through the layers' linear algebra.
    pub gaussian_surrogate: SurrogateRow,
    /// The same without special tokens; none if there are no others.
    pub without_special: Option<ContentRow>,
    /// The same without special tokens and without the first token, which causal attention makes a sink; none in
    /// families that see the whole text.
    pub without_first: Option<ContentRow>,
    /// The first token beside the others, where attention is causal.
    pub first_token: Option<FirstToken>,
}

/// The first token of a level, which causal attention makes a sink.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FirstToken {
    /// Its norm.
    pub radius: f64,
    /// Its norm over the mean norm of the others.
    pub radius_ratio: Option<f64>,
    /// Mean cosine to the others.
    pub mean_cosine: Option<f64>,
    /// Mean weight that the others gave it, over the heads of the block that made the level; none at level 0.
    pub attention: Option<f64>,
}

/// A level's mean and covariance against the Gaussian surrogate, see the definitions; empty for long texts in wide models
/// and where queries and keys are normalised.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct SurrogateRow {
    /// W_2 between the level and the image of the level before.
    pub one_block: Option<f64>,
    /// Its Bures part, that of the covariances.
    pub one_block_covariance: Option<f64>,
    /// one_block/moved.
    pub one_block_relative: Option<f64>,
    /// W_2 between the level and the image of level 0.
    pub composed: Option<f64>,
    /// W_2 between the level and the level before.
    pub moved: Option<f64>,
    /// sqrt(tr Σ) of the level.
    pub spread: Option<f64>,
}

impl From<SurrogateLevel> for SurrogateRow {
    fn from(level: SurrogateLevel) -> Self {
        let ratio = |(one, moved): (f64, f64)| Some(one / moved).filter(|ratio| ratio.is_finite());
        Self {
            one_block: level.one_block,
            one_block_covariance: level.one_block_covariance,
            one_block_relative: level.one_block.zip(level.moved).and_then(ratio),
            composed: Some(level.composed),
            moved: level.moved,
            spread: Some(level.spread),
        }
    }
}

/// The local Lipschitz constant of a block's attention at the text, residual not included; nothing at level 0, which no
/// block made, for blocks that were not asked for, and for long texts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LipschitzRow {
    /// A lower value, by Lanczos.
    pub lower: Option<f64>,
    /// A proven upper bound.
    pub upper: Option<f64>,
    /// A lower value for attention with the norm before it.
    pub with_norm: Option<f64>,
    /// A proven upper bound of the same.
    pub with_norm_upper: Option<f64>,
    /// A lower value with the residual connection.
    pub with_residual: Option<f64>,
    /// A proven upper bound of the same.
    pub with_residual_upper: Option<f64>,
    /// Steps of Lanczos for `lower`.
    pub steps: Option<usize>,
    /// Whether they converged.
    pub converged: Option<bool>,
}

/// The last level before the final norm.
#[derive(Debug, Clone, Serialize)]
pub struct NormRow {
    /// All tokens.
    pub all: Option<ContentRow>,
    /// As in [`LayerRow`].
    pub without_special: Option<ContentRow>,
    /// As in [`LayerRow`].
    pub without_first: Option<ContentRow>,
}

/// One level, as far as some of its tokens go.
#[derive(Debug, Clone, Serialize)]
pub struct ContentRow {
    /// How many tokens these are.
    pub count: usize,
    /// Mean cosine over pairs i ≠ j.
    pub mean_cosine: Option<f64>,
    /// Smallest cosine over pairs i ≠ j.
    pub min_cosine: Option<f64>,
    /// Largest cosine over pairs i ≠ j.
    pub max_cosine: Option<f64>,
    /// Share of the pairs with a cosine above 0.999.
    pub close_pairs: Option<f64>,
    /// Clusters at the stated radius.
    pub n_clusters: usize,
    /// Share of tokens in the largest.
    pub max_mass: f64,
    /// exp of the entropy of the covariance spectrum.
    pub effective_rank: Option<f64>,
    /// Share of the leading direction.
    pub anisotropy: Option<f64>,
    /// E at beta = 1 of the normalised tokens.
    pub energy: Option<f64>,
    /// Largest distance of two tokens.
    pub diameter: Option<f64>,
    /// Mean norm.
    pub radius_mean: f64,
}

/// The local Lipschitz constant of one head at the text, at what attention is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HeadConstantRow {
    /// A lower value, by Lanczos.
    pub lower: f64,
    /// A proven upper bound.
    pub upper: f64,
    /// An estimate from above, too small with probability 1e-6; none while too few steps were made.
    pub probable_upper: Option<f64>,
}
