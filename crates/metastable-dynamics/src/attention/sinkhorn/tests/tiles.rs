//! Large plans on the tiles of the fused kernels, beside the same sums row by row.

use super::*;
use crate::attention::sinkhorn::jacobian::{jvp_of, vjp_of};

/// The least number of tokens for tiles, and numbers that fill no tile, block or task: with widths on both sides of
/// those that stay in registers, and values wider than keys.
const SHAPES: [[usize; 4]; 4] = [[128, 2, 2, 3], [131, 3, 3, 5], [300, 8, 8, 9], [131, 20, 17, 40]];

/// A plan, its potentials, and a direction.
struct Case {
    problem: Problem,
    projections: Projections,
    direction: Projections,
    potentials: Potentials,
    row: Vec<f64>,
}

impl Case {
    /// Scores of order one; with keys that are queries where tokens lie around an `offset` (else scores are as far).
    fn random(seed: u64, score: Score, options: Sinkhorn, [n, d, k, m]: [usize; 4], offset: f64) -> Self {
        let mut problem = Problem::random(seed, score, options, [n, d, k, m], (d as f64).sqrt().recip());
        problem.tokens.iter_mut().for_each(|x| *x += offset);
        if offset != 0.0 {
            problem.matrices[1] = problem.matrices[0].clone();
        }
        let projections = problem.project(&problem.tokens);
        let direction = problem.project(&random::standard_normal(seed + 50, n, d));
        let potentials = solve(&projections, options, &[]).unwrap();
        let row = Plan::by_rows(&projections, options.epsilon).half_step(Side::Rows, potentials.column());
        Self { problem, projections, direction, potentials, row }
    }

    fn all() -> impl Iterator<Item = Self> {
        let cases = |shape: [usize; 4]| {
            [(Score::Dot, 0.0), (Score::SquaredDistance, 0.0), (Score::SquaredDistance, 100.0)]
                .map(|(score, offset)| Self::random(shape[0] as u64, score, tight(1.0), shape, offset))
        };
        SHAPES.into_iter().flat_map(cases)
    }

    /// On the tiles, and row by row.
    fn plans<'a>(&self, projections: &'a Projections) -> [Plan<'a>; 2] {
        let epsilon = self.problem.options.epsilon;
        [Plan::new(projections, epsilon), Plan::by_rows(projections, epsilon)]
    }

    fn shifts(&self, side: Side) -> Shifts<'_> {
        match side {
            Side::Rows => Shifts { own: &self.row, other: self.potentials.column() },
            Side::Columns => Shifts { own: self.potentials.column(), other: &self.row },
        }
    }

    /// The largest |q_i| or |k_j|, from where distances are measured, and that of their tangents.
    fn spans(&self) -> [f64; 2] {
        [&self.projections, &self.direction].map(|projections| {
            let [queries, keys] = [projections.clone(), projections.swapped()];
            let rows =
                |side: &Projections| -> Vec<Vec<f64>> { (0..side.count()).map(|i| side.query(i).to_vec()).collect() };
            let (queries, keys) = (rows(&queries), rows(&keys));
            let mean = |c: usize| keys.iter().map(|key| key[c]).sum::<f64>() / keys.len() as f64;
            let origin: Vec<f64> = match projections.score() {
                Score::Dot => vec![0.0; projections.width()],
                Score::SquaredDistance => (0..projections.width()).map(mean).collect(),
            };
            let length = |row: &Vec<f64>| row.iter().zip(&origin).map(|(x, o)| (x - o) * (x - o)).sum::<f64>().sqrt();
            queries.iter().chain(&keys).map(length).fold(0.0, f64::max)
        })
    }

    /// β/ε of the products that scores are made of.
    fn factor(&self) -> f64 {
        let beta = if self.projections.score() == Score::Dot { 1.0 } else { 4.0 * self.projections.beta() };
        beta / self.problem.options.epsilon
    }

    /// The relative error of a weight on both paths together: its exponent is a sum of k + 2 products, each sum of the
    /// size of the scores and potentials and rounded to half a unit of that, in random directions; what is summed over
    /// has errors of a few units of its own.
    fn rounding(&self) -> f64 {
        let largest = |v: &[f64]| v.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let exponent = self.factor() * self.spans()[0].powi(2) + largest(&self.row) + largest(self.potentials.column());
        let roundings = (self.projections.width() as f64 + 2.0).sqrt();
        f64::EPSILON * (16.0 + roundings * exponent + 0.1 * (self.projections.count() as f64).sqrt())
    }

    /// A bound of |L̇_ij|.
    fn slope(&self) -> f64 {
        let [span, moved] = self.spans();
        2.0 * self.factor() * span * moved
    }
}

