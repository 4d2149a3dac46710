//! Laws of all attention kernels through their flows, and the exact finite-n references of the transformer-PDE
//! dossier, section 5.3 [checked].
#![allow(clippy::unwrap_used)]

use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Score, Sinkhorn, SinkhornStop};
use metastable_dynamics::field::{ParticleFlow, Placement, VectorField};
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::solver::{Advance, Method, SolverOptions, Stepper};
use metastable_dynamics::{Head, Matrix, random};
use proptest::prelude::*;

const TOKENS: [f64; 8] = [1.0, 0.0, 0.5, -0.5, -0.25, 0.75, -1.0, -0.5];

fn matrix(rows: &[[f64; 2]]) -> Matrix {
    Matrix::from_rows("matrix", rows).unwrap()
}

fn reference_head() -> Head {
    let (query, key) = (matrix(&[[0.6, -0.4], [0.1, 0.5]]), matrix(&[[0.5, 0.2], [-0.3, 0.4]]));
    Head::new(query, key, matrix(&[[0.3, -0.2], [0.4, 0.2]]), None).unwrap()
}

fn sinkhorn(epsilon: f64) -> Normalization {
    let stop = SinkhornStop::Converged { tolerance: 1e-13, max_iterations: 1000 };
    Normalization::Sinkhorn(Sinkhorn { epsilon, stop })
}

fn full(score: Score, normalization: Normalization) -> AttentionKernel {
    AttentionKernel::new(score, normalization, Mask::Full, 1.0).unwrap()
}

fn dot(normalization: Normalization) -> AttentionKernel {
    full(Score::Dot, normalization)
}

fn flow(head: &Head, kernel: AttentionKernel, count: usize) -> ParticleFlow {
    ParticleFlow::new(vec![head.clone()], kernel, count, Placement::Ambient).unwrap()
}

fn field(head: &Head, kernel: AttentionKernel, tokens: &[f64]) -> Vec<f64> {
    let mut velocity = vec![f64::NAN; tokens.len()];
    flow(head, kernel, tokens.len() / head.dim()).evaluate(0.0, tokens, &mut velocity);
    velocity
}

/// The state at time `end`, by steps of tolerance 1e-13.
fn follow(field: &dyn VectorField, tokens: &[f64], end: f64) -> Vec<f64> {
    let options = SolverOptions::adaptive(Method::Dop853, 1e-13, 1e-14);
    let mut stepper = Stepper::new(field, &Euclidean, options, 0.0, tokens.to_vec()).unwrap();
    while let Advance::Step(_) = stepper.advance(end) {}
    assert_eq!(stepper.time(), end);
    stepper.values().to_vec()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{found} for {expected}");
    }
}

/// The references are printed to 14 decimals, and sums of four terms round.
const PRINTED: f64 = 2e-14;

/// Fields and first tokens at t = 1 where the dossier has them.
#[rustfmt::skip]
const SOFTMAX: [f64; 8] = [0.06764904710295, 0.07999594376174, 0.08158602031911, 0.08240571806573, -0.0254577589282, -0.06244961718918, 0.02409762012309, -0.02460898132366];

#[test]
fn softmax_field_and_flow_of_four_tokens() {
    let kernel = dot(Normalization::Softmax);
    assert_near(&field(&reference_head(), kernel, &TOKENS), &SOFTMAX, PRINTED);
    first_token(kernel, [1.0716907418283, 0.0928801070683]);
}

#[test]
#[rustfmt::skip]
fn squared_distance_field_and_flow_of_four_tokens() {
    let kernel = full(Score::SquaredDistance, Normalization::Softmax);
    let expected = [0.09221302774612, 0.13216439126611, 0.1220896941459, 0.13881144320558, -0.07327991102174, -0.11219991990108, 0.02027656882983, -0.04724406148787];
    assert_near(&field(&reference_head(), kernel, &TOKENS), &expected, PRINTED);
    first_token(kernel, [1.0941666230747, 0.1462941627108]);
}

#[test]
#[rustfmt::skip]
fn sinkhorn_field_and_flow_of_four_tokens() {
    let kernel = dot(sinkhorn(1.0));
    let expected = [0.06142687961793, 0.07337651411189, 0.07558002012612, 0.07566938626333, -0.03064410518199, -0.06797803720145, 0.01863720543794, -0.03106786317377];
    assert_near(&field(&reference_head(), kernel, &TOKENS), &expected, PRINTED);
    first_token(kernel, [1.0652713769995, 0.0833684819619]);
}

