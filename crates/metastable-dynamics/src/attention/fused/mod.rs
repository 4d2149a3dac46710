//! Fused attention: scores, weights and messages in one sweep, in `f32` and `f64`, at the speed of the registers.
//!
//! [`attend`] is Σ_j P_ij v_j for any queries, keys and values; [`log_sum_exp`] the logarithms of the rows' sums, with
//! potentials. Memory is O(n (k + m)), never n x n. The work is shared out over queries and every sum has a fixed
//! order, so results are equal to the bit on any number of threads; between kinds of registers (AVX-512, AVX2,
//! portable, chosen at run time) they differ by rounding.
//!
//! Few dimensions stay in registers (`small`); more go through tiles (`tile`). `problem` is what both are asked.
//! [`HeadJacobian`] is the derivative of one head's messages, as products on the same tiles (`derivative`).

mod coupled;
mod derivative;
mod potentials;
mod problem;
mod small;
mod symmetric;
mod tile;

use rayon::prelude::*;

pub use crate::lanes::Real;
pub(super) use coupled::{Coupled, Ends};
pub use derivative::{HeadCotangents, HeadJacobian};
pub use potentials::{attend_with_potentials, log_sum_exp};

use super::kernel::{AttentionKernel, Mask};
use super::projections::Projections;
use crate::lanes::Level;
use problem::Answer;
use problem::Streamed;
use problem::View;
pub(super) use problem::{Frame, Problem, Rounded};

/// Below this many score evaluations a field is computed on the calling thread: the pool costs more than it saves.
pub(super) const SERIAL_PAIRS: usize = 1 << 14;

/// Numbers of n tokens, one token after the other: \[n, width\], or a head's part of longer rows.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, T> {
    numbers: &'a [T],
    width: usize,
    stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Rows of `width` numbers.
    ///
    /// # Panics
    /// If `width` is zero or the numbers are no whole number of rows.
    pub fn new(numbers: &'a [T], width: usize) -> Self {
        assert!(width > 0 && numbers.len().is_multiple_of(width), "whole rows of {width} numbers");
        Self { numbers, width, stride: width }
    }

    /// Numbers first..first + width of every row of `stride` numbers: one head of many.
    ///
    /// # Panics
    /// If the part is empty or reaches beyond its row, or the numbers are no whole number of rows.
    pub fn part(numbers: &'a [T], stride: usize, first: usize, width: usize) -> Self {
        assert!(width > 0 && first + width <= stride, "a part of rows of {stride} numbers");
        assert!(numbers.len().is_multiple_of(stride), "whole rows of {stride} numbers");
        Self { numbers: numbers.get(first..).unwrap_or_default(), width, stride }
    }

    /// The number of rows.
    pub fn count(&self) -> usize {
        self.numbers.len().div_ceil(self.stride)
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether these are the same numbers as others.
    fn is_same(&self, others: &Self) -> bool
    where
        T: PartialEq,
    {
        let same_place = std::ptr::eq(self.numbers, others.numbers) && self.stride == others.stride;
        (self.width == others.width && same_place)
            || (self.count() == others.count() && (0..self.count()).all(|i| self.row(i) == others.row(i)))
    }

    fn row(&self, i: usize) -> &'a [T] {
        &self.numbers[i * self.stride..][..self.width]
    }

    fn iter(self) -> impl Iterator<Item = &'a [T]> {
        (0..self.count()).map(move |i| self.row(i))
    }
}

/// Writes y_i = Σ_j P_ij v_j into `out` \[queries, m\], with S_ij = beta·score(q_i, k_j) and weights P as the kernel
/// says.
///
/// `queries` \[n_q, k\], `keys` \[n, k\], `values` \[n, m\]; O(n_q n (k + m)) time, O((n_q + n) (k + m)) memory. In
/// `f32` a field errs by about 2e-7 of the values' size, plus what rounding of the scores does: a few 6e-8·beta |q_i|
/// max_j |k_j| for the weights, over all keys, hidden ones too.
///
/// # Example
/// ```
/// use metastable_dynamics::attention::AttentionKernel;
/// use metastable_dynamics::attention::fused::{Rows, attend};
///
/// let tokens = Rows::new(&[1.0_f32, 0.0, 0.0, 1.0], 2);
/// let mut field = [0.0; 4];
/// attend(tokens, tokens, tokens, &AttentionKernel::softmax(1.0)?, &mut field);
/// // e / (e + 1) of a token's own value, 1 / (e + 1) of the other's.
/// assert!((field[0] - 0.731_058_6).abs() < 1e-6);
/// assert!((field[1] - 0.268_941_4).abs() < 1e-6);
/// # Ok::<(), metastable_dynamics::DynamicsError>(())
/// ```
///
/// # Panics
/// If widths or numbers of rows do not fit, there is no key, or a causal mask meets other numbers of queries and keys;
/// for Sinkhorn, whose weights couple rows ([`attend_with_potentials`] takes what its iteration finds).
pub fn attend<T: Real>(
    queries: Rows<'_, T>,
    keys: Rows<'_, T>,
    values: Rows<'_, T>,
    kernel: &AttentionKernel,
    out: &mut [T],
) {
    answer(&problem(queries, keys, values, kernel), Level::best(), out);
}

