//! Tokens with equal mutual cosines: theory section 6, items 1 and 11, and the orthogonal start of section 5.

use std::ops::ControlFlow;

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::closed_form::equiangular::{
    Weights, cosine_at_beta_zero, cosine_rate, critical_layer_cosine, crossing_time, layer_cosine, two_token_cosine,
};
use metastable_dynamics::field::{ParticleFlow, Placement};
use metastable_dynamics::geometry::Spheres;
use metastable_dynamics::linalg::{dot, norm};
use metastable_dynamics::solver::{EventLocator, Stepper, integrate};
use metastable_dynamics::{Head, TokensRef};

use super::world::{on_sphere, precise, unnormalised, velocity};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "orthogonal_tokens_follow_the_gamma_equation_under_softmax",
        source: "2312.10794 section 5, cosine of n orthonormal tokens (SA)",
        provenance: "text, code",
        tolerance: 1e-10,
        because: "solver tolerance 1e-12 over times up to 10, and the reference's 1e-13",
        measure: || gamma_table(Weights::Softmax, GAMMA_SOFTMAX),
    },
    Law {
        name: "orthogonal_tokens_follow_the_gamma_equation_without_normalisation",
        source: "2312.10794 section 5, cosine of n orthonormal tokens (USA)",
        provenance: "text, code",
        tolerance: 1e-10,
        because: "as for softmax",
        measure: || gamma_table(Weights::Unnormalised, GAMMA_UNNORMALISED),
    },
    Law {
        name: "the_gamma_equation_is_the_velocity_of_the_particles",
        source: "2312.10794 section 5, right-hand sides for SA and USA",
        provenance: "text, code",
        tolerance: 1e-13,
        because: "one evaluation: some tens of roundings in numbers of order one",
        measure: gamma_velocity,
    },
    Law {
        name: "equiangular_tokens_at_beta_zero_follow_the_closed_form",
        source: "theory item 1: g = (K e^{2t} - 1)/(K e^{2t} + n - 1); n = 2: tanh(t + artanh g0)",
        provenance: "derived",
        tolerance: 1e-11,
        because: "solver tolerance 1e-12",
        measure: beta_zero,
    },
    Law {
        name: "two_tokens_meet_after_the_crossing_time",
        source: "theory item 1: time of <x_1, x_2> from .1 to .9, beta = 0, 1, 4, 10",
        provenance: "derived",
        tolerance: 1e-9,
        because: "relative; event on the dense output of a solve at 1e-12",
        measure: two_token_times,
    },
    Law {
        name: "high_dimensional_tokens_gather_at_the_predicted_times",
        source: "2312.10794 section 5: g reaches .999 at 5.458, 6.954, 15.995 for n = 32, beta = 2, 4, 6",
        provenance: "text, code",
        tolerance: 1e-11,
        because: "relative; two quadratures at 1e-12",
        measure: predicted_times,
    },
    Law {
        name: "near_collapse_the_gap_closes_like_exp_minus_two_t",
        source: "theory section 5, rates: SA 1 - rho ~ e^{-2t}",
        provenance: "lean",
        tolerance: 1e-6,
        because: "at 1 - rho = 1e-7 the next order is of relative size 1e-7; the logarithm of a ratio of gaps \
                  computed from cosines loses 1e-16/1e-9",
        measure: collapse_rate,
    },
    Law {
        name: "one_layer_maps_equiangular_tokens_by_the_formula",
        source: "2510.05554, one layer at beta = g ln n; finite n",
        provenance: "text, derived",
        tolerance: 1e-12,
        because: "one evaluation; at the critical gain and n = 1e14 the limit is met to 3e-13",
        measure: one_layer,
    },
];

/// (n, beta, t, g): theory/scipy DOP853 at 1e-13.
type Row = (usize, f64, f64, f64);

