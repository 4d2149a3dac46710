//! Equivariance: theory section 6, items 13 and 14.

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::ParticleFlow;
use metastable_dynamics::field::{Placement, RescaledFlow};
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::solver::{Method, SolverOptions};
use metastable_dynamics::{Head, Matrix, random};

use super::rescaled::HYPERPLANES_2D;
use super::world::{
    follow, largest_difference, on_sphere, random_matrix, random_rotation, unnormalised, velocity, with_value,
};
use super::{Law, Measured};

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "permuted_tokens_move_as_the_tokens_permuted",
        source: "theory item 13: every mask but the causal one",
        provenance: "derived",
        tolerance: 1e-14,
        because: "sums in another order",
        measure: permutation,
    },
    Law {
        name: "rotated_tokens_and_heads_move_as_the_tokens_rotated",
        source: "theory item 13: (Q, K, V) -> (Q Uᵀ, K Uᵀ, U V Uᵀ)",
        provenance: "derived",
        tolerance: 1e-13,
        because: "some tens of roundings in numbers of order one",
        measure: rotation,
    },
    Law {
        name: "tokens_at_a_point_and_its_antipode_stand_still",
        source: "theory item 13: V = I, any +-u configuration",
        provenance: "derived",
        tolerance: 1e-14,
        because: "rounding of the projection; 7 weights up to e^4 (USA)",
        measure: antipodes,
    },
    Law {
        name: "scaling_v_scales_time",
        source: "theory item 13: V -> c V on the sphere",
        provenance: "derived",
        tolerance: 1e-11,
        because: "two solves at 1e-12",
        measure: time_scaling,
    },
    Law {
        name: "euler_layers_have_an_exact_rescaled_twin",
        source: "2305.05465 r:discreterescaling: z^k = R^{-k} x^k, R = I + h V",
        provenance: "lean, derived",
        tolerance: 1e-12,
        because: "relative; 15 layers of roundings, amplified by the flow's growth of about 8",
        measure: discrete_twin,
    },
];

fn permutation() -> Measured {
    const ORDER: [usize; 7] = [3, 0, 6, 2, 5, 1, 4];
    let (start, dim) = (random::sphere(20, 7, 3), 3);
    let permuted: Vec<f64> = ORDER.iter().flat_map(|i| &start[3 * i..3 * i + dim]).copied().collect();
    let head =
        Head::new(random_matrix(21, 2, 3, 1.0), random_matrix(22, 2, 3, 1.0), random_matrix(23, 3, 3, 1.0), None)?;
    let mut worst = 0.0_f64;
    for kernel in [AttentionKernel::softmax(1.3)?, unnormalised(1.3)?] {
        let moved = velocity(&head, kernel, Placement::Tangent, &start)?;
        let expected: Vec<f64> = ORDER.iter().flat_map(|i| &moved[3 * i..3 * i + dim]).copied().collect();
        worst = worst.max(largest_difference(&velocity(&head, kernel, Placement::Tangent, &permuted)?, &expected));
    }
    Ok(worst)
}

/// U x for every token.
fn rotated(rotation: &Matrix, state: &[f64]) -> Vec<f64> {
    let d = rotation.columns();
    let mut out = vec![0.0; state.len()];
    state.chunks_exact(d).zip(out.chunks_exact_mut(d)).for_each(|(x, y)| rotation.apply(x, y));
    out
}

fn rotation() -> Measured {
    let start = random::sphere(24, 6, 3);
    let [query, key, value] = [25, 26, 27].map(|seed| random_matrix(seed, 3, 3, 1.0));
    let turn = random_rotation(28, 3)?;
    let back = turn.transpose();
    let turned = Head::new(query.multiply(&back), key.multiply(&back), turn.multiply(&value).multiply(&back), None)?;
    let kernel = AttentionKernel::softmax(1.3)?;
    let moved = velocity(&Head::new(query, key, value, None)?, kernel, Placement::Tangent, &start)?;
    let found = velocity(&turned, kernel, Placement::Tangent, &rotated(&turn, &start))?;
    Ok(largest_difference(&found, &rotated(&turn, &moved)))
}

fn antipodes() -> Measured {
    let u = random::sphere(29, 1, 4);
    let state: Vec<f64> =
        [1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0].iter().flat_map(|sign| u.iter().map(move |x| sign * x)).collect();
    let mut worst = 0.0_f64;
    for kernel in [AttentionKernel::softmax(2.0)?, unnormalised(2.0)?] {
        let moved = velocity(&Head::identity(4), kernel, Placement::Tangent, &state)?;
        worst = worst.max(largest_difference(&moved, &vec![0.0; state.len()]));
    }
    Ok(worst)
}

fn time_scaling() -> Measured {
    let start = random::sphere(30, 6, 3);
    let value = random_matrix(31, 3, 3, 0.5);
    let kernel = AttentionKernel::softmax(1.0)?;
    let slow = on_sphere(&with_value(value.clone())?, kernel, &start, &[2.5])?;
    let fast = on_sphere(&with_value(value.scaled(2.5))?, kernel, &start, &[1.0])?;
    Ok(largest_difference(&slow[0], &fast[0]))
}

fn discrete_twin() -> Measured {
    const LAYERS: u32 = 15;
    const STEP: f64 = 0.1;
    let value = Matrix::from_rows("value", HYPERPLANES_2D)?;
    let head = with_value(value.clone())?;
    let (start, kernel) = (random::uniform(32, 8, 2, -1.0, 1.0), AttentionKernel::softmax(1.0)?);
    let end = [f64::from(LAYERS) * STEP];
    let options = SolverOptions::fixed(Method::Euler, STEP);
    let plain = ParticleFlow::new(vec![head.clone()], kernel, 8, Placement::Ambient)?;
    let x = follow(&plain, &Euclidean, options.clone(), &start, &end)?;
    let z = follow(&RescaledFlow::layers(head, kernel, 8, STEP)?, &Euclidean, options, &start, &end)?;
    let advance = Matrix::scaled_identity(2, 1.0).add_scaled(STEP, &value);
    let recovered = (0..LAYERS).fold(z[0].clone(), |state, _| rotated(&advance, &state));
    let scale = x[0].iter().map(|v| v.abs()).fold(0.0, f64::max);
    Ok(largest_difference(&recovered, &x[0]) / scale)
}
