//! Exact Jacobian products of attention: how the messages y_i = Σ_j P_ij v_j answer a change of the tokens (JVP),
//! and which change of the tokens a change of the messages asks for (VJP).
//!
//! Notation: scores S_ij = g·s_ij with g the gain of [`Projections`], P_ij = weight(S_ij) over the visible j, N_i
//! their number. A dot marks tangents along a direction, a bar marks cotangents (gradients of Σ_i <ȳ_i, y_i>).
//!
//! Forward (JVP), with ṡ_ij = q̇_i·k_j + q_i·k̇_j (dot scores, beta inside q) or -2 beta (q_i - k_j)·(q̇_i - k̇_j):
//!
//! ```text
//! softmax   ẏ_i = Σ_j P_ij v̇_j + g Σ_j P_ij (ṡ_ij - µ_i) (v_j - r_i),   µ_i = Σ_j P_ij ṡ_ij
//! others    ẏ_i = Σ_j P_ij v̇_j + g Σ_j (w'(S_ij) / N_i) ṡ_ij v_j
//!           w' = e^S (exponential), σ(1 - σ) at S + bias (sigmoid), 1 (linear), 0 (hardmax)
//! ```
//!
//! Backward (VJP), with P̄_ij = <ȳ_i, v_j - r_i> and S̄_ij = P_ij (P̄_ij - ρ_i), ρ_i = Σ_j P_ij P̄_ij for softmax,
//! S̄_ij = (w'(S_ij) / N_i) P̄_ij with r_i = 0 for the others:
//!
//! ```text
//! v̄_j = Σ_i P_ij ȳ_i
//! dot       q̄_i = g beta Σ_j S̄_ij k_j               k̄_j = g beta Σ_i S̄_ij q_i
//! distance  q̄_i = 2 g beta Σ_j S̄_ij (k_j - q_i)     k̄_j = 2 g beta Σ_i S̄_ij (q_i - k_j)
//! ```
//!
//! The weights of a hardmax row are locally constant, so only values carry derivatives (exact off the ties, where
//! the field jumps).
//!
//! Because rows of dP sum to zero for softmax, any reference r_i may be subtracted; ours is the value of the row's
//! arg-max token (and its key in q̄, its ṡ in µ) \[derived\]. Where tokens coincide, differences are then exactly zero
//! and an astronomical gain has no rounding noise to blow up.
//!
//! From 128 tokens on, products of messages that are not relative go through [`HeadJacobian`](super::fused::HeadJacobian),
//! where it knows the weights; what follows is the way of small clouds and its oracle.
//!
//! Memory O(n (k + m)) and two rows a thread, never n x n. Each product is parallel over what it writes and sums in
//! a fixed order, so it is equal to the bit on any number of threads: the VJP goes once over rows i (maximum,
//! partition and ρ_i of each row, q̄_i) and once over columns j, where it recomputes the scores (k̄_j, v̄_j).
//! Where weights themselves exceed f64 (exponential of huge scores), so do their derivatives.
//! Sinkhorn's weights are no function of one row: [`super::sinkhorn`] differentiates them, on the same tiles where clouds
//! are large; products are NaN where it does not converge.
//!
//! # References
//! Formulas \[derived\] and \[checked\] against dense Jacobians here; the row sum ρ_i in place of
//! the stored softmax is the device of Dao et al., FlashAttention, 2205.14135, appendix B \[2nd\].

mod large;

use rayon::prelude::*;

use super::exponential::exp_below_zero;
use super::fused::SERIAL_PAIRS;
use super::kernel::{AttentionKernel, Mask, Normalization, Score};
use super::lanes::{lane_dot, lane_dot_shifted, lane_sum};
use super::projections::Projections;
use super::sinkhorn;
use crate::linalg::Matrix;

/// Gradients with respect to queries Q x_i (without beta), keys K x_j and values V x_j.
#[derive(Debug, Clone, PartialEq)]
pub struct Cotangents {
    /// [n, k].
    pub queries: Vec<f64>,
    /// [n, k].
    pub keys: Vec<f64>,
    /// [n, m].
    pub values: Vec<f64>,
}

impl Cotangents {
    /// Adds Qᵀ q̄_i + Kᵀ k̄_i + Vᵀ v̄_i to every token of `out` [n, d]: the gradient with respect to what
    /// [`Projections::fill`] was given, under the same matrices. O(n d (2k + m)).
    ///
    /// # Panics
    /// If `out` is shorter than n·d.
    pub fn pull_back(&self, [query, key, value]: [&Matrix; 3], out: &mut [f64]) {
        add_transposed(query, &self.queries, out);
        add_transposed(key, &self.keys, out);
        add_transposed(value, &self.values, out);
    }
}

