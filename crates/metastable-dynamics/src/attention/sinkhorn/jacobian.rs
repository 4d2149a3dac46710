//! Derivatives of Sinkhorn attention: implicit at the fixed point, step by step where the half-steps are counted.
//!
//! With M = k/n, messages y_i = (1/ε) Σ_j M_ij v_j and Ṁ_ij = M_ij (L̇_ij + ḟ_i + ġ_j), the marginals stay uniform:
//!
//! ```text
//! ḟ + M ġ = -a,   a_i = Σ_j M_ij L̇_ij          (diag c - MᵀM) ġ = Mᵀ a - b,   c_j = Σ_i M_ij
//! Mᵀ ḟ + c ġ = -b,   b_j = Σ_i M_ij L̇_ij
//! ```
//!
//! Backward, with W_ij = M_ij <ȳ_i, v_j>/ε, its row sums f̄ and column sums ḡ, the same symmetric system gives
//! multipliers (diag c - MᵀM) µ = ḡ - Mᵀ f̄, λ = f̄ - M µ, and L̄_ij = W_ij - (λ_i + µ_j) M_ij \[derived\].
//!
//! Every sum over pairs is one of [`Plan`]'s, which computes them row by row or on the tiles of the fused kernels; the
//! products M x of conjugate gradients are those of [`Products`](super::products::Products).

use super::Potentials;
use super::plan::{Plan, Shifts, Side};
use super::solve::{conjugate_gradients, trace};
use crate::attention::kernel::{Sinkhorn, SinkhornStop};
use crate::attention::projections::Projections;
use crate::error::DynamicsError;
use crate::linalg::dot;

/// The linear system is solved to rounding; worse than this is an error.
const WORST_RESIDUAL: f64 = 1e-9;
/// Where its iterations end.
const ACCURACY: f64 = 1e-14;

/// Gradients of queries (without beta), keys [n, k] and values [n, m].
type Gradients = [Vec<f64>; 3];

/// Writes the derivative of the messages along `direction` into `out` [n, m].
pub(crate) fn jvp(
    projections: &Projections,
    direction: &Projections,
    options: Sinkhorn,
    potentials: &Potentials,
    out: &mut [f64],
) -> Result<(), DynamicsError> {
    let (plan, moved) = (Plan::new(projections, options.epsilon), Plan::new(direction, options.epsilon));
    jvp_of(&plan, &moved, options, potentials, out)
}

/// As [`jvp`], for plans of the point and of the direction.
pub(super) fn jvp_of(
    plan: &Plan<'_>,
    moved: &Plan<'_>,
    options: Sinkhorn,
    potentials: &Potentials,
    out: &mut [f64],
) -> Result<(), DynamicsError> {
    let share = options.epsilon.recip();
    let mut write = |shifts: Shifts<'_>, rates: Shifts<'_>| {
        let rates = plan.average_tangent(shifts, moved, rates);
        out.iter_mut().zip(rates).for_each(|(out, rate)| *out = share * rate);
    };
    if let SinkhornStop::HalfSteps(count) = options.stop {
        let steps = trace(plan, count);
        let zero = vec![0.0; plan.count()];
        let [mut own_rate, mut other_rate] = [zero.clone(), zero.clone()];
        for (t, step) in steps.iter().enumerate() {
            let (side, other) = (side_of(t), if t == 0 { &zero } else { &steps[t - 1] });
            let rate = plan.tangent(side, Shifts { own: step, other }, moved, &other_rate);
            own_rate = std::mem::replace(&mut other_rate, rate.iter().map(|rate| -rate).collect());
        }
        // `other_rate` now is of the last half-step, `own_rate` of the one before.
        let (row, column) = last_two(&steps, &zero);
        let (row_rate, column_rate) = if count % 2 == 1 { (other_rate, own_rate) } else { (own_rate, other_rate) };
        write(Shifts { own: row, other: column }, Shifts { own: &row_rate, other: &column_rate });
        return Ok(());
    }
    let implicit = Implicit::new(plan, options, potentials);
    let (rows, columns) = (implicit.rows(), implicit.columns());
    let zero = vec![0.0; plan.count()];
    let a = plan.tangent(Side::Rows, rows, moved, &zero);
    let b = plan.tangent(Side::Columns, columns, moved, &zero);
    let rhs: Vec<f64> = plan.apply(Side::Columns, columns, &a).iter().zip(&b).map(|(a, b)| a - b).collect();
    let column_rate = implicit.solve(&rhs)?;
    let back = plan.apply(Side::Rows, rows, &column_rate);
    let row_rate: Vec<f64> = a.iter().zip(back).map(|(a, back)| -a - back).collect();
    write(rows, Shifts { own: &row_rate, other: &column_rate });
    Ok(())
}

