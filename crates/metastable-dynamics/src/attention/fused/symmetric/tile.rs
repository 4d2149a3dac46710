//! More dimensions: one tile of weights, multiplied with the values of both of its sides.
//!
//! Scores come as in the general path: 3 registers of queries, keys broadcast in panels of ROWS. The weights of 48
//! queries with 48 keys go to the nearest cache, from which `messages` takes them, for the tokens of either side.
// Indices in loops over registers: iterator adaptors keep vectors out of them (see `crate::lanes::Lanes`).
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use super::super::problem::{Problem, Streamed};
use super::super::tile::{VECTORS, logistic};
use super::messages::{Aligned, Layout, SIDE, Weights, add_to_keys, add_to_queries};
use super::{Blocks, Pairs};
use crate::lanes::{Lanes, Level, Real, Work};

/// Tokens of a small and of a large block: multiples of SIDE.
const BLOCKS: [usize; 2] = [2 * SIDE, 4 * SIDE];
/// Bytes of the values of a large block: two blocks, their messages, queries and keys stay in the second cache.
const LARGEST_VALUES: usize = 1 << 17;
/// What a power costs, in fused products.
const POWER: usize = 8;

/// x = start + <q, k>, and the weight 2^x.
const DOT: u8 = 0;
/// The same, where no x comes near the cut of 2^x.
const DOT_ABOVE_CUT: u8 = 1;
/// The weight 2^x of x = (start - |q - k|²)·factor.
const DISTANCE: u8 = 2;
/// The logistic function.
const SIGMOID: u8 = 3;

/// Whether fewer operations are needed than without symmetry: values are filled up to whole registers here.
pub(super) fn pays<T: Real>(problem: &Problem<'_, T>, level: Level) -> bool {
    let rows = if level == Level::Avx512 { 8 } else { 4 };
    let one_side = problem.width + problem.value_width.next_multiple_of(rows) + POWER;
    let both = problem.width + 2 * problem.value_width.next_multiple_of(level.width::<T>()) + POWER;
    problem.value_width > 0 && both < 2 * one_side
}

/// Tokens in blocks, filled up with zeros.
pub(super) struct Cloud<'a, T, const ROWS: usize, const V: usize> {
    problem: &'a Problem<'a, T>,
    level: Level,
    shift: f64,
    mode: u8,
    size: usize,
    /// How components of values and of messages lie.
    layout: Layout,
    /// \[tile\]\[component\]\[token\], scaled.
    queries: Aligned<T>,
    /// \[panel\]\[component\]\[token\].
    keys: Vec<[T; ROWS]>,
    /// Those of a block together.
    values: Aligned<T>,
}

