//! Laws of the forward pass on synthetic encoders.

use metastable_model::{Hidden, Input, Model};
use rayon::ThreadPoolBuilder;
use safetensors::tensor::Dtype;

use crate::world::{Noise, SMALL, World, distance};

/// f32 against f64: sums of up to 37 products of size 1 round by about 1e-6, three blocks add and amplify it a little.
const SINGLE_PRECISION: f64 = 1e-5;

#[test]
fn every_level_agrees_with_the_naive_forward_in_double_precision() {
    let world = World::new(SMALL);
    let model = world.open().unwrap();
    for n in [1, 2, 64, 65, 150] {
        let ids = Noise(n as u64).ids(n, SMALL.vocab);
        let hidden = model.forward(&Input::new(ids.clone()).unwrap()).unwrap();
        let exact = world.naive_forward(&ids, &vec![true; n]);
        assert_eq!((hidden.levels(), hidden.count(), hidden.dim()), (4, n, 21));
        for (level, exact) in exact.iter().enumerate() {
            let error = distance(hidden.level(level), exact);
            assert!(error < SINGLE_PRECISION, "n = {n}, level {level}: {error:e}");
        }
    }
}

#[test]
fn masked_positions_are_seen_by_nobody() {
    let world = World::new(SMALL);
    let model = world.open().unwrap();
    let mut ids = Noise(3).ids(90, SMALL.vocab);
    let keep: Vec<bool> = (0..90).map(|i| i % 5 != 1 && i < 80).collect();
    let hidden = model.forward(&Input::padded(ids.clone(), keep.clone()).unwrap()).unwrap();
    let exact = world.naive_forward(&ids, &keep);
    for (level, exact) in exact.iter().enumerate() {
        assert!(distance(hidden.level(level), exact) < SINGLE_PRECISION, "level {level}");
    }
    for (id, _) in ids.iter_mut().zip(&keep).filter(|(_, keep)| !**keep) {
        *id = (*id + 17) % SMALL.vocab as u32;
    }
    let other = model.forward(&Input::padded(ids, keep).unwrap()).unwrap();
    assert_eq!(hidden.trajectory().unwrap(), other.trajectory().unwrap(), "other padding, the same bits");
}

#[test]
fn padding_at_the_end_changes_a_text_by_rounding_only() {
    let model = World::new(SMALL).open().unwrap();
    let mut ids = Noise(5).ids(70, SMALL.vocab);
    let plain = model.forward(&Input::new(ids.clone()).unwrap()).unwrap();
    ids.resize(150, 0);
    let keep = (0..150).map(|i| i < 70).collect();
    let padded = model.forward(&Input::padded(ids, keep).unwrap()).unwrap();
    for level in 0..4 {
        let (a, b) = (plain.tokens(level).unwrap(), padded.tokens(level).unwrap());
        assert_eq!(b.count(), 70, "padding is left out");
        let error = a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(error < SINGLE_PRECISION, "level {level}: {error:e}");
    }
}

#[test]
fn results_are_identical_to_the_bit_on_any_number_of_threads() {
    let model = World::new(SMALL).open().unwrap();
    let input = Input::new(Noise(9).ids(150, SMALL.vocab)).unwrap();
    let on = |threads| -> Hidden {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| model.forward(&input).unwrap())
    };
    let one = on(1);
    for threads in [2, 3, 8] {
        assert_eq!(one, on(threads), "{threads} threads");
    }
}

#[test]
fn prefixed_names_and_tensorflow_norm_names_mean_the_same_model() {
    let plain = World::new(SMALL);
    let input = Input::new(Noise(1).ids(20, SMALL.vocab)).unwrap();
    let expected = plain.open().unwrap().forward(&input).unwrap();
    let mut other = plain.clone();
    other.rename(|name| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        format!("bert.{name}")
    });
    assert_eq!(other.open().unwrap().forward(&input).unwrap(), expected);
}

#[test]
fn half_precision_weights_are_read_exactly() {
    let mut world = World::new(SMALL);
    // Multiples of 1/64 below 4 are exact in both half formats; gains stay away from zero by their offset.
    world.tensors.values_mut().for_each(|(_, values)| values.iter_mut().for_each(|v| *v = (*v * 64.0).round() / 64.0));
    let input = Input::new(Noise(1).ids(20, SMALL.vocab)).unwrap();
    let expected = world.open().unwrap().forward(&input).unwrap();
    let bf16 = world.write_as(Dtype::BF16, |v| v.to_le_bytes()[2..].to_vec());
    assert_eq!(Model::open(bf16.path()).unwrap().forward(&input).unwrap(), expected);
    let f16 = world.write_as(Dtype::F16, |v| f16_bits(v).to_le_bytes().to_vec());
    assert_eq!(Model::open(f16.path()).unwrap().forward(&input).unwrap(), expected);
}

/// Half-precision bits of a number that is exact in the normal range of halves, or zero.
fn f16_bits(v: f32) -> u16 {
    if v == 0.0 {
        return 0;
    }
    let bits = v.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - 127;
    let half = (bits >> 16 & 0x8000) as u16 | ((exponent + 15) as u16) << 10 | (bits >> 13 & 0x3ff) as u16;
    assert!((-14..16).contains(&exponent) && bits & 0x1fff == 0, "{v} is exact in half precision");
    half
}

#[test]
fn impossible_inputs_are_refused_with_expected_and_found() {
    let model = World::new(SMALL).open().unwrap();
    let message = |input: Result<Input, _>| {
        let error = input.and_then(|input| model.forward(&input).map(|_| ())).unwrap_err();
        assert_eq!(error.kind(), metastable_model::ModelErrorKind::Input);
        error.to_string()
    };
    assert!(message(Input::new(vec![3, 50])).contains("below the model's vocab_size = 50, found 50"));
    assert!(message(Input::new(vec![1; 151])).contains("text: expected at most 150 tokens, found 151"));
    assert!(message(Input::new(vec![])).contains("at least one token"));
    assert!(message(Input::padded(vec![1, 2], vec![false, false])).contains("at least one token"));
    assert!(message(Input::padded(vec![1, 2], vec![true])).contains("attention mask: expected 2 entries, found 1"));
}

#[test]
fn weights_that_overflow_are_an_error_not_a_picture() {
    let mut world = World::new(SMALL);
    world.fill("layer.1.intermediate.dense.weight", 3e38);
    let error = world.open().unwrap().forward(&Input::new(vec![1, 2, 3]).unwrap()).unwrap_err();
    assert!(error.to_string().contains("level 2"), "{error}");
}

#[test]
fn the_summary_counts_every_parameter() {
    let world = World::new(SMALL);
    let summary = world.open().unwrap().summary();
    let parameters: usize = world.tensors.values().map(|(_, values)| values.len()).sum();
    assert_eq!((summary.family, summary.layers, summary.hidden, summary.heads), ("bert", 3, 21, 3));
    assert_eq!((summary.kv_heads, summary.vocab, summary.parameters), (3, 50, parameters));
}
