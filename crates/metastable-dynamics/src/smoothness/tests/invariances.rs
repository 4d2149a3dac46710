//! Exact laws of the constant, each on a thousand random cases.

use proptest::prelude::*;

use super::*;
use crate::TokensRef;
use crate::smoothness::head_terms::HeadTerms;

/// Rounding of a dense SVD of at most 36 numbers a side, relative to the norm.
const SVD: f64 = 1e-12;

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= SVD * expected.abs().max(1e-3)
}

/// An orthogonal matrix: eigenvectors of a random symmetric one.
fn orthogonal(seed: u64, d: usize) -> Matrix {
    let m = matrix(seed, d, d, 1.0);
    Matrix::from_fn(d, d, |i, j| m.at(i, j) + m.at(j, i)).symmetric_eigen().unwrap().1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// D of (cX, A/c²) is D of (X, A).
    #[test]
    fn scaling_tokens_against_scores_changes_nothing(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, c in 0.1_f64..10.0, causal in any::<bool>()) {
        let problem = problem(seed, n, d, 1.0, softmax(MASKS[usize::from(causal)]));
        let scaled: Vec<f64> = problem.tokens.iter().map(|x| c * x).collect();
        let kernel = AttentionKernel::softmax(1.0 / (c * c)).unwrap().masked(problem.kernel.mask());
        prop_assert!(close(constant(&problem.heads, kernel, &scaled), problem.constant()));
    }

    #[test]
    fn permuted_tokens_have_the_same_constant(seed in 0_u64..1_000_000, n in 2_usize..6, d in 1_usize..4, shift in 1_usize..5) {
        let problem = problem(seed, n, d, 1.0, softmax(Mask::Full));
        let mut turned = problem.tokens.clone();
        turned.rotate_left(d * (shift % n));
        prop_assert!(close(constant(&problem.heads, problem.kernel, &turned), problem.constant()));
    }

    /// X → X O, Q → Q O, K → K O, V → Oᵀ V O.
    #[test]
    fn rotated_problems_have_the_same_constant(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, causal in any::<bool>()) {
        let problem = problem(seed, n, d, 1.0, softmax(MASKS[usize::from(causal)]));
        let o = orthogonal(seed + 9, d);
        let [head] = &problem.heads[..] else { unreachable!() };
        let value = o.transpose().multiply(head.value()).multiply(&o);
        let turned = Head::new(head.query().multiply(&o), head.key().multiply(&o), value, None).unwrap();
        let tokens = Matrix::new("x", n, d, problem.tokens.clone()).unwrap().multiply(&o);
        prop_assert!(close(constant(&[turned], problem.kernel, tokens.as_slice()), problem.constant()));
    }

    #[test]
    fn the_value_matrix_scales_the_constant(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, factor in -5.0_f64..5.0, which in 0_usize..20) {
        let problem = problem(seed, n, d, 1.0, kernels()[which]);
        let [head] = &problem.heads[..] else { unreachable!() };
        let scaled = Head::new(head.query().clone(), head.key().clone(), head.value().scaled(factor), None).unwrap();
        prop_assert!(close(constant(&[scaled], problem.kernel, &problem.tokens), factor.abs() * problem.constant()));
    }

    /// L(X repeated r times) = max(L(X), max_i ‖V Cov_i A‖): mean-field consistency.
    #[test]
    fn duplicated_clouds_obey_the_duplication_law(seed in 0_u64..1_000_000, n in 1_usize..5, d in 1_usize..4, r in 2_usize..4, size in 0.3_f64..3.0) {
        let problem = problem(seed, n, d, size, softmax(Mask::Full));
        let terms = HeadTerms::new(&problem.heads[0], &problem.kernel, TokensRef::new(d, &problem.tokens)).unwrap().unwrap();
        let query = (0..n).map(|i| terms.query_block(i).operator_norm().unwrap()).fold(0.0, f64::max);
        let repeated = problem.tokens.repeat(r);
        prop_assert!(close(constant(&problem.heads, problem.kernel, &repeated), problem.constant().max(query)));
    }

    /// The Jacobian of the first m tokens is the leading principal block.
    #[test]
    fn causal_constants_never_fall_with_the_length_of_the_prefix(seed in 0_u64..1_000_000, n in 2_usize..7, d in 1_usize..4, which in 0_usize..10) {
        let kernel = kernels()[2 * which].masked(Mask::Causal);
        let problem = problem(seed, n, d, 1.0, kernel);
        let whole = jacobian(&problem.heads, kernel, &problem.tokens);
        let mut before = 0.0;
        for m in 1..=n {
            let prefix = jacobian(&problem.heads, kernel, &problem.tokens[..m * d]);
            for (i, j) in (0..m * d).flat_map(|i| (0..m * d).map(move |j| (i, j))) {
                // The same sums, in lanes of other lengths.
                prop_assert!((prefix.at(i, j) - whole.at(i, j)).abs() <= 1e-13 * (1.0 + whole.max_abs()));
            }
            let now = prefix.operator_norm().unwrap();
            prop_assert!(now >= before * (1.0 - SVD), "{now} < {before}");
            before = now;
        }
    }

    /// t → 0: scores vanish, L → ‖V‖, and ‖C_n‖‖V‖ under the mask, with an error of order t².
    #[test]
    fn small_clouds_forget_their_scores(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, causal in any::<bool>()) {
        let mask = MASKS[usize::from(causal)];
        let problem = problem(seed, n, d, 1e-4, softmax(mask));
        let blind = Head::new(matrix(1, 2, d, 0.0), matrix(2, 2, d, 0.0), problem.heads[0].value().clone(), None).unwrap();
        let limit = constant(&[blind], problem.kernel, &problem.tokens);
        // t² = 1e-8, times norms of A and squares of normal tokens of up to a few hundred.
        prop_assert!((problem.constant() / limit - 1.0).abs() < 1e-5);
    }

    /// Split over paths: value + query + key is the product, for every kernel.
    #[test]
    fn the_three_paths_add_up_to_the_product(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, which in 0_usize..20) {
        let problem = problem(seed, n, d, 1.0, kernels()[which]);
        let direction = random::standard_normal(seed + 8, n, d);
        let terms = HeadTerms::new(&problem.heads[0], &problem.kernel, TokensRef::new(d, &problem.tokens)).unwrap().unwrap();
        let [value, query, key] = terms.paths(&direction);
        let mut product = vec![0.0; n * d];
        flow(&problem.heads, problem.kernel, n).jvp(0.0, &problem.tokens, &direction, &mut product);
        let size = [&value, &query, &key].iter().flat_map(|path| path.iter()).fold(1.0_f64, |m, x| m.max(x.abs()));
        for (i, product) in product.iter().enumerate() {
            // Sums of a dozen products, measured by the largest term: exponential weights may be large.
            prop_assert!((value[i] + query[i] + key[i] - product).abs() <= 1e-12 * size);
        }
    }
}

