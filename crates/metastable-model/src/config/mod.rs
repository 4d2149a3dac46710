//! config.json: as written by `transformers`, then as meant.
//!
//! What a model computes is a list of choices, each an enum here; a family is a way of writing them down.
//! `encoder` and `decoder` read the spellings of the families, `rotary` the position rotations, `keys` one key.

mod decoder;
mod encoder;
mod gguf;
mod keys;
mod rotary;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;
pub(crate) use gguf::{gguf_config, written_in_gguf};
pub(crate) use keys::Keys;
pub use rotary::{Rotary, RotaryScaling};

/// A model family: how a checkpoint spells its choices and its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// BERT encoders (J. Devlin et al., 2018): learned positions, full attention, LayerNorm after each block.
    Bert,
    /// RoBERTa (Y. Liu et al., 2019): BERT whose positions start behind the padding id.
    Roberta,
    /// XLM-RoBERTa (A. Conneau et al., 2019): RoBERTa for many languages.
    XlmRoberta,
    /// DistilBERT (V. Sanh et al., 2019): BERT without segments.
    DistilBert,
    /// ALBERT (Z. Lan et al., 2019): narrow embeddings, one layer shared by all depths.
    Albert,
    /// GPT-2 (A. Radford et al., 2019): learned positions, causal attention, LayerNorm before each block.
    Gpt2,
    /// Llama (H. Touvron et al., 2023): rotary positions, RMSNorm before each block, gated feed-forward, grouped keys.
    Llama,
    /// Mistral (A. Jiang et al., 2023): Llama with a sliding window of attention.
    Mistral,
    /// Qwen 2 and 2.5 (A. Yang et al., 2024): Llama with biases of query, key and value.
    Qwen2,
    /// Qwen 3 (A. Yang et al., 2025): Llama with normalised queries and keys.
    Qwen3,
}

impl Family {
    /// All families that have a forward pass.
    pub const ALL: [Self; 10] = [
        Self::Bert,
        Self::Roberta,
        Self::XlmRoberta,
        Self::DistilBert,
        Self::Albert,
        Self::Gpt2,
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
    ];

    /// The `model_type` of config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::XlmRoberta => "xlm-roberta",
            Self::DistilBert => "distilbert",
            Self::Albert => "albert",
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// The nonlinearity of the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x Φ(x) with the normal distribution function Φ, through erf.
    Gelu,
    /// x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³))), what GPT-2 made popular.
    GeluTanh,
    /// x / (1 + e^{-x}), also called swish.
    Silu,
    /// max(x, 0).
    Relu,
}

/// The shape of the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedForwardKind {
    /// W₂ σ(W₁ x + b₁) + b₂.
    Plain,
    /// W₂ (σ(W_g x) ⊙ W₁ x): SwiGLU where σ is [`Activation::Silu`].
    Gated,
}

/// How a token is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormKind {
    /// gain·(x - mean)/sqrt(variance + ε) + bias.
    LayerNorm,
    /// gain·x/sqrt(mean of squares + ε).
    RmsNorm,
}

/// Where a block normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormPlace {
    /// x ← x + f(norm(x)), with a norm after the last block.
    Before,
    /// x ← norm(x + f(x)).
    After,
}

/// How a token knows where it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Position {
    /// A row of a table is added to token i: row i, or, with a padding id p, row p + 1 + (tokens before it that are not
    /// p), and row p for p itself.
    Learned {
        /// The padding id p of RoBERTa.
        padding: Option<u32>,
    },
    /// Queries and keys are rotated by angles proportional to i.
    Rotary(Rotary),
}

/// Which tokens a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mask {
    /// All.
    Full,
    /// Itself and earlier ones.
    Causal,
    /// Itself and earlier ones, `size` in all, in blocks from `first_layer` on; as [`Mask::Causal`] before.
    SlidingWindow {
        /// Tokens seen, itself included.
        size: usize,
        /// The first block with the window.
        first_layer: usize,
    },
}

/// Which affine maps have a constant term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// Query, key and value.
    pub query_key_value: bool,
    /// The output map of attention.
    pub attention_output: bool,
    /// All maps of the feed-forward block.
    pub feed_forward: bool,
}

/// How hidden states become scores of next tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputHead {
    /// An encoder has none here.
    None,
    /// The token embedding once more.
    Tied,
    /// A map of its own.
    Untied,
}

