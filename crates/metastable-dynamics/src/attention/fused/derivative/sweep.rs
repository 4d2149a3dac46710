//! One sweep over all visible pairs: two products give a score and a slope, two products take weights back to sums.
//!
//! Rows of one side stand in lanes, 3 registers of them in a tile; rows of the other are broadcast. For a pair (a, b)
//!
//! ```text
//! x = <scores_a, scores_b>,  z = <slopes_a, slopes_b>,   p = w(x),  t = w'(x) z,   out_a = Σ_b (t g_b, p h_b)
//! ```
//!
//! Shifts (log-sums, row means) are components of the rows, multiplied by a 1 on the other side. A block of 32 broadcast
//! rows goes through all four products while its weights are in the nearest cache. Every lane sums in the order of the
//! broadcast rows, in blocks.
// Indices in loops over registers: iterator adaptors keep vectors out of them (see `crate::lanes::Lanes`).
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use super::super::SERIAL_PAIRS;
use super::super::tile::{MAX_QUERIES, QUERIES_A_TASK, VECTORS, add_products, sum_panel};
use super::table::{Table, panels_of_components, panels_of_rows};
use crate::lanes::{Lanes, Level, Real, Work};

/// Broadcast rows between two visits to the sums: their two weights are 12 KiB.
const ROWS_A_BLOCK: usize = 32;
/// Components of the lanes' rows that stay in the nearest cache while a block passes.
const COMPONENTS_AT_ONCE: usize = 72;

/// How a score becomes a weight and its slope.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::attention::fused) enum Weigh {
    /// 2^x, its own slope (up to ln 2, which the products carry).
    Power,
    /// 1/(1 + 2^-x).
    Logistic,
    /// x.
    Linear,
}

/// Which rows in lanes see which broadcast ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::attention::fused) enum Sight {
    /// All.
    All,
    /// Lane i sees the rows up to i.
    Back,
    /// Lane i sees the rows from i on.
    Ahead,
}

impl Sight {
    /// The broadcast rows that any of the lanes first..=last sees, of `count`.
    fn range(self, first: usize, last: usize, count: usize) -> std::ops::Range<usize> {
        match self {
            Self::All => 0..count,
            Self::Back => 0..(last + 1).min(count),
            Self::Ahead => first..count,
        }
    }

    /// Whether each of the lanes first..=last sees each of the rows begin..end.
    fn is_full(self, first: usize, last: usize, begin: usize, end: usize) -> bool {
        match self {
            Self::All => true,
            Self::Back => end <= first + 1,
            Self::Ahead => begin >= last,
        }
    }
}

/// The two sides of a sweep.
pub(in crate::attention::fused) struct Sides<'a, T> {
    /// In lanes: scores and slopes.
    pub(in crate::attention::fused) lanes: [&'a Table<T>; 2],
    /// Broadcast: scores and slopes, as wide as those in lanes.
    pub(in crate::attention::fused) broadcast: [&'a Table<T>; 2],
    /// Broadcast: g and h, and from which component on they are summed.
    pub(in crate::attention::fused) summed: [(&'a Table<T>, usize); 2],
    pub(in crate::attention::fused) weigh: Weigh,
    pub(in crate::attention::fused) sight: Sight,
}

impl<T: Real> Sides<'_, T> {
    /// Σ_b (t g_b, p h_b) for every row in lanes, \[n, widths of g and h\].
    pub(in crate::attention::fused) fn sums(&self, level: Level) -> Table<T> {
        if level == Level::Avx512 { self.sums_in_panels::<8>(level) } else { self.sums_in_panels::<4>(level) }
    }

    fn widths(&self) -> [usize; 2] {
        self.summed.map(|(table, first)| table.width() - first)
    }

    fn sums_in_panels<const SIZE: usize>(&self, level: Level) -> Table<T> {
        let packed = Packed::<T, SIZE> {
            scores: self.broadcast.map(panels_of_rows),
            summed: self.summed.map(|(table, first)| panels_of_components(table, first)),
        };
        let (count, width) = (self.lanes[0].count(), self.widths().iter().sum::<usize>());
        let mut sums = Table::filled(count, width, |_, _| ());
        let task = |first: usize, out: &mut [T]| {
            T::dispatch(level, Task { sides: self, packed: &packed, first, out });
        };
        if count * self.broadcast[0].count() < SERIAL_PAIRS {
            task(0, sums.numbers_mut());
        } else {
            let tasks = sums.numbers_mut().par_chunks_mut(QUERIES_A_TASK * width).enumerate();
            tasks.for_each(|(t, out)| task(t * QUERIES_A_TASK, out));
        }
        sums
    }
}

/// What is broadcast, as the products read it.
struct Packed<T, const SIZE: usize> {
    scores: [Vec<[T; SIZE]>; 2],
    summed: [Vec<[T; SIZE]>; 2],
}

/// The sums of consecutive rows in lanes from `first` on.
struct Task<'a, T, const SIZE: usize> {
    sides: &'a Sides<'a, T>,
    packed: &'a Packed<T, SIZE>,
    first: usize,
    out: &'a mut [T],
}

impl<T: Real, const SIZE: usize> Work<T> for Task<'_, T, SIZE> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes<Real = T>>(self, lanes: L) {
        let widths = self.sides.widths();
        let (size, width) = (VECTORS * L::WIDTH, widths[0] + widths[1]);
        let zero = [lanes.splat(T::default()); VECTORS];
        let mut tile = Tile::<L, SIZE> {
            lanes,
            sides: self.sides,
            packed: self.packed,
            first: 0,
            rows: self.sides.lanes.map(|table| vec![zero; table.width()]),
            sums: widths.map(|width| vec![zero; width.next_multiple_of(SIZE)]),
            blocks: [[zero; ROWS_A_BLOCK]; 2],
        };
        for (t, out) in self.out.chunks_mut(size * width).enumerate() {
            tile.answer(self.first + t * size, out);
        }
    }
}

