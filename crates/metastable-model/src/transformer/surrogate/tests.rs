use metastable_dynamics::Matrix;

use super::*;

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state as f32 / 4_294_967_296.0 - 0.5
    };
    (0..count).map(|_| draw()).collect()
}

fn linear(outputs: usize, inputs: usize, seed: u32) -> Linear {
    Linear::from_parts(noise(outputs * inputs, seed), Some(noise(outputs, seed + 100)), outputs, inputs)
}

fn dense(map: &Linear) -> Matrix {
    let entries = map.rows().iter().map(|w| f64::from(*w)).collect();
    Matrix::new("map", map.outputs(), map.inputs(), entries).unwrap()
}

fn apply(map: &Linear, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; map.outputs()];
    dense(map).apply(x, &mut y);
    y.iter().zip(map.bias().unwrap()).map(|(y, b)| y + f64::from(*b)).collect()
}

/// The softmax message of one head at x under N(m, Σ): W V (m + Σ Kᵀ (Q x + b_q)/sqrt(k)) + constants, with dense Σ.
#[test]
fn attention_is_the_dense_formula_of_the_softmax_mean() {
    let (d, k, heads, kv_heads) = (6, 2, 4, 2);
    let map = |outputs, inputs, seed| linear(outputs, inputs, seed);
    let layer = Attention {
        query: map(heads * k, d, 1),
        key: map(kv_heads * k, d, 2),
        value: map(kv_heads * k, d, 3),
        output: map(d, heads * k, 4),
        query_norm: None,
        key_norm: None,
        heads,
        kv_heads,
        head_dim: k,
    };
    let moments = Moments { mean: noise(d, 5), factor: noise(3 * d, 6) };
    let found = attention(&layer, &MeanTurn { pairs: None }, &moments);
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let (mean, factor) = (wide(&moments.mean), wide(&moments.factor));
    let covariance = Matrix::from_fn(d, d, |i, j| (0..3).map(|r| factor[r * d + i] * factor[r * d + j]).sum());
    // The field at a point, from its definition.
    let field = |x: &[f64]| -> Vec<f64> {
        let queries = apply(&layer.query, x);
        let mut messages = Vec::new();
        for head in 0..heads {
            let group = head / 2;
            let mut tilt = mean.clone();
            for i in 0..k {
                let key = dense(&layer.key);
                let mut image = vec![0.0; d];
                covariance.apply(key.row(group * k + i), &mut image);
                let weight = queries[head * k + i] / (k as f64).sqrt();
                tilt.iter_mut().zip(image).for_each(|(t, x)| *t += weight * x);
            }
            messages.extend_from_slice(&apply(&layer.value, &tilt)[group * k..(group + 1) * k]);
        }
        apply(&layer.output, &messages)
    };
    let at_mean = field(&mean);
    for (found, exact) in found.mean.iter().zip(&at_mean) {
        assert!((f64::from(*found) - exact).abs() < 1e-6, "{found} {exact}");
    }
    // The field is affine: its change along a direction is the image of that direction.
    for r in 0..3 {
        let shifted: Vec<f64> = mean.iter().zip(&factor[r * d..]).map(|(m, l)| m + l).collect();
        for (j, (after, before)) in field(&shifted).iter().zip(&at_mean).enumerate() {
            assert!((f64::from(found.factor[r * d + j]) - (after - before)).abs() < 1e-6, "{r} {j}");
        }
    }
}

/// Σ of moments, dense.
fn covariance(moments: &Moments) -> Vec<f64> {
    let d = moments.mean.len();
    let rows: Vec<Vec<f64>> =
        moments.factor.chunks_exact(d).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
    (0..d * d).map(|at| rows.iter().map(|row| row[at / d] * row[at % d]).sum()).collect()
}

fn assert_close(found: &[f64], exact: &[f64], tolerance: f64) {
    let size = exact.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
    for (found, exact) in found.iter().zip(exact) {
        assert!((found - exact).abs() <= tolerance * size, "{found} {exact}, of {size}");
    }
}