/// out_i += Mᵀ g_i for rows g_i of `cotangents`.
pub(crate) fn add_transposed(matrix: &Matrix, cotangents: &[f64], out: &mut [f64]) {
    for (cotangent, out) in cotangents.chunks_exact(matrix.rows()).zip(out.chunks_exact_mut(matrix.columns())) {
        for (c, g) in cotangent.iter().enumerate() {
            out.iter_mut().zip(matrix.row(c)).for_each(|(o, entry)| *o += g * entry);
        }
    }
}

/// Writes the derivative of [`attend`](super::streaming::attend) along `direction` into `out` [n, m].
///
/// `direction` holds the tangents of queries, keys and values: [`Projections::fill`] applied to the direction
/// [n, d] with the same kernel and matrices. O(n² (3k + 2m)) time.
///
/// # Panics
/// If shapes differ.
pub fn attend_jvp(projections: &Projections, direction: &Projections, kernel: &AttentionKernel, out: &mut [f64]) {
    jvp(Frame::Absolute, projections, direction, kernel, out);
}

/// Writes the derivative of [`attend_relative`](super::streaming::attend_relative) along `direction`; shapes and
/// cost as [`attend_jvp`].
///
/// # Panics
/// If shapes differ; for Sinkhorn, which has no rescaled flow.
pub fn attend_relative_jvp(
    projections: &Projections,
    direction: &Projections,
    kernel: &AttentionKernel,
    out: &mut [f64],
) {
    jvp(Frame::Relative, projections, direction, kernel, out);
}

/// The gradients of Σ_i <cotangent_i, y_i>, y = [`attend`](super::streaming::attend), for `cotangent` [n, m].
/// O(n² (4k + 4m)) time.
///
/// # Panics
/// If the cotangent has another shape than the messages.
pub fn attend_vjp(projections: &Projections, kernel: &AttentionKernel, cotangent: &[f64]) -> Cotangents {
    vjp(Frame::Absolute, projections, kernel, cotangent)
}

/// The gradients of Σ_i <cotangent_i, y_i>, y = [`attend_relative`](super::streaming::attend_relative); cost as
/// [`attend_vjp`].
///
/// # Panics
/// If the cotangent has another shape than the messages; for Sinkhorn, which has no rescaled flow.
pub fn attend_relative_vjp(projections: &Projections, kernel: &AttentionKernel, cotangent: &[f64]) -> Cotangents {
    vjp(Frame::Relative, projections, kernel, cotangent)
}

/// What values are measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Zero: y_i = Σ_j P_ij v_j.
    Absolute,
    /// The observer's own value: y_i = Σ_j P_ij (v_j - v_i).
    Relative,
}

impl Frame {
    /// The token whose value is r_i in row i with arg-max token `top`; none for r_i = 0.
    fn reference(self, normalization: Normalization, top: usize, i: usize) -> Option<usize> {
        match (normalization, self) {
            (Normalization::Softmax, _) => Some(top),
            (_, Self::Relative) => Some(i),
            (_, Self::Absolute) => None,
        }
    }
}

fn jvp(frame: Frame, projections: &Projections, direction: &Projections, kernel: &AttentionKernel, out: &mut [f64]) {
    let (n, m) = (projections.count(), projections.value_width());
    assert_eq!(out.len(), n * m, "n messages of width m");
    if let Normalization::Sinkhorn(options) = kernel.normalization() {
        assert_eq!(frame, Frame::Absolute, "rescaled flows have no sinkhorn");
        let potentials = sinkhorn::solve(projections, options, &[]);
        if potentials.and_then(|p| sinkhorn::jvp(projections, direction, options, &p, out)).is_err() {
            out.fill(f64::NAN);
        }
        return;
    }
    if frame == Frame::Absolute && large::jvp(projections, direction, kernel, out) {
        return;
    }
    jvp_by_rows(frame, projections, direction, kernel, out);
}

