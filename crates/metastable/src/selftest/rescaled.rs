//! Rescaled tokens z = e^{-tV} x in R^d: hulls, eigen-coordinates and limits. Theory section 5 and section 6, item 6.

use std::f64::consts::TAU;

use metastable_dynamics::attention::{AttentionKernel, statistics::weights};
use metastable_dynamics::field::RescaledFlow;
use metastable_dynamics::linalg::{dot, norm};
use metastable_dynamics::observe::{numerical_rank, single_linkage};
use metastable_dynamics::{DynamicsError, Head, Matrix, TokensRef, random};

use super::world::{
    along, in_space, largest_difference, largest_fall, least, most, random_matrix, rescaled, times, with_value,
};
use super::{Law, Measured};

/// V of the hyperplane figure in the plane, 2305.05465's code [code].
pub(super) const HYPERPLANES_2D: &[[f64; 2]] = &[[0.64709742, 0.81911926], [0.61210449, 0.63263484]];
/// V of the hyperplane figure in space, other eigenvalues with negative real parts [code].
const HYPERPLANES_3D_NEGATIVE: &[[f64; 3]] =
    &[[0.2362413, 0.0599536, 0.40506019], [0.81321448, 0.49948705, 0.33754772], [0.2160645, 0.38505272, 0.14588075]];
/// The same with positive real parts [code].
const HYPERPLANES_3D: &[[f64; 3]] =
    &[[0.18608476, 0.34391026, 0.13905949], [0.35244288, 0.6694859, 0.39992145], [0.46685606, 0.17094454, 0.42092308]];

pub(super) const LAWS: &[Law] = &[
    Law {
        name: "rescaled_tokens_are_the_tokens_times_exp_minus_tv",
        source: "2305.05465 e:Rres: z = e^{-tV} x",
        provenance: "lean",
        tolerance: 1e-8,
        because: "relative; the rescaled solve runs at the default 1e-10 per token, e^{tV} magnifies by 15",
        measure: equivalence,
    },
    Law {
        name: "the_convex_hull_of_rescaled_tokens_is_nested_in_time",
        source: "2305.05465 p:noninc: V = I, any logits",
        provenance: "lean",
        tolerance: 1e-9,
        because: "growth of a support function in 64 directions; default solver tolerance 1e-10",
        measure: hull,
    },
    Law {
        name: "leading_eigen_coordinates_contract_from_both_sides",
        source: "2305.05465 l:fj: max_j phi(z_j) falls, min_j phi(z_j) rises, for a left eigenvector with lambda > 0",
        provenance: "lean",
        tolerance: 1e-9,
        because: "violation; default solver tolerance 1e-10",
        measure: eigen_coordinate,
    },
    Law {
        name: "identity_value_sends_tokens_to_self_dominant_points",
        source: "2305.05465 t:Idcase11: |z|² >= <z, w> for limits z and w",
        provenance: "lean",
        tolerance: 1e-4,
        because: "at t = 12 tokens are within about 10 e^{-12} = 6e-5 of their limits, of norm up to 7; \
                  relative to the squared diameter",
        measure: polytope,
    },
    Law {
        name: "a_simple_leading_eigenvalue_gives_at_most_three_hyperplanes",
        source: "2305.05465 l:3hyperplanes11, the authors' three matrices",
        provenance: "lean, code",
        tolerance: 3.0,
        because: "a count of values of phi_1, apart by more than 1e-3",
        measure: hyperplanes,
    },
    Law {
        name: "a_repeated_leading_eigenvalue_gives_a_polytope_in_its_eigenspace",
        source: "2305.05465 t:multiplicity, V = diag(1, 1, -1/2)",
        provenance: "lean, code",
        tolerance: 1e-4,
        because: "as for V = I, in the first two coordinates",
        measure: hyperplanes_times_polytope,
    },
    Law {
        name: "one_dimensional_attention_becomes_boolean_of_rank_two_or_three",
        source: "2305.05465 t:boolean: all rows but at most one are first or last leader",
        provenance: "lean",
        tolerance: 3.0,
        because: "a rank: two leaders and one exceptional row; rows count as Boolean within 1e-12",
        measure: boolean,
    },
    Law {
        name: "rank_one_query_key_leaves_at_most_two_clusters",
        source: "theory 2.3: V = I, QᵀK of rank one; one cluster if all tokens are on one side",
        provenance: "derived",
        tolerance: 2.0,
        because: "a count at radius 1e-3 at t = 18; one-sided starts that leave two clusters count as failure",
        measure: rank_one,
    },
    Law {
        name: "rescaled_tokens_run_to_t_1e5_without_overflow",
        source: "theory section 1, numerics",
        provenance: "derived",
        tolerance: 4e-6,
        because: "the state at 1e5 against an early one with e^{-60} left to go; 4e4 steps at the default tolerance of \
                  1e-10 each, whose errors may add up because a limit cluster as a whole is free to drift",
        measure: long_run,
    },
];

