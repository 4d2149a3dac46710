//! Any dimensions and all kernels: two products of matrices around the weights, tile by tile.
//!
//! A tile is 3 registers of queries wide. Its queries lie component by component in the nearest cache, its keys come in
//! panels of ROWS: the scores of a panel are ROWS x 3 registers of sums, one fused product a component each. They become
//! weights on the way to a buffer of 64 keys, from which the second product goes through values in panels of ROWS
//! components. Where no cheap bound of the scores is tight, the maximum runs along, and what was summed before is
//! scaled down whenever it grows (Milakov and Gimelshein 1805.02867; Dao et al. 2205.14135 \[2nd\]).
// Indices in loops over registers: iterator adaptors keep vectors out of them (see `crate::lanes::Lanes`).
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use super::super::kernel::Mask;
use super::problem::{Frame, Problem, Streamed};
use crate::lanes::{Lanes, Real, Work};

/// Keys between two visits to the sums of the messages.
const KEYS_A_BLOCK: usize = 64;
/// Components of queries that stay in the nearest cache while a block of keys passes: 12 KiB of 512-bit registers.
const COMPONENTS_AT_ONCE: usize = 64;
/// Registers of queries.
pub(super) const VECTORS: usize = 3;
/// The widest tile: 3 registers of 16 numbers.
pub(super) const MAX_QUERIES: usize = 48;
/// Queries of a task, a multiple of every tile: few enough that their sums stay in the second cache.
pub(super) const QUERIES_A_TASK: usize = 2 * MAX_QUERIES;

/// Keys and values in panels of ROWS, filled up with zeros.
#[derive(Debug)]
pub(super) struct Panels<T, const ROWS: usize> {
    /// ROWS keys a panel, component after component: \[panel\]\[component\]\[key\].
    keys: Vec<[T; ROWS]>,
    /// ROWS components a panel, block of keys after block: \[block\]\[panel\]\[key\]\[component\].
    values: Vec<[T; ROWS]>,
    largest_key: f64,
}

impl<T: Real, const ROWS: usize> Panels<T, ROWS> {
    pub(super) fn new(problem: &Problem<'_, T>) -> Self {
        let (count, width) = (problem.counts[1], problem.width);
        let entry = |j: usize, c: usize, within: usize, from: &dyn Fn(usize, usize) -> T| {
            if j < count && c < within { from(j, c) } else { T::default() }
        };
        let key = |j: usize, c: usize| entry(j, c, width, &|j, c| problem.keys.at(j, c));
        let value = |j: usize, c: usize| entry(j, c, problem.value_width, &|j, c| problem.values.at(j, c));
        let mut keys = vec![[T::default(); ROWS]; count.div_ceil(ROWS) * width];
        keys.par_chunks_mut(width * KEYS_A_BLOCK / ROWS).enumerate().for_each(|(block, keys)| {
            for (p, panel) in keys.chunks_exact_mut(width).enumerate() {
                let first = block * KEYS_A_BLOCK + p * ROWS;
                for (c, keys) in panel.iter_mut().enumerate() {
                    *keys = std::array::from_fn(|r| key(first + r, c));
                }
            }
        });
        let panels = problem.value_width.div_ceil(ROWS);
        let mut values = vec![[T::default(); ROWS]; count.next_multiple_of(KEYS_A_BLOCK) * panels];
        if panels > 0 {
            values.par_chunks_mut(KEYS_A_BLOCK * panels).enumerate().for_each(|(block, values)| {
                for (panel, rows) in values.chunks_exact_mut(KEYS_A_BLOCK).enumerate() {
                    for (j, row) in rows.iter_mut().enumerate() {
                        *row = std::array::from_fn(|c| value(block * KEYS_A_BLOCK + j, panel * ROWS + c));
                    }
                }
            });
        }
        Self { keys, values, largest_key: problem.largest_key() }
    }
}

/// The answers for consecutive queries from `first` on: as many as `out` has room for.
pub(super) struct Task<'a, T, const ROWS: usize> {
    pub(super) problem: &'a Problem<'a, T>,
    pub(super) panels: &'a Panels<T, ROWS>,
    pub(super) first: usize,
    pub(super) out: &'a mut [T],
}

