//! The plan M_ij = e^{L_ij + f_i + g_j} / n seen from its rows or from its columns, streamed: what is computed from it.
//!
//! One row of scores at a time for few tokens, and as the oracle; from 128 tokens on through the fused kernels
//! ([`Coupled`]), where all but the weights themselves is to be had.

use rayon::prelude::*;

use crate::attention::exponential::exp_below_zero;
use crate::attention::fused::{Coupled, Ends, Rows, SERIAL_PAIRS};
use crate::attention::kernel::{Mask, Score};
use crate::attention::lanes::{lane_dot, lane_dot_shifted, lane_sum, max};
use crate::attention::projections::Projections;
use crate::linalg::norm;
use crate::simd::{Loop, widest};

/// Rows that one task of the pool computes: enough to make up for the task.
const ROWS_A_TASK: usize = 16;

/// The scores L_ij = scale·s_ij, and the same from the columns' side.
pub(super) struct Plan<'a> {
    rows: &'a Projections,
    columns: Projections,
    scale: f64,
    is_large: bool,
}

/// From where the plan is seen: the side whose tokens are the i of L_ij, and of every output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Output tokens, the queries.
    Rows,
    /// Tokens attended to, the keys.
    Columns,
}

/// The potentials of a plan, from one side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shifts<'a> {
    /// Of the side's own tokens, added to whole rows.
    pub(super) own: &'a [f64],
    /// Of the other side's.
    pub(super) other: &'a [f64],
}

impl<'a> Plan<'a> {
    /// Scores gain·s_ij / ε.
    pub(super) fn new(projections: &'a Projections, epsilon: f64) -> Self {
        let is_large = projections.count() * projections.count() >= SERIAL_PAIRS;
        Self { rows: projections, columns: projections.swapped(), scale: projections.gain() / epsilon, is_large }
    }

    /// The same plan, row by row however many tokens there are: the oracle.
    #[cfg(test)]
    pub(super) fn by_rows(projections: &'a Projections, epsilon: f64) -> Self {
        Self { is_large: false, ..Self::new(projections, epsilon) }
    }

    /// The number n of tokens.
    pub(super) fn count(&self) -> usize {
        self.rows.count()
    }

    /// The same scores times a factor.
    pub(super) fn scaled(&self, factor: f64) -> Self {
        Self { columns: self.columns.clone(), scale: factor * self.scale, ..*self }
    }

    /// A bound of |L_ij|, by Cauchy and Schwarz. O(n k).
    pub(super) fn largest_score(&self) -> f64 {
        let largest = |side: &Projections| (0..self.count()).map(|i| norm(side.query(i))).fold(0.0, f64::max);
        let (queries, keys) = (largest(self.rows), largest(&self.columns));
        match self.rows.score() {
            Score::Dot => self.scale * queries * keys,
            Score::SquaredDistance => 2.0 * self.scale * self.rows.beta().abs() * queries * keys,
        }
    }

    fn side(&self, side: Side) -> &Projections {
        match side {
            Side::Rows => self.rows,
            Side::Columns => &self.columns,
        }
    }

