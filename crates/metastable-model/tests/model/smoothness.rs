//! Jacobian products and constants of layers, from outside: against torch, and on real weights.

use metastable_dynamics::smoothness::LinearMap;
use metastable_model::smoothness::single_precision_lanczos;
use metastable_model::{Input, LayerPart, Model, Precision};

use crate::families::{random, relative};
use crate::golden::Golden;

const GOLDEN: &[u8] = include_bytes!("../golden/layer_products.safetensors");

/// sin(k + 1.7 r).
fn det(size: usize, k: f64) -> Vec<f64> {
    (0..size).map(|r| f64::from((k + 1.7 * r as f64).sin() as f32)).collect()
}

#[test]
fn products_of_layers_agree_with_forward_and_reverse_mode_of_torch() {
    let golden = Golden::of(GOLDEN);
    for name in ["llama-biases", "mistral-window", "qwen2", "qwen3", "gpt2-narrow", "roberta", "distilbert"] {
        let folder = random(name);
        let model = Model::open(folder.path()).unwrap();
        let hidden = model.forward(&Input::new(golden.integers(&format!("{name}.ids"))).unwrap()).unwrap();
        let size = hidden.count() * hidden.dim();
        for precision in [Precision::F32, Precision::F64] {
            let map = model.layer_jacobian(&hidden, 1, LayerPart::Block, precision).unwrap();
            let mut out = vec![0.0; size];
            let check = |what: &str, out: &[f64]| {
                let found: Vec<f32> = out.iter().map(|x| *x as f32).collect();
                let error = relative(&found, &golden.floats(&format!("{name}.{what}")));
                // f32 on both sides, sums of some dozen terms through a handful of maps; the issue asks for 1e-5.
                assert!(error < 1e-5, "{name} {what} {precision:?}: {error:e}");
            };
            map.apply(&det(size, 0.7), &mut out);
            check("jvp", &out);
            map.apply_transposed(&det(size, 1.9), &mut out);
            check("vjp", &out);
        }
    }
}

#[test]
fn what_has_no_jacobian_is_refused() {
    let folder = random("llama-biases");
    let model = Model::open(folder.path()).unwrap();
    let hidden = model.forward(&Input::new(vec![5, 6, 7]).unwrap()).unwrap();
    let refused = |layer, count| {
        let part = LayerPart::Attention;
        model.layer_jacobian_of_prefix(&hidden, layer, part, Precision::F32, count).unwrap_err().to_string()
    };
    assert_eq!(refused(3, 3), "layer: expected a number below 3, found 3");
    assert_eq!(refused(0, 4), "tokens: expected between 1 and 3, found 4");
    assert_eq!(refused(0, 0), "tokens: expected between 1 and 3, found 0");
    let padded = model.forward(&Input::padded(vec![5, 6, 7], vec![true, true, false]).unwrap()).unwrap();
    let error = model.layer_jacobian(&padded, 0, LayerPart::Attention, Precision::F32).unwrap_err().to_string();
    assert_eq!(error, "text: expected no padding for Jacobian products, found padding");
}

#[test]
fn constants_of_layers_are_enclosed_and_sweeps_end_at_them() {
    for name in ["llama-biases", "qwen3", "roberta"] {
        let folder = random(name);
        let model = Model::open(folder.path()).unwrap();
        let ids = (0..17).map(|i| (i * 5 + 3) % 37 + 3).collect();
        let hidden = model.forward(&Input::new(ids).unwrap()).unwrap();
        let options = single_precision_lanczos();
        let composite = model.layer_constant(&hidden, 1, LayerPart::Composite, &options).unwrap();
        assert!(composite.triplet.value <= composite.upper, "{name}: {} {}", composite.triplet.value, composite.upper);
        assert!(composite.triplet.converged && composite.triplet.steps <= 60, "{name}");
        let sweep = model.layer_sweep(&hidden, 1, LayerPart::Composite, &[1, 5, 17], &options).unwrap();
        // The error of a value is at most its residual of 1e-3.
        assert!((sweep[2].value / composite.triplet.value - 1.0).abs() < 2e-3, "{name}");
        if name != "roberta" {
            assert!(sweep.windows(2).all(|pair| pair[1].value >= pair[0].value * (1.0 - 2e-3)), "{name}: {sweep:?}");
        }
    }
}
