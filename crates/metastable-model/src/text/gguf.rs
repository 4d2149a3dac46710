//! The tokenizer inside a GGUF file, as the tokenizer.json that it was made of.
//!
//! Byte-level BPE (`tokenizer.ggml.model = gpt2`) with the splits that SmolLM, GPT-2, Llama 3 and Qwen 2 use, and
//! SentencePiece's BPE (`llama`) of Llama 1 and 2, TinyLlama and Mistral.

mod sentencepiece;

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

/// What the metadata lacks: (expected, found).
pub(crate) type Lacks = (&'static str, String);

/// A tokenizer.json; otherwise what the metadata lacks.
pub(crate) fn tokenizer_json(metadata: &Metadata<'_>) -> Result<Value, Lacks> {
    match metadata.text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level_json(metadata),
        Some("llama") => sentencepiece_json(metadata),
        other => {
            let expected = "tokenizer.ggml.model = gpt2 (byte-level BPE) or llama (SentencePiece)";
            Err((expected, other.unwrap_or("none").into()))
        }
    }
}

fn byte_level_json(metadata: &Metadata<'_>) -> Result<Value, Lacks> {
    let found = |key: &str| metadata.text(key).unwrap_or("none").to_owned();
    let (normalizer, splits) = match metadata.text("tokenizer.ggml.pre").unwrap_or("default") {
        "smollm" => (Value::Null, json!([{"type": "Digits", "individual_digits": true}, byte_level(true)])),
        "gpt-2" | "gpt2" | "default" => (Value::Null, json!([byte_level(true)])),
        "llama-bpe" | "llama3" | "llama-v3" => (Value::Null, json!([split(LLAMA3_SPLIT), byte_level(false)])),
        "qwen2" => (json!({"type": "NFC"}), json!([split(QWEN2_SPLIT), byte_level(false)])),
        _ => return Err(("tokenizer.ggml.pre = smollm, gpt-2, llama-bpe or qwen2", found("tokenizer.ggml.pre"))),
    };
    let (tokens, vocab) = vocabulary(metadata)?;
    let merges = metadata.array("tokenizer.ggml.merges").and_then(|array| array.texts());
    let merges = merges.ok_or(("strings at tokenizer.ggml.merges", "none".to_owned()))?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(metadata, &tokens),
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "post_processor": begin(metadata, &tokens, false),
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

fn sentencepiece_json(metadata: &Metadata<'_>) -> Result<Value, Lacks> {
    let (tokens, vocab) = vocabulary(metadata)?;
    let sentencepiece::Parts { model, normalizer, decoder } = sentencepiece::parts(metadata, vocab, &tokens)?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(metadata, &tokens),
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": begin(metadata, &tokens, true),
        "decoder": decoder,
        "model": model,
    }))
}

/// The tokens in order, and their ids.
fn vocabulary<'a>(metadata: &Metadata<'a>) -> Result<(Vec<&'a str>, Map<String, Value>), Lacks> {
    let tokens = metadata.array("tokenizer.ggml.tokens").and_then(|array| array.texts());
    let tokens = tokens.ok_or(("strings at tokenizer.ggml.tokens", "none".to_owned()))?;
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (String::from(*token), json!(id))).collect();
    if vocab.len() < tokens.len() {
        return Err(("tokenizer.ggml.tokens without repetition", format!("{} equal ones", tokens.len() - vocab.len())));
    }
    Ok((tokens, vocab))
}

/// Tokens that are found in a text before it is cut.
fn added_tokens(metadata: &Metadata<'_>, tokens: &[&str]) -> Vec<Value> {
    let types = metadata.array("tokenizer.ggml.token_type").and_then(|array| array.integers()).unwrap_or_default();
    (tokens.iter().zip(&types).enumerate())
        .filter(|(_, (token, kind))| matches!(**kind, CONTROL | USER_DEFINED) && !token.is_empty())
        .map(|(id, (token, kind))| added_token(id, token, *kind == CONTROL))
        .collect()
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

/// The first token that some models put before every text; `usual` where the file does not say.
fn begin(metadata: &Metadata<'_>, tokens: &[&str], usual: bool) -> Value {
    let id = metadata.integer("tokenizer.ggml.bos_token_id").filter(|id| *id < tokens.len() as u64);
    match (metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(usual), id) {
        (true, Some(id)) => {
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
