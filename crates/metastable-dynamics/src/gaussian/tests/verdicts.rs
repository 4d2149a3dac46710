//! Regimes by run and by certificate.

use super::*;
use crate::gaussian::{Claim, JudgeOptions, Regime, judge};

fn by_run(flow: &GaussianFlow, start: &Gaussian) -> Regime {
    let options = JudgeOptions { use_certificates: false, ..JudgeOptions::default() };
    judge(flow, start, &options).unwrap().regime
}

#[test]
fn skew_values_are_isospectral_by_certificate_and_by_run() {
    let value = matrix(&[[0.0, 0.5, -0.2], [-0.5, 0.0, 0.3], [0.2, -0.3, 0.0]]);
    let flow = flow(with_logits(&Matrix::scaled_identity(3, 0.8), &value), SOFTMAX, &start());
    let verdict = judge(&flow, &start(), &JudgeOptions::default()).unwrap();
    assert!(
        verdict.is_proven && verdict.regime == Regime::Isospectral && verdict.certificate.statement.contains("Lax")
    );
    let options = JudgeOptions { use_certificates: false, max_steps: 500, ..JudgeOptions::default() };
    let run = judge(&flow, &start(), &options).unwrap();
    assert!(run.regime == Regime::Isospectral && !run.is_settled, "{run:?}");
}

#[test]
fn sinkhorn_grows_at_its_largest_rate_and_never_blows_up() {
    let scalar = |x: f64| Matrix::scaled_identity(1, x);
    let start = Gaussian::centred(scalar(0.7)).unwrap();
    let head = Head::new(scalar(1.1), scalar(0.8), scalar(0.9), None).unwrap();
    let flow = flow(head, sinkhorn(0.5), &start);
    let verdict = judge(&flow, &start, &JudgeOptions::default()).unwrap();
    assert_eq!(verdict.certificate.claim, Claim::Global);
    let Regime::Growth { rate } = verdict.regime else { panic!("{verdict:?}") };
    // s' = (2v/ε) s r, r → 1 like 1/s: 1e-12 at the escape.
    assert!((rate - 2.0 * 0.9 / 0.5).abs() < 1e-9, "{rate}");
}

#[test]
fn l2_with_square_keys_grows_exponentially() {
    let flow = flow(with_logits(&logits_positive(), &value_positive()), L2, &start());
    let verdict = judge(&flow, &start(), &JudgeOptions::default()).unwrap();
    assert!(matches!(verdict.regime, Regime::Growth { .. }), "{verdict:?}");
    assert!(verdict.certificate.statement.contains("K injective"));
}

#[test]
fn a_feed_forward_part_decides_between_balance_and_nothing() {
    let b = matrix(&[[0.7, 0.2, 0.1], [0.0, 0.9, -0.3], [0.2, 0.1, 0.8]]);
    let weight = matrix(&[[0.5, -0.2, 0.0], [0.3, 0.4, 0.1], [0.0, -0.1, 0.6]]);
    let head = repulsive(&b, &Matrix::scaled_identity(3, 1.0));
    for (sign, regime) in [(1.0, Regime::Bounded), (-1.0, Regime::Collapse { rank: 0 })] {
        let flow = flow(head.clone(), SOFTMAX, &start());
        let flow = flow.with_feed_forward(weight.scaled(sign), vec![0.1; 3]).unwrap();
        let verdict = judge(&flow, &start(), &JudgeOptions::default()).unwrap();
        assert!(verdict.is_proven && verdict.regime == regime, "{verdict:?}");
        assert_eq!(by_run(&flow, &start()), regime);
    }
}