#[test]
fn many_tokens_have_the_moments_of_no_more_rows_than_dimensions() {
    let (n, d) = (300, 7);
    let mut tokens = noise(n * d, 21);
    // A direction without spread, as a LayerNorm leaves one, and one with a thousandth of the others'.
    for token in tokens.chunks_exact_mut(d) {
        (token[3], token[5]) = (0.5, 1e-3 * token[5] + token[0]);
    }
    let (whole, few) = (Moments::of_every_token(&tokens, d), Moments::of(&tokens, d));
    assert_eq!((whole.factor.len() / d, few.factor.len() / d, &few.mean), (n, d - 1, &whole.mean));
    // Entries in f32, each rounded to 2^-24.
    assert_close(&covariance(&few), &covariance(&whole), 3e-7);
    // One point, many times: no spread, and still a matrix.
    let point = Moments::of(&[1.0, 2.0].repeat(9), 2);
    assert_eq!((point.mean, point.factor), (vec![1.0, 2.0], vec![0.0, 0.0]));
}

#[test]
fn what_becomes_of_moments_does_not_depend_on_the_rows_of_their_factor() {
    let (n, d, k) = (40, 6, 2);
    let layer = Attention {
        query: linear(2 * k, d, 1),
        key: linear(2 * k, d, 2),
        value: linear(2 * k, d, 3),
        output: linear(d, 2 * k, 4),
        query_norm: None,
        key_norm: None,
        heads: 2,
        kv_heads: 2,
        head_dim: k,
    };
    let (gate, up, down) = (linear(9, d, 5), linear(9, d, 6), linear(d, 9, 7));
    let block = |x: &Moments| {
        let mut y = x.clone();
        y.add(&attention(&layer, &MeanTurn { pairs: None }, x));
        let y = normed(&Norm::from_parts(NormKind::LayerNorm, noise(d, 8), noise(d, 9), 1e-12), &y);
        bent(Activation::Silu, &y.through(&gate), Some(&y.through(&up))).through(&down)
    };
    let tokens = noise(n * d, 22);
    let (whole, few) = (block(&Moments::of_every_token(&tokens, d)), block(&Moments::of(&tokens, d)));
    assert_eq!((whole.factor.len(), few.factor.len()), (n * d, d * d));
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    // Sums of tens of f32 products.
    assert_close(&wide(&few.mean), &wide(&whole.mean), 2e-6);
    assert_close(&covariance(&few), &covariance(&whole), 5e-6);
}

#[test]
fn normalising_tokens_of_one_length_is_exact() {
    let d = 5;
    // Tokens whose centred part has length 2.
    let mut tokens = noise(4 * d, 9);
    for token in tokens.chunks_exact_mut(d) {
        let mean = token.iter().sum::<f32>() / d as f32;
        token.iter_mut().for_each(|x| *x -= mean);
        let length = token.iter().map(|x| x * x).sum::<f32>().sqrt();
        token.iter_mut().for_each(|x| *x = 2.0 * *x / length + 0.3);
    }
    for kind in [NormKind::LayerNorm, NormKind::RmsNorm] {
        let norm = Norm::from_parts(kind, noise(d, 11), noise(d, 12), 1e-12);
        let (found, exact) = (normed(&norm, &Moments::of(&tokens, d)), Moments::of(&norm.map(&tokens), d));
        let pairs = found.mean.iter().zip(&exact.mean).chain(found.factor.iter().zip(&exact.factor));
        pairs.for_each(|(x, y)| assert!((x - y).abs() < 2e-6, "{kind:?}: {x} {y}"));
    }
}

/// (2π)^{-1/2} e^{-x²/2}.
fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
}

/// The distribution function of N(0, 1) at three points (tables).
const DISTRIBUTION: [(f64, f64); 3] = [(0.0, 0.5), (1.0, 0.841_344_746_068_542_9), (-0.5, 0.308_537_538_725_986_9)];

#[test]
fn gaussian_means_of_activations_are_those_of_their_closed_forms() {
    for (x, phi) in DISTRIBUTION {
        for deviation in [0.3, 1.0, 2.5] {
            // E[u Φ(u)] = m Φ(x) + s²/r φ(x) with r = sqrt(1 + s²), x = m/r: integrate by parts.
            let r = (1.0_f64 + deviation * deviation).sqrt();
            let mean = x * r;
            let [value, slope, _] = gaussian_means(Activation::Gelu, mean, deviation);
            let exact = mean * phi + deviation * deviation / r * density(x);
            // Values in f32, of size up to the mean and 6 deviations.
            assert!((value - exact).abs() < 2e-6, "{x} {deviation}: {value} {exact}");
            // d/dm of the same: E σ'(u) = Φ(x) + m φ(x)/r - s²/r² x φ(x).
            let exact = phi + mean * density(x) / r - (deviation / r).powi(2) * x * density(x);
            assert!((slope - exact).abs() < 1e-5, "{x} {deviation}: {slope} {exact}");
            // A rectifier has a kink, where the rule is of second order in its spacing of 1/4.
            let mean = x * deviation;
            let [value, slope, curvature] = gaussian_means(Activation::Relu, mean, deviation);
            let exact = [mean * phi + deviation * density(x), phi, density(x) / deviation];
            assert!((value - exact[0]).abs() < 0.01 * deviation, "{x} {deviation}: {value} {exact:?}");
            assert!((slope - exact[1]).abs() < 0.03 && (curvature - exact[2]).abs() < 0.05 / deviation, "{slope}");
        }
    }
}

