//! Every map and norm of a transformer with its canonical name, for those who change weights.

use super::norm::Norm;
use super::{Output, Transformer};
use crate::linear::Linear;
use crate::names::{LayerParameter, Parameter, Part};

/// A part with its canonical name: what makes the name of (layer, weight or bias), and the layer.
pub(crate) type Named<'a, T> = (fn(usize, Part) -> Parameter, usize, &'a mut T);

impl Transformer {
    /// The affine maps of all distinct blocks and of the embedding, each under the name of its weight. The token table
    /// and an output of its own are not among them: see [`Transformer::embedding`] and [`Transformer::own_output`].
    pub(crate) fn maps_mut(&mut self) -> Vec<Named<'_, Linear>> {
        macro_rules! named {
            ($of:ident) => {
                |layer, part| Parameter::Layer(layer, LayerParameter::$of, part)
            };
        }
        let mut maps: Vec<Named<'_, Linear>> = Vec::new();
        if let Some(projection) = &mut self.embedding.projection {
            maps.push((|_, part| Parameter::EmbeddingProjection(part), 0, projection));
        }
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            maps.push((named!(Query), layer, &mut block.attention.query));
            maps.push((named!(Key), layer, &mut block.attention.key));
            maps.push((named!(Value), layer, &mut block.attention.value));
            maps.push((named!(AttentionOutput), layer, &mut block.attention.output));
            maps.push((named!(FeedForwardIn), layer, &mut block.feed_forward.input));
            if let Some(gate) = &mut block.feed_forward.gate {
                maps.push((named!(FeedForwardGate), layer, gate));
            }
            maps.push((named!(FeedForwardOut), layer, &mut block.feed_forward.output));
        }
        maps
    }

    /// All norms, each under its canonical name.
    pub(crate) fn norms_mut(&mut self) -> Vec<Named<'_, Norm>> {
        macro_rules! named {
            ($of:ident) => {
                |layer, part| Parameter::Layer(layer, LayerParameter::$of, part)
            };
        }
        let mut norms: Vec<Named<'_, Norm>> = Vec::new();
        if let Some(norm) = &mut self.embedding.norm {
            norms.push((|_, part| Parameter::EmbeddingNorm(part), 0, norm));
        }
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            norms.push((named!(AttentionNorm), layer, &mut block.attention_norm));
            norms.push((named!(FeedForwardNorm), layer, &mut block.feed_forward_norm));
            if let Some(norm) = &mut block.attention.query_norm {
                norms.push((named!(QueryNorm), layer, norm));
            }
            if let Some(norm) = &mut block.attention.key_norm {
                norms.push((named!(KeyNorm), layer, norm));
            }
        }
        if let Some(norm) = &mut self.final_norm {
            norms.push((|_, part| Parameter::FinalNorm(part), 0, norm));
        }
        norms
    }

    /// The output map as a map of its own, freed from a tie to the token table first; none for models without one.
    pub(crate) fn own_output(&mut self) -> Option<&mut Linear> {
        if matches!(self.output, Output::Tied) {
            self.output = Output::Own(self.embedding.token.clone());
        }
        match &mut self.output {
            Output::Own(map) => Some(map),
            Output::None | Output::Tied => None,
        }
    }
}