fn problem<'a, T: Real>(
    queries: Rows<'a, T>,
    keys: Rows<'a, T>,
    values: Rows<'a, T>,
    kernel: &AttentionKernel,
) -> Problem<'a, T> {
    let counts = [queries.count(), keys.count()];
    assert_eq!(queries.width, keys.width, "queries and keys of one width");
    assert_eq!(values.count(), keys.count(), "a value for each key");
    assert!(counts[1] > 0, "at least one key");
    assert!(kernel.mask() == Mask::Full || counts[0] == counts[1], "a causal mask needs a query for each key");
    Problem {
        queries: View::of_part(queries.numbers, queries.stride),
        keys: View::of_part(keys.numbers, keys.stride),
        values: View::of_part(values.numbers, values.stride),
        counts,
        width: keys.width,
        value_width: values.width,
        score: kernel.score(),
        normalization: Streamed::of(kernel.normalization()).expect("weights that are functions of one row"),
        mask: kernel.mask(),
        frame: Frame::Absolute,
        answer: Answer::Message,
        factor: kernel.beta().abs(),
        negative: kernel.beta() < 0.0,
        symmetric: queries.is_same(&keys),
    }
}

/// Answers a problem with the registers of a level.
///
/// # Panics
/// If `out` is not one answer a query.
pub(super) fn answer<T: Real>(problem: &Problem<'_, T>, level: Level, out: &mut [T]) {
    assert_eq!(out.len(), problem.counts[0] * problem.answer_width(), "one answer a query");
    if problem.counts[0] * problem.counts[1] < SERIAL_PAIRS {
        return general_answer(problem, level, out);
    }
    // The pool is entered once: every time its threads fall asleep and are woken, they may find themselves on one core.
    rayon::scope(|_| match symmetric::shift(problem, level) {
        Some(shift) => symmetric::answer(problem, shift, level, out),
        None => general_answer(problem, level, out),
    });
}

/// Every row by itself, its keys with any queries.
fn general_answer<T: Real>(problem: &Problem<'_, T>, level: Level, out: &mut [T]) {
    if small::fits(problem) {
        match problem.width.max(problem.value_width) {
            ..=2 => small_answer::<T, 2>(problem, level, out),
            3 => small_answer::<T, 3>(problem, level, out),
            4 => small_answer::<T, 4>(problem, level, out),
            _ => small_answer::<T, { small::LARGEST_DIM }>(problem, level, out),
        }
    } else if level == Level::Avx512 && problem.width.max(problem.value_width) > 4 {
        tile_answer::<T, 8>(problem, level, out);
    } else {
        tile_answer::<T, 4>(problem, level, out);
    }
}

/// ln Σ_j e^{S_ij} over the visible tokens, \[n\], for projections. O(n² k).
pub(super) fn log_sums(projections: &Projections, mask: Mask) -> Vec<f64> {
    let kernel = AttentionKernel::softmax(projections.beta()).expect("kernels have finite betas").masked(mask);
    let field = Problem::of(projections, &kernel, Frame::Absolute).expect("softmax is a function of one row");
    let problem = Problem { value_width: 0, answer: Answer::MessageAndLogSum, ..field };
    let mut out = vec![0.0; projections.count()];
    answer(&problem, Level::best(), &mut out);
    out
}

fn small_answer<T: Real, const D: usize>(problem: &Problem<'_, T>, level: Level, out: &mut [T]) {
    let tokens = small::Tokens::<T, D>::new(problem);
    for_each_task(problem, small::QUERIES_A_TASK, out, |first, out| {
        T::dispatch(level, small::Task { problem, tokens: &tokens, first, out });
    });
}

fn tile_answer<T: Real, const ROWS: usize>(problem: &Problem<'_, T>, level: Level, out: &mut [T]) {
    let panels = tile::Panels::<T, ROWS>::new(problem);
    for_each_task(problem, tile::QUERIES_A_TASK, out, |first, out| {
        T::dispatch(level, tile::Task { problem, panels: &panels, first, out });
    });
}

/// Shares queries out to the pool, or runs all at once where there are few pairs.
fn for_each_task<T: Real>(
    problem: &Problem<'_, T>,
    queries: usize,
    out: &mut [T],
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    if problem.counts[0] * problem.counts[1] < SERIAL_PAIRS {
        return task(0, out);
    }
    let tasks = out.par_chunks_mut(queries * problem.answer_width()).enumerate();
    tasks.for_each(|(t, out)| task(t * queries, out));
}

#[cfg(test)]
mod tests;