/// The gradients of Σ_i <cotangent_i, y_i>.
pub(crate) fn vjp(
    projections: &Projections,
    options: Sinkhorn,
    potentials: &Potentials,
    cotangent: &[f64],
) -> Result<Gradients, DynamicsError> {
    vjp_of(&Plan::new(projections, options.epsilon), projections, options, potentials, cotangent)
}

/// As [`vjp`], for a plan of the projections.
pub(super) fn vjp_of(
    plan: &Plan<'_>,
    projections: &Projections,
    options: Sinkhorn,
    potentials: &Potentials,
    cotangent: &[f64],
) -> Result<Gradients, DynamicsError> {
    let (n, m) = (projections.count(), projections.value_width());
    let scaled: Vec<f64> = cotangent.iter().map(|g| g / options.epsilon).collect();
    let pairs = Pairs {
        width: m,
        cotangents: (0..m).flat_map(|c| (0..n).map(move |i| (i, c))).map(|(i, c)| scaled[i * m + c]).collect(),
        values: (0..m).flat_map(|c| projections.value_row(c).iter().copied()).collect(),
        values_by_token: (0..n).flat_map(|j| (0..m).map(move |c| projections.value_row(c)[j])).collect(),
        cotangents_by_token: scaled,
    };
    if let SinkhornStop::HalfSteps(count) = options.stop {
        return Ok(unrolled(plan, &pairs, count));
    }
    let implicit = Implicit::new(plan, options, potentials);
    let (rows, columns) = (implicit.rows(), implicit.columns());
    let averages = pairs.averages(plan, rows);
    let [row_bar, column_bar] = pairs.potential_cotangents(&averages);
    let back = plan.apply(Side::Columns, columns, &row_bar);
    let rhs: Vec<f64> = column_bar.iter().zip(back).map(|(bar, back)| bar - back).collect();
    let mu = implicit.solve(&rhs)?;
    let forth = plan.apply(Side::Rows, rows, &mu);
    let lambda: Vec<f64> = row_bar.iter().zip(forth).map(|(bar, forth)| bar - forth).collect();
    let multipliers = Shifts { own: &lambda, other: &mu };
    Ok(pairs.gradients(plan, rows, multipliers, averages))
}

/// The plan at its fixed point, rows exact.
struct Implicit<'a> {
    plan: &'a Plan<'a>,
    options: Sinkhorn,
    column: &'a [f64],
    row: Vec<f64>,
    sums: Vec<f64>,
}

impl<'a> Implicit<'a> {
    fn new(plan: &'a Plan<'a>, options: Sinkhorn, potentials: &'a Potentials) -> Self {
        let column = &potentials.column;
        let row = plan.half_step(Side::Rows, column);
        let sums = plan.apply(Side::Columns, Shifts { own: column, other: &row }, &vec![1.0; plan.count()]);
        Self { plan, options, column, row, sums }
    }

    fn rows(&self) -> Shifts<'_> {
        Shifts { own: &self.row, other: self.column }
    }

    fn columns(&self) -> Shifts<'_> {
        Shifts { own: self.column, other: &self.row }
    }

    fn solve(&self, rhs: &[f64]) -> Result<Vec<f64>, DynamicsError> {
        let most = match self.options.stop {
            SinkhornStop::Converged { max_iterations, .. } => max_iterations,
            SinkhornStop::HalfSteps(_) => 0,
        };
        let solution = conjugate_gradients(self.plan, self.rows(), &self.sums, rhs, ACCURACY, most);
        if solution.residual <= WORST_RESIDUAL {
            return Ok(solution.x);
        }
        Err(DynamicsError::NotConverged {
            epsilon: self.options.epsilon,
            residual: solution.residual,
            tolerance: WORST_RESIDUAL,
            iterations: solution.iterations,
        })
    }
}

/// ȳ/ε and v, each token after token [n, m] and component after component [m, n].
struct Pairs {
    /// m.
    width: usize,
    cotangents_by_token: Vec<f64>,
    cotangents: Vec<f64>,
    values_by_token: Vec<f64>,
    values: Vec<f64>,
}