const GAMMA_SOFTMAX: &[Row] = &[
    (2, 0.0, 0.5, 0.4621171572600092),
    (2, 0.0, 10.0, 0.9999999958776915),
    (2, 1.0, 2.0, 0.914006756284204),
    (2, 4.0, 10.0, 0.9947836188839939),
    (2, 9.0, 10.0, 0.0024957027073925966),
    (4, 1.0, 0.5, 0.2126868114551189),
    (4, 4.0, 2.0, 0.08755602293889853),
    (4, 4.0, 10.0, 0.9996372800867893),
    (4, 9.0, 2.0, 0.0004948000255935035),
    (32, 0.0, 2.0, 0.6261601449609815),
    (32, 1.0, 2.0, 0.5897728228996267),
    (32, 4.0, 2.0, 0.11806565205743935),
    (32, 9.0, 10.0, 0.0025819581524428098),
];

const GAMMA_UNNORMALISED: &[Row] = &[
    (2, 0.0, 0.5, 0.4621171572600092),
    (2, 1.0, 0.5, 0.5880618837601165),
    (2, 4.0, 0.1, 0.12692031143205024),
    (2, 4.0, 0.5, 0.999999999993614),
    (4, 1.0, 0.1, 0.05391689837927137),
    (4, 4.0, 0.5, 0.9999708235954836),
    (32, 1.0, 0.5, 0.0527002488628383),
    (32, 4.0, 0.5, 0.059087391248058604),
];

/// The standard basis of R^n.
fn orthonormal(n: usize) -> Vec<f64> {
    equiangular(n, 0.0)
}

/// n unit tokens of cosine rho, symmetric about the diagonal of R^n: a e_i + b 1.
pub(super) fn equiangular(n: usize, rho: f64) -> Vec<f64> {
    let a = (1.0 - rho).sqrt();
    let count = n as f64;
    // (a e_i + b 1)·(a e_j + b 1) = 2 a b + n b² = rho, and a² more for i = j.
    let b = ((a * a + count * rho).sqrt() - a) / count;
    (0..n * n).map(|k| if k / n == k % n { a + b } else { b }).collect()
}

/// The largest distance of any cosine from `value`.
fn off_cosine(n: usize, state: &[f64], value: f64) -> f64 {
    let tokens = TokensRef::new(n, state);
    let mut worst = 0.0_f64;
    for i in 0..n {
        for j in 0..i {
            worst = worst.max((dot(tokens.token(i), tokens.token(j)) - value).abs());
        }
    }
    worst
}

fn gamma_table(weights: Weights, rows: &[Row]) -> Measured {
    let mut worst = 0.0_f64;
    for &(n, beta, t, value) in rows {
        let kernel = match weights {
            Weights::Softmax => AttentionKernel::softmax(beta)?,
            Weights::Unnormalised => unnormalised(beta)?,
        };
        let states = on_sphere(&Head::identity(n), kernel, &orthonormal(n), &[t])?;
        worst = worst.max(off_cosine(n, &states[0], value));
    }
    Ok(worst)
}

fn gamma_velocity() -> Measured {
    let mut worst = 0.0_f64;
    for (n, beta, cosine) in [(2, 1.0, 0.3), (4, 4.0, -0.1), (7, 2.0, 0.8), (12, 0.0, 0.05)] {
        let state = equiangular(n, cosine);
        for (weights, kernel) in
            [(Weights::Softmax, AttentionKernel::softmax(beta)?), (Weights::Unnormalised, unnormalised(beta)?)]
        {
            let velocity = velocity(&Head::identity(n), kernel, Placement::Tangent, &state)?;
            let (x, v) = (TokensRef::new(n, &state), TokensRef::new(n, &velocity));
            let rate = dot(x.token(0), v.token(1)) + dot(v.token(0), x.token(1));
            let expected = cosine_rate(weights, n, beta, cosine);
            worst = worst.max((rate - expected).abs() / expected.abs().max(1.0));
        }
    }
    Ok(worst)
}

