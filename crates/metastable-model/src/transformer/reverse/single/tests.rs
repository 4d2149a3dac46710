//! Heads alone against layers without their other heads, and every inequality on a thousand random clouds.

use metastable_dynamics::random;
use metastable_dynamics::smoothness::linear_map::dense;

use super::*;
use crate::model::Model;
use crate::transformer::reverse::layer_bound::{head_upper, part_upper};
use crate::transformer::reverse::tests::fixture;
use crate::transformer::reverse::{LayerPart, PartJacobian};

const MODELS: [&str; 8] = [
    "qwen3",
    "mistral-window",
    "llama-biases",
    "gpt2-narrow",
    "qwen2-window",
    "roberta",
    "distilbert",
    "albert-groups",
];

const PARTS: [LayerPart; 4] = [LayerPart::Attention, LayerPart::Composite, LayerPart::Residual, LayerPart::Block];

/// A random stream of n tokens, of sizes from 0.1 to 10.
fn stream(model: &Model, seed: u64, n: usize) -> Vec<f32> {
    let size = 10_f64.powf((seed % 9) as f64 / 4.0 - 1.0);
    random::standard_normal(seed, n, model.config().hidden).into_iter().map(|x| (size * x) as f32).collect()
}

fn single<'a>(layer: &Layer<'a, f64>, head: usize) -> (SingleHead<'a, f64>, Circuits) {
    let circuits = Circuits::of(layer.attention(), head);
    (SingleHead::of_layer(layer, &circuits, head), circuits)
}

/// The model whose layer 1 writes through one head alone.
fn with_only(model: &Model, head: usize) -> Model {
    let mut model = model.clone();
    let block = model.config().block_of(1);
    let k = model.config().head_dim;
    let output = &mut model.transformer_mut().blocks[block].attention.output;
    let (mut weight, inputs) = (output.rows().into_owned(), output.inputs());
    for row in weight.chunks_exact_mut(inputs) {
        row.iter_mut().enumerate().filter(|(c, _)| c / k != head).for_each(|(_, w)| *w = 0.0);
    }
    output.replace_weight(weight);
    model
}

#[test]
fn a_head_alone_has_the_singular_values_of_the_layer_without_the_others() {
    for name in MODELS {
        let model = fixture(name);
        let stream = stream(&model, 4, 5);
        for head in 0..model.config().heads {
            let (map, _) = single(&Layer::at(model.transformer(), 1, &stream), head);
            let found = dense(&map).singular_values().unwrap();
            let only = with_only(&model, head);
            let layer = Layer::<f64>::at(only.transformer(), 1, &stream);
            let exact = dense(&PartJacobian { layer, part: LayerPart::Attention }).singular_values().unwrap();
            for (found, expected) in found.iter().zip(&exact) {
                // Orthogonal changes of basis in f64, sums of some dozen terms.
                assert!((found - expected).abs() < 1e-12 * exact[0], "{name} head {head}: {found} {expected}");
            }
        }
    }
}

#[test]
fn products_of_a_head_are_transposes_and_sums_of_their_paths() {
    for name in MODELS {
        let model = fixture(name);
        let layer = Layer::at(model.transformer(), 1, &stream(&model, 7, 6));
        for head in 0..model.config().heads {
            let (map, _) = single(&layer, head);
            let (e, g) = (random::standard_normal(1, 1, map.inputs()), random::standard_normal(2, 1, map.outputs()));
            let (mut forward, mut back) = (vec![0.0; map.outputs()], vec![0.0; map.inputs()]);
            map.apply(&e, &mut forward);
            map.apply_transposed(&g, &mut back);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let scale = dot(&forward, &forward).sqrt() * dot(&g, &g).sqrt();
            assert!((dot(&g, &forward) - dot(&back, &e)).abs() < 1e-12 * scale, "{name} head {head}");
            let [value, query, key] = map.paths(&e);
            for (i, forward) in forward.iter().enumerate() {
                assert!((value[i] + query[i] + key[i] - forward).abs() < 1e-12 * scale, "{name} head {head}");
            }
        }
    }
}

/// Where attention is applied to the stream itself, a head at these tokens is the head of the layer.
#[test]
fn a_head_at_given_tokens_is_that_of_the_layer_which_is_applied_to_them() {
    for name in MODELS {
        let model = fixture(name);
        let stream = stream(&model, 3, 4);
        let layer = Layer::<f64>::at(model.transformer(), 1, &stream);
        let input: Vec<f64> =
            model.transformer().block(1).attention_input(&stream).into_iter().map(f64::from).collect();
        for head in 0..model.config().heads {
            let there = dense(&SingleHead::<f64>::at(model.transformer(), 1, head, &input));
            let here = dense(&single(&layer, head).0);
            // The norm before attention is rounded to f32 in one of the two; slopes of scores enlarge that.
            let error = there.add_scaled(-1.0, &here).max_abs();
            assert!(error < 1e-4 * here.max_abs(), "{name} head {head}: {error}");
        }
    }
}

/// σ_max lies between the value path and the bound, for every head of every family on random clouds: 1000 and more.
#[test]
fn constants_of_heads_lie_between_their_value_path_and_their_bound() {
    let mut cases = 0;
    for name in MODELS {
        let model = fixture(name);
        for seed in 0..70 {
            let layer = Layer::at(model.transformer(), 1, &stream(&model, seed, 1 + seed as usize % 4));
            for head in 0..model.config().heads {
                let (map, circuits) = single(&layer, head);
                let n = layer.count();
                let exact = dense(&map).operator_norm().unwrap();
                let upper = head_upper(&layer, head).unwrap();
                assert!(exact <= upper * (1.0 + 1e-12), "{name} head {head} seed {seed}: {exact} > {upper}");
                let blind = circuits.blind_value_norm().unwrap();
                let weights = Matrix::new("p", n, n, map.weights()).unwrap().operator_norm().unwrap();
                assert!(weights * blind <= exact * (1.0 + 1e-10), "{name} head {head} seed {seed}");
                cases += 1;
            }
        }
    }
    assert!(cases >= 1000, "{cases}");
}

/// The bounds of all four parts of a layer, on a thousand random clouds.
#[test]
fn constants_of_parts_are_below_their_bounds() {
    let mut cases = 0;
    for name in MODELS {
        let model = fixture(name);
        for seed in 0..32 {
            let stream = stream(&model, 100 + seed, 1 + seed as usize % 3);
            for part in PARTS {
                let map = PartJacobian { layer: Layer::<f64>::at(model.transformer(), 1, &stream), part };
                let upper = part_upper(&map.layer, part).unwrap();
                let exact = dense(&map).operator_norm().unwrap();
                assert!(exact <= upper * (1.0 + 1e-12), "{name} {part:?} seed {seed}: {exact} > {upper}");
                cases += 1;
            }
        }
    }
    assert!(cases >= 1000, "{cases}");
}

#[test]
fn directions_that_neither_queries_nor_keys_see_are_counted() {
    let model = fixture("llama-biases");
    let config = model.config();
    let circuits = Circuits::of(&model.transformer().block(0).attention, 0);
    assert_eq!(circuits.blind_dimension(), config.hidden.saturating_sub(2 * config.head_dim));
    // Q U and K U have nothing behind the first 2k coordinates.
    for matrix in [&circuits.query, &circuits.key] {
        for (a, c) in (0..matrix.rows()).flat_map(|a| (2 * matrix.rows()..matrix.columns()).map(move |c| (a, c))) {
            assert!(matrix.at(a, c).abs() < 1e-14);
        }
    }
}
