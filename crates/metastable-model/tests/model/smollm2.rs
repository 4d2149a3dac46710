//! SmolLM2-135M-Instruct out of its GGUF file against golden values of `transformers` on the same weights
//! (golden/smollm2.md says how they were made).
//!
//! Needs the file that scripts/fetch-models gets. Without it a test says so and passes, but fails where CI=true.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use metastable_model::{Hidden, Input, Model, Weights};

use crate::families::relative;
use crate::golden::Golden;
use crate::minilm::{mean_cosine, models};

const GOLDEN: &[u8] = include_bytes!("../golden/smollm2.safetensors");

/// The issue asks for 2e-4. F32 on both sides; thirty layers of massive activations amplify roundings.
const RELATIVE: f64 = 1e-4;

fn file() -> Option<PathBuf> {
    let file = models()?.join("SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    Some(file).filter(|file| file.is_file())
}

/// The model, or none after saying why.
fn smollm2() -> Option<&'static Model> {
    static MODEL: OnceLock<Model> = OnceLock::new();
    if let Some(file) = file() {
        return Some(MODEL.get_or_init(|| Model::open(&file).unwrap()));
    }
    let why = "skipped: SmolLM2-135M-Instruct is not in the model cache; run scripts/fetch-models";
    assert!(env::var("CI").as_deref() != Ok("true"), "{why}");
    // Past the capture of the test harness, which `eprintln!` would go into, so that people see it.
    writeln!(std::io::stderr().lock(), "{why}").unwrap();
    None
}

fn t2(model: &Model) -> Hidden {
    let golden = Golden::of(GOLDEN);
    let encoded = model.text().unwrap().encode(&golden.text("t2")).unwrap();
    assert_eq!(encoded.ids, golden.integers("t2.ids"));
    model.forward(&Input::from(&encoded)).unwrap()
}

#[test]
fn hidden_states_and_logits_agree_with_transformers() {
    let Some(model) = smollm2() else { return };
    let golden = Golden::of(GOLDEN);
    let hidden = t2(model);
    assert_eq!((hidden.levels(), hidden.count(), hidden.dim()), (31, 39, 576));
    let (rows, columns) = (golden.floats("t2.rows"), golden.floats("t2.columns"));
    for level in 0..31 {
        let tokens = || if level == 30 { hidden.last() } else { hidden.level(level) }.chunks_exact(576);
        let check = |what: &str, found: Vec<f32>, expected: &[f32]| {
            let error = relative(&found, &expected[level * found.len()..(level + 1) * found.len()]);
            assert!(error < RELATIVE, "level {level}, {what}: {error:e}");
        };
        check("rows", tokens().step_by(9).flatten().copied().collect(), &rows);
        check("columns", tokens().flat_map(|token| token.iter().copied().step_by(16)).collect(), &columns);
    }
    let before: Vec<f32> = hidden.level(30).chunks_exact(576).flat_map(|t| t.iter().copied().step_by(4)).collect();
    assert!(relative(&before, &golden.floats("t2.before")) < RELATIVE, "before the final norm");
    let logits = model.logits(&hidden).unwrap();
    let found: Vec<f32> = logits.iter().copied().step_by(64).collect();
    let error = relative(&found, &golden.floats("t2.logits"));
    assert!(error < RELATIVE, "logits: {error:e}");
}

#[test]
fn the_perplexity_is_that_of_rows_put_back_in_order() {
    let Some(model) = smollm2() else { return };
    let ids = Golden::of(GOLDEN).integers("t2.ids");
    let logits = model.logits(&t2(model)).unwrap();
    let surprise = |(row, next): (&[f32], &u32)| {
        let largest = row.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
        let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
        sum.ln() + f64::from(largest - row[*next as usize])
    };
    let total: f64 = logits.chunks_exact(49_152).zip(&ids[1..]).map(surprise).sum();
    let perplexity = (total / (ids.len() - 1) as f64).exp();
    // 9.05 published for these weights; 42.7 with queries and keys still paired.
    assert!((perplexity - 9.05).abs() < 0.02, "{perplexity}");
    assert!((perplexity - f64::from(Golden::of(GOLDEN).floats("t2.perplexity")[0])).abs() < 1e-3, "{perplexity}");
}

#[test]
fn the_greedy_answer_is_the_known_one() {
    let Some(model) = smollm2() else { return };
    let golden = Golden::of(GOLDEN);
    let text = model.text().unwrap();
    let mut ids = text.encode(&golden.text("prompt")).unwrap().ids;
    assert_eq!(ids, [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]);
    for expected in [504, 3575, 282, 4649, 314, 7042, 30, 2] {
        let hidden = model.forward(&Input::new(ids.clone()).unwrap()).unwrap();
        let logits = model.logits(&hidden).unwrap();
        let last = logits.chunks_exact(49_152).next_back().unwrap();
        let (best, _) = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        assert_eq!(best, expected);
        ids.push(best as u32);
    }
    assert_eq!(text.decode(&ids[16..]).unwrap(), "The capital of France is Paris.");
}

#[test]
fn mean_cosines_of_tokens_are_the_known_ones_before_and_after_the_final_norm() {
    let Some(model) = smollm2() else { return };
    let hidden = t2(model);
    let expected = Golden::of(GOLDEN).floats("t2.mean_cosine");
    for (level, (tokens, expected)) in hidden.trajectory().unwrap().iter().zip(expected).enumerate() {
        let mean = mean_cosine(tokens);
        assert!((mean - f64::from(expected)).abs() < 1e-4, "level {level}: {mean} {expected}");
    }
    let after = mean_cosine(&hidden.tokens(30).unwrap());
    let before = mean_cosine(&hidden.before_final_norm().unwrap().unwrap());
    assert!((after - 0.471).abs() < 1e-3, "{after}");
    assert!((before - after).abs() > 0.05, "the norm changes the picture: {before} {after}");
}

#[test]
fn weights_are_read_layer_by_layer_with_their_groups() {
    let Some(file) = file() else { return };
    let weights = Weights::open(&file).unwrap();
    let summary = weights.summary();
    assert_eq!((summary.family, summary.layers, summary.hidden), ("llama", 30, 576));
    assert_eq!((summary.heads, summary.kv_heads, summary.vocab, summary.parameters), (9, 3, 49_152, 134_515_008));
    let heads = weights.head_matrices(17).unwrap();
    assert!(heads[3].key() == heads[5].key() && heads[3].key() != heads[2].key());
}
