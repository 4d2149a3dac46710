//! One head of a layer at one text, as a linear map: how what it writes answers its input.
//!
//! D_h = (1 ⊗ W) C (1 ⊗ [Q; K; V]) with C the answer of messages to queries, keys and values, in the coordinates of
//! [`Circuits`]: the map takes [n, r] and gives [n, k]. Biases, norms of queries and keys, rotations, shared keys and
//! windows are those of the layer.

use std::ops::Range;
use std::sync::Arc;

use metastable_dynamics::Matrix;
use metastable_dynamics::smoothness::LinearMap;

use super::attention::{Heads, Shape};
use super::circuits::Circuits;
pub(crate) use super::layer::{Layer, lowered, raise};
use super::norm::FrozenNorm;
use super::real::Real;
pub(crate) use super::turns::Turns;
use crate::linear::Linear;
use crate::product::{Destination, Strided, multiply};
use crate::transformer::Transformer;
use crate::transformer::attention::{Attention, lookback};

/// A head with everything that products at one text need. Memory O(n k + r k).
pub(crate) struct SingleHead<'a, T: Real> {
    heads: Heads<T>,
    shape: Shape,
    sequences: [Range<usize>; 1],
    turns: Option<Arc<Turns<T>>>,
    /// Norms of queries and keys, with what they were applied to.
    norms: [Option<(FrozenNorm<'a, T>, Vec<T>)>; 2],
    maps: Arc<Maps<T>>,
    /// n, k, r, k'.
    sides: [usize; 4],
}

/// The maps of [`Circuits`] in the numbers of a product.
pub(crate) struct Maps<T> {
    /// [k, r] each.
    query: Vec<T>,
    key: Vec<T>,
    value: Vec<T>,
    /// [k', k].
    output: Vec<T>,
    head_dim: usize,
    /// r.
    seen: usize,
    /// k'.
    reached: usize,
}

impl<T: Real> Maps<T> {
    pub(crate) fn of(circuits: &Circuits) -> Self {
        let lower = |m: &Matrix| m.as_slice().iter().map(|x| T::from_f64(*x)).collect();
        Self {
            query: lower(&circuits.query),
            key: lower(&circuits.key),
            value: lower(&circuits.value),
            output: lower(&circuits.output),
            head_dim: circuits.head_dim(),
            seen: circuits.value.columns(),
            reached: circuits.output.rows(),
        }
    }
}

/// What stands between a head's projections and their meeting.
struct Meeting<'a, T: Real> {
    heads: Heads<T>,
    turns: Option<Arc<Turns<T>>>,
    lookback: Option<usize>,
    norms: [Option<(FrozenNorm<'a, T>, Vec<T>)>; 2],
}

impl<'a, T: Real> SingleHead<'a, T> {
    /// Head `head` of a layer at its text.
    pub(crate) fn of_layer(layer: &Layer<'a, T>, circuits: &Circuits, head: usize) -> Self {
        let attention = layer.attention();
        let (k, shared) = (attention.head_dim, attention.group(head));
        let (joined, shape) = layer.heads();
        let heads = Heads {
            query: columns(&joined.query, attention.heads, head, k),
            key: columns(&joined.key, attention.kv_heads, shared, k),
            value: columns(&joined.value, attention.kv_heads, shared, k),
        };
        let raw = layer.raw_projections();
        let norms = [
            attention.query_norm.as_ref().zip(raw).map(|(norm, raw)| (norm, columns(&raw.0, attention.heads, head, k))),
            attention
                .key_norm
                .as_ref()
                .zip(raw)
                .map(|(norm, raw)| (norm, columns(&raw.1, attention.kv_heads, shared, k))),
        ]
        .map(|found| found.map(|(norm, raw)| (FrozenNorm::of(norm), raw)));
        Self::new(
            Arc::new(Maps::of(circuits)),
            Meeting { heads, turns: layer.turns(), lookback: shape.lookback, norms },
        )
    }

    /// Head `head` of layer `layer` where its attention is applied to `tokens` [n, d], whatever the stream.
    pub(crate) fn at(transformer: &'a Transformer, layer: usize, head: usize, tokens: &[f64]) -> Self {
        let attention = &transformer.block(layer).attention;
        let n = tokens.len() / transformer.config.hidden;
        let turns = transformer.rotation(n).map(|rotation| Arc::new(Turns::of(&[rotation])));
        let maps = Arc::new(Maps::of(&Circuits::of(attention, head)));
        Self::of_projections(transformer, layer, &maps, turns, projections(attention, head, tokens))
    }

    /// As [`SingleHead::at`], of queries, keys and values [n, k] before their norms and rotations.
    pub(crate) fn of_projections(
        transformer: &'a Transformer,
        layer: usize,
        maps: &Arc<Maps<T>>,
        turns: Option<Arc<Turns<T>>>,
        [query, key, value]: [Vec<T>; 3],
    ) -> Self {
        let attention = &transformer.block(layer).attention;
        let norms = [&attention.query_norm, &attention.key_norm].map(|norm| norm.as_ref().map(FrozenNorm::of));
        let mut met = [query.clone(), key.clone()];
        for (x, norm) in met.iter_mut().zip(&norms) {
            if let Some(norm) = norm {
                *x = norm.forward(x);
            }
            if let Some(turns) = &turns {
                turns.forward(x);
            }
        }
        let [query_norm, key_norm] = norms;
        let norms = [query_norm.map(|norm| (norm, query)), key_norm.map(|norm| (norm, key))];
        let [query, key] = met;
        let heads = Heads { query, key, value };
        Self::new(maps.clone(), Meeting { heads, turns, lookback: lookback(transformer.config.mask, layer), norms })
    }

    fn new(maps: Arc<Maps<T>>, meeting: Meeting<'a, T>) -> Self {
        let Meeting { heads, turns, lookback, norms } = meeting;
        let n = heads.query.len() / maps.head_dim;
        Self {
            heads,
            shape: Shape { heads: 1, kv_heads: 1, head_dim: maps.head_dim, lookback },
            sequences: std::array::from_fn(|_| 0..n),
            turns,
            norms,
            sides: [n, maps.head_dim, maps.seen, maps.reached],
            maps,
        }
    }

    /// P, [n, n].
    pub(crate) fn weights(&self) -> Vec<f64> {
        self.shape.dense_weights(&self.heads, self.sides[0], 0)
    }

    /// J x by value, query and key path, each [n, k'].
    pub(crate) fn paths(&self, x: &[f64]) -> [Vec<f64>; 3] {
        let moved = self.moved(&lowered(x));
        let zeros = || vec![T::default(); moved.query.len()];
        let answer = |query: Vec<T>, key: Vec<T>, value: Vec<T>| {
            let written = self.written(&Heads { query, key, value });
            written.iter().map(|x| x.to_f64()).collect::<Vec<f64>>()
        };
        [
            answer(zeros(), zeros(), moved.value.clone()),
            answer(moved.query.clone(), zeros(), zeros()),
            answer(zeros(), moved.key.clone(), zeros()),
        ]
    }

    /// Changes of queries, keys and values, as they meet, for a change x [n, r] of the input.
    fn moved(&self, x: &[T]) -> Heads<T> {
        let [n, k, r, _] = self.sides;
        let through = |map: &[T]| {
            let mut out = vec![T::default(); n * k];
            let (x, map) = (Strided::new(x, n, r, r), Strided::new(map, k, r, r));
            multiply(T::ONE, x, map.transposed(), Destination::Overwrite, &mut out);
            out
        };
        let turned = |map: &[T], norm: &Option<(FrozenNorm<'_, T>, Vec<T>)>| {
            let mut d = through(map);
            if let Some((norm, raw)) = norm {
                norm.tangent(raw, &mut d);
            }
            if let Some(turns) = &self.turns {
                turns.forward(&mut d);
            }
            d
        };
        let [query_norm, key_norm] = &self.norms;
        Heads {
            query: turned(&self.maps.query, query_norm),
            key: turned(&self.maps.key, key_norm),
            value: through(&self.maps.value),
        }
    }

    /// What the output map writes for changes of queries, keys and values.
    fn written(&self, moved: &Heads<T>) -> Vec<T> {
        let [n, k, _, reach] = self.sides;
        let messages = self.shape.tangent(&self.heads, moved, &self.sequences);
        let mut out = vec![T::default(); n * reach];
        let output = Strided::new(&self.maps.output, reach, k, k).transposed();
        multiply(T::ONE, Strided::new(&messages, n, k, k), output, Destination::Overwrite, &mut out);
        out
    }
}

impl<T: Real> LinearMap for SingleHead<'_, T> {
    fn inputs(&self) -> usize {
        self.sides[0] * self.sides[2]
    }

    fn outputs(&self) -> usize {
        self.sides[0] * self.sides[3]
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        raise(&self.written(&self.moved(&lowered(x))), out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        let [n, k, r, reach] = self.sides;
        let mut messages = vec![T::default(); n * k];
        let (y, output) = (lowered(y), Strided::new(&self.maps.output, reach, k, k));
        multiply(T::ONE, Strided::new(&y, n, reach, reach), output, Destination::Overwrite, &mut messages);
        let mut d = self.shape.backward(&self.heads, &self.sequences, &messages);
        for (d, norm) in [(&mut d.query, &self.norms[0]), (&mut d.key, &self.norms[1])] {
            if let Some(turns) = &self.turns {
                turns.backward(d);
            }
            if let Some((norm, raw)) = norm {
                norm.backward(raw, d);
            }
        }
        let mut back = vec![T::default(); n * r];
        for (d, map) in [(&d.query, &self.maps.query), (&d.key, &self.maps.key), (&d.value, &self.maps.value)] {
            multiply(T::ONE, Strided::new(d, n, k, k), Strided::new(map, k, r, r), Destination::Add, &mut back);
        }
        raise(&back, out);
    }
}

/// Columns of one head out of [n, heads·k].
fn columns<T: Copy>(joined: &[T], heads: usize, head: usize, k: usize) -> Vec<T> {
    joined.chunks_exact(heads * k).flat_map(|row| row[head * k..(head + 1) * k].iter().copied()).collect()
}

/// Queries, keys and values of a head at tokens [n, d], before norms and rotations; [n, k] each.
pub(crate) fn projections<T: Real>(attention: &Attention, head: usize, tokens: &[f64]) -> [Vec<T>; 3] {
    let (k, shared) = (attention.head_dim, attention.group(head));
    [(&attention.query, head), (&attention.key, shared), (&attention.value, shared)]
        .map(|(map, head)| projected(map, head * k, k, tokens))
}

/// Rows `first..first + k` of an affine map at tokens, [n, k]; sums in f64.
fn projected<T: Real>(map: &Linear, first: usize, k: usize, tokens: &[f64]) -> Vec<T> {
    let (d, n) = (map.inputs(), tokens.len() / map.inputs());
    let mut rows: Vec<f64> = Vec::with_capacity(k * d);
    for i in first..first + k {
        rows.extend(map.row(i).iter().map(|w| f64::from(*w)));
    }
    let mut out = vec![0.0; n * k];
    if let Some(bias) = map.bias() {
        let bias = &bias[first..first + k];
        out.chunks_exact_mut(k).for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x = f64::from(*b)));
    }
    let (x, w) = (Strided::new(tokens, n, d, d), Strided::new(&rows, k, d, d));
    multiply(1.0, x, w.transposed(), Destination::Add, &mut out);
    out.into_iter().map(T::from_f64).collect()
}

#[cfg(test)]
mod tests;
