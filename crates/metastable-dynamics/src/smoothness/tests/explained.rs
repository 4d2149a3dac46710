//! Explanations add up, ascent climbs, sweeps are monotone.

use proptest::prelude::*;

use super::*;
use crate::smoothness::ascent::{AscentOptions, ascend, gradient};
use crate::smoothness::explain::{explain, value_path_lower};
use crate::smoothness::head_terms::HeadTerms;
use crate::smoothness::scaling::{PowerLaw, large_radius_limit, prefix_constants};
use crate::smoothness::worst_case::{two_point_norm, two_points};
use crate::smoothness::{LanczosOptions, top_singular_triplet};
use crate::{Tokens, TokensRef};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn shares_of_heads_and_paths_add_up_to_the_constant(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, which in 0_usize..20) {
        let mut problem = problem(seed, n, d, 1.0, kernels()[which]);
        problem.heads.push(head_of(&matrix(seed + 7, d, d, 0.5), &matrix(seed + 8, d, d, 0.5)));
        let flow = flow(&problem.heads, problem.kernel, n);
        let map = FlowJacobian { flow: &flow, t: 0.0, state: &problem.tokens };
        let top = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
        let view = TokensRef::new(d, &problem.tokens);
        let terms: Vec<_> =
            problem.heads.iter().map(|h| HeadTerms::new(h, &problem.kernel, view).unwrap().unwrap()).collect();
        let found = explain(&terms, &top).unwrap();
        let shares: f64 = found.heads.iter().map(|head| head.total()).sum();
        let size: f64 = found.heads.iter().map(|head| head.value.abs() + head.query.abs() + head.key.abs()).sum();
        // Sums of a dozen products of the shares' size.
        prop_assert!((shares - top.value).abs() <= 1e-12 * (size + top.value), "{shares} {}", top.value);
        if top.value > 0.0 {
            let (moved, answering): (f64, f64) = (found.moved.iter().sum(), found.answering.iter().sum());
            prop_assert!((moved - 1.0).abs() < 1e-12 && (answering - 1.0).abs() < 1e-12);
        }
        for sink in &found.sinks {
            // ‖P‖_2 is not below √(Σ_i P_ij²), which meets √mass where all of a column is 1.
            prop_assert!(sink.weights_norm >= 0.0);
        }
    }

    /// k = 2 and d = 6: kernels of Q and K meet in two dimensions at least.
    #[test]
    fn the_value_path_alone_is_below_the_constant(seed in 0_u64..1_000_000, n in 1_usize..5, size in 0.1_f64..3.0, which in 0_usize..20) {
        let problem = problem(seed, n, 6, size, kernels()[which]);
        let terms = HeadTerms::new(&problem.heads[0], &problem.kernel, TokensRef::new(6, &problem.tokens)).unwrap().unwrap();
        let lower = value_path_lower(&problem.heads[0], &terms).unwrap();
        prop_assert!(lower <= problem.constant() * (1.0 + 1e-12), "{lower} {}", problem.constant());
        if problem.kernel.normalization() == Normalization::Softmax {
            let weights = terms.weights();
            let column = |j: usize| (0..n).map(|i| weights.at(i, j).powi(2)).sum::<f64>();
            let largest = (0..n).map(column).fold(0.0, f64::max).sqrt();
            prop_assert!(lower > 0.0 && terms.weights().operator_norm().unwrap() >= largest * (1.0 - 1e-13));
        }
    }

    #[test]
    fn sweeps_of_causal_prefixes_never_fall_and_find_the_constants(seed in 0_u64..1_000_000, d in 1_usize..4) {
        sweeps_find_the_constants(seed, d);
    }
}

/// Singular values 1.907721520809 and 1.907721520376 of two tokens, nearer to each other than the tolerance tells apart.
#[test]
fn sweeps_past_nearly_equal_singular_values_find_one_of_them() {
    sweeps_find_the_constants(819_243, 2);
}

fn sweeps_find_the_constants(seed: u64, d: usize) {
    let problem = problem(seed, 6, d, 1.0, softmax(Mask::Causal));
    let view = TokensRef::new(d, &problem.tokens);
    let found = prefix_constants(&problem.heads, &problem.kernel, view, &[1, 2, 4, 6], &Default::default()).unwrap();
    for prefix in &found {
        let exact =
            jacobian(&problem.heads, problem.kernel, &problem.tokens[..prefix.count * d]).singular_values().unwrap();
        // The residual of 1e-10 bounds the distance to the nearest singular value, and is the product of a gap and of the
        // part of the upper vector: a warm start with a fresh part of 0.1 over a few coordinates leaves no gap above 1e-8.
        let nearest = exact.iter().map(|s| (s - prefix.value).abs()).fold(f64::INFINITY, f64::min);
        assert!(nearest <= 1.01e-10 * exact[0], "seed {seed}: {prefix:?} {exact:?}");
        assert!(
            prefix.value <= exact[0] * (1.0 + 1e-13) && prefix.value >= exact[0] * (1.0 - 1e-8),
            "seed {seed}: {prefix:?}"
        );
    }
    for pair in found.windows(2) {
        assert!(pair[1].value >= pair[0].value * (1.0 - 1e-8), "seed {seed}: {found:?}");
    }
}

