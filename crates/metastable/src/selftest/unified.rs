//! All kernels as one family, 2501.18322: reference fields, Sinkhorn's mean law, energies, placements of norms, noise,
//! Dobrushin's estimate.

use metastable_dynamics::attention::energy::energy;
use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Score, Sinkhorn, SinkhornStop};
use metastable_dynamics::field::{FeedForward, Noise, NoisyFlow, ParticleFlow, Placement};
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::measure::transport::wasserstein2;
use metastable_dynamics::observe::dobrushin::Dobrushin;
use metastable_dynamics::solver::{Method, SolverOptions};
use metastable_dynamics::{DynamicsError, Head, Matrix, TokensRef, random};

use super::world::{
    follow, in_space, largest_difference, largest_fall, most, precise, random_matrix, times, velocity, with_value,
};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "every_kernel_has_its_reference_field",
        source: "theory of 2501.18322, section 5.3: four tokens, seven kernels",
        provenance: "derived",
        tolerance: 2e-14,
        because: "the references are printed to 14 decimals",
        measure: reference_fields,
    },
    Law {
        name: "two_symmetric_tokens_move_by_the_hyperbolic_functions_of_their_kernel",
        source: "theory of 2501.18322, section 5.3: tanh, sinh and cubic fields of tokens at x and -x",
        provenance: "derived",
        tolerance: 1e-14,
        because: "a few roundings of numbers of order one",
        measure: symmetric_pair,
    },
    Law {
        name: "sinkhorn_moves_the_mean_by_the_exponential_of_v_over_epsilon",
        source: "2501.18322: mean(t) = e^{Vt/epsilon} mean(0) for every n, by double stochasticity",
        provenance: "derived",
        tolerance: 1e-10,
        because: "column sums are one within 1e-13 at every stage; solver tolerance 1e-12",
        measure: sinkhorn_mean,
    },
    Law {
        name: "attention_climbs_its_energy_and_sinkhorn_descends_its_cost",
        source: "2312.10794 section 3, 2501.18322: (twisted) Wasserstein gradient flows for V = ±QᵀK",
        provenance: "text, 2nd",
        tolerance: 1e-11,
        because: "largest relative move the wrong way; solver tolerance 1e-12",
        measure: energies,
    },
    Law {
        name: "second_moments_of_linear_attention_close_for_any_cloud",
        source: "theory of 2501.18322, section 5.3: S(t) = (S_0^{-1} - vt sym(A))^{-1}",
        provenance: "derived",
        tolerance: 1e-11,
        because: "printed to 13 decimals; solver tolerance 1e-12",
        measure: linear_moments,
    },
    Law {
        name: "near_collapse_norms_decide_between_exponential_and_algebraic_rates",
        source: "2510.22026: the gap falls by e^{-2t} (post-LN), (1 + t)^{-2} (pre- and peri-LN), e^{-2 alpha t} (nGPT)",
        provenance: "text, lean, derived",
        tolerance: 1e-3,
        because: "relative; linearised at a gap of 1e-4",
        measure: collapse_rates,
    },
    Law {
        name: "noise_has_the_moments_of_euler_maruyama_on_ornstein_uhlenbeck",
        source: "mean (1 - h)^k, variance v <- (1 - h)² v + 2 tau h: weak order one",
        provenance: "derived",
        tolerance: 1.0,
        because: "in units of five standard errors of 20 000 draws",
        measure: ornstein_uhlenbeck,
    },
    Law {
        name: "two_solutions_drift_apart_by_at_most_dobrushins_factor",
        source: "2501.18322 with explicit constants: softmax and sigmoid in W_2",
        provenance: "2nd, derived",
        tolerance: 1.0,
        because: "ratio of measured growth to bound",
        measure: dobrushin,
    },
];

const TOKENS: [f64; 8] = [1.0, 0.0, 0.5, -0.5, -0.25, 0.75, -1.0, -0.5];

fn reference_head() -> Result<Head, DynamicsError> {
    let matrix = |name: &str, rows: &[[f64; 2]]| Matrix::from_rows(name, rows);
    let (query, key) = (matrix("Q", &[[0.6, -0.4], [0.1, 0.5]])?, matrix("K", &[[0.5, 0.2], [-0.3, 0.4]])?);
    Head::new(query, key, matrix("V", &[[0.3, -0.2], [0.4, 0.2]])?, None)
}

fn sinkhorn(epsilon: f64) -> Normalization {
    let stop = SinkhornStop::Converged { tolerance: 1e-13, max_iterations: 1000 };
    Normalization::Sinkhorn(Sinkhorn { epsilon, stop })
}

fn full(score: Score, normalization: Normalization) -> Result<AttentionKernel, DynamicsError> {
    AttentionKernel::new(score, normalization, Mask::Full, 1.0)
}

