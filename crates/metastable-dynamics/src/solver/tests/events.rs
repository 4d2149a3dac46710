//! Events and samples read off the dense output.

use std::f64::consts::{FRAC_PI_2, PI};
use std::ops::ControlFlow;

use super::problems::{problems, rotation, scalar};
use crate::geometry::Euclidean;
use crate::solver::{Crossing, Direction, EventLocator, Method, Sampler, SolverOptions, Stepper, integrate};

/// All crossings of `g` along a turn of the plane up to `end`.
fn crossings(options: SolverOptions, end: f64, g: &mut dyn FnMut(f64, &[f64]) -> f64) -> Vec<Crossing> {
    let field = rotation();
    let mut stepper = Stepper::new(&field, &Euclidean, options, 0.0, vec![1.0, 0.0]).unwrap();
    let mut locator = EventLocator::new(2);
    let mut found = Vec::new();
    integrate(&mut stepper, end, &mut |step| {
        found.extend_from_slice(locator.crossings(step, g));
        ControlFlow::Continue(())
    });
    found
}

#[test]
fn brackets_contain_the_exact_time_and_are_a_few_roundings_wide() {
    for method in Method::ALL {
        let found = crossings(SolverOptions::fixed(method, 0.7), 20.0, &mut |t, _| t.cos());
        assert_eq!(found.len(), 6, "{method:?}");
        for (k, crossing) in found.iter().enumerate() {
            let exact = FRAC_PI_2 + PI * k as f64;
            let [lo, hi] = crossing.bracket;
            // `exact` itself is rounded to one unit in the last place.
            assert!(lo <= exact.next_up() && exact.next_down() <= hi, "{method:?} {k}: {crossing:?}");
            assert!(lo <= crossing.time && crossing.time <= hi && hi - lo <= 4.0 * f64::EPSILON * hi);
            assert!(lo.cos() * hi.cos() <= 0.0);
            assert_eq!(crossing.direction, if k % 2 == 0 { Direction::Falling } else { Direction::Rising });
        }
    }
}

/// g of the state: the bracket is on the computed path, whose error in time is that of the solver.
#[test]
fn crossings_of_the_state_are_as_accurate_as_the_solver() {
    for (method, tolerance) in [(Method::Tsit5, 1e-8), (Method::Dopri5, 1e-10), (Method::Dop853, 1e-11)] {
        let found = crossings(SolverOptions::adaptive(method, tolerance, tolerance), 20.0, &mut |_, y| y[0]);
        assert_eq!(found.len(), 6, "{method:?}");
        for (k, crossing) in found.iter().enumerate() {
            let error = crossing.time - (FRAC_PI_2 + PI * k as f64);
            // Phase errors of up to a hundred steps add up; dense output is one order below the step.
            assert!(error.abs() < 100.0 * tolerance, "{method:?} {k}: {error:e}");
        }
    }
}

#[test]
fn two_crossings_in_one_step_are_both_found() {
    // One step over [0, 1], g positive only on (0.4, 0.6); then the same upside down.
    for sign in [1.0, -1.0] {
        let found =
            crossings(SolverOptions::fixed(Method::Rk4, 1.0), 1.0, &mut |t, _| sign * (0.01 - (t - 0.5).powi(2)));
        let times: Vec<f64> = found.iter().map(|crossing| crossing.time).collect();
        assert_eq!(times.len(), 2);
        assert!((times[0] - 0.4).abs() < 1e-15 && (times[1] - 0.6).abs() < 1e-15, "{times:?}");
        let first = if sign > 0.0 { Direction::Rising } else { Direction::Falling };
        assert!(found[0].direction == first && found[1].direction != first);
    }
}

