//! Normalisation placements, feed-forward layers and noise as dynamics, against reduced equations and closed forms.
#![allow(clippy::unwrap_used)]

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::{AttentionFlow, FeedForward, Noise, NoisyFlow, ParticleFlow, Placement, VectorField};
use metastable_dynamics::geometry::{Euclidean, Geometry, Spheres};
use metastable_dynamics::solver::{Advance, Method, SolverOptions, Stepper};
use metastable_dynamics::{Head, Matrix, random};

const BETA: f64 = 1.5;

fn flow(count: usize, dim: usize, placement: Placement) -> ParticleFlow {
    let kernel = AttentionKernel::softmax(BETA).unwrap();
    ParticleFlow::new(vec![Head::identity(dim)], kernel, count, placement).unwrap()
}

fn follow(
    field: &dyn VectorField,
    geometry: &dyn Geometry,
    options: SolverOptions,
    start: &[f64],
    end: f64,
) -> Vec<f64> {
    let mut stepper = Stepper::new(field, geometry, options, 0.0, start.to_vec()).unwrap();
    while let Advance::Step(_) = stepper.advance(end) {}
    assert_eq!(stepper.time(), end);
    stepper.values().to_vec()
}

fn precise() -> SolverOptions {
    SolverOptions::adaptive(Method::Dop853, 1e-12, 1e-13)
}

/// n unit vectors of R^n with common scalar product rho, times r.
fn equiangular(n: usize, rho: f64, r: f64) -> Vec<f64> {
    // Rows of a(I + b 11ᵀ): a² = 1 - rho, and <row, row'> = rho.
    let a = (1.0 - rho).sqrt();
    let b = (((1.0 + (n as f64 - 1.0) * rho).sqrt()) / a - 1.0) / n as f64;
    (0..n).flat_map(|i| (0..n).map(move |j| r * a * (f64::from(u8::from(i == j)) + b))).collect()
}

fn inner(state: &[f64], n: usize, i: usize, j: usize) -> f64 {
    (0..n).map(|c| state[i * n + c] * state[j * n + c]).sum()
}

/// The equations of rho and r for equiangular tokens of equal norm, \[derived\] from the angular form
/// θ' = s^{-1} Proj A: rho' = 2 <Proj_i A_i, θ_j>/s, r' = <θ, A>·(r-speed); by small RK4 steps.
fn reduced(placement: Placement, n: usize, rho: f64, r: f64, end: f64) -> (f64, f64) {
    let rates = |rho: f64, r: f64| {
        let m = n as f64 - 1.0;
        let (own, other) = (BETA.exp(), (BETA * rho).exp());
        let z = own + m * other;
        // A_i = (own θ_i + other Σ_{j≠i} θ_j)/z.
        let along = (own + m * other * rho) / z;
        let to_other = (own * rho + other * (1.0 + (m - 1.0) * rho)) / z;
        let size =
            ((own * own + 2.0 * own * m * other * rho + m * other * other * (1.0 + (m - 1.0) * rho)) / (z * z)).sqrt();
        let turn = 2.0 * (to_other - rho * along);
        match placement {
            Placement::Tangent => (turn, 0.0),
            Placement::PreNorm => (turn / r, along),
            Placement::PeriNorm => (turn / (r * size), along / size),
            Placement::Hyperspherical { alpha } => (alpha * turn / size, 0.0),
            Placement::Ambient => unreachable!("not normalised"),
        }
    };
    let steps = 4000;
    let h = end / f64::from(steps);
    let (mut rho, mut r) = (rho, r);
    for _ in 0..steps {
        let k1 = rates(rho, r);
        let k2 = rates(rho + 0.5 * h * k1.0, r + 0.5 * h * k1.1);
        let k3 = rates(rho + 0.5 * h * k2.0, r + 0.5 * h * k2.1);
        let k4 = rates(rho + h * k3.0, r + h * k3.1);
        rho += h / 6.0 * (k1.0 + 2.0 * k2.0 + 2.0 * k3.0 + k4.0);
        r += h / 6.0 * (k1.1 + 2.0 * k2.1 + 2.0 * k3.1 + k4.1);
    }
    (rho, r)
}

