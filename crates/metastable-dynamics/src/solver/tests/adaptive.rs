//! Step-size control: tolerances, jumps of the field, cost.

use std::ops::ControlFlow;

use super::problems::{Closure, decay, distance, log_slope, problems, scalar};
use crate::field::VectorField;
use crate::geometry::Euclidean;
use crate::solver::{Method, Outcome, SolverOptions, Stats, Stepper, StopReason, integrate};

const ADAPTIVE: [Method; 3] = [Method::Tsit5, Method::Dopri5, Method::Dop853];

fn solve(field: &dyn VectorField, options: SolverOptions, y0: Vec<f64>, end: f64) -> (Outcome, Vec<f64>) {
    let mut stepper = Stepper::new(field, &Euclidean, options, 0.0, y0).unwrap();
    let outcome = integrate(&mut stepper, end, &mut |_| ControlFlow::Continue(()));
    (outcome, stepper.values().to_vec())
}

/// Local extrapolation with error per step: global error ~ tolerance^(p/p).
#[test]
fn errors_are_proportional_to_the_tolerance() {
    for problem in problems() {
        for method in ADAPTIVE {
            let points: Vec<(f64, f64)> = (10..=22)
                .map(|half_decades| {
                    let tolerance = 10f64.powf(-0.5 * f64::from(half_decades));
                    let options = SolverOptions::adaptive(method, tolerance, tolerance);
                    let mut stepper =
                        Stepper::new(&*problem.field, &*problem.geometry, options, 0.0, problem.initial.clone())
                            .unwrap();
                    let mut worst: f64 = 0.0;
                    integrate(&mut stepper, problem.end, &mut |step| {
                        worst = worst.max(distance(step.end_state(), &(problem.exact)(step.end())));
                        ControlFlow::Continue(())
                    });
                    (tolerance, worst)
                })
                .collect();
            let slope = log_slope(&points);
            let worst = points.iter().map(|(tolerance, error)| error / tolerance).fold(0.0, f64::max);
            // Steps are whole, errors change sign between tolerances: a wider band than for fixed steps.
            assert!((slope - 1.0).abs() < 0.25, "{} {method:?}: {slope}", problem.name);
            // Errors add up over few steps and grow by at most e over these times.
            assert!(worst < 20.0, "{} {method:?}: {worst}", problem.name);
        }
    }
}

/// Every block has its own tolerance: a small token beside a huge one keeps its digits.
#[test]
fn a_small_block_beside_a_large_one_keeps_its_relative_accuracy() {
    let f = |_: f64, y: &[f64], v: &mut [f64]| {
        v[0] = -y[1];
        v[1] = y[0];
        v[2] = -5.0 * y[3];
        v[3] = 5.0 * y[2];
    };
    let field = Closure { len: 4, block: 2, f };
    for method in ADAPTIVE {
        let (_, y) = solve(&field, SolverOptions::adaptive(method, 1e-8, 0.0), vec![1e6, 0.0, 1e-6, 0.0], 2.0);
        let error = distance(&y[2..], &[1e-6 * 10f64.cos(), 1e-6 * 10f64.sin()]) / 1e-6;
        // Fifty to a hundred steps of at most 1e-8 each.
        assert!(error < 1e-6, "{method:?}: {error:e}");
    }
}

/// Counters are part of the behaviour: a change here is a change of the algorithm. Own values, 2026-11; the peer
/// figures of the same problem: a 40-line Dopri5 48 steps / 289 evaluations, ode_solvers 0.6.2 54 / 327.
#[test]
fn the_cost_of_a_decay_is_known() {
    let counts: Vec<Stats> = ADAPTIVE
        .iter()
        .map(|&method| {
            let (outcome, y) = solve(&decay(), SolverOptions::adaptive(method, 1e-8, 1e-8), vec![1.0], 10.0);
            assert!((y[0] - (-10f64).exp()).abs() < 1e-8);
            outcome.stats
        })
        .collect();
    let expected = [(48, 0, 290), (54, 0, 326), (14, 0, 169)];
    for (stats, (steps, rejected, evaluations)) in counts.iter().zip(expected) {
        assert_eq!(*stats, Stats { steps, rejected, evaluations });
    }
    // Fixed steps: one evaluation for each stage, none for the end slope nobody asked for.
    for (method, stages) in
        [(Method::Euler, 1), (Method::Heun, 2), (Method::Rk4, 4), (Method::Tsit5, 6), (Method::Dop853, 12)]
    {
        let (outcome, _) = solve(&decay(), SolverOptions::fixed(method, 0.1), vec![1.0], 10.0);
        assert_eq!(outcome.stats, Stats { steps: 100, rejected: 0, evaluations: 100 * stages });
    }
}

