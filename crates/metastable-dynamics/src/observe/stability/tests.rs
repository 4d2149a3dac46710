//! Envelopes against twins integrated by a small Runge-Kutta method of their own.

use proptest::prelude::*;

use super::*;
use crate::geometry::{Geometry, Spheres};
use crate::linalg::squared_distance;
use crate::random;

/// The matrices of one run: logits form A, value V.
struct Run {
    logits: Matrix,
    value: Matrix,
}

/// sum_j P_ij V x_j with P = softmax(x_iᵀ A x_j).
fn attend(run: &Run, x: &[f64]) -> Vec<f64> {
    let d = run.value.rows();
    let product = |m: &Matrix, v: &[f64]| {
        let mut out = vec![0.0; d];
        m.apply(v, &mut out);
        out
    };
    let mut velocity = Vec::new();
    for xi in x.chunks(d) {
        let logits: Vec<f64> = x.chunks(d).map(|xj| dot(xi, &product(&run.logits, xj))).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
        let mut mean = vec![0.0; d];
        for (xj, logit) in x.chunks(d).zip(&logits) {
            mean.iter_mut().zip(xj).for_each(|(m, c)| *m += (logit - top).exp() / total * c);
        }
        velocity.extend(product(&run.value, &mean));
    }
    velocity
}

fn rk4_step(field: &impl Fn(&[f64]) -> Vec<f64>, x: &[f64], h: f64) -> Vec<f64> {
    let shifted = |k: &[f64], c: f64| x.iter().zip(k).map(|(x, k)| x + c * k).collect::<Vec<f64>>();
    let k1 = field(x);
    let k2 = field(&shifted(&k1, h / 2.0));
    let k3 = field(&shifted(&k2, h / 2.0));
    let k4 = field(&shifted(&k3, h));
    (0..x.len()).map(|i| x[i] + h / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i])).collect()
}

fn max_distance(x: &[f64], y: &[f64], d: usize) -> f64 {
    x.chunks(d).zip(y.chunks(d)).map(|(a, b)| squared_distance(a, b).sqrt()).fold(0.0, f64::max)
}

fn random_matrix(seed: u64, d: usize, norm: f64) -> Matrix {
    let m = Matrix::new("m", d, d, random::standard_normal(seed, d, d)).unwrap();
    m.scaled(norm / m.operator_norm().unwrap())
}

fn pair(seed: u64, d: usize, size: f64, update: f64) -> (Run, Run, OperatorNorms) {
    let base = Run { logits: random_matrix(seed, d, size), value: random_matrix(seed + 1, d, size) };
    let delta = (random_matrix(seed + 2, d, update), random_matrix(seed + 3, d, update / 2.0));
    let twin = Run { logits: base.logits.add_scaled(1.0, &delta.0), value: base.value.add_scaled(1.0, &delta.1) };
    let norms = OperatorNorms {
        value: base.value.operator_norm().unwrap(),
        value_adapted: twin.value.operator_norm().unwrap(),
        delta_value: delta.1.operator_norm().unwrap(),
        logits: base.logits.operator_norm().unwrap(),
        delta_logits: delta.0.operator_norm().unwrap(),
        radius: 1.0,
    };
    (base, twin, norms)
}

