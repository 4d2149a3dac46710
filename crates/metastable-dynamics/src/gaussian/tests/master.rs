//! The three-dimensional master data: right-hand sides, flows to t = 1, layers, feed-forward, several heads.

use super::*;
use crate::gaussian::closed_form::{FeedForwardRiccati, ScalarValue};
use crate::gaussian::through_layers;
use crate::measure::gaussian::bures_squared;

/// Twelve digits are safe on both sides; entries are of size 1, the last digit printed is the 13th to 15th.
const GOLDEN: f64 = 1e-12;

fn head() -> Head {
    Head::new(query(), key(), value(), None).unwrap()
}

fn master(kernel: GaussianKernel) -> Gaussian {
    at(&flow(head(), kernel, &start()), &start(), 1.0)
}

#[track_caller]
fn assert_moments(found: &Gaussian, mean: [f64; 3], covariance: [f64; 6], tolerance: f64) {
    assert_near(found.mean(), &mean, tolerance);
    assert_near(found.covariance().as_slice(), symmetric(covariance).as_slice(), tolerance);
}

#[test]
fn softmax_moments_at_time_one() {
    let found = master(SOFTMAX);
    let covariance =
        [1.02433731586399, 0.38359642008744, -0.0290173559169, 0.6391029790681, 0.17605459452032, 0.372840869149];
    assert_moments(&found, [0.75362923459696, -0.35492159825967, -0.15145889740281], covariance, GOLDEN);
    assert_near(&[found.log_det().unwrap()], &[-1.8772273421666], GOLDEN);
    assert_near(&[bures_squared(&start(), &found).unwrap()], &[0.050610921300759], GOLDEN);
}

#[test]
fn l2_moments_at_time_one() {
    let found = master(L2);
    // Our notes print Σ22 as 0.6456141314222, one digit off: only 0.6456142314222 has the log determinant below.
    let covariance =
        [1.03824069781336, 0.41822819743215, 0.01972432487566, 0.6456142314222, 0.18567157557156, 0.37185226357104];
    assert_moments(&found, [0.68840265795577, -0.43730851956904, 0.0558657263376], covariance, GOLDEN);
    assert_near(&[found.log_det().unwrap()], &[-1.8889461768224], GOLDEN);
}

#[test]
fn sinkhorn_moments_at_time_one() {
    let found = master(sinkhorn(1.0));
    let covariance =
        [1.02059620435007, 0.3732629130027, -0.0410956667898, 0.64811737524775, 0.17425734339371, 0.38124499566428];
    assert_moments(&found, [0.70429186242125, -0.62583012651497, -0.17952469150164], covariance, GOLDEN);
    assert_near(&[found.log_det().unwrap()], &[-1.8224333418104], GOLDEN);
}

#[test]
fn covariance_velocities_at_time_zero() {
    let cases = [
        (SOFTMAX, [-0.01058, 0.07115, 0.19851, -0.26704, 0.10152, -0.2004]),
        (
            L2,
            [
                -0.00634075776711,
                0.10877372754556,
                0.24170781255876,
                -0.25981387260373,
                0.09126007463441,
                -0.20846839868786,
            ],
        ),
        (
            sinkhorn(1.0),
            [
                -0.00761687216948,
                0.06224393333573,
                0.17928939496118,
                -0.23283081660228,
                0.0944599160386,
                -0.17587138734369,
            ],
        ),
    ];
    for (kernel, expected) in cases {
        let (_, slope) = flow(head(), kernel, &start()).moment_velocity(&start()).unwrap();
        // One evaluation; the last digits printed are the 14th.
        assert_near(slope.as_slice(), symmetric(expected).as_slice(), 2e-14);
    }
}

