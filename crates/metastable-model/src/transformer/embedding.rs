//! From ids to the first cloud of tokens.

use super::norm::LayerNorm;
use crate::checkpoint::Tensors;
use crate::config::Config;
use crate::error::ModelError;
use crate::names::Parameter;

/// x_i = LayerNorm(token[id_i] + position[i] + segment[0]).
#[derive(Debug, Clone)]
pub(super) struct Embedding {
    token: Vec<f32>,
    position: Vec<f32>,
    segment: Vec<f32>,
    norm: LayerNorm,
    hidden: usize,
}

impl Embedding {
    /// Loads the three tables and the norm.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(super) fn load(tensors: &Tensors<'_>, config: &Config) -> Result<Self, ModelError> {
        let hidden = config.hidden;
        // A single text is segment 0; the other rows are checked with the first and let go.
        let mut segment = tensors.take(Parameter::SegmentEmbedding, &[config.segments, hidden])?;
        segment.truncate(hidden);
        Ok(Self {
            token: tensors.take(Parameter::TokenEmbedding, &[config.vocab, hidden])?,
            position: tensors.take(Parameter::PositionEmbedding, &[config.positions, hidden])?,
            segment,
            norm: LayerNorm::load(tensors, Parameter::EmbeddingNorm, hidden, config.norm_epsilon)?,
            hidden,
        })
    }

    /// The cloud of a text, [n, hidden]; trusts that ids and positions exist.
    pub(super) fn apply(&self, ids: &[u32]) -> Vec<f32> {
        let mut tokens = Vec::with_capacity(ids.len() * self.hidden);
        for (id, position) in ids.iter().zip(self.position.chunks_exact(self.hidden)) {
            let start = *id as usize * self.hidden;
            let token = &self.token[start..start + self.hidden];
            let summed = token.iter().zip(&self.segment).zip(position).map(|((t, s), p)| t + s + p);
            tokens.extend(summed);
        }
        self.norm.apply(&mut tokens);
        tokens
    }
}
