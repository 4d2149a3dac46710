//! Scalar and planar closed forms, each against its golden number and against the solver.

use super::*;
use crate::gaussian::closed_form::line::{LineHead, LineMoments};
use crate::gaussian::closed_form::{PlaneRotation, ScalarValue};

const START: LineMoments = LineMoments { mean: 0.3, variance: 0.7 };
const HEAD: LineHead = LineHead { query: 1.1, key: 0.8, value: 0.9 };
/// a → -a.
const REPULSIVE: LineHead = LineHead { query: -1.1, ..HEAD };
const T: f64 = 0.5;
/// Closed forms: a few roundings; the golden numbers have 13 to 15 digits.
const CLOSED: f64 = 1e-13;

#[track_caller]
fn assert_line(found: LineMoments, variance: f64, mean: f64) {
    assert_near(&[found.variance, found.mean], &[variance, mean], 3.0 * CLOSED);
}

/// The same by the solver in one dimension.
fn solved(head: LineHead, kernel: GaussianKernel, noise: f64) -> LineMoments {
    let scalar = |x: f64| Matrix::scaled_identity(1, x);
    let start = Gaussian::new(vec![START.mean], scalar(START.variance)).unwrap();
    let head = Head::new(scalar(head.query), scalar(head.key), scalar(head.value), None).unwrap();
    let flow = flow(head, kernel, &start).with_noise(noise).unwrap();
    let found = at(&flow, &start, T);
    LineMoments { mean: found.mean()[0], variance: found.covariance().at(0, 0) }
}

#[test]
fn softmax_on_the_line() {
    let exact = HEAD.softmax(START, T).unwrap();
    assert_line(exact, 1.5709156193896, 0.70482480602671);
    assert_line(solved(HEAD, SOFTMAX, 0.0), exact.variance, exact.mean);
    assert_near(&[HEAD.softmax_blow_up(START).unwrap()], &[0.901875901875902], 1e-15);
    assert!(HEAD.softmax(START, 0.91).is_none());
}

#[test]
fn squared_distance_on_the_line_is_a_lambert_function() {
    let attractive = HEAD.squared_distance(START, T);
    assert_line(attractive, 1.3877779917464, 0.51651630824924);
    let found = solved(HEAD, L2, 0.0);
    assert_line(found, attractive.variance, attractive.mean);
    let repulsive = REPULSIVE.squared_distance(START, T);
    assert_line(repulsive, 0.422564053113312, 0.304256551698502);
    let found = solved(REPULSIVE, L2, 0.0);
    assert_line(found, repulsive.variance, repulsive.mean);
}

#[test]
fn squared_distance_never_overflows_its_lambert_argument() {
    // For large s the growth rate is 2 v q/k · 2; the closed form must not pass through e^{-huge} or e^{huge}.
    let grown = HEAD.squared_distance(START, 100.0);
    let rate = 2.0 * HEAD.value * HEAD.query / HEAD.key;
    let later = HEAD.squared_distance(START, 101.0);
    assert!(((later.variance / grown.variance).ln() - rate).abs() < 1e-10, "{grown:?} {later:?}");
    // s ~ 1/(4|va|t) for va < 0.
    let decayed = REPULSIVE.squared_distance(START, 1e9).variance;
    assert!((decayed * 4.0 * 0.9 * 0.88 * 1e9 - 1.0).abs() < 1e-6, "{decayed}");
}

#[test]
fn sinkhorn_on_the_line() {
    let attractive = HEAD.sinkhorn(START, 0.5, T);
    assert_line(attractive, 2.9875610499522, 0.737880933347085);
    let found = solved(HEAD, sinkhorn(0.5), 0.0);
    assert_line(found, attractive.variance, attractive.mean);
    let repulsive = REPULSIVE.sinkhorn(START, 0.5, T);
    assert_line(repulsive, 0.270716349452423, 0.737880933347085);
    let found = solved(REPULSIVE, sinkhorn(0.5), 0.0);
    assert_line(found, repulsive.variance, repulsive.mean);
}

