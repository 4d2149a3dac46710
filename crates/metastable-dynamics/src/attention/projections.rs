//! Queries and keys of a cloud, laid out for streaming.

use super::kernel::{AttentionKernel, Mask, Score};
use crate::head::Head;
use crate::linalg::Matrix;

/// Queries, keys and values of n tokens under one head.
///
/// Scores are S_ij = gain·s_ij with s_ij from `queries` and `keys`; the factor `gain` >= 0 is kept apart so that
/// it may be astronomically large (rescaled flows carry e^{2λt}): rows are shifted by their maximum *before* it is
/// applied. Memory O(n (k + m)).
#[derive(Debug, Clone)]
pub struct Projections {
    count: usize,
    width: usize,
    value_width: usize,
    score: Score,
    beta: f64,
    gain: f64,
    symmetric: bool,
    /// [n, k], beta folded in for dot scores.
    queries: Vec<f64>,
    /// [k, n], so that a row of scores is a sum of scaled contiguous rows.
    keys: Vec<f64>,
    /// [m, n].
    values: Vec<f64>,
}

impl Projections {
    /// Empty buffers for n tokens, queries of width k and values of width m.
    pub fn zeros(count: usize, width: usize, value_width: usize) -> Self {
        Self {
            count,
            width,
            value_width,
            score: Score::Dot,
            beta: 1.0,
            gain: 1.0,
            symmetric: false,
            queries: vec![0.0; count * width],
            keys: vec![0.0; count * width],
            values: vec![0.0; count * value_width],
        }
    }

    /// Empty buffers for n tokens under one head.
    pub fn like(head: &Head, count: usize) -> Self {
        Self::zeros(count, head.query().rows(), head.value().rows())
    }

    /// Fills queries Q x_i, keys K x_j, values V x_j from tokens [n, d] and [·, d] matrices. O(n d (2k + m)).
    ///
    /// `gain` multiplies every score and must not be negative; it is clamped to [`MAX_GAIN`].
    ///
    /// # Panics
    /// If the shapes do not fit the buffers.
    pub fn fill(&mut self, kernel: &AttentionKernel, gain: f64, tokens: &[f64], [query, key, value]: [&Matrix; 3]) {
        assert_eq!(tokens.len(), self.count * query.columns(), "tokens of the head's dimension");
        self.score = kernel.score();
        self.beta = kernel.beta();
        self.gain = gain.clamp(0.0, MAX_GAIN);
        self.symmetric = scores_are_symmetric(self.score, query, key);
        let scale = if self.score == Score::Dot { self.beta } else { 1.0 };
        for (token, out) in tokens.chunks_exact(query.columns()).zip(self.queries.chunks_exact_mut(self.width)) {
            query.apply(token, out);
            out.iter_mut().for_each(|c| *c *= scale);
        }
        fill_transposed(tokens, key, &mut self.keys);
        fill_transposed(tokens, value, &mut self.values);
    }

    /// Keys as queries and queries as keys, without values: its scores are s_ji. O(n k).
    pub(super) fn swapped(&self) -> Self {
        let (n, k) = (self.count, self.width);
        Self {
            queries: (0..n).flat_map(|j| (0..k).map(move |c| self.keys[c * n + j])).collect(),
            keys: (0..k).flat_map(|c| (0..n).map(move |i| self.queries[i * k + c])).collect(),
            values: Vec::new(),
            value_width: 0,
            ..*self
        }
    }

    /// The number n of tokens.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The width k of queries and keys.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The width m of the values.
    pub fn value_width(&self) -> usize {
        self.value_width
    }

    /// How queries and keys are scored.
    pub fn score(&self) -> Score {
        self.score
    }

    /// beta, as in the kernel.
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// The factor in front of all scores (see the type's page).
    pub fn gain(&self) -> f64 {
        self.gain
    }

    /// Whether S_ij = S_ji for any tokens.
    pub(super) fn is_symmetric(&self) -> bool {
        self.symmetric
    }

    /// All queries, [n, k]; times beta for dot scores.
    pub(super) fn queries(&self) -> &[f64] {
        &self.queries
    }

    /// All keys, [k, n].
    pub(super) fn keys(&self) -> &[f64] {
        &self.keys
    }

    /// All values, [m, n].
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    /// Component c of all values, n numbers.
    pub(super) fn value_row(&self, c: usize) -> &[f64] {
        &self.values[c * self.count..(c + 1) * self.count]
    }

    /// Query i, k numbers; times beta for dot scores.
    pub(super) fn query(&self, i: usize) -> &[f64] {
        &self.queries[i * self.width..(i + 1) * self.width]
    }