/// Registers of rows, their sums, and room for the weights of a block.
struct Tile<'a, L: Lanes, const SIZE: usize> {
    lanes: L,
    sides: &'a Sides<'a, L::Real>,
    packed: &'a Packed<L::Real, SIZE>,
    first: usize,
    rows: [Vec<[L::Vector; VECTORS]>; 2],
    sums: [Vec<[L::Vector; VECTORS]>; 2],
    /// x and z, then p and t.
    blocks: [[[L::Vector; VECTORS]; ROWS_A_BLOCK]; 2],
}

impl<L: Lanes, const SIZE: usize> Tile<'_, L, SIZE> {
    #[inline(always)]
    fn answer(&mut self, first: usize, out: &mut [L::Real]) {
        let zero = self.lanes.splat(L::Real::default());
        let last = (first + VECTORS * L::WIDTH).min(self.sides.lanes[0].count()) - 1;
        self.first = first;
        self.gather(last);
        for sums in &mut self.sums {
            sums.fill([zero; VECTORS]);
        }
        let seen = self.sides.sight.range(first, last, self.sides.broadcast[0].count());
        let mut begin = seen.start / SIZE * SIZE;
        while begin < seen.end {
            let end = (begin + ROWS_A_BLOCK).min(seen.end);
            self.add_block(begin, end, !self.sides.sight.is_full(first, last, begin, end));
            begin += ROWS_A_BLOCK;
        }
        self.write(out);
    }

    /// Transposes the rows first..=last into registers; lanes beyond repeat the last one.
    #[inline(always)]
    fn gather(&mut self, last: usize) {
        for (rows, table) in self.rows.iter_mut().zip(self.sides.lanes) {
            // A part at a time, so that what is transposed stays near.
            const PART: usize = 32;
            let mut numbers = [[L::Real::default(); MAX_QUERIES]; PART];
            for (part, rows) in rows.chunks_mut(PART).enumerate() {
                for l in 0..VECTORS * L::WIDTH {
                    let row = &table.row((self.first + l).min(last))[part * PART..][..rows.len()];
                    numbers.iter_mut().zip(row).for_each(|(numbers, x)| numbers[l] = *x);
                }
                for (row, numbers) in rows.iter_mut().zip(&numbers) {
                    for u in 0..VECTORS {
                        row[u] = self.lanes.load(&numbers[u * L::WIDTH..]);
                    }
                }
            }
        }
    }

    /// Adds the broadcast rows begin..end; `hidden` if not every lane sees all of them.
    #[inline(always)]
    fn add_block(&mut self, begin: usize, end: usize, hidden: bool) {
        let count = (end - begin).next_multiple_of(SIZE);
        for part in 0..2 {
            self.products(part, begin, count);
        }
        self.weigh(count);
        if hidden {
            self.hide(begin, count);
        }
        // t belongs to g, p to h.
        for part in 0..2 {
            self.add_sums(part, begin, count);
        }
    }

    /// Writes x (part 0) or z (part 1) of a block.
    #[inline(always)]
    fn products(&mut self, part: usize, begin: usize, count: usize) {
        let (lanes, rows, panels) = (self.lanes, &self.rows[part], &self.packed.scores[part]);
        let zero = lanes.splat(L::Real::default());
        let chunk = rows.len().div_ceil(rows.len().div_ceil(COMPONENTS_AT_ONCE));
        let (blocks, _) = self.blocks[part][..count].as_chunks_mut::<SIZE>();
        for (c, components) in rows.chunks(chunk).enumerate() {
            for (p, block) in blocks.iter_mut().enumerate() {
                let first = (begin / SIZE + p) * rows.len() + c * chunk;
                let start = if c == 0 { [[zero; VECTORS]; SIZE] } else { *block };
                add_products(lanes, components, &panels[first..first + components.len()], start, block);
            }
        }
    }

    /// From x and z to t and p.
    #[inline(always)]
    fn weigh(&mut self, count: usize) {
        let lanes = self.lanes;
        let (one, zero) = (lanes.splat(L::Real::from_f64(1.0)), lanes.splat(L::Real::default()));
        let cut = lanes.splat(L::Real::from_f64(-L::Real::CUT));
        let [scores, slopes] = &mut self.blocks;
        for (x, z) in scores[..count].iter_mut().zip(&mut slopes[..count]) {
            for u in 0..VECTORS {
                let (p, t) = match self.sides.weigh {
                    Weigh::Power => {
                        let p = lanes.exp2(x[u]);
                        (p, lanes.mul(p, z[u]))
                    }
                    Weigh::Logistic => {
                        let power = lanes.exp2(lanes.sub(zero, lanes.max(x[u], cut)));
                        let p = lanes.div(one, lanes.add(one, power));
                        // p² alone would be below the normal numbers where p is below 2^-63 in single precision.
                        (p, lanes.mul(lanes.mul(lanes.mul(power, p), p), z[u]))
                    }
                    Weigh::Linear => (x[u], z[u]),
                };
                (z[u], x[u]) = (p, t);
            }
        }
    }

    /// Clears the weights that lanes do not see.
    #[inline(always)]
    fn hide(&mut self, begin: usize, count: usize) {
        let lanes = self.lanes;
        let zero = lanes.splat(L::Real::default());
        let mut numbers = [L::Real::default(); MAX_QUERIES];
        numbers.iter_mut().enumerate().for_each(|(l, number)| *number = L::Real::from_f64(l as f64));
        let mut indices = [zero; VECTORS];
        for u in 0..VECTORS {
            indices[u] = lanes.load(&numbers[u * L::WIDTH..]);
        }
        let [slopes, weights] = &mut self.blocks;
        for (j, (t, p)) in slopes[..count].iter_mut().zip(&mut weights[..count]).enumerate() {
            let row = lanes.splat(L::Real::from_f64((begin + j) as f64 - self.first as f64));
            for u in 0..VECTORS {
                let pair = if self.sides.sight == Sight::Back { [indices[u], row] } else { [row, indices[u]] };
                p[u] = lanes.select_at_least(pair, p[u], zero);
                t[u] = lanes.select_at_least(pair, t[u], zero);
            }
        }
    }

    /// Adds Σ t g (part 0) or Σ p h (part 1) of a block.
    #[inline(always)]
    fn add_sums(&mut self, part: usize, begin: usize, count: usize) {
        let lanes = self.lanes;
        let rows = self.sides.broadcast[0].count().next_multiple_of(SIZE);
        let weights = &self.blocks[part][..count];
        for (p, sums) in self.sums[part].as_chunks_mut::<SIZE>().0.iter_mut().enumerate() {
            let values = &self.packed.summed[part][p * rows + begin..][..count];
            let mut added = [[lanes.splat(L::Real::default()); VECTORS]; SIZE];
            sum_panel(lanes, weights, values, &mut added);
            for (sum, added) in sums.iter_mut().zip(&added) {
                for u in 0..VECTORS {
                    sum[u] = lanes.add(sum[u], added[u]);
                }
            }
        }
    }

    #[inline(always)]
    fn write(&self, out: &mut [L::Real]) {
        let widths = self.sides.widths();
        let mut numbers = [L::Real::default(); MAX_QUERIES];
        for part in 0..2 {
            let first = part * widths[0];
            for (c, sum) in self.sums[part][..widths[part]].iter().enumerate() {
                for u in 0..VECTORS {
                    self.lanes.store(sum[u], &mut numbers[u * L::WIDTH..]);
                }
                for (out, number) in out.chunks_exact_mut(widths[0] + widths[1]).zip(&numbers) {
                    out[first + c] = *number;
                }
            }
        }
    }
}
