//! Products of every part of a block, for every family, against differences, each other and dense decompositions.

use metastable_dynamics::random;
use metastable_dynamics::smoothness::linear_map::dense;
use metastable_dynamics::smoothness::{LanczosOptions, LinearMap, top_singular_triplet};

use super::*;
use crate::model::{Input, Model};
use crate::transformer::reverse::layer::{Layer, PartJacobian};
use crate::transformer::reverse::layer_bound::part_upper;
use crate::transformer::reverse::tests::fixture;

/// Every choice a product has to know: norms before and after, shared keys, biases, rotations, windows, norms of
/// queries, gates, encoders and decoders.
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

const COUNT: usize = 7;

/// The stream that enters layer 1 for a short text.
fn stream(model: &Model, n: usize) -> Vec<f32> {
    let vocab = model.config().vocab as u64;
    let ids = (0..n as u64).map(|i| (((1 + i * i * 31 + i * 7) % (vocab - 5)) + 4) as u32).collect();
    model.forward(&Input::new(ids).unwrap()).unwrap().level(1).to_vec()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The value of a part in f64 at a stream.
fn value(layer: &Layer<'_, f64>, part: LayerPart, x: &[f64]) -> Vec<f64> {
    let (block, scene) = (layer.block(), layer.scene());
    let places = Places::none(1);
    let adapters = Adapters { places: &places, modules: &[] };
    let (end, saved) = block.forward(0, x.to_vec(), &adapters, &scene);
    let attention = || saved.middle.iter().zip(x).map(|(sum, x)| sum - x).collect();
    match part {
        LayerPart::Block => end,
        LayerPart::Residual => block.after(&block.attention_norm, &saved.middle).unwrap_or(saved.middle),
        LayerPart::Composite | LayerPart::Attention => attention(),
    }
}

#[test]
fn forward_products_are_the_derivatives_of_every_part() {
    for name in MODELS {
        let model = fixture(name);
        let stream = stream(&model, COUNT);
        let layer = Layer::<f64>::at(model.transformer(), 1, &stream);
        let x: Vec<f64> = stream.iter().map(|x| f64::from(*x)).collect();
        let direction = random::standard_normal(3, 1, x.len());
        let post = layer.block().place == NormPlace::After;
        for part in PARTS.into_iter().filter(|part| *part != LayerPart::Attention || post) {
            let found = layer.block().tangent(part, layer.saved(), &direction, &layer.scene());
            let central = |h: f64| -> Vec<f64> {
                let at =
                    |h: f64| value(&layer, part, &x.iter().zip(&direction).map(|(x, e)| x + h * e).collect::<Vec<_>>());
                at(h).iter().zip(at(-h)).map(|(a, b)| (a - b) / (2.0 * h)).collect()
            };
            let size = found.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
            for ((fine, coarse), found) in central(1e-4).iter().zip(central(2e-4)).zip(&found) {
                // Richardson: h⁴ = 1e-16 times fifth derivatives; rounding 1e-16·|x| / h = 1e-11.
                let expected = (4.0 * fine - coarse) / 3.0;
                assert!((expected - found).abs() < 1e-8 * size, "{name} {part:?}: {expected} {found}");
            }
        }
    }
}

#[test]
fn transposed_products_are_the_transposes_of_forward_ones() {
    for name in MODELS {
        let model = fixture(name);
        let layer = Layer::<f64>::at(model.transformer(), 1, &stream(&model, COUNT));
        for part in PARTS {
            let size = COUNT * model.config().hidden;
            let (e, g) = (random::standard_normal(5, 1, size), random::standard_normal(6, 1, size));
            let forward = layer.block().tangent(part, layer.saved(), &e, &layer.scene());
            let back = layer.block().cotangent(part, layer.saved(), &g, &layer.scene());
            let scale = dot(&forward, &forward).sqrt() * dot(&g, &g).sqrt();
            // Sums of some hundred products in f64.
            assert!((dot(&g, &forward) - dot(&back, &e)).abs() < 1e-12 * scale, "{name} {part:?}");
        }
    }
}

#[test]
fn lanczos_agrees_with_dense_decompositions_and_stays_below_the_bound() {
    for name in MODELS {
        let model = fixture(name);
        let stream = stream(&model, COUNT);
        for part in PARTS {
            let map = PartJacobian { layer: Layer::<f64>::at(model.transformer(), 1, &stream), part };
            let options = LanczosOptions { tolerance: 1e-11, ..Default::default() };
            let found = top_singular_triplet(&map, &options).unwrap();
            let exact = dense(&map).operator_norm().unwrap();
            assert!((found.value / exact - 1.0).abs() < 1e-8, "{name} {part:?}: {} {exact}", found.value);
            let upper = part_upper(&map.layer, part).unwrap();
            assert!(upper >= exact && upper < 1000.0 * exact, "{name} {part:?}: {upper} {exact}");
            // The same in the numbers of the model: eps of f32 times the width of sums.
            let single = PartJacobian { layer: Layer::<f32>::at(model.transformer(), 1, &stream), part };
            let options = LanczosOptions { tolerance: 1e-4, ..Default::default() };
            let single = top_singular_triplet(&single, &options).unwrap();
            assert!((single.value / exact - 1.0).abs() < 1e-5, "{name} {part:?}: {} {exact}", single.value);
        }
    }
}

/// For decoders the Jacobian of the first tokens is the leading block, so that constants never fall.
#[test]
fn constants_of_prefixes_never_fall_for_decoders() {
    for name in ["qwen3", "llama-biases", "gpt2-narrow"] {
        let model = fixture(name);
        let (stream, d) = (stream(&model, COUNT), model.config().hidden);
        let norm = |count: usize| {
            let layer = Layer::<f64>::at(model.transformer(), 1, &stream[..count * d]);
            dense(&PartJacobian { layer, part: LayerPart::Composite }).operator_norm().unwrap()
        };
        let found: Vec<f64> = (1..=COUNT).map(norm).collect();
        assert!(found.windows(2).all(|pair| pair[1] >= pair[0] * (1.0 - 1e-12)), "{name}: {found:?}");
    }
}

#[test]
fn products_are_equal_to_the_bit_on_any_number_of_threads() {
    let model = fixture("llama-biases");
    let map = PartJacobian {
        layer: Layer::<f32>::at(model.transformer(), 1, &stream(&model, COUNT)),
        part: LayerPart::Block,
    };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (e, mut out, mut back) =
            (random::standard_normal(5, 1, map.inputs()), vec![0.0; map.inputs()], vec![0.0; map.inputs()]);
        pool.install(|| {
            map.apply(&e, &mut out);
            map.apply_transposed(&e, &mut back);
        });
        (out, back)
    };
    assert_eq!(run(1), run(3));
}