    /// The side for the fused kernels, where packing its tokens for them pays.
    fn coupled(&self, side: Side) -> Option<Coupled<'_>> {
        let beta = match self.rows.score() {
            // Queries carry beta.
            Score::Dot => self.scale,
            Score::SquaredDistance => self.scale * self.rows.beta(),
        };
        let [queries, keys] = self.ends(side);
        self.is_large.then(|| Coupled::new(queries, keys, self.rows.score(), beta))
    }

    /// Queries and keys of a side, \[n, k\].
    fn ends(&self, side: Side) -> [Rows<'_, f64>; 2] {
        let width = self.rows.width();
        let [rows, columns] = [self.rows, &self.columns].map(|side| Rows::new(side.queries(), width));
        match side {
            Side::Rows => [rows, columns],
            Side::Columns => [columns, rows],
        }
    }

    /// The half-step: f_i = ln n - ln Σ_j e^{L_ij + g_j}, after which the sums of this side are one. O(n² k).
    pub(super) fn half_step(&self, side: Side, other: &[f64]) -> Vec<f64> {
        struct LogSums<'a>(&'a [f64]);
        impl RowTask for LogSums<'_> {
            #[inline(always)]
            fn write(&self, _: usize, row: &mut [f64], _: &mut [f64], out: &mut [f64]) {
                row.iter_mut().zip(self.0).for_each(|(s, g)| *s += g);
                let top = max(row);
                row.iter_mut().for_each(|s| *s = exp_below_zero(*s - top));
                out[0] = (row.len() as f64).ln() - (top + lane_sum(row).ln());
            }
        }
        if let Some(coupled) = self.coupled(side) {
            let log_count = (self.count() as f64).ln();
            return coupled.log_sums(other).iter().map(|log_sum| log_count - log_sum).collect();
        }
        self.over_rows(side, 1, &LogSums(other))
    }

    /// Σ_j M_ij u_j. O(n² k).
    pub(super) fn apply(&self, side: Side, shifts: Shifts<'_>, u: &[f64]) -> Vec<f64> {
        struct Apply<'a>(Shifts<'a>, &'a [f64]);
        impl RowTask for Apply<'_> {
            #[inline(always)]
            fn write(&self, i: usize, row: &mut [f64], _: &mut [f64], out: &mut [f64]) {
                self.0.weigh(i, row);
                out[0] = lane_dot(row, self.1);
            }
        }
        if let Some(coupled) = self.coupled(side) {
            return coupled.averages(shifts.into(), u);
        }
        self.over_rows(side, 1, &Apply(shifts, u))
    }

    /// Σ_j M_ij (L̇_ij + u_j) for the tangents of queries and keys in `direction`. O(n² k).
    pub(super) fn tangent(&self, side: Side, shifts: Shifts<'_>, direction: &Self, u: &[f64]) -> Vec<f64> {
        struct Tangent<'a> {
            shifts: Shifts<'a>,
            here: &'a Projections,
            moved: &'a Projections,
            scale: f64,
            u: &'a [f64],
        }
        impl RowTask for Tangent<'_> {
            #[inline(always)]
            fn write(&self, i: usize, row: &mut [f64], spare: &mut [f64], out: &mut [f64]) {
                self.shifts.weigh(i, row);
                let slopes = self.here.score_tangents(self.moved, i, Mask::Full, spare);
                slopes.iter_mut().zip(self.u).for_each(|(ds, u)| *ds = self.scale * *ds + u);
                out[0] = lane_dot(row, slopes);
            }
        }
        if let Some(coupled) = self.coupled(side) {
            return coupled.tangent_sums(shifts.into(), direction.ends(side), u);
        }
        let (here, moved) = (self.side(side), direction.side(side));
        self.over_rows(side, 1, &Tangent { shifts, here, moved, scale: self.scale, u })
    }

    /// Σ_j M_ij v_j, [n, m], for values `v` [m, n]. O(n² (k + m)).
    pub(super) fn average(&self, side: Side, shifts: Shifts<'_>, values: &[f64]) -> Vec<f64> {
        struct Average<'a>(Shifts<'a>, &'a [f64]);
        impl RowTask for Average<'_> {
            #[inline(always)]
            fn write(&self, i: usize, row: &mut [f64], _: &mut [f64], out: &mut [f64]) {
                self.0.weigh(i, row);
                for (out, values) in out.iter_mut().zip(self.1.chunks_exact(row.len())) {
                    *out = lane_dot(row, values);
                }
            }
        }
        if let Some(coupled) = self.coupled(side) {
            return coupled.averages(shifts.into(), values);
        }
        self.over_rows(side, values.len() / self.count(), &Average(shifts, values))
    }

    /// The derivative of [`Plan::average`] of the rows: Σ_j M_ij ((L̇_ij + ḟ_i + ġ_j) v_j + v̇_j), [n, m]. O(n² (k + m)).
    pub(super) fn average_tangent(&self, shifts: Shifts<'_>, direction: &Self, rates: Shifts<'_>) -> Vec<f64> {
        struct Rates<'a> {
            shifts: Shifts<'a>,
            rates: Shifts<'a>,
            here: &'a Projections,
            moved: &'a Projections,
            scale: f64,
        }
        impl RowTask for Rates<'_> {
            #[inline(always)]
            fn write(&self, i: usize, row: &mut [f64], spare: &mut [f64], out: &mut [f64]) {
                self.shifts.weigh(i, row);
                let slopes = self.here.score_tangents(self.moved, i, Mask::Full, spare);
                let own = self.rates.own[i];
                for ((ds, g), w) in slopes.iter_mut().zip(self.rates.other).zip(&*row) {
                    *ds = w * (self.scale * *ds + own + g);
                }
                for (c, out) in out.iter_mut().enumerate() {
                    *out = lane_dot(slopes, self.here.value_row(c)) + lane_dot(row, self.moved.value_row(c));
                }
            }
        }
        let (here, moved) = (self.rows, direction.rows);
        if let Some(coupled) = self.coupled(Side::Rows) {
            let values = [here.values(), moved.values()];
            return coupled.tangents(shifts.into(), direction.ends(Side::Rows), rates.into(), values);
        }
        self.over_rows(Side::Rows, here.value_width(), &Rates { shifts, rates, here, moved, scale: self.scale })
    }

    /// The gradients of queries (side `Rows`, without beta) or keys (side `Columns`), [n, k], for the score cotangents
    /// L̄_ij = M_ij (<a_i, b_j> - λ_i - µ_j); empty `a` and `b` for no product. O(n² (2k + m)).
    pub(super) fn score_cotangent(
        &self,
        side: Side,
        shifts: Shifts<'_>,
        [own, other]: [&[f64]; 2],
        multipliers: Shifts<'_>,
    ) -> Vec<f64> {
        let here = self.side(side);
        if let Some(coupled) = self.coupled(side) {
            let (m, other) = (own.len() / self.count(), by_token(other, self.count()));
            let pairs = (m > 0).then(|| [Rows::new(own, m), Rows::new(&other, m)]);
            let mut gradients = coupled.gradients(shifts.into(), pairs, multipliers.into());
            if (here.score(), side) == (Score::Dot, Side::Rows) {
                gradients.iter_mut().for_each(|q| *q *= here.beta());
            }
            return gradients;
        }
        // Queries of dot scores carry beta, so gradients of keys get it from them.
        let factor = match (here.score(), side) {
            (Score::Dot, Side::Rows) => here.beta(),
            (Score::Dot, Side::Columns) => 1.0,
            (Score::SquaredDistance, _) => 2.0 * here.beta(),
        };
        let task = ScoreCotangent { shifts, multipliers, own, other, here, factor: factor * self.scale };
        self.over_rows(side, here.width(), &task)
    }

    /// The weights themselves, row after row, for `visit(i, M_i, out_i)`.
    pub(super) fn visit(&self, shifts: Shifts<'_>, out: &mut [f64], visit: impl Fn(usize, &[f64], &mut [f64]) + Sync) {
        struct Visit<'a, F>(Shifts<'a>, F);
        impl<F: Fn(usize, &[f64], &mut [f64]) + Sync> RowTask for Visit<'_, F> {
            #[inline(always)]
            fn write(&self, i: usize, row: &mut [f64], _: &mut [f64], out: &mut [f64]) {
                self.0.weigh(i, row);
                (self.1)(i, row, out);
            }
        }
        self.over_rows_into(Side::Rows, out, &Visit(shifts, visit));
    }

    fn over_rows(&self, side: Side, part: usize, task: &impl RowTask) -> Vec<f64> {
        let mut out = vec![0.0; self.count() * part];
        self.over_rows_into(side, &mut out, task);
        out
    }

    fn over_rows_into(&self, side: Side, out: &mut [f64], task: &impl RowTask) {
        let n = self.count();
        let part = out.len() / n;
        let block = |first: usize, out: &mut [f64]| {
            let mut scratch = vec![0.0; 2 * n];
            let (scores, spare) = scratch.split_at_mut(n);
            widest(Block { projections: self.side(side), scale: self.scale, first, part, scores, spare, out, task });
        };
        if n * n < SERIAL_PAIRS {
            block(0, out);
        } else {
            let blocks = out.par_chunks_mut(part * ROWS_A_TASK).enumerate();
            blocks.for_each(|(b, out)| block(b * ROWS_A_TASK, out));
        }
    }
}

