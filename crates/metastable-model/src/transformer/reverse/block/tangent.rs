//! Jacobian products of a block and of its attention, with respect to the stream: forward mode beside the way back.

use rayon::prelude::*;

use super::{Adapters, ENTRIES, FrozenBlock, Gradients, Heads, Real, Saved, Scene, Slot, add};
use crate::config::NormPlace;
use crate::transformer::reverse::adapters::Places;
use crate::transformer::reverse::map::Map;
use crate::transformer::reverse::norm::FrozenNorm;
use crate::transformer::reverse::real::activation;

/// Which map of a layer is differentiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerPart {
    /// A alone, at what it is applied to: the normalised stream where norms stand before.
    Attention,
    /// A with the norm before it, A ∘ N₁; the same as [`LayerPart::Attention`] where norms stand after.
    Composite,
    /// With the residual connection: x + A(N₁ x), or N₁(x + A(x)) where norms stand after.
    Residual,
    /// The whole block, feed-forward included.
    Block,
}

impl<T: Real> FrozenBlock<'_, T> {
    /// J `direction` of a part, [n, hidden]. Time of about two forwards of it.
    pub(crate) fn tangent(&self, part: LayerPart, saved: &Saved<T>, direction: &[T], scene: &Scene<'_, T>) -> Vec<T> {
        let mut input = direction.to_vec();
        if part != LayerPart::Attention && self.place == NormPlace::Before {
            self.attention_norm.tangent(&saved.x, &mut input);
        }
        let mut d = self.attention_tangent(saved, &input, scene);
        if matches!(part, LayerPart::Attention | LayerPart::Composite) {
            return d;
        }
        add(&mut d, direction);
        if self.place == NormPlace::After {
            self.attention_norm.tangent(&saved.middle, &mut d);
        }
        if part == LayerPart::Block {
            self.feed_forward_tangent(saved, &mut d);
        }
        d
    }

    /// Jᵀ `cotangent` of a part, [n, hidden]: the way back of training, without any adapter.
    pub(crate) fn cotangent(&self, part: LayerPart, saved: &Saved<T>, cotangent: &[T], scene: &Scene<'_, T>) -> Vec<T> {
        let places = Places::none(1);
        let adapters = Adapters { places: &places, modules: &[] };
        let mut gradients = Gradients { places: &places, modules: &mut [] };
        let gradients = &mut gradients;
        let mut d = cotangent.to_vec();
        let wanted = "the cotangent of the input was wanted";
        if part == LayerPart::Block {
            return self.backward(0, saved, d, true, &adapters, gradients, scene).expect(wanted);
        }
        if part == LayerPart::Residual && self.place == NormPlace::After {
            self.attention_norm.backward(&saved.middle, &mut d);
        }
        let mut back = self.attention_backward(0, saved, &d, true, &adapters, gradients, scene).expect(wanted);
        if part != LayerPart::Attention && self.place == NormPlace::Before {
            self.attention_norm.backward(&saved.x, &mut back);
        }
        if part == LayerPart::Residual {
            add(&mut back, &d);
        }
        back
    }

    /// The derivative of A along a change of its input.
    fn attention_tangent(&self, saved: &Saved<T>, direction: &[T], scene: &Scene<'_, T>) -> Vec<T> {
        let moved = self.moved_heads(saved, direction, scene);
        let messages = match scene.products {
            Some(products) => products.tangent(&moved),
            None => self.shape(scene).tangent(&saved.heads, &moved, scene.sequences),
        };
        self.linear(Slot::AttentionOutput, &messages)
    }

    /// Changes of queries, keys and values, as they meet, for a change of the input of attention.
    pub(super) fn moved_heads(&self, saved: &Saved<T>, direction: &[T], scene: &Scene<'_, T>) -> Heads<T> {
        let raw = saved.raw.as_ref();
        let turned = |slot, norm: Option<&FrozenNorm<'_, T>>, raw: Option<&Vec<T>>| {
            let mut d = self.linear(slot, direction);
            if let (Some(norm), Some(raw)) = (norm, raw) {
                norm.tangent(raw, &mut d);
            }
            if let Some(turns) = scene.turns {
                turns.forward(&mut d);
            }
            d
        };
        Heads {
            query: turned(Slot::Query, self.query_norm.as_ref(), raw.map(|raw| &raw.0)),
            key: turned(Slot::Key, self.key_norm.as_ref(), raw.map(|raw| &raw.1)),
            value: self.linear(Slot::Value, direction),
        }
    }

    /// From a change of what enters the second half to one of the block's output, in place.
    fn feed_forward_tangent(&self, saved: &Saved<T>, d: &mut [T]) {
        let mut input = d.to_vec();
        if self.place == NormPlace::Before {
            self.feed_forward_norm.tangent(&saved.middle, &mut input);
        }
        let mut inner = self.linear(Slot::FeedForwardIn, &input);
        let kind = self.activation;
        match &saved.gate {
            None => inner.par_chunks_mut(ENTRIES).zip(saved.up.par_chunks(ENTRIES)).for_each(|(d, up)| {
                d.iter_mut().zip(up).for_each(|(d, up)| *d *= activation(kind, *up).1);
            }),
            Some(gate) => {
                let moved = self.linear(Slot::FeedForwardGate, &input);
                let rest = saved.up.par_chunks(ENTRIES).zip(gate.par_chunks(ENTRIES)).zip(moved.par_chunks(ENTRIES));
                inner.par_chunks_mut(ENTRIES).zip(rest).for_each(|(d, ((up, gate), moved))| {
                    for (((d, up), gate), moved) in d.iter_mut().zip(up).zip(gate).zip(moved) {
                        let (value, slope) = activation(kind, *gate);
                        *d = *d * value + *up * slope * *moved;
                    }
                });
            }
        }
        add(d, &self.linear(Slot::FeedForwardOut, &inner));
        if let Some(end) = &saved.end {
            self.feed_forward_norm.tangent(end, d);
        }
    }

    /// W x, without the constant term.
    pub(super) fn linear(&self, slot: Slot, x: &[T]) -> Vec<T> {
        let map = self.map(slot);
        let linear = Map { weight: map.weight.borrowed(), bias: None, inputs: map.inputs, outputs: map.outputs };
        linear.forward(None, x)
    }

    /// Queries, keys and values at the saved stream, and the shape of heads.
    pub(crate) fn saved_heads<'s>(&self, saved: &'s Saved<T>, scene: &Scene<'_, T>) -> (&'s Heads<T>, super::Shape) {
        (&saved.heads, self.shape(scene))
    }
}

#[cfg(test)]
mod tests;
