//! all-MiniLM-L6-v2 against the golden values of the `transformers` library (golden/minilm.md says how they were made).
//!
//! Needs the weights that scripts/fetch-models gets. Without them a test says so and passes, but fails where CI=true.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};

use metastable_model::{Hidden, Input, Model};
use rayon::ThreadPoolBuilder;

use crate::golden::Golden;

pub(crate) const GOLDEN: &[u8] = include_bytes!("../golden/minilm.safetensors");
const SONNETS: &str = include_str!("../golden/sonnets.txt");

/// What the issue asks for: F32 on both sides, in another order of additions. The reference itself is within 2.5e-6 of
/// its own run in double precision.
const HIDDEN: f64 = 2e-5;

/// At padded positions, which nobody looks at, the model is ill-conditioned: there the reference in F32 is up to 3.1e-5
/// away from its own run in double precision.
const PADDING: f64 = 1e-4;

/// The model cache.
pub(crate) fn models() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("METASTABLE_MODELS")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("metastable/models")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/metastable/models")))
}

pub(crate) fn folder() -> Option<PathBuf> {
    Some(models()?.join("all-MiniLM-L6-v2")).filter(|folder| folder.join("model.safetensors").is_file())
}

/// The model, or none after saying why.
pub(crate) fn minilm() -> Option<Model> {
    if let Some(folder) = folder() {
        return Some(Model::open(&folder).unwrap());
    }
    let why = "skipped: all-MiniLM-L6-v2 is not in the model cache; run scripts/fetch-models";
    assert!(env::var("CI").as_deref() != Ok("true"), "{why}");
    // Past the capture of the test harness, which `eprintln!` would go into, so that people see it.
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "{why}").unwrap();
    None
}

fn run(model: &Model, text: &str) -> Hidden {
    model.forward(&Input::from(&model.text().unwrap().encode(text).unwrap())).unwrap()
}

fn largest_difference(found: impl Iterator<Item = f32>, expected: &[f32]) -> f64 {
    let found: Vec<f32> = found.collect();
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max)
}

#[test]
fn hidden_states_of_a_sentence_agree_with_transformers() {
    let Some(model) = minilm() else { return };
    let golden = Golden::of(GOLDEN);
    let encoded = model.text().unwrap().encode(&Golden::of(GOLDEN).text("t1")).unwrap();
    assert_eq!(encoded.ids, golden.integers("t1.ids"));
    let hidden = model.forward(&Input::from(&encoded)).unwrap();
    let expected = golden.floats("t1.hidden");
    for (level, expected) in expected.chunks_exact(33 * 384).enumerate() {
        let error = largest_difference(hidden.level(level).iter().copied(), expected);
        assert!(error < HIDDEN, "level {level}: {error:e}");
    }
}

#[test]
fn hidden_states_and_attention_of_a_padded_sentence_agree_with_transformers() {
    let Some(model) = minilm() else { return };
    let golden = Golden::of(GOLDEN);
    let keep: Vec<bool> = golden.integers("padded.mask").iter().map(|mask| *mask == 1).collect();
    assert_eq!(keep.iter().filter(|keep| **keep).count(), 6);
    let hidden = model.forward(&Input::padded(golden.integers("padded.ids"), keep).unwrap()).unwrap();
    let expected = golden.floats("padded.hidden");
    for (row, expected) in expected.chunks_exact(384).enumerate() {
        let (level, token) = (row / 16, row % 16);
        let found = &hidden.level(level)[token * 384..(token + 1) * 384];
        let error = largest_difference(found.iter().copied(), expected);
        let tolerance = if hidden.keep()[token] { HIDDEN } else { PADDING };
        assert!(error < tolerance, "level {level}, token {token}: {error:e}");
    }
    let attention = golden.floats("padded.attention");
    for (index, expected) in attention.chunks_exact(16 * 16).enumerate() {
        let weights = model.attention_weights(&hidden, index / 12, index % 12).unwrap();
        // The rows of the six tokens of the text.
        let found = weights.as_slice().iter().take(6 * 16).map(|w| *w as f32);
        let error = largest_difference(found, &expected[..6 * 16]);
        assert!(error < HIDDEN, "layer {}, head {}: {error:e}", index / 12, index % 12);
    }
}