/// The choices and the shape of a model, validated: every side is at least 1 and at most 2^24; kv_heads divides heads.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The family.
    pub family: Family,
    /// Number of blocks L.
    pub layers: usize,
    /// Different blocks among them: block l is the (l·distinct_layers/L)-th. L except in ALBERT.
    pub distinct_layers: usize,
    /// Width d of a token.
    pub hidden: usize,
    /// Width of the embedding tables: d except in ALBERT.
    pub embedding: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key and value heads per layer; `heads / kv_heads` neighbouring query heads share one.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Rows of the token embedding.
    pub vocab: usize,
    /// The longest text.
    pub positions: usize,
    /// Rows of the segment embedding; 0 if there is none.
    pub segments: usize,
    /// Shape of the feed-forward block.
    pub feed_forward: FeedForwardKind,
    /// The nonlinearity of the feed-forward block.
    pub activation: Activation,
    /// How tokens are normalised.
    pub norm: NormKind,
    /// What the norm adds below its root.
    pub norm_epsilon: f64,
    /// Where blocks normalise.
    pub norm_place: NormPlace,
    /// Whether queries and keys of each head are normalised (RMSNorm) before they meet.
    pub query_key_norm: bool,
    /// How positions enter.
    pub position: Position,
    /// Who sees whom.
    pub mask: Mask,
    /// Constant terms.
    pub biases: Biases,
    /// From hidden states to scores of tokens.
    pub output: OutputHead,
}

impl Config {
    /// Reads and validates a config.json.
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::Unreadable`], [`ModelError::Malformed`] (no JSON object, over 1 MiB),
    /// [`ModelError::UnsupportedFamily`], [`ModelError::Config`] naming the key.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = read_bounded(path, "config.json of a model folder", LARGEST_CONFIG)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| malformed(path, error.to_string()))?;
        let Value::Object(entries) = value else {
            return Err(malformed(path, "another JSON value".into()));
        };
        let keys = Keys::new(path, entries);
        let found = keys.text("model_type", "none")?;
        let Some(family) = Family::ALL.into_iter().find(|family| family.name() == found) else {
            let supported = Family::ALL.map(Family::name).join(", ");
            return Err(ModelError::UnsupportedFamily { path: path.into(), found, supported });
        };
        match family {
            Family::Bert | Family::Roberta | Family::XlmRoberta | Family::Albert => encoder::bert_like(family, &keys),
            Family::DistilBert => encoder::distilbert(&keys),
            Family::Gpt2 => decoder::gpt2(&keys),
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => decoder::llama_like(family, &keys),
        }
    }

    /// Which of the distinct blocks is block `layer`.
    pub fn block_of(&self, layer: usize) -> usize {
        layer * self.distinct_layers / self.layers
    }

    /// That there is a block `layer`.
    ///
    /// # Errors
    /// [`ModelError::Input`].
    pub(crate) fn require_layer(&self, layer: usize) -> Result<(), ModelError> {
        if layer < self.layers {
            return Ok(());
        }
        Err(ModelError::input("layer", format!("a number below {}", self.layers), layer))
    }

    /// Rows of the position table; 0 without one.
    pub(crate) fn position_rows(&self) -> usize {
        match self.position {
            Position::Learned { padding } => self.positions + padding.map_or(0, |padding| padding as usize + 1),
            Position::Rotary(_) => 0,
        }
    }
}

/// Largest accepted config.json; real ones have a few kilobytes (label maps: some hundred).
const LARGEST_CONFIG: u64 = 1 << 20;

/// All bytes of a file that has at most `limit` of them.
pub(crate) fn read_bounded(path: &Path, expected: &'static str, limit: u64) -> Result<Vec<u8>, ModelError> {
    let reading = |error| ModelError::reading(path, expected, error);
    let mut bytes = Vec::new();
    File::open(path).map_err(reading)?.take(limit + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > limit {
        let found = format!("more than {limit} bytes");
        return Err(ModelError::Malformed { path: path.into(), expected, found });
    }
    Ok(bytes)
}

fn malformed(path: &Path, found: String) -> ModelError {
    ModelError::Malformed {
        path: path.into(),
        expected: "a JSON object with the keys of a transformer's config",
        found,
    }
}

#[cfg(test)]
mod tests;
