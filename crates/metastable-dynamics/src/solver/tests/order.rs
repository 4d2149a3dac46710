//! Observed orders of convergence.

use std::ops::ControlFlow;

use super::problems::{Closure, Problem, distance, log_slope, problems};
use crate::geometry::{Geometry, Spheres};
use crate::random;
use crate::solver::{Advance, Method, SolverOptions, Stepper, integrate};

/// Numbers of steps a unit of time at which the order is observed: between the first effects of higher orders and
/// rounding (1e-16 a step). The leading error terms of Tsit5 are so small that its range begins late.
fn step_counts(method: Method) -> [u32; 4] {
    match method {
        Method::Euler => [200, 400, 800, 1600],
        Method::Heun => [50, 100, 200, 400],
        Method::Rk4 => [20, 40, 60, 80],
        Method::Tsit5 => [24, 32, 48, 64],
        Method::Dopri5 => [40, 56, 80, 112],
        Method::Dop853 => [4, 5, 6, 8],
    }
}

/// The largest error at the ends of all steps: at one time alone leading terms may cancel.
fn global_error(problem: &Problem, method: Method, steps: u32) -> f64 {
    let options = SolverOptions::fixed(method, 1.0 / f64::from(steps));
    let mut stepper = Stepper::new(&*problem.field, &*problem.geometry, options, 0.0, problem.initial.clone()).unwrap();
    let mut worst: f64 = 0.0;
    let outcome = integrate(&mut stepper, problem.end, &mut |step| {
        worst = worst.max(distance(step.end_state(), &(problem.exact)(step.end())));
        ControlFlow::Continue(())
    });
    assert_eq!((outcome.t, outcome.stats.steps), (problem.end, problem.end as u64 * u64::from(steps)));
    worst
}

#[test]
fn the_observed_order_of_every_method_is_its_theory() {
    for problem in problems() {
        for method in Method::ALL {
            let points: Vec<_> = step_counts(method)
                .into_iter()
                .map(|steps| (1.0 / f64::from(steps), global_error(&problem, method, steps)))
                .collect();
            let order = log_slope(&points);
            assert!((order - f64::from(method.order())).abs() < 0.2, "{} {method:?}: {order}", problem.name);
        }
    }
}

/// One step from an exact state: the dense output inside it is wrong by O(h^(q+1)).
#[test]
fn the_observed_order_of_dense_output_is_its_theory() {
    for problem in problems() {
        for method in Method::ALL {
            let lengths: [f64; 4] = match method {
                Method::Dop853 => [0.2, 0.15, 0.12, 0.1],
                Method::Tsit5 | Method::Dopri5 => [0.1, 0.07, 0.05, 0.035],
                _ => [0.04, 0.02, 0.01, 0.005],
            };
            let points: Vec<_> = lengths.into_iter().map(|h| (h, dense_error(&problem, method, h))).collect();
            let order = log_slope(&points) - 1.0;
            assert!((order - f64::from(method.dense_order())).abs() < 0.2, "{} {method:?}: {order}", problem.name);
        }
    }
}

/// The largest error inside one step, over steps from several times, since leading terms vanish at some.
fn dense_error(problem: &Problem, method: Method, h: f64) -> f64 {
    let mut state = vec![0.0; problem.initial.len()];
    let mut worst: f64 = 0.0;
    for start in [0.1, 0.4, 0.7, 1.0, 1.3, 1.6] {
        let options = SolverOptions::fixed(method, h);
        let mut stepper =
            Stepper::new(&*problem.field, &*problem.geometry, options, start, (problem.exact)(start)).unwrap();
        let Advance::Step(step) = stepper.advance(10.0) else { panic!("no step") };
        for i in 1..20 {
            let t = start + h * f64::from(i) / 20.0;
            step.evaluate(t, &mut state);
            worst = worst.max(distance(&state, &(problem.exact)(t)));
        }
    }
    worst
}

/// The polynomial meets both ends: to the bit at them, continuously beside them.
#[test]
fn dense_output_joins_the_steps() {
    for problem in problems() {
        for method in Method::ALL {
            let options = SolverOptions::fixed(method, 0.1);
            let mut stepper =
                Stepper::new(&*problem.field, &*problem.geometry, options, 0.0, problem.initial.clone()).unwrap();
            let mut state = problem.initial.clone();
            integrate(&mut stepper, 1.0, &mut |step| {
                let (a, b) = (step.start(), step.end());
                for (t, expected) in [(a, step.start_state()), (b, step.end_state())] {
                    step.evaluate(t, &mut state);
                    assert_eq!(state, expected);
                    let beside = t.next_up().clamp(a, b.next_down());
                    step.evaluate(beside, &mut state);
                    // Slopes are below 2 and t moves by 1e-16; the dense rows of DOP853 reach 528, times h = 0.1.
                    assert!(distance(&state, expected) < 1e-13, "{} {method:?} at {t}", problem.name);
                }
                ControlFlow::Continue(())
            });
        }
    }
}

/// 1e5 steps on spheres: |x| - 1 stays at the rounding of one retraction, 2 units in the last place of 1 for d = 3.
#[test]
fn norms_stay_one_to_rounding_for_a_hundred_thousand_steps() {
    let f = |t: f64, x: &[f64], v: &mut [f64]| {
        for (x, v) in x.chunks(3).zip(v.chunks_mut(3)) {
            v.copy_from_slice(&[-x[1] + t.cos() * x[2], x[0] - 0.3 * x[1], 0.5 * x[2] * t.sin()]);
        }
        Spheres { dim: 3 }.project(x, v);
    };
    let field = Closure { len: 12, block: 3, f };
    let sphere = Spheres { dim: 3 };
    for method in [Method::Heun, Method::Tsit5, Method::Dop853] {
        let mut stepper =
            Stepper::new(&field, &sphere, SolverOptions::fixed(method, 0.05), 0.0, random::sphere(1, 4, 3)).unwrap();
        let mut worst: f64 = 0.0;
        let outcome = integrate(&mut stepper, 5000.0, &mut |step| {
            for x in step.end_state().chunks(3) {
                worst = worst.max((x.iter().map(|c| c * c).sum::<f64>().sqrt() - 1.0).abs());
            }
            ControlFlow::Continue(())
        });
        assert_eq!(outcome.stats.steps, 100_000);
        assert!(worst <= 2.0 * f64::EPSILON, "{method:?}: {worst:e}");
        let mut unit = stepper.values().to_vec();
        sphere.retract(&mut unit);
        assert!(distance(&unit, stepper.values()) <= 2.0 * f64::EPSILON);
    }
}

/// t_k = t0 + k dt to the bit; adding 0.1 ten thousand times would be off by 1e-10.
#[test]
fn fixed_steps_lie_on_their_grid_without_accumulated_rounding() {
    let field = super::problems::scalar(|_, _| 1.0);
    let options = SolverOptions::fixed(Method::Euler, 0.1);
    let mut stepper = Stepper::new(&field, &crate::geometry::Euclidean, options, 0.3, vec![0.0]).unwrap();
    let mut k = 0;
    let outcome = integrate(&mut stepper, 1000.25, &mut |step| {
        k += 1;
        let expected = 0.3 + f64::from(k) * 0.1;
        assert_eq!(step.end(), if k == 10_000 { 1000.25 } else { expected });
        ControlFlow::Continue(())
    });
    assert_eq!((outcome.t, outcome.stats.steps), (1000.25, 10_000));
    // The end was off the grid: the next step is the short one back to it.
    let Advance::Step(step) = stepper.advance(2000.0) else { panic!("no step") };
    assert_eq!(step.end(), 0.3 + 10_000.0 * 0.1);
}
