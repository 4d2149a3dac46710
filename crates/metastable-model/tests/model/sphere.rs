//! Blocks as attention on the sphere, and their Gaussian surrogate, against the forward pass they come from.

use std::path::Path;

use metastable_dynamics::Matrix;
use metastable_dynamics::linalg::{dot, norm};
use metastable_model::{Input, Model, SphereHeads};

use crate::world::{Noise, SMALL, World};

/// A BERT whose norms leave every token at length sqrt(d), without biases, and whose feed-forward layers do nothing;
/// attention's output maps scaled by `scale`.
fn world(scale: f32) -> World {
    let mut world = World::new(SMALL);
    world.fill("LayerNorm.weight", 1.0);
    world.fill("bias", 0.0);
    for (name, (_, values)) in &mut world.tensors {
        if name.ends_with("attention.output.dense.weight") {
            values.iter_mut().for_each(|w| *w *= scale);
        } else if name.ends_with("output.dense.weight") {
            values.fill(0.0);
        }
    }
    world
}

fn apply(matrix: &Matrix, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; matrix.rows()];
    matrix.apply(x, &mut y);
    y
}

/// P^h and Proj Σ_h Σ_j P^h_ij W_h V_h u_j straight from the definition.
fn field(placed: &SphereHeads) -> (Vec<Matrix>, Vec<Vec<f64>>) {
    let tokens: Vec<&[f64]> = placed.tokens.view().iter().collect();
    let n = tokens.len();
    let mut sums = vec![vec![0.0; tokens[0].len()]; n];
    let mut weights = Vec::new();
    for head in &placed.heads {
        let (queries, keys): (Vec<_>, Vec<_>) =
            tokens.iter().map(|u| (apply(head.query(), u), apply(head.key(), u))).unzip();
        let values: Vec<Vec<f64>> = tokens.iter().map(|u| apply(&head.output_value(), u)).collect();
        let score = |i: usize, j: usize| (placed.beta * dot(&queries[i], &keys[j])).exp();
        let found = Matrix::from_fn(n, n, |i, j| score(i, j) / (0..n).map(|k| score(i, k)).sum::<f64>());
        for (i, sum) in sums.iter_mut().enumerate() {
            for (j, value) in values.iter().enumerate() {
                sum.iter_mut().zip(value).for_each(|(sum, v)| *sum += found.at(i, j) * v);
            }
        }
        weights.push(found);
    }
    for (sum, u) in sums.iter_mut().zip(&tokens) {
        let along = dot(sum, u);
        sum.iter_mut().zip(*u).for_each(|(s, u)| *s -= along * u);
    }
    (weights, sums)
}

fn ids() -> Input {
    Input::new(Noise(3).ids(19, SMALL.vocab)).unwrap()
}

#[test]
fn weights_on_the_sphere_are_those_of_the_model_where_norms_leave_one_length() {
    let model = world(1.0).open().unwrap();
    let hidden = model.forward(&ids()).unwrap();
    let placed = model.sphere_heads(&hidden, 1).unwrap();
    assert!((placed.beta - 21.0).abs() < 1e-4, "|x|² = d: {}", placed.beta);
    assert_eq!(placed.time_per_layer, 1.0);
    let (weights, _) = field(&placed);
    for (h, found) in weights.iter().enumerate() {
        let exact = model.attention_weights(&hidden, 1, h).unwrap();
        for (x, y) in found.as_slice().iter().zip(exact.as_slice()) {
            // As in tests of attention weights: scores of some 30 rounded to f32.
            assert!((x - y).abs() < 4e-6, "head {h}: {x} {y}");
        }
    }
}

