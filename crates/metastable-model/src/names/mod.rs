//! Family names ↔ canonical names: one file a family, nothing else in it.

mod albert;
mod bert;
mod distilbert;
mod gpt2;
mod llama;

use crate::config::Family;

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
}

/// The spellings of a parameter in files of a family, the most usual first; none if the family has no such parameter.
pub(crate) fn spellings(family: Family, parameter: Parameter) -> Vec<Spelling> {
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
