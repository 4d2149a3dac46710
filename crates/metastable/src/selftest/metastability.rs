//! Clusters that stay for a long time: theory sections 2.7 and 5 (2410.06833).

use std::f64::consts::PI;

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::closed_form::metastability::{Caps, collapse_rate, collapse_time_bound};
use metastable_dynamics::field::{ParticleFlow, Placement, VectorField};
use metastable_dynamics::geometry::{Euclidean, Spheres};
use metastable_dynamics::linalg::{dot, squared_distance};
use metastable_dynamics::solver::{Method, SolverOptions};
use metastable_dynamics::{Head, TokensRef};

use super::world::{follow, on_sphere, precise};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "five_tokens_on_the_circle_make_two_clusters_at_5_8_and_one_at_364_1",
        source: "2410.06833, the authors' kinetic.py: Euler layers of .1, beta = 4; cosines above .999",
        provenance: "code",
        tolerance: 0.05,
        because: "half a layer: the layer indices must be the same",
        measure: kinetic_times,
    },
    Law {
        name: "the_energy_of_the_two_metastable_clusters_is_0_5198",
        source: "2410.06833, kinetic.py: sum e^{beta(<x_i,x_j> - 1)}/n² at t = 5.8; plateau 13/25",
        provenance: "code, derived",
        tolerance: 5e-5,
        because: "digits given",
        measure: kinetic_energy,
    },
    Law {
        name: "two_caps_gather_by_t1_and_do_not_leave_before_t2",
        source: "2410.06833, the two-times theorem with the corrected first bound on lambda",
        provenance: "lean",
        tolerance: 1.0,
        because: "the larger of two ratios actual/bound: |x_i - x_j|²/(2 e^{-lambda beta} + (5e-12)²), 5e-12 being what \
                  the solver resolves, and cap height/(2 eps)",
        measure: two_caps,
    },
    Law {
        name: "the_collapse_equation_meets_its_time_bound",
        source: "2410.06833, lemma behind T_1: u' = u(1-u) e^{beta(u-1)}",
        provenance: "lean",
        tolerance: 1.0,
        because: "ratio (1 - u)/e^{-c beta} at the bound",
        measure: collapse,
    },
];

/// The start of the authors' kinetic.py [code].
const KINETIC: [f64; 10] = [
    0.99806638,
    0.06215705,
    0.97712061,
    0.21268594,
    -0.24578194,
    0.96932515,
    -0.97354734,
    0.2284854,
    -0.99892629,
    -0.04632772,
];

/// States after each Euler layer of step .1: x ← (x + .1 P x)/|...|.
fn kinetic(end: f64) -> Result<Vec<Vec<f64>>, metastable_dynamics::DynamicsError> {
    let kernel = AttentionKernel::softmax(4.0)?;
    let field = ParticleFlow::new(vec![Head::identity(2)], kernel, 5, Placement::Ambient)?;
    let layers = (end / 0.1).round() as u32;
    let times: Vec<f64> = (1..=layers).map(|k| f64::from(k) * 0.1).collect();
    follow(&field, &Spheres { dim: 2 }, SolverOptions::fixed(Method::Euler, 0.1), &KINETIC, &times)
}

/// The number of classes of the relation "cosine above .999", while it is transitive.
///
/// The authors count by the rank of its matrix, which is the same where both mean something; at t = 5.7 two chains
/// are connected but not yet transitive, and the rank is 4.
fn clusters(state: &[f64]) -> Option<usize> {
    let tokens: Vec<&[f64]> = state.chunks_exact(2).collect();
    let near = |x: &[f64]| -> Vec<bool> { tokens.iter().map(|y| dot(x, y) > 0.999).collect() };
    let mut rows: Vec<Vec<bool>> = tokens.iter().map(|x| near(x)).collect();
    rows.sort_unstable();
    rows.dedup();
    // Classes of an equivalence relation share no member.
    let memberships: usize = rows.iter().map(|row| row.iter().filter(|in_class| **in_class).count()).sum();
    (memberships == tokens.len()).then_some(rows.len())
}

fn kinetic_times() -> Measured {
    let states = kinetic(400.0)?;
    let first = |count: usize| {
        let layer = states.iter().position(|state| clusters(state) == Some(count));
        layer.map_or(f64::INFINITY, |layer| 0.1 * (layer + 1) as f64)
    };
    if clusters(&KINETIC) != Some(5) {
        return Ok(f64::INFINITY);
    }
    Ok((first(2) - 5.8).abs().max((first(1) - 364.1).abs()))
}

fn kinetic_energy() -> Measured {
    let states = kinetic(5.8)?;
    let state = &states[states.len() - 1];
    let tokens = TokensRef::new(2, state);
    let mut energy = 0.0;
    for x in tokens.iter() {
        for y in tokens.iter() {
            energy += (4.0 * (dot(x, y) - 1.0)).exp() / 25.0;
        }
    }
    Ok((energy - 0.5198).abs())
}

fn two_caps() -> Measured {
    let (beta, epsilon) = (100.0, 0.01_f64);
    // Angles within the caps of height eps, half-width arccos(1 - eps) = .1415, about 0 and pi.
    let angles = [-0.12, 0.03, 0.11, PI - 0.1, PI + 0.02, PI + 0.13];
    let caps = Caps::new(6, beta, epsilon, 1.0 - 2.0 * (1.0 - 2.0 * epsilon).powi(2))?;
    // Strictly below the largest rate that the theorem admits.
    let rate = 0.99 * caps.largest_rate();
    let start: Vec<f64> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
    let gathered = caps.gathering_time(rate);
    let states = on_sphere(&Head::identity(2), AttentionKernel::softmax(beta)?, &start, &[1.0, 20.0, 400.0, gathered])?;
    let mut height = 0.0_f64;
    for state in &states {
        for (i, x) in state.chunks_exact(2).enumerate() {
            height = height.max(1.0 - if i < 3 { x[0] } else { -x[0] });
        }
    }
    let last = TokensRef::new(2, &states[3]);
    let within = |i: usize, j: usize| squared_distance(last.token(i), last.token(j));
    let pairs = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)];
    let spread = pairs.iter().map(|(i, j)| within(*i, *j)).fold(0.0, f64::max);
    // e^{-lambda beta} is about 1e-77: equal to the solver's tolerance of 1e-12 is all that a solve can show.
    let resolution = 5e-12_f64.powi(2);
    Ok((spread / (caps.squared_spread(rate) + resolution)).max(height / (2.0 * epsilon)))
}

struct Collapse {
    beta: f64,
}

impl VectorField for Collapse {
    fn len(&self) -> usize {
        1
    }

    fn block_len(&self) -> usize {
        1
    }

    /// In w = -ln(1 - u), which keeps digits near the collapse: w' = u e^{beta (u - 1)}.
    fn evaluate(&self, _t: f64, state: &[f64], velocity: &mut [f64]) {
        let gap = (-state[0]).exp();
        velocity[0] = collapse_rate(self.beta, 1.0 - gap) / gap;
    }
}

fn collapse() -> Measured {
    let mut worst = 0.0_f64;
    for (beta, initial, c) in [(2.0, 0.2, 0.5), (5.0, 0.4, 1.0), (10.0, 0.7, 2.0)] {
        let time = collapse_time_bound(beta, initial, c);
        let start = [-f64::ln_1p(-initial)];
        let end = follow(&Collapse { beta }, &Euclidean, precise(), &start, &[time])?;
        worst = worst.max((-end[0][0] + c * beta).exp());
    }
    Ok(worst)
}
