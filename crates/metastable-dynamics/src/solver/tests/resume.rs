//! A solve that is interrupted, written down and resumed equals one that is not, to the bit.

use std::ops::ControlFlow;

use super::problems::{Problem, problems};
use crate::solver::{Advance, DenseStep, Method, Sampler, SolverOptions, SolverState, Stepper, integrate};

fn options() -> Vec<SolverOptions> {
    let fixed = Method::ALL.into_iter().map(|method| SolverOptions::fixed(method, 0.0625 + 1e-3));
    let adaptive = Method::ALL.into_iter().filter(|method| method.is_adaptive());
    fixed.chain(adaptive.map(|method| SolverOptions::adaptive(method, 1e-13, 1e-13))).collect()
}

/// Solves to 1/3 of the end and on to the end; before each step in `breaks` everything goes through JSON.
fn solve(problem: &Problem, options: &SolverOptions, breaks: &[u64], dense: bool) -> (SolverState, Sampler) {
    let (field, geometry) = (&*problem.field, &*problem.geometry);
    let mut stepper = Stepper::new(field, geometry, options.clone(), 0.0, problem.initial.clone()).unwrap();
    let times = (0..=20).map(|i| problem.end * f64::from(i) / 20.0).collect();
    let mut sampler = Sampler::new(times, stepper.values()).unwrap();
    for end in [problem.end / 3.0, problem.end] {
        loop {
            if breaks.contains(&stepper.stats().steps) {
                let saved = serde_json::to_string(&(stepper.state(), &sampler)).unwrap();
                let (state, samples) = serde_json::from_str(&saved).unwrap();
                stepper = Stepper::resume(field, geometry, options.clone(), state).unwrap();
                sampler = samples;
            }
            match stepper.advance(end) {
                Advance::Step(step) if dense => sampler.observe(&step),
                Advance::Step(_) => {}
                Advance::Stopped(_) => break,
            }
        }
    }
    (stepper.state(), sampler)
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn resumed_solves_equal_uninterrupted_ones_to_the_bit() {
    for problem in problems() {
        for options in options() {
            for dense in [false, true] {
                let (whole, samples) = solve(&problem, &options, &[], dense);
                for breaks in [&[0][..], &[1], &[2, 3, 7], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]] {
                    let (resumed, resumed_samples) = solve(&problem, &options, breaks, dense);
                    assert_eq!(bits(&resumed.y), bits(&whole.y), "{} {options:?}", problem.name);
                    assert_eq!(resumed, whole, "{} {options:?} dense {dense}", problem.name);
                    assert_eq!(bits(resumed_samples.values()), bits(samples.values()));
                }
                assert!(whole.stats.steps > 7, "{} {options:?} has no steps to break at", problem.name);
            }
        }
    }
}

/// Saving is reading: it changes nothing in the running solve.
#[test]
fn looking_at_the_state_changes_no_bit() {
    let problem = &problems()[2];
    for options in options() {
        let plain = solve(problem, &options, &[], true).0;
        let mut stepper =
            Stepper::new(&*problem.field, &*problem.geometry, options.clone(), 0.0, problem.initial.clone()).unwrap();
        let mut sampler = Sampler::new(plain_times(problem), stepper.values()).unwrap();
        let mut observer = |step: &DenseStep<'_>| {
            sampler.observe(step);
            ControlFlow::Break(())
        };
        for end in [problem.end / 3.0, problem.end] {
            while stepper.time() < end {
                integrate(&mut stepper, end, &mut observer);
                let _ = stepper.state();
            }
        }
        assert_eq!(stepper.state(), plain);
    }
}

fn plain_times(problem: &Problem) -> Vec<f64> {
    (0..=20).map(|i| problem.end * f64::from(i) / 20.0).collect()
}

#[test]
fn damaged_states_are_refused() {
    let problem = &problems()[0];
    let options = SolverOptions::adaptive(Method::Tsit5, 1e-6, 1e-6);
    let good = solve(problem, &options, &[], false).0;
    let bad = [
        SolverState { y: vec![], ..good.clone() },
        SolverState { y: vec![f64::NAN], ..good.clone() },
        SolverState { t: f64::INFINITY, ..good.clone() },
        SolverState { step: Some(-1.0), ..good.clone() },
        SolverState { previous_error: f64::NAN, ..good },
    ];
    for state in bad {
        assert!(Stepper::resume(&*problem.field, &*problem.geometry, options.clone(), state).is_err());
    }
}
