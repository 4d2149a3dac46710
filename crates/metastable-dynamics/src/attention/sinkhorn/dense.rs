//! Newton's linear system with all its numbers, for plans of few tokens whose pieces hardly touch.

use nalgebra::{DMatrix, DVector};

use super::plan::{Plan, Shifts};

/// n x n numbers of so many tokens are two megabytes, and a solve costs as much as some hundred passes.
pub(super) const MOST_TOKENS: usize = 512;

/// Solves (diag c - MᵀM) x = b with mean zero by Cholesky's decomposition, where M has unit row sums and column sums c.
///
/// Conjugate gradients need as many passes as the root of the condition, which is about e^{gap/ε} where tokens fall into
/// groups; here only rounding limits it. What rounding hides is held by a shift of 1e-15 of the diagonal. None if the
/// decomposition fails. O(n³), sums in a fixed order.
pub(super) fn solve(plan: &Plan<'_>, shifts: Shifts<'_>, sums: &[f64], b: &[f64]) -> Option<Vec<f64>> {
    let n = plan.count();
    let mut weights = vec![0.0; n * n];
    plan.visit(shifts, &mut weights, |_, row, out| out.copy_from_slice(row));
    let mut system = vec![0.0; n * n];
    for row in weights.chunks_exact(n) {
        for (weight, line) in row.iter().zip(system.chunks_exact_mut(n)) {
            line.iter_mut().zip(row).for_each(|(entry, other)| *entry -= weight * other);
        }
    }
    let share = 1.0 / n as f64;
    for (j, (line, c)) in system.chunks_exact_mut(n).zip(sums).enumerate() {
        line[j] += c * (1.0 + 1e-15);
        // Constants, on which the matrix vanishes, get the eigenvalue one.
        line.iter_mut().for_each(|entry| *entry += share);
    }
    let solved = DMatrix::from_vec(n, n, system).cholesky()?.solve(&DVector::from_column_slice(b));
    let mean = solved.mean();
    let x: Vec<f64> = solved.iter().map(|x| x - mean).collect();
    x.iter().all(|x| x.is_finite()).then_some(x)
}