#[test]
fn a_block_is_one_step_of_the_flow_up_to_second_order_in_its_update() {
    let error = |scale: f32| -> (f64, f64) {
        let model = world(scale).open().unwrap();
        let hidden = model.forward(&ids()).unwrap();
        let placed = model.sphere_heads(&hidden, 1).unwrap();
        let (_, field) = field(&placed);
        let next = model.sphere_tokens(&hidden, 2).unwrap();
        let (mut errors, mut moves) = (0.0, 0.0);
        for ((u, f), v) in placed.tokens.view().iter().zip(&field).zip(next.view().iter()) {
            let difference: Vec<f64> = u.iter().zip(f).zip(v).map(|((u, f), v)| v - u - f).collect();
            errors += dot(&difference, &difference);
            moves += dot(f, f);
        }
        (errors.sqrt(), moves.sqrt())
    };
    let (coarse, coarse_move) = error(0.02);
    let (fine, fine_move) = error(0.01);
    assert!(coarse < 0.1 * coarse_move && coarse_move > 1e-3, "{coarse:e} of {coarse_move:e}");
    // Second order: a quarter, where first order would be a half.
    assert!(fine < 0.3 * coarse && fine_move > 0.45 * coarse_move, "{fine:e} {coarse:e}");
}

#[test]
fn gains_before_attention_become_columns_of_the_maps() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-llama"));
    let model = Model::open(folder).unwrap();
    let hidden = model.forward(&Input::new(vec![5, 40, 300]).unwrap()).unwrap();
    let placed = model.sphere_heads(&hidden, 2).unwrap();
    assert_eq!(placed.beta, 64.0);
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weight = |name: &str| -> Vec<f64> {
        let data = file.tensor(&format!("model.layers.2.{name}.weight")).unwrap().data();
        data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    let (gain, value) = (weight("input_layernorm"), weight("self_attn.v_proj"));
    let mut square = 0.0;
    for (token, u) in hidden.level(2).chunks_exact(64).zip(placed.tokens.view().iter()) {
        let token: Vec<f64> = token.iter().map(|x| f64::from(*x)).collect();
        square += dot(&token, &token) / 3.0;
        assert!(token.iter().zip(u).all(|(x, u)| (x / norm(&token) - u).abs() < 1e-12));
        let rms = (dot(&token, &token) / 64.0 + 1e-6).sqrt();
        let seen: Vec<f64> = token.iter().zip(&gain).map(|(x, g)| g * x / rms).collect();
        let exact = dot(&value[..64], &seen);
        let found = 8.0 * apply(placed.heads[0].value(), u)[0];
        // The norm's ε = 1e-6 beside mean squares of some 1e-2.
        assert!((found - exact).abs() < 1e-3 * exact.abs(), "{found} {exact}");
    }
    assert!((placed.time_per_layer - (64.0 / square).sqrt()).abs() < 1e-9);
}

#[test]
fn a_model_that_moves_nothing_has_a_surrogate_that_moves_nothing() {
    let mut world = world(0.0);
    world.fill("LayerNorm.bias", 0.0);
    let model = world.open().unwrap();
    let levels = model.gaussian_surrogate(&model.forward(&ids()).unwrap()).unwrap().unwrap();
    assert_eq!(levels.len(), 4);
    for level in levels {
        // f32 moments, and the square root of rounding in the distance.
        let small = 1e-4 * level.spread;
        assert!(level.composed < small && level.one_block.unwrap_or(0.0) < small, "{level:?}");
        assert!(level.moved.unwrap_or(0.0) < small, "{level:?}");
    }
}

#[test]
fn the_surrogate_predicts_small_updates_of_uniform_attention() {
    // Without queries every message is the mean value, which the surrogate knows exactly; what is left is the norm.
    let error = |scale: f32| {
        let mut world = world(scale);
        world.fill("query.weight", 0.0);
        let model = world.open().unwrap();
        model.gaussian_surrogate(&model.forward(&ids()).unwrap()).unwrap().unwrap()
    };
    for level in &error(0.05)[1..] {
        let (one, moved) = (level.one_block.unwrap(), level.moved.unwrap());
        assert!(one < 0.5 * moved, "{level:?}");
        assert!(level.one_block_covariance.unwrap() <= one);
    }
}