const STEP: f64 = 0.02;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn twins_on_the_sphere_stay_below_their_envelope(
        seed in 0_u64..10_000, d in 2_usize..5, n in 1_usize..8, size in 0.2..1.5_f64, update in 0.001..0.5_f64,
    ) {
        let (base, twin, norms) = pair(seed, d, size, update);
        let sphere = Spheres { dim: d };
        let tangent = |run: &Run, x: &[f64]| {
            let mut velocity = attend(run, x);
            sphere.project(x, &mut velocity);
            velocity
        };
        let start = random::sphere(seed + 9, n, d);
        let (mut x, mut y) = (start.clone(), start);
        let first = sphere_deviation_time(&norms, 0.05);
        for k in 1..=75 {
            x = rk4_step(&|s: &[f64]| tangent(&base, s), &x, STEP);
            y = rk4_step(&|s: &[f64]| tangent(&twin, s), &y, STEP);
            let t = f64::from(k) * STEP;
            let actual = max_distance(&x, &y, d);
            // The integrator errs by about STEP⁴ times fifth derivatives of size 100: 2e-5 of the distance.
            prop_assert!(actual <= sphere_envelope(&norms, t).value * (1.0 + 1e-4), "{} at {}", actual, t);
            prop_assert!(actual < 0.05 * (1.0 + 1e-4) || t >= first);
        }
    }

    #[test]
    fn twins_in_space_stay_below_their_envelopes(
        seed in 0_u64..10_000, d in 1_usize..4, n in 1_usize..8, size in 0.2..1.2_f64, update in 0.001..0.5_f64,
    ) {
        let (base, twin, norms) = pair(seed, d, size, update);
        let start = random::sphere(seed + 9, n, d.max(2))[..n * d].to_vec();
        let norms = OperatorNorms { radius: start.chunks(d).map(norm).fold(0.0, f64::max), ..norms };
        let (mut x, mut y) = (start.clone(), start);
        for k in 1..=50 {
            x = rk4_step(&|s: &[f64]| attend(&base, s), &x, STEP);
            y = rk4_step(&|s: &[f64]| attend(&twin, s), &y, STEP);
            let t = f64::from(k) * STEP;
            let actual = max_distance(&x, &y, d);
            let bound = euclidean_envelope(&norms, t);
            prop_assert!(actual <= bound.value * (1.0 + 1e-4), "{} > {} at {}", actual, bound.value, t);
            let back = |run: &Run, x: &[f64]| -> Vec<f64> {
                let exp = run.value.scaled(-t).exp().unwrap();
                let mut out = vec![0.0; x.len()];
                x.chunks(d).zip(out.chunks_mut(d)).for_each(|(x, z)| exp.apply(x, z));
                out
            };
            let rescaled = max_distance(&back(&base, &x), &back(&twin, &y), d);
            let bound = rescaled_envelope(&base.value, &twin.value, &norms, t).unwrap();
            prop_assert!(rescaled <= bound.value * (1.0 + 1e-4), "{} > {} at {}", rescaled, bound.value, t);
        }
    }

    #[test]
    fn the_leading_direction_turns_by_at_most_its_bound(
        seed in 0_u64..10_000, d in 1_usize..6, size in 0.01..1.5_f64,
    ) {
        let half = random_matrix(seed, d, 1.0);
        let value = half.add_scaled(1.0, &half.transpose());
        let half = random_matrix(seed + 1, d, size);
        let delta = half.add_scaled(1.0, &half.transpose());
        let drift = leading_drift(&value, &delta).unwrap();
        let leading = |m: &Matrix| {
            let (_, vectors) = m.symmetric_eigen().unwrap();
            (0..d).map(|i| vectors.at(i, d - 1)).collect::<Vec<f64>>()
        };
        let (u, turned) = (leading(&value), leading(&value.add_scaled(1.0, &delta)));
        let cosine = dot(&u, &turned);
        let sine = norm(&turned.iter().zip(&u).map(|(t, u)| t - cosine * u).collect::<Vec<f64>>());
        let theta = sine.atan2(cosine.abs());
        if let Some(angle) = drift.angle {
            // Eigenvectors are exact to eps over the gap; gaps below 1e-4 do not occur among these draws.
            prop_assert!(theta <= angle + 1e-10, "{} > {}", theta, angle);
            let signed_rest = (0..d).map(|i| delta.at(i, i)).sum::<f64>() - drift.along;
            prop_assert!(d != 2 || signed_rest < 0.0 || (theta - angle).abs() < 1e-10, "{} {}", theta, angle);
        }
        prop_assert!(!drift.is_stable || drift.tan_two_theta.is_some());
    }
}