#[test]
fn noise_on_the_line() {
    let exact = HEAD.noisy_softmax_variance(0.7, 0.2, T).unwrap();
    assert_near(&[exact, solved(HEAD, SOFTMAX, 0.2).variance], &[2.1993095243927; 2], 3.0 * CLOSED);
    assert_near(&[HEAD.noisy_softmax_blow_up(0.7, 0.2).unwrap()], &[0.782206086567308], 1e-15);
    assert!(HEAD.noisy_softmax_variance(0.7, 0.2, 0.8).is_none());
    let exact = REPULSIVE.noisy_softmax_variance(0.7, 0.2, T).unwrap();
    assert_near(&[exact, solved(REPULSIVE, SOFTMAX, 0.2).variance], &[0.582936596875218; 2], CLOSED);
    // Below the equilibrium √(τ/|va|) = 0.5025 it rises (the tanh branch).
    let risen = REPULSIVE.noisy_softmax_variance(0.1, 0.2, T).unwrap();
    let scale = (0.2_f64 / 0.792).sqrt();
    let tanh = scale * (2.0 * (0.792_f64 * 0.2).sqrt() * T + (0.1 / scale).atanh()).tanh();
    assert_near(&[risen], &[tanh], CLOSED);
}

#[test]
fn a_rotating_frame_in_the_plane() {
    let (cos, sin) = (0.4_f64.cos(), 0.4_f64.sin());
    let frame = matrix(&[[cos, -sin], [sin, cos]]);
    let covariance = frame.multiply(&matrix(&[[1.5, 0.0], [0.0, 0.4]])).multiply(&frame.transpose());
    let [a, b, d] = [1.33318869014094, 0.39454584999474, 0.56681130985906];
    assert_near(covariance.as_slice(), &[a, b, b, d], CLOSED);
    let turning = PlaneRotation { value: 0.6, rotation: 1.3, logit: 0.5 };
    let [a, b, d] = [0.52043839558734, -0.37440029642019, 4.01438488923584];
    let found = turning.covariance(&covariance, 0.7).unwrap().unwrap();
    assert_near(found.as_slice(), &[a, b, b, d], 3.0 * CLOSED);
    assert_near(&[turning.angle([0.4, 1.5], 0.7).unwrap()], &[1.2763563707968615], 1e-15);
    assert_near(&[turning.blow_up_time([0.4, 1.5]).unwrap()], &[10.0 / 9.0], 1e-15);
    let pure = PlaneRotation { value: 0.0, ..turning };
    let [a, b, d] = [0.5000119901784, 0.31624482765225, 1.3999880098216];
    let spun = pure.covariance(&covariance, 0.7).unwrap().unwrap();
    assert_near(spun.as_slice(), &[a, b, b, d], CLOSED);
    for (plane, expected) in [(turning, found), (pure, spun)] {
        let value = matrix(&[[plane.value, -plane.rotation], [plane.rotation, plane.value]]);
        let start = Gaussian::centred(covariance.clone()).unwrap();
        let flow = flow(with_logits(&Matrix::scaled_identity(2, 0.5), &value), SOFTMAX, &start);
        assert_near(at(&flow, &start, 0.7).covariance().as_slice(), expected.as_slice(), 1e-12);
    }
}

#[test]
fn scalar_value_moves_means_and_singular_covariances_too() {
    let logits = matrix(&[[0.4, 0.1, -0.2], [0.1, -0.3, 0.15], [-0.2, 0.15, 0.2]]);
    let factor = matrix(&[[1.0, 0.2], [-0.3, 0.8], [0.4, 0.1]]);
    let start = Gaussian::from_factor(vec![0.4, -0.7, 0.2], factor).unwrap();
    let exact = ScalarValue::new(&start, &logits, 0.7).unwrap();
    let value = Matrix::scaled_identity(3, 0.7);
    let found = at(&flow(with_logits(&logits, &value), SOFTMAX, &start), &start, 0.9);
    assert_near(found.covariance().as_slice(), exact.covariance(0.9).unwrap().as_slice(), 1e-12);
    assert_near(found.mean(), &exact.mean(0.9).unwrap(), 1e-12);
}