/// One row of scores at a time: small clouds, relative messages, and the oracle of the fused kernels.
fn jvp_by_rows(
    frame: Frame,
    projections: &Projections,
    direction: &Projections,
    kernel: &AttentionKernel,
    out: &mut [f64],
) {
    let (n, m) = (projections.count(), projections.value_width());
    let (normalization, gain) = (kernel.normalization(), projections.gain());
    let row_of = |(scores, tangents): &mut (Vec<f64>, Vec<f64>), (i, out): (usize, &mut [f64])| {
        let weights = projections.scores(i, kernel.mask(), scores);
        let slopes = projections.score_tangents(direction, i, kernel.mask(), tangents);
        let top = first_arg_max(weights);
        weigh(normalization, gain, top, weights, slopes);
        let reference = frame.reference(normalization, top, i);
        for (c, out) in out.iter_mut().enumerate() {
            let (values, moved) = (projections.value_row(c), direction.value_row(c));
            let origin = if frame == Frame::Relative { moved[i] } else { 0.0 };
            let through_weights = lane_dot_shifted(slopes, values, reference.map_or(0.0, |j| values[j]));
            *out = lane_dot_shifted(weights, moved, origin) + gain * through_weights;
        }
    };
    out.par_chunks_exact_mut(m)
        .with_min_len(least_share(n))
        .enumerate()
        .for_each_init(|| (vec![0.0; n], vec![0.0; n]), row_of);
}

fn vjp(frame: Frame, projections: &Projections, kernel: &AttentionKernel, cotangent: &[f64]) -> Cotangents {
    let (n, k, m) = (projections.count(), projections.width(), projections.value_width());
    assert_eq!(cotangent.len(), n * m, "n cotangents of width m");
    if let Normalization::Sinkhorn(options) = kernel.normalization() {
        assert_eq!(frame, Frame::Absolute, "rescaled flows have no sinkhorn");
        let potentials = sinkhorn::solve(projections, options, &[]);
        let gradients = potentials.and_then(|p| sinkhorn::vjp(projections, options, &p, cotangent));
        let nowhere = |_| [vec![f64::NAN; n * k], vec![f64::NAN; n * k], vec![f64::NAN; n * m]];
        let [queries, keys, values] = gradients.unwrap_or_else(nowhere);
        return Cotangents { queries, keys, values };
    }
    if frame == Frame::Absolute
        && let Some(found) = large::vjp(projections, kernel, cotangent)
    {
        return found;
    }
    vjp_by_rows(frame, projections, kernel, cotangent)
}

/// As [`jvp_by_rows`], once over rows and once over columns.
fn vjp_by_rows(frame: Frame, projections: &Projections, kernel: &AttentionKernel, cotangent: &[f64]) -> Cotangents {
    let (n, k, m) = (projections.count(), projections.width(), projections.value_width());
    let mut bars = Cotangents { queries: vec![0.0; n * k], keys: vec![0.0; n * k], values: vec![0.0; n * m] };
    let backward = Backward { frame, projections, kernel, cotangent };
    let rows = backward.rows(&mut bars.queries);
    backward.columns(&rows, &mut bars);
    bars
}

/// The inputs of one VJP.
struct Backward<'a> {
    frame: Frame,
    projections: &'a Projections,
    kernel: &'a AttentionKernel,
    cotangent: &'a [f64],
}

/// What the pass over columns needs to know of all rows, component after component.
struct Rows {
    statistics: Vec<RowStatistics>,
    /// q_i, [k, n].
    queries: Vec<f64>,
    /// ȳ_i, [m, n].
    cotangents: Vec<f64>,
    /// r_i, [m, n].
    references: Vec<f64>,
}

