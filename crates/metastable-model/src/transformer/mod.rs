//! One forward pass for all families, in f32: embeddings, then blocks; choices are enums of the config.
//!
//! Row-major [n, hidden] everywhere. Parallel over tokens and heads in fixed blocks, never over a sum, so the result is
//! identical to the bit on any number of threads of one machine (machines with other vector widths may round otherwise).

mod activation;
mod attention;
mod embedding;
mod norm;

use crate::checkpoint::Tensors;
use crate::config::{Activation, Config};
use crate::error::ModelError;
use crate::linear::Linear;
use crate::names::{LayerParameter, Parameter};
use activation::activate;
pub(crate) use attention::Attention;
use embedding::Embedding;
use norm::LayerNorm;

/// Embeddings and blocks of a model.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    embedding: Embedding,
    blocks: Vec<Block>,
}

/// One layer: x ← LN(x + attention(x)); x ← LN(x + feed_forward(x)).
///
/// # References
/// J. Devlin et al., "BERT", 2018, after A. Vaswani et al., "Attention is all you need", 2017, section 3.1 [2nd].
#[derive(Debug, Clone)]
struct Block {
    attention: Attention,
    attention_norm: LayerNorm,
    feed_forward_in: Linear,
    feed_forward_out: Linear,
    feed_forward_norm: LayerNorm,
    activation: Activation,
    hidden: usize,
    intermediate: usize,
}

impl Transformer {
    /// Takes every parameter out of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] naming the first that is missing or does not fit.
    pub(crate) fn load(tensors: &Tensors<'_>, config: &Config) -> Result<Self, ModelError> {
        let embedding = Embedding::load(tensors, config)?;
        let blocks = (0..config.layers).map(|layer| Block::load(tensors, config, layer)).collect::<Result<_, _>>()?;
        Ok(Self { embedding, blocks })
    }

    /// The hidden states of all levels, L + 1 clouds [n, hidden]; trusts ids and mask.
    pub(crate) fn forward(&self, ids: &[u32], keep: &[bool]) -> Vec<Vec<f32>> {
        let mut levels = Vec::with_capacity(self.blocks.len() + 1);
        let mut tokens = self.embedding.apply(ids);
        for block in &self.blocks {
            let next = block.apply(&tokens, keep);
            levels.push(std::mem::replace(&mut tokens, next));
        }
        levels.push(tokens);
        levels
    }

    /// The attention weights [n, n] of a head of a layer at the tokens that enter the layer.
    pub(crate) fn attention_weights(&self, tokens: &[f32], keep: &[bool], layer: usize, head: usize) -> Vec<f32> {
        self.blocks[layer].attention.head_weights(tokens, keep, head)
    }

    /// The attention maps of a layer.
    pub(crate) fn attention(&self, layer: usize) -> &Attention {
        &self.blocks[layer].attention
    }
}

impl Block {
    fn load(tensors: &Tensors<'_>, config: &Config, layer: usize) -> Result<Self, ModelError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let norm = |of| LayerNorm::load(tensors, |part| Parameter::Layer(layer, of, part), hidden, config.norm_epsilon);
        let linear = |of, shape| Linear::load(tensors, layer, of, shape);
        Ok(Self {
            attention: Attention::load(tensors, config, layer)?,
            attention_norm: norm(LayerParameter::AttentionNorm)?,
            feed_forward_in: linear(LayerParameter::FeedForwardIn, [intermediate, hidden])?,
            feed_forward_out: linear(LayerParameter::FeedForwardOut, [hidden, intermediate])?,
            feed_forward_norm: norm(LayerParameter::FeedForwardNorm)?,
            activation: config.activation,
            hidden,
            intermediate,
        })
    }

    fn apply(&self, tokens: &[f32], keep: &[bool]) -> Vec<f32> {
        let hidden = self.hidden;
        let residual = |stream: &[f32], first: usize, block: &mut [f32], norm: &LayerNorm| {
            norm.add_and_apply(&stream[first * hidden..first * hidden + block.len()], block);
        };
        let messages = self.attention.messages(tokens, keep);
        let mut attended = vec![0.0; tokens.len()];
        self.attention.output.apply_then(&messages, &mut attended, |first, block| {
            residual(tokens, first, block, &self.attention_norm);
        });
        let mut inner = vec![0.0; keep.len() * self.intermediate];
        self.feed_forward_in.apply_then(&attended, &mut inner, |_, block| activate(self.activation, block));
        let mut next = messages;
        self.feed_forward_out.apply_then(&inner, &mut next, |first, block| {
            residual(&attended, first, block, &self.feed_forward_norm);
        });
        next
    }
}