#[test]
#[rustfmt::skip]
fn sigmoid_field_and_flow_of_four_tokens() {
    let kernel = dot(Normalization::Sigmoid { bias: 0.0 });
    let expected = [0.02510889352692, 0.02429417606105, 0.02849789121625, 0.02456347419106, 0.00106450013903, -0.01219337137102, 0.01425080187947, -0.00255729999892];
    assert_near(&field(&reference_head(), kernel, &TOKENS), &expected, PRINTED);
    first_token(kernel, [1.0260173465036, 0.0267858150056]);
}

#[test]
fn linear_field_of_four_tokens() {
    let expected =
        [0.038234375, 0.07278125, 0.051828125, 0.07384375, -0.058625, -0.074375, -0.0055234375, -0.035328125];
    assert_near(&field(&reference_head(), dot(Normalization::Linear), &TOKENS), &expected, PRINTED);
}

#[test]
#[rustfmt::skip]
fn exponential_field_of_four_tokens() {
    let expected = [0.06976469861936, 0.08249773125135, 0.08535992006472, 0.08621753432088, -0.0256487221728, -0.06291806303926, 0.02451730834076, -0.02503757549428];
    assert_near(&field(&reference_head(), dot(Normalization::Exponential), &TOKENS), &expected, PRINTED);
}

#[test]
fn causal_field_and_flow_of_four_tokens() {
    let kernel = dot(Normalization::Softmax).masked(Mask::Causal);
    let expected = [0.3, 0.4, 0.27705783340751, 0.26234700044507, 0.06311490684011, 0.15958834666139];
    let found = field(&reference_head(), kernel, &TOKENS);
    assert_near(&found[..6], &expected, PRINTED);
    // The last token sees all.
    assert_near(&found[6..], &SOFTMAX[6..], PRINTED);
    first_token(kernel, [1.2979651554482, 0.5070016952294]);
}

fn first_token(kernel: AttentionKernel, expected: [f64; 2]) {
    let end = follow(&flow(&reference_head(), kernel, 4), &TOKENS, 1.0);
    // Printed to 13 decimals; solver tolerance 1e-13 a step.
    assert_near(&end[..2], &expected, 1e-12);
}

/// x' = v x tanh(a x²) and its siblings: closed fields, and the dossier's states at t = .5.
#[test]
fn two_symmetric_tokens_on_the_line() {
    let (q, k, v, epsilon, x) = (1.1, 0.8, 0.9, 0.5, 0.8_f64);
    let scalar = |c: f64| Matrix::scaled_identity(1, c);
    let head = Head::new(scalar(q), scalar(k), scalar(v), None).unwrap();
    let u = q * k * x * x;
    let cases = [
        (dot(Normalization::Softmax), v * x * u.tanh(), 1.0597682406105),
        (full(Score::SquaredDistance, Normalization::Softmax), v * x * (2.0 * u).tanh(), 1.2104094874091),
        (dot(sinkhorn(epsilon)), v / epsilon * x * (u / epsilon).tanh(), 1.8964822035947),
        (dot(Normalization::Sigmoid { bias: 0.0 }), 0.5 * v * x * (u / 2.0).tanh(), 0.85427674225878),
        (dot(Normalization::Linear), v * x * u, 1.139235942823),
        (dot(Normalization::Exponential), v * x * u.sinh(), 1.2203363822078),
    ];
    for (kernel, velocity, reached) in cases {
        // A few roundings.
        assert_near(&field(&head, kernel, &[x, -x]), &[velocity, -velocity], 1e-14);
        // Printed to 13 decimals; solver tolerance 1e-13 a step.
        assert_near(&follow(&flow(&head, kernel, 2), &[x, -x], 0.5), &[reached, -reached], 1e-11);
    }
}

/// S(t) = (S_0^{-1} - v t sym(A))^{-1} for any finite n.
#[test]
fn second_moments_of_linear_attention_close() {
    let head = reference_head();
    let head = Head::new(head.query().clone(), head.key().clone(), Matrix::scaled_identity(2, 0.7), None).unwrap();
    let end = follow(&flow(&head, dot(Normalization::Linear), 4), &TOKENS, 1.0);
    let moment = |a: usize, b: usize| end.chunks(2).map(|x| x[a] * x[b]).sum::<f64>() / 4.0;
    let expected = [0.7384347483404, -0.0063722543715, 0.277624540284];
    // Printed to 13 decimals; solver tolerance 1e-13 a step.
    assert_near(&[moment(0, 0), moment(0, 1), moment(1, 1)], &expected, 1e-11);
}