impl<T: Real, const ROWS: usize> Work<T> for Task<'_, T, ROWS> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = T>>(self, lanes: L) {
        let (size, width) = (VECTORS * L::WIDTH, self.problem.answer_width());
        let count = self.out.len() / width;
        let mut tiles = Vec::with_capacity(count.div_ceil(size));
        for offset in (0..count).step_by(size) {
            tiles.push(Tile::<L, ROWS>::new(lanes, self.problem, self.panels, self.first + offset));
        }
        // All tiles take a block of keys and values while it is near.
        let mut weights = [[lanes.splat(T::default()); VECTORS]; KEYS_A_BLOCK];
        for begin in (0..self.problem.counts[1]).step_by(KEYS_A_BLOCK) {
            for tile in &mut tiles {
                tile.add_block(begin, &mut weights);
            }
        }
        for (tile, out) in tiles.iter().zip(self.out.chunks_mut(size * width)) {
            tile.write(out);
        }
    }
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plan {
    /// 2^s: the scores are scaled and shifted already.
    Folded,
    /// 2^{(s - top)·factor}, top running along.
    Running,
    /// The logistic function of s·factor + bias.
    Sigmoid { bias: f64 },
    /// s·factor.
    Linear,
    /// 1 where s is the maximum so far.
    Hardmax,
}

impl Plan {
    fn needs_maximum(self) -> bool {
        matches!(self, Self::Running | Self::Hardmax)
    }
}

/// One tile of queries and its sums.
struct Tile<'a, L: Lanes, const ROWS: usize> {
    lanes: L,
    problem: &'a Problem<'a, L::Real>,
    panels: &'a Panels<L::Real, ROWS>,
    first: usize,
    plan: Plan,
    queries: Vec<[L::Vector; VECTORS]>,
    /// The observers' own values.
    own: Vec<[L::Vector; VECTORS]>,
    /// 0, 1, …: which query a lane holds.
    indices: [L::Vector; VECTORS],
    factor: L::Vector,
    /// Where scores start: the negative bound if they are folded.
    start: [L::Vector; VECTORS],
    tops: [L::Vector; VECTORS],
    bounds: Option<[f64; MAX_QUERIES]>,
    mass: [L::Vector; VECTORS],
    moment: Vec<[L::Vector; VECTORS]>,
}

impl<'a, L: Lanes, const ROWS: usize> Tile<'a, L, ROWS> {
    #[inline(always)]
    fn new(lanes: L, problem: &'a Problem<'a, L::Real>, panels: &'a Panels<L::Real, ROWS>, first: usize) -> Self {
        let last = problem.counts[0] - 1;
        let gather = |at: &dyn Fn(usize) -> L::Real| -> [L::Vector; VECTORS] {
            let mut numbers = [L::Real::default(); MAX_QUERIES];
            for (l, number) in numbers[..VECTORS * L::WIDTH].iter_mut().enumerate() {
                *number = at((first + l).min(last));
            }
            std::array::from_fn(|u| lanes.load(&numbers[u * L::WIDTH..]))
        };
        let bounds = tile_bounds(problem, panels.largest_key, first, VECTORS * L::WIDTH);
        let plan = match problem.normalization {
            Streamed::Softmax | Streamed::Exponential if bounds.is_some() => Plan::Folded,
            Streamed::Softmax | Streamed::Exponential => Plan::Running,
            Streamed::Sigmoid { bias } => Plan::Sigmoid { bias },
            Streamed::Linear => Plan::Linear,
            Streamed::Hardmax => Plan::Hardmax,
        };
        let scale = if plan == Plan::Folded { problem.binary_factor() } else { 1.0 };
        let query = |c: usize| gather(&|i| L::Real::from_f64(problem.query(i, c) * scale));
        let relative = problem.frame == Frame::Relative;
        let own =
            |c: usize| gather(&|i| if c < problem.value_width { problem.values.at(i, c) } else { L::Real::default() });
        let zero = lanes.splat(L::Real::default());
        let padded = problem.value_width.next_multiple_of(ROWS);
        Self {
            lanes,
            problem,
            panels,
            first,
            plan,
            queries: (0..problem.width).map(query).collect(),
            own: if relative { (0..padded).map(own).collect() } else { Vec::new() },
            indices: {
                let numbers: [L::Real; MAX_QUERIES] = std::array::from_fn(|l| L::Real::from_f64(l as f64));
                std::array::from_fn(|u| lanes.load(&numbers[u * L::WIDTH..]))
            },
            factor: lanes.splat(L::Real::from_f64(match plan {
                Plan::Linear => problem.factor.min(L::Real::MAX_FACTOR),
                _ => problem.binary_factor(),
            })),
            start: bounds.filter(|_| plan == Plan::Folded).map_or([zero; VECTORS], |bounds| {
                let shifts = bounds.map(|bound| L::Real::from_f64(-bound * scale));
                std::array::from_fn(|u| lanes.load(&shifts[u * L::WIDTH..]))
            }),
            tops: [lanes.splat(L::Real::LOWEST); VECTORS],
            bounds,
            mass: [zero; VECTORS],
            moment: vec![[zero; VECTORS]; padded],
        }
    }

