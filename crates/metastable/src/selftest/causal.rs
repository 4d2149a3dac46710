//! Causal attention (model M5): theory section 5 and section 6, item 15.

use metastable_dynamics::attention::{AttentionKernel, Mask};
use metastable_dynamics::closed_form::equiangular::causal_two_token_cosine;
use metastable_dynamics::field::{ParticleFlow, Placement};
use metastable_dynamics::geometry::Spheres;
use metastable_dynamics::linalg::dot;
use metastable_dynamics::solver::{Method, SolverOptions};
use metastable_dynamics::{DynamicsError, Head, Matrix, TokensRef, random};

use super::world::{States, follow, largest_difference, on_sphere, random_matrix};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "the_first_token_of_a_causal_flow_stands_still",
        source: "2411.04990: V = I, any Q and K",
        provenance: "lean",
        tolerance: 1e-14,
        because: "the velocity of x_1 is the rounding of its projection, and retraction does not add up",
        measure: first_token,
    },
    Law {
        name: "a_causal_prefix_does_not_feel_what_follows",
        source: "theory section 5: prefix independence",
        provenance: "lean",
        tolerance: 0.0,
        because: "fixed steps do the same operations on the prefix, bit for bit",
        measure: prefix,
    },
    Law {
        name: "causal_tokens_gather_at_the_first_one",
        source: "2411.04990 theorem 1: V = I, arbitrary Q and K, d >= 2, almost every start",
        provenance: "lean",
        tolerance: 1e-6,
        because: "at t = 60; each token closes at its own exponential rate",
        measure: gathering,
    },
    Law {
        name: "two_causal_tokens_at_beta_zero_follow_the_tanh_law",
        source: "theory item 15: <x_1, x_2> = tanh(t/2 + artanh g0)",
        provenance: "derived",
        tolerance: 1e-11,
        because: "solver tolerance 1e-12",
        measure: tanh_law,
    },
];

fn causal(beta: f64) -> Result<AttentionKernel, DynamicsError> {
    Ok(AttentionKernel::softmax(beta)?.masked(Mask::Causal))
}

fn random_head(seed: u64) -> Result<Head, DynamicsError> {
    Head::new(random_matrix(seed, 3, 3, 0.7), random_matrix(seed + 1, 3, 3, 0.7), Matrix::scaled_identity(3, 1.0), None)
}

fn first_token() -> Measured {
    let start = random::sphere(80, 6, 3);
    let states = on_sphere(&random_head(81)?, causal(2.0)?, &start, &[0.5, 2.0, 8.0])?;
    Ok(states.iter().map(|state| largest_difference(&state[..3], &start[..3])).fold(0.0, f64::max))
}

fn stepped(start: &[f64]) -> Result<States, DynamicsError> {
    let field = ParticleFlow::new(vec![random_head(83)?], causal(2.0)?, start.len() / 3, Placement::Tangent)?;
    follow(&field, &Spheres { dim: 3 }, SolverOptions::fixed(Method::Rk4, 0.05), start, &[1.0])
}

fn prefix() -> Measured {
    let start = random::sphere(85, 9, 3);
    let (all, some) = (stepped(&start)?, stepped(&start[..15])?);
    Ok(largest_difference(&all[0][..15], &some[0]))
}

fn gathering() -> Measured {
    let mut worst = 0.0_f64;
    for seed in [86, 90] {
        let start = random::sphere(seed, 6, 3);
        let end = on_sphere(&random_head(seed + 1)?, causal(1.0)?, &start, &[60.0])?;
        let off = TokensRef::new(3, &end[0]).iter().map(|x| largest_difference(x, &start[..3])).fold(0.0, f64::max);
        worst = worst.max(off);
    }
    Ok(worst)
}

fn tanh_law() -> Measured {
    let start = random::sphere(94, 2, 3);
    let states = on_sphere(&Head::identity(3), causal(0.0)?, &start, &[0.7, 2.0])?;
    let initial = dot(&start[..3], &start[3..]);
    let off =
        |(t, state): (f64, &Vec<f64>)| (dot(&state[..3], &state[3..]) - causal_two_token_cosine(initial, t)).abs();
    Ok([0.7, 2.0].into_iter().zip(&states).map(off).fold(0.0, f64::max))
}
