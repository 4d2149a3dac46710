//! lower ≤ ‖D‖_2 ≤ every bound, on a thousand random cases a kernel family: no violation allowed.

use proptest::prelude::*;

use super::*;
use crate::TokensRef;
use crate::smoothness::a_priori::{APriori, Norms};
use crate::smoothness::block_norm::Block;
use crate::smoothness::certificates::Certificates;
use crate::smoothness::head_terms::HeadTerms;
use crate::smoothness::nonnegative::spectral_norm_upper;
use crate::smoothness::{TwoSidedOptions, lipschitz};

/// The oracle itself is a dense SVD with a relative rounding of some eps·(n d).
const SVD: f64 = 1e-12;

fn certificates(problem: &Problem) -> Certificates {
    let view = TokensRef::new(problem.d, &problem.tokens);
    let terms: Vec<_> =
        problem.heads.iter().map(|head| HeadTerms::new(head, &problem.kernel, view).unwrap().unwrap()).collect();
    Certificates::of(&terms).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_certificate_is_above_the_constant(seed in 0_u64..1_000_000, n in 1_usize..7, d in 1_usize..4, size in 0.05_f64..4.0, which in 0_usize..20) {
        let problem = problem(seed, n, d, size, kernels()[which]);
        let exact = problem.constant() * (1.0 - SVD);
        let found = certificates(&problem);
        prop_assert!(found.three_term >= exact, "three-term {} < {exact}", found.three_term);
        prop_assert!(found.block_norm >= exact, "block norm {} < {exact}", found.block_norm);
        prop_assert!(found.frobenius >= exact, "frobenius {} < {exact}", found.frobenius);
    }

    #[test]
    fn certificates_of_two_heads_are_above_the_constant(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, which in 0_usize..20) {
        let mut problem = problem(seed, n, d, 1.0, kernels()[which]);
        let narrow = |k: u64, rows, columns| matrix(seed + k, rows, columns, 1.0);
        problem.heads.push(Head::new(narrow(5, 1, d), narrow(6, 1, d), narrow(7, 2, d), Some(narrow(8, d, 2))).unwrap());
        let (exact, found) = (problem.constant() * (1.0 - SVD), certificates(&problem));
        prop_assert!(found.three_term >= exact && found.block_norm >= exact && found.frobenius >= exact, "{found:?} {exact}");
        let frobenius = jacobian(&problem.heads, problem.kernel, &problem.tokens).frobenius_norm();
        prop_assert!((found.frobenius / frobenius - 1.0).abs() < 1e-11, "{} {frobenius}", found.frobenius);
    }

    /// 2.2 and its relatives for the other kernels: on the ball through the farthest token.
    #[test]
    fn a_priori_bounds_are_above_the_constant(seed in 0_u64..1_000_000, n in 1_usize..7, d in 1_usize..4, size in 0.05_f64..2.0, which in 0_usize..20) {
        let problem = problem(seed, n, d, size, kernels()[which]);
        let radius = problem.tokens.chunks(d).map(crate::linalg::norm).fold(0.0, f64::max);
        let norms = Norms::of(&problem.heads[0], &problem.kernel).unwrap();
        let found = APriori::of(&norms, &problem.kernel, n, radius).unwrap();
        let exact = problem.constant().ln() - SVD;
        prop_assert!(found.unified.ln >= exact, "unified {} < {exact}", found.unified.ln);
        if let (Some(general), Some(mean_field)) = (found.general, found.mean_field) {
            prop_assert!(general.ln >= exact && mean_field.ln >= exact);
            prop_assert!(mean_field.ln >= found.unified.ln - SVD || problem.kernel.mask() == Mask::Causal);
        }
    }

    #[test]
    fn two_sided_answers_enclose_the_constant(seed in 0_u64..1_000_000, n in 1_usize..7, d in 1_usize..4, size in 0.05_f64..4.0, which in 0_usize..20) {
        let problem = problem(seed, n, d, size, kernels()[which]);
        // Exponentials of scores beyond 709 are infinite, and no constant is; of scores below -708 they have few digits.
        prop_assume!(jacobian(&problem.heads, problem.kernel, &problem.tokens).max_abs() < 1e300);
        const FEW_DIGITS: f64 = f64::MIN_POSITIVE;
        // Once with the dense bound, once without.
        for dense_limit in [0, 100] {
            let options = TwoSidedOptions { dense_limit, ..Default::default() };
            let found = lipschitz(&problem.heads, &problem.kernel, TokensRef::new(d, &problem.tokens), &options).unwrap();
            let (exact, upper) = (problem.constant(), found.upper.unwrap());
            prop_assert!(found.lower() <= exact * (1.0 + SVD) + FEW_DIGITS && exact * (1.0 - SVD) <= upper.value + FEW_DIGITS);
            prop_assert!(found.lower() <= upper.value, "{} {upper:?}", found.lower());
            // A singular value lies no farther from a Ritz value than its residual, of 1e-10. It is the largest, or one of
            // those that are as large but for the exponentially small pull of tokens that hardly see each other.
            let values = jacobian(&problem.heads, problem.kernel, &problem.tokens).singular_values().unwrap();
            let nearest = values.iter().map(|value| (found.lower() - value).abs()).fold(f64::INFINITY, f64::min);
            prop_assert!(nearest <= 1.01e-10 * exact + FEW_DIGITS, "{} {values:?}", found.lower());
            prop_assert!(exact - found.lower() <= 1e-8 * exact + FEW_DIGITS, "{} {exact}", found.lower());
        }
    }

    #[test]
    fn norms_of_nonnegative_matrices_are_bounded_and_nearly_attained(seed in 0_u64..1_000_000, rows in 1_usize..8, columns in 1_usize..8, sparse in 0.0_f64..1.5) {
        let m = matrix(seed, rows, columns, 1.0);
        let nonnegative = Matrix::from_fn(rows, columns, |i, j| if m.at(i, j).abs() < sparse { 0.0 } else { m.at(i, j).abs() });
        let (found, exact) = (spectral_norm_upper(&nonnegative), nonnegative.operator_norm().unwrap());
        prop_assert!(found >= exact * (1.0 - SVD), "{found} < {exact}");
        // Power iteration of 300 steps leaves little where the second value is near the first.
        prop_assert!(found <= exact * (1.0 + 5e-3), "{found} > {exact}");
    }

    #[test]
    fn block_norms_are_those_of_the_blocks(seed in 0_u64..1_000_000, d in 1_usize..6, weight in 0.0_f64..1.0) {
        let (u, w) = (random::standard_normal(seed, 1, d), random::standard_normal(seed + 1, 1, d));
        let mut sigma: Vec<f64> = random::uniform(seed + 2, 1, d, 0.0, 2.0);
        sigma.sort_by(f64::total_cmp);
        let pulled: Vec<f64> = sigma.iter().zip(&u).map(|(s, u)| s * u).collect();
        let squares: Vec<f64> = sigma.iter().map(|s| s * s).collect();
        let largest = [squares[d - 1], if d > 1 { squares[d - 2] } else { 0.0 }];
        let block = Block { squares: &squares, largest, weight, pulled: &pulled, size: crate::linalg::dot(&u, &u), along: &w };
        let dense = Matrix::from_fn(d, d, |i, j| u[i] * w[j] + if i == j { weight * sigma[i] } else { 0.0 });
        let (found, exact) = (block.norm_upper(), dense.operator_norm().unwrap());
        // Squares of what the block is added up from are rounded: √(8 eps) of it where everything cancels.
        let pieces = weight * sigma[d - 1] + crate::linalg::norm(&u) * crate::linalg::norm(&w);
        prop_assert!(found >= exact * (1.0 - SVD) && found <= exact * (1.0 + 1e-9) + 5e-8 * pieces, "{found} {exact}");
    }

    /// ‖diag p - p pᵀ‖_2 ≤ p_(1) (1 - p_(1) + p_(2)) ≤ 1/2.
    #[test]
    fn softmax_row_jacobians_obey_their_bound(seed in 0_u64..1_000_000, n in 2_usize..8, sharp in 0.1_f64..6.0) {
        let scores = random::standard_normal(seed, 1, n);
        let total: f64 = scores.iter().map(|s| (sharp * s).exp()).sum();
        let mut p: Vec<f64> = scores.iter().map(|s| (sharp * s).exp() / total).collect();
        let row = Matrix::from_fn(n, n, |i, j| if i == j { p[i] - p[i] * p[i] } else { -p[i] * p[j] });
        p.sort_by(|a, b| b.total_cmp(a));
        let bound = p[0] * (1.0 - p[0] + p[1]);
        let exact = row.operator_norm().unwrap();
        // p - p² near p = 1 is known to eps.
        prop_assert!(exact <= bound * (1.0 + SVD) + 1e-15 && bound <= 0.5 + SVD && exact >= 0.85 * bound - 1e-15, "{exact} {bound}");
    }
}

