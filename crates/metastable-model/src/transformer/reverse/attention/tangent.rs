//! Forward-mode products of attention: how messages answer a change of queries, keys and values.

use std::ops::Range;

use rayon::prelude::*;

use super::{Heads, QUERY_BLOCK, Real, Shape, softmax_backward};
use crate::product::{Destination, Strided, multiply};

impl Shape {
    /// The derivative of [`Shape::forward`] along `direction`: with P the weights and S the scores,
    /// dS = c·(dq kᵀ + q dkᵀ), dP = P ⊙ (dS - rowsum(P ⊙ dS)), dy = dP v + P dv. Time of four forwards, 2·64·n numbers
    /// of scratch for each running head.
    pub(crate) fn tangent<T: Real>(
        &self,
        heads: &Heads<T>,
        direction: &Heads<T>,
        sequences: &[Range<usize>],
    ) -> Vec<T> {
        let tasks = self.tasks(sequences);
        let results: Vec<Vec<T>> = tasks.par_iter().map(|task| self.group_tangent(heads, direction, task)).collect();
        let mut joined = vec![T::default(); heads.query.len()];
        for ((sequence, group), messages) in tasks.iter().zip(&results) {
            self.scatter(&mut joined, self.wide(), sequence, *group * self.group_size(), messages);
        }
        joined
    }

    fn group_tangent<T: Real>(
        &self,
        heads: &Heads<T>,
        direction: &Heads<T>,
        (sequence, group): &(Range<usize>, usize),
    ) -> Vec<T> {
        let (n, head_dim) = (sequence.len(), self.head_dim);
        let mut messages = vec![T::default(); self.group_size() * n * head_dim];
        let size = QUERY_BLOCK.min(n) * n;
        let (mut weights, mut slopes) = (vec![T::default(); size], vec![T::default(); size]);
        let scale = T::from_f64(1.0 / (head_dim as f64).sqrt());
        for (k, messages) in messages.chunks_exact_mut(n * head_dim).enumerate() {
            let head = group * self.group_size() + k;
            for (block, messages) in messages.chunks_mut(QUERY_BLOCK * head_dim).enumerate() {
                let queries = block * QUERY_BLOCK..block * QUERY_BLOCK + messages.len() / head_dim;
                let seen = self.weights(heads, sequence, head, queries.clone(), &mut weights);
                let (rows, columns) = (queries.len(), seen.len());
                let slopes = &mut slopes[..rows * columns];
                let moved = self.rows(&direction.query, self.wide(), sequence, head, &queries);
                let key = self.rows(&heads.key, self.narrow(), sequence, *group, &seen);
                multiply(scale, moved, key.transposed(), Destination::Overwrite, slopes);
                let query = self.rows(&heads.query, self.wide(), sequence, head, &queries);
                let moved = self.rows(&direction.key, self.narrow(), sequence, *group, &seen);
                multiply(scale, query, moved.transposed(), Destination::Add, slopes);
                let weights = &weights[..rows * columns];
                for (p, s) in weights.chunks_exact(columns).zip(slopes.chunks_exact_mut(columns)) {
                    softmax_backward(p, s);
                }
                let matrix = |entries| Strided::new(entries, rows, columns, columns);
                let value = self.rows(&heads.value, self.narrow(), sequence, *group, &seen);
                multiply(T::ONE, matrix(slopes), value, Destination::Overwrite, messages);
                let moved = self.rows(&direction.value, self.narrow(), sequence, *group, &seen);
                multiply(T::ONE, matrix(weights), moved, Destination::Add, messages);
            }
        }
        messages
    }

    /// The weights P of one head of one sequence, [n, n] in f64, zeros where nothing is seen.
    pub(crate) fn dense_weights<T: Real>(&self, heads: &Heads<T>, n: usize, head: usize) -> Vec<f64> {
        let mut dense = vec![0.0; n * n];
        let mut scratch = vec![T::default(); QUERY_BLOCK.min(n) * n];
        for (block, rows) in dense.chunks_mut(QUERY_BLOCK * n).enumerate() {
            let queries = block * QUERY_BLOCK..block * QUERY_BLOCK + rows.len() / n;
            let seen = self.weights(heads, &(0..n), head, queries, &mut scratch);
            for (row, found) in rows.chunks_exact_mut(n).zip(scratch.chunks_exact(seen.len())) {
                row[seen.clone()].iter_mut().zip(found).for_each(|(p, found)| *p = found.to_f64());
            }
        }
        dense
    }
}