impl Shifts<'_> {
    /// Turns the scores L_ij of row i into M_ij.
    ///
    /// Where one marginal is exact no M_ij exceeds one, so the exponent is at most zero up to rounding.
    #[inline(always)]
    fn weigh(&self, i: usize, row: &mut [f64]) {
        if self.own.is_empty() {
            // The row's potential is what makes its sum one.
            row.iter_mut().zip(self.other).for_each(|(s, g)| *s += g);
            let top = max(row);
            row.iter_mut().for_each(|s| *s = exp_below_zero(*s - top));
            let share = lane_sum(row).recip();
            row.iter_mut().for_each(|w| *w *= share);
            return;
        }
        let own = self.own[i] - (row.len() as f64).ln();
        row.iter_mut().zip(self.other).for_each(|(s, g)| *s = exp_below_zero(*s + g + own));
    }
}

impl<'a> From<Shifts<'a>> for Ends<'a> {
    fn from(shifts: Shifts<'a>) -> Self {
        Self { queries: shifts.own, keys: shifts.other }
    }
}

/// [n, m] from [m, n].
fn by_token(values: &[f64], count: usize) -> Vec<f64> {
    let width = values.len() / count;
    (0..count).flat_map(|j| (0..width).map(move |c| values[c * count + j])).collect()
}