/// Translating all tokens under A = 0 moves the output measure by V t: W_2(F)/W_2 = |V t|/|t|.
#[test]
fn translated_clouds_move_by_the_value_matrix() {
    let head = head_of(&Matrix::scaled_identity(3, 0.0), &det(3, 3, 2.2, 0.9));
    let tokens = random::standard_normal(4, 6, 3);
    let step = [0.3, -1.0, 0.4];
    let direction = step.repeat(6);
    let mut moved = vec![0.0; 18];
    flow(std::slice::from_ref(&head), softmax(Mask::Full), 6).jvp(0.0, &tokens, &direction, &mut moved);
    let mut image = [0.0; 3];
    head.value().apply(&step, &mut image);
    let (found, expected) = (crate::linalg::norm(&moved) / 6.0_f64.sqrt(), crate::linalg::norm(&image));
    assert!((found - expected).abs() < 1e-14, "{found} {expected}");
}

/// The paper's data-dependent formula as coded is no bound: √2 for every s, the constant grows like s [code].
#[test]
fn the_published_data_dependent_formula_is_no_bound() {
    for (s, constant_at_s) in [(1.0, 1.618033988750), (100.0, 100.00999900)] {
        let a = Matrix::from_rows("A", &[[0.0, 0.0], [s, 0.0]]).unwrap();
        let tokens = [[0.0, 1.0], [0.0, -1.0]];
        // R_h = max |A x_i| = 0, so that √(R_h² r² (n + 1) + n) = √n.
        let mut image = [0.0; 2];
        let largest = tokens
            .iter()
            .map(|x| {
                a.apply(x, &mut image);
                crate::linalg::norm(&image)
            })
            .fold(0.0, f64::max);
        let published = (largest * largest * 4.0 * 3.0 + 2.0_f64).sqrt();
        let head = head_of(&a, &Matrix::scaled_identity(2, 1.0));
        let problem = Problem { heads: vec![head], kernel: softmax(Mask::Full), tokens: tokens.concat(), n: 2, d: 2 };
        assert!((problem.constant() - constant_at_s).abs() < 1e-8);
        assert!(published < problem.constant() - 0.2);
        assert!(certificates(&problem).block_norm >= problem.constant() * (1.0 - SVD));
    }
}
