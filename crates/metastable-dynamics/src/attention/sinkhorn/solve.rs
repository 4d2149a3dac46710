//! The potentials: Sinkhorn's alternation in the log domain, and Newton's steps where it is slow.

use super::Potentials;
use super::dense;
use super::plan::{Plan, Shifts, Side};
use super::products::Products;
use crate::attention::kernel::{Sinkhorn, SinkhornStop};
use crate::error::DynamicsError;
use crate::linalg::dot;

/// Sweeps to go at the present rate beyond which a Newton step is tried.
const PATIENCE: f64 = 10.0;

/// The residual below which Newton's model of the problem is trusted.
const NEWTON_BASIN: f64 = 0.3;

/// Scores beyond this are first made smaller: e^8 is as far as two weights of a first start may lie apart.
const TAME_SCORE: f64 = 8.0;

/// At most so many: 2^60 is beyond the digits of a score.
const MOST_HALVINGS: f64 = 60.0;

/// How far the potentials of a larger ε are taken.
const ROUGH: f64 = 0.1;

/// Passes that one Newton step may take for its linear system where there is no other way.
const MOST_INNER: u32 = 200;

/// And where the whole matrix is at hand for the next try.
const FEW_INNER: u32 = 25;

/// A Newton step is not shortened further.
const SHORTEST_LENGTH: f64 = 1e-2;

/// How far a potential moves in a Newton step: a weight changes by e² at most, where Newton's model of it is rough.
const REACH: f64 = 2.0;

/// How steeply the semi-dual may rise at the end of a step, in parts of its fall at the beginning.
const OVERSHOOT: f64 = 0.1;

/// The potentials of a plan from the column potentials `start` (zero if empty).
pub(super) fn potentials(plan: &Plan<'_>, options: Sinkhorn, start: &[f64]) -> Result<Potentials, DynamicsError> {
    match options.stop {
        SinkhornStop::HalfSteps(count) => Ok(half_steps(plan, count)),
        SinkhornStop::Converged { tolerance, max_iterations } => {
            let mut budget = Budget { most: max_iterations, used: 0 };
            let column = if start.len() == plan.count() { start.to_vec() } else { anneal(plan, &mut budget) };
            let mut search = Search { plan, tolerance, budget: &mut budget };
            search.run(column).map_err(|residual| DynamicsError::NotConverged {
                epsilon: options.epsilon,
                residual,
                tolerance,
                iterations: budget.used,
            })
        }
    }
}

/// A start for small ε: the potentials of larger ones, halved down to it. ε f and ε g are continuous in ε, so halving
/// ε doubles the potentials. No n x n memory, and no effect where scores/ε are of order one.
fn anneal(plan: &Plan<'_>, budget: &mut Budget) -> Vec<f64> {
    let mut column = vec![0.0; plan.count()];
    // One pass is left for the ε that was asked for.
    let mut rest = Budget { most: budget.most - 1, used: 0 };
    let halvings = (plan.largest_score() / TAME_SCORE).log2().ceil();
    for k in (1..=halvings.clamp(0.0, MOST_HALVINGS) as i32).rev().take_while(|_| budget.most > 1) {
        let milder = plan.scaled(2.0_f64.powi(-k));
        let mut search = Search { plan: &milder, tolerance: ROUGH, budget: &mut rest };
        match search.run(column) {
            Ok(potentials) => column = potentials.column,
            // The last pass will say what is left.
            Err(_) => {
                column = vec![0.0; plan.count()];
                break;
            }
        }
        column.iter_mut().for_each(|g| *g *= 2.0);
    }
    budget.used += rest.used;
    column
}

/// Passes over all pairs and back: allowed and taken.
struct Budget {
    most: u32,
    used: u32,
}

/// The potentials after `count` half-steps from zero, row step first.
fn half_steps(plan: &Plan<'_>, count: u32) -> Potentials {
    let mut column = vec![0.0; plan.count()];
    let mut row = None;
    for step in 0..count {
        // After a row step f follows from g, and `attend` takes it itself.
        match row.take() {
            None if step + 1 < count => row = Some(plan.half_step(Side::Rows, &column)),
            None => {}
            Some(last) => {
                column = plan.half_step(Side::Columns, &last);
                row = (step + 1 == count).then_some(last);
            }
        }
    }
    Potentials { column, row, residual: None, iterations: count.div_ceil(2) }
}