fn largest(v: &[f64]) -> f64 {
    v.iter().fold(0.0, |m: f64, x| m.max(x.abs()))
}

fn assert_close(name: &str, [tiles, rows]: &[Vec<f64>; 2], tolerance: f64) {
    assert_eq!(tiles.len(), rows.len(), "{name}");
    for (at, (tiles, rows)) in tiles.iter().zip(rows).enumerate() {
        assert!((tiles - rows).abs() <= tolerance, "{name}[{at}]: {tiles} {rows} beyond {tolerance:e}");
    }
}

#[test]
fn half_steps_and_averages_on_tiles_are_those_of_rows() {
    for case in Case::all() {
        let (plans, n) = (case.plans(&case.projections), case.projections.count());
        let values = random::standard_normal(7, 1, n * 6);
        for side in [Side::Rows, Side::Columns] {
            let (shifts, rounding) = (case.shifts(side), case.rounding());
            let steps = plans.each_ref().map(|plan| plan.half_step(side, shifts.other));
            assert_close("half-step", &steps, rounding);
            let products = plans.each_ref().map(|plan| plan.apply(side, shifts, &values[..n]));
            assert_close("apply", &products, rounding * largest(&values));
            let averages = plans.each_ref().map(|plan| plan.average(side, shifts, &values));
            assert_close("average", &averages, rounding * largest(&values));
            let normalized = plans.each_ref().map(|plan| plan.average(side, Shifts { own: &[], ..shifts }, &values));
            assert_close("average of normalized rows", &normalized, rounding * largest(&values));
        }
    }
}

#[test]
fn sums_with_tangents_on_tiles_are_those_of_rows() {
    for case in Case::all() {
        let (plans, moved, n) = (case.plans(&case.projections), case.plans(&case.direction), case.projections.count());
        let rates = random::standard_normal(8, 2, n);
        let (rounding, slope) = (case.rounding(), case.slope());
        let by_path =
            |sum: &dyn Fn(&Plan<'_>, &Plan<'_>) -> Vec<f64>| [0, 1].map(|path| sum(&plans[path], &moved[path]));
        for side in [Side::Rows, Side::Columns] {
            let sums = by_path(&|plan, moved| plan.tangent(side, case.shifts(side), moved, &rates[..n]));
            assert_close("tangent", &sums, rounding * (slope + largest(&rates)));
        }
        let rates = Shifts { own: &rates[..n], other: &rates[n..] };
        let sums = by_path(&|plan, moved| plan.average_tangent(case.shifts(Side::Rows), moved, rates));
        let (values, tangents) = (largest(case.projections.values()), largest(case.direction.values()));
        let size = (slope + largest(rates.own) + largest(rates.other)) * values + tangents;
        assert_close("average of tangents", &sums, rounding * size);
    }
}