#[test]
fn equiangular_tokens_follow_the_reduced_equations_of_every_placement() {
    let (n, rho, end) = (4, 0.1, 2.0);
    for placement in
        [Placement::Tangent, Placement::PreNorm, Placement::PeriNorm, Placement::Hyperspherical { alpha: 0.7 }]
    {
        let r = if placement.is_tangent() { 1.0 } else { 1.3 };
        let start = equiangular(n, rho, r);
        let sphere = Spheres { dim: n };
        let space: &dyn Geometry = if placement.is_tangent() { &sphere } else { &Euclidean };
        let reached = follow(&flow(n, n, placement), space, precise(), &start, end);
        let (expected_rho, expected_r) = reduced(placement, n, rho, r, end);
        let found_r = inner(&reached, n, 0, 0).sqrt();
        let found_rho = inner(&reached, n, 0, 1) / (found_r * found_r);
        // RK4 with 4000 steps errs by 1e-13, the solver by some 1e-12.
        assert!((found_r - expected_r).abs() < 1e-10, "{placement:?}: {found_r} {expected_r}");
        assert!((found_rho - expected_rho).abs() < 1e-10, "{placement:?}: {found_rho} {expected_rho}");
    }
}

/// 2510.22026 \[text\]\[lean\]: near collapse Var' = -Θ(Var / scale), scale 1 (post-LN), r ~ t (pre- and peri-LN), 1/α
/// (nGPT). With softmax at consensus every rate is 2 Var / scale: exponential against algebraic.
#[test]
fn near_collapse_variance_falls_exponentially_or_like_an_inverse_square() {
    let n = 3;
    let start = equiangular(n, 0.9999, 1.0);
    let gap = |placement: Placement, end: f64| {
        let sphere = Spheres { dim: n };
        let space: &dyn Geometry = if placement.is_tangent() { &sphere } else { &Euclidean };
        let state = follow(&flow(n, n, placement), space, precise(), &start, end);
        1.0 - inner(&state, n, 0, 1) / inner(&state, n, 0, 0)
    };
    let start_gap = 1e-4;
    // Linearised at consensus: gap' = -2 gap/s, s = 1, r = 1 + t, 1 + t, 1/α. Errors are of the size of the gap.
    for (placement, factor) in [
        (Placement::Tangent, (-4.0_f64).exp()),
        (Placement::PreNorm, 1.0 / 9.0),
        (Placement::PeriNorm, 1.0 / 9.0),
        (Placement::Hyperspherical { alpha: 0.5 }, (-2.0_f64).exp()),
    ] {
        let found = gap(placement, 2.0) / start_gap;
        assert!((found / factor - 1.0).abs() < 1e-3, "{placement:?}: {found} {factor}");
    }
}

#[test]
fn products_are_derivatives_and_transposes_under_every_placement() {
    let (n, d) = (5, 3);
    let matrix = |seed: u64| Matrix::new("random", d, d, random::standard_normal(seed, d, d)).unwrap().scaled(0.5);
    let state = random::standard_normal(1, n, d);
    let (direction, cotangent) = (random::standard_normal(2, n, d), random::standard_normal(3, n, d));
    for placement in [
        Placement::Ambient,
        Placement::Tangent,
        Placement::PreNorm,
        Placement::PeriNorm,
        Placement::Hyperspherical { alpha: 0.7 },
    ] {
        let head = Head::new(matrix(4), matrix(5), matrix(6), None).unwrap();
        let flow = ParticleFlow::new(vec![head], AttentionKernel::softmax(BETA).unwrap(), n, placement).unwrap();
        let flow = flow.with_feed_forward(FeedForward::new(matrix(7), vec![0.1, -0.2, 0.3]).unwrap()).unwrap();
        let flow = AttentionFlow::Particle(flow);
        let field = |h: f64| -> Vec<f64> {
            let moved: Vec<f64> = state.iter().zip(&direction).map(|(x, e)| x + h * e).collect();
            let mut out = vec![0.0; n * d];
            flow.evaluate(0.0, &moved, &mut out);
            out
        };
        let central =
            |h: f64| -> Vec<f64> { field(h).iter().zip(field(-h)).map(|(a, b)| (a - b) / (2.0 * h)).collect() };
        let (mut forward, mut backward) = (vec![f64::NAN; n * d], vec![f64::NAN; n * d]);
        flow.jvp(0.0, &state, &direction, &mut forward);
        flow.vjp(0.0, &state, &cotangent, &mut backward);
        for ((fine, coarse), exact) in central(2e-4).iter().zip(central(4e-4)).zip(&forward) {
            let found = (4.0 * fine - coarse) / 3.0;
            // Richardson: h⁴ = 2e-15 times fifth derivatives / 120, large where an output that is normalised is
            // small (1e6 here: the error is 2e-9 at h = 1e-3 and falls as h⁴); rounding 1e-16 / h = 5e-13.
            assert!((found - exact).abs() < 3e-11 * (1.0 + exact.abs()), "{placement:?}: {found} {exact}");
        }
        let pair = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (left, right) = (pair(&cotangent, &forward), pair(&backward, &direction));
        // Sums of fifteen products of numbers of order one.
        assert!((left - right).abs() < 1e-12 * (1.0 + left.abs()), "{placement:?}: {left} {right}");
    }
}