#[test]
fn jumps_kinks_infinities_and_flat_ends_are_located_too() {
    type Event = fn(f64, &[f64]) -> f64;
    let events: [(Event, f64); 5] = [
        (|t, _| if t < 0.3 { 1.0 } else { -1e9 }, 0.3),
        (|t, _| (t - 0.3).abs().sqrt().copysign(t - 0.3), 0.3),
        (|t, _| if t < 0.3 { f64::INFINITY } else { f64::NEG_INFINITY }, 0.3),
        (|t, _| (t - 0.3).powi(9), 0.3),
        // Zero belongs to the negative side: the crossing is where g becomes positive.
        (|t, _| (t - 0.3).max(0.0), 0.3),
    ];
    for (i, (event, exact)) in events.into_iter().enumerate() {
        let mut calls = 0;
        let found = crossings(SolverOptions::fixed(Method::Rk4, 1.0), 1.0, &mut |t, y| {
            calls += 1;
            event(t, y)
        });
        assert_eq!(found.len(), 1, "{i}");
        let [lo, hi] = found[0].bracket;
        assert!(lo.next_down() <= exact && exact <= hi.next_up(), "{i}: {:?}", found[0]);
        // Ten of the grid, then at most one more than bisection of a cell of 1/9 to 2 * 2^-52 * 1/3: 51.
        assert!(calls <= 10 + 52, "{i}: {calls}");
    }
}

#[test]
fn a_crossing_at_the_seam_of_two_steps_is_found_once() {
    // g changes sign exactly at the ends of steps 1, 2, ...: zero is on the negative side.
    let found = crossings(SolverOptions::fixed(Method::Heun, 0.5), 3.0, &mut |t, _| (t - 1.0) * (2.0 - t));
    let times: Vec<f64> = found.iter().map(|crossing| crossing.time).collect();
    assert_eq!(times.len(), 2, "{times:?}");
    assert!((times[0] - 1.0).abs() < 1e-15 && (times[1] - 2.0).abs() < 1e-15, "{times:?}");
}

#[test]
fn samples_are_as_accurate_as_the_steps() {
    for problem in problems() {
        for method in [Method::Tsit5, Method::Dopri5, Method::Dop853] {
            let options = SolverOptions::adaptive(method, 1e-9, 1e-9);
            let mut stepper =
                Stepper::new(&*problem.field, &*problem.geometry, options, 0.0, problem.initial.clone()).unwrap();
            let times: Vec<f64> = (0..=1000).map(|i| problem.end * f64::from(i) / 1000.0).collect();
            let mut sampler = Sampler::new(times.clone(), stepper.values()).unwrap();
            integrate(&mut stepper, problem.end, &mut |step| {
                sampler.observe(step);
                ControlFlow::Continue(())
            });
            assert!(sampler.is_complete());
            assert_eq!(sampler.sample(1000), stepper.values());
            for (i, t) in times.iter().enumerate() {
                let error = super::problems::distance(sampler.sample(i), &(problem.exact)(*t));
                // The dense output is not controlled; it stays within some ten times the tolerance here.
                assert!(error < 5e-8, "{} {method:?} at {t}: {error:e}", problem.name);
            }
        }
    }
}

#[test]
fn sampling_does_not_change_the_path() {
    let field = scalar(|t, y| y * t.cos());
    for method in Method::ALL {
        let solve = |times: Vec<f64>| {
            let options = SolverOptions::fixed(method, 0.1);
            let mut stepper = Stepper::new(&field, &Euclidean, options, 0.0, vec![1.0]).unwrap();
            let mut sampler = Sampler::new(times, &[1.0]).unwrap();
            integrate(&mut stepper, 5.0, &mut |step| {
                sampler.observe(step);
                ControlFlow::Continue(())
            });
            stepper.values()[0].to_bits()
        };
        assert_eq!(solve(vec![0.0]), solve((0..500).map(|i| 0.01 * f64::from(i)).collect()));
    }
}

#[test]
fn sample_times_must_increase() {
    assert!(Sampler::new(vec![], &[1.0]).is_err());
    assert!(Sampler::new(vec![0.0, 0.0], &[1.0]).unwrap_err().to_string().contains("position 1"));
    assert!(Sampler::new(vec![0.0, f64::NAN], &[1.0]).is_err());
}