impl Backward<'_> {
    /// Pass 1: statistics and q̄_i of every row.
    fn rows(&self, queries: &mut [f64]) -> Rows {
        let (n, k, m) = (self.projections.count(), self.projections.width(), self.projections.value_width());
        let mut statistics = vec![RowStatistics::default(); n];
        let mut references = vec![0.0; n * m];
        let parts = (queries.par_chunks_exact_mut(k), references.par_chunks_exact_mut(m), statistics.par_iter_mut());
        parts.into_par_iter().with_min_len(least_share(n)).enumerate().for_each_init(
            || (vec![0.0; n], vec![0.0; n]),
            |(scores, bars), (i, (query, reference, statistics))| {
                let weights = self.projections.scores(i, self.kernel.mask(), scores);
                let top = first_arg_max(weights);
                if let Some(j) = self.frame.reference(self.kernel.normalization(), top, i) {
                    reference.iter_mut().enumerate().for_each(|(c, r)| *r = self.projections.value_row(c)[j]);
                }
                let bars = self.weight_cotangents(i, reference, &mut bars[..weights.len()]);
                *statistics = weigh(self.kernel.normalization(), self.projections.gain(), top, weights, bars);
                self.query_cotangent(i, top, bars, query);
            },
        );
        Rows {
            statistics,
            queries: transposed(n, k, |i, c| self.projections.query(i)[c]),
            cotangents: transposed(n, m, |i, c| self.cotangent[i * m + c]),
            references: transposed(n, m, |i, c| references[i * m + c]),
        }
    }

    /// P̄_ij = <ȳ_i, v_j - r_i> for the visible j.
    fn weight_cotangents<'r>(&self, i: usize, reference: &[f64], bars: &'r mut [f64]) -> &'r mut [f64] {
        let m = reference.len();
        bars.fill(0.0);
        for (c, (g, r)) in self.cotangent[i * m..(i + 1) * m].iter().zip(reference).enumerate() {
            bars.iter_mut().zip(self.projections.value_row(c)).for_each(|(bar, v)| *bar += g * (v - r));
        }
        bars
    }

    /// q̄_i from S̄_i. Softmax rows sum to zero, so keys may be measured from the arg-max key.
    fn query_cotangent(&self, i: usize, top: usize, bars: &[f64], out: &mut [f64]) {
        let beta = self.projections.beta();
        for (c, out) in out.iter_mut().enumerate() {
            let keys = self.projections.key_row(c);
            let (factor, origin) = match self.projections.score() {
                Score::Dot => (beta, 0.0),
                Score::SquaredDistance => (2.0 * beta, self.projections.query(i)[c]),
            };
            let origin = if self.kernel.normalization() == Normalization::Softmax { keys[top] } else { origin };
            *out = factor * (self.projections.gain() * lane_dot_shifted(bars, keys, origin));
        }
    }

    /// Pass 2: k̄_j and v̄_j of every column.
    fn columns(&self, rows: &Rows, bars: &mut Cotangents) {
        let (n, k, m) = (self.projections.count(), self.projections.width(), self.projections.value_width());
        let parts = (bars.keys.par_chunks_exact_mut(k), bars.values.par_chunks_exact_mut(m));
        parts.into_par_iter().with_min_len(least_share(n)).enumerate().for_each_init(
            || (vec![0.0; n], vec![0.0; n]),
            |(scores, bars), (j, (key, value))| {
                let observers = self.kernel.mask().observers(j, n);
                let (weights, bars) = (&mut scores[observers.clone()], &mut bars[observers.clone()]);
                self.weigh_column(j, rows, weights, bars);
                for (c, value) in value.iter_mut().enumerate() {
                    *value = lane_dot(weights, &rows.cotangents[c * n..][observers.clone()]);
                    if self.frame == Frame::Relative {
                        *value -= rows.statistics[j].mass * self.cotangent[j * m + c];
                    }
                }
                self.key_cotangent(j, bars, |c| &rows.queries[c * n..][observers.clone()], key);
            },
        );
    }

    /// P_ij and S̄_ij of the observers i of token j. Every number is computed by the operations of pass 1 in the
    /// same order: at a gain of 1e260 a score that differs in its last bit is another weight.
    fn weigh_column(&self, j: usize, rows: &Rows, weights: &mut [f64], bars: &mut [f64]) {
        let (n, first) = (self.projections.count(), self.projections.count() - weights.len());
        weights.fill(0.0);
        for c in 0..self.projections.width() {
            let (k, queries) = (self.projections.key_row(c)[j], &rows.queries[c * n + first..]);
            match self.projections.score() {
                Score::Dot => weights.iter_mut().zip(queries).for_each(|(s, q)| *s += q * k),
                Score::SquaredDistance => weights.iter_mut().zip(queries).for_each(|(s, q)| *s -= (q - k) * (q - k)),
            }
        }
        if self.projections.score() == Score::SquaredDistance {
            weights.iter_mut().for_each(|s| *s *= self.projections.beta());
        }
        bars.fill(0.0);
        for c in 0..self.projections.value_width() {
            let v = self.projections.value_row(c)[j];
            let rows = rows.cotangents[c * n + first..].iter().zip(&rows.references[c * n + first..]);
            bars.iter_mut().zip(rows).for_each(|(bar, (g, r))| *bar += g * (v - r));
        }
        let (normalization, mask, gain) = (self.kernel.normalization(), self.kernel.mask(), self.projections.gain());
        for (offset, (s, bar)) in weights.iter_mut().zip(bars).enumerate() {
            let row = &rows.statistics[first + offset];
            let (weight, slope) = row.weight_and_slope(normalization, gain, visible(mask, first + offset, n), *s);
            *bar = slope * (*bar - row.mean);
            *s = weight;
        }
    }

    /// k̄_j from S̄_·j; `queries(c)` is component c of the observers' queries.
    fn key_cotangent<'q>(&self, j: usize, bars: &[f64], queries: impl Fn(usize) -> &'q [f64], out: &mut [f64]) {
        let gain = self.projections.gain();
        for (c, out) in out.iter_mut().enumerate() {
            *out = match self.projections.score() {
                Score::Dot => gain * lane_dot(bars, queries(c)),
                Score::SquaredDistance => {
                    let key = self.projections.key_row(c)[j];
                    2.0 * self.projections.beta() * (gain * lane_dot_shifted(bars, queries(c), key))
                }
            };
        }
    }
}