fn equivalence() -> Measured {
    let value = Matrix::from_rows("value", HYPERPLANES_2D)?;
    let (head, start) = (with_value(value.clone())?, random::uniform(50, 8, 2, -1.0, 1.0));
    let z = rescaled(&head, &start, &[2.0])?;
    let x = in_space(&head, AttentionKernel::softmax(1.0)?, &start, &[2.0])?;
    let propagator = value.scaled(2.0).exp()?;
    let mut recovered = vec![0.0; z[0].len()];
    z[0].chunks_exact(2).zip(recovered.chunks_exact_mut(2)).for_each(|(z, x)| propagator.apply(z, x));
    let scale = x[0].iter().map(|v| v.abs()).fold(0.0, f64::max);
    Ok(largest_difference(&recovered, &x[0]) / scale)
}

fn hull() -> Measured {
    let identity = |d: usize| Matrix::scaled_identity(d, 1.0);
    let heads = [
        Head::identity(2),
        Head::new(random_matrix(51, 2, 2, 1.0), random_matrix(52, 2, 2, 1.0), identity(2), None)?,
        Head::new(random_matrix(53, 3, 3, 1.0), random_matrix(54, 3, 3, 1.0), identity(3), None)?,
    ];
    let mut worst = 0.0_f64;
    for head in heads {
        let d = head.dim();
        let directions: Vec<Vec<f64>> = if d == 2 {
            (0..64).map(|k| TAU * f64::from(k) / 64.0).map(|a| vec![a.cos(), a.sin()]).collect()
        } else {
            random::sphere(55, 64, d).chunks_exact(d).map(<[f64]>::to_vec).collect()
        };
        let states = rescaled(&head, &random::uniform(56, 20, d, -2.0, 2.0), &times(8.0, 81))?;
        for u in &directions {
            let support: Vec<f64> = states.iter().map(|state| -most(&along(state, u))).collect();
            worst = worst.max(largest_fall(&support));
        }
    }
    Ok(worst)
}

/// The leading left eigenvector of a matrix with positive entries, by power iteration.
fn left_eigenvector(value: &Matrix) -> Vec<f64> {
    let transpose = value.transpose();
    let mut phi = vec![1.0; value.rows()];
    let mut image = phi.clone();
    for _ in 0..500 {
        transpose.apply(&phi, &mut image);
        let length = norm(&image);
        phi.iter_mut().zip(&image).for_each(|(p, v)| *p = v / length);
    }
    phi
}

/// The three matrices with a simple leading eigenvalue.
fn positive_matrices() -> Result<[Matrix; 3], DynamicsError> {
    Ok([
        Matrix::from_rows("2d", HYPERPLANES_2D)?,
        Matrix::from_rows("3d negative", HYPERPLANES_3D_NEGATIVE)?,
        Matrix::from_rows("3d", HYPERPLANES_3D)?,
    ])
}

fn eigen_coordinate() -> Measured {
    let mut worst = 0.0_f64;
    for value in positive_matrices()? {
        let d = value.rows();
        let phi = left_eigenvector(&value);
        let states = rescaled(&with_value(value)?, &random::uniform(57, 12, d, -1.0, 1.0), &times(5.0, 51))?;
        let highest: Vec<f64> = states.iter().map(|s| -most(&along(s, &phi))).collect();
        let lowest: Vec<f64> = states.iter().map(|s| least(&along(s, &phi))).collect();
        worst = worst.max(largest_fall(&highest)).max(largest_fall(&lowest));
    }
    Ok(worst)
}