    /// Adds the visible keys among those from `begin` on; `weights` is room for theirs.
    #[inline(always)]
    fn add_block(&mut self, begin: usize, weights: &mut [[L::Vector; VECTORS]; KEYS_A_BLOCK]) {
        let last = (self.first + VECTORS * L::WIDTH).min(self.problem.counts[0]) - 1;
        let keys = KEYS_A_BLOCK.min(self.problem.visible(last).saturating_sub(begin));
        let causal = self.problem.mask == Mask::Causal && begin + keys > self.first + 1;
        let hidden = causal || keys < KEYS_A_BLOCK;
        let weights = &mut weights[..keys.next_multiple_of(ROWS)];
        if weights.is_empty() {
            return;
        }
        if self.plan.needs_maximum() {
            self.scores(begin, hidden, weights);
            self.weigh(begin, hidden, weights);
        } else {
            self.scores_to_weights(begin, hidden, weights);
        }
        self.add_messages(begin / KEYS_A_BLOCK, weights);
    }

    /// Writes the scores of consecutive keys with all queries.
    #[inline(always)]
    fn block(&self, begin: usize, out: &mut [[L::Vector; VECTORS]]) {
        let lanes = self.lanes;
        let (panels, _) = out.as_chunks_mut::<ROWS>();
        for (part, queries) in self.queries.chunks(COMPONENTS_AT_ONCE).enumerate() {
            for (p, scores) in panels.iter_mut().enumerate() {
                let first = (begin / ROWS + p) * self.queries.len() + part * COMPONENTS_AT_ONCE;
                let keys = &self.panels.keys[first..first + queries.len()];
                let start = if part == 0 { [self.start; ROWS] } else { *scores };
                if self.problem.is_dot() {
                    add_products(lanes, queries, keys, start, scores);
                } else {
                    subtract_squares(lanes, queries, keys, start, scores);
                }
            }
        }
        if self.problem.negative && !self.problem.is_dot() {
            let sign = lanes.splat(L::Real::from_f64(-1.0));
            for score in out.iter_mut().flatten() {
                *score = lanes.mul(*score, sign);
            }
        }
    }

    /// `yes` where key j is visible to the query in the lane, `no` elsewhere.
    #[inline(always)]
    fn if_visible(&self, j: usize, yes: [L::Vector; VECTORS], no: L::Vector) -> [L::Vector; VECTORS] {
        // The lowest lane that sees the key: none for what fills up the last panel.
        let least = match self.problem.mask {
            _ if j >= self.problem.counts[1] => MAX_QUERIES as f64,
            Mask::Full => 0.0,
            Mask::Causal => j as f64 - self.first as f64,
        };
        let least = self.lanes.splat(L::Real::from_f64(least));
        let mut chosen = yes;
        for u in 0..VECTORS {
            chosen[u] = self.lanes.select_at_least([self.indices[u], least], yes[u], no);
        }
        chosen
    }

    /// Scores of a block, the least number where a key is hidden.
    #[inline(always)]
    fn scores(&self, begin: usize, hidden: bool, out: &mut [[L::Vector; VECTORS]]) {
        let lowest = self.lanes.splat(L::Real::LOWEST);
        self.block(begin, out);
        if hidden {
            for (j, row) in out.iter_mut().enumerate() {
                *row = self.if_visible(begin + j, *row, lowest);
            }
        }
    }

    /// Weights of a block that need no maximum.
    #[inline(always)]
    fn scores_to_weights(&mut self, begin: usize, hidden: bool, out: &mut [[L::Vector; VECTORS]]) {
        let zero = self.lanes.splat(L::Real::default());
        let mut mass = [zero; VECTORS];
        self.block(begin, out);
        for (j, row) in out.iter_mut().enumerate() {
            for u in 0..VECTORS {
                row[u] = self.weight(row[u]);
            }
            if hidden {
                *row = self.if_visible(begin + j, *row, zero);
            }
            for u in 0..VECTORS {
                mass[u] = self.lanes.add(mass[u], row[u]);
            }
        }
        self.add_mass(&mass);
    }