#[test]
fn in_the_plane_the_angle_without_rest_is_exact() {
    // V = diag(2, 1), ΔV = [[0, b], [b, 0]]: tan 2 theta = 2 b / gap.
    let value = Matrix::from_rows("V", &[[2.0, 0.0], [0.0, 1.0]]).unwrap();
    let delta = Matrix::from_rows("dV", &[[0.0, 0.3], [0.3, 0.0]]).unwrap();
    let drift = leading_drift(&value, &delta).unwrap();
    assert!((drift.tan_two_theta.unwrap() - 0.6).abs() < 1e-15);
    assert!((drift.gap, drift.along, drift.rest) == (1.0, 0.0, 0.0) && drift.is_stable);
    assert!((drift.distance_estimate.unwrap() - 0.6).abs() < 1e-15);
    let skew = Matrix::from_rows("skew", &[[0.0, 1.0], [-1.0, 0.0]]).unwrap();
    let error = leading_drift(&value, &skew).unwrap_err();
    assert!(matches!(&error, DynamicsError::NotSymmetric { name, .. } if name == "value update"), "{error}");
    assert!(matches!(leading_drift(&skew, &delta), Err(DynamicsError::NotSymmetric { .. })));
}

#[test]
fn without_an_update_the_envelopes_vanish() {
    let head = Head::identity(2);
    let norms = OperatorNorms::between(&head, &head, 1.0, 3.0).unwrap();
    let zero = Envelope { value: 0.0, ln_value: f64::NEG_INFINITY };
    assert_eq!((sphere_envelope(&norms, 2.0), euclidean_envelope(&norms, 2.0)), (zero, zero));
    assert_eq!(rescaled_envelope(head.value(), head.value(), &norms, 2.0).unwrap(), zero);
    assert_eq!(sphere_deviation_time(&norms, 0.1), f64::INFINITY);
}

#[test]
fn late_envelopes_are_infinite_but_never_nan() {
    let value = Matrix::scaled_identity(2, 1.0);
    let adapted = Matrix::from_rows("V", &[[1.0, 0.0], [0.0, 0.99]]).unwrap();
    let norms = OperatorNorms {
        value: 1.0,
        value_adapted: 1.0,
        delta_value: 0.01,
        logits: 1.0,
        delta_logits: 0.0,
        radius: 1.0,
    };
    for t in [0.0, 1.0, 10.0, 300.0, 1e3, 1e5] {
        let bounds = [
            sphere_envelope(&norms, t),
            euclidean_envelope(&norms, t),
            rescaled_envelope(&value, &adapted, &norms, t).unwrap(),
        ];
        for bound in bounds {
            assert!(!bound.value.is_nan() && !bound.ln_value.is_nan(), "{t}: {bound:?}");
            assert!(t < 1e3 || bound.value == f64::INFINITY);
        }
    }
    let zero = sphere_envelope(&norms, 0.0);
    assert_eq!(zero.value, 0.0);
}

#[test]
fn norms_of_heads_are_those_of_their_products() {
    use crate::head::{LowRankUpdate, Target};
    let head = Head::identity(2);
    let delta = Matrix::from_rows("dV", &[[0.0, 0.0], [0.0, -0.1]]).unwrap();
    let twin = head.updated(Target::Value, &LowRankUpdate::dense(delta.clone())).unwrap();
    let twin = twin.updated(Target::Query, &LowRankUpdate::dense(delta)).unwrap();
    let norms = OperatorNorms::between(&head, &twin, 2.0, 1.0).unwrap();
    let found = [norms.value, norms.value_adapted, norms.delta_value, norms.logits, norms.delta_logits];
    for (found, exact) in found.iter().zip([1.0, 1.0, 0.1, 2.0, 0.2]) {
        assert!((found - exact).abs() < 1e-15, "{norms:?}");
    }
}
