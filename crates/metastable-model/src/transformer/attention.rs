//! Multi-head softmax attention: padding, causal and window masks, shared keys and values, rotary positions.

use std::ops::Range;

use rayon::prelude::*;

use super::norm::Norm;
use super::rotation::Rotation;
use crate::checkpoint::Tensors;
use crate::config::{Config, Mask, NormKind};
use crate::error::ModelError;
use crate::linear::{Constant, Linear};
use crate::names::{LayerParameter, Parameter};
use crate::product::{Destination, Strided, multiply};

/// y_i = W Σ_h Σ_j P^h_ij V^g x_j + b with P^h = softmax_j(<R_i Q^h x_i, R_j K^g x_j>/sqrt(head_dim)) over the tokens
/// that i sees; g = h / (heads/kv_heads) is the group of head h, R_i the rotation at position i.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    /// [heads·head_dim, hidden].
    pub(crate) query: Linear,
    /// [kv_heads·head_dim, hidden].
    pub(crate) key: Linear,
    /// [kv_heads·head_dim, hidden].
    pub(crate) value: Linear,
    /// [hidden, heads·head_dim].
    pub(crate) output: Linear,
    /// Of every query head, [head_dim].
    pub(crate) query_norm: Option<Norm>,
    /// Of every key head, [head_dim].
    pub(crate) key_norm: Option<Norm>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// What attention needs to know of a text, the same for all tokens and heads of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// Which positions are text and not padding.
    pub(crate) keep: &'a [bool],
    /// The rotations of queries and keys, where the family has them.
    pub(crate) rotation: Option<&'a Rotation>,
    /// How many tokens before itself a token sees; none where it sees all, behind it too.
    pub(crate) lookback: Option<usize>,
}

impl Scene<'_> {
    /// The positions that token i may see, padding included.
    pub(crate) fn visible(&self, i: usize) -> Range<usize> {
        match self.lookback {
            Some(lookback) => i.saturating_sub(lookback)..i + 1,
            None => 0..self.keep.len(),
        }
    }
}

/// How many tokens before itself a token of block `layer` sees.
pub(crate) fn lookback(mask: Mask, layer: usize) -> Option<usize> {
    match mask {
        Mask::Full => None,
        Mask::SlidingWindow { size, first_layer } if layer >= first_layer => Some(size - 1),
        Mask::Causal | Mask::SlidingWindow { .. } => Some(usize::MAX),
    }
}

/// Queries, keys and values as they meet: with their biases, normalised and rotated.
#[derive(Debug, Clone)]
pub(crate) struct Projected {
    /// [n, heads·head_dim].
    pub(crate) query: Vec<f32>,
    /// [n, kv_heads·head_dim].
    pub(crate) key: Vec<f32>,
    /// [n, kv_heads·head_dim].
    pub(crate) value: Vec<f32>,
}

/// Queries handled at a time: a head needs 64·n numbers of scratch, never n·n.
const QUERY_BLOCK: usize = 64;