impl<'a, T: Real, const ROWS: usize, const V: usize> Cloud<'a, T, ROWS, V> {
    pub(super) fn new(problem: &'a Problem<'a, T>, shift: f64, level: Level) -> Self {
        let (count, width) = (problem.counts[0], problem.width);
        let row = problem.value_width.next_multiple_of(level.width::<T>()) * size_of::<T>();
        let size = BLOCKS[usize::from(count >= 16 * BLOCKS[1] && BLOCKS[1] * row <= LARGEST_VALUES)];
        let filled = count.next_multiple_of(size);
        let layout = Layout {
            size,
            lanes: level.width::<T>(),
            registers: problem.value_width.div_ceil(level.width::<T>()),
            panel: V,
        };
        let mode = match problem.normalization {
            Streamed::Sigmoid { .. } => SIGMOID,
            _ if !problem.is_dot() => DISTANCE,
            _ if 2.0 * shift * problem.binary_factor() <= 0.9 * T::CUT => DOT_ABOVE_CUT,
            _ => DOT,
        };
        let scale = if matches!(mode, DOT | DOT_ABOVE_CUT) { problem.binary_factor() } else { 1.0 };
        let tokens_of = |block: usize| block * size..count.min((block + 1) * size);
        let mut queries = Aligned::zeros(filled * width);
        let tile = VECTORS * layout.lanes;
        queries.numbers_mut()[..filled * width].par_chunks_mut(size * width).enumerate().for_each(|(b, block)| {
            let mut query = vec![T::default(); width];
            for (t, i) in tokens_of(b).enumerate() {
                problem.copy_query(i, scale, &mut query);
                let rows = block[t / tile * tile * width..].chunks_exact_mut(tile);
                rows.zip(&query).for_each(|(row, query)| row[t % tile] = *query);
            }
        });
        let mut keys = vec![[T::default(); ROWS]; filled / ROWS * width];
        keys.par_chunks_mut(size / ROWS * width).enumerate().for_each(|(b, block)| {
            let mut key = vec![T::default(); width];
            for (t, j) in tokens_of(b).enumerate() {
                problem.keys.copy(j, &mut key);
                let panel = &mut block[t / ROWS * width..][..width];
                panel.iter_mut().zip(&key).for_each(|(keys, key)| keys[t % ROWS] = *key);
            }
        });
        let mut values = Aligned::zeros(filled * layout.padded());
        values.numbers_mut().par_chunks_mut(size * layout.padded()).enumerate().for_each(|(b, block)| {
            let mut value = vec![T::default(); problem.value_width];
            for (t, j) in tokens_of(b).enumerate() {
                problem.values.copy(j, &mut value);
                layout.parts(&mut value, t).for_each(|(value, place)| block[place].copy_from_slice(value));
            }
        });
        Self { problem, level, shift, mode, size, layout, queries, keys, values }
    }

    fn values_of(&self, block: usize) -> &[T] {
        let count = self.size * self.layout.padded();
        &self.values.numbers()[block * count..][..count]
    }

    fn tokens_of(&self, block: usize) -> usize {
        self.size.min(self.problem.counts[0] - block * self.size)
    }

    fn visit(&self, blocks: [usize; 2], rows: &mut Sums<T>, columns: Option<&mut Sums<T>>) {
        let visit = Visit { cloud: self, blocks, rows, columns };
        match self.mode {
            DOT => T::dispatch(self.level, InMode::<_, DOT>(visit)),
            DOT_ABOVE_CUT => T::dispatch(self.level, InMode::<_, DOT_ABOVE_CUT>(visit)),
            DISTANCE => T::dispatch(self.level, InMode::<_, DISTANCE>(visit)),
            _ => T::dispatch(self.level, InMode::<_, SIGMOID>(visit)),
        }
    }
}

/// Sums of a block's tokens.
pub(super) struct Sums<T> {
    /// Σ_j w_ij.
    mass: Vec<T>,
    /// Σ_j w_ij v_j.
    moment: Aligned<T>,
}

impl<T: Real, const ROWS: usize, const V: usize> Pairs for Cloud<'_, T, ROWS, V> {
    type Sums = Sums<T>;

    fn within(&self, block: usize, sums: &mut Sums<T>) {
        self.visit([block; 2], sums, None);
    }

    fn between(&self, blocks: [usize; 2], [rows, columns]: [&mut Sums<T>; 2]) {
        self.visit(blocks, rows, Some(columns));
    }
}

impl<T: Real, const ROWS: usize, const V: usize> Blocks<T> for Cloud<'_, T, ROWS, V> {
    fn size(&self) -> usize {
        self.size
    }

    fn zeros(&self) -> Sums<T> {
        Sums { mass: vec![T::default(); self.size], moment: Aligned::zeros(self.size * self.layout.padded()) }
    }

    fn mass(&self, sums: &Sums<T>, token: usize) -> T {
        sums.mass[token]
    }

    fn copy_moment(&self, sums: &Sums<T>, token: usize, out: &mut [T]) {
        self.layout.parts(out, token).for_each(|(out, place)| out.copy_from_slice(&sums.moment.numbers()[place]));
    }
}

