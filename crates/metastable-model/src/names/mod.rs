//! Family names ↔ canonical names: one file a family, nothing else in it.

mod albert;
mod bert;
mod distilbert;
mod gguf;
mod gpt2;
mod heads;
mod llama;

use crate::config::{Config, Family};

/// A parameter of a transformer, whatever its family calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// Token embedding, [vocab, embedding].
    TokenEmbedding,
    /// Position embedding, [positions, embedding].
    PositionEmbedding,
    /// Segment embedding, [segments, embedding].
    SegmentEmbedding,
    /// Norm of the summed embeddings, [embedding].
    EmbeddingNorm(Part),
    /// From the width of the embeddings to that of the stream, [d, embedding].
    EmbeddingProjection(Part),
    /// Norm after the last block, [d].
    FinalNorm(Part),
    /// From hidden states to scores of tokens, [vocab, d].
    Output,
    /// A parameter of a head that a task put on the model.
    Head(HeadParameter, Part),
    /// Divisors of the frequencies of rotary positions, [head_dim/2], where a file brings its own.
    RotaryDivisors,
    /// A parameter of the distinct block `.0`.
    Layer(usize, LayerParameter, Part),
}

/// The map or norm of a block that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerParameter {
    /// [heads·head_dim, d].
    Query,
    /// [kv_heads·head_dim, d].
    Key,
    /// [kv_heads·head_dim, d].
    Value,
    /// From the joined heads back to the stream, [d, heads·head_dim].
    AttentionOutput,
    /// Of the attention block, [d].
    AttentionNorm,
    /// Of the queries of each head, [head_dim].
    QueryNorm,
    /// Of the keys of each head, [head_dim].
    KeyNorm,
    /// Into the feed-forward block, [intermediate, d].
    FeedForwardIn,
    /// The gate beside it, [intermediate, d].
    FeedForwardGate,
    /// Out of it, [d, intermediate].
    FeedForwardOut,
    /// Of the feed-forward block, [d].
    FeedForwardNorm,
}

impl LayerParameter {
    /// All of them, in the order in which a block uses them.
    pub(crate) const ALL: [Self; 11] = [
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::AttentionOutput,
        Self::FeedForwardNorm,
        Self::FeedForwardGate,
        Self::FeedForwardIn,
        Self::FeedForwardOut,
    ];

    /// The shape of its matrix, [outputs, inputs], or of a norm's gain.
    pub(crate) fn shape(self, config: &Config) -> Vec<usize> {
        let (hidden, inner) = (config.hidden, config.intermediate);
        match self {
            Self::Query => vec![config.heads * config.head_dim, hidden],
            Self::Key | Self::Value => vec![config.kv_heads * config.head_dim, hidden],
            Self::AttentionOutput => vec![hidden, config.heads * config.head_dim],
            Self::FeedForwardIn | Self::FeedForwardGate => vec![inner, hidden],
            Self::FeedForwardOut => vec![hidden, inner],
            Self::QueryNorm | Self::KeyNorm => vec![config.head_dim],
            Self::AttentionNorm | Self::FeedForwardNorm => vec![hidden],
        }
    }
}

/// The map, norm or constant of a task's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadParameter {
    /// Of the first token, before a classifier, [d, d].
    Pooler,
    /// Before the scores of masked tokens, [embedding, d].
    MaskedTransform,
    /// After that map, [embedding].
    MaskedNorm,
    /// Constants of the scores of masked tokens, [vocab]; their matrix is the token embedding.
    MaskedScores,
}

/// Which of the two tensors of a map or norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The matrix, or the gain of a norm.
    Weight,
    /// The vector that is added.
    Bias,
}

/// A name that a file may use, and how the numbers stand under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spelling {
    pub(crate) name: String,
    pub(crate) storage: Storage,
}

/// How the matrix [outputs, inputs] of an affine map stands in a file. Vectors stand the same way in all, except that
/// joined ones are joined too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// [outputs, inputs], as torch's `Linear` has it.
    Rows,
    /// [inputs, outputs], as GPT-2's `Conv1D` has it.
    Columns,
    /// Columns `index`·outputs onwards of [inputs, count·outputs]: several maps of one input in one tensor.
    JoinedColumns { index: usize, count: usize },
    /// [outputs, inputs] with the two rows of each rotated pair side by side in every head, as ggml rotates them.
    PairedRows { heads: usize },
}

/// Whose names a checkpoint uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// The family's own, in folders.
    HuggingFace,
    /// Those of ggml, the same for all families.
    Gguf,
}

impl Naming {
    /// The spellings of a parameter, the most usual first; none if there is no such parameter.
    pub(crate) fn spellings(self, config: &Config, parameter: Parameter) -> Vec<Spelling> {
        match self {
            Self::HuggingFace => spellings(config.family, parameter),
            Self::Gguf => gguf::spellings(config, parameter),
        }
    }
}

/// The spellings of a parameter in files of a family, the most usual first; none if the family has no such parameter.
pub(crate) fn spellings(family: Family, parameter: Parameter) -> Vec<Spelling> {
    if let Parameter::Head(of, part) = parameter {
        return heads::spellings(family, of, part);
    }
    match family {
        Family::Bert => bert::spellings("bert", parameter),
        Family::Roberta | Family::XlmRoberta => bert::spellings("roberta", parameter),
        Family::DistilBert => distilbert::spellings(parameter),
        Family::Albert => albert::spellings(parameter),
        Family::Gpt2 => gpt2::spellings(parameter),
        Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => llama::spellings(parameter),
    }
}

/// Names of [outputs, inputs] matrices and of vectors.
fn rows(names: impl IntoIterator<Item = String>) -> Vec<Spelling> {
    names.into_iter().map(|name| Spelling { name, storage: Storage::Rows }).collect()
}

/// `path.weight` or `path.bias`.
fn linear(path: &str, part: Part) -> Vec<String> {
    match part {
        Part::Weight => vec![format!("{path}.weight")],
        Part::Bias => vec![format!("{path}.bias")],
    }
}

/// As [`linear`], and the names that checkpoints from TensorFlow have for a norm.
fn norm(path: &str, part: Part) -> Vec<String> {
    match part {
        Part::Weight => vec![format!("{path}.weight"), format!("{path}.gamma")],
        Part::Bias => vec![format!("{path}.bias"), format!("{path}.beta")],
    }
}

/// Every name without and with the prefix that a task head puts before the model's own.
fn with_and_without(prefix: &str, names: Vec<String>) -> Vec<String> {
    let prefixed: Vec<String> = names.iter().map(|name| format!("{prefix}.{name}")).collect();
    names.into_iter().chain(prefixed).collect()
}
