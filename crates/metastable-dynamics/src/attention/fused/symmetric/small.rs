//! Few dimensions: the tokens of one block in lanes, those of the other broadcast.
//!
//! A register holds one component of as many tokens as it has lanes, R registers at a time. Each weight goes into the
//! sums of the tokens in lanes, which stay in registers, and into sums of the token that is broadcast, one lane for each
//! of the others: those lie in the nearest cache for [`TOKENS_AT_ONCE`] tokens, and their lanes are added up when a whole
//! block has passed.
// Indices in loops over registers: iterator adaptors keep vectors out of them (see `crate::lanes::Lanes`).
#![allow(clippy::needless_range_loop)]

use super::super::problem::{Frame, Problem};
use super::super::small::Token;
use super::{Blocks, Pairs};
use crate::lanes::{Lanes, Level, Real, Work};

/// Tokens that are broadcast while their sums lie near; a multiple of the tokens in lanes.
const TOKENS_AT_ONCE: usize = 64;
/// The largest block: its sums over lanes are added up once for so many tokens.
const LARGEST_BLOCK: usize = 512;

/// x = start + <q, k>.
const DOT: u8 = 0;
/// The same, where no x comes near the cut of 2^x.
const DOT_ABOVE_CUT: u8 = 1;
/// x = start - |q - k|².
const DISTANCE: u8 = 2;

/// All tokens, as they are broadcast and as they stand in lanes.
pub(super) struct Cloud<'a, T, const D: usize> {
    problem: &'a Problem<'a, T>,
    level: Level,
    mode: u8,
    size: usize,
    tokens: Vec<Token<T, D>>,
    /// \[block\]\[component\]\[token\]: D of the queries, D of the values, and where x starts.
    in_lanes: Vec<T>,
}

impl<'a, T: Real, const D: usize> Cloud<'a, T, D> {
    pub(super) fn new(problem: &'a Problem<'a, T>, shift: f64, level: Level) -> Self {
        let count = problem.counts[0];
        let size = (count / 16).next_multiple_of(TOKENS_AT_ONCE).clamp(2 * TOKENS_AT_ONCE, LARGEST_BLOCK);
        // The factor goes into the queries; for distances its root into both.
        let factor = problem.binary_factor();
        let scales = if problem.is_dot() { [factor, 1.0] } else { [factor.sqrt(); 2] };
        let component = |c: usize, width: usize, at: &dyn Fn(usize) -> T| if c < width { at(c) } else { T::default() };
        let token = |j: usize| {
            let token = Token::of(problem, j);
            Token { key: token.key.map(|key| T::from_f64(key.to_f64() * scales[1])), ..token }
        };
        let mut in_lanes = vec![T::default(); count.div_ceil(size) * size * (2 * D + 1)];
        for (b, block) in in_lanes.chunks_exact_mut(size * (2 * D + 1)).enumerate() {
            for (row, numbers) in block.chunks_exact_mut(size).enumerate() {
                for (t, number) in numbers.iter_mut().enumerate() {
                    let i = b * size + t;
                    *number = if row == 2 * D {
                        // What fills up the last block has no weight.
                        T::from_f64(if i < count { -shift * factor } else { -2.0 * T::CUT })
                    } else if i >= count {
                        T::default()
                    } else if row < D {
                        component(row, problem.width, &|c| T::from_f64(problem.query(i, c) * scales[0]))
                    } else {
                        component(row - D, problem.value_width, &|c| problem.values.at(i, c))
                    };
                }
            }
        }
        let mode = match problem.is_dot() {
            true if 2.0 * shift * factor <= 0.9 * T::CUT => DOT_ABOVE_CUT,
            true => DOT,
            false => DISTANCE,
        };
        Self { problem, level, mode, size, tokens: (0..count).map(token).collect(), in_lanes }
    }

    fn tokens_of(&self, block: usize) -> &[Token<T, D>] {
        &self.tokens[block * self.size..self.tokens.len().min((block + 1) * self.size)]
    }
}

impl<T: Real, const D: usize> Pairs for Cloud<'_, T, D> {
    /// \[component\]\[token\]: D of Σ_j w_ij v_j, then Σ_j w_ij.
    type Sums = Vec<T>;

    fn within(&self, block: usize, sums: &mut Vec<T>) {
        let [rows, columns] = T::dispatch(self.level, Visit { cloud: self, blocks: [block; 2] });
        add(sums, &rows);
        add(sums, &columns);
    }

    fn between(&self, blocks: [usize; 2], [row_sums, column_sums]: [&mut Vec<T>; 2]) {
        let [rows, columns] = T::dispatch(self.level, Visit { cloud: self, blocks });
        add(row_sums, &rows);
        add(column_sums, &columns);
    }
}

