//! Softmax attention of a ragged batch, forward and back. No n x n matrix is kept: weights are made again from queries
//! and keys, 64 queries at a time.

mod fused;
mod tangent;

use std::ops::Range;

use rayon::prelude::*;

use super::loss::{LANES, exponentials, largest};
use super::real::Real;
use crate::product::{Destination, Strided, multiply};
use crate::transformer::widest::widest;
pub(crate) use fused::PointProducts;

/// Heads and who sees whom: query head h looks at key and value head h / (heads / kv_heads).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// How many tokens before itself a token sees; none where it sees all.
    pub(crate) lookback: Option<usize>,
}

/// Queries [n, heads·head_dim], keys and values [n, kv_heads·head_dim] of all sequences, as they meet.
pub(crate) struct Heads<T> {
    pub(crate) query: Vec<T>,
    pub(crate) key: Vec<T>,
    pub(crate) value: Vec<T>,
}

/// Queries handled at a time.
const QUERY_BLOCK: usize = 64;

impl Shape {
    fn wide(&self) -> usize {
        self.heads * self.head_dim
    }

    fn narrow(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn group_size(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn visible(&self, i: usize, n: usize) -> Range<usize> {
        match self.lookback {
            Some(lookback) => i.saturating_sub(lookback)..i + 1,
            None => 0..n,
        }
    }

    /// The joined messages [n, heads·head_dim] of all sequences. Parallel over sequences and groups of heads.
    pub(crate) fn forward<T: Real>(&self, heads: &Heads<T>, sequences: &[Range<usize>]) -> Vec<T> {
        let tasks = self.tasks(sequences);
        let results: Vec<Vec<T>> = tasks.par_iter().map(|task| self.group_messages(heads, task)).collect();
        let mut joined = vec![T::default(); heads.query.len()];
        for ((sequence, group), messages) in tasks.iter().zip(&results) {
            self.scatter(&mut joined, self.wide(), sequence, *group * self.group_size(), messages);
        }
        joined
    }

    /// The cotangents of queries, keys and values for a cotangent `d` of the messages.
    pub(crate) fn backward<T: Real>(&self, heads: &Heads<T>, sequences: &[Range<usize>], d: &[T]) -> Heads<T> {
        let tasks = self.tasks(sequences);
        let results: Vec<Heads<T>> = tasks.par_iter().map(|task| self.group_cotangents(heads, task, d)).collect();
        let zeros = |like: &[T]| vec![T::default(); like.len()];
        let mut joined = Heads { query: zeros(&heads.query), key: zeros(&heads.key), value: zeros(&heads.value) };
        for ((sequence, group), found) in tasks.iter().zip(&results) {
            self.scatter(&mut joined.query, self.wide(), sequence, *group * self.group_size(), &found.query);
            self.scatter(&mut joined.key, self.narrow(), sequence, *group, &found.key);
            self.scatter(&mut joined.value, self.narrow(), sequence, *group, &found.value);
        }
        joined
    }

    fn tasks(&self, sequences: &[Range<usize>]) -> Vec<(Range<usize>, usize)> {
        sequences.iter().flat_map(|s| (0..self.kv_heads).map(move |group| (s.clone(), group))).collect()
    }

    /// From [heads of the task, n, head_dim] into rows of [.., width].
    fn scatter<T: Real>(&self, into: &mut [T], width: usize, sequence: &Range<usize>, first: usize, by_head: &[T]) {
        let (n, head_dim) = (sequence.len(), self.head_dim);
        for (head, values) in by_head.chunks_exact(n * head_dim).enumerate() {
            let column = (first + head) * head_dim;
            for (i, values) in sequence.clone().zip(values.chunks_exact(head_dim)) {
                into[i * width + column..][..head_dim].copy_from_slice(values);
            }
        }
    }

    fn group_messages<T: Real>(&self, heads: &Heads<T>, (sequence, group): &(Range<usize>, usize)) -> Vec<T> {
        let (n, head_dim) = (sequence.len(), self.head_dim);
        let mut messages = vec![T::default(); self.group_size() * n * head_dim];
        let mut scratch = vec![T::default(); QUERY_BLOCK.min(n) * n];
        for (k, messages) in messages.chunks_exact_mut(n * head_dim).enumerate() {
            let head = group * self.group_size() + k;
            for (block, messages) in messages.chunks_mut(QUERY_BLOCK * head_dim).enumerate() {
                let queries = block * QUERY_BLOCK..block * QUERY_BLOCK + messages.len() / head_dim;
                let seen = self.weights(heads, sequence, head, queries.clone(), &mut scratch);
                let weights = Strided::new(&scratch, queries.len(), seen.len(), seen.len());
                let values = self.rows(&heads.value, self.narrow(), sequence, *group, &seen);
                multiply(T::ONE, weights, values, Destination::Overwrite, messages);
            }
        }
        messages
    }

    /// With P the weights and S the scores: dv = Pᵀ d, dP = d vᵀ, dS = P ⊙ (dP - rowsum(P ⊙ dP)), dq = c·dS k,
    /// dk = c·dSᵀ q; sums over queries and over the heads of a group in order.
    fn group_cotangents<T: Real>(&self, heads: &Heads<T>, task: &(Range<usize>, usize), d: &[T]) -> Heads<T> {
        let (sequence, group) = task;
        let (n, head_dim, group_size) = (sequence.len(), self.head_dim, self.group_size());
        let zeros = |heads: usize| vec![T::default(); heads * n * head_dim];
        let mut found = Heads { query: zeros(group_size), key: zeros(1), value: zeros(1) };
        let block_size = QUERY_BLOCK.min(n) * n;
        let (mut weights, mut slopes) = (vec![T::default(); block_size], vec![T::default(); block_size]);
        let scale = T::from_f64(1.0 / (head_dim as f64).sqrt());
        for k in 0..group_size {
            let head = group * group_size + k;
            for first in (0..n).step_by(QUERY_BLOCK) {
                let queries = first..(first + QUERY_BLOCK).min(n);
                let seen = self.weights(heads, sequence, head, queries.clone(), &mut weights);
                let (rows, columns) = (queries.len(), seen.len());
                let (p, s) = (&weights[..rows * columns], &mut slopes[..rows * columns]);
                let d = self.rows(d, self.wide(), sequence, head, &queries);
                let value = self.rows(&heads.value, self.narrow(), sequence, *group, &seen);
                multiply(T::ONE, d, value.transposed(), Destination::Overwrite, s);
                for (p, s) in p.chunks_exact(columns).zip(s.chunks_exact_mut(columns)) {
                    softmax_backward(p, s);
                }
                let (p, s) = (Strided::new(p, rows, columns, columns), Strided::new(s, rows, columns, columns));
                let at = |range: &Range<usize>| range.start * head_dim..range.end * head_dim;
                multiply(T::ONE, p.transposed(), d, Destination::Add, &mut found.value[at(&seen)]);
                let key = self.rows(&heads.key, self.narrow(), sequence, *group, &seen);
                let own = k * n * head_dim;
                let to = own + queries.start * head_dim..own + queries.end * head_dim;
                multiply(scale, s, key, Destination::Overwrite, &mut found.query[to]);
                let query = self.rows(&heads.query, self.wide(), sequence, head, &queries);
                multiply(scale, s.transposed(), query, Destination::Add, &mut found.key[at(&seen)]);
            }
        }
        found
    }

    /// Rows `range` of a sequence's head in [tokens, width].
    fn rows<'a, T>(
        &self,
        values: &'a [T],
        width: usize,
        sequence: &Range<usize>,
        head: usize,
        range: &Range<usize>,
    ) -> Strided<'a, T> {
        let start = (sequence.start + range.start) * width + head * self.head_dim;
        Strided::new(&values[start..], range.len(), self.head_dim, width)
    }

