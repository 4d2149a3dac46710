//! Multi-head softmax attention with a padding mask.

use rayon::prelude::*;

use crate::checkpoint::Tensors;
use crate::config::Config;
use crate::error::ModelError;
use crate::linear::Linear;
use crate::names::LayerParameter;
use crate::product::{Destination, Strided, multiply};

/// y_i = W Σ_h Σ_j P^h_ij V^h x_j + b, P^h = softmax_j(<Q^h x_i, K^h x_j>/sqrt(head_dim)) over the tokens kept.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    heads: usize,
    head_dim: usize,
}

/// Queries handled at a time: a head needs 64·n numbers of scratch, never n·n.
const QUERY_BLOCK: usize = 64;

impl Attention {
    /// Loads the four maps of a block.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(super) fn load(tensors: &Tensors<'_>, config: &Config, layer: usize) -> Result<Self, ModelError> {
        let load = |parameter| Linear::load(tensors, layer, parameter, [config.hidden, config.hidden]);
        Ok(Self {
            query: load(LayerParameter::Query)?,
            key: load(LayerParameter::Key)?,
            value: load(LayerParameter::Value)?,
            output: load(LayerParameter::AttentionOutput)?,
            heads: config.heads,
            head_dim: config.head_dim(),
        })
    }

    /// The joined messages Σ_j P^h_ij V^h x_j of all heads, [n, hidden], before the output map.
    ///
    /// Time O(n·d² + n²·d); scratch O(n·d) and 64·n numbers for each running head. Parallel over heads.
    pub(super) fn messages(&self, tokens: &[f32], keep: &[bool]) -> Vec<f32> {
        let (n, hidden) = (keep.len(), self.heads * self.head_dim);
        let project = |map: &Linear| {
            let mut projected = vec![0.0; n * hidden];
            map.apply(tokens, &mut projected);
            projected
        };
        let (query, key, value) = (project(&self.query), project(&self.key), project(&self.value));
        let mut by_head = vec![0.0; n * hidden];
        by_head.par_chunks_mut(n * self.head_dim).enumerate().for_each(|(head, messages)| {
            let values = Strided::new(&value[head * self.head_dim..], n, self.head_dim, hidden);
            let mut scratch = vec![0.0; QUERY_BLOCK.min(n) * n];
            for (block, messages) in messages.chunks_mut(QUERY_BLOCK * self.head_dim).enumerate() {
                let rows = messages.len() / self.head_dim;
                let weights = &mut scratch[..rows * n];
                self.weights(&query[block * QUERY_BLOCK * hidden..], &key, keep, head, weights);
                multiply(1.0, Strided::new(weights, rows, n, n), values, Destination::Overwrite, messages);
            }
        });
        join_heads(&by_head, n, self.head_dim, hidden)
    }

    /// The attention weights P of one head at these tokens, [n, n]: a row for each query, padding included as columns
    /// of zeros. O(n·d² + n²·head_dim).
    pub(super) fn head_weights(&self, tokens: &[f32], keep: &[bool], head: usize) -> Vec<f32> {
        let n = keep.len();
        let mut query = vec![0.0; tokens.len()];
        let mut key = vec![0.0; tokens.len()];
        self.query.apply(tokens, &mut query);
        self.key.apply(tokens, &mut key);
        let mut weights = vec![0.0; n * n];
        let hidden = self.heads * self.head_dim;
        for (block, weights) in weights.chunks_mut(QUERY_BLOCK * n).enumerate() {
            self.weights(&query[block * QUERY_BLOCK * hidden..], &key, keep, head, weights);
        }
        weights
    }

    /// Rows of P for the first queries of `query`, as many as `weights` [rows, n] holds.
    fn weights(&self, query: &[f32], key: &[f32], keep: &[bool], head: usize, weights: &mut [f32]) {
        let (n, hidden) = (keep.len(), self.heads * self.head_dim);
        let first = head * self.head_dim;
        let queries = Strided::new(&query[first..], weights.len() / n, self.head_dim, hidden);
        let keys = Strided::new(&key[first..], n, self.head_dim, hidden);
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        multiply(scale, queries, keys.transposed(), Destination::Overwrite, weights);
        for row in weights.chunks_exact_mut(n) {
            softmax(row, keep);
        }
    }
}

/// Softmax over the kept entries, exactly zero elsewhere; shifted by the largest, so it never overflows.
fn softmax(row: &mut [f32], keep: &[bool]) {
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
    }
}
