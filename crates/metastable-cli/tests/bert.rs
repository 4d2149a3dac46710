//! A tiny BERT with seeded random weights and a WordPiece tokenizer, in the layout of the Hugging Face hub.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::util::safetensors;

pub(crate) const LAYERS: usize = 2;
pub(crate) const HIDDEN: usize = 12;
pub(crate) const HEADS: usize = 3;
pub(crate) const INNER: usize = 20;
pub(crate) const POSITIONS: usize = 24;
/// Special tokens, words, and single characters, so that any ASCII text has tokens.
const WORDS: [&str; 9] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sit", "##s", "outside"];

/// The number of token embeddings.
pub(crate) fn vocabulary() -> usize {
    tokens().len()
}

fn tokens() -> Vec<String> {
    let letters = ('!'..='~').filter(|letter| !letter.is_ascii_uppercase()).map(String::from);
    let pieces = ('a'..='z').filter(|letter| *letter != 's').map(|letter| format!("##{letter}"));
    WORDS.iter().map(|word| (*word).to_owned()).chain(letters).chain(pieces).collect()
}

/// Writes the model into `folder`/bert.
pub(crate) fn write(folder: &Path) -> PathBuf {
    let model = folder.join("bert");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), config().to_string()).unwrap();
    fs::write(model.join("tokenizer.json"), tokenizer(&tokens()).to_string()).unwrap();
    fs::write(model.join("model.safetensors"), weights()).unwrap();
    model
}

pub(crate) fn config() -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": INNER,
        "vocab_size": vocabulary(), "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
    })
}

/// A tokenizer whose ids are places in `tokens`.
pub(crate) fn tokenizer(tokens: &[String]) -> Value {
    let vocab: serde_json::Map<_, _> = tokens.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": WORDS[id], "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let ids = |id: usize| json!({"id": WORDS[id], "ids": [id], "tokens": [WORDS[id]]});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0), special(1), special(2), special(3)],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, token("[SEP]")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"[CLS]": ids(2), "[SEP]": ids(3)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    })
}

/// Names and shapes of all tensors.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    for (name, rows) in [("word", vocabulary()), ("position", POSITIONS), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, HIDDEN]);
    }
    let norms = |layer: &str| [format!("{layer}.attention.output.LayerNorm"), format!("{layer}.output.LayerNorm")];
    let layers: Vec<String> = (0..LAYERS).map(|layer| format!("encoder.layer.{layer}")).collect();
    for name in layers.iter().flat_map(|layer| norms(layer)).chain(["embeddings.LayerNorm".to_owned()]) {
        add(format!("{name}.weight"), &[HIDDEN]);
        add(format!("{name}.bias"), &[HIDDEN]);
    }
    for layer in &layers {
        for (name, rows, columns) in [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ] {
            add(format!("{layer}.{name}.weight"), &[rows, columns]);
            add(format!("{layer}.{name}.bias"), &[rows]);
        }
    }
    shapes
}

/// splitmix64 (S. Vigna), as numbers in [-1, 1); gains of norms are near 1.
fn weights() -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in shapes() {
        let begin = data.len();
        let gain = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        for _ in 0..shape.iter().product::<usize>() {
            data.extend((gain + 0.5 * next()).to_le_bytes());
        }
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    safetensors(&Value::Object(header).to_string(), &data)
}