fn add<T: Real>(sums: &mut [T], more: &[T]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = T::from_f64(sum.to_f64() + more.to_f64());
    }
}

impl<T: Real, const D: usize> Blocks<T> for Cloud<'_, T, D> {
    fn size(&self) -> usize {
        self.size
    }

    fn zeros(&self) -> Vec<T> {
        vec![T::default(); (D + 1) * self.size]
    }

    fn mass(&self, sums: &Vec<T>, token: usize) -> T {
        sums[D * self.size + token]
    }

    fn copy_moment(&self, sums: &Vec<T>, token: usize, out: &mut [T]) {
        out.iter_mut().enumerate().for_each(|(c, out)| *out = sums[c * self.size + token]);
    }
}

/// The pairs of the tokens of the first block, in lanes, with those of the second.
struct Visit<'a, T, const D: usize> {
    cloud: &'a Cloud<'a, T, D>,
    blocks: [usize; 2],
}

impl<T: Real, const D: usize> Work<T> for Visit<'_, T, D> {
    type Output = [Vec<T>; 2];

    #[inline(always)]
    fn run<L: Lanes<Real = T>>(self, lanes: L) -> [Vec<T>; 2] {
        // Two registers of tokens share each broadcast, as long as their sums stay in registers.
        if D <= 4 { self.in_mode::<L, 2>(lanes) } else { self.in_mode::<L, 1>(lanes) }
    }
}

impl<T: Real, const D: usize> Visit<'_, T, D> {
    #[inline(always)]
    fn in_mode<L: Lanes<Real = T>, const R: usize>(self, lanes: L) -> [Vec<T>; 2] {
        // The last block may be filled up, with tokens far below the cut.
        let last = self.blocks[0] + 1 == self.cloud.tokens.len().div_ceil(self.cloud.size);
        match (self.cloud.mode, self.cloud.problem.frame) {
            (DOT_ABOVE_CUT, Frame::Absolute) if L::MANY_REGISTERS && !last => {
                self.sums::<L, R, false, DOT_ABOVE_CUT>(lanes)
            }
            (DISTANCE, Frame::Absolute) => self.sums::<L, R, false, DISTANCE>(lanes),
            (DISTANCE, Frame::Relative) => self.sums::<L, R, true, DISTANCE>(lanes),
            (_, Frame::Absolute) => self.sums::<L, R, false, DOT>(lanes),
            (_, Frame::Relative) => self.sums::<L, R, true, DOT>(lanes),
        }
    }

    #[inline(always)]
    fn sums<L: Lanes<Real = T>, const R: usize, const RELATIVE: bool, const MODE: u8>(self, lanes: L) -> [Vec<T>; 2] {
        let Self { cloud, blocks } = self;
        let size = cloud.size;
        let mut sums = [cloud.zeros(), cloud.zeros()];
        let [rows, columns] = &mut sums;
        let mut near = Near::<L, D>::empty(lanes);
        let block = &cloud.in_lanes[blocks[0] * size * (2 * D + 1)..][..size * (2 * D + 1)];
        for (part, tokens) in cloud.tokens_of(blocks[1]).chunks(TOKENS_AT_ONCE).enumerate() {
            let begin = part * TOKENS_AT_ONCE;
            // Within a block, what comes before a part has met it already, and it meets itself in both orders.
            let within = blocks[0] == blocks[1];
            for first in (if within { begin } else { 0 }..size).step_by(R * L::WIDTH) {
                if within && first == begin + TOKENS_AT_ONCE {
                    near = Near::empty(lanes);
                }
                let group = Group::<L, D, R>::new(lanes, block, size, first);
                group.add::<RELATIVE, MODE>(tokens, &mut near, rows);
            }
            if !within || begin + TOKENS_AT_ONCE < size {
                near.write(lanes, columns, size, begin);
            }
            near = Near::empty(lanes);
        }
        sums
    }
}

/// Sums of the tokens that are broadcast, one lane for each token in lanes.
struct Near<L: Lanes, const D: usize> {
    mass: [L::Vector; TOKENS_AT_ONCE],
    moment: [[L::Vector; D]; TOKENS_AT_ONCE],
}

