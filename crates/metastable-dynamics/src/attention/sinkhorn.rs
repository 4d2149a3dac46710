//! Sinkhorn attention: weights with equal row *and* column sums, in the log domain and O(n d) memory.
//!
//! L_ij = S_ij/ε, k_ij = e^{L_ij + f_i + g_j} with (1/n) Σ_j k_ij = (1/n) Σ_i k_ij = 1, messages
//! y_i = (1/(n ε)) Σ_j k_ij v_j. Only the potentials f, g (n numbers each) are stored: a half-step
//! f_i = ln n - ln Σ_j e^{L_ij + g_j} streams over the scores, and so does everything else here.
//!
//! What holds: rows are exact to rounding (columns after an even count of half-steps), columns to the tolerance,
//! which is verified; (1/n) Σ_i y_i = mean(v)/ε to that tolerance, the *mean law*, whatever the scores are; results
//! are equal to the bit on any number of threads and depend on nothing but the inputs, the start included.
//!
//! The alternation contracts by r⁴ a sweep for Gaussian clouds, r = 2s/(1 + √(1 + 4s²)) with s the singular values of
//! Σ^{1/2} A Σ^{1/2}/ε: slow for small ε. Where it is slow, Newton's steps on the semi-dual take over (products with
//! the same plan, conjugate gradients; of up to 1024 tokens with the whole matrix and short steps, where these fail);
//! every pass counts as an iteration \[derived\]. Plans that are nearly permutations are shown to converge to 256 tokens;
//! of 600 one ended at 1.5e-7 after the default passes, and is refused.
//!
//! Every sum over pairs (half-steps, fields, the products of Newton's steps and of derivatives) is one of `plan`'s: row by
//! row below 128 tokens, and as the oracle; on the tiles of the fused kernels from there on, in the same O(n (k + m))
//! memory. Only where the weights themselves are asked for (`dense`, statistics) large plans go row by row too.
//!
//! Newton's steps and derivatives hold the weights of up to 1024 tokens, eight megabytes (`products`, `dense`); of more
//! nothing n x n is held.
//!
//! Reading order: `plan` (what is summed over rows or columns), `solve` (the potentials), `products`, `dense`, `jacobian`.
//!
//! # References
//! Castin, Ablin, Carrillo, Peyré 2501.18322, equation (2.4) \[via citation\]; Sander, Ablin, Blondel, Peyré,
//! Sinkformers, 2110.11773 and its code, for the order and the count of half-steps \[code\]; rate for Gaussians
//! \[checked\].

mod dense;
mod jacobian;
mod plan;
mod products;
mod solve;

pub(crate) use jacobian::{jvp, vjp};

use super::kernel::Sinkhorn;
use super::projections::Projections;
use crate::error::DynamicsError;
use plan::{Plan, Shifts, Side};

/// The potentials of one plan, and what they cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Potentials {
    column: Vec<f64>,
    /// f where the columns were normalised last; where the rows were, f follows from g.
    row: Option<Vec<f64>>,
    residual: Option<f64>,
    iterations: u32,
}

impl Potentials {
    /// g, \[n\]: what the next solve nearby may start from.
    pub fn column(&self) -> &[f64] {
        &self.column
    }

    /// A bound of |(1/n) Σ_i k_ij - 1| over all columns j; none where half-steps were counted.
    pub fn residual(&self) -> Option<f64> {
        self.residual
    }

    /// Passes over all pairs and back.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    fn rows(&self) -> Shifts<'_> {
        Shifts { own: self.row.as_deref().unwrap_or(&[]), other: &self.column }
    }
}