/// mean(t) = e^{Vt/ε} mean(0), the dossier's ε = .5, t = 1.
#[test]
fn the_mean_of_a_sinkhorn_flow_is_a_linear_flow() {
    let end = follow(&flow(&reference_head(), dot(sinkhorn(0.5)), 4), &TOKENS, 1.0);
    let mean = [0, 1].map(|c| end.iter().skip(c).step_by(2).sum::<f64>() / 4.0);
    // Printed to 13 decimals; column sums are one within 1e-13 over a time of 1.
    assert_near(&mean, &[0.1363829612228, 0.0005412375282], 1e-11);
}

fn kinds() -> Vec<Normalization> {
    let bias = Normalization::Sigmoid { bias: -0.4 };
    vec![
        Normalization::Softmax,
        Normalization::Exponential,
        bias,
        Normalization::Linear,
        Normalization::Hardmax,
        sinkhorn(0.8),
        Normalization::Sinkhorn(Sinkhorn { epsilon: 0.8, stop: SinkhornStop::HalfSteps(4) }),
    ]
}

fn random_head(seed: u64, d: usize) -> Head {
    let of = |s: u64| Matrix::new("random", d, d, random::standard_normal(seed + s, d, d)).unwrap().scaled(0.5);
    Head::new(of(1), of(2), of(3), None).unwrap()
}

fn kernel_of(kind: usize, distance: bool, mask: Mask, beta: f64) -> AttentionKernel {
    let score = if distance { Score::SquaredDistance } else { Score::Dot };
    AttentionKernel::new(score, kinds()[kind], mask, beta).unwrap()
}

/// Relative to the size of the field; Sinkhorn's tolerance is 1e-13, amplified by 1/(1 - contraction) below 1e3.
fn close(left: &[f64], right: &[f64], kind: usize) -> bool {
    let tolerance = if kind >= 5 { 1e-10 } else { 1e-12 };
    let size = left.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    left.iter().zip(right).all(|(a, b)| (a - b).abs() <= tolerance * size)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn permuted_tokens_have_the_permuted_field(
        seed in 0_u64..1000, n in 2_usize..20, shift in 1_usize..19, kind in 0_usize..7, distance: bool, beta in 0.1_f64..1.5,
    ) {
        let (head, kernel) = (random_head(seed, 3), kernel_of(kind, distance, Mask::Full, beta));
        let tokens = random::standard_normal(seed, n, 3);
        let at = 3 * (shift % n);
        let rotated = |v: &[f64]| [&v[at..], &v[..at]].concat();
        prop_assert!(close(&field(&head, kernel, &rotated(&tokens)), &rotated(&field(&head, kernel, &tokens)), kind));
    }

    /// x → R x with Q → Q Rᵀ, K → K Rᵀ, V → R V Rᵀ rotates the field.
    #[test]
    fn rotated_tokens_and_heads_have_the_rotated_field(
        seed in 0_u64..1000, n in 1_usize..20, kind in 0_usize..7, causal: bool, distance: bool, beta in 0.1_f64..1.5,
    ) {
        // Hardmax jumps where rounding breaks ties; random scores have none.
        let mask = if causal && kind < 5 { Mask::Causal } else { Mask::Full };
        let (head, kernel) = (random_head(seed, 3), kernel_of(kind, distance, mask, beta));
        let symmetric = random_head(seed + 50, 3).value().clone();
        let rotation = symmetric.add_scaled(1.0, &symmetric.transpose()).symmetric_eigen().unwrap().1;
        let back = rotation.transpose();
        let turned = Head::new(head.query().multiply(&back), head.key().multiply(&back), rotation.multiply(head.value()).multiply(&back), None).unwrap();
        let turn = |v: &[f64]| -> Vec<f64> {
            v.chunks(3).flat_map(|x| { let mut y = [0.0; 3]; rotation.apply(x, &mut y); y }).collect()
        };
        let tokens = random::standard_normal(seed, n, 3);
        prop_assert!(close(&field(&turned, kernel, &turn(&tokens)), &turn(&field(&head, kernel, &tokens)), kind));
    }

    /// F_beta(c x) = c F_{beta c²}(x), and F is linear in V.
    #[test]
    fn scaled_tokens_have_the_scaled_field_at_another_temperature(
        seed in 0_u64..1000, n in 1_usize..20, kind in 0_usize..7, causal: bool, distance: bool, beta in 0.1_f64..0.8,
        c in 0.5_f64..1.5, s in -2.0_f64..2.0,
    ) {
        let mask = if causal && kind < 5 { Mask::Causal } else { Mask::Full };
        let head = random_head(seed, 3);
        let tokens = random::standard_normal(seed, n, 3);
        let scaled: Vec<f64> = tokens.iter().map(|x| c * x).collect();
        let left = field(&head, kernel_of(kind, distance, mask, beta), &scaled);
        let right: Vec<f64> =
            field(&head, kernel_of(kind, distance, mask, beta * c * c), &tokens).iter().map(|v| c * v).collect();
        prop_assert!(close(&left, &right, kind));
        let faster = Head::new(head.query().clone(), head.key().clone(), head.value().scaled(s), None).unwrap();
        let kernel = kernel_of(kind, distance, mask, beta);
        let expected: Vec<f64> = field(&head, kernel, &tokens).iter().map(|v| s * v).collect();
        prop_assert!(close(&field(&faster, kernel, &tokens), &expected, kind));
    }

    /// To the bit: what follows a prefix is not looked at.
    #[test]
    fn a_causal_prefix_does_not_feel_what_follows(
        seed in 0_u64..1000, n in 2_usize..40, cut in 1_usize..39, kind in 0_usize..5, distance: bool, beta in 0.1_f64..1.5,
    ) {
        let (head, kernel) = (random_head(seed, 3), kernel_of(kind, distance, Mask::Causal, beta));
        let tokens = random::standard_normal(seed, n, 3);
        let prefix = 3 * (1 + cut % (n - 1));
        prop_assert_eq!(&field(&head, kernel, &tokens[..prefix])[..], &field(&head, kernel, &tokens)[..prefix]);
    }

    /// For every n, any start, any scores and any V: mean(t) = e^{Vt/ε} mean(0).
    #[test]
    fn sinkhorn_moves_the_mean_by_the_exponential_of_v_over_epsilon(
        seed in 0_u64..1000, n in 1_usize..12, distance: bool, epsilon in 0.4_f64..3.0, v in 0.1_f64..1.0,
    ) {
        let head = random_head(seed, 2);
        let value = head.value().scaled(v);
        let head = Head::new(head.query().clone(), head.key().clone(), value.clone(), None).unwrap();
        let score = if distance { Score::SquaredDistance } else { Score::Dot };
        let tokens = random::standard_normal(seed, n, 2);
        let end = follow(&flow(&head, full(score, sinkhorn(epsilon)), n), &tokens, 0.5);
        let mean = |x: &[f64]| [0, 1].map(|c| x.iter().skip(c).step_by(2).sum::<f64>() / n as f64);
        let mut expected = [0.0; 2];
        value.scaled(0.5 / epsilon).exp().unwrap().apply(&mean(&tokens), &mut expected);
        for (found, expected) in mean(&end).into_iter().zip(expected) {
            // Column sums are one within 1e-13 at every stage; tokens of size up to 20.
            prop_assert!((found - expected).abs() < 1e-11, "{found} {expected}");
        }
    }
}

