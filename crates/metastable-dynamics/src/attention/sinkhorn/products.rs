//! Products with (diag c - MᵀM), the matrix of Newton's steps and of implicit derivatives.
//!
//! Conjugate gradients ask for dozens of them at one point. Of few tokens the weights are computed once and held; of
//! more they are computed anew for each M x and each Mᵀ y, for n x n numbers are never held beyond
//! [`MOST_TOKENS`](super::dense::MOST_TOKENS).

use rayon::prelude::*;

use super::dense::MOST_TOKENS;
use super::plan::{Plan, Shifts, Side};
use crate::attention::fused::SERIAL_PAIRS;
use crate::attention::lanes::lane_dot;
use crate::simd::{Loop, widest};

/// Outputs that one task of the pool computes: a part of every row of weights that is a kilobyte.
const OUTPUTS_A_TASK: usize = 128;

/// A plan with potentials, ready for many products.
pub(super) struct Products<'a> {
    plan: &'a Plan<'a>,
    /// Of the rows' side.
    shifts: Shifts<'a>,
    /// M, row after row.
    held: Option<Vec<f64>>,
}

impl<'a> Products<'a> {
    /// O(n² k) time, and O(n²) memory for up to [`MOST_TOKENS`] tokens.
    pub(super) fn new(plan: &'a Plan<'a>, shifts: Shifts<'a>) -> Self {
        let held = (plan.count() <= MOST_TOKENS).then(|| {
            let mut weights = vec![0.0; plan.count() * plan.count()];
            plan.visit(shifts, &mut weights, |_, row, out| out.copy_from_slice(row));
            weights
        });
        Self { plan, shifts, held }
    }

    /// c x - MᵀM x. O(n²) with held weights, else O(n² k); sums in a fixed order.
    pub(super) fn of_laplacian(&self, sums: &[f64], x: &[f64]) -> Vec<f64> {
        let back = self.columns(&self.rows(x));
        sums.iter().zip(x).zip(back).map(|((c, x), back)| c * x - back).collect()
    }

    /// M x.
    fn rows(&self, x: &[f64]) -> Vec<f64> {
        let Some(weights) = &self.held else { return self.plan.apply(Side::Rows, self.shifts, x) };
        parts(x.len(), |first, out| widest(Rows { weights, x, first, out }))
    }

    /// Mᵀ y.
    fn columns(&self, y: &[f64]) -> Vec<f64> {
        let Some(weights) = &self.held else {
            return self.plan.apply(Side::Columns, Shifts { own: self.shifts.other, other: self.shifts.own }, y);
        };
        parts(y.len(), |first, out| widest(Columns { weights, y, first, out }))
    }
}

/// Outputs in parts over the pool, or at once where there are few pairs.
fn parts(count: usize, write: impl Fn(usize, &mut [f64]) + Sync) -> Vec<f64> {
    let mut out = vec![0.0; count];
    if count * count < SERIAL_PAIRS {
        write(0, &mut out);
    } else {
        let tasks = out.par_chunks_mut(OUTPUTS_A_TASK).enumerate();
        tasks.for_each(|(t, out)| write(t * OUTPUTS_A_TASK, out));
    }
    out
}

/// Consecutive entries of M x.
struct Rows<'a> {
    weights: &'a [f64],
    x: &'a [f64],
    first: usize,
    out: &'a mut [f64],
}

impl Loop for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let n = self.x.len();
        for (row, out) in self.weights[self.first * n..].chunks_exact(n).zip(self.out) {
            *out = lane_dot(row, self.x);
        }
    }
}

/// Consecutive entries of Mᵀ y.
struct Columns<'a> {
    weights: &'a [f64],
    y: &'a [f64],
    first: usize,
    out: &'a mut [f64],
}

impl Loop for Columns<'_> {
    #[inline(always)]
    fn run(self) {
        for (row, y) in self.weights.chunks_exact(self.y.len()).zip(self.y) {
            self.out.iter_mut().zip(&row[self.first..]).for_each(|(out, weight)| *out += weight * y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::kernel::{AttentionKernel, Mask, Normalization, Score, Sinkhorn};
    use crate::attention::projections::Projections;
    use crate::linalg::Matrix;
    use crate::random;

    /// Few tokens on one thread, and more in parts that end within a task.
    #[test]
    fn held_weights_give_the_products_of_recomputed_ones() {
        for n in [5, 127, 300] {
            let kernel = Normalization::Sinkhorn(Sinkhorn::converged(1.0));
            let kernel = AttentionKernel::new(Score::Dot, kernel, Mask::Full, 1.0).unwrap();
            let identity = Matrix::scaled_identity(2, 1.0);
            let mut projections = Projections::zeros(n, 2, 2);
            projections.fill(&kernel, 1.0, &random::standard_normal(1, n, 2), [&identity; 3]);
            let plan = Plan::new(&projections, 1.0);
            let column = vec![0.0; n];
            let row = plan.half_step(Side::Rows, &column);
            let shifts = Shifts { own: &row, other: &column };
            let (sums, x) = (random::standard_normal(2, 1, n), random::standard_normal(3, 1, n));
            let held = Products::new(&plan, shifts);
            assert!(held.held.is_some());
            let anew = Products { plan: &plan, shifts, held: None };
            for (held, anew) in held.of_laplacian(&sums, &x).iter().zip(anew.of_laplacian(&sums, &x)) {
                // Exponents of size 20 are rounded on both paths; column sums reach 30, x and sums 4.
                assert!((held - anew).abs() <= 100.0 * 20.0 * f64::EPSILON * 30.0, "{held} {anew}");
            }
        }
    }
}
