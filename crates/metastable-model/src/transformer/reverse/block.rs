//! One block, forward with what the way back needs, and back.

mod paths;
mod tangent;

pub(crate) use paths::Slopes;
pub use tangent::LayerPart;

use std::ops::Range;

use rayon::prelude::*;

use super::adapters::{Adapters, Gradients, Slot};
use super::attention::{Heads, PointProducts, Shape};
use super::map::Map;
use super::norm::FrozenNorm;
use super::real::{Real, activation, each_activation};
use super::turns::Turns;
use crate::config::{Activation, NormPlace};
use crate::transformer::attention::Attention;
use crate::transformer::block::Block;
use crate::transformer::widest::widest;

/// A block whose weights are frozen; see [`Block`] for the formulas.
pub(crate) struct FrozenBlock<'a, T: Real> {
    maps: [Option<Map<'a, T>>; Slot::ALL.len()],
    query_norm: Option<FrozenNorm<'a, T>>,
    key_norm: Option<FrozenNorm<'a, T>>,
    attention_norm: FrozenNorm<'a, T>,
    feed_forward_norm: FrozenNorm<'a, T>,
    activation: Activation,
    place: NormPlace,
    heads: [usize; 3],
}

/// What a layer knows of the batch.
pub(crate) struct Scene<'a, T: Real> {
    /// Tokens of each sequence.
    pub(crate) sequences: &'a [Range<usize>],
    /// Rotary positions, where the family has them.
    pub(crate) turns: Option<&'a Turns<T>>,
    /// How many tokens before itself a token sees.
    pub(crate) lookback: Option<usize>,
    /// Products of attention at the saved point, where they are wanted more than once.
    pub(crate) products: Option<&'a PointProducts<T>>,
    /// The tokens whose next level is wanted, where not all are: a last layer whose loss looks at one a sequence.
    pub(crate) wanted: Option<&'a [usize]>,
}

/// What the way back needs of one layer. Everything else is made again from it without a large matrix product.
pub(crate) struct Saved<T> {
    /// The stream that enters, [n, hidden].
    x: Vec<T>,
    heads: Heads<T>,
    /// Queries and keys before their norms, where there are norms.
    raw: Option<(Vec<T>, Vec<T>)>,
    /// [n, heads·head_dim]; of the wanted tokens only, like all that follows.
    messages: Vec<T>,
    /// x + attention, before its norm where norms stand after.
    middle: Vec<T>,
    /// W₁ y + b₁, [n, intermediate].
    up: Vec<T>,
    /// W_g y.
    gate: Option<Vec<T>>,
    /// middle + feed-forward before its norm, where norms stand after.
    end: Option<Vec<T>>,
}

/// Entries per task of elementwise loops.
const ENTRIES: usize = 1 << 14;

impl<'a, T: Real> FrozenBlock<'a, T> {
    pub(crate) fn of(block: &'a Block) -> Self {
        let Attention { query, key, value, output, query_norm, key_norm, heads, kv_heads, head_dim } = &block.attention;
        let feed_forward = &block.feed_forward;
        let map = |linear| Some(Map::of(linear));
        Self {
            maps: [
                map(query),
                map(key),
                map(value),
                map(output),
                map(&feed_forward.input),
                feed_forward.gate.as_ref().map(Map::of),
                map(&feed_forward.output),
            ],
            query_norm: query_norm.as_ref().map(FrozenNorm::of),
            key_norm: key_norm.as_ref().map(FrozenNorm::of),
            attention_norm: FrozenNorm::of(&block.attention_norm),
            feed_forward_norm: FrozenNorm::of(&block.feed_forward_norm),
            activation: feed_forward.activation,
            place: block.norm_place,
            heads: [*heads, *kv_heads, *head_dim],
        }
    }