impl<L: Lanes, const D: usize> Near<L, D> {
    #[inline(always)]
    fn empty(lanes: L) -> Self {
        let zero = lanes.splat(L::Real::default());
        Self { mass: [zero; TOKENS_AT_ONCE], moment: [[zero; D]; TOKENS_AT_ONCE] }
    }

    /// Adds up lanes.
    #[inline(always)]
    fn write(&self, lanes: L, columns: &mut [L::Real], size: usize, begin: usize) {
        for c in 0..=D {
            for t in 0..TOKENS_AT_ONCE {
                let sum = if c == D { self.mass[t] } else { self.moment[t][c] };
                columns[c * size + begin + t] = lanes.sum(sum);
            }
        }
    }
}

/// R registers of tokens.
struct Group<L: Lanes, const D: usize, const R: usize> {
    lanes: L,
    size: usize,
    first: usize,
    queries: [[L::Vector; D]; R],
    values: [[L::Vector; D]; R],
    start: [L::Vector; R],
}

impl<L: Lanes, const D: usize, const R: usize> Group<L, D, R> {
    #[inline(always)]
    fn new(lanes: L, block: &[L::Real], size: usize, first: usize) -> Self {
        let zero = lanes.splat(L::Real::default());
        let mut group = Self { lanes, size, first, queries: [[zero; D]; R], values: [[zero; D]; R], start: [zero; R] };
        for r in 0..R {
            let at = first + r * L::WIDTH;
            for c in 0..D {
                group.queries[r][c] = lanes.load(&block[c * size + at..]);
                group.values[r][c] = lanes.load(&block[(D + c) * size + at..]);
            }
            group.start[r] = lanes.load(&block[2 * D * size + at..]);
        }
        group
    }

    /// Adds the pairs with `tokens` to the sums of the tokens in lanes and to theirs.
    #[inline(always)]
    fn add<const RELATIVE: bool, const MODE: u8>(
        &self,
        tokens: &[Token<L::Real, D>],
        near: &mut Near<L, D>,
        rows: &mut [L::Real],
    ) {
        let lanes = self.lanes;
        let zero = lanes.splat(L::Real::default());
        let (mut mass, mut moment) = ([zero; R], [[zero; D]; R]);
        for (token, (near_mass, near_moment)) in tokens.iter().zip(near.mass.iter_mut().zip(&mut near.moment)) {
            let mut weights = [zero; R];
            for r in 0..R {
                weights[r] = self.weight::<MODE>(r, token);
                mass[r] = lanes.add(mass[r], weights[r]);
            }
            let mut sum = *near_mass;
            for r in 0..R {
                sum = lanes.add(sum, weights[r]);
            }
            *near_mass = sum;
            for c in 0..D {
                let value = lanes.splat(token.value[c]);
                let mut sum = near_moment[c];
                for r in 0..R {
                    if RELATIVE {
                        let pull = lanes.mul(lanes.sub(value, self.values[r][c]), weights[r]);
                        moment[r][c] = lanes.add(moment[r][c], pull);
                        sum = lanes.sub(sum, pull);
                    } else {
                        moment[r][c] = lanes.mul_add(weights[r], value, moment[r][c]);
                        sum = lanes.mul_add(weights[r], self.values[r][c], sum);
                    }
                }
                near_moment[c] = sum;
            }
        }
        for r in 0..R {
            for c in 0..D {
                self.add_to(rows, c, r, moment[r][c]);
            }
            self.add_to(rows, D, r, mass[r]);
        }
    }

    #[inline(always)]
    fn add_to(&self, rows: &mut [L::Real], c: usize, r: usize, sum: L::Vector) {
        let numbers = &mut rows[c * self.size + self.first + r * L::WIDTH..];
        self.lanes.store(self.lanes.add(self.lanes.load(numbers), sum), numbers);
    }

    #[inline(always)]
    fn weight<const MODE: u8>(&self, r: usize, token: &Token<L::Real, D>) -> L::Vector {
        let lanes = self.lanes;
        let mut x = self.start[r];
        for c in 0..D {
            let key = lanes.splat(token.key[c]);
            x = if MODE == DISTANCE {
                let difference = lanes.sub(self.queries[r][c], key);
                lanes.neg_mul_add(difference, difference, x)
            } else {
                lanes.mul_add(self.queries[r][c], key, x)
            };
        }
        if MODE == DOT_ABOVE_CUT { lanes.exp2_above_cut(x) } else { lanes.exp2(x) }
    }
}
