//! Symmetric scores, S_ij = S_ji: every pair of tokens is scored and weighed once, for both of its rows.
//!
//! Scores are symmetric where A = QᵀK is, for distances where Q = K: the attention that theory writes down first, with
//! Q = K = V = I. Half of the scores and of the powers are spared; the messages of both rows remain, so that a field
//! costs 3/4 of the products of the general path, and half of its powers.
//!
//! Both rows of a pair need one weight, so one number is subtracted from all scores, where the general path has one for
//! each row. That asks more of the tokens: every own score must come close to the largest bound ([`shift`]). Tokens on a
//! sphere do; a cloud of which some tokens are far longer than others takes the general path.
//!
//! Tokens are cut into blocks. Pairs of blocks are visited by halving: two halves by themselves, in parallel, then each
//! quarter of the one with each quarter of the other, two by two ([`triangle`], [`rectangle`]). No two visits at a time
//! write the same block and each block is written in one order, whatever the number of threads.

mod messages;
mod small;
mod tile;

use rayon::prelude::*;

use super::super::kernel::Mask;
use super::problem::{Frame, Problem, Streamed};
use super::{SERIAL_PAIRS, small as general};
use crate::lanes::{Level, Real};

/// Pairs of blocks of tokens.
trait Pairs: Sync {
    /// The sums of the tokens of a block.
    type Sums: Send + Sync;
    /// Adds the pairs of a block's tokens, and of each token with itself.
    fn within(&self, block: usize, sums: &mut Self::Sums);
    /// Adds the pairs of one block's tokens with another's, to both.
    fn between(&self, blocks: [usize; 2], sums: [&mut Self::Sums; 2]);
}

/// All pairs of the blocks from `first` on.
fn triangle<P: Pairs>(pairs: &P, first: usize, sums: &mut [P::Sums]) {
    match sums {
        [] => {}
        [only] => pairs.within(first, only),
        _ => {
            let half = sums.len() / 2;
            let (left, right) = sums.split_at_mut(half);
            rayon::join(|| triangle(pairs, first, left), || triangle(pairs, first + half, right));
            rectangle(pairs, [first, first + half], [left, right]);
        }
    }
}

/// All pairs of a block of the one with a block of the other.
fn rectangle<P: Pairs>(pairs: &P, [first, second]: [usize; 2], sums: [&mut [P::Sums]; 2]) {
    match sums {
        [[], _] | [_, []] => {}
        [[one], [other]] => pairs.between([first, second], [one, other]),
        [these, those] => {
            let halves = [these.len() / 2, those.len() / 2];
            let (low, high) = these.split_at_mut(halves[0]);
            let (left, right) = those.split_at_mut(halves[1]);
            let [middle, centre] = [first + halves[0], second + halves[1]];
            rayon::join(
                || rectangle(pairs, [first, second], [low, left]),
                || rectangle(pairs, [middle, centre], [high, right]),
            );
            rayon::join(
                || rectangle(pairs, [first, centre], [low, right]),
                || rectangle(pairs, [middle, second], [high, left]),
            );
        }
    }
}

/// What is subtracted from all scores, if these kernels compute such a problem and it pays.
///
/// max_i |q_i| max_j |k_j| for dot scores, if every s_ii comes within half of the range of 2^x of it; 0 for distances
/// and for the logistic function. O(n k).
pub(super) fn shift<T: Real>(problem: &Problem<'_, T>, level: Level) -> Option<f64> {
    let [count, keys] = problem.counts;
    let whole = count == keys && problem.mask == Mask::Full && count * count >= SERIAL_PAIRS;
    if !(problem.symmetric && whole && pays(problem, level)) {
        return None;
    }
    match problem.normalization {
        Streamed::Softmax | Streamed::Exponential if problem.is_dot() => common_bound(problem),
        Streamed::Softmax | Streamed::Exponential if !problem.negative => Some(0.0),
        Streamed::Sigmoid { .. } if problem.is_dot() || !problem.negative => Some(0.0),
        _ => None,
    }
}