#[test]
fn finite_depth_is_a_congruence_of_first_order() {
    let flow = flow(head(), SOFTMAX, &start());
    let exact = master(SOFTMAX);
    let error = |depth: usize| {
        let (found, _) = through_layers(&flow, &start(), depth, 1.0).unwrap();
        (found.covariance().add_scaled(-1.0, exact.covariance()).max_abs(), found)
    };
    let (at_12, twelve) = error(12);
    // Our notes print Σ11 as 1.02222079173845, one digit off: twelve steps in plain arithmetic decide.
    let found = [(0, 0), (0, 1), (2, 2)].map(|(i, j)| twelve.covariance().at(i, j));
    assert_near(&found, &[1.02221079173845, 0.38306714867127, 0.37151590039592], GOLDEN);
    assert_near(&[error(2).1.covariance().at(0, 0)], &[1.01106029436811], GOLDEN);
    // Printed with four digits.
    assert_near(&[at_12], &[3.394e-3], 5e-7);
    assert_near(&[error(96).0], &[4.174e-4], 5e-8);
    assert_near(&[error(1000).0], &[3.999e-5], 5e-9);
}

#[test]
fn layers_are_the_pushforward_of_the_residual_map() {
    let start = start();
    let flow = flow(head(), SOFTMAX, &start);
    let logits = flow.logits(0);
    let (layer, _) = through_layers(&flow, &start, 1, 0.25).unwrap();
    let slope = value().multiply(start.covariance()).multiply(&logits).scaled(0.25);
    let map = Matrix::scaled_identity(3, 1.0).add_scaled(1.0, &slope);
    // x + h V (x̄ + Σ A x), x̄ the mean: affine with this matrix and h V x̄.
    let mut shift = vec![0.0; 3];
    value().scaled(0.25).apply(start.mean(), &mut shift);
    let pushed = start.push_forward(&map, &shift).unwrap();
    assert_near(layer.mean(), pushed.mean(), 1e-15);
    assert_near(layer.covariance().as_slice(), pushed.covariance().as_slice(), 1e-15);
}

#[test]
fn identity_value_has_a_closed_form_and_a_pole() {
    let identity = Matrix::scaled_identity(3, 1.0);
    let head = Head::new(query(), key(), identity, None).unwrap();
    let flow = flow(head, SOFTMAX, &start());
    let exact = ScalarValue::new(&start(), &flow.logits(0), 1.0).unwrap();
    let golden = symmetric([
        1.39453676212241,
        0.42782867690591,
        -0.15009159931615,
        0.8182397035955,
        0.10982468862151,
        0.47835883773366,
    ]);
    assert_near(exact.covariance(0.8).unwrap().as_slice(), golden.as_slice(), GOLDEN);
    assert_near(at(&flow, &start(), 0.8).covariance().as_slice(), golden.as_slice(), GOLDEN);
    // An eigenvalue of size 1/2 to a few roundings.
    assert_near(&[exact.blow_up_time().unwrap()], &[2.467462393483598], 1e-14);
    assert!(exact.covariance(2.468).is_none() && exact.limit().is_none());
}

#[test]
fn feed_forward_moments_follow_one_matrix_exponential() {
    let identity = Matrix::scaled_identity(3, 1.0);
    let head = Head::new(query(), key(), identity, None).unwrap();
    let weight = matrix(&[[0.2, -0.5, 0.1], [0.3, -0.4, 0.2], [0.0, 0.1, 0.3]]);
    let flow = flow(head, SOFTMAX, &start()).with_feed_forward(weight.clone(), vec![0.1, -0.2, 0.3]).unwrap();
    let covariance =
        [1.79231393699312, 0.48672832659657, -0.14590819459241, 0.59202709212503, 0.25087723297739, 0.89732506131021];
    // Means are of size 4.
    let mean = [4.22476113551825, -0.30617008512823, 0.53508712891599];
    assert_moments(&at(&flow, &start(), 1.0), mean, covariance, 4.0 * GOLDEN);
    let riccati = FeedForwardRiccati::new(&flow.logits(0), 1.0, weight).unwrap();
    let closed = riccati.covariance(start().covariance(), 1.0).unwrap().unwrap();
    assert_near(closed.as_slice(), symmetric(covariance).as_slice(), GOLDEN);
}

