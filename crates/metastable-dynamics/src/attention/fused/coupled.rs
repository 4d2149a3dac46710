//! Sums against a plan M_ij = e^{S_ij + f_i + g_j} / n whose potentials are known: what iterations and derivatives of
//! Sinkhorn attention ask of the tiles.
//!
//! Σ_j M_ij v_j is the message of softmax with potentials, times the sum of the row, which is 1 up to rounding where
//! rows are exact (`potentials`). Sums with slopes z_ij are one sweep of the derivatives' tiles
//! ([`sweep`](super::derivative)), out_i = Σ_j (M_ij z_ij v_j, M_ij w_j): the exponents log2 M_ij are products of the
//! rows (f_i - ln n + s_i, σ q_i, 1) and (1, k_j, g_j + s_j), the slopes of rows that their formula gives:
//!
//! ```text
//! tangents   z_ij = Ṡ_ij + ḟ_i + ġ_j         (ḟ_i + ṡ_i, 1, σ q̇_i, σ q_i) and (1, ġ_j + ṡ_j, k_j, k̇_j)
//! gradients  z_ij = <a_i, b_j> - λ_i - µ_j   (-λ_i, 1, a_i) and (1, -µ_j, b_j)
//! ```
//!
//! Dot scores have σ = β and s = 0. Squared distances -β|q - k|² have σ = 2β, s_i = -β|q_i|², s_j = -β|k_j|², and the
//! tangents ṡ_i = -2β <q_i, q̇_i>, ṡ_j = -2β <k_j, k̇_j>, with queries and keys measured from the mean key, their
//! tangents from the mean of the keys': where the cloud lies, and how it moves as a whole, is not rounded. What is left
//! of the cancellation is ε_mach β (|q_i|² + |k_j|²) of the centred vectors in an exponent, ε_mach β (|q_i| + |k_j|)
//! (|q̇_i| + |k̇_j|) in a slope \[derived\].
//!
//! Oracle: the same sums row by row, in `attention::sinkhorn::plan`.

use std::f64::consts::LOG2_E;

use super::super::kernel::{Mask, Score};
use super::derivative::sweep::{Sides, Sight, Weigh};
use super::derivative::table::Table;
use super::potentials::{Extended, mean};
use super::{Level, Rows, View};
use crate::linalg::dot;

/// One side of a plan: its tokens are the queries, S_ij = beta·score(q_i, k_j).
#[derive(Debug, Clone, Copy)]
pub(in crate::attention) struct Coupled<'a> {
    queries: Rows<'a, f64>,
    keys: Rows<'a, f64>,
    score: Score,
    beta: f64,
}

/// A number for every query and for every key.
#[derive(Debug, Clone, Copy)]
pub(in crate::attention) struct Ends<'a> {
    pub(in crate::attention) queries: &'a [f64],
    pub(in crate::attention) keys: &'a [f64],
}

impl<'a> Coupled<'a> {
    /// `queries` and `keys` \[n, k\].
    pub(in crate::attention) fn new(queries: Rows<'a, f64>, keys: Rows<'a, f64>, score: Score, beta: f64) -> Self {
        Self { queries, keys, score, beta }
    }

