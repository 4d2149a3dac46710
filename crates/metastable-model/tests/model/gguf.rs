//! A trained Llama in a GGUF file of mixed types against the golden values of `transformers` on the same weights
//! (golden/gguf.md says how they were made).

use std::path::{Path, PathBuf};

use metastable_model::{Input, Model, Text, Weights};

use crate::families::relative;
use crate::golden::Golden;

const GOLDEN: &[u8] = include_bytes!("../golden/gguf.safetensors");

/// As for folders: F32 on both sides, in another order of additions.
const RELATIVE: f64 = 2e-5;

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama.gguf")
}

#[test]
fn hidden_states_and_logits_of_a_gguf_file_agree_with_transformers() {
    let golden = Golden::of(GOLDEN);
    let model = Model::open(&fixture()).unwrap();
    let hidden = model.forward(&Input::new(golden.integers("ids")).unwrap()).unwrap();
    let (n, d) = (hidden.count(), hidden.dim());
    for (level, expected) in golden.floats("hidden").chunks_exact(n * d).enumerate() {
        let found = if level + 1 == hidden.levels() { hidden.last() } else { hidden.level(level) };
        let error = relative(found, expected);
        assert!(error < RELATIVE, "level {level}: {error:e}");
    }
    let logits = model.logits(&hidden).unwrap();
    let found: Vec<f32> = logits.chunks_exact(512).step_by(8).flatten().copied().collect();
    let error = relative(&found, &golden.floats("logits"));
    assert!(error < RELATIVE, "logits: {error:e}");
}

#[test]
fn the_embedded_tokenizer_gives_the_ids_of_the_tokenizer_it_was_made_of() {
    let embedded = Model::open(&fixture()).unwrap().text().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
    let original = Model::open(&folder).unwrap().text().unwrap();
    for text in ["Arise, fair sun, and kill the envious moon", "42 naïve  façades\n\t— ok?", "a</s>b"] {
        let (embedded, original) = (embedded.encode(text).unwrap(), original.encode(text).unwrap());
        assert_eq!(embedded.ids, original.ids, "{text}");
        assert_eq!(embedded.special, original.special, "{text}");
    }
    assert_eq!(embedded.vocabulary(), original.vocabulary());
}

/// A SentencePiece model of 400 pieces; golden/spm.json says how the ids were made.
#[test]
fn a_sentencepiece_vocabulary_gives_the_ids_of_the_reference_libraries() {
    let file = fixture().with_file_name("spm.gguf");
    let text = Text::open_gguf(&file, 400).unwrap();
    let golden: serde_json::Value = serde_json::from_str(include_str!("../golden/spm.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let mut agreed = 0;
    for case in cases {
        let words = case["text"].as_str().unwrap();
        let encoded = text.encode(words).unwrap();
        assert_eq!(serde_json::json!(encoded.ids), case["transformers"], "{words:?}");
        // Where nothing in the text is a token of its own, `transformers` and SentencePiece are of one mind.
        if !words.contains('<') {
            assert_eq!(case["transformers"], case["sentencepiece"], "{words:?}");
            assert_eq!(text.decode(&encoded.ids).unwrap(), words, "{words:?}");
            agreed += 1;
        }
        assert!(encoded.special[0], "<s> begins");
    }
    assert!(agreed >= 6 && cases.len() == 8);
    // One embedding fewer than pieces: another model's tokenizer.
    assert!(matches!(Text::open_gguf(&file, 399), Err(metastable_model::ModelError::TokenizerMismatch { .. })));
}

#[test]
fn weights_left_in_their_files_give_the_heads_of_the_model() {
    let (weights, model) = (Weights::open(&fixture()).unwrap(), Model::open(&fixture()).unwrap());
    assert_eq!(weights.summary(), model.summary());
    for layer in 0..weights.config().layers {
        assert_eq!(weights.head_matrices(layer).unwrap(), model.head_matrices(layer).unwrap());
        assert_eq!(weights.spectra(layer).unwrap(), model.spectra(layer).unwrap());
    }
    assert!(weights.head_matrices(4).unwrap_err().to_string().contains("layer: expected a number below 4, found 4"));
    assert_eq!(weights.files(), [fixture()]);
    // Tied embeddings are counted once: 512·64 + 4 blocks + 64.
    assert_eq!(weights.summary().parameters, 512 * 64 + 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 172 + 2 * 64) + 64);
}

#[test]
fn queries_of_a_gguf_file_are_those_of_the_folder_up_to_quantisation() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
    let (quantised, exact) = (Weights::open(&fixture()).unwrap(), Weights::open(&folder).unwrap());
    for layer in 0..4 {
        let heads = quantised.head_matrices(layer).unwrap().into_iter().zip(exact.head_matrices(layer).unwrap());
        for (head, (quantised, exact)) in heads.enumerate() {
            for (found, exact) in [(quantised.query(), exact.query()), (quantised.key(), exact.key())] {
                let size = exact.as_slice().iter().map(|x| x * x).sum::<f64>();
                let pairs = found.as_slice().iter().zip(exact.as_slice());
                let error = pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
                // Four bits leave about 8 % in this norm; rows in another order would leave about 140 %.
                assert!((error / size).sqrt() < 0.15, "layer {layer}, head {head}: {}", (error / size).sqrt());
            }
        }
    }
}

