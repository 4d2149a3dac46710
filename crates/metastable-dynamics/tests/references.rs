//! Finite clouds against numbers of the theory notes: sphere and pre-LN rates, samples of Gaussians, masks
//! (transformer PDE, sections 5.3 and 5.4; clusters under LoRA, section 5) [checked].
#![allow(clippy::unwrap_used)]

use metastable_dynamics::attention::sinkhorn::solve;
use metastable_dynamics::attention::{
    AttentionKernel, Mask, Normalization, Projections, Score, Sinkhorn, SinkhornStop,
};
use metastable_dynamics::closed_form::equiangular::{Weights, crossing_time};
use metastable_dynamics::field::{ParticleFlow, Placement, VectorField};
use metastable_dynamics::gaussian::closed_form::coupling::sweep_contraction;
use metastable_dynamics::geometry::{Euclidean, Geometry, Spheres};
use metastable_dynamics::solver::{Advance, Method, SolverOptions, Stepper};
use metastable_dynamics::{Head, Matrix, random};
use proptest::prelude::*;

fn follow(field: &ParticleFlow, space: &dyn Geometry, options: SolverOptions, start: &[f64], end: f64) -> Vec<f64> {
    let mut stepper = Stepper::new(field, space, options, 0.0, start.to_vec()).unwrap();
    while let Advance::Step(_) = stepper.advance(end) {}
    assert_eq!(stepper.time(), end);
    stepper.values().to_vec()
}

fn precise() -> SolverOptions {
    SolverOptions::adaptive(Method::Dop853, 1e-13, 1e-14)
}

/// n unit vectors of R^n with common cosine rho.
fn equiangular(n: usize, rho: f64) -> Vec<f64> {
    let a = (1.0 - rho).sqrt();
    let b = ((1.0 + (n as f64 - 1.0) * rho).sqrt() / a - 1.0) / n as f64;
    (0..n).flat_map(|i| (0..n).map(move |j| a * (f64::from(u8::from(i == j)) + b))).collect()
}

fn inner(state: &[f64], n: usize, i: usize, j: usize) -> f64 {
    (0..n).map(|c| state[i * n + c] * state[j * n + c]).sum()
}

/// n = 4, beta = 2, rho_0 = .1 at t = 1.5, of the particles and of the equation of rho.
#[test]
fn equiangular_tokens_reach_their_reference_cosines_under_softmax_and_without_normalisation() {
    let softmax = AttentionKernel::softmax(2.0).unwrap();
    let plain = AttentionKernel::new(Score::Dot, Normalization::Exponential, Mask::Full, 2.0).unwrap();
    let cases = [(softmax, Weights::Softmax, 0.66487463041654), (plain, Weights::Unnormalised, 0.99999981572283)];
    for (kernel, weights, cosine) in cases {
        let flow = ParticleFlow::new(vec![Head::identity(4)], kernel, 4, Placement::Tangent).unwrap();
        let end = follow(&flow, &Spheres { dim: 4 }, precise(), &equiangular(4, 0.1), 1.5);
        for (i, j) in [(0, 1), (0, 3), (1, 2)] {
            // Printed with 14 digits; steps of 1e-13.
            assert!((inner(&end, 4, i, j) - cosine).abs() < 1e-12, "{weights:?}: {}", inner(&end, 4, i, j));
        }
        // The last printed digit is 3e-8 of what is left to 1 without normalisation, and the rate there is 2 e².
        let time = crossing_time(weights, 4, 2.0, 0.1, cosine);
        assert!((time - 1.5).abs() < 1e-8, "{weights:?}: {time}");
    }
}

/// Pre-LN, n = 8, beta = 1, rho_0 = 0, r_0 = 1: (1 - rho) t² tends to a constant.
#[test]
fn pre_ln_tokens_close_like_an_inverse_square_of_time() {
    let kernel = AttentionKernel::softmax(1.0).unwrap();
    let flow = ParticleFlow::new(vec![Head::identity(8)], kernel, 8, Placement::PreNorm).unwrap();
    for (t, expected) in [(1e2, 1.5586), (1e3, 1.5357), (1e4, 1.5334)] {
        let end = follow(&flow, &Euclidean, precise(), &equiangular(8, 0.0), t);
        // 1 - rho from the difference of directions, which keeps its digits.
        let r = [0, 1].map(|i| inner(&end, 8, i, i).sqrt());
        let gap = (0..8).map(|c| (end[c] / r[0] - end[8 + c] / r[1]).powi(2)).sum::<f64>() / 2.0;
        // Printed with five digits; the difference of tokens of size t has errors of 1e-13 t² relative to its own size.
        assert!((gap * t * t - expected).abs() < 1e-4, "{t}: {}", gap * t * t);
    }
}