    /// Component c of all keys, n numbers.
    pub(super) fn key_row(&self, c: usize) -> &[f64] {
        &self.keys[c * self.count..(c + 1) * self.count]
    }

    /// Writes s_ij for the visible j into `row` and returns how many there are. O(n k).
    #[inline(always)]
    pub(super) fn scores<'r>(&self, i: usize, mask: Mask, row: &'r mut [f64]) -> &'r mut [f64] {
        let row = &mut row[..mask.visible(i, self.count)];
        row.fill(0.0);
        let (fours, rest) = self.query(i).as_chunks::<4>();
        for (c, query) in fours.iter().enumerate() {
            add_four_components(self.score, query, [0, 1, 2, 3].map(|offset| self.key_row(4 * c + offset)), row);
        }
        for (c, &q) in rest.iter().enumerate() {
            let keys = self.key_row(4 * fours.len() + c);
            match self.score {
                Score::Dot => row.iter_mut().zip(keys).for_each(|(s, k)| *s += q * k),
                Score::SquaredDistance => row.iter_mut().zip(keys).for_each(|(s, k)| *s -= (q - k) * (q - k)),
            }
        }
        if self.score == Score::SquaredDistance {
            row.iter_mut().for_each(|s| *s *= self.beta);
        }
        row
    }

    /// Writes the derivative of s_ij along `direction` for the visible j into `row`: dq_i·k_j + q_i·dk_j for dot
    /// scores, -2 beta (q_i - k_j)·(dq_i - dk_j) for distances. O(n k).
    pub(super) fn score_tangents<'r>(
        &self,
        direction: &Self,
        i: usize,
        mask: Mask,
        row: &'r mut [f64],
    ) -> &'r mut [f64] {
        let row = &mut row[..mask.visible(i, self.count)];
        row.fill(0.0);
        for (c, (&q, &dq)) in self.query(i).iter().zip(direction.query(i)).enumerate() {
            let keys = self.key_row(c).iter().zip(direction.key_row(c));
            match self.score {
                Score::Dot => row.iter_mut().zip(keys).for_each(|(ds, (k, dk))| *ds += dq * k + q * dk),
                Score::SquaredDistance => row.iter_mut().zip(keys).for_each(|(ds, (k, dk))| *ds -= (q - k) * (dq - dk)),
            }
        }
        if self.score == Score::SquaredDistance {
            row.iter_mut().for_each(|ds| *ds *= 2.0 * self.beta);
        }
        row
    }
}

/// Beyond this factor softmax of distinct f64 scores of order one is an exact arg-max, and products with score
/// differences up to 1e40 stay finite.
pub const MAX_GAIN: f64 = 1e260;

/// Adds four components to a row of scores in one sweep, each score in the order of four sweeps: the same bits for
/// a quarter of the traffic to the row.
#[inline(always)]
fn add_four_components(score: Score, &[q0, q1, q2, q3]: &[f64; 4], keys: [&[f64]; 4], row: &mut [f64]) {
    let [k0, k1, k2, k3] = keys.map(|keys| &keys[..row.len()]);
    for (j, s) in row.iter_mut().enumerate() {
        *s = match score {
            Score::Dot => *s + q0 * k0[j] + q1 * k1[j] + q2 * k2[j] + q3 * k3[j],
            Score::SquaredDistance => {
                let [d0, d1, d2, d3] = [q0 - k0[j], q1 - k1[j], q2 - k2[j], q3 - k3[j]];
                *s - d0 * d0 - d1 * d1 - d2 * d2 - d3 * d3
            }
        };
    }
}

/// Whether the matrices make symmetric scores: QᵀK symmetric to the bit for products, Q = K for distances. O(d² k), or
/// less where they do not.
fn scores_are_symmetric(score: Score, query: &Matrix, key: &Matrix) -> bool {
    if query == key {
        return true;
    }
    let entry = |i: usize, j: usize| -> f64 { (0..query.rows()).map(|r| query.row(r)[i] * key.row(r)[j]).sum() };
    let d = query.columns();
    score == Score::Dot && (0..d).all(|i| (0..i).all(|j| entry(i, j) == entry(j, i)))
}

fn fill_transposed(tokens: &[f64], matrix: &Matrix, out: &mut [f64]) {
    let n = tokens.len() / matrix.columns();
    for (j, token) in tokens.chunks_exact(matrix.columns()).enumerate() {
        for c in 0..matrix.rows() {
            out[c * n + j] = crate::linalg::dot(matrix.row(c), token);
        }
    }
}
