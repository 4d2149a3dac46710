//! Few dimensions: queries in lanes, keys broadcast, everything in registers.
//!
//! A register holds one component of as many queries as it has lanes; every key and value component is broadcast to all
//! of them, so there is no horizontal sum, and each lane carries the sums of its own query. A step over one key is one
//! fused product a component, one 2^x, one sum and one fused product a value component: at d = 3 the powers are
//! more than half of the work. Sums of 256 keys are added to the sums of all, so that rounding grows with n/256.
//!
//! What is subtracted from the scores is a bound that costs nothing where it is tight ([`Problem::tight_bound`]); else
//! a first pass over the keys finds the maximum.
// Indices in loops over registers: iterator adaptors keep vectors out of them (see `crate::lanes::Lanes`).
#![allow(clippy::needless_range_loop)]

use super::super::kernel::Mask;
use super::problem::{Frame, Problem, Streamed};
use crate::lanes::{Lanes, Real, Work};

/// The largest dimension of queries and of values for these kernels.
pub(super) const LARGEST_DIM: usize = 8;
/// Queries of a task: a multiple of the lanes of all registers taken two at a time.
pub(super) const QUERIES_A_TASK: usize = 64;
/// Keys whose weights are summed apart.
const KEYS_A_SUM: usize = 256;
/// The widest register.
const MAX_LANES: usize = 16;

/// Scores are scaled and shifted inside their first product: x = shift + <q, k>.
const FOLDED: u8 = 0;
/// The same, where no x comes near the cut of 2^x.
const FOLDED_ABOVE_CUT: u8 = 3;
/// x = (<q, k> - shift)·factor.
const DOT: u8 = 1;
/// x = (-|q - k|² - shift)·factor.
const DISTANCE: u8 = 2;

/// Key and value of one token, filled up with zeros to D components.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<T, const D: usize> {
    pub(super) key: [T; D],
    pub(super) value: [T; D],
}

impl<T: Real, const D: usize> Token<T, D> {
    pub(super) fn of(problem: &Problem<'_, T>, j: usize) -> Self {
        let component = |c: usize, width: usize, at: &dyn Fn(usize) -> T| if c < width { at(c) } else { T::default() };
        Self {
            key: std::array::from_fn(|c| component(c, problem.width, &|c| problem.keys.at(j, c))),
            value: std::array::from_fn(|c| component(c, problem.value_width, &|c| problem.values.at(j, c))),
        }
    }
}

/// All tokens, one after the other as the kernel reads them.
#[derive(Debug)]
pub(super) struct Tokens<T, const D: usize> {
    tokens: Vec<Token<T, D>>,
    largest_key: f64,
}

impl<T: Real, const D: usize> Tokens<T, D> {
    pub(super) fn new(problem: &Problem<'_, T>) -> Self {
        let tokens = (0..problem.counts[1]).map(|j| Token::of(problem, j)).collect();
        Self { tokens, largest_key: problem.largest_key() }
    }
}

/// The answers for consecutive queries from `first` on.
pub(super) struct Task<'a, T, const D: usize> {
    pub(super) problem: &'a Problem<'a, T>,
    pub(super) tokens: &'a Tokens<T, D>,
    pub(super) first: usize,
    pub(super) out: &'a mut [T],
}

impl<T: Real, const D: usize> Work<T> for Task<'_, T, D> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = T>>(self, lanes: L) {
        // Two vectors of queries share each broadcast, as long as their sums stay in registers.
        if D <= 4 { self.groups::<L, 2>(lanes) } else { self.groups::<L, 1>(lanes) }
    }
}

impl<T: Real, const D: usize> Task<'_, T, D> {
    #[inline(always)]
    fn groups<L: Lanes<Real = T>, const R: usize>(self, lanes: L) {
        let size = R * L::WIDTH;
        for (g, out) in self.out.chunks_mut(size * self.problem.answer_width()).enumerate() {
            let group = Group::<L, D, R>::new(lanes, self.problem, self.tokens, self.first + g * size);
            group.answer(out);
        }
    }
}

/// R vectors of queries.
struct Group<'a, L: Lanes, const D: usize, const R: usize> {
    lanes: L,
    problem: &'a Problem<'a, L::Real>,
    first: usize,
    queries: [[L::Vector; D]; R],
    /// The observers' own values.
    own: [[L::Vector; D]; R],
    factor: L::Vector,
    bounds: Option<[[f64; MAX_LANES]; R]>,
    /// Tokens that all queries see, and the rest, of which query i sees those up to i.
    seen: &'a [Token<L::Real, D>],
    diagonal: &'a [Token<L::Real, D>],
}

/// Σ_j w_j and Σ_j w_j v_j.
#[derive(Clone, Copy)]
struct Sums<V, const D: usize, const R: usize> {
    mass: [V; R],
    moment: [[V; D]; R],
}

