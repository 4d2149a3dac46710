//! Golden numbers of `scripts/golden/lipschitz.py`: jax autograd in float64 and float32, NumPy's dense SVD.

use std::collections::BTreeMap;

use super::*;
use crate::TokensRef;
use crate::smoothness::capped::{Cap, CappedHead};
use crate::smoothness::{LanczosOptions, LinearMap, top_singular_triplet};

const WORDS: [(&str, Mask); 2] = [("full", Mask::Full), ("causal", Mask::Causal)];

/// name → numbers.
fn golden() -> BTreeMap<String, Vec<f64>> {
    let lines = include_str!("golden.txt").lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        (name, words.map(|word| word.parse().unwrap()).collect())
    };
    lines.map(parse).collect()
}

fn golden_head() -> Head {
    head_of(&det(3, 3, 1.1, 0.8), &det(3, 3, 2.2, 0.9))
}

fn close(found: &[f64], expected: &[f64], tolerance: f64, name: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let size = expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * size, "{name}: {found} {expected}");
    }
}

#[test]
fn products_and_singular_values_are_those_of_jax() {
    let stored = golden();
    for (word, mask) in WORDS {
        let (tokens, flow) = (det(5, 3, 0.3, 1.0), flow(&[golden_head()], softmax(mask), 5));
        let map = FlowJacobian { flow: &flow, t: 0.0, state: tokens.as_slice() };
        let at = |name: &str| &stored[&format!("{name}.{word}")];
        let mut out = vec![0.0; 15];
        // Sums of a dozen products in f64 on both sides.
        map.apply(det(5, 3, 0.7, 1.0).as_slice(), &mut out);
        close(&out, at("forward"), 1e-14, word);
        map.apply_transposed(det(5, 3, 1.9, 1.0).as_slice(), &mut out);
        close(&out, at("backward"), 1e-14, word);
        close(&dense(&map).singular_values().unwrap(), at("singular_values"), 1e-13, word);
        for t in ["0.01", "0.5", "2.0", "4.0"] {
            let scale: f64 = t.parse().unwrap();
            let scaled = tokens.scaled(scale);
            let found = constant(&[golden_head()], softmax(mask), scaled.as_slice());
            close(&[found], at(&format!("scaled_{t}")), 1e-13, t);
        }
        for (m, expected) in (1..).zip(at("prefixes")) {
            let found = constant(&[golden_head()], softmax(mask), &tokens.as_slice()[..3 * m]);
            close(&[found], &[*expected], 1e-13, "prefixes");
        }
    }
}

/// Biases as a coordinate that is always one: theory's two heads with biases in all four maps, section 5.
#[test]
fn golden_constants_of_two_heads_with_biases() {
    let stored = golden();
    let beside = |matrix: Matrix, bias: Matrix| {
        Matrix::from_fn(matrix.rows(), 4, |i, j| if j < 3 { matrix.at(i, j) } else { bias.at(0, i) })
    };
    let head = |h: f64| {
        let [query, key, value] = [(0.1, 0.2), (0.5, 0.6), (0.9, 1.0)]
            .map(|(matrix, bias)| beside(det(2, 3, matrix + h, 1.0), det(1, 2, bias + h, 1.0)));
        let output = det(3, 2, 1.3 + h, 1.0);
        let output = Matrix::from_fn(4, 2, |i, j| if i < 3 { output.at(i, j) } else { 0.0 });
        Head::new(query, key, value, Some(output)).unwrap()
    };
    let plain = det(5, 3, 0.3, 1.0);
    let tokens = Matrix::from_fn(5, 4, |i, j| if j < 3 { plain.at(i, j) } else { 1.0 });
    for ((word, mask), printed) in WORDS.into_iter().zip([2.967969059338, 2.929350038018]) {
        let kernel = AttentionKernel::softmax(0.5_f64.sqrt()).unwrap().masked(mask);
        let all = jacobian(&[head(0.0), head(1.0)], kernel, tokens.as_slice());
        // The constant coordinate does not move.
        let moving = Matrix::from_fn(15, 15, |r, c| all.at(4 * (r / 3) + r % 3, 4 * (c / 3) + c % 3));
        let found = moving.singular_values().unwrap();
        close(&found, &stored[&format!("multi_head.{word}")], 1e-13, word);
        // Printed to 12 decimals.
        assert!((found[0] - printed).abs() < 1e-11, "{word}: {}", found[0]);
    }
}

#[test]
fn products_agree_with_single_precision_autograd_to_1e_minus_5() {
    let stored = golden();
    let single =
        |matrix: Matrix| Matrix::from_fn(matrix.rows(), matrix.columns(), |i, j| f64::from(matrix.at(i, j) as f32));
    let [x, e, g] = [0.3, 0.7, 1.9].map(|k| single(det(12, 4, k, 1.0)));
    let head =
        Head::new(single(det(3, 4, 0.5, 1.0)), single(det(3, 4, 0.9, 1.0)), single(det(4, 4, 1.3, 1.0)), None).unwrap();
    for (word, mask) in WORDS {
        let kinds = [
            ("softmax", Score::Dot, Normalization::Softmax),
            ("distance", Score::SquaredDistance, Normalization::Softmax),
            ("sigmoid", Score::Dot, Normalization::Sigmoid { bias: -1.0 }),
        ];
        for (name, score, normalization) in kinds {
            let kernel = AttentionKernel::new(score, normalization, mask, f64::from(0.7_f32)).unwrap();
            let flow = flow(std::slice::from_ref(&head), kernel, 12);
            let map = FlowJacobian { flow: &flow, t: 0.0, state: x.as_slice() };
            let (mut forward, mut back, mut cotangent) = (vec![0.0; 48], vec![0.0; 48], g.as_slice().to_vec());
            map.apply(e.as_slice(), &mut forward);
            if let Normalization::Sigmoid { .. } = normalization {
                // Sums there, means over visible tokens here: rows are divided by their number.
                let counts = (0..12).map(|i| mask.visible(i, 12) as f64);
                for ((forward, cotangent), count) in forward.chunks_mut(4).zip(cotangent.chunks_mut(4)).zip(counts) {
                    forward.iter_mut().chain(cotangent).for_each(|x| *x *= count);
                }
            }
            map.apply_transposed(&cotangent, &mut back);
            close(&forward, &stored[&format!("single.{name}.forward.{word}")], 1e-5, name);
            close(&back, &stored[&format!("single.{name}.backward.{word}")], 1e-5, name);
        }
    }
}

