//! One layer at one text, as a linear map: its Jacobian with respect to the stream, by exact products.

use std::ops::Range;
use std::sync::Arc;

use metastable_dynamics::smoothness::LinearMap;

use super::adapters::{Adapters, Places};
use super::attention::Heads;
use super::attention::{PointProducts, Shape};
use super::block::{FrozenBlock, LayerPart, Saved, Scene, Slopes};
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
    turns: Option<Arc<Turns<T>>>,
    lookback: Option<usize>,
    products: Option<PointProducts<T>>,
    width: usize,
}

impl<'a, T: Real> Layer<'a, T> {
    /// Layer `layer` at `stream` [n, hidden], a text without padding. One forward of the layer.
    pub(crate) fn at(transformer: &'a Transformer, layer: usize, stream: &[f32]) -> Self {
        let width = transformer.config.hidden;
        let n = stream.len() / width;
        let turns = transformer.rotation(n).map(|rotation| Arc::new(Turns::of(&[rotation])));
        let own = transformer.block(layer);
        let block = FrozenBlock::of(own);
        let lookback = lookback(transformer.config.mask, layer);
        let sequences = std::array::from_fn(|_| 0..n);
        let scene = Scene { sequences: &sequences, turns: turns.as_deref(), lookback, products: None, wanted: None };
        let places = Places::none(1);
        let stream = stream.iter().map(|x| T::from_f64(f64::from(*x))).collect();
        let (_, saved) = block.forward(0, stream, &Adapters { places: &places, modules: &[] }, &scene);
        let (heads, shape) = block.saved_heads(&saved, &scene);
        let products = PointProducts::at(shape, heads);
        Self { attention: &own.attention, block, saved, sequences, turns, lookback, products, width }
    }

    /// What the layer knows of the text.
    pub(crate) fn scene(&self) -> Scene<'_, T> {
        let (turns, products) = (self.turns.as_deref(), self.products.as_ref());
        Scene { sequences: &self.sequences, turns, lookback: self.lookback, products, wanted: None }
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
    pub(crate) fn attention(&self) -> &'a Attention {
        self.attention
    }

    /// Queries, keys and values as they meet, and how.
    pub(crate) fn heads(&self) -> (&Heads<T>, Shape) {
        self.block.saved_heads(&self.saved, &self.scene())
    }

    /// The rotations of the text, where the family has them.
    pub(crate) fn turns(&self) -> Option<Arc<Turns<T>>> {
        self.turns.clone()
    }

    /// Queries and keys before their norms, where they have norms; [n, heads·k] and [n, kv_heads·k].
    pub(crate) fn raw_projections(&self) -> Option<&(Vec<T>, Vec<T>)> {
        self.block.raw_projections(&self.saved)
    }

    /// Slopes from above of the norms and of the feed-forward part at this text.
    pub(crate) fn slopes(&self) -> Slopes {
        self.block.slopes(&self.saved)
    }

    /// Slopes from above of what stands between the projections of a head and its queries and keys: of their norms
    /// token by token, 1 where there are none.
    pub(crate) fn projection_slopes(&self, head: usize) -> [Vec<f64>; 2] {
        let attention = self.attention;
        let shared = attention.group(head);
        self.block.projection_slopes(&self.saved, self.count(), [(attention.heads, head), (attention.kv_heads, shared)])
    }

    /// max_i ‖J_i‖ of the feed-forward part, from above.
    pub(crate) fn feed_forward_upper(&self) -> f64 {
        self.block.feed_forward_upper(&self.saved)
    }

    /// J x of a part, [n, hidden].
    pub(crate) fn tangent(&self, part: LayerPart, x: &[T]) -> Vec<T> {
        self.block.tangent(part, &self.saved, x, &self.scene())
    }

    /// Jᵀ y of a part.
    pub(crate) fn cotangent(&self, part: LayerPart, y: &[T]) -> Vec<T> {
        self.block.cotangent(part, &self.saved, y, &self.scene())
    }

    /// <y, J x> of attention alone, split over heads and over value, query and key path.
    pub(crate) fn path_shares(&self, x: &[T], y: &[T]) -> Vec<[f64; 3]> {
        self.block.path_shares(&self.saved, x, y, &self.scene())
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
        raise(&self.layer.tangent(self.part, &lowered(x)), out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        raise(&self.layer.cotangent(self.part, &lowered(y)), out);
    }
}

pub(crate) fn lowered<T: Real>(x: &[f64]) -> Vec<T> {
    x.iter().map(|x| T::from_f64(*x)).collect()
}

pub(crate) fn raise<T: Real>(x: &[T], out: &mut [f64]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x.to_f64());
}