fn beta_zero() -> Measured {
    let mut worst = 0.0_f64;
    let kernel = AttentionKernel::softmax(0.0)?;
    for (n, initial) in [(2, 0.1), (5, -0.2), (16, 0.4)] {
        for (t, state) in
            [0.3, 2.0].into_iter().zip(on_sphere(&Head::identity(n), kernel, &equiangular(n, initial), &[0.3, 2.0])?)
        {
            worst = worst.max(off_cosine(n, &state, cosine_at_beta_zero(n, initial, t)));
            if n == 2 {
                worst = worst.max(off_cosine(n, &state, two_token_cosine(initial, t)));
            }
        }
    }
    Ok(worst)
}

fn two_token_times() -> Measured {
    let reference =
        [(0.0, 1.3718841418521448), (1.0, 1.7370981838852348), (4.0, 6.0833373565997855), (10.0, 429.49192145794547)];
    let mut worst = 0.0_f64;
    for (beta, time) in reference {
        let field = ParticleFlow::new(vec![Head::identity(2)], AttentionKernel::softmax(beta)?, 2, Placement::Tangent)?;
        let start = equiangular(2, 0.1);
        let mut stepper = Stepper::new(&field, &Spheres { dim: 2 }, precise(), 0.0, start)?;
        let mut locator = EventLocator::new(4);
        let mut found = f64::INFINITY;
        integrate(&mut stepper, 2.0 * time, &mut |step| match locator
            .crossings(step, &mut |_, state| dot(&state[..2], &state[2..]) - 0.9)
            .first()
        {
            Some(crossing) => {
                found = crossing.time;
                ControlFlow::Break(())
            }
            None => ControlFlow::Continue(()),
        });
        let quadrature = crossing_time(Weights::Softmax, 2, beta, 0.1, 0.9);
        worst = worst.max((found / time - 1.0).abs()).max((quadrature / time - 1.0).abs());
    }
    Ok(worst)
}

fn predicted_times() -> Measured {
    // scipy.integrate.quad at 1e-12.
    let reference =
        [(0.0, 5.186260981120173), (2.0, 5.458393682897707), (4.0, 6.953501848808086), (6.0, 15.995313549204434)];
    let off = |(beta, time): (f64, f64)| (crossing_time(Weights::Softmax, 32, beta, 0.0, 0.999) / time - 1.0).abs();
    Ok(reference.into_iter().map(off).fold(0.0, f64::max))
}

fn collapse_rate() -> Measured {
    let states =
        on_sphere(&Head::identity(8), AttentionKernel::softmax(1.0)?, &equiangular(8, 1.0 - 1e-7), &[1.0, 2.0])?;
    let gap = |state: &[f64]| {
        let tokens = TokensRef::new(8, state);
        0.5 * metastable_dynamics::linalg::squared_distance(tokens.token(0), tokens.token(1))
    };
    Ok(((gap(&states[0]) / gap(&states[1])).ln() - 2.0).abs())
}

fn one_layer() -> Measured {
    let mut worst = 0.0_f64;
    for (n, rho, gain) in [(6, 0.3, 1.7), (20, 0.1, 1.0 / 0.9), (50, 0.5, 0.4)] {
        let kernel = AttentionKernel::softmax(gain * (n as f64).ln())?;
        // Without residual the output of the layer is the field itself.
        let output = velocity(&Head::identity(n), kernel, Placement::Ambient, &equiangular(n, rho))?;
        let output = TokensRef::new(n, &output);
        let (a, b) = (output.token(0), output.token(1));
        worst = worst.max((dot(a, b) / (norm(a) * norm(b)) - layer_cosine(n as f64, rho, gain)).abs());
    }
    for rho in [0.1, 0.2, 0.5, 0.8] {
        worst = worst.max((layer_cosine(1e14, rho, 1.0 / (1.0 - rho)) - critical_layer_cosine(rho)).abs());
    }
    Ok(worst)
}
