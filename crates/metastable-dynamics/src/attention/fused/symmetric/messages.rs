//! Messages of one tile of weights, for the tokens of either side.
//!
//! The weights of 48 queries with 48 keys lie in the nearest cache and are broadcast from there. Messages lie with V
//! registers of components in lanes, a few tokens at a time, and so do the values that they are sums of.
// Indices in loops over registers: iterator adaptors keep vectors out of them (see `crate::lanes::Lanes`).
#![allow(clippy::needless_range_loop)]

use super::super::tile::MAX_QUERIES;
use crate::lanes::{Lanes, Real};

/// Queries and keys whose weights lie near: a multiple of every tile.
pub(super) const SIDE: usize = MAX_QUERIES;

/// Weights of 48 keys with 48 queries, one key after the other.
#[repr(align(64))]
pub(super) struct Weights<T>(pub(super) [[T; SIDE]; SIDE]);

/// Components of a block's tokens, `panel` registers of them for each token: \[panel\]\[token\]\[component\]. The last
/// panel may be narrower.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) size: usize,
    /// Numbers in a register.
    pub(super) lanes: usize,
    /// Registers of a token in all panels.
    pub(super) registers: usize,
    /// Registers of a token in one panel.
    pub(super) panel: usize,
}

impl Layout {
    /// Components of a token, whole registers.
    pub(super) fn padded(self) -> usize {
        self.registers * self.lanes
    }

    /// Registers of the panel that begins with register `first`.
    fn width(self, first: usize) -> usize {
        self.panel.min(self.registers - first)
    }

    /// The parts of a token's components, and where they lie in its block.
    pub(super) fn parts<T>(
        self,
        components: &mut [T],
        token: usize,
    ) -> impl Iterator<Item = (&mut [T], std::ops::Range<usize>)> {
        components.chunks_mut(self.panel * self.lanes).enumerate().map(move |(p, part)| {
            let begin = self.range(p * self.panel, token, 1).start;
            let place = begin..begin + part.len();
            (part, place)
        })
    }

    /// Where `count` tokens from `first` on lie, in the panel that begins with register `panel`.
    fn range(self, panel: usize, first: usize, count: usize) -> std::ops::Range<usize> {
        let width = self.width(panel);
        let begin = (panel * self.size + first * width) * self.lanes;
        begin..begin + count * width * self.lanes
    }
}

/// Numbers that begin where a line of the cache does.
pub(super) struct Aligned<T> {
    numbers: Vec<T>,
    begin: usize,
}

impl<T: Real> Aligned<T> {
    pub(super) fn zeros(count: usize) -> Self {
        const LINE: usize = 64;
        let numbers = vec![T::default(); count + LINE / size_of::<T>()];
        let begin = numbers.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        Self { numbers, begin }
    }

    pub(super) fn numbers(&self) -> &[T] {
        &self.numbers[self.begin..]
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [T] {
        &mut self.numbers[self.begin..]
    }
}

/// Adds Σ_j w_ij v_j over `keys` (the first, how many) to the sums of 48 queries (the first beside them).
#[inline(always)]
pub(super) fn add_to_queries<L: Lanes, const V: usize>(
    lanes: L,
    layout: Layout,
    weights: &Weights<L::Real>,
    values: &[L::Real],
    keys: [usize; 2],
    (sums, first): (&mut [L::Real], usize),
) {
    for panel in (0..layout.registers).step_by(V) {
        let sums = &mut sums[layout.range(panel, first, SIDE)];
        let values = &values[layout.range(panel, keys[0], keys[1])];
        match layout.width(panel) {
            1 => queries_panel::<L, 1>(lanes, weights, values, sums),
            2 => queries_panel::<L, 2>(lanes, weights, values, sums),
            3 => queries_panel::<L, 3>(lanes, weights, values, sums),
            _ => queries_panel::<L, V>(lanes, weights, values, sums),
        }
    }
}

/// Adds Σ_i w_ij v_i over 48 queries from `first` on to the sums of keys (the first and how many beside them).
#[inline(always)]
pub(super) fn add_to_keys<L: Lanes, const V: usize>(
    lanes: L,
    layout: Layout,
    weights: &Weights<L::Real>,
    values: &[L::Real],
    first: usize,
    (sums, [begin, count]): (&mut [L::Real], [usize; 2]),
) {
    // What fills up the last tokens in registers gets sums that nobody reads.
    let count = count.next_multiple_of(TOKENS);
    for panel in (0..layout.registers).step_by(V) {
        let sums = &mut sums[layout.range(panel, begin, count)];
        let values = &values[layout.range(panel, first, SIDE)];
        match layout.width(panel) {
            1 => keys_panel::<L, 1>(lanes, weights, values, sums),
            2 => keys_panel::<L, 2>(lanes, weights, values, sums),
            3 => keys_panel::<L, 3>(lanes, weights, values, sums),
            _ => keys_panel::<L, V>(lanes, weights, values, sums),
        }
    }
}

/// Tokens whose sums stay in registers.
const TOKENS: usize = 6;

#[inline(always)]
fn queries_panel<L: Lanes, const V: usize>(
    lanes: L,
    weights: &Weights<L::Real>,
    values: &[L::Real],
    sums: &mut [L::Real],
) {
    let zero = lanes.splat(L::Real::default());
    for (g, group) in sums.chunks_exact_mut(TOKENS * V * L::WIDTH).enumerate().take(SIDE / TOKENS) {
        let mut part = [[zero; V]; TOKENS];
        for (weights, row) in weights.0.iter().zip(values.chunks_exact(V * L::WIDTH)) {
            let weights: &[L::Real] = &weights[g * TOKENS..][..TOKENS];
            add_outer(lanes, std::array::from_fn(|t| weights[t]), row, &mut part);
        }
        add_part(lanes, group, &part);
    }
}

#[inline(always)]
fn keys_panel<L: Lanes, const V: usize>(
    lanes: L,
    weights: &Weights<L::Real>,
    values: &[L::Real],
    sums: &mut [L::Real],
) {
    let zero = lanes.splat(L::Real::default());
    let (weights, _) = weights.0.as_chunks::<TOKENS>();
    for (group, weights) in sums.chunks_exact_mut(TOKENS * V * L::WIDTH).zip(weights) {
        let mut part = [[zero; V]; TOKENS];
        for (i, row) in values.chunks_exact(V * L::WIDTH).enumerate().take(SIDE) {
            add_outer(lanes, std::array::from_fn(|t| weights[t][i]), row, &mut part);
        }
        add_part(lanes, group, &part);
    }
}

#[inline(always)]
fn add_outer<L: Lanes, const V: usize>(
    lanes: L,
    weights: [L::Real; TOKENS],
    row: &[L::Real],
    sums: &mut [[L::Vector; V]; TOKENS],
) {
    let mut values = [lanes.splat(L::Real::default()); V];
    for v in 0..V {
        values[v] = lanes.load(&row[v * L::WIDTH..]);
    }
    for t in 0..TOKENS {
        let weight = lanes.splat(weights[t]);
        for v in 0..V {
            sums[t][v] = lanes.mul_add(weight, values[v], sums[t][v]);
        }
    }
}

#[inline(always)]
fn add_part<L: Lanes, const V: usize>(lanes: L, sums: &mut [L::Real], part: &[[L::Vector; V]; TOKENS]) {
    for t in 0..TOKENS {
        for v in 0..V {
            let sums = &mut sums[(t * V + v) * L::WIDTH..];
            lanes.store(lanes.add(lanes.load(sums), part[t][v]), sums);
        }
    }
}