/// n·d = 1500 on three shapes and both masks.
#[test]
fn lanczos_agrees_with_dense_decompositions_of_1500_dimensions_to_1e_minus_8() {
    let stored = golden();
    for (word, mask) in WORDS {
        for (n, d, name, score) in
            [(100, 15, "dot", Score::Dot), (150, 10, "dot", Score::Dot), (60, 25, "distance", Score::SquaredDistance)]
        {
            let [query, key, value] = [1.1, 0.4, 2.2].map(|k| det(d, d, k, 1.5 / (d as f64).sqrt()));
            let head = Head::new(query, key, value, None).unwrap();
            let kernel = AttentionKernel::new(score, Normalization::Softmax, mask, 0.5).unwrap();
            let (flow, tokens) = (flow(&[head], kernel, n), det(n, d, 0.3, 1.0));
            let map = FlowJacobian { flow: &flow, t: 0.0, state: tokens.as_slice() };
            assert_eq!(map.inputs(), 1500);
            let found = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
            let expected = stored[&format!("dense.{n}.{d}.{name}.{word}")][0];
            assert!((found.value / expected - 1.0).abs() < 1e-8, "{n} {d} {word}: {} {expected}", found.value);
        }
    }
}

fn capped(mask: Mask, cap: f64) -> CappedHead {
    let how = Cap { beta: 1.0, cap, mask, query_bias: &[0.0; 3], key_bias: &[0.0; 3] };
    CappedHead::new(&golden_head(), how, TokensRef::new(3, det(5, 3, 0.3, 1.0).as_slice())).unwrap()
}

#[test]
fn products_of_capped_scores_are_those_of_jax() {
    let stored = golden();
    for (word, mask) in WORDS {
        let (map, mut out) = (capped(mask, 0.5), vec![0.0; 15]);
        map.apply(det(5, 3, 0.7, 1.0).as_slice(), &mut out);
        close(&out, &stored[&format!("soft_cap_forward.{word}")], 1e-14, word);
        map.apply_transposed(det(5, 3, 1.9, 1.0).as_slice(), &mut out);
        close(&out, &stored[&format!("soft_cap_backward.{word}")], 1e-14, word);
        close(&dense(&map).singular_values().unwrap(), &stored[&format!("soft_cap.{word}")], 1e-13, word);
    }
}

#[test]
fn without_a_cap_a_capped_head_is_a_head() {
    for mask in MASKS {
        let plain = jacobian(&[golden_head()], softmax(mask), det(5, 3, 0.3, 1.0).as_slice());
        let found = dense(&capped(mask, f64::INFINITY));
        // The same sums in another order.
        assert!(found.add_scaled(-1.0, &plain).max_abs() < 1e-14, "{mask:?}");
    }
}

/// ⟨G, J E⟩ = ⟨Jᵀ G, E⟩ with biases, a narrow head and an output map, on a thousand random problems.
#[test]
fn products_of_capped_scores_are_transposes() {
    for seed in 0..1000 {
        let (n, d) = (1 + seed as usize % 6, 1 + seed as usize % 4);
        let [query, key, value] = [1, 2, 3].map(|k| matrix(10 * seed + k, 2, d, 1.0));
        let head = Head::new(query, key, value, Some(matrix(10 * seed + 4, d, 2, 1.0))).unwrap();
        let biases = random::standard_normal(10 * seed + 5, 2, 2);
        let tokens = random::standard_normal(10 * seed + 6, n, d);
        let mask = MASKS[seed as usize % 2];
        let cap = 0.2 + (seed % 7) as f64;
        let how = Cap { beta: 0.7, cap, mask, query_bias: &biases[..2], key_bias: &biases[2..] };
        let map = CappedHead::new(&head, how, TokensRef::new(d, &tokens)).unwrap();
        let [e, g] = [7, 8].map(|k| random::standard_normal(10 * seed + k, n, d));
        let (mut forward, mut back) = (vec![0.0; n * d], vec![0.0; n * d]);
        map.apply(&e, &mut forward);
        map.apply_transposed(&g, &mut back);
        let dot = crate::linalg::dot;
        let scale = 1.0 + dot(&forward, &forward).sqrt() * dot(&g, &g).sqrt();
        assert!((dot(&g, &forward) - dot(&back, &e)).abs() < 1e-13 * scale, "seed {seed}");
    }
}

#[test]
fn caps_that_are_none_and_biases_of_another_length_are_refused() {
    let tokens = det(5, 3, 0.3, 1.0);
    let refused = |cap, query_bias: &[f64]| {
        let how = Cap { beta: 1.0, cap, mask: Mask::Full, query_bias, key_bias: &[0.0; 3] };
        CappedHead::new(&golden_head(), how, TokensRef::new(3, tokens.as_slice())).unwrap_err().to_string()
    };
    assert_eq!(refused(0.0, &[0.0; 3]), "cap: expected a positive number, found 0");
    assert_eq!(refused(1.0, &[0.0; 2]), "query bias: expected shape [3], found [2]");
}
