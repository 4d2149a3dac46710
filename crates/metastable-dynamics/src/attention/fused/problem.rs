//! What a kernel is asked: queries, keys and values in any layout, and how they are weighed.

use super::super::kernel::{AttentionKernel, Mask, Normalization, Score};
use super::super::projections::Projections;
use crate::lanes::Real;

/// A matrix of numbers, one token after the other or one component after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a, T> {
    numbers: &'a [T],
    token_stride: usize,
    component_stride: usize,
}

impl<'a, T: Real> View<'a, T> {
    /// \[n, width\].
    pub(super) fn of_rows(numbers: &'a [T], width: usize) -> Self {
        Self { numbers, token_stride: width, component_stride: 1 }
    }

    /// The first numbers of rows of `stride`.
    pub(super) fn of_part(numbers: &'a [T], stride: usize) -> Self {
        Self { numbers, token_stride: stride, component_stride: 1 }
    }

    /// \[width, n\].
    pub(super) fn of_columns(numbers: &'a [T], count: usize) -> Self {
        Self { numbers, token_stride: 1, component_stride: count }
    }

    /// Copies the first components of token i.
    pub(super) fn copy(&self, i: usize, out: &mut [T]) {
        let from = &self.numbers[i * self.token_stride..];
        if self.component_stride == 1 {
            out.copy_from_slice(&from[..out.len()]);
        } else {
            out.iter_mut().zip(from.iter().step_by(self.component_stride)).for_each(|(out, number)| *out = *number);
        }
    }

    /// Component c of token i.
    #[inline(always)]
    pub(super) fn at(&self, i: usize, c: usize) -> T {
        self.numbers[i * self.token_stride + c * self.component_stride]
    }
}

/// Normalisations that are functions of one row, whose weights are made on the way: all but Sinkhorn's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::attention) enum Streamed {
    Softmax,
    Exponential,
    Sigmoid { bias: f64 },
    Linear,
    Hardmax,
}

impl Streamed {
    /// None for Sinkhorn, whose potentials couple all rows.
    pub(in crate::attention) fn of(normalization: Normalization) -> Option<Self> {
        Some(match normalization {
            Normalization::Softmax => Self::Softmax,
            Normalization::Exponential => Self::Exponential,
            Normalization::Sigmoid { bias } => Self::Sigmoid { bias },
            Normalization::Linear => Self::Linear,
            Normalization::Hardmax => Self::Hardmax,
            Normalization::Sinkhorn(_) => return None,
        })
    }
}

/// What values are measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::attention) enum Frame {
    /// Zero: Σ_j P_ij v_j.
    Absolute,
    /// The observer's own value: Σ_j P_ij (v_j - v_i).
    Relative,
}

/// What is written for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::attention) enum Answer {
    /// The message, m numbers.
    Message,
    /// The message and, after it, ln Σ_j e^{S_ij}: m + 1 numbers.
    MessageAndLogSum,
}

/// One field of attention: S_ij = factor·sign·s_ij with s_ij = <q_i, k_j> or -|q_i - k_j|².
#[derive(Debug, Clone, Copy)]
pub(in crate::attention) struct Problem<'a, T> {
    pub(super) queries: View<'a, T>,
    pub(super) keys: View<'a, T>,
    pub(super) values: View<'a, T>,
    /// Numbers of queries and of keys.
    pub(super) counts: [usize; 2],
    pub(super) width: usize,
    pub(super) value_width: usize,
    pub(super) score: Score,
    pub(super) normalization: Streamed,
    pub(super) mask: Mask,
    pub(super) frame: Frame,
    pub(super) answer: Answer,
    /// Not negative.
    pub(super) factor: f64,
    pub(super) negative: bool,
    /// Whether S_ij = S_ji by construction.
    pub(super) symmetric: bool,
}

impl<'a> Problem<'a, f64> {
    /// The field of projections; none for Sinkhorn.
    pub(in crate::attention) fn of(
        projections: &'a Projections,
        kernel: &AttentionKernel,
        frame: Frame,
    ) -> Option<Self> {
        let numbers = [projections.queries(), projections.keys(), projections.values()];
        Self::of_numbers(projections, numbers, kernel, frame)
    }
}

impl<'a, T: Real> Problem<'a, T> {
    /// The field of projections whose queries, keys and values are given in type T. (Their queries carry beta for dot
    /// scores.)
    fn of_numbers(
        projections: &Projections,
        [queries, keys, values]: [&'a [T]; 3],
        kernel: &AttentionKernel,
        frame: Frame,
    ) -> Option<Self> {
        let (count, beta) = (projections.count(), projections.beta());
        let (factor, negative) = match projections.score() {
            Score::Dot => (projections.gain(), false),
            Score::SquaredDistance => (projections.gain() * beta.abs(), beta < 0.0),
        };
        Some(Self {
            queries: View::of_rows(queries, projections.width()),
            keys: View::of_columns(keys, count),
            values: View::of_columns(values, count),
            counts: [count; 2],
            width: projections.width(),
            value_width: projections.value_width(),
            score: projections.score(),
            normalization: Streamed::of(kernel.normalization())?,
            mask: kernel.mask(),
            frame,
            answer: Answer::Message,
            factor,
            negative,
            symmetric: projections.is_symmetric(),
        })
    }
}

/// Queries, keys and values of projections, rounded to single precision.
#[derive(Debug)]
pub(in crate::attention) struct Rounded<'a> {
    projections: &'a Projections,
    numbers: [Vec<f32>; 3],
}