#[test]
fn stationary_covariances_stay_and_singular_starts_are_judged_in_their_own_rank() {
    // V = I, A skew: every Σ is stationary although the factor turns.
    let skew = matrix(&[[0.0, 0.5, -0.2], [-0.5, 0.0, 0.3], [0.2, -0.3, 0.0]]);
    let turning = flow(with_logits(&skew, &Matrix::scaled_identity(3, 1.0)), SOFTMAX, &start());
    assert_eq!(by_run(&turning, &start()), Regime::Bounded);
    // Rank one: Σ = c uuᵀ with uᵀAu < 0 collapses to a point.
    let line = Gaussian::centred(matrix(&[[1.0, 1.0], [1.0, 1.0]])).unwrap();
    let flow = flow(with_logits(&Matrix::scaled_identity(2, -0.5), &Matrix::scaled_identity(2, 1.0)), SOFTMAX, &line);
    assert_eq!(by_run(&flow, &line), Regime::Collapse { rank: 0 });
    let verdict = judge(&flow, &line, &JudgeOptions::default()).unwrap();
    assert_eq!(verdict.certificate.claim, Claim::Collapse { rank: 0 });
}

/// The printed planar flow: indefinite A + Aᵀ and a V without sign.
#[test]
fn two_lines_of_the_planar_figure_are_the_isotropic_directions() {
    let q = matrix(&[[0.676413265754472, 1.521099185933918], [-0.511876245049014, 1.150194635377595]]);
    let k = matrix(&[[-0.590716806635919, -0.768765251646185], [-0.335009166050309, 0.09299944353451]]);
    let v = matrix(&[[-0.348894450989425, 0.983703433351799], [0.580922830717141, 0.07028444085745]]);
    let start = Gaussian::centred(matrix(&[[0.5, 0.1], [0.1, 0.5]])).unwrap();
    for kernel in [SOFTMAX, L2] {
        let flow = flow(Head::new(q.clone(), k.clone(), v.clone(), None).unwrap(), kernel, &start);
        assert_eq!(by_run(&flow, &start), Regime::Collapse { rank: 1 });
        let limit = late(&flow, &start, 2000.0);
        let (_, vectors) = limit.covariance().symmetric_eigen().unwrap();
        let direction = [vectors.at(0, 1), vectors.at(1, 1)];
        let isotropic = [[0.52778606929, -0.84937733962], [0.99121881693, -0.13223183035]];
        let sine = |u: [f64; 2]| (direction[0] * u[1] - direction[1] * u[0]).abs();
        let nearest = isotropic.map(sine).into_iter().fold(1.0, f64::min);
        // The directions are printed with eleven digits; the transverse part has died by t = 2000.
        assert!(nearest < 1e-7, "{} {direction:?}", kernel.name());
    }
}

#[test]
fn noise_refuses_layers_and_keeps_a_repulsive_flow_bounded() {
    let flow = flow(repulsive(&query(), &value_positive()), SOFTMAX, &start()).with_noise(0.3).unwrap();
    let error = crate::gaussian::through_layers(&flow, &start(), 4, 1.0).unwrap_err();
    assert!(error.to_string().starts_with("noise:"), "{error}");
    assert_eq!(by_run(&flow, &start()), Regime::Bounded);
}