/// What turns a score of row i into its weight and slope.
#[derive(Debug, Clone, Copy, Default)]
struct RowStatistics {
    /// max_j s_ij.
    top: f64,
    /// Σ_j e^{g (s_ij - top)} for softmax, the number of arg-max tokens for hardmax.
    partition: f64,
    /// The weighted mean of the row that was contracted with the weights (µ_i or ρ_i); 0 unless softmax.
    mean: f64,
    /// Σ_j P_ij.
    mass: f64,
}

impl RowStatistics {
    /// P_ij and the factor of ṡ_ij - mean (of P̄_ij - mean) in dP_ij / g, for a score s_ij in a row of `visible`.
    #[inline(always)]
    fn weight_and_slope(&self, normalization: Normalization, gain: f64, visible: f64, s: f64) -> (f64, f64) {
        match normalization {
            Normalization::Softmax => {
                let weight = exp_below_zero(gain * (s - self.top)) / self.partition;
                (weight, weight)
            }
            Normalization::Exponential => {
                let weight = (gain * s).exp() / visible;
                (weight, weight)
            }
            Normalization::Sigmoid { bias } => {
                // σ(x) = 1 / (1 + e^{-x}) and σ'(x) = e^{-|x|} / (1 + e^{-|x|})², neither of which overflows.
                let x = gain * s + bias;
                let tail = (-x.abs()).exp();
                (1.0 / (1.0 + (-x).exp()) / visible, tail / ((1.0 + tail) * (1.0 + tail)) / visible)
            }
            Normalization::Linear => (gain * s / visible, 1.0 / visible),
            Normalization::Hardmax => (if s == self.top { 1.0 / self.partition } else { 0.0 }, 0.0),
            // Not a function of one row; `jvp` and `vjp` never bring it here.
            Normalization::Sinkhorn(_) => (f64::NAN, f64::NAN),
        }
    }
}

/// Turns scores into weights P_ij and the row t_j they are contracted with (ṡ_ij or P̄_ij) into
/// slope_j (t_j - mean), which is dP_ij / g or S̄_ij: the Jacobian of softmax is symmetric, the others are diagonal.
fn weigh(
    normalization: Normalization,
    gain: f64,
    top: usize,
    scores: &mut [f64],
    tangents: &mut [f64],
) -> RowStatistics {
    let mut row = RowStatistics { top: scores[top], partition: 1.0, mean: 0.0, mass: 1.0 };
    if normalization == Normalization::Softmax {
        scores.iter_mut().for_each(|s| *s = exp_below_zero(gain * (*s - row.top)));
        row.partition = lane_sum(scores);
        scores.iter_mut().for_each(|w| *w /= row.partition);
        let origin = tangents[top];
        tangents.iter_mut().for_each(|t| *t -= origin);
        row.mean = lane_dot(scores, tangents);
        tangents.iter_mut().zip(&*scores).for_each(|(t, w)| *t = w * (*t - row.mean));
        return row;
    }
    if normalization == Normalization::Hardmax {
        row.partition = scores.iter().filter(|s| **s == row.top).count() as f64;
    }
    let visible = scores.len() as f64;
    for (s, t) in scores.iter_mut().zip(tangents) {
        let (weight, slope) = row.weight_and_slope(normalization, gain, visible, *s);
        (*s, *t) = (weight, slope * *t);
    }
    if !normalization.is_stochastic() {
        row.mass = lane_sum(scores);
    }
    row
}

fn visible(mask: Mask, i: usize, n: usize) -> f64 {
    mask.visible(i, n) as f64
}

/// The first of the largest entries.
fn first_arg_max(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best })
}

/// Rows that a task takes at least: all of them if the pool costs more than it saves.
fn least_share(n: usize) -> usize {
    if n * n < SERIAL_PAIRS { n } else { 1 }
}

/// [width, n] from entries (i, c).
fn transposed(n: usize, width: usize, entry: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..width).flat_map(|c| (0..n).map(move |i| (i, c))).map(|(i, c)| entry(i, c)).collect()
}

#[cfg(test)]
mod tests;
