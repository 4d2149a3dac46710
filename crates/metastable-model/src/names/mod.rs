//! Family names ↔ canonical names: one file a family, nothing else in it.

mod bert;

use crate::config::Family;

/// A parameter of a transformer, whatever its family calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
    /// Token embedding, [vocab, d].
    TokenEmbedding,
    /// Position embedding, [positions, d].
    PositionEmbedding,
    /// Segment embedding, [segments, d].
    SegmentEmbedding,
    /// LayerNorm of the summed embeddings, [d].
    EmbeddingNorm(Part),
    /// A parameter of block `.0`.
    Layer(usize, LayerParameter, Part),
}

/// The map or norm of a block that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerParameter {
    /// [d, d].
    Query,
    /// [d, d].
    Key,
    /// [d, d].
    Value,
    /// From the joined heads back to the stream, [d, d].
    AttentionOutput,
    /// Of the attention block, [d].
    AttentionNorm,
    /// Into the feed-forward block, [intermediate, d].
    FeedForwardIn,
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

/// The spellings of a parameter in files of a family, the most usual first.
pub(crate) fn spellings(family: Family, parameter: Parameter) -> Vec<String> {
    match family {
        Family::Bert => bert::spellings(parameter),
    }
}