    /// Rows `queries` of P at the tokens that any of them sees, which it returns; [queries, seen] at the start of
    /// `scratch`.
    fn weights<T: Real>(
        &self,
        heads: &Heads<T>,
        sequence: &Range<usize>,
        head: usize,
        queries: Range<usize>,
        scratch: &mut [T],
    ) -> Range<usize> {
        let n = sequence.len();
        let seen = self.visible(queries.start, n).start..self.visible(queries.end - 1, n).end;
        let query = self.rows(&heads.query, self.wide(), sequence, head, &queries);
        let key = self.rows(&heads.key, self.narrow(), sequence, head / self.group_size(), &seen);
        let scale = T::from_f64(1.0 / (self.head_dim as f64).sqrt());
        let weights = &mut scratch[..queries.len() * seen.len()];
        multiply(scale, query, key.transposed(), Destination::Overwrite, weights);
        for (i, row) in queries.zip(weights.chunks_exact_mut(seen.len())) {
            let visible = self.visible(i, n);
            let visible = visible.start - seen.start..visible.end - seen.start;
            row[..visible.start].fill(T::default());
            row[visible.end..].fill(T::default());
            softmax(&mut row[visible]);
        }
        seen
    }
}

fn softmax<T: Real>(row: &mut [T]) {
    let largest = largest(row);
    let mut sums = [T::default(); LANES];
    widest(
        #[inline(always)]
        || exponentials(row, largest, &mut sums),
    );
    let total = sums.into_iter().fold(T::default(), |sum, lane| sum + lane);
    let scale = T::ONE / total;
    widest(
        #[inline(always)]
        || {
            for weight in &mut *row {
                *weight *= scale;
            }
        },
    );
}

/// s ← p ⊙ (s - Σ p ⊙ s).
fn softmax_backward<T: Real>(p: &[T], s: &mut [T]) {
    widest(
        #[inline(always)]
        || {
            let mut sums = [T::default(); LANES];
            for (p, s) in p.chunks_exact(LANES).zip(s.chunks_exact(LANES)) {
                for ((p, s), sum) in p.iter().zip(s).zip(&mut sums) {
                    *sum += *p * *s;
                }
            }
            let rest = p.len() / LANES * LANES;
            for ((p, s), sum) in p[rest..].iter().zip(&s[rest..]).zip(&mut sums) {
                *sum += *p * *s;
            }
            let mean = sums.into_iter().fold(T::default(), |sum, lane| sum + lane);
            for (s, p) in s.iter_mut().zip(p) {
                *s = *p * (*s - mean);
            }
        },
    );
}
