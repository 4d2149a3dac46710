use super::*;
use serde_json::json;

fn read(changes: Value) -> Result<Config, ModelError> {
    let mut value = json!({
        "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 3,
        "intermediate_size": 20, "vocab_size": 7, "max_position_embeddings": 5, "hidden_act": "gelu",
    });
    let entries = value.as_object_mut().unwrap();
    entries.extend(changes.as_object().unwrap().clone());
    entries.retain(|_, entry| !entry.is_null());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), value.to_string()).unwrap();
    Config::read(file.path())
}

#[test]
fn a_plain_bert_config_means_what_it_says() {
    let config = read(json!({})).unwrap();
    assert_eq!((config.layers, config.head_dim, config.segments), (2, 4, 2));
    assert_eq!(config.norm_epsilon, 1e-12);
    assert_eq!(read(json!({"hidden_act": "gelu_new"})).unwrap().activation, Activation::GeluTanh);
}

#[test]
fn every_wrong_value_is_named_with_what_was_expected() {
    let cases = [
        (json!({"num_attention_heads": 5}), "num_attention_heads: expected a divisor of hidden_size = 12, found 5"),
        (json!({"num_attention_heads": 0}), "num_attention_heads: expected an integer from 1"),
        (json!({"hidden_size": 1u64 << 40}), "hidden_size: expected an integer from 1 to 2^24"),
        (json!({"hidden_act": "mish"}), "hidden_act: expected gelu"),
        (json!({"position_embedding_type": "relative_key"}), "position_embedding_type: expected absolute"),
        (json!({"layer_norm_eps": -1.0}), "layer_norm_eps: expected a number between 0 and 1"),
        (json!({"is_decoder": true}), "is_decoder: expected false"),
        (json!({"vocab_size": null}), "vocab_size: expected an integer from 1 to 2^24, found no such key"),
        (json!({"vocab_size": -3}), "vocab_size: expected an integer from 1 to 2^24, found -3"),
        (json!({"model_type": "t5"}), "model_type `t5` is not supported, expected one of: bert"),
        (json!({"model_type": null}), "model_type `none` is not supported"),
    ];
    for (changes, expected) in cases {
        let message = read(changes.clone()).unwrap_err().to_string();
        assert!(message.contains(expected), "{changes}: {message}");
    }
}