#[test]
fn the_gradient_is_the_slope_of_the_constant() {
    for mask in MASKS {
        let problem = problem(77, 4, 3, 0.7, softmax(mask));
        let flow = flow(&problem.heads, problem.kernel, 4);
        let solve = |tokens: &[f64]| {
            let options = LanczosOptions { tolerance: 1e-13, ..Default::default() };
            top_singular_triplet(&FlowJacobian { flow: &flow, t: 0.0, state: tokens }, &options).unwrap()
        };
        let pair = solve(&problem.tokens);
        let slope = gradient(&flow, &problem.tokens, &pair);
        let direction = random::standard_normal(5, 4, 3);
        let along = |h: f64| -> f64 {
            let moved: Vec<f64> = problem.tokens.iter().zip(&direction).map(|(x, e)| x + h * e).collect();
            solve(&moved).value
        };
        let h = 1e-4;
        let expected = (along(h) - along(-h)) / (2.0 * h);
        // h² times a third derivative of order 10, and rounding 1e-13 / h.
        assert!((crate::linalg::dot(&slope, &direction) - expected).abs() < 1e-5, "{mask:?}: {expected}");
    }
}

/// A = -I, R = 2, n = 8: the theory's ascent found 7.998, two points have 2.690.
#[test]
fn ascent_beats_both_constructions_and_stays_below_the_bound() {
    let head = head_of(&Matrix::scaled_identity(2, -1.0), &Matrix::scaled_identity(2, 1.0));
    let kernel = softmax(Mask::Full);
    let flow = flow(std::slice::from_ref(&head), kernel, 8);
    let three = crate::smoothness::worst_case::three_cluster(&head, &kernel, 2.0, 8).unwrap().unwrap();
    // Off the symmetric cloud, where the gradient of a repeated singular value would not be defined.
    let nearby: Vec<f64> =
        three.tokens.as_slice().iter().zip(random::standard_normal(1, 8, 2)).map(|(x, z)| x + 0.05 * z).collect();
    let found = ascend(&flow, &Tokens::new(2, nearby).unwrap(), 2.0, &AscentOptions::default()).unwrap();
    assert!(found.value > 7.99, "{}", found.value);
    assert!(found.history.windows(2).all(|pair| pair[1] > pair[0]));
    assert!(found.tokens.view().iter().all(|token| crate::linalg::norm(token) <= 2.0 * (1.0 + 1e-15)));
    assert!(two_point_norm([-2.0, 2.0], -1.0, 8) < 2.7);
    let unified = 4.0 + 5.0 * (8.0 / (1.0 + 7.0 * (-8.0_f64).exp())).sqrt();
    assert!(found.value < unified);
    assert!(ascend(&flow, &three.tokens, 0.0, &AscentOptions::default()).is_err());
}

#[test]
fn two_points_are_fitted_by_the_root_of_n() {
    let head = head_of(&Matrix::scaled_identity(3, -1.0), &Matrix::scaled_identity(3, 1.0));
    let points: Vec<(f64, f64)> = (2..=64_usize)
        .map(|n| {
            let case = two_points(&head, &softmax(Mask::Full), 3.0, n).unwrap().unwrap();
            (n as f64 - 1.0, case.lower)
        })
        .collect();
    let law = PowerLaw::fit(&points).unwrap();
    // p = 1 up to n e^{-18} = 1e-6.
    assert!((law.exponent - 0.5).abs() < 1e-5 && law.interval[0] < 0.5 + 1e-5, "{law:?}");
    assert!(PowerLaw::fit(&points[..2]).is_none() && PowerLaw::fit(&[(1.0, 1.0); 5]).is_none());
}

/// A noisy line of known parts: the interval is half as wide again as 1.96 standard errors for five points.
#[test]
fn the_interval_of_an_exponent_uses_students_quantile() {
    let noise = [0.1, -0.2, 0.05, 0.15, -0.1];
    let points: Vec<(f64, f64)> =
        noise.iter().enumerate().map(|(i, e)| ((i as f64).exp(), (0.25 * i as f64 + e).exp())).collect();
    let law = PowerLaw::fit(&points).unwrap();
    // By hand: slope .25 + (-2·.1 + .2 + .15 - 2·.1)/10 = .245, residual sum of squares .08475 (mean 0, slope -.005).
    assert!((law.exponent - 0.245).abs() < 1e-12, "{law:?}");
    let standard_error = (0.08475_f64 / 3.0 / 10.0).sqrt();
    assert!((law.interval[1] - law.exponent - 3.182446 * standard_error).abs() < 1e-9, "{law:?}");
}

#[test]
fn the_large_radius_limit_is_reached() {
    for seed in 0..20 {
        let problem = problem(100 * seed, 9, 3, 1.0, softmax(Mask::Full));
        let limit = large_radius_limit(&problem.heads[0], &problem.kernel, TokensRef::new(3, &problem.tokens)).unwrap();
        let large: Vec<f64> = problem.tokens.iter().map(|x| 1e4 * x).collect();
        // Weights off the arg-max are e^{-t² gap}.
        assert!((constant(&problem.heads, problem.kernel, &large) / limit - 1.0).abs() < 1e-12);
    }
}
