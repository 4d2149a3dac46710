//! Every family and choice against the golden values of the `transformers` library (golden/families.md says how they
//! were made).

use std::fs;
use std::path::{Path, PathBuf};

use metastable_model::{Family, Hidden, Input, Model};
use rayon::ThreadPoolBuilder;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use crate::golden::Golden;

/// What the issue asks for is 2e-4 relative. F32 on both sides differs by the order of additions only: a few 1e-6.
const RELATIVE: f64 = 2e-5;

const GOLDEN: &[u8] = include_bytes!("../golden/families.safetensors");
const RANDOM: &[u8] = include_bytes!("../fixtures/random.safetensors");

fn trained(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// One of the random models as a folder of its own.
fn random(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let metadata = SafeTensors::read_metadata(RANDOM).unwrap().1;
    fs::write(folder.path().join("config.json"), &metadata.metadata().as_ref().unwrap()[name]).unwrap();
    let file = SafeTensors::deserialize(RANDOM).unwrap();
    let prefix = format!("{name}/");
    let own = file.iter().filter_map(|(key, view)| Some((key.strip_prefix(&prefix)?.to_owned(), view)));
    let own: Vec<(String, TensorView<'_>)> = own.collect();
    fs::write(folder.path().join("model.safetensors"), safetensors::serialize(own, None).unwrap()).unwrap();
    folder
}

/// max |found - expected| / max |expected| over a level.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0_f64, |m, x| m.max(f64::from(x.abs())));
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max) / size
}

/// Runs a model on the golden ids and compares every level, the stream before the final norm, and logits.
fn agrees(name: &str, folder: &Path) -> (Model, Hidden) {
    let golden = Golden::of(GOLDEN);
    let model = Model::open(folder).unwrap();
    let ids = golden.integers(&format!("{name}.ids"));
    let mask = golden.has(&format!("{name}.mask")).then(|| golden.integers(&format!("{name}.mask")));
    let keep: Vec<bool> = mask.map_or(vec![true; ids.len()], |mask| mask.iter().map(|m| *m == 1).collect());
    let kept = keep.iter().filter(|keep| **keep).count();
    let hidden = model.forward(&Input::padded(ids, keep).unwrap()).unwrap();
    let (n, d, levels) = (hidden.count(), hidden.dim(), hidden.levels());
    let expected = golden.floats(&format!("{name}.hidden"));
    assert_eq!(expected.len(), levels * n * d, "{name}");
    for (level, expected) in expected.chunks_exact(n * d).enumerate() {
        let found = if level + 1 == levels { hidden.last() } else { hidden.level(level) };
        // Padding is at the end; nobody looks at it, and the reference may do what it likes there.
        let error = relative(&found[..kept * d], &expected[..kept * d]);
        assert!(error < RELATIVE, "{name}, level {level}: {error:e}");
    }
    let before = golden.has(&format!("{name}.before"));
    assert_eq!(hidden.normed().is_some(), before, "{name}: a final norm");
    if before {
        let error = relative(hidden.level(levels - 1), &golden.floats(&format!("{name}.before")));
        assert!(error < RELATIVE, "{name}, before the final norm: {error:e}");
    }
    if golden.has(&format!("{name}.logits")) {
        let logits = model.logits(&hidden).unwrap();
        let vocab = model.summary().vocab;
        let found: Vec<f32> = logits.chunks_exact(vocab).step_by(8).flatten().copied().collect();
        let error = relative(&found, &golden.floats(&format!("{name}.logits")));
        assert!(error < RELATIVE, "{name}, logits: {error:e}");
    } else {
        assert!(model.logits(&hidden).unwrap_err().to_string().contains("expected a decoder"), "{name}");
    }
    (model, hidden)
}

#[test]
fn trained_models_of_three_families_agree_with_transformers_at_every_level() {
    for (name, family, kv_heads) in
        [("tiny-gpt2", Family::Gpt2, 4), ("tiny-llama", Family::Llama, 2), ("tiny-albert", Family::Albert, 4)]
    {
        let (model, hidden) = agrees(name, &trained(name));
        assert_eq!((model.config().family, model.summary().kv_heads), (family, kv_heads));
        let encoded = model.text().unwrap().encode(&Golden::of(GOLDEN).text("text")).unwrap();
        assert_eq!(encoded.ids[..80], Golden::of(GOLDEN).integers(&format!("{name}.ids")));
        assert_eq!(hidden.count(), 80);
    }
}

#[test]
fn every_other_choice_agrees_with_transformers_at_every_level() {
    let names = [
        "bert-relu",
        "roberta",
        "distilbert",
        "albert-groups",
        "llama-biases",
        "llama-wide-heads",
        "mistral-window",
        "qwen2",
        "qwen2-window",
        "qwen3",
        "rope-linear",
        "rope-dynamic",
        "rope-llama3",
        "rope-yarn",
        "gpt2-narrow",
    ];
    for name in names {
        agrees(name, random(name).path());
    }
}

#[test]
fn decoders_do_not_look_ahead() {
    for name in ["tiny-gpt2", "tiny-llama"] {
        let model = Model::open(&trained(name)).unwrap();
        let ids: Vec<u32> = (0..100).map(|i| 4 + i * 37 % 500).collect();
        let whole = model.forward(&Input::new(ids.clone()).unwrap()).unwrap();
        let part = model.forward(&Input::new(ids[..70].to_vec()).unwrap()).unwrap();
        for level in 0..whole.levels() {
            let error = relative(&whole.level(level)[..70 * whole.dim()], part.level(level));
            assert!(error < RELATIVE, "{name}, level {level}: {error:e}");
        }
        let weights = model.attention_weights(&whole, 2, 1).unwrap();
        for i in 0..100 {
            assert!((i + 1..100).all(|j| weights.at(i, j) == 0.0), "{name}: row {i} sees later tokens");
            let sum: f64 = (0..100).map(|j| weights.at(i, j)).sum();
            // A hundred weights rounded to f32.
            assert!((sum - 1.0).abs() < 1e-5, "{name}: row {i} sums to {sum}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_in_any_family() {
    for name in ["tiny-gpt2", "tiny-llama", "tiny-albert"] {
        let model = Model::open(&trained(name)).unwrap();
        let input = Input::new((0..120).map(|i| 4 + i * 37 % 500).collect()).unwrap();
        let on = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let hidden = model.forward(&input).unwrap();
                let logits = model.logits(&hidden).ok();
                (hidden, logits)
            })
        };
        let one = on(1);
        assert!([2, 3].into_iter().all(|threads| on(threads) == one), "{name}");
    }
}

#[test]
fn query_heads_of_one_group_share_key_and_value() {
    let model = Model::open(&trained("tiny-llama")).unwrap();
    let heads = model.head_matrices(1).unwrap();
    assert_eq!(heads.len(), 4);
    assert!(heads[0].key() == heads[1].key() && heads[2].value() == heads[3].value());
    assert!(heads[1].key() != heads[2].key() && heads[0].query() != heads[1].query());
}

#[test]
fn albert_blocks_are_shared_as_the_config_says() {
    let folder = random("albert-groups");
    let model = Model::open(folder.path()).unwrap();
    let blocks: Vec<usize> = (0..5).map(|layer| model.config().block_of(layer)).collect();
    // transformers: int(layer / (5 / 2)).
    assert_eq!(blocks, [0, 0, 0, 1, 1]);
    assert_eq!(model.head_matrices(0).unwrap(), model.head_matrices(2).unwrap());
    assert_ne!(model.head_matrices(2).unwrap(), model.head_matrices(3).unwrap());
}