fn pays<T: Real>(problem: &Problem<'_, T>, level: Level) -> bool {
    general::fits(problem) || (problem.frame == Frame::Absolute && tile::pays(problem, level))
}

/// The largest |q_i| |k_j|, if every own score is close enough below it.
fn common_bound<T: Real>(problem: &Problem<'_, T>) -> Option<f64> {
    // |q|², |k|² and <q, k> of a token; NaN stays in the least own score, which no comparison passes.
    let of_token = |room: &mut [Vec<T>; 2], i: usize| {
        let [query, key] = room;
        problem.copy_query(i, 1.0, query);
        problem.keys.copy(i, key);
        let pairs = query.iter().zip(key.iter()).map(|(q, k)| (q.to_f64(), k.to_f64()));
        pairs.fold([0.0, 0.0, 0.0], |[q2, k2, own], (q, k)| [q2 + q * q, k2 + k * k, own + q * k])
    };
    let room = || [vec![T::default(); problem.width], vec![T::default(); problem.width]];
    let join = |a: [f64; 3], b: [f64; 3]| {
        let least = if a[2].is_nan() || a[2] < b[2] { a[2] } else { b[2] };
        [a[0].max(b[0]), a[1].max(b[1]), least]
    };
    let nothing = || [0.0, 0.0, f64::INFINITY];
    let [queries, keys, own] =
        (0..problem.counts[0]).into_par_iter().with_min_len(256).map_init(room, of_token).reduce(nothing, join);
    let bound = (queries * keys).sqrt();
    problem.is_tight(bound, own).then_some(bound)
}

/// Answers a symmetric problem whose scores are measured from `shift`.
pub(super) fn answer<T: Real>(problem: &Problem<'_, T>, shift: f64, level: Level, out: &mut [T]) {
    if general::fits(problem) {
        return match problem.width.max(problem.value_width) {
            ..=2 => sum_and_write(&small::Cloud::<T, 2>::new(problem, shift, level), problem, shift, out),
            3 => sum_and_write(&small::Cloud::<T, 3>::new(problem, shift, level), problem, shift, out),
            4 => sum_and_write(&small::Cloud::<T, 4>::new(problem, shift, level), problem, shift, out),
            _ => sum_and_write(
                &small::Cloud::<T, { general::LARGEST_DIM }>::new(problem, shift, level),
                problem,
                shift,
                out,
            ),
        };
    }
    match level {
        Level::Avx512 => sum_and_write(&tile::Cloud::<T, 8, 4>::new(problem, shift, level), problem, shift, out),
        _ => sum_and_write(&tile::Cloud::<T, 4, 2>::new(problem, shift, level), problem, shift, out),
    }
}

/// Tokens in blocks, whose sums can be read again.
trait Blocks<T>: Pairs {
    /// Tokens of a block.
    fn size(&self) -> usize;
    /// Sums of nothing.
    fn zeros(&self) -> Self::Sums;
    /// Σ_j w_ij of a block's token.
    fn mass(&self, sums: &Self::Sums, token: usize) -> T;
    /// Its Σ_j w_ij v_j, whole registers or less.
    fn copy_moment(&self, sums: &Self::Sums, token: usize, out: &mut [T]);
}

fn sum_and_write<T: Real, B: Blocks<T>>(blocks: &B, problem: &Problem<'_, T>, shift: f64, out: &mut [T]) {
    let (size, width) = (blocks.size(), problem.answer_width());
    let mut sums: Vec<B::Sums> = (0..problem.counts[0].div_ceil(size)).map(|_| blocks.zeros()).collect();
    triangle(blocks, 0, &mut sums);
    out.par_chunks_mut(size * width).zip(&sums).enumerate().for_each(|(b, (out, sums))| {
        let mut moment = vec![T::default(); problem.value_width];
        for (t, out) in out.chunks_exact_mut(width).enumerate() {
            blocks.copy_moment(sums, t, &mut moment);
            problem.finish(b * size + t, shift, blocks.mass(sums, t), |c| moment[c], out);
        }
    });
}

#[cfg(test)]
mod tests;