/// Golden prefix constants of the theory's section 5 [derived].
#[test]
fn golden_prefix_constants_of_the_causal_map() {
    let head = head_of(&det(3, 3, 1.1, 0.8), &det(3, 3, 2.2, 0.9));
    let tokens = det(5, 3, 0.3, 1.0);
    for (m, expected) in (1..).zip([1.485178, 2.130220, 2.217322, 2.228409, 2.258054]) {
        let found = constant(std::slice::from_ref(&head), softmax(Mask::Causal), &tokens.as_slice()[..3 * m]);
        assert!((found - expected).abs() < 5e-7, "{m}: {found}");
    }
}

/// t → ∞: rows become one-hot and L → ‖V‖ √(largest in-degree).
#[test]
fn large_clouds_have_the_constant_of_their_largest_in_degree() {
    for (seed, mask) in (0..40).flat_map(|seed| MASKS.map(|mask| (seed, mask))) {
        let problem = problem(100 * seed, 9, 3, 1.0, softmax(mask));
        let projections = flow(&problem.heads, problem.kernel, 9).projections(0, 0.0, &problem.tokens);
        let followed = crate::attention::statistics::followed(&projections, mask);
        let degree = (0..9).map(|j| followed.iter().filter(|l| **l == j).count()).max().unwrap();
        let limit = problem.heads[0].value().operator_norm().unwrap() * (degree as f64).sqrt();
        // Weights off the arg-max are e^{-t² gap}; t = 1e4 leaves none of them.
        let large: Vec<f64> = problem.tokens.iter().map(|x| 1e4 * x).collect();
        assert!((constant(&problem.heads, problem.kernel, &large) / limit - 1.0).abs() < 1e-12, "seed {seed} {mask:?}");
    }
}