    /// The weight of a score that needs no maximum.
    #[inline(always)]
    fn weight(&self, score: L::Vector) -> L::Vector {
        let lanes = self.lanes;
        match self.plan {
            Plan::Sigmoid { bias } => logistic(lanes, score, self.factor, bias),
            Plan::Linear => lanes.mul(score, self.factor),
            _ => lanes.exp2(score),
        }
    }

    /// Scores to weights under a maximum that runs along.
    #[inline(always)]
    fn weigh(&mut self, begin: usize, hidden: bool, rows: &mut [[L::Vector; VECTORS]]) {
        let lanes = self.lanes;
        let zero = lanes.splat(L::Real::default());
        let mut tops = self.tops;
        for row in &*rows {
            for u in 0..VECTORS {
                tops[u] = lanes.max(row[u], tops[u]);
            }
        }
        if begin > 0 {
            self.scale_down(&tops);
        }
        self.tops = tops;
        let mut mass = [zero; VECTORS];
        for (j, row) in rows.iter_mut().enumerate() {
            for u in 0..VECTORS {
                row[u] = self.weight_below(row[u], tops[u]);
            }
            if hidden {
                *row = self.if_visible(begin + j, *row, zero);
            }
            for u in 0..VECTORS {
                mass[u] = lanes.add(mass[u], row[u]);
            }
        }
        self.add_mass(&mass);
    }

    #[inline(always)]
    fn add_mass(&mut self, mass: &[L::Vector; VECTORS]) {
        for u in 0..VECTORS {
            self.mass[u] = self.lanes.add(self.mass[u], mass[u]);
        }
    }

    #[inline(always)]
    fn weight_below(&self, score: L::Vector, top: L::Vector) -> L::Vector {
        let lanes = self.lanes;
        if self.plan == Plan::Hardmax {
            let one = lanes.splat(L::Real::from_f64(1.0));
            return lanes.select_at_least([score, top], one, lanes.splat(L::Real::default()));
        }
        lanes.exp2(lanes.mul(lanes.sub(score, top), self.factor))
    }

    /// Measures the sums from the new maxima.
    #[inline(always)]
    fn scale_down(&mut self, tops: &[L::Vector; VECTORS]) {
        let lanes = self.lanes;
        let mut numbers = [[L::Real::default(); MAX_QUERIES]; 2];
        for u in 0..VECTORS {
            lanes.store(self.tops[u], &mut numbers[0][u * L::WIDTH..]);
            lanes.store(tops[u], &mut numbers[1][u * L::WIDTH..]);
        }
        if numbers[0] == numbers[1] {
            return;
        }
        let mut scale = *tops;
        for u in 0..VECTORS {
            scale[u] = self.weight_below(self.tops[u], tops[u]);
            self.mass[u] = lanes.mul(self.mass[u], scale[u]);
        }
        for row in &mut self.moment {
            for u in 0..VECTORS {
                row[u] = lanes.mul(row[u], scale[u]);
            }
        }
    }

    /// Σ_j w_j v_j of a block, added to the sums of all: rounding grows with the number of blocks, not of keys.
    #[inline(always)]
    fn add_messages(&mut self, block: usize, weights: &[[L::Vector; VECTORS]]) {
        let lanes = self.lanes;
        let zero = lanes.splat(L::Real::default());
        let panels = self.moment.len() / ROWS;
        for (p, moment) in self.moment.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            let values = &self.panels.values[(block * panels + p) * KEYS_A_BLOCK..][..weights.len()];
            let mut sums = [[zero; VECTORS]; ROWS];
            if self.own.is_empty() {
                sum_panel(lanes, weights, values, &mut sums);
            } else {
                let own = &self.own[p * ROWS..(p + 1) * ROWS];
                for (weight, values) in weights.iter().zip(values) {
                    for ((sum, &value), own) in sums.iter_mut().zip(values).zip(own) {
                        let value = lanes.splat(value);
                        for u in 0..VECTORS {
                            sum[u] = lanes.mul_add(lanes.sub(value, own[u]), weight[u], sum[u]);
                        }
                    }
                }
            }
            for (moment, sum) in moment.iter_mut().zip(&sums) {
                for u in 0..VECTORS {
                    moment[u] = lanes.add(moment[u], sum[u]);
                }
            }
        }
    }

    #[inline(always)]
    fn write(&self, out: &mut [L::Real]) {
        let numbers = |vectors: &[L::Vector; VECTORS]| {
            let mut numbers = [L::Real::default(); MAX_QUERIES];
            for (vector, numbers) in vectors.iter().zip(numbers.chunks_exact_mut(L::WIDTH)) {
                self.lanes.store(*vector, numbers);
            }
            numbers
        };
        let (mass, tops) = (numbers(&self.mass), numbers(&self.tops));
        let moment: Vec<_> = self.moment.iter().map(numbers).collect();
        for (l, out) in out.chunks_exact_mut(self.problem.answer_width()).enumerate() {
            let top = match (&self.bounds, self.plan) {
                (Some(bounds), Plan::Folded) => bounds[l],
                _ => tops[l].to_f64(),
            };
            self.problem.finish(self.first + l, top, mass[l], |c| moment[c][l], out);
        }
    }
}