/// No attention (V = 0): x' = W x + b, so x(t) = e^{tW}(x + W^{-1} b) - W^{-1} b.
#[test]
fn a_feed_forward_layer_alone_is_an_affine_flow() {
    let weight = Matrix::from_rows("weight", &[[0.3, -0.8], [0.5, 0.2]]).unwrap();
    let (identity, zero) = (Matrix::scaled_identity(2, 1.0), Matrix::scaled_identity(2, 0.0));
    let head = Head::new(identity.clone(), identity, zero, None).unwrap();
    let flow = ParticleFlow::new(vec![head], AttentionKernel::softmax(1.0).unwrap(), 2, Placement::Ambient).unwrap();
    let flow = flow.with_feed_forward(FeedForward::new(weight.clone(), vec![0.4, -0.1]).unwrap()).unwrap();
    let start = [1.0, -0.5, 0.2, 0.7];
    let reached = follow(&flow, &Euclidean, precise(), &start, 1.5);
    let mut fixed = [0.0; 2];
    weight.inverse().unwrap().apply(&[0.4, -0.1], &mut fixed);
    for (x, reached) in start.chunks(2).zip(reached.chunks(2)) {
        let mut exact = [0.0; 2];
        weight.scaled(1.5).exp().unwrap().apply(&[x[0] + fixed[0], x[1] + fixed[1]], &mut exact);
        for c in 0..2 {
            // Solver tolerance 1e-12 a step.
            assert!((exact[c] - fixed[c] - reached[c]).abs() < 1e-11, "{} {}", exact[c] - fixed[c], reached[c]);
        }
    }
}

/// Ornstein-Uhlenbeck x' = -x + √(2τ) dB: no attention, W = -I.
fn ornstein_uhlenbeck(count: usize) -> ParticleFlow {
    let (identity, zero) = (Matrix::scaled_identity(1, 1.0), Matrix::scaled_identity(1, 0.0));
    let head = Head::new(identity.clone(), identity.clone(), zero, None).unwrap();
    // Zero messages whatever the weights: the cheapest kernel sees one token.
    let kernel = AttentionKernel::softmax(0.0).unwrap();
    let flow = ParticleFlow::new(vec![head], kernel, count, Placement::Ambient).unwrap();
    flow.with_feed_forward(FeedForward::new(identity.scaled(-1.0), vec![0.0]).unwrap()).unwrap()
}

/// Mean and variance over `runs` clouds of 1000 tokens from x = 1 at t = 1.
fn moments(h: f64, runs: u64) -> (f64, f64) {
    let mut all = Vec::new();
    for seed in 0..runs {
        let flow = ornstein_uhlenbeck(1000);
        let noisy = NoisyFlow::new(&flow, Noise::new(0.4, h, seed).unwrap(), false);
        all.extend(follow(&noisy, &Euclidean, SolverOptions::fixed(Method::Euler, h), &[1.0; 1000], 1.0));
    }
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    (mean, all.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n)
}