/// The pairs of the tokens of the first block, in lanes, with those of the second; without columns, those within a
/// block.
struct Visit<'a, T, const ROWS: usize, const V: usize> {
    cloud: &'a Cloud<'a, T, ROWS, V>,
    blocks: [usize; 2],
    rows: &'a mut Sums<T>,
    columns: Option<&'a mut Sums<T>>,
}

/// A visit whose weights are made in one way.
struct InMode<W, const MODE: u8>(W);

impl<T: Real, const ROWS: usize, const V: usize, const MODE: u8> Work<T> for InMode<Visit<'_, T, ROWS, V>, MODE> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = T>>(self, lanes: L) {
        let Visit { cloud, blocks, rows, mut columns } = self.0;
        let zero = lanes.splat(T::default());
        let keys = cloud.tokens_of(blocks[1]);
        let values = blocks.map(|block| cloud.values_of(block));
        let mut weights = Weights([[T::default(); SIDE]; SIDE]);
        let mut column_mass = vec![zero; cloud.size];
        for first in (0..cloud.tokens_of(blocks[0])).step_by(SIDE) {
            let strip = Strip::<L, ROWS, V, MODE>::new(lanes, cloud, [blocks[0], first]);
            for begin in (0..keys).step_by(SIDE) {
                // Within a block the pairs before the diagonal have been visited from their other side.
                if columns.is_none() && begin < first {
                    continue;
                }
                let count = SIDE.min(keys - begin);
                let both = columns.is_some() || begin > first;
                let near = &mut column_mass[begin..begin + count];
                let mass = &mut rows.mass[first..first + SIDE];
                strip.weigh(blocks[1] * cloud.size + begin, &mut weights, mass, near, both);
                let moment = rows.moment.numbers_mut();
                add_to_queries::<L, V>(lanes, cloud.layout, &weights, values[1], [begin, count], (moment, first));
                if both {
                    let moment = columns.as_mut().map_or(&mut rows.moment, |columns| &mut columns.moment).numbers_mut();
                    add_to_keys::<L, V>(lanes, cloud.layout, &weights, values[0], first, (moment, [begin, count]));
                }
            }
        }
        let mass = &mut columns.map_or(rows, |columns| columns).mass;
        for (sum, lane_sums) in mass.iter_mut().zip(&column_mass) {
            *sum = T::from_f64(sum.to_f64() + lanes.sum(*lane_sums).to_f64());
        }
    }
}

/// 48 queries, in tiles.
struct Strip<'a, L: Lanes, const ROWS: usize, const V: usize, const MODE: u8> {
    lanes: L,
    cloud: &'a Cloud<'a, L::Real, ROWS, V>,
    /// \[tile\]\[component\]\[token\].
    queries: &'a [L::Real],
    /// How many of them are tokens, and do not fill up the last block.
    count: usize,
    is_dot: bool,
    /// Where scores start.
    start: L::Vector,
    factor: L::Vector,
    bias: f64,
}

impl<'a, L: Lanes, const ROWS: usize, const V: usize, const MODE: u8> Strip<'a, L, ROWS, V, MODE> {
    #[inline(always)]
    fn new(lanes: L, cloud: &'a Cloud<'a, L::Real, ROWS, V>, [block, first]: [usize; 2]) -> Self {
        let problem = cloud.problem;
        let queries = &cloud.queries.numbers()[(block * cloud.size + first) * problem.width..][..SIDE * problem.width];
        let start = match MODE {
            DOT | DOT_ABOVE_CUT => -cloud.shift * problem.binary_factor(),
            _ => 0.0,
        };
        let start = lanes.splat(L::Real::from_f64(start));
        let count = (cloud.tokens_of(block) - first).min(SIDE);
        let factor = lanes.splat(L::Real::from_f64(problem.binary_factor()));
        let bias = if let Streamed::Sigmoid { bias } = problem.normalization { bias } else { 0.0 };
        Self { lanes, cloud, queries, count, is_dot: problem.is_dot(), start, factor, bias }
    }

