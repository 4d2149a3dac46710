//! What is wrong is said; what is extreme is answered.

use super::*;
use crate::error::DynamicsError;
use crate::smoothness::{LanczosOptions, TwoSidedOptions, lipschitz, top_singular_triplet};
use crate::{Tokens, TokensRef};

fn solve(head: &Head, tokens: &[f64]) -> Result<crate::smoothness::TwoSided, DynamicsError> {
    let options = TwoSidedOptions::default();
    lipschitz(std::slice::from_ref(head), &softmax(Mask::Full), TokensRef::new(head.dim(), tokens), &options)
}

#[test]
fn tokens_with_nan_are_named() {
    let error = solve(&Head::identity(2), &[0.0, 1.0, f64::NAN, 2.0]).unwrap_err();
    assert_eq!(error.to_string(), "tokens: entry 2 is NaN, expected finite numbers");
}

#[test]
fn heads_of_another_dimension_and_no_heads_are_refused() {
    let wrong =
        lipschitz(&[Head::identity(3)], &softmax(Mask::Full), TokensRef::new(2, &[0.0; 4]), &Default::default());
    assert_eq!(wrong.unwrap_err().to_string(), "head: expected shape d = 2, found d = 3");
    let none = lipschitz(&[], &softmax(Mask::Full), TokensRef::new(2, &[0.0; 4]), &Default::default());
    assert_eq!(none.unwrap_err().to_string(), "head: expected at least one head, found 0");
}

#[test]
fn a_zero_value_matrix_has_the_constant_zero_from_both_sides() {
    let zero = Matrix::scaled_identity(2, 0.0);
    let head = Head::new(zero.clone(), zero.clone(), zero, None).unwrap();
    let found = solve(&head, &[0.3, 1.0, -2.0, 0.1]).unwrap();
    assert_eq!((found.lower(), found.upper.unwrap().value, found.triplet.residual), (0.0, 0.0, 0.0));
    assert!(found.triplet.converged);
    assert!(found.triplet.left.iter().all(|x| *x == 0.0));
}

#[test]
fn one_token_and_equal_tokens_have_the_norm_of_v_from_both_sides() {
    let head = head_of(&det(3, 3, 1.1, 0.8), &det(3, 3, 2.2, 0.9));
    let norm = head.value().operator_norm().unwrap();
    for count in [1, 2, 40] {
        let found = solve(&head, &[5.0, -1.0, 2.0].repeat(count)).unwrap();
        assert!((found.lower() - norm).abs() < 1e-13, "{count}");
        let upper = found.upper.unwrap();
        assert!(upper.value >= found.lower() && upper.value < norm * (1.0 + 1e-11), "{count}: {upper:?}");
        // Three-term and block-norm know it too: no direction but the mean is left.
        let certificates = found.certificates.unwrap();
        assert!(certificates.three_term < norm * (1.0 + 1e-9) && certificates.block_norm < norm * (1.0 + 1e-9));
    }
}

/// a = 1e6: e^a is beyond f64, its logarithm is not.
#[test]
fn bounds_beyond_f64_are_given_as_logarithms() {
    let found = solve(&Head::identity(2), &[1000.0, 0.0, 0.0, 1000.0, -1000.0, 0.0]).unwrap();
    let a_priori = found.a_priori.unwrap();
    let mean_field = a_priori.mean_field.unwrap();
    assert!(mean_field.value().is_infinite());
    assert!((mean_field.ln - (1e6 + 1e6_f64.ln_1p())).abs() < 1e-6, "{}", mean_field.ln);
    assert!(a_priori.unified.value().is_finite() && found.lower() <= found.upper.unwrap().value);
    // Every token watches one token: an arg-max map with in-degree 1.
    assert!((found.lower() - 1.0).abs() < 1e-12);
}

#[test]
fn scores_beyond_f64_are_one_clear_error() {
    let error = solve(&Head::identity(1), &[1e200, -1e200]).unwrap_err();
    assert_eq!(error.to_string(), "scores: expected attention scores within f64, found a score beyond f64");
}

#[test]
fn a_start_that_cannot_start_is_refused() {
    let map = Matrix::scaled_identity(2, 1.0);
    let start = |start: Vec<f64>| {
        let options = LanczosOptions { start: Some(start), ..Default::default() };
        top_singular_triplet(&map, &options).map(|top| top.value)
    };
    assert_eq!(start(vec![3.0, 4.0]).unwrap(), 1.0);
    assert!(start(vec![0.0, 0.0]).unwrap_err().to_string().contains("a finite vector other than 0"));
    assert!(start(vec![1.0]).unwrap_err().to_string().starts_with("start: expected shape [2]"));
    let steps = LanczosOptions { max_steps: 0, ..Default::default() };
    assert!(top_singular_triplet(&map, &steps).is_err());
    let tolerance = LanczosOptions { tolerance: f64::NAN, ..Default::default() };
    assert!(top_singular_triplet(&map, &tolerance).is_err());
}

#[test]
fn answers_are_equal_to_the_bit_on_any_number_of_threads() {
    let tokens = Tokens::new(3, random::standard_normal(5, 150, 3)).unwrap();
    let head = problem(3, 2, 3, 1.0, softmax(Mask::Full)).heads.remove(0);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| solve(&head, tokens.as_slice()).unwrap())
    };
    assert_eq!(run(1), run(3));
}