/// f¹, g¹, f², …: the potentials of `count` half-steps from g = 0.
pub(super) fn trace(plan: &Plan<'_>, count: u32) -> Vec<Vec<f64>> {
    let mut steps: Vec<Vec<f64>> = Vec::new();
    let zero = vec![0.0; plan.count()];
    for step in 0..count {
        let side = if step % 2 == 0 { Side::Rows } else { Side::Columns };
        let next = plan.half_step(side, steps.last().unwrap_or(&zero));
        steps.push(next);
    }
    steps
}

struct Search<'a> {
    plan: &'a Plan<'a>,
    tolerance: f64,
    budget: &'a mut Budget,
}

/// Potentials with exact rows, the column step after them, and what that step changes.
struct Sweep {
    row: Vec<f64>,
    next: Vec<f64>,
    /// max - min of the change, which bounds the relative error of all column sums, also after the next row step:
    /// half-steps do not expand it (Hilbert's metric), and the sums have mean one, so the change has both signs.
    oscillation: f64,
}

impl Search<'_> {
    /// # Errors
    /// The residual, if it is still above the tolerance when the iterations are used up.
    fn run(&mut self, mut column: Vec<f64>) -> Result<Potentials, f64> {
        let mut previous = f64::INFINITY;
        let mut newton_from = 0;
        loop {
            let sweep = self.sweep(&column);
            let oscillation = sweep.oscillation;
            if oscillation <= self.tolerance {
                let iterations = self.budget.used;
                return Ok(Potentials { column: sweep.next, row: None, residual: Some(oscillation), iterations });
            }
            if self.budget.used >= self.budget.most || !oscillation.is_finite() {
                return Err(oscillation);
            }
            let to_go = (self.tolerance / oscillation).ln() / (oscillation / previous).ln();
            let is_slow = !(0.0..PATIENCE).contains(&to_go);
            previous = oscillation;
            if is_slow && self.budget.used >= newton_from {
                let is_near = oscillation < NEWTON_BASIN;
                let better = is_near.then(|| self.newton(&column, &sweep)).flatten();
                if let Some(better) = better.or_else(|| self.damped_newton(&column, &sweep)) {
                    column = better;
                    previous = f64::INFINITY;
                    continue;
                }
                if self.budget.used >= self.budget.most {
                    return Err(oscillation);
                }
                newton_from = self.budget.used + 10;
            }
            column = sweep.next;
        }
    }

    fn sweep(&mut self, column: &[f64]) -> Sweep {
        self.budget.used += 1;
        let row = self.plan.half_step(Side::Rows, column);
        let next = self.plan.half_step(Side::Columns, &row);
        let change = || column.iter().zip(&next).map(|(old, new)| old - new);
        // NaN must not pass for a small change.
        let bound = |worst: f64, c: f64| if c > worst || c.is_nan() { c } else { worst };
        let oscillation = change().fold(f64::NEG_INFINITY, bound) + change().map(|c| -c).fold(f64::NEG_INFINITY, bound);
        Sweep { row, next, oscillation }
    }

    /// Column potentials nearer to the minimum of the semi-dual, by Newton's step with the whole matrix: every potential
    /// moves by [`REACH`] at most, and the whole step is shortened where it would overshoot. So groups of tokens that
    /// hardly touch approach each other at once, however loosely they are tied. For few tokens only, for its n x n
    /// numbers; none otherwise, or if no length will do.
    fn damped_newton(&mut self, column: &[f64], sweep: &Sweep) -> Option<Vec<f64>> {
        if self.plan.count() > dense::MOST_TOKENS || self.budget.used >= self.budget.most {
            return None;
        }
        self.budget.used += 1;
        let defect = defect(column, &sweep.next);
        let mut step = dense::solve(self.plan, Shifts { own: &sweep.row, other: column }, &defect)?;
        // Constants are free: most tokens stay, so that few are cut.
        let middle = median(&step);
        step.iter_mut().for_each(|x| *x = (*x - middle).clamp(-REACH, REACH));
        let slope = dot(&defect, &step);
        let mut length = 1.0;
        while length > SHORTEST_LENGTH && self.budget.used < self.budget.most {
            let moved: Vec<f64> = column.iter().zip(&step).map(|(g, step)| g + length * step).collect();
            let reached = self.sweep(&moved);
            // The semi-dual is convex: it still falls there, or has hardly begun to rise.
            let falls = slope > 0.0 && dot(&self::defect(&moved, &reached.next), &step) >= -OVERSHOOT * slope;
            if reached.oscillation <= 0.5 * sweep.oscillation || falls {
                return Some(reached.next);
            }
            length *= 0.25;
        }
        None
    }

    /// Column potentials at which the oscillation is at most half of what it is; none if Newton's step fails.
    ///
    /// With exact rows, column sums c_j and M = k/n, the sums answer ġ by (diag c - MᵀM) ġ: the Hessian of the convex
    /// semi-dual \[derived\]. Its passes count as iterations.
    fn newton(&mut self, column: &[f64], sweep: &Sweep) -> Option<Vec<f64>> {
        let sums: Vec<f64> = column.iter().zip(&sweep.next).map(|(old, new)| (old - new).exp()).collect();
        let defect: Vec<f64> = sums.iter().map(|c| 1.0 - c).collect();
        let accuracy = (0.1 * sweep.oscillation).clamp(1e-3, 0.1);
        let has_matrix = self.plan.count() <= dense::MOST_TOKENS;
        let most = if has_matrix { FEW_INNER } else { MOST_INNER };
        let most = most.min(self.budget.most.saturating_sub(self.budget.used + 1));
        let shifts = Shifts { own: &sweep.row, other: column };
        let solution = conjugate_gradients(self.plan, shifts, &sums, &defect, accuracy, most);
        self.budget.used += solution.iterations;
        let moved: Vec<f64> = column.iter().zip(&solution.x).map(|(g, step)| g + step).collect();
        let enough = if has_matrix { accuracy } else { 0.5 };
        if solution.residual > enough || self.budget.used >= self.budget.most {
            return None;
        }
        let reached = self.sweep(&moved);
        (reached.oscillation <= 0.5 * sweep.oscillation).then_some(reached.next)
    }
}

