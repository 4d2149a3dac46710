//! Poles: located, bracketed, and the bounds that hold for every start.

use proptest::prelude::*;

use super::*;
use crate::gaussian::bounds::{blow_up_not_after, blow_up_not_before};
use crate::gaussian::{BlowUp, JudgeOptions, Regime, judge};

/// By the run alone, at the tightest useful tolerance.
fn located(flow: &GaussianFlow, start: &Gaussian) -> BlowUp {
    let options = JudgeOptions { rtol: 1e-13, use_certificates: false, ..JudgeOptions::default() };
    let verdict = judge(flow, start, &options).unwrap();
    let Regime::BlowUp(pole) = verdict.regime else { panic!("{verdict:?}") };
    assert!(pole.bracket[0] <= pole.time && pole.time <= pole.bracket[1], "{pole:?}");
    pole
}

/// L2 with K = (1, 0), Q = (q, r), V = diag(0, 1): a pole of order 2, at ln(1 + β/(γ Σ12)) / β.
fn l2_with_pole() -> (GaussianFlow, Gaussian) {
    let start = Gaussian::centred(matrix(&[[1.0, 0.5], [0.5, 1.0]])).unwrap();
    let (query, key) = (matrix(&[[0.3, 1.0]]), matrix(&[[1.0, 0.0]]));
    let head = Head::new(query, key, matrix(&[[0.0, 0.0], [0.0, 1.0]]), None).unwrap();
    (flow(head, L2, &start), start)
}

#[test]
fn softmax_pole_is_found_without_its_closed_form() {
    let identity = Matrix::scaled_identity(3, 1.0);
    let flow = flow(Head::new(query(), key(), identity, None).unwrap(), SOFTMAX, &start());
    let pole = located(&flow, &start());
    assert_near(&[pole.time], &[2.467462393483598], 1e-10);
    assert!(pole.bracket[0] <= 2.467462393483598 && 2.467462393483598 <= pole.bracket[1], "{pole:?}");
    assert!(pole.bracket[1] - pole.bracket[0] < 1e-9, "{pole:?}");
    let exact = judge(&flow, &start(), &JudgeOptions::default()).unwrap();
    assert!(exact.is_proven && exact.evaluations == 0);
    assert!(matches!(exact.regime, Regime::BlowUp(pole) if (pole.time - 2.467462393483598).abs() < 1e-14));
}

#[test]
fn l2_can_blow_up_and_its_pole_of_order_two_is_found() {
    let (flow, start) = l2_with_pole();
    let c: f64 = 2.0 / 3.0;
    let exact = (1.0 + c * 0.3 / (c * 0.5)).ln() / (c * 0.3);
    assert_near(&[exact], &[2.35001814622868], 1e-14);
    assert_near(&[located(&flow, &start).time], &[exact], 1e-10);
    // 0.05 before the pole the entry has a condition of 50.
    assert_near(&[at(&flow, &start, 2.3).covariance().at(0, 1)], &[29.8393663031], 3e-9);
}

#[test]
fn bounds_enclose_the_pole_of_a_positive_pair() {
    let pair = flow(with_logits(&logits_positive(), &value_positive()), SOFTMAX, &start());
    let lower = blow_up_not_before(&pair, &start()).unwrap();
    let upper = blow_up_not_after(&pair, &start()).unwrap().unwrap();
    // Printed with eight and five digits.
    assert_near(&[lower], &[0.41041701], 5e-9);
    assert_near(&[upper], &[9.7206], 5e-5);
    let pole = located(&pair, &start());
    assert_near(&[pole.time], &[0.4794037098077], 1e-10);
    assert!(pole.is_upper_proven && pole.bracket[1] - pole.bracket[0] < 1e-9, "{pole:?}");
    let verdict = judge(&pair, &start(), &JudgeOptions::default()).unwrap();
    assert!(verdict.is_proven && verdict.certificate.statement.contains("quadratically"), "{verdict:?}");
    let identity = Matrix::scaled_identity(3, 1.0);
    let scalar = flow(with_logits(&logits_positive(), &identity), SOFTMAX, &start());
    assert_near(&[located(&scalar, &start()).time], &[0.6494799013687519], 1e-10);
}

#[test]
fn noise_hastens_the_pole() {
    let scalar = |x: f64| Matrix::scaled_identity(1, x);
    let start = Gaussian::centred(scalar(0.7)).unwrap();
    let head = Head::new(scalar(1.1), scalar(0.8), scalar(0.9), None).unwrap();
    let flow = flow(head, SOFTMAX, &start).with_noise(0.2).unwrap();
    assert_near(&[located(&flow, &start).time], &[0.782206086567308], 1e-10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Bound 2.3.5 from random starts: with V = vI the pole is known.
    #[test]
    fn no_softmax_flow_blows_up_before_its_bound(
        q in prop::collection::vec(-1.0..1.0, 9), l in prop::collection::vec(-1.0..1.0, 9), v in 0.1..2.0,
    ) {
        let factor = Matrix::new("factor", 3, 3, l).unwrap();
        let start = Gaussian::from_factor(vec![0.0; 3], factor).unwrap();
        let logits = Matrix::new("logits", 3, 3, q).unwrap();
        let flow = flow(with_logits(&logits, &Matrix::scaled_identity(3, v)), SOFTMAX, &start);
        let exact = crate::gaussian::closed_form::ScalarValue::new(&start, &logits, v).unwrap();
        let lower = blow_up_not_before(&flow, &start).unwrap();
        if let Some(time) = exact.blow_up_time() {
            prop_assert!(lower <= time * (1.0 + 1e-12), "{lower} {time}");
            if let Some(upper) = blow_up_not_after(&flow, &start).unwrap() {
                prop_assert!(time <= upper * (1.0 + 1e-12), "{time} {upper}");
            }
        }
    }
}
