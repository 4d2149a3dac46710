//! Newton's linear system with all its numbers, for plans of few tokens whose pieces hardly touch.

use rayon::prelude::*;

use super::plan::{Plan, Shifts};
use crate::simd::{Loop, widest};

/// n x n numbers of so many tokens are eight megabytes, and a solve costs as much as some hundred passes.
pub(super) const MOST_TOKENS: usize = 1024;

/// What ties every token to the ground: where tokens are tied to others by less, the right side is rounding.
const GROUND: f64 = 1e-12;

/// Rows of ties that stay in the second cache while the weights pass.
const TIES_AT_ONCE: usize = 16;

/// Below this many pairs of tokens one thread is faster than the pool.
const PARALLEL_PAIRS: usize = 1 << 16;

/// Lines of ties that one task of the pool changes at least.
const LINES_A_TASK: usize = 64;

/// Ties far below the ground.
const LOOSE: f64 = 1e-18;

/// Solves (diag c - MᵀM + ground) x = b, where M has unit row sums and column sums c.
///
/// The matrix is the Laplacian of a graph: c_j = Σ_l (MᵀM)_jl, so its diagonal is what is off it, and tokens j and l are
/// tied by (MᵀM)_jl >= 0. For small ε ties range over hundreds of decades, and Cholesky's decomposition loses the loose
/// ones in the rounding of the diagonal, or fails. Eliminating tokens of the graph instead (a star becomes the mesh of
/// w_i w_j / Σ w) only adds and divides positive numbers, so that every pivot has all its digits \[derived\]. O(n³), much
/// less where most ties are below rounding; sums in a fixed order.
///
/// # References
/// Grassmann, Taksar, Heyman (1985), Regenerative analysis and steady state distributions for Markov chains: elimination
/// without subtractions.
pub(super) fn solve(plan: &Plan<'_>, shifts: Shifts<'_>, b: &[f64]) -> Option<Vec<f64>> {
    let x = Graph::of(plan, shifts).potentials(b.to_vec());
    x.iter().all(|x| x.is_finite()).then_some(x)
}

/// Ties between tokens, the part below the diagonal, and to the ground.
struct Graph {
    ties: Vec<f64>,
    grounds: Vec<f64>,
}

impl Graph {
    fn of(plan: &Plan<'_>, shifts: Shifts<'_>) -> Self {
        let n = plan.count();
        let mut weights = vec![0.0; n * n];
        plan.visit(shifts, &mut weights, |_, row, out| out.copy_from_slice(row));
        let mut ties = vec![0.0; n * n];
        let tie = |(block, ties): (usize, &mut [f64])| {
            widest(Tie { weights: &weights, count: n, first: block * TIES_AT_ONCE, ties });
        };
        match n * n < PARALLEL_PAIRS {
            true => ties.chunks_mut(n * TIES_AT_ONCE).enumerate().for_each(tie),
            false => ties.par_chunks_mut(n * TIES_AT_ONCE).enumerate().for_each(tie),
        }
        Self { ties, grounds: vec![GROUND; n] }
    }

    /// The potentials of the tokens for the currents `b` into them.
    fn potentials(mut self, mut b: Vec<f64>) -> Vec<f64> {
        let n = b.len();
        let mut pivots = vec![0.0; n];
        for k in (0..n).rev() {
            let (before, own) = self.ties.split_at_mut(k * n);
            let star = &own[..k];
            let pivot = self.grounds[k] + star.iter().sum::<f64>();
            pivots[k] = pivot;
            let spread = |(i, line): (usize, &mut [f64])| {
                if star[i] > LOOSE {
                    widest(Add { line: &mut line[..i], factor: star[i] / pivot, row: star });
                }
            };
            match k * k < PARALLEL_PAIRS {
                true => before.chunks_exact_mut(n).enumerate().for_each(spread),
                false => before.par_chunks_exact_mut(n).with_min_len(LINES_A_TASK).enumerate().for_each(spread),
            }
            for (i, tie) in star.iter().enumerate().filter(|(_, tie)| **tie > LOOSE) {
                let share = tie / pivot;
                self.grounds[i] += share * self.grounds[k];
                b[i] += share * b[k];
            }
        }
        for k in 0..n {
            let inflow: f64 = self.ties[k * n..k * n + k].iter().zip(&b).map(|(tie, x)| tie * x).sum();
            b[k] = (b[k] + inflow) / pivots[k];
        }
        b
    }
}

/// Lines of MᵀM from token `first` on, below the diagonal.
struct Tie<'a> {
    /// M.
    weights: &'a [f64],
    count: usize,
    first: usize,
    ties: &'a mut [f64],
}

impl Loop for Tie<'_> {
    #[inline(always)]
    fn run(self) {
        for row in self.weights.chunks_exact(self.count) {
            let lines = row[self.first..].iter().zip(self.ties.chunks_exact_mut(self.count));
            for (j, (&factor, line)) in (self.first..).zip(lines) {
                if factor > LOOSE {
                    Add { line: &mut line[..j], factor, row }.run();
                }
            }
        }
    }
}

/// line += factor·row, as far as the line goes.
struct Add<'a> {
    line: &'a mut [f64],
    factor: f64,
    row: &'a [f64],
}

impl Loop for Add<'_> {
    #[inline(always)]
    fn run(self) {
        self.line.iter_mut().zip(self.row).for_each(|(entry, other)| *entry += self.factor * other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pairs, tied inside by 1 and to each other by 1e-9: the current from one pair to the other needs 1e9.
    #[test]
    fn loose_ties_keep_their_digits() {
        let tie = |j: usize, l: usize| match (j, l) {
            (1, 0) | (3, 2) => 1.0,
            (2, 1) => 1e-9,
            _ => 0.0,
        };
        let ties = (0..16).map(|at| tie(at / 4, at % 4)).collect();
        let x = Graph { ties, grounds: vec![1e-30; 4] }.potentials(vec![1.0, 0.0, 0.0, -1.0]);
        for (found, exact) in [(x[0] - x[1], 1.0), (x[1] - x[2], 1e9), (x[2] - x[3], 1.0)] {
            // Differences of numbers of size 1e9.
            assert!((found - exact).abs() < 1e-6, "{x:?}");
        }
    }
}
