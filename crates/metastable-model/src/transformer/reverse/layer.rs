//! One layer at one text, as a linear map: its Jacobian with respect to the stream, by exact products.

use std::ops::Range;

use metastable_dynamics::smoothness::LinearMap;

use super::adapters::{Adapters, Places};
use super::attention::Heads;
use super::attention::Shape;
use super::block::{FrozenBlock, LayerPart, Saved, Scene};
use super::real::Real;
use super::turns::Turns;
use crate::transformer::Transformer;
use crate::transformer::attention::{Attention, lookback};

/// A layer with everything that products at one stream need. Memory O(n·(hidden + intermediate)), never n².
pub(crate) struct Layer<'a, T: Real> {
    attention: &'a Attention,
    block: FrozenBlock<'a, T>,
    saved: Saved<T>,
    sequences: [Range<usize>; 1],
    turns: Option<Turns<T>>,
    lookback: Option<usize>,
    width: usize,
}

impl<'a, T: Real> Layer<'a, T> {
    /// Layer `layer` at `stream` [n, hidden], a text without padding. One forward of the layer.
    pub(crate) fn at(transformer: &'a Transformer, layer: usize, stream: &[f32]) -> Self {
        let width = transformer.config.hidden;
        let n = stream.len() / width;
        let turns = transformer.rotation(n).map(|rotation| Turns::of(&[rotation]));
        let own = transformer.block(layer);
        let block = FrozenBlock::of(own);
        let lookback = lookback(transformer.config.mask, layer);
        let sequences = std::array::from_fn(|_| 0..n);
        let scene = Scene { sequences: &sequences, turns: turns.as_ref(), lookback, wanted: None };
        let places = Places::none(1);
        let stream = stream.iter().map(|x| T::from_f64(f64::from(*x))).collect();
        let (_, saved) = block.forward(0, stream, &Adapters { places: &places, modules: &[] }, &scene);
        Self { attention: &own.attention, block, saved, sequences, turns, lookback, width }
    }

    /// What the layer knows of the text.
    pub(crate) fn scene(&self) -> Scene<'_, T> {
        Scene { sequences: &self.sequences, turns: self.turns.as_ref(), lookback: self.lookback, wanted: None }
    }

    /// The frozen block.
    #[cfg(test)]
    pub(crate) fn block(&self) -> &FrozenBlock<'a, T> {
        &self.block
    }

    /// What its forward left behind.
    #[cfg(test)]
    pub(crate) fn saved(&self) -> &Saved<T> {
        &self.saved
    }

    /// The number of tokens.
    pub(crate) fn count(&self) -> usize {
        self.sequences[0].len()
    }

    /// The maps and widths of its attention.
    pub(crate) fn attention(&self) -> &Attention {
        self.attention
    }

    /// Queries, keys and values as they meet, and how.
    pub(crate) fn heads(&self) -> (&Heads<T>, Shape) {
        self.block.saved_heads(&self.saved, &self.scene())
    }

    /// max_i ‖J_i‖ of the norm before attention, from above.
    pub(crate) fn norm_slope(&self) -> f64 {
        self.block.norm_slope(&self.saved)
    }
}

/// The Jacobian of one part of a layer.
pub(crate) struct PartJacobian<'a, T: Real> {
    pub(crate) layer: Layer<'a, T>,
    pub(crate) part: LayerPart,
}

impl<T: Real> LinearMap for PartJacobian<'_, T> {
    fn inputs(&self) -> usize {
        self.layer.count() * self.layer.width
    }

    fn outputs(&self) -> usize {
        self.inputs()
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        let moved = self.layer.block.tangent(self.part, &self.layer.saved, &lowered(x), &self.layer.scene());
        raise(&moved, out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        let pulled = self.layer.block.cotangent(self.part, &self.layer.saved, &lowered(y), &self.layer.scene());
        raise(&pulled, out);
    }
}

fn lowered<T: Real>(x: &[f64]) -> Vec<T> {
    x.iter().map(|x| T::from_f64(*x)).collect()
}

fn raise<T: Real>(x: &[T], out: &mut [f64]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x.to_f64());
}