#[test]
fn a_gated_entry_has_the_mean_and_slopes_of_the_product() {
    // σ nearly linear around a large mean: SiLU(u) = u there, so the product is u w of a Gaussian pair.
    let u = Moments { mean: vec![60.0], factor: vec![0.8, 0.0] };
    let w = Moments { mean: vec![3.0], factor: vec![0.5, 1.2] };
    let found = bent(Activation::Silu, &u, Some(&w));
    assert!((found.mean[0] - (180.0 + 0.4)).abs() < 1e-3, "E uw = E u E w + cov: {found:?}");
    // E w along u's directions and E u along w's.
    let exact = [3.0 * 0.8 + 60.0 * 0.5, 60.0 * 1.2];
    found.factor.iter().zip(exact).for_each(|(x, y)| assert!((x - y).abs() < 1e-3, "{found:?}"));
}

#[test]
fn the_mean_turn_of_a_causal_pair_is_that_of_its_three_pairs() {
    use crate::config::{Rotary, RotaryScaling};
    let rotary = Rotary { theta: 10.0, scaling: RotaryScaling::None };
    let rotation = crate::transformer::rotation::Rotation::new(&rotary, None, 4, 2);
    let layer = Attention {
        query: linear(4, 4, 1),
        key: linear(4, 4, 2),
        value: linear(4, 4, 3),
        output: linear(4, 4, 4),
        query_norm: None,
        key_norm: None,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
    };
    let scene = Scene { keep: &[true, true], rotation: Some(&rotation), lookback: Some(usize::MAX) };
    let turns = MeanTurn::of(&layer, &scene).pairs.unwrap();
    for ((cosine, sine), w) in turns.iter().zip([1.0_f32, 10.0_f32.powf(-0.5)]) {
        // Twice the same place, once a key one place before its query.
        assert!((cosine - (2.0 + w.cos()) / 3.0).abs() < 1e-6 && (sine + w.sin() / 3.0).abs() < 1e-6);
    }
}

#[test]
fn the_mean_turn_is_the_mean_over_all_pairs_that_see_each_other() {
    use crate::config::{Rotary, RotaryScaling};
    let (n, pairs) = (17, 3);
    let rotary = Rotary { theta: 50.0, scaling: RotaryScaling::None };
    let rotation = crate::transformer::rotation::Rotation::new(&rotary, None, 2 * pairs, n);
    let layer = Attention {
        query: linear(6, 6, 1),
        key: linear(6, 6, 2),
        value: linear(6, 6, 3),
        output: linear(6, 6, 4),
        query_norm: None,
        key_norm: None,
        heads: 1,
        kv_heads: 1,
        head_dim: 6,
    };
    let keep: Vec<bool> = (0..n).map(|i| i % 5 != 3).collect();
    // All tokens, those before, and the last four.
    for lookback in [None, Some(usize::MAX), Some(3)] {
        let scene = Scene { keep: &keep, rotation: Some(&rotation), lookback };
        let turns = MeanTurn::of(&layer, &scene).pairs.unwrap();
        for (pair, (cosine, sine)) in turns.iter().enumerate() {
            let frequency = 50.0_f64.powf(-(pair as f64) / pairs as f64);
            let seen = (0..n).flat_map(|i| scene.visible(i).map(move |j| (i, j)));
            let angles: Vec<f64> =
                seen.filter(|(i, j)| keep[*i] && keep[*j]).map(|(i, j)| frequency * (j as f64 - i as f64)).collect();
            let mean = |f: fn(f64) -> f64| angles.iter().map(|angle| f(*angle)).sum::<f64>() / angles.len() as f64;
            // Cosines and sines are stored in f32.
            assert!((f64::from(*cosine) - mean(f64::cos)).abs() < 1e-6, "{lookback:?} {pair}");
            assert!((f64::from(*sine) - mean(f64::sin)).abs() < 1e-6, "{lookback:?} {pair}");
        }
    }
}