    /// ln Σ_j e^{S_ij + g_j}, \[n\]. O(n² k).
    pub(in crate::attention) fn log_sums(&self, potentials: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.queries.count()];
        self.extended(potentials).log_sums(Mask::Full, &mut out);
        out
    }

    /// Σ_j M_ij v_j, \[n, m\], for values `v` \[m, n\]; without potentials of the queries every row sums to one.
    /// O(n² (k + m)).
    pub(in crate::attention) fn averages(&self, potentials: Ends<'_>, values: &[f64]) -> Vec<f64> {
        let (count, width) = (self.queries.count(), values.len() / self.keys.count());
        let (mut out, mut log_sums) = (vec![0.0; count * width], vec![0.0; count]);
        let values = View::of_columns(values, self.keys.count());
        self.extended(potentials.keys).attend(values, width, Mask::Full, (&mut out, &mut log_sums));
        let log_count = (self.keys.count() as f64).ln();
        for ((row, log_sum), own) in out.chunks_exact_mut(width).zip(&log_sums).zip(potentials.queries) {
            let sum = (own + (log_sum - log_count)).exp();
            row.iter_mut().for_each(|y| *y *= sum);
        }
        out
    }

    /// Σ_j M_ij (z_ij v_j + w_j), \[n, m\], z_ij = Ṡ_ij + ḟ_i + ġ_j for tangents of queries and keys \[n, k\] and `rates`
    /// of the potentials; `v` and `w` \[m, n\]. O(n² (3k + 2m)).
    pub(in crate::attention) fn tangents(
        &self,
        potentials: Ends<'_>,
        moved: [Rows<'_, f64>; 2],
        rates: Ends<'_>,
        values: [&[f64]; 2],
    ) -> Vec<f64> {
        let centred = Centred::new(self);
        let [v, w] = values.map(|values| by_token(values, self.keys.count()));
        let sums = sums(&centred.scores(potentials), &centred.tangents(moved, rates), [(&v, 0), (&w, 0)]);
        let added = |row: &[f64]| -> Vec<f64> {
            let (through_weights, through_values) = row.split_at(v.width());
            through_weights.iter().zip(through_values).map(|(t, p)| t + p).collect()
        };
        sums.rows().flat_map(added).collect()
    }

    /// Σ_j M_ij (Ṡ_ij + u_j), \[n\], for tangents of queries and keys \[n, k\]. O(n² 3k).
    pub(in crate::attention) fn tangent_sums(
        &self,
        potentials: Ends<'_>,
        moved: [Rows<'_, f64>; 2],
        u: &[f64],
    ) -> Vec<f64> {
        let centred = Centred::new(self);
        let still = vec![0.0; self.queries.count()];
        let ones = by_token(&vec![1.0; self.keys.count()], self.keys.count());
        let slopes = centred.tangents(moved, Ends { queries: &still, keys: u });
        sums(&centred.scores(potentials), &slopes, [(&ones, 0), (&ones, 1)]).numbers().to_vec()
    }

    /// Σ_j M_ij z_ij ∂S_ij/∂q_i, \[n, k\], z_ij = <a_i, b_j> - λ_i - µ_j for `pairs` (a, b) \[n, m\] (none for no
    /// product) and `multipliers`. O(n² (2k + m)).
    pub(in crate::attention) fn gradients(
        &self,
        potentials: Ends<'_>,
        pairs: Option<[Rows<'_, f64>; 2]>,
        multipliers: Ends<'_>,
    ) -> Vec<f64> {
        let centred = Centred::new(self);
        let scores = centred.scores(potentials);
        let slopes = paired(pairs, multipliers);
        let (keys, width) = (&scores[1], self.keys.width());
        // The 1 in front of the keys: Σ_j M_ij z_ij.
        let sums = sums(&scores, &slopes, [(keys, 0), (keys, keys.width())]);
        let mut out = vec![0.0; self.queries.count() * width];
        for ((row, query), out) in sums.rows().zip(centred.queries.rows()).zip(out.chunks_exact_mut(width)) {
            let sum = if self.score == Score::Dot { 0.0 } else { row[0] };
            for ((out, key), query) in out.iter_mut().zip(&row[1..]).zip(query) {
                *out = centred.factor * (key - sum * query);
            }
        }
        out
    }

    fn extended(&self, potentials: &[f64]) -> Extended<f64> {
        Extended::of_scores(self.queries, self.keys, potentials, (self.score, self.beta))
    }
}

/// Queries and keys from where distances are measured, and what belongs to one of them alone.
struct Centred {
    queries: Table<f64>,
    keys: Table<f64>,
    score: Score,
    beta: f64,
    /// σ.
    factor: f64,
}

impl Centred {
    fn new(side: &Coupled<'_>) -> Self {
        let origin = origin(side.keys, side.score);
        let factor = if side.score == Score::Dot { side.beta } else { 2.0 * side.beta };
        let [queries, keys] = [side.queries, side.keys].map(|rows| from(rows, &origin));
        Self { queries, keys, score: side.score, beta: side.beta, factor }
    }

    /// Rows whose products are log2 M_ij.
    fn scores(&self, potentials: Ends<'_>) -> [Table<f64>; 2] {
        let (k, log_count) = (self.keys.width(), (self.keys.count() as f64).ln());
        let alone = |row: &[f64]| if self.score == Score::Dot { 0.0 } else { -self.beta * dot(row, row) };
        let queries = Table::filled(self.queries.count(), k + 2, |i, out| {
            let query = self.queries.row(i);
            (out[0], out[k + 1]) = ((potentials.queries[i] - log_count + alone(query)) * LOG2_E, 1.0);
            fill_scaled(&mut out[1..=k], query, self.factor * LOG2_E);
        });
        let keys = Table::filled(self.keys.count(), k + 2, |j, out| {
            let key = self.keys.row(j);
            (out[0], out[k + 1]) = (1.0, (potentials.keys[j] + alone(key)) * LOG2_E);
            out[1..=k].copy_from_slice(key);
        });
        [queries, keys]
    }

    /// Rows whose products are Ṡ_ij and the rates.
    fn tangents(&self, [queries, keys]: [Rows<'_, f64>; 2], rates: Ends<'_>) -> [Table<f64>; 2] {
        let (k, origin) = (self.keys.width(), origin(keys, self.score));
        let [moved_queries, moved_keys] = [queries, keys].map(|rows| from(rows, &origin));
        let alone = |row: &[f64], moved: &[f64]| match self.score {
            Score::Dot => 0.0,
            Score::SquaredDistance => -self.factor * dot(row, moved),
        };
        let slope_queries = Table::filled(self.queries.count(), 2 * k + 2, |i, out| {
            let (query, moved) = (self.queries.row(i), moved_queries.row(i));
            (out[0], out[1]) = (rates.queries[i] + alone(query, moved), 1.0);
            fill_scaled(&mut out[2..2 + k], moved, self.factor);
            fill_scaled(&mut out[2 + k..], query, self.factor);
        });
        let slope_keys = Table::filled(self.keys.count(), 2 * k + 2, |j, out| {
            let (key, moved) = (self.keys.row(j), moved_keys.row(j));
            (out[0], out[1]) = (1.0, rates.keys[j] + alone(key, moved));
            out[2..2 + k].copy_from_slice(key);
            out[2 + k..].copy_from_slice(moved);
        });
        [slope_queries, slope_keys]
    }
}

/// Rows whose products are <a_i, b_j> - λ_i - µ_j.
fn paired(pairs: Option<[Rows<'_, f64>; 2]>, multipliers: Ends<'_>) -> [Table<f64>; 2] {
    let width = 2 + pairs.map_or(0, |[a, _]| a.width());
    let row = |side: usize, i: usize| pairs.map_or(&[][..], |pairs| pairs[side].row(i));
    let queries = Table::filled(multipliers.queries.len(), width, |i, out| {
        (out[0], out[1]) = (-multipliers.queries[i], 1.0);
        out[2..].copy_from_slice(row(0, i));
    });
    let keys = Table::filled(multipliers.keys.len(), width, |j, out| {
        (out[0], out[1]) = (1.0, -multipliers.keys[j]);
        out[2..].copy_from_slice(row(1, j));
    });
    [queries, keys]
}

/// Σ_j (M_ij z_ij v_j, M_ij w_j) from rows of log2 M, rows of z, and `summed` v and w from a component on.
fn sums(scores: &[Table<f64>; 2], slopes: &[Table<f64>; 2], summed: [(&Table<f64>, usize); 2]) -> Table<f64> {
    Sides {
        lanes: [&scores[0], &slopes[0]],
        broadcast: [&scores[1], &slopes[1]],
        summed,
        weigh: Weigh::Power,
        sight: Sight::All,
    }
    .sums(Level::best())
}

/// \[n, m\] from \[m, n\].
fn by_token(values: &[f64], count: usize) -> Table<f64> {
    Table::filled(count, values.len() / count, |j, out| {
        out.iter_mut().enumerate().for_each(|(c, out)| *out = values[c * count + j]);
    })
}

/// The mean of the rows where distances are scored, else zero.
fn origin(rows: Rows<'_, f64>, score: Score) -> Vec<f64> {
    match score {
        Score::Dot => vec![0.0; rows.width()],
        Score::SquaredDistance => mean(rows),
    }
}

fn from(rows: Rows<'_, f64>, origin: &[f64]) -> Table<f64> {
    Table::filled(rows.count(), rows.width(), |i, out| {
        out.iter_mut().zip(rows.row(i)).zip(origin).for_each(|((out, x), origin)| *out = x - origin);
    })
}

fn fill_scaled(out: &mut [f64], row: &[f64], factor: f64) {
    out.iter_mut().zip(row).for_each(|(out, x)| *out = factor * x);
}