/// What is made of one row of scores; `spare` is another row to work in.
trait RowTask: Sync {
    /// Writes the result for token i of the side.
    fn write(&self, i: usize, row: &mut [f64], spare: &mut [f64], out: &mut [f64]);
}

struct ScoreCotangent<'a> {
    shifts: Shifts<'a>,
    multipliers: Shifts<'a>,
    own: &'a [f64],
    other: &'a [f64],
    here: &'a Projections,
    factor: f64,
}

impl RowTask for ScoreCotangent<'_> {
    #[inline(always)]
    fn write(&self, i: usize, row: &mut [f64], spare: &mut [f64], out: &mut [f64]) {
        self.shifts.weigh(i, row);
        pair(i, self.own, self.other, spare);
        let own = self.multipliers.own[i];
        for ((w, s), other) in row.iter_mut().zip(&*spare).zip(self.multipliers.other) {
            *w *= s - own - other;
        }
        for (c, out) in out.iter_mut().enumerate() {
            let origin = if self.here.score() == Score::SquaredDistance { self.here.query(i)[c] } else { 0.0 };
            *out = self.factor * lane_dot_shifted(row, self.here.key_row(c), origin);
        }
    }
}

/// <a_i, b_j> for all j into `row`, `a` [n, m], `b` [m, n].
#[inline(always)]
fn pair(i: usize, a: &[f64], b: &[f64], row: &mut [f64]) {
    let (n, m) = (row.len(), b.len() / row.len());
    row.fill(0.0);
    for (c, a) in a[i * m..(i + 1) * m].iter().enumerate() {
        row.iter_mut().zip(&b[c * n..(c + 1) * n]).for_each(|(s, b)| *s += a * b);
    }
}

/// Consecutive rows, from token `first` on.
struct Block<'a, T> {
    projections: &'a Projections,
    scale: f64,
    first: usize,
    part: usize,
    scores: &'a mut [f64],
    spare: &'a mut [f64],
    out: &'a mut [f64],
    task: &'a T,
}

impl<T: RowTask> Loop for Block<'_, T> {
    #[inline(always)]
    fn run(self) {
        for (r, out) in self.out.chunks_exact_mut(self.part).enumerate() {
            let row = self.projections.scores(self.first + r, Mask::Full, self.scores);
            row.iter_mut().for_each(|s| *s *= self.scale);
            self.task.write(self.first + r, row, self.spare, out);
        }
    }
}