#[test]
fn unstable_feed_forward_balances_collapse_at_a_full_rank_equilibrium() {
    let b = matrix(&[[0.7, 0.2, 0.1], [0.0, 0.9, -0.3], [0.2, 0.1, 0.8]]);
    let weight = matrix(&[[0.5, -0.2, 0.0], [0.3, 0.4, 0.1], [0.0, -0.1, 0.6]]);
    let flow = flow(repulsive(&b, &Matrix::scaled_identity(3, 1.0)), SOFTMAX, &start());
    let riccati = FeedForwardRiccati::new(&flow.logits(0), 1.0, weight.clone()).unwrap();
    let flow = flow.with_feed_forward(weight, vec![0.0; 3]).unwrap();
    let golden = symmetric([
        1.14218130641711,
        -0.05280255084918,
        -0.46347173871932,
        0.50819086440641,
        0.14548604206545,
        0.99616058728959,
    ]);
    assert_near(riccati.equilibrium().unwrap().as_slice(), golden.as_slice(), GOLDEN);
    // The flow forgets its start like e^{-2 Re λ t}, and its factor's frame keeps turning; the covariance stands.
    assert_near(at(&flow, &start(), 40.0).covariance().as_slice(), golden.as_slice(), GOLDEN);
    // exp(40 H) has entries of e^{24}, so the closed form keeps 16 - 2·10 digits there; at t = 5 it keeps them all.
    let closed = riccati.covariance(start().covariance(), 5.0).unwrap().unwrap();
    assert_near(closed.as_slice(), at(&flow, &start(), 5.0).covariance().as_slice(), GOLDEN);
}

#[test]
fn two_heads_with_output_matrices() {
    let row = |m: &Matrix, i: usize| Matrix::new("row", 1, 3, m.row(i).to_vec()).unwrap();
    let outputs = [matrix(&[[1.0], [0.5], [-0.2]]), matrix(&[[0.3], [-0.4], [0.7]])];
    let heads = outputs
        .into_iter()
        .enumerate()
        .map(|(h, w)| Head::new(row(&query(), h), row(&key(), h), row(&value(), h), Some(w)).unwrap())
        .collect();
    let flow = GaussianFlow::new(heads, SOFTMAX, &start()).unwrap();
    let covariance =
        [1.0538589385463, 0.30969285662856, -0.25052147336666, 0.85225706899239, 0.03083752225598, 0.54192695039481];
    let mean = [0.82443149333596, -0.551786912203, 0.20355373904544];
    assert_moments(&at(&flow, &start(), 1.0), mean, covariance, GOLDEN);
}

#[test]
fn planar_references_of_the_particle_comparison() {
    let q = matrix(&[[0.6, -0.4], [0.1, 0.5]]);
    let k = matrix(&[[0.5, 0.2], [-0.3, 0.4]]);
    let v = matrix(&[[0.3, -0.2], [0.4, 0.2]]);
    let start = Gaussian::new(vec![0.4, -0.7], matrix(&[[1.0, 0.3], [0.3, 0.8]])).unwrap();
    let cases = [
        (SOFTMAX, [0.77434319527459, -0.40260363077574], [1.05594639078271, 0.38624669475714, 0.71861878660671]),
        (L2, [0.71227198170775, -0.45794176431896], [1.04105222920059, 0.39173253805932, 0.71811253565426]),
        (sinkhorn(1.0), [0.69663665550955, -0.61704963405682], [1.04660418096658, 0.37489149158947, 0.72560938006616]),
    ];
    for (kernel, mean, [a, b, c]) in cases {
        let head = Head::new(q.clone(), k.clone(), v.clone(), None).unwrap();
        let found = at(&flow(head, kernel, &start), &start, 1.0);
        assert_near(found.mean(), &mean, GOLDEN);
        assert_near(found.covariance().as_slice(), &[a, b, b, c], GOLDEN);
    }
}