/// A seeded crowd: 100 flows of d = 5, as in the issue. Certificates off, so that every one runs; softmax, V = I.
#[test]
fn a_hundred_random_flows_are_judged_as_their_closed_forms_say() {
    use crate::gaussian::closed_form::ScalarValue;
    for seed in 0..100 {
        let draw = |stream: u64, rows: usize| {
            Matrix::new("draw", rows, 5, crate::random::uniform(7 * seed + stream, rows, 5, -1.0, 1.0)).unwrap()
        };
        let start = Gaussian::from_factor(vec![0.0; 5], draw(1, 5)).unwrap();
        let (q, k) = (draw(2, 2), if seed % 2 == 0 { draw(2, 2).scaled(-1.0) } else { draw(3, 2) });
        let head = Head::new(q, k, Matrix::scaled_identity(5, 1.0), None).unwrap();
        let flow = flow(head, SOFTMAX, &start);
        let exact = ScalarValue::new(&start, &flow.logits(0), 1.0).unwrap();
        match (by_run(&flow, &start), exact.blow_up_time(), exact.limit()) {
            (Regime::Collapse { rank }, _, Some((_, expected))) => assert_eq!(rank, expected, "seed {seed}"),
            (Regime::BlowUp(pole), Some(time), None) => {
                // The default tolerance 1e-11 a step, some hundred steps.
                assert!((pole.time / time - 1.0).abs() < 1e-8, "seed {seed}: {pole:?} {time}");
                assert!(pole.bracket[0] <= time && time <= pole.bracket[1], "seed {seed}: {pole:?} {time}");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}

/// The head of the published picture "both" \[code\]: an indefinite A + Aᵀ and a V that is neither symmetric nor
/// definite. Starts that do not blow up come to rest at rank one after some time units, also those whose trace was still
/// growing shortly before: that is no growth for ever.
#[test]
fn rest_after_growth_is_no_growth() {
    let query = matrix(&[[0.676413265754472, 1.521099185933918], [-0.511876245049014, 1.150194635377595]]);
    let key = matrix(&[[-0.590716806635919, -0.768765251646185], [-0.335009166050309, 0.09299944353451]]);
    let value = matrix(&[[1.831753005958785, -0.376887843936194], [0.348112341586006, -0.11628155656537]]);
    let kernel = GaussianKernel::Softmax { beta: std::f64::consts::FRAC_1_SQRT_2 };
    let head = Head::new(query, key, value, None).unwrap();
    for k in 0..40 {
        let (sin, cos) = (0.157 * f64::from(k)).sin_cos();
        let (x, y) = (0.9 * cos, 0.9 * sin);
        let entries = [[0.5 * (1.0 + x), 0.5 * y], [0.5 * y, 0.5 * (1.0 - x)]];
        let start = Gaussian::centred(matrix(&entries)).unwrap();
        let flow = flow(head.clone(), kernel, &start);
        let regime = by_run(&flow, &start);
        assert!(matches!(regime, Regime::Collapse { rank: 1 } | Regime::BlowUp(_)), "{k}: {regime:?}");
    }
}

/// Independent Q, K (two rows) and V at d = 5: nearly half of them grow along one direction for ever, which makes everything
/// else stiff; explicit steps alone leave these open after 20,000 steps.
#[test]
fn general_flows_reach_a_verdict() {
    let (mut evaluations, mut growing, mut open) = (0, 0, 0);
    for index in 0..40_u64 {
        let normal = |stream: u64, rows: usize| {
            Matrix::new("draw", rows, 5, crate::random::standard_normal(5 * index + stream, rows, 5)).unwrap()
        };
        let factor = normal(0, 5);
        let start = Gaussian::centred(factor.multiply(&factor.transpose())).unwrap();
        let head = Head::new(normal(1, 2), normal(2, 2), normal(3, 5), None).unwrap();
        for kernel in [GaussianKernel::Softmax { beta: 0.2_f64.sqrt() }, L2] {
            let flow = flow(head.clone(), kernel, &start);
            let verdict = judge(&flow, &start, &JudgeOptions::default()).unwrap();
            open += u32::from(!verdict.is_settled);
            evaluations += verdict.evaluations;
            if let Regime::Growth { rate } = verdict.regime {
                growing += 1;
                assert!(rate.is_finite() && rate > 0.0, "{index}: {rate}");
            }
            if let Regime::BlowUp(pole) = verdict.regime {
                assert!(pole.bracket[0] <= pole.time && pole.time <= pole.bracket[1], "{index}: {pole:?}");
            }
        }
    }
    // Explicit steps alone leave 41 of a hundred open.
    assert!(growing > 10 && open <= 2, "{growing} growing, {open} open");
    // A few thousand each; 20,000 explicit steps are 240,000.
    assert!(evaluations < 80 * 10_000, "{evaluations}");
}

/// Fifteen steps are too few for any regime to be clear.
#[test]
fn a_run_without_steps_left_is_open() {
    let flow = flow(Head::new(query(), key(), value(), None).unwrap(), GaussianKernel::Softmax { beta: 1.0 }, &start());
    let hasty = JudgeOptions { max_steps: 15, ..JudgeOptions::default() };
    let verdict = judge(&flow, &start(), &hasty).unwrap();
    assert!(!verdict.is_settled && verdict.name() == "open", "{verdict:?}");
    let patient = judge(&flow, &start(), &JudgeOptions::default()).unwrap();
    assert!(patient.is_settled && patient.name() == patient.regime.name(), "{patient:?}");
}