/// The worst excess of <z, w> over |z|² among tokens, in the first `dims` coordinates, relative to the largest |z|².
fn dominance_defect(state: &[f64], d: usize, dims: usize) -> f64 {
    let tokens: Vec<&[f64]> = state.chunks_exact(d).map(|x| &x[..dims]).collect();
    let scale = tokens.iter().map(|x| dot(x, x)).fold(0.0, f64::max);
    let excess = |z: &[f64]| tokens.iter().map(|w| dot(z, w)).fold(0.0, f64::max) - dot(z, z);
    tokens.iter().map(|z| excess(z)).fold(0.0, f64::max) / scale
}

fn polytope() -> Measured {
    let mut worst = 0.0_f64;
    for seed in [58, 59, 60] {
        let end = rescaled(&Head::identity(2), &random::uniform(seed, 20, 2, -5.0, 5.0), &[12.0])?;
        worst = worst.max(dominance_defect(&end[0], 2, 2));
    }
    Ok(worst)
}

fn hyperplanes() -> Measured {
    let mut most_values = 0;
    for value in positive_matrices()? {
        let d = value.rows();
        let phi = left_eigenvector(&value);
        let head = with_value(value)?;
        for seed in [61, 62, 63] {
            let end = rescaled(&head, &random::uniform(seed, 20, d, -5.0, 5.0), &[15.0])?;
            let levels = along(&end[0], &phi);
            most_values = most_values.max(single_linkage(TokensRef::new(1, &levels), 1e-3).count());
        }
    }
    Ok(most_values as f64)
}

fn hyperplanes_times_polytope() -> Measured {
    let value = Matrix::from_rows("value", &[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -0.5]])?;
    let end = rescaled(&with_value(value)?, &random::uniform(64, 20, 3, -5.0, 5.0), &[12.0])?;
    Ok(dominance_defect(&end[0], 3, 2))
}

fn boolean() -> Measured {
    let kernel = AttentionKernel::softmax(1.0)?;
    let mut highest = 0;
    for seed in [65, 66, 67] {
        let end = rescaled(&Head::identity(1), &random::uniform(seed, 8, 1, -1.0, 1.0), &[10.0])?;
        let flow = RescaledFlow::new(Head::identity(1), kernel, 8)?;
        let weights = weights(&flow.projections(10.0, &end[0]), &kernel);
        let boolean = |i: usize| weights.row(i).iter().all(|p| p.min(1.0 - p) < 1e-12);
        if (0..8).filter(|i| !boolean(*i)).count() > 1 {
            return Ok(f64::INFINITY);
        }
        highest = highest.max(numerical_rank(&weights)?.rank);
    }
    Ok(highest as f64)
}

fn rank_one() -> Measured {
    let direction = Matrix::from_rows("direction", &[[0.6, 0.0, 0.8]])?;
    let head = Head::new(direction.clone(), direction.clone(), Matrix::scaled_identity(3, 1.0), None)?;
    let mut most_clusters = 0;
    for seed in [68, 69, 70] {
        let start = random::uniform(seed, 25, 3, -1.0, 1.0);
        let end = rescaled(&head, &start, &[18.0])?;
        most_clusters = most_clusters.max(single_linkage(TokensRef::new(3, &end[0]), 1e-3).count());
        let one_sided: Vec<f64> = start.iter().map(|x| x.abs()).collect();
        let end = rescaled(&head, &one_sided, &[18.0])?;
        if single_linkage(TokensRef::new(3, &end[0]), 1e-3).count() != 1 {
            return Ok(f64::INFINITY);
        }
    }
    Ok(most_clusters as f64)
}

fn long_run() -> Measured {
    let start = super::world::seed_42();
    let states = rescaled(&Head::identity(2), &start, &[60.0, 1e5])?;
    let mut worst = largest_difference(&states[0], &states[1]);
    // Under the adapter all tokens have joined one cluster long before; nothing may leave it again.
    let adapted = with_value(Matrix::from_rows("value", &[[1.0, 0.0], [0.0, 0.99]])?)?;
    let states = rescaled(&adapted, &start, &[200.0, 1e5])?;
    if single_linkage(TokensRef::new(2, &states[1]), 1e-6).count() != 1 {
        return Ok(f64::INFINITY);
    }
    worst = worst.max(largest_difference(&states[0], &states[1]));
    Ok(worst)
}