/// Exact: mean e^{-1}, variance τ(1 - e^{-2}). Euler-Maruyama's own: (1 - h)^k and the recursion of the variance, both
/// of weak order one; the sample must have these, and be farther from the exact ones the longer the step.
#[test]
fn noise_has_weak_order_one_on_ornstein_uhlenbeck() {
    let tau = 0.4;
    let exact = ((-1.0_f64).exp(), tau * (1.0 - (-2.0_f64).exp()));
    let runs = 40;
    let mut errors = Vec::new();
    for h in [0.25, 0.125] {
        let steps = (1.0_f64 / h) as i32;
        let mean = (1.0 - h).powi(steps);
        let variance = (0..steps).fold(0.0, |v, _| (1.0 - h) * (1.0 - h) * v + 2.0 * tau * h);
        let (found_mean, found_variance) = moments(h, runs);
        // Standard errors of 40 000 draws, five of them: √(v/n) of the mean, v √(2/n) of the variance.
        let n = f64::from(1000 * u32::try_from(runs).unwrap());
        assert!((found_mean - mean).abs() < 5.0 * (variance / n).sqrt(), "{h}: {found_mean} {mean}");
        assert!(
            (found_variance - variance).abs() < 5.0 * variance * (2.0 / n).sqrt(),
            "{h}: {found_variance} {variance}"
        );
        errors.push((found_mean - exact.0, found_variance - exact.1));
    }
    // The weak errors of the mean, -0.0515 and -0.0243 without sampling, and of the variance, 0.0482 and 0.0217: the
    // ratio is 2^1 within the sampling error of 0.003·5/0.02.
    let (mean_ratio, variance_ratio) = (errors[0].0 / errors[1].0, errors[0].1 / errors[1].1);
    println!("weak error ratios: mean {mean_ratio}, variance {variance_ratio}");
    assert!((mean_ratio - 2.12).abs() < 0.7 && (variance_ratio - 2.2).abs() < 0.9, "{mean_ratio} {variance_ratio}");
}

/// Brownian motion on the sphere: E<x(t), x(0)> = e^{-τ(d - 1)t}.
#[test]
fn noise_on_spheres_is_brownian_motion() {
    let (n, d, tau, h) = (3000, 3, 0.2, 0.01);
    let (identity, zero) = (Matrix::scaled_identity(d, 1.0), Matrix::scaled_identity(d, 0.0));
    let head = Head::new(identity.clone(), identity, zero, None).unwrap();
    let flow = ParticleFlow::new(vec![head], AttentionKernel::softmax(0.0).unwrap(), n, Placement::Tangent).unwrap();
    let start = random::sphere(1, n, d);
    let noisy = NoisyFlow::new(&flow, Noise::new(tau, h, 2).unwrap(), true);
    let reached = follow(&noisy, &Spheres { dim: d }, SolverOptions::fixed(Method::Euler, h), &start, 0.5);
    let overlap = start.iter().zip(&reached).map(|(a, b)| a * b).sum::<f64>() / n as f64;
    let expected = (-tau * (d as f64 - 1.0) * 0.5).exp();
    // Overlaps have a standard deviation below 0.3, so 5·0.3/√3000 = 0.027; weak error O(h) of 0.002.
    assert!((overlap - expected).abs() < 0.03, "{overlap} {expected}");
    assert!(reached.chunks(d).all(|x| (x.iter().map(|c| c * c).sum::<f64>() - 1.0).abs() < 1e-14));
}

#[test]
fn a_noisy_solve_interrupted_anywhere_gives_the_same_bits_for_any_cloud_around_a_token() {
    let h = 0.125;
    let run = |count: usize, interrupted: bool| {
        let flow = ornstein_uhlenbeck(count);
        let noisy = NoisyFlow::new(&flow, Noise::new(0.4, h, 9).unwrap(), false);
        let options = SolverOptions::fixed(Method::Euler, h);
        let mut state = Stepper::new(&noisy, &Euclidean, options.clone(), 0.0, vec![1.0; count]).unwrap().state();
        loop {
            let mut stepper = Stepper::resume(&noisy, &Euclidean, options.clone(), state.clone()).unwrap();
            let mut over = false;
            while !over {
                over = matches!(stepper.advance(1.0), Advance::Stopped(_));
                if interrupted {
                    break;
                }
            }
            state = stepper.state();
            if over {
                return state.y;
            }
        }
    };
    assert_eq!(run(10, false), run(10, true));
    assert_eq!(run(10, false), run(500, false)[..10]);
}