impl<'a, L: Lanes, const D: usize, const R: usize> Group<'a, L, D, R> {
    #[inline(always)]
    fn new(lanes: L, problem: &'a Problem<'a, L::Real>, tokens: &'a Tokens<L::Real, D>, first: usize) -> Self {
        let last = problem.counts[0] - 1;
        let query_of = |r: usize, l: usize| (first + r * L::WIDTH + l).min(last);
        let gather = |r: usize, at: &dyn Fn(usize) -> L::Real| {
            let mut numbers = [L::Real::default(); MAX_LANES];
            numbers[..L::WIDTH].iter_mut().enumerate().for_each(|(l, number)| *number = at(query_of(r, l)));
            lanes.load(&numbers)
        };
        let mut bounds = [[0.0; MAX_LANES]; R];
        let mut tight = true;
        for (r, bounds) in bounds.iter_mut().enumerate() {
            for (l, bound) in bounds[..L::WIDTH].iter_mut().enumerate() {
                let found = problem.tight_bound(query_of(r, l), tokens.largest_key);
                tight &= found.is_some();
                *bound = found.unwrap_or(0.0);
            }
        }
        let scale = if tight && problem.is_dot() { problem.binary_factor() } else { 1.0 };
        let query = |r: usize, c: usize| {
            if c >= problem.width {
                return lanes.splat(L::Real::default());
            }
            gather(r, &|i| L::Real::from_f64(problem.query(i, c) * scale))
        };
        let own = |r: usize, c: usize| {
            if problem.frame == Frame::Absolute || c >= problem.value_width {
                return lanes.splat(L::Real::default());
            }
            gather(r, &|i| problem.values.at(i, c))
        };
        let queries = std::array::from_fn(|r| std::array::from_fn(|c| query(r, c)));
        let own = std::array::from_fn(|r| std::array::from_fn(|c| own(r, c)));
        let seen = if problem.mask == Mask::Full { tokens.tokens.len() } else { first + 1 };
        let (seen, diagonal) = tokens.tokens.split_at(seen);
        let diagonal = &diagonal[..diagonal.len().min(R * L::WIDTH - 1)];
        let factor = lanes.splat(L::Real::from_f64(problem.binary_factor()));
        let bounds = tight.then_some(bounds);
        Self { lanes, problem, first, queries, own, factor, bounds, seen, diagonal }
    }

    #[inline(always)]
    fn answer(&self, out: &mut [L::Real]) {
        let tops = match (self.bounds, self.problem.is_dot()) {
            (Some(bounds), _) => bounds,
            (None, true) => self.maxima::<DOT>(),
            (None, false) => self.maxima::<DISTANCE>(),
        };
        let sums = match (self.problem.is_dot(), self.bounds.is_some()) {
            (true, true) if self.is_above_cut(&tops) => self.sums_in_frame::<FOLDED_ABOVE_CUT>(&tops),
            (true, true) => self.sums_in_frame::<FOLDED>(&tops),
            (true, false) => self.sums_in_frame::<DOT>(&tops),
            (false, _) => self.sums_in_frame::<DISTANCE>(&tops),
        };
        self.write(&tops, &sums, out);
    }

    /// Whether all scores are far above the cut: with a bound b of |s| they lie above -2b, shift included.
    #[inline(always)]
    fn is_above_cut(&self, bounds: &[[f64; MAX_LANES]; R]) -> bool {
        let largest = bounds.iter().flatten().fold(0.0, |m: f64, b| m.max(*b));
        2.0 * largest * self.problem.binary_factor() <= 0.9 * L::Real::CUT
    }

    #[inline(always)]
    fn sums_in_frame<const MODE: u8>(&self, tops: &[[f64; MAX_LANES]; R]) -> Sums<L::Vector, D, R> {
        match self.problem.frame {
            Frame::Absolute => self.sums::<MODE, false>(tops),
            Frame::Relative => self.sums::<MODE, true>(tops),
        }
    }

    /// x without shift and factor, or with both for FOLDED, whose shift is the starting value.
    #[inline(always)]
    fn score<const MODE: u8>(&self, r: usize, token: &Token<L::Real, D>, start: L::Vector) -> L::Vector {
        let mut score = start;
        for (&query, &key) in self.queries[r].iter().zip(&token.key) {
            let key = self.lanes.splat(key);
            score = if MODE == DISTANCE {
                let difference = self.lanes.sub(query, key);
                self.lanes.neg_mul_add(difference, difference, score)
            } else {
                self.lanes.mul_add(query, key, score)
            };
        }
        score
    }

    #[inline(always)]
    fn weight<const MODE: u8>(&self, r: usize, token: &Token<L::Real, D>, shift: L::Vector) -> L::Vector {
        let lanes = self.lanes;
        if MODE == FOLDED_ABOVE_CUT {
            return lanes.exp2_above_cut(self.score::<MODE>(r, token, shift));
        }
        if MODE == FOLDED {
            return lanes.exp2(self.score::<MODE>(r, token, shift));
        }
        let score = self.score::<MODE>(r, token, lanes.splat(L::Real::default()));
        lanes.exp2(lanes.mul(lanes.sub(score, shift), self.factor))
    }