impl Attention {
    /// Loads the maps and norms of a distinct block.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(crate) fn load(tensors: &Tensors<'_>, config: &Config, layer: usize) -> Result<Self, ModelError> {
        let (hidden, head_dim) = (config.hidden, config.head_dim);
        let (wide, narrow) = (config.heads * head_dim, config.kv_heads * head_dim);
        let inner = Constant::from_flag(config.biases.query_key_value);
        let load = |parameter, shape, constant| Linear::load(tensors, (layer, parameter), shape, constant);
        let norm = |of| match config.query_key_norm {
            true => {
                let kind = (NormKind::RmsNorm, config.norm_epsilon);
                Norm::load(tensors, |part| Parameter::Layer(layer, of, part), head_dim, kind).map(Some)
            }
            false => Ok(None),
        };
        Ok(Self {
            query: load(LayerParameter::Query, [wide, hidden], inner)?,
            key: load(LayerParameter::Key, [narrow, hidden], inner)?,
            value: load(LayerParameter::Value, [narrow, hidden], inner)?,
            output: load(
                LayerParameter::AttentionOutput,
                [hidden, wide],
                Constant::from_flag(config.biases.attention_output),
            )?,
            query_norm: norm(LayerParameter::QueryNorm)?,
            key_norm: norm(LayerParameter::KeyNorm)?,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim,
        })
    }

    /// The key and value head that query head `head` looks at.
    pub(crate) fn group(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// What query and key maps give for tokens [n, hidden], normalised and rotated; and values. O(n·d²).
    pub(crate) fn project(&self, tokens: &[f32], scene: &Scene<'_>) -> Projected {
        let turned = |map: &Linear, norm: Option<&Norm>| {
            let mut projected = map.map(tokens);
            if let Some(norm) = norm {
                norm.apply(&mut projected);
            }
            if let Some(rotation) = scene.rotation {
                rotation.apply(&mut projected, map.outputs());
            }
            projected
        };
        Projected {
            query: turned(&self.query, self.query_norm.as_ref()),
            key: turned(&self.key, self.key_norm.as_ref()),
            value: self.value.map(tokens),
        }
    }

    /// The joined messages Σ_j P^h_ij v_j of all heads, [n, heads·head_dim], before the output map.
    ///
    /// Time O(n²·d); scratch O(n·d) and 64·n numbers for each running head. Parallel over heads.
    pub(crate) fn messages(&self, projected: &Projected, scene: &Scene<'_>) -> Vec<f32> {
        let (n, head_dim) = (scene.keep.len(), self.head_dim);
        let (wide, narrow) = (self.heads * head_dim, self.kv_heads * head_dim);
        let mut by_head = vec![0.0; n * wide];
        by_head.par_chunks_mut(n * head_dim).enumerate().for_each(|(head, messages)| {
            let values = &projected.value[self.group(head) * head_dim..];
            let mut scratch = vec![0.0; QUERY_BLOCK.min(n) * n];
            for (block, messages) in messages.chunks_mut(QUERY_BLOCK * head_dim).enumerate() {
                let rows = messages.len() / head_dim;
                let first = block * QUERY_BLOCK;
                let seen = self.weights(projected, scene, head, first..first + rows, &mut scratch);
                let weights = Strided::new(&scratch, rows, seen.len(), seen.len());
                let values = Strided::new(&values[seen.start * narrow..], seen.len(), head_dim, narrow);
                multiply(1.0, weights, values, Destination::Overwrite, messages);
            }
        });
        join_heads(&by_head, n, head_dim, wide)
    }

    /// The attention weights P of one head, [n, n]: a row for each query, with zeros for tokens it does not see.
    /// O(n²·head_dim).
    pub(crate) fn head_weights(&self, projected: &Projected, scene: &Scene<'_>, head: usize) -> Vec<f32> {
        let n = scene.keep.len();
        let mut weights = vec![0.0; n * n];
        let mut scratch = vec![0.0; QUERY_BLOCK.min(n) * n];
        for (block, weights) in weights.chunks_mut(QUERY_BLOCK * n).enumerate() {
            let first = block * QUERY_BLOCK;
            let seen = self.weights(projected, scene, head, first..first + weights.len() / n, &mut scratch);
            for (row, found) in weights.chunks_exact_mut(n).zip(scratch.chunks_exact(seen.len())) {
                row[seen.clone()].copy_from_slice(found);
            }
        }
        weights
    }

    /// Rows `queries` of P at the tokens that any of them sees, which it returns: [queries, seen] at the start of
    /// `scratch`.
    fn weights(
        &self,
        projected: &Projected,
        scene: &Scene<'_>,
        head: usize,
        queries: Range<usize>,
        scratch: &mut [f32],
    ) -> Range<usize> {
        let (wide, narrow) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let seen = scene.visible(queries.start).start..scene.visible(queries.end - 1).end;
        let (query, key) = (head * self.head_dim, self.group(head) * self.head_dim);
        let query = Strided::new(&projected.query[queries.start * wide + query..], queries.len(), self.head_dim, wide);
        let key = Strided::new(&projected.key[seen.start * narrow + key..], seen.len(), self.head_dim, narrow);
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let weights = &mut scratch[..queries.len() * seen.len()];
        multiply(scale, query, key.transposed(), Destination::Overwrite, weights);
        for (i, row) in queries.zip(weights.chunks_exact_mut(seen.len())) {
            let visible = scene.visible(i);
            let visible = visible.start - seen.start..visible.end - seen.start;
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
            softmax(&mut row[visible.clone()], &scene.keep[seen.start..][visible]);
        }
        seen
    }
}

/// Softmax over the kept entries, exactly zero elsewhere; shifted by the largest, so it never overflows. All zeros if
/// no entry is kept, which happens to padding only.
fn softmax(row: &mut [f32], keep: &[bool]) {
    if !keep.contains(&true) {
        return row.fill(0.0);
    }
    for (score, keep) in row.iter_mut().zip(keep) {
        *score = if *keep { *score } else { f32::NEG_INFINITY };
    }
    let largest = row.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
    let mut total = 0.0;
    for score in row.iter_mut() {
        *score = (*score - largest).exp();
        total += *score;
    }
    let scale = 1.0 / total;
    row.iter_mut().for_each(|weight| *weight *= scale);
}

/// From [heads, n, head_dim] to [n, heads·head_dim].
fn join_heads(by_head: &[f32], n: usize, head_dim: usize, hidden: usize) -> Vec<f32> {
    let mut joined = vec![0.0; n * hidden];
    for (head, messages) in by_head.chunks_exact(n * head_dim).enumerate() {
        for (token, message) in joined.chunks_exact_mut(hidden).zip(messages.chunks_exact(head_dim)) {
            token[head * head_dim..(head + 1) * head_dim].copy_from_slice(message);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_rows_sum_to_one_over_kept_entries_and_survive_huge_scores() {
        let mut row = vec![1e30, -1e30, 3e30, 1e30];
        softmax(&mut row, &[true, true, false, true]);
        assert_eq!(row, [0.5, 0.0, 0.0, 0.5]);
        let mut row = vec![0.0, 2.0_f32.ln()];
        softmax(&mut row, &[true, true]);
        assert!((row[1] - 2.0 / 3.0).abs() < 1e-7 && (row[0] + row[1] - 1.0).abs() < 1e-7);
        let mut row = vec![1.0, 2.0];
        softmax(&mut row, &[false, false]);
        assert_eq!(row, [0.0, 0.0]);
    }

    #[test]
    fn a_window_of_two_sees_itself_and_the_token_before() {
        let keep = [true; 5];
        let scene = |lookback| Scene { keep: &keep, rotation: None, lookback };
        let windowed = Mask::SlidingWindow { size: 2, first_layer: 1 };
        assert_eq!(scene(lookback(windowed, 1)).visible(3), 2..4);
        assert_eq!(scene(lookback(windowed, 0)).visible(3), 0..4);
        assert_eq!(scene(lookback(Mask::Causal, 7)).visible(0), 0..1);
        assert_eq!(scene(lookback(Mask::Full, 7)).visible(2), 0..5);
    }
}
