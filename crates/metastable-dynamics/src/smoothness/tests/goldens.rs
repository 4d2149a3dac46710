//! Golden numbers of the theory dossier, section 5 [derived]: computed there in float64 with jax autograd and dense
//! SVDs, printed to 12 decimals.

use super::*;
use crate::smoothness::{LanczosOptions, top_singular_triplet};

/// The references are printed to 12 decimals.
const PRINTED: f64 = 1e-11;
/// Tolerance that the theory asks for.
const STATED: f64 = 1e-10;

fn golden_head() -> Head {
    head_of(&det(3, 3, 1.1, 0.8), &det(3, 3, 2.2, 0.9))
}

fn golden_tokens() -> Vec<f64> {
    det(5, 3, 0.3, 1.0).as_slice().to_vec()
}

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() < tolerance, "found {found:.15}, expected {expected:.15}");
}

/// The constant by the dense Jacobian and by Lanczos, which must agree.
fn both(heads: &[Head], kernel: AttentionKernel, tokens: &[f64]) -> f64 {
    let dense = constant(heads, kernel, tokens);
    let flow = flow(heads, kernel, tokens.len() / heads[0].dim());
    let map = FlowJacobian { flow: &flow, t: 0.0, state: tokens };
    let found = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
    // The error of a Ritz value is the square of its residual (1e-10) over the gap.
    close(found.value, dense, 1e-12 * (1.0 + dense));
    dense
}

#[test]
fn one_token_has_the_norm_of_the_value_matrix() {
    for mask in MASKS {
        close(both(&[golden_head()], softmax(mask), &[0.4, -7.0, 3.0]), 1.485177912216, PRINTED);
    }
}

#[test]
fn equal_tokens_and_scores_of_zero_have_the_norm_of_the_value_matrix() {
    let equal = [0.4, -7.0, 3.0].repeat(6);
    close(both(&[golden_head()], softmax(Mask::Full), &equal), 1.485177912216, PRINTED);
    let blind = head_of(&Matrix::scaled_identity(3, 0.0), &Matrix::scaled_identity(3, 1.0));
    close(both(&[blind], softmax(Mask::Full), &golden_tokens()), 1.0, 1e-14);
}

#[test]
fn causal_scores_of_zero_have_the_norm_of_the_running_mean() {
    let blind = head_of(&Matrix::scaled_identity(1, 0.0), &Matrix::scaled_identity(1, 1.0));
    let tabulated = [
        (2, 1.144122805635),
        (3, 1.221513004930),
        (4, 1.272287989759),
        (8, 1.379779041620),
        (16, 1.467708849119),
        (32, 1.539294338763),
        (64, 1.597854596706),
        (128, 1.646173162195),
        (256, 1.686427408000),
        (512, 1.720283314990),
        (1024, 1.749012422794),
    ];
    for (n, expected) in tabulated {
        let tokens: Vec<f64> = (0..n).map(|i| (i as f64).sin()).collect();
        let flow = flow(std::slice::from_ref(&blind), softmax(Mask::Causal), n);
        let map = FlowJacobian { flow: &flow, t: 0.0, state: &tokens };
        let found = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
        close(found.value, expected, STATED);
    }
    close(((3.0 + 5.0_f64.sqrt()) / 4.0).sqrt(), 1.144122805635, PRINTED);
}

#[test]
fn sigmoid_scores_of_zero_have_the_norm_of_their_weight() {
    let blind = head_of(&Matrix::scaled_identity(3, 0.0), &det(3, 3, 2.2, 0.9));
    let bias = -(5.0_f64.ln());
    // Weights here are averages over visible tokens: σ(b) in place of n σ(b) of the theory.
    let kernel = AttentionKernel::new(Score::Dot, Normalization::Sigmoid { bias }, Mask::Full, 1.0).unwrap();
    close(both(&[blind], kernel, &golden_tokens()) * 5.0, 5.0 / 6.0 * 1.485177912216, PRINTED);
}

#[test]
fn two_opposed_tokens_under_a_nilpotent_a_have_the_tabulated_constants() {
    let tokens = [0.0, 1.0, 0.0, -1.0];
    for (s, expected) in [(1.0, 1.618033988750), (10.0, 10.099019513593), (100.0, 100.00999900)] {
        let a = Matrix::from_rows("A", &[[0.0, 0.0], [s, 0.0]]).unwrap();
        let head = head_of(&a, &Matrix::scaled_identity(2, 1.0));
        close(both(&[head], softmax(Mask::Full), &tokens), expected, if s > 50.0 { 1e-8 } else { STATED });
    }
}