/// Warm starts are in the saved state: a solve interrupted after every step gives the same bits.
#[test]
fn a_sinkhorn_solve_interrupted_anywhere_gives_the_same_bits() {
    let tokens = random::standard_normal(7, 12, 3);
    let field = flow(&random_head(8, 3), dot(sinkhorn(0.5)), 12);
    for options in [
        SolverOptions::adaptive(Method::Tsit5, 1e-9, 1e-9),
        SolverOptions::adaptive(Method::Dop853, 1e-9, 1e-9),
        SolverOptions::fixed(Method::Rk4, 0.1),
    ] {
        let whole = {
            let mut stepper = Stepper::new(&field, &Euclidean, options.clone(), 0.0, tokens.clone()).unwrap();
            while let Advance::Step(_) = stepper.advance(1.0) {}
            (stepper.values().to_vec(), stepper.stats())
        };
        let mut state = Stepper::new(&field, &Euclidean, options.clone(), 0.0, tokens.clone()).unwrap().state();
        let mut steps = 0;
        loop {
            // Another field object, with nothing in its scratch.
            let field = flow(&random_head(8, 3), dot(sinkhorn(0.5)), 12);
            let mut stepper = Stepper::resume(&field, &Euclidean, options.clone(), state.clone()).unwrap();
            let Advance::Step(step) = stepper.advance(1.0) else { break };
            let (middle, mut seen) = (0.5 * (step.start() + step.end()), vec![0.0; 36]);
            if steps % 2 == 0 {
                step.evaluate(middle, &mut seen);
            }
            steps += 1;
            state = stepper.state();
            assert_eq!(state.memory.len(), 12, "the potentials are remembered");
        }
        assert_eq!(state.y, whole.0, "{options:?}");
        assert!(steps > 3);
    }
}