#[test]
fn gradients_of_scores_on_tiles_are_those_of_rows() {
    for case in Case::all() {
        let (plans, n, m) = (case.plans(&case.projections), case.projections.count(), 5);
        let (own, other) = (random::standard_normal(9, n, m), random::standard_normal(10, m, n));
        let multipliers = random::standard_normal(11, 2, n);
        let multipliers = Shifts { own: &multipliers[..n], other: &multipliers[n..] };
        let pairs = m as f64 * largest(&own) * largest(&other);
        let ends = largest(multipliers.own) + largest(multipliers.other);
        for (side, [a, b]) in [Side::Rows, Side::Columns].into_iter().flat_map(|side| {
            let empty: [&[f64]; 2] = [&[], &[]];
            [(side, [&own[..], &other[..]]), (side, empty)]
        }) {
            let gradients =
                plans.each_ref().map(|plan| plan.score_cotangent(side, case.shifts(side), [a, b], multipliers));
            let size = if a.is_empty() { ends } else { ends + pairs };
            let factor = case.factor() * 1.0_f64.max(case.projections.beta());
            assert_close("gradient", &gradients, case.rounding() * size * factor * 2.0 * case.spans()[0]);
        }
    }
}

#[test]
fn both_products_on_tiles_are_those_of_rows() {
    let stops = [tight(0.7), half_steps(0.7, 1), half_steps(0.7, 2), half_steps(0.7, 5)];
    for (score, options) in scores().into_iter().flat_map(|score| stops.map(|options| (score, options))) {
        let case = Case::random(13, score, options, [131, 4, 4, 6], 0.0);
        let (plans, moved) = (case.plans(&case.projections), case.plans(&case.direction));
        let forward = [0, 1].map(|path| {
            let mut out = vec![f64::NAN; 131 * 6];
            jvp_of(&plans[path], &moved[path], options, &case.potentials, &mut out).unwrap();
            out
        });
        // Errors of the sums go through the linear system, of condition number below a hundred here.
        let tolerance = 100.0 * case.rounding();
        let size = (1.0 + case.slope()) * largest(case.projections.values()) / options.epsilon;
        assert_close("jvp", &forward, tolerance * size);
        let cotangent = random::standard_normal(14, 131, 6);
        let backward = plans
            .each_ref()
            .map(|plan| vjp_of(plan, &case.projections, options, &case.potentials, &cotangent).unwrap());
        for part in 0..3 {
            let gradients = backward.each_ref().map(|gradients| gradients[part].clone());
            assert_close("vjp", &gradients, tolerance * (1.0 + largest(&gradients[1])) * case.factor().max(1.0));
        }
    }
}

/// Rows of a large plan, which only tiles have computed, are those of the formulas at the potentials found.
#[test]
fn potentials_found_on_tiles_have_uniform_marginals_by_rows() {
    for case in Case::all() {
        let plan = Plan::by_rows(&case.projections, case.problem.options.epsilon);
        let ones = vec![1.0; case.projections.count()];
        let sums = plan.apply(Side::Columns, case.shifts(Side::Columns), &ones);
        for sum in sums {
            // The tolerance of 1e-13.
            assert!((sum - 1.0).abs() <= 2e-13 + case.rounding(), "{sum}");
        }
    }
}

/// Richardson as for few tokens; and <ȳ, J δ> = <Jᵀ ȳ, δ>.
#[test]
fn products_of_large_plans_are_the_derivative_and_its_transpose() {
    for (score, options) in scores().into_iter().flat_map(|score| [tight(0.8), half_steps(0.8, 3)].map(|o| (score, o)))
    {
        let problem = Problem::random(15, score, options, [131, 3, 2, 4], 0.4);
        let direction = random::standard_normal(16, 131, 3);
        let exact = checked_jvp(&problem, &direction);
        let cotangent = random::standard_normal(17, 131, 4);
        let backward = problem.vjp(&cotangent);
        let (left, right) = (dot(&cotangent, &exact), dot(&backward, &direction));
        let size = norm(&cotangent) * norm(&exact) + norm(&backward) * norm(&direction);
        // The linear system is solved to 1e-14 of its right-hand side, with condition numbers below a thousand.
        assert!((left - right).abs() <= 1e-11 * size, "{score:?} {options:?}: {left} {right} {size}");
    }
}
