//! A small WordPiece tokenizer whose file asks for padding and truncation, as MiniLM's does.

use metastable_model::{ModelError, Text};
use serde_json::json;

const WORDS: [&str; 9] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sit", "##s", "outside"];

/// A tokenizer.json with ids 0..size; the words above, then fillers.
pub(crate) fn tokenizer_json(size: usize) -> String {
    let filler: Vec<String> = (WORDS.len()..size).map(|id| format!("filler{id}")).collect();
    let names = WORDS.iter().copied().chain(filler.iter().map(String::as_str));
    let vocab: serde_json::Map<_, _> =
        names.take(size).enumerate().map(|(id, name)| (name.into(), json!(id))).collect();
    let special = |id: usize| {
        json!({
            "id": id, "content": WORDS[id], "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let ids = |id: usize| json!({"id": WORDS[id], "ids": [id], "tokens": [WORDS[id]]});
    json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
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
    .to_string()
}

fn open() -> Text {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tokenizer_json(WORDS.len())).unwrap();
    Text::open(file.path(), WORDS.len()).unwrap()
}

#[test]
fn a_text_is_encoded_whole_whatever_the_file_says_about_padding_and_truncation() {
    let encoded = open().encode("The cat sits outside").unwrap();
    assert_eq!(encoded.ids, [2, 4, 5, 6, 7, 8, 3]);
    assert_eq!(encoded.tokens, ["[CLS]", "the", "cat", "sit", "##s", "outside", "[SEP]"]);
    assert_eq!(encoded.special, [true, false, false, false, false, false, true]);
    assert_eq!(encoded.offsets, [(0, 0), (0, 3), (4, 7), (8, 11), (11, 12), (13, 20), (0, 0)]);
    assert_eq!(encoded.dropped, 0);
}

#[test]
fn truncation_happens_only_when_asked_for_and_is_counted() {
    let text = open();
    let encoded = text.encode_at_most("The cat sits outside", 5).unwrap();
    assert_eq!(encoded.ids, [2, 4, 5, 6, 3], "special tokens are kept");
    assert_eq!(encoded.dropped, 2);
    assert_eq!(text.encode_at_most("The cat sits outside", 7).unwrap().dropped, 0);
    let message = text.encode_at_most("cat", 2).unwrap_err().to_string();
    assert!(message.contains("token limit: expected at least 3, found 2"), "{message}");
}

#[test]
fn decoding_gives_the_normalised_text_back() {
    let text = open();
    let encoded = text.encode("The cat sits outside").unwrap();
    assert_eq!(text.decode(&encoded.ids).unwrap(), "the cat sits outside");
    assert_eq!(text.vocabulary(), WORDS.len());
}

#[test]
fn special_tokens_typed_into_a_text_count_as_special() {
    let encoded = open().encode("cat [SEP] cat").unwrap();
    assert_eq!(encoded.ids, [2, 5, 3, 5, 3]);
    assert_eq!(encoded.special, [true, false, true, false, true]);
}

#[test]
fn a_text_without_tokens_is_an_error() {
    for text in ["", "   ", "\n\t"] {
        assert!(matches!(open().encode(text), Err(ModelError::EmptyText)), "{text:?}");
    }
}