/// N(0, 1) as n quantiles: the potentials of Sinkhorn's alternation contract by r⁴ a sweep up to the missing tails.
#[test]
fn sinkhorns_half_steps_on_a_gaussian_contract_by_r_to_the_fourth() {
    let contraction = |n: usize| {
        let mut tokens: Vec<f64> = (0..n).map(|i| quantile((i as f64 + 0.5) / n as f64)).collect();
        let size = (tokens.iter().map(|x| x * x).sum::<f64>() / n as f64).sqrt();
        tokens.iter_mut().for_each(|x| *x /= size);
        let potentials = |half_steps: u32| {
            let options = Sinkhorn { epsilon: 1.0, stop: SinkhornStop::HalfSteps(half_steps) };
            let kernel = AttentionKernel::new(Score::Dot, Normalization::Sinkhorn(options), Mask::Full, 1.17).unwrap();
            let identity = Matrix::scaled_identity(1, 1.0);
            let mut projections = Projections::zeros(n, 1, 1);
            projections.fill(&kernel, 1.0, &tokens, [&identity, &identity, &identity]);
            solve(&projections, options, &[]).unwrap().column().to_vec()
        };
        let (a, b, c) = (potentials(8), potentials(10), potentials(12));
        let change = |a: &[f64], b: &[f64]| {
            let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            let mean = difference.iter().sum::<f64>() / n as f64;
            difference.iter().map(|v| (v - mean).powi(2)).sum::<f64>().sqrt()
        };
        change(&b, &c) / change(&a, &b)
    };
    let (coarse, fine) = (contraction(100), contraction(400));
    let exact = sweep_contraction(1.17);
    // NumPy, the same quantiles: 0.18028 (n = 200) and 0.18699 (n = 1000): the missing tails cost about 2/n of a cloud's
    // fourth moment; four times the tokens leave less than half of it.
    assert!(exact - fine < 0.5 * (exact - coarse) && exact - fine < 0.008 && fine < exact, "{coarse} {fine} {exact}");
}

