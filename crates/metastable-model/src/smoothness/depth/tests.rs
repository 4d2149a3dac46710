use std::path::Path;

use metastable_dynamics::random;
use metastable_dynamics::smoothness::linear_map::dense;

use super::*;
use crate::lora::{Adapter, Strictness};
use crate::model::Input;
use crate::transformer::reverse::tests::fixture;

/// All families' choices, and a model under an adapter of PEFT.
fn models() -> Vec<(String, Model)> {
    let plain = ["qwen3", "mistral-window", "llama-biases", "gpt2-narrow", "roberta", "distilbert", "albert-groups"];
    let mut models: Vec<(String, Model)> = plain.iter().map(|name| (name.to_string(), fixture(name))).collect();
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adapters/llama-patterns");
    let adapter = Adapter::open(&adapter, Strictness::Closed).unwrap();
    let adapted = fixture("tiny-llama").with_adapter(&adapter, Strictness::Closed).unwrap().model;
    models.push(("tiny-llama with an adapter".into(), adapted));
    models
}

fn hidden(model: &Model) -> Hidden {
    model.forward(&Input::new(vec![5, 9, 6, 12]).unwrap()).unwrap()
}

#[test]
fn composed_products_are_products_of_the_blocks_and_transposes_of_each_other() {
    for (name, model) in models() {
        let (hidden, layers) = (hidden(&model), model.config().layers);
        let map = model.depth_jacobian(&hidden, 0..layers, Precision::F64).unwrap();
        let (e, g) = (random::standard_normal(1, 1, map.inputs()), random::standard_normal(2, 1, map.inputs()));
        let (mut forward, mut back, mut stepwise) = (vec![0.0; e.len()], vec![0.0; e.len()], e.clone());
        map.apply(&e, &mut forward);
        map.apply_transposed(&g, &mut back);
        for layer in 0..layers {
            let block = model.layer_jacobian(&hidden, layer, LayerPart::Block, Precision::F64).unwrap();
            let mut next = vec![0.0; e.len()];
            block.apply(&stepwise, &mut next);
            stepwise = next;
        }
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let scale = dot(&forward, &forward).sqrt() * dot(&g, &g).sqrt();
        assert!((dot(&g, &forward) - dot(&back, &e)).abs() < 1e-11 * scale, "{name}");
        assert_eq!(forward, stepwise, "{name}");
    }
}

/// Against the model itself: its stream in f32 moves as the composed Jacobian says.
#[test]
fn the_stream_at_the_end_moves_as_the_composed_jacobian_says() {
    for name in ["gpt2-narrow", "llama-biases"] {
        let model = fixture(name);
        let (ids, moved_ids) = (vec![5, 9, 6, 12], vec![5, 9, 6, 13]);
        let run = |ids: Vec<u32>| model.forward(&Input::new(ids).unwrap()).unwrap();
        let (base, layers) = (run(ids), model.config().layers);
        // A small step from one text towards another: the embedding of the last token is all that differs.
        let (x, y) = (base.level(0), run(moved_ids).level(0).to_vec());
        let direction: Vec<f64> = x.iter().zip(&y).map(|(x, y)| f64::from(y - x)).collect();
        let map = model.depth_jacobian(&base, 0..layers, Precision::F64).unwrap();
        let mut forward = vec![0.0; x.len()];
        map.apply(&direction, &mut forward);
        let step = 3e-3;
        let at = |h: f64| {
            let start: Vec<f32> = x.iter().zip(&direction).map(|(x, e)| (f64::from(*x) + h * e) as f32).collect();
            (0..layers).fold(start, |x, layer| {
                let rotation = model.transformer().rotation(4);
                let scene = model.transformer().scene(layer, &[true; 4], rotation.as_ref());
                model.transformer().block(layer).apply(&x, &scene)
            })
        };
        let (above, below) = (at(step), at(-step));
        let size = forward.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        for ((above, below), forward) in above.iter().zip(&below).zip(&forward) {
            let difference = f64::from(above - below) / (2.0 * step);
            // Roundings of the stream in f32 over the step, 1e-6 / 6e-3, and its square times third derivatives.
            assert!((difference - forward).abs() < 2e-3 * size + 1e-3, "{name}: {difference} {forward}");
        }
    }
}

#[test]
fn constants_of_depth_are_enclosed() {
    for (name, model) in models() {
        let (hidden, layers) = (hidden(&model), model.config().layers);
        let options = LanczosOptions { tolerance: 1e-4, max_steps: 60, ..LanczosOptions::default() };
        for range in [0..1, 0..layers, layers - 1..layers] {
            let found = model.depth_constant(&hidden, range.clone(), &options).unwrap();
            let exact = dense(&model.depth_jacobian(&hidden, range.clone(), Precision::F64).unwrap());
            let exact = exact.operator_norm().unwrap();
            // f32 products through a few blocks.
            assert!(
                (found.triplet.value / exact - 1.0).abs() < 1e-4,
                "{name} {range:?}: {} {exact}",
                found.triplet.value
            );
            assert!(exact.ln() <= found.ln_upper + 1e-6, "{name} {range:?}");
            assert_eq!(found.ln_block_uppers.len(), range.len());
        }
        let error = model.depth_jacobian(&hidden, 0..layers + 1, Precision::F32).unwrap_err().to_string();
        assert!(error.starts_with("layers: expected a range of blocks"), "{error}");
    }
}