#[test]
fn golden_singular_values_products_and_norms() {
    let rows = [
        (
            Mask::Full,
            [2.747036943185, 2.469067074502, 2.152397481832, 1.961362871832],
            [5.396941191370, 5.015749001620, 3.960918189691, -7.073341315823],
        ),
        (
            Mask::Causal,
            [2.258053966333, 2.218878737535, 2.000001401262, 1.626028542698],
            [4.960317758346, 4.339924423181, 4.069494557150, -6.944881625174],
        ),
    ];
    let (e, g) = (det(5, 3, 0.7, 1.0), det(5, 3, 1.9, 1.0));
    for (mask, values, [frobenius, forward, backward, paired]) in rows {
        let d = jacobian(&[golden_head()], softmax(mask), &golden_tokens());
        for (found, expected) in d.singular_values().unwrap().iter().zip(values) {
            close(*found, expected, STATED);
        }
        close(d.frobenius_norm(), frobenius, STATED);
        let flow = flow(&[golden_head()], softmax(mask), 5);
        let (mut je, mut jg) = (vec![0.0; 15], vec![0.0; 15]);
        flow.jvp(0.0, &golden_tokens(), e.as_slice(), &mut je);
        flow.vjp(0.0, &golden_tokens(), g.as_slice(), &mut jg);
        close(crate::linalg::norm(&je), forward, STATED);
        close(crate::linalg::norm(&jg), backward, STATED);
        close(crate::linalg::dot(&je, g.as_slice()), paired, STATED);
        both(&[golden_head()], softmax(mask), &golden_tokens());
    }
}

#[test]
fn golden_constants_of_scaled_and_longer_clouds() {
    let scaled = [
        (Mask::Full, [1.947061977448, 4.775697145376, 11.389868333180], 2.551184296042),
        (Mask::Causal, [1.890119779607, 3.533143767547, 1.513513858482], 3.256444265442),
    ];
    for (mask, values, long) in scaled {
        for (t, expected) in [0.5, 2.0, 4.0].into_iter().zip(values) {
            let tokens: Vec<f64> = golden_tokens().iter().map(|x| t * x).collect();
            close(both(&[golden_head()], softmax(mask), &tokens), expected, STATED);
        }
        close(both(&[golden_head()], softmax(mask), det(64, 3, 0.3, 1.0).as_slice()), long, STATED);
    }
}

#[test]
fn golden_constants_of_distance_and_sigmoid_kernels() {
    let w = det(2, 3, 0.4, 0.7);
    let tied = Head::new(w.clone(), w, det(3, 3, 2.2, 0.9), None).unwrap();
    for (mask, expected) in [(Mask::Full, 1.550786164425), (Mask::Causal, 1.655137076734)] {
        let kernel = AttentionKernel::new(Score::SquaredDistance, Normalization::Softmax, mask, 0.4).unwrap();
        close(both(std::slice::from_ref(&tied), kernel, &golden_tokens()), expected, STATED);
    }
    // Without a mask our average over five tokens is the theory's sum divided by five.
    let sigmoid = Normalization::Sigmoid { bias: -(5.0_f64.ln()) };
    let kernel = AttentionKernel::new(Score::Dot, sigmoid, Mask::Full, 1.0).unwrap();
    close(5.0 * both(&[golden_head()], kernel, &golden_tokens()), 4.529374417077, STATED);
    // Under a mask the theory sums where we average over i tokens: rows of the Jacobian times i.
    let kernel = AttentionKernel::new(Score::Dot, sigmoid, Mask::Causal, 1.0).unwrap();
    let averaged = jacobian(&[golden_head()], kernel, &golden_tokens());
    let summed = Matrix::from_fn(15, 15, |r, c| averaged.at(r, c) * (r / 3 + 1) as f64);
    close(summed.operator_norm().unwrap(), 3.542459698579, STATED);
}

#[test]
fn golden_constants_of_two_heads_without_biases_agree_between_blocks_and_products() {
    // The golden multi-head case, with its biases, stands in `stored`; without them the blocks are the second opinion.
    let head = |h: f64| {
        let (query, key, value) = (det(2, 3, 0.1 + h, 1.0), det(2, 3, 0.5 + h, 1.0), det(2, 3, 0.9 + h, 1.0));
        Head::new(query, key, value, Some(det(3, 2, 1.3 + h, 1.0))).unwrap()
    };
    let heads = [head(0.0), head(1.0)];
    for mask in MASKS {
        let kernel = AttentionKernel::softmax(0.5_f64.sqrt()).unwrap().masked(mask);
        let tokens = golden_tokens();
        let view = crate::TokensRef::new(3, &tokens);
        let terms: Vec<_> = heads
            .iter()
            .map(|h| crate::smoothness::head_terms::HeadTerms::new(h, &kernel, view).unwrap().unwrap())
            .collect();
        let d = jacobian(&heads, kernel, &tokens);
        for (i, j) in (0..5).flat_map(|i| (0..5).map(move |j| (i, j))) {
            let block = terms[0].block(i, j).add_scaled(1.0, &terms[1].block(i, j));
            for (r, c) in (0..3).flat_map(|r| (0..3).map(move |c| (r, c))) {
                // Sums of a dozen products of numbers of order 1.
                close(block.at(r, c), d.at(3 * i + r, 3 * j + c), 1e-14);
            }
        }
        both(&heads, kernel, &tokens);
    }
}
