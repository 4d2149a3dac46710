//! Laws that compare whole maps: measures, several heads, biases, last rows; each on a thousand random cases and more.

use proptest::prelude::*;

use super::*;
use crate::TokensRef;
use crate::field::VectorField;
use crate::linalg::{dot, norm};
use crate::measure::transport::wasserstein2;
use crate::smoothness::a_priori::{APriori, Norms};
use crate::smoothness::capped::{Cap, CappedHead};
use crate::smoothness::worst_case::{three_cluster_lower, two_point_lower, two_point_norm};

fn field(heads: &[Head], kernel: AttentionKernel, tokens: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; tokens.len()];
    flow(heads, kernel, tokens.len() / heads[0].dim()).evaluate(0.0, tokens, &mut out);
    out
}

/// A cap so wide that scores are what they are, with biases.
fn biased(head: &Head, mask: Mask, query_bias: &[f64], key_bias: &[f64], tokens: &[f64]) -> Matrix {
    let how = Cap { beta: 0.7, cap: f64::INFINITY, mask, query_bias, key_bias };
    dense(&CappedHead::new(head, how, TokensRef::new(head.dim(), tokens)).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// W_2(F µ, F ν) ≤ ‖M‖ (a + (1 + a) e^a) W_2(µ, ν) for clouds of equally many tokens: the mean-field bound as it is
    /// meant (theory 2.5).
    #[test]
    fn images_of_measures_are_no_farther_than_the_mean_field_bound(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, size in 0.05_f64..1.5, step in 0.01_f64..2.0) {
        let problem = problem(seed, n, d, size, softmax(Mask::Full));
        let shift = random::standard_normal(seed + 9, n, d);
        let moved: Vec<f64> = problem.tokens.iter().zip(&shift).map(|(x, e)| x + step * size * e).collect();
        let radius = problem.tokens.chunks(d).chain(moved.chunks(d)).map(norm).fold(0.0, f64::max);
        let bound = APriori::of(&Norms::of(&problem.heads[0], &problem.kernel).unwrap(), &problem.kernel, n, radius);
        let bound = bound.unwrap().mean_field.unwrap();
        let distance = |x: &[f64], y: &[f64]| {
            wasserstein2(TokensRef::new(d, x), TokensRef::new(d, y)).unwrap().distance
        };
        let images = [&problem.tokens, &moved].map(|x| field(&problem.heads, problem.kernel, x));
        let (before, after) = (distance(&problem.tokens, &moved), distance(&images[0], &images[1]));
        // Rounding of two optimal costs.
        prop_assert!((after.ln() - 1e-9) <= bound.ln + before.ln(), "{after} {before} {bound:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Theory 2.8: ‖Σ_h W_h D_h‖ ≤ ‖[W_1 … W_H]‖ (Σ L_h²)^{1/2} ≤ …, and ≤ Σ_h ‖W_h‖ L_h.
    #[test]
    fn constants_of_several_heads_are_below_both_sums(seed in 0_u64..1_000_000, n in 1_usize..6, d in 2_usize..5, causal in any::<bool>()) {
        let kernel = softmax(MASKS[usize::from(causal)]);
        let tokens = random::standard_normal(seed, n, d);
        let part = |h: u64, k: u64, rows, columns| matrix(seed + 10 * h + k, rows, columns, 1.0);
        let outputs: Vec<Matrix> = (1..3).map(|h| part(h, 4, d, d)).collect();
        let bare: Vec<Head> = (1..3)
            .map(|h| Head::new(part(h, 1, 2, d), part(h, 2, 2, d), part(h, 3, d, d), None).unwrap())
            .collect();
        let heads: Vec<Head> = bare
            .iter()
            .zip(&outputs)
            .map(|(head, output)| {
                Head::new(head.query().clone(), head.key().clone(), head.value().clone(), Some(output.clone())).unwrap()
            })
            .collect();
        let constants: Vec<f64> = bare.iter().map(|head| constant(std::slice::from_ref(head), kernel, &tokens)).collect();
        let joined = Matrix::from_fn(d, 2 * d, |i, j| outputs[j / d].at(i, j % d)).operator_norm().unwrap();
        let exact = constant(&heads, kernel, &tokens);
        let squares = joined * norm(&constants);
        let sum: f64 = outputs.iter().zip(&constants).map(|(w, l)| w.operator_norm().unwrap() * l).sum();
        // Rounding of dense decompositions.
        prop_assert!(exact <= squares * (1.0 + 1e-12) && exact <= sum * (1.0 + 1e-12), "{exact} {squares} {sum}");
    }

    /// A bias of keys adds the same to all scores of a row.
    #[test]
    fn biases_of_keys_change_nothing(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, causal in any::<bool>()) {
        let mask = MASKS[usize::from(causal)];
        let problem = problem(seed, n, d, 1.0, softmax(mask));
        let biases = random::standard_normal(seed + 7, 2, 2);
        let zero = biased(&problem.heads[0], mask, &biases[..2], &[0.0; 2], &problem.tokens);
        let shifted = biased(&problem.heads[0], mask, &biases[..2], &biases[2..], &problem.tokens);
        // Scores of size 10 lose ten eps by the shift; weights lose that, too.
        prop_assert!(zero.add_scaled(-1.0, &shifted).max_abs() <= 1e-12 * (1.0 + zero.max_abs()));
    }

    /// The last token sees everything, mask or not.
    #[test]
    fn the_last_row_does_not_know_the_mask(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, which in 0_usize..10) {
        let full = kernels()[2 * which];
        let problem = problem(seed, n, d, 0.7, full);
        let rows = |kernel: AttentionKernel| {
            let all = jacobian(&problem.heads, kernel, &problem.tokens);
            Matrix::from_fn(d, n * d, |i, j| all.at((n - 1) * d + i, j))
        };
        let (open, masked) = (rows(full), rows(full.masked(Mask::Causal)));
        prop_assert!(open.add_scaled(-1.0, &masked).max_abs() <= 1e-13 * (1.0 + open.max_abs()));
    }

    /// Theory 2.3 and 2.4 in closed form: the two-point norm is above its lower value, three clusters below the unified bound.
    #[test]
    fn closed_lower_values_are_below_closed_norms_and_bounds(r in 0.1_f64..3.0, gamma in 0.05_f64..3.0, n in 3_usize..5000, causal in any::<bool>()) {
        let places = [-r, r];
        let lower = two_point_lower(Mask::Full, places, -gamma, n);
        prop_assert!(lower <= two_point_norm(places, -gamma, n) * (1.0 + 1e-12));
        let mask = MASKS[usize::from(causal)];
        let head = head_of(&Matrix::scaled_identity(2, -gamma), &Matrix::scaled_identity(2, 1.0));
        let bound = APriori::of(&Norms::of(&head, &softmax(mask)).unwrap(), &softmax(mask), n, r).unwrap();
        for value in [two_point_lower(mask, places, -gamma, n), three_cluster_lower(mask, r, -gamma, n)] {
            prop_assert!(value.ln() <= bound.unified.ln + 1e-12 && value.ln() <= bound.general.unwrap().ln);
            prop_assert!(value.ln() <= bound.mean_field.unwrap().ln + 1e-12);
        }
    }

    /// What a certificate is for: |f(X + E) - f(X)| ≤ sup L·|E| on the way, here by the a-priori bound of the ball.
    #[test]
    fn differences_are_below_the_bound_of_the_ball(seed in 0_u64..1_000_000, n in 1_usize..6, d in 1_usize..4, step in 0.01_f64..1.0, causal in any::<bool>()) {
        let kernel = softmax(MASKS[usize::from(causal)]);
        let problem = problem(seed, n, d, 0.6, kernel);
        let shift = random::standard_normal(seed + 9, n, d);
        let moved: Vec<f64> = problem.tokens.iter().zip(&shift).map(|(x, e)| x + step * e).collect();
        let radius = problem.tokens.chunks(d).chain(moved.chunks(d)).map(norm).fold(0.0, f64::max);
        let bound = APriori::of(&Norms::of(&problem.heads[0], &kernel).unwrap(), &kernel, n, radius).unwrap();
        let [before, after] = [&problem.tokens, &moved].map(|x| field(&problem.heads, kernel, x));
        let difference: Vec<f64> = before.iter().zip(&after).map(|(a, b)| b - a).collect();
        let ratio = norm(&difference) / (step * dot(&shift, &shift).sqrt());
        prop_assert!(ratio.ln() <= bound.unified.ln + 1e-9, "{ratio} {bound:?}");
    }
}
