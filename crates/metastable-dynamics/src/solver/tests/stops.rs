//! Reasons to stop, each with the time reached.

use std::ops::ControlFlow;

use super::problems::{Closure, decay, rotation, scalar};
use crate::field::VectorField;
use crate::geometry::{Euclidean, Spheres};
use crate::solver::{Advance, Method, Outcome, SolverOptions, Stepper, StopReason, integrate};

const ADAPTIVE: [Method; 3] = [Method::Tsit5, Method::Dopri5, Method::Dop853];

fn solve(field: &dyn VectorField, options: SolverOptions, y0: f64, end: f64) -> Outcome {
    let mut stepper = Stepper::new(field, &Euclidean, options, 0.0, vec![y0]).unwrap();
    integrate(&mut stepper, end, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_pole_is_a_blow_up_at_its_time() {
    // y' = y^2: 1/(1-t). y' = y^3/2: (1-t)^(-1/2). y' = e^y: -ln(1-t), which is only 36 when rounding ends it.
    let fields: [(Box<dyn VectorField>, f64); 3] = [
        (Box::new(scalar(|_, y| y * y)), 1.0),
        (Box::new(scalar(|_, y| 0.5 * y * y * y)), 1.0),
        (Box::new(scalar(|_, y| y.exp())), 0.0),
    ];
    for (i, (field, y0)) in fields.iter().enumerate() {
        for method in ADAPTIVE {
            for tolerance in [1e-5, 1e-8, 1e-11] {
                let outcome = solve(&**field, SolverOptions::adaptive(method, tolerance, tolerance), *y0, 5.0);
                assert_eq!(outcome.stop, StopReason::BlowUp, "{i} {method:?} {tolerance:e} {outcome:?}");
                // The pole moves by about the relative error of y.
                assert!((outcome.t - 1.0).abs() < 100.0 * tolerance, "{i} {method:?} {tolerance:e} {outcome:?}");
            }
        }
    }
}

#[test]
fn growth_beyond_the_escape_norm_is_a_blow_up_with_finite_state() {
    for options in [
        SolverOptions { escape_norm: 1e6, ..SolverOptions::adaptive(Method::Dopri5, 1e-8, 1e-8) },
        SolverOptions { escape_norm: 1e6, ..SolverOptions::fixed(Method::Rk4, 0.01) },
    ] {
        let field = scalar(|_, y| y);
        let mut stepper = Stepper::new(&field, &Euclidean, options, 0.0, vec![1.0]).unwrap();
        let outcome = integrate(&mut stepper, 100.0, &mut |_| ControlFlow::Continue(()));
        assert_eq!(outcome.stop, StopReason::BlowUp);
        let passed = 1e6_f64.ln();
        assert!(passed <= outcome.t && outcome.t < passed + 1.0 && stepper.values()[0].is_finite());
    }
}

#[test]
fn fixed_steps_that_overflow_are_a_blow_up_with_the_last_finite_state() {
    let field = scalar(|_, y| y * y);
    let options = SolverOptions { escape_norm: f64::INFINITY, ..SolverOptions::fixed(Method::Euler, 0.1) };
    let mut stepper = Stepper::new(&field, &Euclidean, options, 0.0, vec![1.0]).unwrap();
    let outcome = integrate(&mut stepper, 100.0, &mut |_| ControlFlow::Continue(()));
    assert_eq!(outcome.stop, StopReason::BlowUp);
    assert!(outcome.t > 1.0 && outcome.t < 4.0 && stepper.values()[0].is_finite(), "{outcome:?}");
}

#[test]
fn a_wall_in_the_field_is_a_step_underflow_at_its_time() {
    let wall = scalar(|t, _| if t < 0.5 { 1.0 } else { f64::NAN });
    // The tangent is vertical at t = 1/2, beyond which there is no solution: y = sqrt(1 - 2t).
    let fold = scalar(|_, y| if y > 0.0 { -1.0 / y } else { f64::NAN });
    for method in ADAPTIVE {
        for (field, y0) in [(&wall as &dyn VectorField, 0.0), (&fold, 1.0)] {
            let outcome = solve(field, SolverOptions::adaptive(method, 1e-8, 1e-8), y0, 1.0);
            assert_eq!(outcome.stop, StopReason::StepUnderflow, "{method:?} {outcome:?}");
            assert!((outcome.t - 0.5).abs() < 1e-7 && outcome.stats.rejected < 400, "{method:?} {outcome:?}");
        }
    }
}

#[test]
fn rejections_in_a_row_are_capped() {
    let wall = scalar(|t, _| if t <= 0.0 { 1.0 } else { f64::NAN });
    let options = SolverOptions { max_rejections: 7, ..SolverOptions::adaptive(Method::Tsit5, 1e-8, 1e-8) };
    let outcome = solve(&wall, options, 0.0, 1.0);
    assert_eq!((outcome.stop, outcome.t, outcome.stats.rejected), (StopReason::StepUnderflow, 0.0, 8));
}

#[test]
fn tolerances_beyond_rounding_end_instead_of_hanging() {
    let field = rotation();
    for method in ADAPTIVE {
        let options = SolverOptions::adaptive(method, 1e-19, 1e-19);
        let mut stepper = Stepper::new(&field, &Euclidean, options, 0.0, vec![1.0, 0.0]).unwrap();
        let outcome = integrate(&mut stepper, 1.0, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(outcome.stop, StopReason::StepUnderflow | StopReason::EndTime), "{method:?} {outcome:?}");
    }
}

#[test]
fn rest_is_stationary_and_a_lasting_turn_is_not() {
    let options = |stationary| SolverOptions {
        stationary: Some(stationary),
        ..SolverOptions::adaptive(Method::Dopri5, 1e-9, 1e-12)
    };
    let outcome = solve(&scalar(|_, y| 1.0 - y), options(1e-6), 0.0, 1e3);
    assert_eq!(outcome.stop, StopReason::Stationary);
    // t e^-t = 1e-6 at t = 16.6; steps are of length 1 there.
    assert!(outcome.t > 16.0 && outcome.t < 25.0, "{outcome:?}");
    let field = rotation();
    let mut stepper = Stepper::new(&field, &Euclidean, options(1e-3), 0.0, vec![1.0, 0.0]).unwrap();
    assert_eq!(integrate(&mut stepper, 20.0, &mut |_| ControlFlow::Continue(())).stop, StopReason::EndTime);
    // Algebraic collapse y = 1/(1+t): velocity 1/t^2 is small soon, yet relative change a doubling of t stays 1/2.
    assert_eq!(solve(&scalar(|_, y| -y * y), options(1e-3), 1.0, 1e6).stop, StopReason::EndTime);
}

#[test]
fn observer_end_and_max_steps_stop_and_can_go_on() {
    let field = decay();
    let options = SolverOptions { max_steps: 5, ..SolverOptions::fixed(Method::Heun, 0.1) };
    let mut stepper = Stepper::new(&field, &Euclidean, options, 0.0, vec![1.0]).unwrap();
    let outcome = integrate(&mut stepper, 10.0, &mut |_| ControlFlow::Break(()));
    assert_eq!((outcome.stop, outcome.stats.steps), (StopReason::Observer, 1));
    let outcome = integrate(&mut stepper, 0.3, &mut |_| ControlFlow::Continue(()));
    assert_eq!((outcome.stop, outcome.t, outcome.stats.steps), (StopReason::EndTime, 0.3, 3));
    assert_eq!(integrate(&mut stepper, 10.0, &mut |_| ControlFlow::Continue(())).stop, StopReason::MaxSteps);
    assert!(matches!(stepper.advance(10.0), Advance::Stopped(StopReason::MaxSteps)));
    assert!(matches!(stepper.advance(f64::NAN), Advance::Stopped(StopReason::EndTime)));
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let options = || SolverOptions::fixed(Method::Euler, 0.1);
    let field = rotation();
    assert!(Stepper::new(&field, &Euclidean, options(), 0.0, vec![1.0]).is_err());
    assert!(Stepper::new(&field, &Euclidean, options(), f64::NAN, vec![1.0, 0.0]).is_err());
    assert!(Stepper::new(&field, &Euclidean, options(), 0.0, vec![1.0, f64::INFINITY]).is_err());
    // The origin has no direction: it retracts to NaN.
    assert!(Stepper::new(&field, &Spheres { dim: 2 }, options(), 0.0, vec![0.0, 0.0]).is_err());
    let ragged = Closure { len: 2, block: 3, f: |_: f64, _: &[f64], _: &mut [f64]| {} };
    assert!(Stepper::new(&ragged, &Euclidean, options(), 0.0, vec![1.0, 0.0]).is_err());
}

#[test]
fn stop_reasons_have_the_names_of_the_report() {
    let names = serde_json::to_string(&[
        StopReason::EndTime,
        StopReason::Stationary,
        StopReason::BlowUp,
        StopReason::StepUnderflow,
        StopReason::Observer,
        StopReason::MaxSteps,
    ]);
    let expected = r#"["end_time","stationary","blow_up","step_underflow","observer","max_steps"]"#;
    assert_eq!(names.unwrap(), expected);
}