/// The potentials, from the column potentials `start` (\[n\], or empty for zero). O(n² k) an iteration, O(n) memory.
///
/// # Errors
/// [`DynamicsError::NotConverged`] with the residual and ε.
///
/// # Example
/// Two tokens ±x under identity matrices: the weights are those of softmax, divided by ε.
/// ```
/// use metastable_dynamics::attention::sinkhorn::{attend, solve};
/// use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Projections, Score, Sinkhorn};
/// use metastable_dynamics::Matrix;
/// let options = Sinkhorn::converged(0.5);
/// let kernel = AttentionKernel::new(Score::Dot, Normalization::Sinkhorn(options), Mask::Full, 1.0).unwrap();
/// let identity = Matrix::scaled_identity(1, 1.0);
/// let mut projections = Projections::zeros(2, 1, 1);
/// projections.fill(&kernel, 1.0, &[0.8, -0.8], [&identity, &identity, &identity]);
/// let potentials = solve(&projections, options, &[]).unwrap();
/// let mut field = [0.0; 2];
/// attend(&projections, options, &potentials, &mut field);
/// assert!((field[0] - 0.8 / 0.5 * (0.64_f64 / 0.5).tanh()).abs() < 1e-14);
/// ```
pub fn solve(projections: &Projections, options: Sinkhorn, start: &[f64]) -> Result<Potentials, DynamicsError> {
    solve::potentials(&Plan::new(projections, options.epsilon), options, start)
}

/// Writes (1/(n ε)) Σ_j k_ij v_j into `out` [n, m]. O(n² (k + m)).
///
/// # Panics
/// If the potentials are of another number of tokens.
pub fn attend(projections: &Projections, options: Sinkhorn, potentials: &Potentials, out: &mut [f64]) {
    let values: Vec<f64> =
        (0..projections.value_width()).flat_map(|c| projections.value_row(c).iter().copied()).collect();
    let averages = Plan::new(projections, options.epsilon).average(Side::Rows, potentials.rows(), &values);
    out.iter_mut().zip(averages).for_each(|(out, average)| *out = average / options.epsilon);
}

/// (1/n) Σ_i k_ij for every j, \[n\]: one where the plan has converged. O(n² k).
pub fn column_sums(projections: &Projections, options: Sinkhorn, potentials: &Potentials) -> Vec<f64> {
    let plan = Plan::new(projections, options.epsilon);
    let row = potentials.row.clone().unwrap_or_else(|| plan.half_step(Side::Rows, &potentials.column));
    plan.apply(Side::Columns, Shifts { own: &potentials.column, other: &row }, &vec![1.0; row.len()])
}

/// W_ε = min over couplings π with uniform marginals of Σ_ij π_ij c_ij + ε KL(π | uniform), costs c_ij = -S_ij: at
/// the optimum π = k/n² it is ε (mean f + mean g). O(n² k).
///
/// # References
/// Castin et al. 2501.18322 and Peyré's book for the variational form \[via citation\]; the value \[derived\].
pub fn transport_cost(projections: &Projections, options: Sinkhorn, potentials: &Potentials) -> f64 {
    let plan = Plan::new(projections, options.epsilon);
    let row = potentials.row.clone().unwrap_or_else(|| plan.half_step(Side::Rows, &potentials.column));
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    options.epsilon * (mean(&row) + mean(&potentials.column))
}

/// Calls `visit(i, weights, out_i)` with the weights k_ij/(n ε) of every row, from potentials solved for here; all
/// weights are NaN where that fails.
pub(super) fn for_each_row(
    projections: &Projections,
    options: Sinkhorn,
    out: &mut [f64],
    visit: impl Fn(usize, &[f64], &mut [f64]) + Sync,
) {
    let plan = Plan::new(projections, options.epsilon);
    let nowhere =
        |_| Potentials { column: vec![f64::NAN; projections.count()], row: None, residual: None, iterations: 0 };
    let potentials = solve::potentials(&plan, options, &[]).unwrap_or_else(nowhere);
    plan.visit(potentials.rows(), out, |i, row, out| {
        let weights: Vec<f64> = row.iter().map(|w| w / options.epsilon).collect();
        visit(i, &weights, out);
    });
}

#[cfg(test)]
mod tests;