/// Dense output takes slopes only when asked, and hands the end slope on to the next step.
#[test]
fn dense_output_costs_what_it_says() {
    let cost = |method, at: f64| {
        let field = decay();
        let mut stepper = Stepper::new(&field, &Euclidean, SolverOptions::fixed(method, 0.1), 0.0, vec![1.0]).unwrap();
        let outcome = integrate(&mut stepper, 1.0, &mut |step| {
            let mut y = [0.0];
            step.evaluate(step.start() + at * (step.end() - step.start()), &mut y);
            step.evaluate(step.end(), &mut y);
            ControlFlow::Continue(())
        });
        outcome.stats.evaluations
    };
    // Ten steps; the end slope of the last one is the only one that no step uses.
    for (method, evaluations) in
        [(Method::Euler, 10), (Method::Heun, 21), (Method::Rk4, 41), (Method::Dopri5, 61), (Method::Dop853, 151)]
    {
        assert_eq!(cost(method, 0.5), evaluations, "{method:?}");
    }
    assert_eq!(cost(Method::Dop853, 0.0), 120);
}

/// Hard-max attention switches: the field jumps, in time or across a surface. The controller finds the jump and grows.
#[test]
fn jumps_of_the_field_cost_rejections_but_not_accuracy() {
    let in_time = scalar(|t, y| if t < 1.0 / 3.0 { 1.0 - y } else { -20.0 });
    let at_end = |t: f64| (1.0 - (-1.0f64 / 3.0).exp()) - 20.0 * (t - 1.0 / 3.0);
    let in_space = scalar(|_, y| if y < 1.0 { 1.0 } else { 5.0 * y });
    for method in ADAPTIVE {
        let options = SolverOptions::adaptive(method, 1e-9, 1e-9);
        let (outcome, y) = solve(&in_time, options.clone(), vec![0.0], 2.0);
        assert_eq!(outcome.stop, StopReason::EndTime);
        // One step that straddles the jump is accepted: its error is below the tolerance, 1e-9 (1 + |y|), times a
        // few for the steps beside it.
        assert!((y[0] - at_end(2.0)).abs() < 4e-7, "{method:?}: {:e}", y[0] - at_end(2.0));
        assert!(outcome.stats.steps < 100 && outcome.stats.rejected < 40, "{method:?} {:?}", outcome.stats);

        let (outcome, y) = solve(&in_space, options, vec![0.0], 2.0);
        let error = y[0] / 5f64.exp() - 1.0;
        assert!(error.abs() < 1e-7, "{method:?}: {error:e}");
        assert!(outcome.stats.steps < 200 && outcome.stats.rejected < 40, "{method:?} {:?}", outcome.stats);
    }
}

/// A field that is not finite over there: steps that look there are rejected, the solve stays on this side.
#[test]
fn stages_that_are_not_finite_reject_the_step() {
    let field = scalar(|_, y| if y < 1e-3 { f64::NAN } else { -y });
    for method in ADAPTIVE {
        let options = SolverOptions { initial_step: Some(50.0), ..SolverOptions::adaptive(method, 1e-6, 1e-9) };
        let (outcome, y) = solve(&field, options, vec![1.0], 5.0);
        assert_eq!(outcome.stop, StopReason::EndTime);
        assert!((y[0] - (-5.0f64).exp()).abs() < 1e-5 && outcome.stats.rejected > 0, "{method:?}");
    }
}