/// Φ⁻¹(p) by bisection of its integral in steps of 1/1000.
fn quantile(p: f64) -> f64 {
    let (mut z, mut mass) = (-9.0_f64, 0.0);
    let density = |z: f64| (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    let h = 1e-3;
    loop {
        // Simpson's rule.
        let step = h / 6.0 * (density(z) + 4.0 * density(z + 0.5 * h) + density(z + h));
        if mass + step >= p {
            return z + h * (p - mass) / step;
        }
        mass += step;
        z += h;
    }
}

/// A cloud of N(0, 1) on the line and a query that scores a y: Σ_j w_j y_j, by the kernel on tokens (y, 0) and (0, 1).
fn empirical_field(a: f64, n: usize, seed: u64) -> f64 {
    let row = |entries: [f64; 2]| Matrix::from_rows("row", &[entries]).unwrap();
    let value = Matrix::from_rows("value", &[[1.0, 0.0], [0.0, 0.0]]).unwrap();
    let head = Head::new(row([0.0, a]), row([1.0, 0.0]), value, None).unwrap();
    let kernel = AttentionKernel::softmax(1.0).unwrap();
    let flow = ParticleFlow::new(vec![head], kernel, n + 1, Placement::Ambient).unwrap();
    let mut tokens: Vec<f64> = random::standard_normal(seed, n, 1).into_iter().flat_map(|y| [y, 0.0]).collect();
    tokens.extend([0.0, 1.0]);
    let mut velocity = vec![0.0; 2 * (n + 1)];
    flow.evaluate(0.0, &tokens, &mut velocity);
    velocity[2 * n]
}

/// The mean field of N(0, 1) at a x = a is a itself; a thousand particles give 2.60, 2.93, 3.15 on average for a = 3, 4, 6:
/// no more than their largest, about √(2 ln n) = 3.7.
#[test]
fn finite_clouds_saturate_below_the_gaussian_field() {
    let draws = 48;
    for (a, expected) in [(3.0, 2.60), (4.0, 2.93), (6.0, 3.15)] {
        let found: Vec<f64> = (0..draws).map(|seed| empirical_field(a, 1000, 1000 + seed)).collect();
        let mean = found.iter().sum::<f64>() / draws as f64;
        // The deviation of one draw is 0.42; the table's own average has an error too, and two digits.
        let error = 0.42 / (draws as f64).sqrt();
        assert!((mean - expected).abs() < 4.0 * error, "{a}: {mean}");
        assert!(mean < (2.0 * 1000.0_f64.ln()).sqrt() && mean < a - 0.2);
    }
}

/// A sample whose mean and covariance are exactly those of the Gaussian follows the moments with the errors of the table,
/// .043, .021 and .014 for n = 64, 256, 1024: a seventh of what sampling leaves (section 5.4, softmax, t = 1).
#[test]
fn whitened_samples_follow_the_moments_several_times_closer() {
    let matrix = |rows: [[f64; 2]; 2]| Matrix::from_rows("m", &rows).unwrap();
    let head = Head::new(
        matrix([[0.6, -0.4], [0.1, 0.5]]),
        matrix([[0.5, 0.2], [-0.3, 0.4]]),
        matrix([[0.3, -0.2], [0.4, 0.2]]),
        None,
    )
    .unwrap();
    // The Cholesky factor of [[1, .3], [.3, .8]].
    let factor = [[1.0, 0.0], [0.3, 0.71_f64.sqrt()]];
    let moments = |x: &[f64]| {
        let n = x.len() as f64 / 2.0;
        let mean = [0, 1].map(|c| x.iter().skip(c).step_by(2).sum::<f64>() / n);
        let second = |a: usize, b: usize| x.chunks(2).map(|x| (x[a] - mean[a]) * (x[b] - mean[b])).sum::<f64>() / n;
        (mean, [second(0, 0), second(0, 1), second(1, 1)])
    };
    let reference = ([0.77434319527459, -0.40260363077574], [1.05594639078271, 0.38624669475714, 0.71861878660671]);
    for (n, repeats, printed) in [(64, 24, 0.043), (256, 12, 0.021), (1024, 4, 0.014)] {
        let mut squares = 0.0;
        for seed in 0..repeats {
            let raw = random::standard_normal(500 + seed, n, 2);
            let (mean, [a, b, c]) = moments(&raw);
            // x ↦ L C⁻¹ (x - mean), C the Cholesky factor of the sample's covariance.
            let (c11, c21) = (a.sqrt(), b / a.sqrt());
            let c22 = (c - c21 * c21).sqrt();
            let start: Vec<f64> = raw
                .chunks(2)
                .flat_map(|x| {
                    let u = (x[0] - mean[0]) / c11;
                    let v = (x[1] - mean[1] - c21 * u) / c22;
                    [0.4 + factor[0][0] * u, -0.7 + factor[1][0] * u + factor[1][1] * v]
                })
                .collect();
            let kernel = AttentionKernel::softmax(1.0).unwrap();
            let flow = ParticleFlow::new(vec![head.clone()], kernel, n, Placement::Ambient).unwrap();
            let end = follow(&flow, &Euclidean, SolverOptions::fixed(Method::Rk4, 0.1), &start, 1.0);
            let (mean, [a, b, c]) = moments(&end);
            let (m, [x, y, z]) = reference;
            squares += (a - x).powi(2) + 2.0 * (b - y).powi(2) + (c - z).powi(2);
            squares += (mean[0] - m[0]).powi(2) + (mean[1] - m[1]).powi(2);
        }
        let error = (squares / repeats as f64).sqrt();
        // Few draws on both sides; without whitening the error is 3.2 / √n (1.87 and 2.7 in quadrature).
        assert!(error < 1.6 * printed && error < 0.25 * 3.2 / (n as f64).sqrt(), "{n}: {error} {printed}");
    }
}

fn random_head(seed: u64) -> Head {
    let of = |s: u64| Matrix::new("m", 2, 2, random::standard_normal(seed + s, 2, 2)).unwrap().scaled(0.6);
    Head::new(of(1), of(2), of(3), None).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A law that does not depend on the position: the masked field equals the unmasked one. Here copies of a cloud one
    /// after the other: whoever has seen whole copies moves as in the cloud.
    #[test]
    fn a_masked_law_without_position_moves_as_if_it_were_not_masked(
        seed in 0_u64..1000, n in 1_usize..12, copies in 1_usize..5, kind in 0_usize..5, distance: bool,
    ) {
        let score = if distance { Score::SquaredDistance } else { Score::Dot };
        let bias = Normalization::Sigmoid { bias: 0.3 };
        let kinds = [Normalization::Softmax, Normalization::Exponential, bias, Normalization::Linear, Normalization::Hardmax];
        let field = |mask: Mask, tokens: &[f64]| {
            let kernel = AttentionKernel::new(score, kinds[kind], mask, 0.7).unwrap();
            let count = tokens.len() / 2;
            let flow = ParticleFlow::new(vec![random_head(seed)], kernel, count, Placement::Ambient).unwrap();
            let mut velocity = vec![0.0; tokens.len()];
            flow.evaluate(0.0, tokens, &mut velocity);
            velocity
        };
        let cloud = random::standard_normal(seed, n, 2);
        let (whole, masked) = (field(Mask::Full, &cloud), field(Mask::Causal, &cloud.repeat(copies)));
        for copy in 1..=copies {
            let (found, expected) = (&masked[2 * (copy * n - 1)..2 * copy * n], &whole[2 * (n - 1)..]);
            for (found, expected) in found.iter().zip(expected) {
                // Sums of up to 60 terms round.
                prop_assert!((found - expected).abs() < 1e-12 * (1.0 + expected.abs()), "{found} {expected}");
            }
        }
    }

    /// Section 2.3.2 for finite n: where no head tells two tokens apart (Q e = 0), their difference e is constant; under a
    /// mask it is not. Section 2.3.3: nᵀV = 0 freezes nᵀx_i.
    #[test]
    fn tokens_that_queries_cannot_tell_apart_keep_their_difference(
        seed in 0_u64..1000, n in 2_usize..12, kind in 0_usize..7, distance: bool,
    ) {
        let score = if distance { Score::SquaredDistance } else { Score::Dot };
        let sinkhorn = |stop| Normalization::Sinkhorn(Sinkhorn { epsilon: 0.8, stop });
        let kinds = [
            Normalization::Softmax,
            Normalization::Exponential,
            Normalization::Sigmoid { bias: 0.3 },
            Normalization::Linear,
            Normalization::Hardmax,
            sinkhorn(SinkhornStop::Converged { tolerance: 1e-13, max_iterations: 1000 }),
            sinkhorn(SinkhornStop::HalfSteps(3)),
        ];
        let kernel = AttentionKernel::new(score, kinds[kind], Mask::Full, 0.7).unwrap();
        let head = random_head(seed);
        let blind = |m: &Matrix| Matrix::from_fn(2, 2, |i, j| if j == 0 { m.at(i, 0) } else { 0.0 });
        let frozen = Matrix::from_fn(2, 2, |i, j| if i == 0 { head.value().at(0, j) } else { 0.0 });
        let evaluate = |head: Head, tokens: &[f64]| {
            let flow = ParticleFlow::new(vec![head], kernel, n, Placement::Ambient).unwrap();
            let mut velocity = vec![0.0; 2 * n];
            flow.evaluate(0.0, tokens, &mut velocity);
            velocity
        };
        let mut tokens = random::standard_normal(seed, n, 2);
        tokens[2] = tokens[0];
        let apart = evaluate(Head::new(blind(head.query()), head.key().clone(), head.value().clone(), None).unwrap(), &tokens);
        for c in 0..2 {
            // The same row of weights: Sinkhorn's differ by the tolerance.
            prop_assert!((apart[c] - apart[2 + c]).abs() < 1e-12 * (1.0 + apart[c].abs()), "{} {}", apart[c], apart[2 + c]);
        }
        let still = evaluate(Head::new(head.query().clone(), head.key().clone(), frozen, None).unwrap(), &tokens);
        prop_assert!(still.iter().skip(1).step_by(2).all(|v| *v == 0.0));
    }
}