    #[inline(always)]
    fn sums<const MODE: u8, const RELATIVE: bool>(&self, tops: &[[f64; MAX_LANES]; R]) -> Sums<L::Vector, D, R> {
        let lanes = self.lanes;
        let zero = lanes.splat(L::Real::default());
        let empty = Sums { mass: [zero; R], moment: [[zero; D]; R] };
        let shift = self.shifts::<MODE>(tops);
        let mut total = empty;
        for tokens in self.seen.chunks(KEYS_A_SUM) {
            let mut part = empty;
            for token in tokens {
                for r in 0..R {
                    let weight = self.weight::<MODE>(r, token, shift[r]);
                    self.add::<RELATIVE>(&mut part, r, weight, token);
                }
            }
            for r in 0..R {
                total.mass[r] = lanes.add(total.mass[r], part.mass[r]);
                for c in 0..D {
                    total.moment[r][c] = lanes.add(total.moment[r][c], part.moment[r][c]);
                }
            }
        }
        for (offset, token) in self.diagonal.iter().enumerate() {
            for r in 0..R {
                let weight = self.if_visible(r, offset, self.weight::<MODE>(r, token, shift[r]), zero);
                self.add::<RELATIVE>(&mut total, r, weight, token);
            }
        }
        total
    }

    #[inline(always)]
    fn add<const RELATIVE: bool>(
        &self,
        sums: &mut Sums<L::Vector, D, R>,
        r: usize,
        weight: L::Vector,
        token: &Token<L::Real, D>,
    ) {
        let lanes = self.lanes;
        sums.mass[r] = lanes.add(sums.mass[r], weight);
        for c in 0..D {
            let value = lanes.splat(token.value[c]);
            let value = if RELATIVE { lanes.sub(value, self.own[r][c]) } else { value };
            sums.moment[r][c] = lanes.mul_add(weight, value, sums.moment[r][c]);
        }
    }

    /// `yes` in the lanes whose query sees the token at `offset` of the diagonal, `no` elsewhere.
    #[inline(always)]
    fn if_visible(&self, r: usize, offset: usize, yes: L::Vector, no: L::Vector) -> L::Vector {
        let mut indices = [L::Real::default(); MAX_LANES];
        (0..L::WIDTH).for_each(|l| indices[l] = L::Real::from_f64((r * L::WIDTH + l) as f64));
        let first = self.lanes.splat(L::Real::from_f64((offset + 1) as f64));
        self.lanes.select_at_least([self.lanes.load(&indices), first], yes, no)
    }

    #[inline(always)]
    fn shifts<const MODE: u8>(&self, tops: &[[f64; MAX_LANES]; R]) -> [L::Vector; R] {
        std::array::from_fn(|r| {
            let shift = |top: f64| {
                if matches!(MODE, FOLDED | FOLDED_ABOVE_CUT) { -top * self.problem.binary_factor() } else { top }
            };
            self.lanes.load(&tops[r].map(|top| L::Real::from_f64(shift(top))))
        })
    }

    /// max_j s_ij over the visible tokens.
    #[inline(always)]
    fn maxima<const MODE: u8>(&self) -> [[f64; MAX_LANES]; R] {
        let lanes = self.lanes;
        let (zero, lowest) = (lanes.splat(L::Real::default()), lanes.splat(L::Real::LOWEST));
        let mut tops = [lowest; R];
        for token in self.seen {
            for (r, top) in tops.iter_mut().enumerate() {
                *top = lanes.max(self.score::<MODE>(r, token, zero), *top);
            }
        }
        for (offset, token) in self.diagonal.iter().enumerate() {
            for (r, top) in tops.iter_mut().enumerate() {
                let score = self.if_visible(r, offset, self.score::<MODE>(r, token, zero), lowest);
                *top = lanes.max(score, *top);
            }
        }
        tops.map(|top| {
            let mut numbers = [L::Real::default(); MAX_LANES];
            lanes.store(top, &mut numbers);
            numbers.map(L::Real::to_f64)
        })
    }

    #[inline(always)]
    fn write(&self, tops: &[[f64; MAX_LANES]; R], sums: &Sums<L::Vector, D, R>, out: &mut [L::Real]) {
        let numbers = |vector: L::Vector| {
            let mut numbers = [L::Real::default(); MAX_LANES];
            self.lanes.store(vector, &mut numbers);
            numbers
        };
        let width = self.problem.answer_width();
        for (r, out) in out.chunks_mut(L::WIDTH * width).enumerate() {
            let (mass, moment) = (numbers(sums.mass[r]), sums.moment[r].map(numbers));
            for (l, out) in out.chunks_exact_mut(width).enumerate() {
                let i = self.first + r * L::WIDTH + l;
                self.problem.finish(i, tops[r][l], mass[l], |c| moment[c][l], out);
            }
        }
    }
}

/// Whether these kernels compute such a problem.
pub(super) fn fits<T: Real>(problem: &Problem<'_, T>) -> bool {
    let exponential = matches!(problem.normalization, Streamed::Softmax | Streamed::Exponential);
    let sign_fits = problem.is_dot() || !problem.negative;
    exponential && sign_fits && problem.width.max(problem.value_width) <= LARGEST_DIM
}