/// Writes start + Σ_c q_c k_c for each key of a panel. The sums are variables of this loop alone, whose indices are known
/// when it is unrolled: they stay in registers.
#[inline(always)]
pub(super) fn add_products<L: Lanes, const ROWS: usize>(
    lanes: L,
    queries: &[[L::Vector; VECTORS]],
    keys: &[[L::Real; ROWS]],
    start: [[L::Vector; VECTORS]; ROWS],
    out: &mut [[L::Vector; VECTORS]; ROWS],
) {
    let mut scores = start;
    for (query, keys) in queries.iter().zip(keys) {
        for r in 0..ROWS {
            let key = lanes.splat(keys[r]);
            for u in 0..VECTORS {
                scores[r][u] = lanes.mul_add(key, query[u], scores[r][u]);
            }
        }
    }
    *out = scores;
}

/// Adds Σ_j w_j v_j for a panel of components.
#[inline(always)]
pub(super) fn sum_panel<L: Lanes, const ROWS: usize>(
    lanes: L,
    weights: &[[L::Vector; VECTORS]],
    values: &[[L::Real; ROWS]],
    out: &mut [[L::Vector; VECTORS]; ROWS],
) {
    let mut sums = *out;
    for (weight, values) in weights.iter().zip(values) {
        for r in 0..ROWS {
            let value = lanes.splat(values[r]);
            for u in 0..VECTORS {
                sums[r][u] = lanes.mul_add(value, weight[u], sums[r][u]);
            }
        }
    }
    *out = sums;
}

/// The logistic function of s + bias, from s in units of 1/factor of an exponent of 2.
#[inline(always)]
pub(super) fn logistic<L: Lanes>(lanes: L, score: L::Vector, factor: L::Vector, bias: f64) -> L::Vector {
    let number = |x: f64| lanes.splat(L::Real::from_f64(x));
    let x = lanes.mul_add(score, factor, number(bias * std::f64::consts::LOG2_E));
    // Below the cut the weight is 2^-CUT, which is as good as 0; NaN is the first argument and is lost here, but comes
    // back through the score.
    let x = lanes.max(x, number(-L::Real::CUT));
    let power = lanes.exp2(lanes.sub(number(0.0), x));
    lanes.div(number(1.0), lanes.add(number(1.0), power))
}

/// Writes start - Σ_c (q_c - k_c)² for each key of a panel.
#[inline(always)]
fn subtract_squares<L: Lanes, const ROWS: usize>(
    lanes: L,
    queries: &[[L::Vector; VECTORS]],
    keys: &[[L::Real; ROWS]],
    start: [[L::Vector; VECTORS]; ROWS],
    out: &mut [[L::Vector; VECTORS]; ROWS],
) {
    let mut scores = start;
    for (query, keys) in queries.iter().zip(keys) {
        for r in 0..ROWS {
            let key = lanes.splat(keys[r]);
            for u in 0..VECTORS {
                let difference = lanes.sub(query[u], key);
                scores[r][u] = lanes.neg_mul_add(difference, difference, scores[r][u]);
            }
        }
    }
    *out = scores;
}

/// Tight bounds of the dot scores of a tile, if all of its queries have one.
fn tile_bounds<T: Real>(
    problem: &Problem<'_, T>,
    largest_key: f64,
    first: usize,
    size: usize,
) -> Option<[f64; MAX_QUERIES]> {
    let mut bounds = [0.0; MAX_QUERIES];
    if !problem.is_dot() {
        return None;
    }
    for (l, bound) in bounds[..size].iter_mut().enumerate() {
        *bound = problem.tight_bound((first + l).min(problem.counts[0] - 1), largest_key)?;
    }
    Some(bounds)
}