#[rustfmt::skip]
fn reference_fields() -> Measured {
    let head = reference_head()?;
    let sigmoid = Normalization::Sigmoid { bias: 0.0 };
    let cases = [
        (full(Score::Dot, Normalization::Softmax)?, [0.06764904710295, 0.07999594376174, 0.08158602031911, 0.08240571806573, -0.0254577589282, -0.06244961718918, 0.02409762012309, -0.02460898132366]),
        (full(Score::SquaredDistance, Normalization::Softmax)?, [0.09221302774612, 0.13216439126611, 0.1220896941459, 0.13881144320558, -0.07327991102174, -0.11219991990108, 0.02027656882983, -0.04724406148787]),
        (full(Score::Dot, sinkhorn(1.0))?, [0.06142687961793, 0.07337651411189, 0.07558002012612, 0.07566938626333, -0.03064410518199, -0.06797803720145, 0.01863720543794, -0.03106786317377]),
        (full(Score::Dot, sigmoid)?, [0.02510889352692, 0.02429417606105, 0.02849789121625, 0.02456347419106, 0.00106450013903, -0.01219337137102, 0.01425080187947, -0.00255729999892]),
        (full(Score::Dot, Normalization::Linear)?, [0.038234375, 0.07278125, 0.051828125, 0.07384375, -0.058625, -0.074375, -0.0055234375, -0.035328125]),
        (full(Score::Dot, Normalization::Exponential)?, [0.06976469861936, 0.08249773125135, 0.08535992006472, 0.08621753432088, -0.0256487221728, -0.06291806303926, 0.02451730834076, -0.02503757549428]),
        (full(Score::Dot, Normalization::Softmax)?.masked(Mask::Causal), [0.3, 0.4, 0.27705783340751, 0.26234700044507, 0.06311490684011, 0.15958834666139, 0.02409762012309, -0.02460898132366]),
    ];
    let mut worst = 0.0_f64;
    for (kernel, expected) in cases {
        worst = worst.max(largest_difference(&velocity(&head, kernel, Placement::Ambient, &TOKENS)?, &expected));
    }
    Ok(worst)
}

fn symmetric_pair() -> Measured {
    let (q, k, v, epsilon, x) = (1.1, 0.8, 0.9, 0.5, 0.8_f64);
    let scalar = |c: f64| Matrix::scaled_identity(1, c);
    let head = Head::new(scalar(q), scalar(k), scalar(v), None)?;
    let u = q * k * x * x;
    let cases = [
        (full(Score::Dot, Normalization::Softmax)?, v * x * u.tanh()),
        (full(Score::SquaredDistance, Normalization::Softmax)?, v * x * (2.0 * u).tanh()),
        (full(Score::Dot, sinkhorn(epsilon))?, v / epsilon * x * (u / epsilon).tanh()),
        (full(Score::Dot, Normalization::Sigmoid { bias: 0.0 })?, 0.5 * v * x * (u / 2.0).tanh()),
        (full(Score::Dot, Normalization::Linear)?, v * x * u),
        (full(Score::Dot, Normalization::Exponential)?, v * x * u.sinh()),
    ];
    let mut worst = 0.0_f64;
    for (kernel, expected) in cases {
        worst = worst.max((velocity(&head, kernel, Placement::Ambient, &[x, -x])?[0] - expected).abs());
    }
    Ok(worst)
}

fn sinkhorn_mean() -> Measured {
    let mut worst = 0.0_f64;
    for n in 1..10 {
        for (score, epsilon) in [(Score::Dot, 0.7), (Score::SquaredDistance, 1.6)] {
            let seed = 300 + n as u64;
            let of = |s: u64| random_matrix(seed + s, 2, 2, 0.6);
            let head = Head::new(of(1), of(2), of(3), None)?;
            let start = random::standard_normal(seed, n, 2);
            let end = in_space(&head, full(score, sinkhorn(epsilon))?, &start, &[1.0])?;
            let mut expected = [0.0; 2];
            head.value().scaled(1.0 / epsilon).exp()?.apply(&TokensRef::new(2, &start).mean(), &mut expected);
            worst = worst.max(largest_difference(&TokensRef::new(2, &end[0]).mean(), &expected));
        }
    }
    Ok(worst)
}

fn energies() -> Measured {
    // Tokens of size one: exponential flows of larger ones escape at once.
    let start = random::uniform(320, 8, 2, -0.8, 0.8);
    let sigmoid = Normalization::Sigmoid { bias: -0.2 };
    let mut worst = 0.0_f64;
    for normalization in
        [Normalization::Softmax, Normalization::Exponential, sigmoid, Normalization::Linear, sinkhorn(0.8)]
    {
        for value in [0.4, -0.4] {
            let kernel = full(Score::Dot, normalization)?;
            let head = with_value(Matrix::scaled_identity(2, value))?;
            let states = in_space(&head, kernel, &start, &times(0.3, 13))?;
            let flow = ParticleFlow::new(vec![head], kernel, 8, Placement::Ambient)?;
            let energies: Result<Vec<f64>, DynamicsError> = states
                .iter()
                .map(|state| Ok(energy(&flow.projections(0, state), &kernel)?.unwrap_or(f64::NAN)))
                .collect();
            let climbs = (value > 0.0) != matches!(normalization, Normalization::Sinkhorn(_));
            let signed: Vec<f64> = energies?.iter().map(|e| if climbs { *e } else { -e }).collect();
            // It must move for the comparison to mean anything.
            if signed[12] - signed[0] < 1e-5 {
                return Ok(f64::NAN);
            }
            worst = worst.max(largest_fall(&signed) / most(&signed.iter().map(|e| e.abs()).collect::<Vec<_>>()));
        }
    }
    Ok(worst)
}

