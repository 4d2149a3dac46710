//! The tokenizer inside a GGUF file, as the tokenizer.json that it was made of.
//!
//! Byte-level BPE (`tokenizer.ggml.model = gpt2`) with the splits that SmolLM, GPT-2, Llama 3 and Qwen 2 use.

use serde_json::{Map, Value, json};

use crate::gguf::Metadata;

/// What `tokenizer.ggml.token_type` calls control tokens, which no text contains.
const CONTROL: i64 = 3;

/// And those that users added.
const USER_DEFINED: i64 = 4;

/// Llama 3's pattern \[code: llama.cpp `llama-vocab.cpp`, llama-bpe\].
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2's, which takes digits one by one \[code: llama.cpp `llama-vocab.cpp`, qwen2\].
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer.json; otherwise what the metadata lacks: (expected, found).
pub(super) fn tokenizer_json(metadata: &Metadata<'_>) -> Result<Value, (&'static str, String)> {
    let found = |key: &str| metadata.text(key).unwrap_or("none").to_owned();
    if metadata.text("tokenizer.ggml.model") != Some("gpt2") {
        return Err(("tokenizer.ggml.model = gpt2 (byte-level BPE)", found("tokenizer.ggml.model")));
    }
    let (normalizer, splits) = match metadata.text("tokenizer.ggml.pre").unwrap_or("default") {
        "smollm" => (Value::Null, json!([{"type": "Digits", "individual_digits": true}, byte_level(true)])),
        "gpt-2" | "gpt2" | "default" => (Value::Null, json!([byte_level(true)])),
        "llama-bpe" | "llama3" | "llama-v3" => (Value::Null, json!([split(LLAMA3_SPLIT), byte_level(false)])),
        "qwen2" => (json!({"type": "NFC"}), json!([split(QWEN2_SPLIT), byte_level(false)])),
        _ => return Err(("tokenizer.ggml.pre = smollm, gpt-2, llama-bpe or qwen2", found("tokenizer.ggml.pre"))),
    };
    let texts = |key| metadata.array(key).and_then(|array| array.texts());
    let tokens = texts("tokenizer.ggml.tokens").ok_or(("strings at tokenizer.ggml.tokens", "none".to_owned()))?;
    let merges = texts("tokenizer.ggml.merges").ok_or(("strings at tokenizer.ggml.merges", "none".to_owned()))?;
    let types = metadata.array("tokenizer.ggml.token_type").and_then(|array| array.integers()).unwrap_or_default();
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (String::from(*token), json!(id))).collect();
    if vocab.len() < tokens.len() {
        return Err(("tokenizer.ggml.tokens without repetition", format!("{} equal ones", tokens.len() - vocab.len())));
    }
    let added: Vec<Value> = (tokens.iter().zip(&types).enumerate())
        .filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED))
        .map(|(id, (token, kind))| added_token(id, token, *kind == CONTROL))
        .collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "post_processor": begin(metadata, &tokens),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn added_token(id: usize, token: &str, special: bool) -> Value {
    json!({
        "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

/// The first token that some models put before every text.
fn begin(metadata: &Metadata<'_>, tokens: &[&str]) -> Value {
    let id = metadata.integer("tokenizer.ggml.bos_token_id").filter(|id| *id < tokens.len() as u64);
    match (metadata.flag("tokenizer.ggml.add_bos_token"), id) {
        (Some(true), Some(id)) => {
            let token = tokens[id as usize];
            json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
            })
        }
        _ => Value::Null,
    }
}