#[test]
fn hidden_states_of_256_tokens_agree_with_transformers() {
    let Some(model) = minilm() else { return };
    let golden = Golden::of(GOLDEN);
    let encoded = model.text().unwrap().encode(SONNETS.trim()).unwrap();
    assert_eq!(encoded.ids, golden.integers("long.ids"));
    assert_eq!(encoded.ids.len(), 256);
    let hidden = model.forward(&Input::from(&encoded)).unwrap();
    let (rows, columns, norms) =
        (golden.floats("long.rows"), golden.floats("long.columns"), golden.floats("long.norms"));
    for level in 0..7 {
        let tokens = || hidden.level(level).chunks_exact(384);
        let check = |what: &str, found: &mut dyn Iterator<Item = f32>, expected: &[f32], tolerance: f64| {
            let per_level = expected.len() / 7;
            let error = largest_difference(found, &expected[level * per_level..(level + 1) * per_level]);
            assert!(error < tolerance, "level {level}, {what}: {error:e}");
        };
        check("rows", &mut tokens().step_by(11).flatten().copied(), &rows, HIDDEN);
        check("columns", &mut tokens().flat_map(|t| t.iter().copied().step_by(9)), &columns, HIDDEN);
        let norm = |token: &[f32]| token.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
        // Norms are near 10 and stored in F32; errors of the entries average out in them.
        check("norms", &mut tokens().map(norm), &norms, HIDDEN);
    }
}

/// Mean cosine over pairs i ≠ j, the definition written out.
pub(crate) fn mean_cosine(tokens: &metastable_dynamics::Tokens) -> f64 {
    let mut directions = Vec::new();
    for token in tokens.view().iter() {
        let norm = metastable_dynamics::linalg::norm(token);
        directions.push(token.iter().map(|x| x / norm).collect::<Vec<_>>());
    }
    let n = directions.len();
    let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
    let sum: f64 = pairs.map(|(i, j)| metastable_dynamics::linalg::dot(&directions[i], &directions[j])).sum();
    sum / (n * (n - 1) / 2) as f64
}

#[test]
fn tokens_cluster_with_depth_as_measured_by_their_mean_cosine() {
    let Some(model) = minilm() else { return };
    let expected = [0.0513, 0.1429, 0.1756, 0.2223, 0.2636, 0.3573, 0.4133];
    let trajectory = run(&model, &Golden::of(GOLDEN).text("t1")).trajectory().unwrap();
    assert_eq!(trajectory.len(), expected.len());
    for (level, (tokens, expected)) in trajectory.iter().zip(expected).enumerate() {
        let mean = mean_cosine(tokens);
        assert!((mean - expected).abs() < 2e-4, "level {level}: {mean}");
    }
}

#[test]
fn sentence_embeddings_and_their_similarities_are_the_known_ones() {
    let Some(model) = minilm() else { return };
    let expected = Golden::of(GOLDEN).floats("pooled");
    let sentences = Golden::of(GOLDEN).text("pooled");
    let found: Vec<Vec<f64>> = sentences.lines().map(|sentence| run(&model, sentence).pooled()).collect();
    for ((sentence, found), expected) in sentences.lines().zip(&found).zip(expected.chunks_exact(384)) {
        let error = largest_difference(found.iter().map(|x| *x as f32), expected);
        assert!(error < 1e-5, "{sentence}: {error:e}");
    }
    for (found, expected) in found[0].iter().zip([0.1391912, 0.0030291, 0.0470147, 0.0395738, -0.0479986]) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
    // Known to four digits.
    for (a, b, expected) in [(3, 4, 0.8939), (0, 1, 0.2838), (0, 2, 0.0363)] {
        let similarity = metastable_dynamics::linalg::dot(&found[a], &found[b]);
        assert!((similarity - expected).abs() < 6e-5, "{a} {b}: {similarity}");
    }
}