    /// Writes the weights of 48 keys from `begin` on, and adds them up for the queries and, if `both`, for the keys that
    /// exist.
    #[inline(always)]
    fn weigh(
        &self,
        begin: usize,
        out: &mut Weights<L::Real>,
        mass: &mut [L::Real],
        key_mass: &mut [L::Vector],
        both: bool,
    ) {
        let lanes = self.lanes;
        let width = self.cloud.problem.width;
        let tile = VECTORS * L::WIDTH;
        let keys = key_mass.len().div_ceil(ROWS);
        for (t, queries) in self.queries.chunks_exact(tile * width).enumerate() {
            let at = t * tile;
            let share = self.share(at);
            let mut sums = [lanes.splat(L::Real::default()); VECTORS];
            for (p, panel) in self.cloud.keys[begin / ROWS * width..].chunks_exact(width).take(keys).enumerate() {
                let mut weights = self.scores(queries, panel);
                for r in 0..ROWS {
                    for u in 0..VECTORS {
                        weights[r][u] = self.weight(weights[r][u]);
                    }
                }
                if at + tile > self.count {
                    for r in 0..ROWS {
                        for u in 0..VECTORS {
                            weights[r][u] = lanes.mul(weights[r][u], share[u]);
                        }
                    }
                }
                let first = p * ROWS;
                for r in 0..ROWS {
                    for u in 0..VECTORS {
                        lanes.store(weights[r][u], &mut out.0[first + r][at + u * L::WIDTH..]);
                    }
                    if first + r < key_mass.len() {
                        for u in 0..VECTORS {
                            sums[u] = lanes.add(sums[u], weights[r][u]);
                        }
                        if both {
                            let mut sum = key_mass[first + r];
                            for u in 0..VECTORS {
                                sum = lanes.add(sum, weights[r][u]);
                            }
                            key_mass[first + r] = sum;
                        }
                    }
                }
            }
            for u in 0..VECTORS {
                let mass = &mut mass[at + u * L::WIDTH..];
                lanes.store(lanes.add(lanes.load(mass), sums[u]), mass);
            }
        }
    }

    /// 1 for the tokens among the queries of a tile, 0 for what fills it up.
    #[inline(always)]
    fn share(&self, at: usize) -> [L::Vector; VECTORS] {
        let numbers: [L::Real; SIDE] = std::array::from_fn(|l| L::Real::from_f64(f64::from(u8::from(l < self.count))));
        let mut share = [self.start; VECTORS];
        for u in 0..VECTORS {
            share[u] = self.lanes.load(&numbers[at + u * L::WIDTH..]);
        }
        share
    }

    /// start + Σ_c q_c k_c, or start - Σ_c (q_c - k_c)², for each key of a panel.
    #[inline(always)]
    fn scores(&self, queries: &[L::Real], keys: &[[L::Real; ROWS]]) -> [[L::Vector; VECTORS]; ROWS] {
        let lanes = self.lanes;
        let mut scores = [[self.start; VECTORS]; ROWS];
        for (row, keys) in queries.chunks_exact(VECTORS * L::WIDTH).zip(keys) {
            let mut query = [self.start; VECTORS];
            for u in 0..VECTORS {
                query[u] = lanes.load(&row[u * L::WIDTH..]);
            }
            for r in 0..ROWS {
                let key = lanes.splat(keys[r]);
                for u in 0..VECTORS {
                    scores[r][u] = if MODE == DOT || MODE == DOT_ABOVE_CUT || self.is_dot {
                        lanes.mul_add(key, query[u], scores[r][u])
                    } else {
                        let difference = lanes.sub(query[u], key);
                        lanes.neg_mul_add(difference, difference, scores[r][u])
                    };
                }
            }
        }
        scores
    }

    #[inline(always)]
    fn weight(&self, score: L::Vector) -> L::Vector {
        let lanes = self.lanes;
        match MODE {
            DOT => lanes.exp2(score),
            DOT_ABOVE_CUT => lanes.exp2_above_cut(score),
            DISTANCE => lanes.exp2(lanes.mul(score, self.factor)),
            _ => logistic(lanes, score, self.factor, self.bias),
        }
    }
}