impl<'a> Rounded<'a> {
    pub(in crate::attention) fn new(projections: &'a Projections) -> Self {
        let numbers = [projections.queries(), projections.keys(), projections.values()];
        Self { projections, numbers: numbers.map(|numbers| numbers.iter().map(|x| *x as f32).collect()) }
    }

    pub(in crate::attention) fn problem(&self, kernel: &AttentionKernel, frame: Frame) -> Option<Problem<'_, f32>> {
        let [queries, keys, values] = &self.numbers;
        Problem::of_numbers(self.projections, [queries, keys, values], kernel, frame)
    }
}

impl<T: Real> Problem<'_, T> {
    /// Numbers written for each token.
    pub(super) fn answer_width(&self) -> usize {
        self.value_width + usize::from(self.answer == Answer::MessageAndLogSum)
    }

    /// How many keys the query i sees.
    pub(super) fn visible(&self, i: usize) -> usize {
        self.mask.visible(i, self.counts[1])
    }

    /// The factor of scores in an exponent of 2.
    pub(super) fn binary_factor(&self) -> f64 {
        (self.factor * std::f64::consts::LOG2_E).min(T::MAX_FACTOR)
    }

    /// Whether scores are scalar products, whose sign and factor may go into the queries.
    pub(super) fn is_dot(&self) -> bool {
        self.score == Score::Dot
    }

    /// Query i with the sign of dot scores.
    #[inline(always)]
    pub(super) fn query(&self, i: usize, c: usize) -> f64 {
        let query = self.queries.at(i, c).to_f64();
        if self.negative && self.is_dot() { -query } else { query }
    }

    /// Copies query i with the sign of dot scores, times `scale`.
    pub(super) fn copy_query(&self, i: usize, scale: f64, out: &mut [T]) {
        self.queries.copy(i, out);
        let scale = if self.negative && self.is_dot() { -scale } else { scale };
        out.iter_mut().for_each(|query| *query = T::from_f64(query.to_f64() * scale));
    }

    /// The largest |k_j|.
    pub(super) fn largest_key(&self) -> f64 {
        let square = |j: usize| (0..self.width).map(|c| self.keys.at(j, c).to_f64().powi(2)).sum::<f64>();
        (0..self.counts[1]).map(square).fold(0.0, |m: f64, s| if s <= m { m } else { s }).sqrt()
    }

    /// A bound of s_ij over j that s_ii comes close to, if there is one: then no weight that matters is lost to
    /// underflow when the bound is subtracted in place of the maximum, and every row keeps a positive sum.
    ///
    /// |q_i| max_j |k_j| for dot scores, 0 for distances.
    pub(super) fn tight_bound(&self, i: usize, largest_key: f64) -> Option<f64> {
        let j = i.min(self.counts[1] - 1);
        let pairs = (0..self.width).map(|c| (self.query(i, c), self.keys.at(j, c).to_f64()));
        let (bound, own) = match self.score {
            Score::Dot => {
                let (square, own) = pairs.fold((0.0, 0.0), |(square, own), (q, k)| (square + q * q, own + q * k));
                (f64::sqrt(square) * largest_key, own)
            }
            Score::SquaredDistance => (0.0, -pairs.map(|(q, k)| (q - k) * (q - k)).sum::<f64>()),
        };
        self.is_tight(bound, own).then_some(bound)
    }

    /// Whether an own score is near enough to a bound: half of the way to the cut is left to the weights below the
    /// observer's own; and the rounding of the bound must stay far below 1.
    pub(super) fn is_tight(&self, bound: f64, own: f64) -> bool {
        let [gap, shift] = [bound - own, bound].map(|score| score * self.binary_factor());
        gap <= T::CUT / 2.0 && shift <= 10.0 * T::CUT
    }

    /// Turns Σ_j w_ij (v_j, 1) with w_ij = 2^{binary factor·(s_ij - top)} into the answer for query i.
    pub(super) fn finish(&self, i: usize, top: f64, mass: T, moment: impl Fn(usize) -> T, out: &mut [T]) {
        let (mass, shift) = (mass.to_f64(), top * self.binary_factor());
        // A power in two steps, for the first may lie beyond f64 where the product does not.
        let (power, divisor) = match self.normalization {
            Streamed::Softmax | Streamed::Hardmax => (0.0, mass),
            Streamed::Exponential => (shift, self.visible(i) as f64),
            Streamed::Sigmoid { .. } | Streamed::Linear => (0.0, self.visible(i) as f64),
        };
        let halves = [(power / 2.0).exp2(), (power - power / 2.0).exp2()];
        for (c, out) in out[..self.value_width].iter_mut().enumerate() {
            *out = T::from_f64(moment(c).to_f64() * halves[0] / divisor * halves[1]);
        }
        if self.answer == Answer::MessageAndLogSum {
            out[self.value_width] = T::from_f64((mass.log2() + shift) * std::f64::consts::LN_2);
        }
    }
}