impl Pairs {
    /// Σ_j M_ij v_j and Σ_i M_ij ȳ_i/ε, [n, m].
    fn averages(&self, plan: &Plan<'_>, rows: Shifts<'_>) -> [Vec<f64>; 2] {
        let columns = Shifts { own: rows.other, other: rows.own };
        [plan.average(Side::Rows, rows, &self.values), plan.average(Side::Columns, columns, &self.cotangents)]
    }

    /// f̄ and ḡ, the row and column sums of W: <ȳ_i, Σ_j M_ij v_j>/ε and <v_j, Σ_i M_ij ȳ_i>/ε.
    fn potential_cotangents(&self, [rows, columns]: &[Vec<f64>; 2]) -> [Vec<f64>; 2] {
        let pair = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.chunks_exact(self.width).zip(b.chunks_exact(self.width)).map(|(a, b)| dot(a, b)).collect()
        };
        [pair(&self.cotangents_by_token, rows), pair(&self.values_by_token, columns)]
    }

    /// The gradients for L̄_ij = W_ij - (λ_i + µ_j) M_ij, from the averages that are those of the values.
    fn gradients(
        &self,
        plan: &Plan<'_>,
        rows: Shifts<'_>,
        multipliers: Shifts<'_>,
        [_, values]: [Vec<f64>; 2],
    ) -> Gradients {
        let columns = Shifts { own: rows.other, other: rows.own };
        let swapped = Shifts { own: multipliers.other, other: multipliers.own };
        [
            plan.score_cotangent(Side::Rows, rows, [&self.cotangents_by_token, &self.values], multipliers),
            plan.score_cotangent(Side::Columns, columns, [&self.values_by_token, &self.cotangents], swapped),
            values,
        ]
    }
}

/// The gradients through counted half-steps, last step first: a row step f = -ln Σ_j e^{L + g} has
/// ḟ_i = -Σ_j p_ij (L̇_ij + ġ_j), so L̄_ij -= f̄_i p_ij and ḡ_j -= Σ_i f̄_i p_ij with its own weights p.
fn unrolled(plan: &Plan<'_>, pairs: &Pairs, count: u32) -> Gradients {
    let (steps, zero) = (trace(plan, count), vec![0.0; plan.count()]);
    let (row, column) = last_two(&steps, &zero);
    let rows = Shifts { own: row, other: column };
    let averages = pairs.averages(plan, rows);
    let [mut row_bar, mut column_bar] = pairs.potential_cotangents(&averages);
    let mut gradients = pairs.gradients(plan, rows, Shifts { own: &zero, other: &zero }, averages);
    for (t, step) in steps.iter().enumerate().rev() {
        let (side, other) = (side_of(t), if t == 0 { &zero } else { &steps[t - 1] });
        let (own, beyond) = (Shifts { own: step, other }, Shifts { own: other, other: step });
        let there = if side == Side::Rows { Side::Columns } else { Side::Rows };
        let (bar, next) = match side {
            Side::Rows => (&mut row_bar, &mut column_bar),
            Side::Columns => (&mut column_bar, &mut row_bar),
        };
        let bar = std::mem::replace(bar, zero.clone());
        let pulled = plan.apply(there, beyond, &bar);
        next.iter_mut().zip(pulled).for_each(|(next, pulled)| *next -= pulled);
        let (here_multipliers, there_multipliers) =
            (Shifts { own: &bar, other: &zero }, Shifts { own: &zero, other: &bar });
        let (mut slots, empty): (_, [&[f64]; 2]) = (gradients.iter_mut(), [&[], &[]]);
        let (Some(queries), Some(keys)) = (slots.next(), slots.next()) else { unreachable!("three gradients") };
        let (own_slot, other_slot) = if side == Side::Rows { (queries, keys) } else { (keys, queries) };
        let here = plan.score_cotangent(side, own, empty, here_multipliers);
        own_slot.iter_mut().zip(here).for_each(|(sum, part)| *sum += part);
        let beyond = plan.score_cotangent(there, beyond, empty, there_multipliers);
        other_slot.iter_mut().zip(beyond).for_each(|(sum, part)| *sum += part);
    }
    gradients
}

/// Half-step t, from 0, is one of rows or of columns.
fn side_of(t: usize) -> Side {
    if t.is_multiple_of(2) { Side::Rows } else { Side::Columns }
}

/// The row and column potentials at the end.
fn last_two<'a>(steps: &'a [Vec<f64>], zero: &'a [f64]) -> (&'a [f64], &'a [f64]) {
    let at = |back: usize| steps.len().checked_sub(back).map_or(zero, |t| &steps[t][..]);
    if steps.len() % 2 == 1 { (at(1), at(2)) } else { (at(2), at(1)) }
}