/// A GGUF file of one text entry and nothing else.
fn with_entry(key: &str, value: &str) -> tempfile::NamedTempFile {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = std::fs::read(fixture()).unwrap();
    let entries = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    bytes[16..24].copy_from_slice(&(entries + 1).to_le_bytes());
    let entry = [text(key), 8_u32.to_le_bytes().to_vec(), text(value)].concat();
    // Tensors begin at a multiple of 32 bytes: spaces in the value keep them where they are.
    let room = entry.len().next_multiple_of(32) - entry.len();
    let entry = [text(key), 8_u32.to_le_bytes().to_vec(), text(&format!("{value}{}", "/".repeat(room)))].concat();
    bytes.splice(24..24, entry);
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn a_gguf_file_names_the_checkpoint_it_was_made_of_only_where_it_says_so() {
    let origin = |key: &str, value: &str| Weights::open(with_entry(key, value).path()).unwrap().made_from();
    let name = Some("HuggingFaceTB/SmolLM2-135M".to_owned());
    assert_eq!(origin("general.source.repo_url", "https://huggingface.co/HuggingFaceTB/SmolLM2-135M"), name);
    assert_eq!(origin("general.base_model.0.repo_url", "https://huggingface.co/HuggingFaceTB/SmolLM2-135M"), name);
    assert_eq!(origin("general.source.url", "https://elsewhere.org/a/b"), None);
    assert_eq!(origin("general.source.url", "../../etc"), None);
    assert_eq!(Weights::open(&fixture()).unwrap().made_from(), None);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
    assert_eq!(Weights::open(&folder).unwrap().made_from(), None);
}

#[test]
fn a_gguf_file_as_a_folder_is_the_same_model_to_the_bit() {
    let weights = Weights::open(&fixture()).unwrap();
    let decoded = weights.dequantized().unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in decoded.files() {
        std::fs::write(folder.path().join(file), decoded.bytes(file).unwrap()).unwrap();
    }
    let again = Weights::open(folder.path()).unwrap();
    assert_eq!(again.config(), weights.config());
    assert!(again.dequantized().unwrap().is_none(), "a folder is one already");
    let answer = |weights: &Weights| {
        let model = Model::load(weights).unwrap();
        model.logits(&model.forward(&Input::new(vec![5, 80, 300, 7]).unwrap()).unwrap()).unwrap()
    };
    assert_eq!(answer(&again), answer(&weights));
    for text in ["Arise, fair sun, and kill the envious moon", "42 naïve  façades\n\t— ok?", "a</s>b"] {
        assert_eq!(again.text().unwrap().encode(text).unwrap(), weights.text().unwrap().encode(text).unwrap());
    }
    assert!(decoded.bytes("another").unwrap_err().to_string().contains("one of the folder's files"));
}
