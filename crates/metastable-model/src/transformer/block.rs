//! One layer: attention, then feed-forward, each added to the stream with a norm before or after.

use super::attention::{Attention, Scene};
use super::feed_forward::FeedForward;
use super::norm::Norm;
use crate::checkpoint::Tensors;
use crate::config::{Config, NormPlace};
use crate::error::ModelError;
use crate::linear::Linear;
use crate::names::{LayerParameter, Parameter};

/// Post-norm: y = N₁(x + A(x)), x' = N₂(y + F(y)). Pre-norm: y = x + A(N₁ x), x' = y + F(N₂ y).
///
/// A is [`Attention`] with its output map, F is [`FeedForward`] with its own: four sub-layers, each a linear map or a
/// function of single tokens, and the attention weights. A reverse pass or a tangent goes through the same four.
///
/// # References
/// J. Devlin et al., "BERT", 2018, after A. Vaswani et al., "Attention is all you need", 2017, section 3.1 \[2nd\];
/// pre-norm: A. Radford et al., "Language models are unsupervised multitask learners", 2019, section 2.3 \[2nd\].
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) attention: Attention,
    pub(crate) attention_norm: Norm,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) norm_place: NormPlace,
}

impl Block {
    /// Loads the distinct block `layer`.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(crate) fn load(tensors: &Tensors<'_>, config: &Config, layer: usize) -> Result<Self, ModelError> {
        let kind = (config.norm, config.norm_epsilon);
        let norm = |of| Norm::load(tensors, |part| Parameter::Layer(layer, of, part), config.hidden, kind);
        Ok(Self {
            attention: Attention::load(tensors, config, layer)?,
            attention_norm: norm(LayerParameter::AttentionNorm)?,
            feed_forward: FeedForward::load(tensors, config, layer)?,
            feed_forward_norm: norm(LayerParameter::FeedForwardNorm)?,
            norm_place: config.norm_place,
        })
    }

    /// The next level [n, hidden] of the stream `x` [n, hidden].
    pub(crate) fn apply(&self, x: &[f32], scene: &Scene<'_>) -> Vec<f32> {
        let input = self.entering(&self.attention_norm, x);
        let messages = self.attention.messages(&self.attention.project(input.as_ref().map_or(x, |x| x), scene), scene);
        let y = self.joining(&self.attention.output, &messages, x, &self.attention_norm);
        let input = self.entering(&self.feed_forward_norm, &y);
        let inner = self.feed_forward.inner(input.as_ref().map_or(&y, |x| x));
        self.joining(&self.feed_forward.output, &inner, &y, &self.feed_forward_norm)
    }

    /// What attention sees of the stream: [`Block::apply`]'s first step.
    pub(crate) fn attention_input(&self, x: &[f32]) -> Vec<f32> {
        self.entering(&self.attention_norm, x).unwrap_or_else(|| x.to_vec())
    }

    /// The normalised stream where norms stand before; none where the sub-layer takes the stream as it is.
    fn entering(&self, norm: &Norm, x: &[f32]) -> Option<Vec<f32>> {
        (self.norm_place == NormPlace::Before).then(|| norm.map(x))
    }

    /// x + W·update + b, normalised where norms stand after.
    fn joining(&self, map: &Linear, update: &[f32], x: &[f32], norm: &Norm) -> Vec<f32> {
        let mut joined = vec![0.0; x.len()];
        map.apply_then(update, &mut joined, |first, block| {
            let stream = &x[first * map.outputs()..];
            block.iter_mut().zip(stream).for_each(|(sum, x)| *sum += x);
            if self.norm_place == NormPlace::After {
                norm.apply(block);
            }
        });
        joined
    }
}