#[test]
fn the_tokenizer_gives_the_known_ids_without_the_padding_its_file_asks_for() {
    let Some(model) = minilm() else { return };
    let text = model.text().unwrap();
    let encoded = text.encode("The cat sits outside").unwrap();
    assert_eq!(encoded.ids, [101, 1996, 4937, 7719, 2648, 102]);
    assert_eq!(encoded.tokens, ["[CLS]", "the", "cat", "sits", "outside", "[SEP]"]);
    assert_eq!(text.decode(&encoded.ids).unwrap(), "the cat sits outside");
    assert!(text.encode(SONNETS).unwrap().ids.len() > 128, "its file truncates to 128");
}

#[test]
fn real_weights_give_identical_bits_on_one_and_two_threads() {
    let Some(model) = minilm() else { return };
    let on = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&model, SONNETS.trim()))
    };
    assert_eq!(on(1), on(2));
}

#[test]
fn the_summary_states_the_published_size() {
    let Some(model) = minilm() else { return };
    let summary = model.summary();
    assert_eq!((summary.family, summary.layers, summary.hidden, summary.heads), ("bert", 6, 384, 12));
    assert_eq!((summary.vocab, summary.parameters), (30_522, 22_713_216));
}

#[test]
fn spectra_of_a_real_head_are_those_of_its_dense_circuits() {
    let Some(model) = minilm() else { return };
    let (spectrum, head) = (&model.spectra(5).unwrap()[7], &model.head_matrices(5).unwrap()[7]);
    assert_eq!((spectrum.qk_singular_values.len(), spectrum.qk_rank), (32, 32));
    assert!((1.0..=32.0).contains(&spectrum.qk_stable_rank));
    for (found, dense) in
        [(&spectrum.qk_singular_values, head.query_key()), (&spectrum.ov_singular_values, head.output_value())]
    {
        let exact = dense.singular_values().unwrap();
        // Rounding of a 384-sided decomposition relative to its largest value.
        for (found, exact) in found.iter().zip(&exact) {
            assert!((found - exact).abs() < 1e-12 * (1.0 + exact), "{found} {exact}");
        }
        assert!(exact[32] < 1e-12 * exact[0], "the circuit has rank 32");
    }
    // The trace of W V is the sum over all its eigenvalues; those listed solve det(W V - z) = 0: check the largest.
    let (re, im) = spectrum.ov_eigenvalues_top[0];
    let dense = head.output_value().eigenvalues().unwrap();
    let nearest = dense.iter().map(|z| (z.0 - re).hypot(z.1 - im)).fold(f64::INFINITY, f64::min);
    assert!(nearest < 1e-9, "{nearest:e}");
}

#[test]
fn golden_files_carry_their_provenance() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/minilm.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("transformers 4.40.2") && page.contains("torch 1.13"), "{page}");
}

/// Made by scripts/golden/minilm_adapter.py; the versions stand in the file's metadata.
const ADAPTED: &[u8] = include_bytes!("../golden/minilm_adapter.safetensors");

#[test]
fn hidden_states_with_a_trained_adapter_agree_with_peft() {
    use metastable_model::lora::{Adapter, Strictness};
    let Some(model) = minilm() else { return };
    let golden = Golden::of(ADAPTED);
    assert!(golden.text("made by").contains("peft"));
    let adapter = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/minilm-spam-lora");
    // The adapter also stores the head of its task, which this model does not have.
    let adapter = Adapter::open(Path::new(adapter), Strictness::Partial).unwrap();
    let adapted = model.with_adapter(&adapter, Strictness::Partial).unwrap().model;
    let (ids, exact) = (golden.integers("ids"), golden.floats("hidden"));
    let states = |model: &Model| -> Vec<f32> {
        let hidden = model.forward(&Input::new(ids.clone()).unwrap()).unwrap();
        (0..hidden.levels()).flat_map(|level| hidden.level(level).to_vec()).collect()
    };
    // Merged weights here, two products there; both f32.
    let error = largest_difference(states(&adapted).into_iter(), &exact);
    assert!(error < HIDDEN, "{error:e}");
    let change = largest_difference(states(&model).into_iter(), &exact);
    assert!(change > 100.0 * HIDDEN, "the adapter changes something: {change:e}");
}