    /// The map of a slot.
    ///
    /// # Panics
    /// If the block has none there: the gate of a plain feed-forward.
    pub(crate) fn map(&self, slot: Slot) -> &Map<'a, T> {
        self.maps[slot as usize].as_ref().expect("only the gate may be absent, and it is asked for where it is not")
    }

    fn shape(&self, scene: &Scene<'_, T>) -> Shape {
        let [heads, kv_heads, head_dim] = self.heads;
        Shape { heads, kv_heads, head_dim, lookback: scene.lookback }
    }

    fn is_gated(&self) -> bool {
        self.maps[Slot::FeedForwardGate as usize].is_some()
    }

    /// The next level of the stream `x` [n, hidden], or of the wanted tokens, and what the way back needs.
    pub(crate) fn forward(
        &self,
        index: usize,
        x: Vec<T>,
        adapters: &Adapters<'_, T>,
        scene: &Scene<'_, T>,
    ) -> (Vec<T>, Saved<T>) {
        let apply = |slot, x: &[T]| self.map(slot).forward(adapters.factors(index, slot), x);
        let normed = self.before(&self.attention_norm, &x);
        let input = normed.as_deref().unwrap_or(&x);
        let (query, raw_query) = self.turned(apply(Slot::Query, input), self.query_norm.as_ref(), scene);
        let (key, raw_key) = self.turned(apply(Slot::Key, input), self.key_norm.as_ref(), scene);
        let heads = Heads { query, key, value: apply(Slot::Value, input) };
        let mut messages = self.shape(scene).forward(&heads, scene.sequences);
        let mut kept = None;
        if let Some(wanted) = scene.wanted {
            let n = x.len() / self.attention_norm.width();
            messages = gather(&messages, wanted, n);
            kept = Some(gather(&x, wanted, n));
        }
        let mut middle = apply(Slot::AttentionOutput, &messages);
        add(&mut middle, kept.as_deref().unwrap_or(&x));

        let y = self.after(&self.attention_norm, &middle);
        let y = y.as_deref().unwrap_or(&middle);
        let normed = self.before(&self.feed_forward_norm, y);
        let input = normed.as_deref().unwrap_or(y);
        let up = apply(Slot::FeedForwardIn, input);
        let gate = self.is_gated().then(|| apply(Slot::FeedForwardGate, input));
        let mut end = apply(Slot::FeedForwardOut, &self.inner(&up, gate.as_deref()));
        add(&mut end, y);
        let raw = raw_query.zip(raw_key);
        match self.after(&self.feed_forward_norm, &end) {
            Some(next) => (next, Saved { x, heads, raw, messages, middle, up, gate, end: Some(end) }),
            None => (end, Saved { x, heads, raw, messages, middle, up, gate, end: None }),
        }
    }

    /// The vector-Jacobian product of the block: for a cotangent `d` of its output the cotangent of its input, if
    /// `wanted`, and the gradients of its factors. No gradient of a frozen matrix is formed.
    #[allow(clippy::too_many_arguments, reason = "what a block, a batch and a cotangent are")]
    pub(crate) fn backward(
        &self,
        index: usize,
        saved: &Saved<T>,
        mut d: Vec<T>,
        wanted: bool,
        adapters: &Adapters<'_, T>,
        gradients: &mut Gradients<'_, T>,
        scene: &Scene<'_, T>,
    ) -> Option<Vec<T>> {
        if let Some(end) = &saved.end {
            self.feed_forward_norm.backward(end, &mut d);
        }
        // d is now the cotangent of y + F(..); through y it goes straight on.
        let y = self.after(&self.attention_norm, &saved.middle);
        let y = y.as_deref().unwrap_or(&saved.middle);
        let back = self.feed_forward_backward(index, saved, y, &d, adapters, gradients);
        self.join(&mut d, back, &self.feed_forward_norm, y);
        if self.place == NormPlace::After {
            self.attention_norm.backward(&saved.middle, &mut d);
        }
        let back = self.attention_backward(index, saved, &d, wanted, adapters, gradients, scene)?;
        if let Some(rows) = scene.wanted {
            d = scatter(&d, rows, saved.x.len() / self.attention_norm.width());
        }
        self.join(&mut d, back, &self.attention_norm, &saved.x);
        Some(d)
    }

    /// Adds what came back through a sub-layer, through the norm before it where there is one.
    fn join(&self, d: &mut [T], mut back: Vec<T>, norm: &FrozenNorm<'_, T>, x: &[T]) {
        if self.place == NormPlace::Before {
            norm.backward(x, &mut back);
        }
        add(d, &back);
    }

    fn feed_forward_backward(
        &self,
        index: usize,
        saved: &Saved<T>,
        y: &[T],
        d: &[T],
        adapters: &Adapters<'_, T>,
        gradients: &mut Gradients<'_, T>,
    ) -> Vec<T> {
        let pull = |slot: Slot, x: &[T], dy: &[T], dx: &mut [T], gradients: &mut Gradients<'_, T>| {
            self.map(slot).backward(adapters.factors(index, slot), x, dy, Some(dx), gradients.at(index, slot));
        };
        let mut d_up = vec![T::default(); saved.up.len()];
        let inner = match adapters.factors(index, Slot::FeedForwardOut) {
            Some(_) => self.inner(&saved.up, saved.gate.as_deref()),
            None => Vec::new(),
        };
        pull(Slot::FeedForwardOut, &inner, d, &mut d_up, gradients);
        drop(inner);
        let normed = self.before(&self.feed_forward_norm, y);
        let input = normed.as_deref().unwrap_or(y);
        let mut back = vec![T::default(); y.len()];
        if let Some(gate) = &saved.gate {
            let d_gate = self.gated_backward(&saved.up, gate, &mut d_up);
            pull(Slot::FeedForwardGate, input, &d_gate, &mut back, gradients);
        } else {
            d_up.par_chunks_mut(ENTRIES).zip(saved.up.par_chunks(ENTRIES)).for_each(|(d, up)| {
                each_activation!(self.activation, kind, {
                    for (d, up) in d.iter_mut().zip(up) {
                        *d *= activation(kind, *up).1;
                    }
                });
            });
        }
        pull(Slot::FeedForwardIn, input, &d_up, &mut back, gradients);
        back
    }

    /// From the cotangent of σ(g) ⊙ u to those of u (in place) and of g.
    fn gated_backward(&self, up: &[T], gate: &[T], d_up: &mut [T]) -> Vec<T> {
        let mut d_gate = vec![T::default(); gate.len()];
        d_gate
            .par_chunks_mut(ENTRIES)
            .zip(d_up.par_chunks_mut(ENTRIES))
            .zip(up.par_chunks(ENTRIES).zip(gate.par_chunks(ENTRIES)))
            .for_each(|((d_gate, d_up), (up, gate))| {
                each_activation!(self.activation, kind, {
                    for (((d_gate, d_up), up), gate) in d_gate.iter_mut().zip(d_up).zip(up).zip(gate) {
                        let (value, slope) = activation(kind, *gate);
                        *d_gate = *d_up * *up * slope;
                        *d_up *= value;
                    }
                });
            });
        d_gate
    }

    #[allow(clippy::too_many_arguments, reason = "as backward, of which it is a half")]
    fn attention_backward(
        &self,
        index: usize,
        saved: &Saved<T>,
        d: &[T],
        wanted: bool,
        adapters: &Adapters<'_, T>,
        gradients: &mut Gradients<'_, T>,
        scene: &Scene<'_, T>,
    ) -> Option<Vec<T>> {
        let mut d_messages = vec![T::default(); saved.messages.len()];
        let slot = Slot::AttentionOutput;
        let (factors, to) = (adapters.factors(index, slot), gradients.at(index, slot));
        self.map(slot).backward(factors, &saved.messages, d, Some(&mut d_messages), to);
        let inputs = [Slot::Query, Slot::Key, Slot::Value];
        if !wanted && inputs.iter().all(|slot| adapters.factors(index, *slot).is_none()) {
            return None;
        }
        if let Some(rows) = scene.wanted {
            d_messages = scatter(&d_messages, rows, saved.x.len() / self.attention_norm.width());
        }
        let mut d_heads = match scene.products {
            Some(products) => products.backward(&d_messages),
            None => self.shape(scene).backward(&saved.heads, scene.sequences, &d_messages),
        };
        drop(d_messages);
        let raw = saved.raw.as_ref();
        self.turned_backward(&mut d_heads.query, self.query_norm.as_ref(), raw.map(|raw| &raw.0[..]), scene);
        self.turned_backward(&mut d_heads.key, self.key_norm.as_ref(), raw.map(|raw| &raw.1[..]), scene);
        let normed = self.before(&self.attention_norm, &saved.x);
        let input = normed.as_deref().unwrap_or(&saved.x);
        let mut back = wanted.then(|| vec![T::default(); saved.x.len()]);
        for (slot, dy) in inputs.into_iter().zip([&d_heads.query, &d_heads.key, &d_heads.value]) {
            let to = gradients.at(index, slot);
            self.map(slot).backward(adapters.factors(index, slot), input, dy, back.as_deref_mut(), to);
        }
        back
    }

    /// Normalised, then rotated; and what it was before, where there is a norm.
    fn turned(
        &self,
        mut x: Vec<T>,
        norm: Option<&FrozenNorm<'_, T>>,
        scene: &Scene<'_, T>,
    ) -> (Vec<T>, Option<Vec<T>>) {
        let raw = norm.map(|norm| {
            let normed = norm.forward(&x);
            std::mem::replace(&mut x, normed)
        });
        if let Some(turns) = scene.turns {
            turns.forward(&mut x);
        }
        (x, raw)
    }

    fn turned_backward(&self, d: &mut [T], norm: Option<&FrozenNorm<'_, T>>, raw: Option<&[T]>, scene: &Scene<'_, T>) {
        if let Some(turns) = scene.turns {
            turns.backward(d);
        }
        if let (Some(norm), Some(raw)) = (norm, raw) {
            norm.backward(raw, d);
        }
    }

    /// σ(u), or σ(g) ⊙ u.
    fn inner(&self, up: &[T], gate: Option<&[T]>) -> Vec<T> {
        let mut inner = vec![T::default(); up.len()];
        let kind = self.activation;
        match gate {
            None => inner.par_chunks_mut(ENTRIES).zip(up.par_chunks(ENTRIES)).for_each(|(inner, up)| {
                each_activation!(kind, kind, {
                    for (inner, up) in inner.iter_mut().zip(up) {
                        *inner = activation(kind, *up).0;
                    }
                });
            }),
            Some(gate) => {
                let inputs = up.par_chunks(ENTRIES).zip(gate.par_chunks(ENTRIES));
                inner.par_chunks_mut(ENTRIES).zip(inputs).for_each(|(inner, (up, gate))| {
                    each_activation!(kind, kind, {
                        for ((inner, up), gate) in inner.iter_mut().zip(up).zip(gate) {
                            *inner = *up * activation(kind, *gate).0;
                        }
                    });
                });
            }
        }
        inner
    }

    /// The norm of a sub-layer's input, where norms stand before.
    fn before(&self, norm: &FrozenNorm<'_, T>, x: &[T]) -> Option<Vec<T>> {
        (self.place == NormPlace::Before).then(|| norm.forward(x))
    }

    /// The norm of a sub-layer's sum, where norms stand after.
    fn after(&self, norm: &FrozenNorm<'_, T>, x: &[T]) -> Option<Vec<T>> {
        (self.place == NormPlace::After).then(|| norm.forward(x))
    }
}

/// The chosen rows of a matrix of n rows.
fn gather<T: Real>(values: &[T], rows: &[usize], n: usize) -> Vec<T> {
    let width = values.len() / n;
    rows.iter().flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect()
}

/// A matrix of n rows that is zero but for the chosen ones.
fn scatter<T: Real>(values: &[T], rows: &[usize], n: usize) -> Vec<T> {
    let width = values.len() / rows.len();
    let mut all = vec![T::default(); n * width];
    for (row, values) in rows.iter().zip(values.chunks_exact(width)) {
        all[row * width..(row + 1) * width].copy_from_slice(values);
    }
    all
}

/// x ← x + y.
fn add<T: Real>(x: &mut [T], y: &[T]) {
    x.par_chunks_mut(ENTRIES).zip(y.par_chunks(ENTRIES)).for_each(|(x, y)| {
        widest(
            #[inline(always)]
            || {
                for (x, y) in x.iter_mut().zip(y) {
                    *x += *y;
                }
            },
        );
    });
}