fn linear_moments() -> Measured {
    let head = reference_head()?;
    let head = Head::new(head.query().clone(), head.key().clone(), Matrix::scaled_identity(2, 0.7), None)?;
    let end = in_space(&head, full(Score::Dot, Normalization::Linear)?, &TOKENS, &[1.0])?;
    let moment = |a: usize, b: usize| end[0].chunks(2).map(|x| x[a] * x[b]).sum::<f64>() / 4.0;
    let found = [moment(0, 0), moment(0, 1), moment(1, 1)];
    Ok(largest_difference(&found, &[0.7384347483404, -0.0063722543715, 0.277624540284]))
}

fn collapse_rates() -> Measured {
    let gap = 1e-4_f64;
    // Two unit vectors at the scalar product 1 - gap.
    let sine = (1.0 - (1.0 - gap) * (1.0 - gap)).sqrt();
    let start = [1.0, 0.0, 1.0 - gap, sine];
    let mut worst = 0.0_f64;
    for (placement, factor) in [
        (Placement::Tangent, (-4.0_f64).exp()),
        (Placement::PreNorm, 1.0 / 9.0),
        (Placement::PeriNorm, 1.0 / 9.0),
        (Placement::Hyperspherical { alpha: 0.5 }, (-2.0_f64).exp()),
    ] {
        let flow = ParticleFlow::new(vec![Head::identity(2)], AttentionKernel::softmax(1.0)?, 2, placement)?;
        // Tangent fields keep the norm by themselves at this tolerance.
        let end = follow(&flow, &Euclidean, precise(), &start, &[2.0])?;
        let pair = |i: usize, j: usize| end[0][2 * i] * end[0][2 * j] + end[0][2 * i + 1] * end[0][2 * j + 1];
        let found = 1.0 - pair(0, 1) / (pair(0, 0) * pair(1, 1)).sqrt();
        worst = worst.max((found / (gap * factor) - 1.0).abs());
    }
    Ok(worst)
}

fn ornstein_uhlenbeck() -> Measured {
    let (tau, h, steps, count, clouds) = (0.4, 0.125, 8, 500, 40_u64);
    let (identity, zero) = (Matrix::scaled_identity(1, 1.0), Matrix::scaled_identity(1, 0.0));
    let head = Head::new(identity.clone(), identity.clone(), zero, None)?;
    let flow = ParticleFlow::new(vec![head], AttentionKernel::softmax(0.0)?, count, Placement::Ambient)?;
    let flow = flow.with_feed_forward(FeedForward::new(identity.scaled(-1.0), vec![0.0])?)?;
    let mut draws = Vec::new();
    for seed in 0..clouds {
        let noisy = NoisyFlow::new(&flow, Noise::new(tau, h, seed)?, false);
        let options = SolverOptions::fixed(Method::Euler, h);
        draws.extend(follow(&noisy, &Euclidean, options, &vec![1.0; count], &[1.0])?.swap_remove(0));
    }
    let n = draws.len() as f64;
    let mean = draws.iter().sum::<f64>() / n;
    let variance = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    let exact_mean = (1.0_f64 - h).powi(steps);
    let exact_variance = (0..steps).fold(0.0, |v, _| (1.0 - h) * (1.0 - h) * v + 2.0 * tau * h);
    let of_mean = (mean - exact_mean).abs() / (5.0 * (exact_variance / n).sqrt());
    Ok(of_mean.max((variance - exact_variance).abs() / (5.0 * exact_variance * (2.0 / n).sqrt())))
}

fn dobrushin() -> Measured {
    let head = reference_head()?;
    let mut worst = 0.0_f64;
    for normalization in [Normalization::Softmax, Normalization::Sigmoid { bias: 0.0 }] {
        let kernel = full(Score::Dot, normalization)?;
        let bound = Dobrushin::new(&head, &kernel, 1.0, 2.0)?.factor(1.0);
        for seed in 0..10 {
            let x = random::uniform(340 + seed, 12, 2, -0.6, 0.6);
            let shift = random::standard_normal(360 + seed, 12, 2);
            let y: Vec<f64> = x.iter().zip(shift).map(|(x, e)| x + 0.01 * e).collect();
            let apart = |x: &[f64], y: &[f64]| Ok(wasserstein2(TokensRef::new(2, x), TokensRef::new(2, y))?.distance);
            let after = apart(&in_space(&head, kernel, &x, &[1.0])?[0], &in_space(&head, kernel, &y, &[1.0])?[0])?;
            worst = worst.max(after / apart(&x, &y)? / bound);
        }
    }
    Ok(worst)
}