/// An approximate solution, |b - A x| / |b|, and how many products with A it took.
pub(super) struct Solution {
    pub(super) x: Vec<f64>,
    pub(super) residual: f64,
    pub(super) iterations: u32,
}

/// Solves (diag c - MᵀM) x = b with mean zero by conjugate gradients: M has unit row sums and column sums c, so the
/// matrix is positive semi-definite and vanishes on constants. Sums in a fixed order.
pub(super) fn conjugate_gradients(
    plan: &Plan<'_>,
    shifts: Shifts<'_>,
    sums: &[f64],
    b: &[f64],
    accuracy: f64,
    most: u32,
) -> Solution {
    let products = Products::new(plan, shifts);
    let mut residual = centred(b);
    let mut direction = residual.clone();
    let mut x = vec![0.0; b.len()];
    let start = dot(&residual, &residual);
    let (mut size, mut best) = (start, (1.0, x.clone()));
    let mut iterations = 0;
    while iterations < most && size > 0.0 && best.0 > accuracy {
        iterations += 1;
        let image = centred(&products.of_laplacian(sums, &direction));
        let curvature = dot(&direction, &image);
        if curvature.is_nan() || curvature <= 0.0 {
            break;
        }
        let step = size / curvature;
        x.iter_mut().zip(&direction).for_each(|(x, p)| *x += step * p);
        residual.iter_mut().zip(&image).for_each(|(r, q)| *r -= step * q);
        let next = dot(&residual, &residual);
        let relative = (next / start).sqrt();
        if relative < best.0 {
            best = (relative, x.clone());
        }
        direction.iter_mut().zip(&residual).for_each(|(p, r)| *p = r + next / size * *p);
        size = next;
    }
    let residual = if start > 0.0 { best.0 } else { 0.0 };
    Solution { x: centred(&best.1), residual, iterations }
}

/// 1 - c for the column sums c, whose logarithms a column step takes off: minus the gradient of the semi-dual.
fn defect(column: &[f64], next: &[f64]) -> Vec<f64> {
    column.iter().zip(next).map(|(old, new)| -(old - new).exp_m1()).collect()
}

/// The upper median.
fn median(v: &[f64]) -> f64 {
    let mut sorted = v.to_vec();
    let middle = sorted.len() / 2;
    *sorted.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Without its mean.
fn centred(v: &[f64]) -> Vec<f64> {
    let mean = v.iter().sum::<f64>() / v.len() as f64;
    v.iter().map(|v| v - mean).collect()
}
