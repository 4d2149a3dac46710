//! Lanczos against dense decompositions, and beside the authors' rule.

use proptest::prelude::*;

use super::*;
use crate::smoothness::{LanczosOptions, PowerRule, power_iteration, top_singular_triplet};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn lanczos_finds_the_largest_singular_value(seed in 0_u64..1_000_000, rows in 1_usize..9, columns in 1_usize..9, size in -200_f64..200.0) {
        let map = matrix(seed, rows, columns, 10_f64.powf(size));
        let top = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
        let exact = matrix(seed, rows, columns, 1.0).operator_norm().unwrap() * 10_f64.powf(size);
        prop_assert!(top.converged);
        // The dimension is exhausted or the residual is 1e-10, of which the error is about the square.
        prop_assert!((top.value / exact - 1.0).abs() < 1e-13, "{} {exact}", top.value);
        let mut image = vec![0.0; rows];
        map.apply(&top.right, &mut image);
        for (image, u) in image.iter().zip(&top.left) {
            prop_assert!((image / exact - u).abs() < 1e-7);
        }
    }

    #[test]
    fn ritz_values_never_fall_and_never_exceed_the_norm(seed in 0_u64..1_000_000, n in 1_usize..7, d in 1_usize..4) {
        let problem = problem(seed, n, d, 1.0, softmax(Mask::Full));
        let flow = flow(&problem.heads, problem.kernel, n);
        let map = FlowJacobian { flow: &flow, t: 0.0, state: &problem.tokens };
        let options = LanczosOptions { tolerance: 0.0, ..Default::default() };
        let top = top_singular_triplet(&map, &options).unwrap();
        let exact = problem.constant();
        for pair in top.history.windows(2) {
            prop_assert!(pair[1] >= pair[0] * (1.0 - 1e-14));
        }
        prop_assert!(top.value <= exact * (1.0 + 1e-13), "{} {exact}", top.value);
    }
}

/// The six shapes n·d = 1024 … 1536 on which the theory counted steps, with its recipe: standard normal tokens and matrices.
fn reference_shapes() -> Vec<(Problem, Mask)> {
    let shape = |seed, n: usize, d: usize, mask| {
        let scale = 1.0 / (d as f64).sqrt();
        let head = head_of(&matrix(seed, d, d, scale), &matrix(seed + 1, d, d, scale));
        let tokens = random::standard_normal(seed + 2, n, d);
        (Problem { heads: vec![head], kernel: softmax(mask), tokens, n, d }, mask)
    };
    vec![
        shape(10, 64, 16, Mask::Full),
        shape(20, 64, 16, Mask::Causal),
        shape(30, 32, 32, Mask::Full),
        shape(40, 48, 32, Mask::Causal),
        shape(50, 128, 8, Mask::Full),
        shape(60, 96, 16, Mask::Causal),
    ]
}

#[test]
fn lanczos_reaches_1e_minus_6_within_fifteen_steps_on_the_reference_shapes() {
    for (problem, mask) in reference_shapes() {
        let flow = flow(&problem.heads, problem.kernel, problem.n);
        let map = FlowJacobian { flow: &flow, t: 0.0, state: &problem.tokens };
        let options = LanczosOptions { tolerance: 1e-10, ..Default::default() };
        let top = top_singular_triplet(&map, &options).unwrap();
        let steps = 1 + top.history.iter().position(|value| top.value - value <= 1e-6 * top.value).unwrap();
        let power = power_iteration(&map, &PowerRule::as_published()).unwrap();
        let shape = (problem.n, problem.d, mask);
        assert!(steps <= 15, "{shape:?}: {steps} steps");
        assert!(top.converged && power.value <= top.value * (1.0 + 1e-12), "{shape:?}");
        assert!(power.iterations > steps, "{shape:?}: {power:?} beside {steps} steps");
    }
}

/// σ_1, σ_2 and σ_3 are within 12 % of each other: a loose rule stops at the wrong one.
#[test]
fn the_published_rule_stops_early_where_singular_values_are_close() {
    let head = head_of(&det(3, 3, 1.1, 0.8), &det(3, 3, 2.2, 0.9));
    let tokens = det(5, 3, 0.3, 1.0);
    let flow = flow(&[head], softmax(Mask::Causal), 5);
    let map = FlowJacobian { flow: &flow, t: 0.0, state: tokens.as_slice() };
    let top = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
    assert!((top.value - 2.258053966333).abs() < 1e-10, "{}", top.value);
    let power = power_iteration(&map, &PowerRule::as_published()).unwrap();
    assert!(top.value - power.value > 1e-7 && power.iterations > top.steps, "{power:?} {}", top.steps);
}

#[test]
fn the_absolute_rule_is_blind_below_its_threshold() {
    // Two values 0.005 and 0.004: µ differs by less than 1e-4 from 0 at once.
    let map = Matrix::from_rows("J", &[[5e-3, 0.0], [0.0, 4e-3]]).unwrap();
    let power = power_iteration(&map, &PowerRule { seed: 3, ..PowerRule::as_published() }).unwrap();
    let top = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
    assert!((top.value - 5e-3).abs() < 1e-16);
    assert!(power.iterations == 1 && power.value < 4.999e-3, "{power:?}");
}

#[test]
fn the_probable_upper_value_holds_for_a_hundred_seeds() {
    let (problem, _) = reference_shapes().swap_remove(0);
    let flow = flow(&problem.heads, problem.kernel, problem.n);
    let map = FlowJacobian { flow: &flow, t: 0.0, state: &problem.tokens };
    let exact = top_singular_triplet(&map, &LanczosOptions { tolerance: 1e-12, ..Default::default() }).unwrap().value;
    for seed in 0..100 {
        let options = LanczosOptions { tolerance: 0.0, max_steps: 8, seed, start: None };
        let top = top_singular_triplet(&map, &options).unwrap();
        // At one failure in a hundred about one of these may fail; the bound is far from sharp, and none does.
        let upper = crate::smoothness::probable_upper(top.value, 1024, top.steps, 0.01).unwrap();
        assert!(upper >= exact, "seed {seed}: {upper} < {exact}");
    }
}
