//! One forward pass for all families, in f32: embeddings, blocks, output; choices are enums of the config.
//!
//! Row-major [n, hidden] everywhere. Parallel over tokens and heads in fixed blocks, never over a sum, so the result is
//! identical to the bit on any number of threads of one machine (machines with other vector widths may round otherwise).

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod embedding;
mod exponential;
pub(crate) mod feed_forward;
pub(crate) mod heads;
pub(crate) mod norm;
mod parts;
pub(crate) mod reverse;
pub(crate) mod rotation;
pub(crate) mod surrogate;
mod widest;

use crate::checkpoint::Tensors;
use crate::config::{Config, NormPlace, OutputHead, Position};
use crate::error::ModelError;
use crate::linear::{Constant, Linear};
use crate::names::Parameter;
pub(crate) use attention::Attention;
use attention::{Scene, lookback};
use block::Block;
use embedding::Embedding;
use heads::Heads;
use norm::Norm;
use rotation::Rotation;

/// Everything between ids and scores.
#[derive(Debug, Clone)]
pub(crate) struct Transformer {
    pub(crate) config: Config,
    pub(crate) embedding: Embedding,
    /// The distinct blocks; [`Config::block_of`] says which of them a layer is.
    pub(crate) blocks: Vec<Block>,
    /// After the last block, in families that normalise before their blocks.
    pub(crate) final_norm: Option<Norm>,
    rotary_divisors: Option<Vec<f32>>,
    output: Output,
    /// What tasks put on encoders.
    pub(crate) heads: Heads,
}

/// Where scores of tokens come from.
#[derive(Debug, Clone)]
enum Output {
    None,
    Tied,
    Own(Linear),
}

/// The stream at every level, and its last level once more after the final norm.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Levels {
    /// L + 1 clouds [n, hidden].
    pub(crate) stream: Vec<Vec<f32>>,
    /// [n, hidden], where the family has a final norm.
    pub(crate) normed: Option<Vec<f32>>,
}

impl Transformer {
    /// Takes every parameter out of a checkpoint.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] naming the first that is missing or does not fit.
    pub(crate) fn load(tensors: &Tensors<'_>, config: &Config) -> Result<Self, ModelError> {
        let embedding = Embedding::load(tensors, config)?;
        let blocks = (0..config.distinct_layers).map(|layer| Block::load(tensors, config, layer));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let final_norm = match config.norm_place {
            NormPlace::Before => {
                let kind = (config.norm, config.norm_epsilon);
                Some(Norm::load(tensors, Parameter::FinalNorm, config.hidden, kind)?)
            }
            NormPlace::After => None,
        };
        let output = match config.output {
            OutputHead::Tied => Output::Tied,
            // A checkpoint saved without its head still has hidden states.
            OutputHead::Untied if tensors.has(Parameter::Output) => {
                let shape = [config.vocab, config.hidden];
                Output::Own(Linear::load_as(tensors, |_| Parameter::Output, shape, Constant::Without)?)
            }
            _ => Output::None,
        };
        let heads = Heads::load(tensors, config)?;
        let rotary_divisors = rotary_divisors(tensors, config)?;
        Ok(Self { config: config.clone(), embedding, blocks, final_norm, rotary_divisors, output, heads })
    }

    /// The hidden states of all levels; trusts ids and mask.
    pub(crate) fn forward(&self, ids: &[u32], keep: &[bool]) -> Levels {
        let rotation = self.rotation(ids.len());
        let mut stream = vec![self.embedding.apply(ids)];
        for layer in 0..self.config.layers {
            let next = self.block(layer).apply(&stream[layer], &self.scene(layer, keep, rotation.as_ref()));
            stream.push(next);
        }
        let normed = self.final_norm.as_ref().map(|norm| norm.map(&stream[self.config.layers]));
        Levels { stream, normed }
    }

    /// The block that layer `layer` applies.
    pub(crate) fn block(&self, layer: usize) -> &Block {
        &self.blocks[self.config.block_of(layer)]
    }

    /// Divisors of the frequencies of rotary positions, where the file brings them.
    pub(crate) fn rotary_divisors(&self) -> Option<&[f32]> {
        self.rotary_divisors.as_deref()
    }

    /// The rotations of a text of n tokens, where the family has them.
    pub(crate) fn rotation(&self, n: usize) -> Option<Rotation> {
        match &self.config.position {
            Position::Rotary(rotary) => {
                Some(Rotation::new(rotary, self.rotary_divisors.as_deref(), self.config.head_dim, n))
            }
            Position::Learned { .. } => None,
        }
    }

    /// What layer `layer` needs to know of a text.
    pub(crate) fn scene<'a>(&self, layer: usize, keep: &'a [bool], rotation: Option<&'a Rotation>) -> Scene<'a> {
        Scene { keep, rotation, lookback: lookback(self.config.mask, layer) }
    }

    /// Scores of all tokens of the vocabulary at hidden states `x` [n, hidden]: [n, vocab]; none without an output map.
    pub(crate) fn logits(&self, x: &[f32]) -> Option<Vec<f32>> {
        self.output_map().map(|map| map.map(x))
    }

    /// The map from hidden states to scores of tokens, where there is one.
    pub(crate) fn output_map(&self) -> Option<&Linear> {
        match &self.output {
            Output::None => None,
            Output::Tied => Some(&self.embedding.token),
            Output::Own(map) => Some(map),
        }
    }

    /// The attention weights [n, n] of a head of a layer at the stream that enters the layer.
    pub(crate) fn attention_weights(&self, stream: &[f32], keep: &[bool], layer: usize, head: usize) -> Vec<f32> {
        let block = self.block(layer);
        let rotation = self.rotation(keep.len());
        let scene = self.scene(layer, keep, rotation.as_ref());
        let projected = block.attention.project(&block.attention_input(stream), &scene);
        block.attention.head_weights(&projected, &scene, head)
    }

    /// The mean of the attention weights [n, n] of all heads of a layer, at the stream that enters the layer.
    pub(crate) fn mean_attention_weights(&self, stream: &[f32], keep: &[bool], layer: usize) -> Vec<f64> {
        let block = self.block(layer);
        let rotation = self.rotation(keep.len());
        let scene = self.scene(layer, keep, rotation.as_ref());
        let projected = block.attention.project(&block.attention_input(stream), &scene);
        let mut sum = vec![0.0; keep.len() * keep.len()];
        for head in 0..block.attention.heads {
            let weights = block.attention.head_weights(&projected, &scene, head);
            sum.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += f64::from(weight));
        }
        let share = 1.0 / block.attention.heads as f64;
        sum.iter_mut().for_each(|sum| *sum *= share);
        sum
    }
}

/// Divisors of the frequencies of rotary positions [head_dim/2], where a file brings its own.
///
/// # Errors
/// [`ModelError::Tensor`].
pub(crate) fn rotary_divisors(tensors: &Tensors<'_>, config: &Config) -> Result<Option<Vec<f32>>, ModelError> {
    let is_there = tensors.has(Parameter::RotaryDivisors);
    is_there.then(|| tensors.take(Parameter::RotaryDivisors, &[config.head_dim / 2])).transpose()
}
