//! Configs out of the metadata of GGUF files: its keys are translated into those of config.json and read as these.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Config, Family, Keys, decoder};
use crate::error::ModelError;
use crate::gguf::Gguf;

/// The config of a GGUF file.
///
/// # Errors
/// [`ModelError::UnsupportedFamily`], and [`ModelError::Config`] naming the key of config.json that a value stands for.
pub(crate) fn gguf_config(path: &Path, gguf: &Gguf<'_>) -> Result<Config, ModelError> {
    let architecture = gguf.metadata.text("general.architecture").unwrap_or("none");
    let families = [Family::Llama, Family::Qwen2, Family::Qwen3];
    let Some(family) = families.into_iter().find(|family| family.name() == architecture) else {
        let supported = format!("{} (as general.architecture of a GGUF file)", families.map(Family::name).join(", "));
        return Err(ModelError::UnsupportedFamily { path: path.into(), found: architecture.into(), supported });
    };
    let written = Written { gguf, architecture };
    let entries = written.entries();
    let keys = Keys::new(path, entries);
    if let Some(experts) = written.integer("expert_count").filter(|experts| *experts > 0) {
        return Err(keys.refuse("expert_count", "0: one feed-forward block a layer", experts));
    }
    let config = decoder::llama_like(family, &keys)?;
    let rotated = written.integer("rope.dimension_count").unwrap_or(config.head_dim as u64);
    if rotated != config.head_dim as u64 {
        let expected = format!("head_dim = {}: all pairs rotate", config.head_dim);
        return Err(keys.refuse("rope.dimension_count", expected, rotated));
    }
    match written.integer("attention.value_length") {
        Some(length) if length != config.head_dim as u64 => {
            Err(keys.refuse("attention.value_length", format!("head_dim = {}", config.head_dim), length))
        }
        _ => Ok(config),
    }
}

/// What the config.json of a GGUF file's model would say; null where the file is silent.
pub(crate) fn written_in_gguf(gguf: &Gguf<'_>) -> Map<String, Value> {
    let architecture = gguf.metadata.text("general.architecture").unwrap_or_default();
    Written { gguf, architecture }.entries()
}

struct Written<'a> {
    gguf: &'a Gguf<'a>,
    architecture: &'a str,
}

impl Written<'_> {
    fn integer(&self, key: &str) -> Option<u64> {
        self.gguf.metadata.integer(&format!("{}.{key}", self.architecture))
    }

    /// A number; written as f32, so its shortest decimal is what was meant.
    fn number(&self, key: &str) -> Value {
        match self.gguf.metadata.get(&format!("{}.{key}", self.architecture)) {
            Some(crate::gguf::Value::Float(number)) => {
                (*number as f32).to_string().parse::<f64>().map_or(Value::Null, |number| json!(number))
            }
            _ => Value::Null,
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.gguf.tensors.iter().any(|info| info.name == tensor)
    }

    /// What config.json would say.
    fn entries(&self) -> Map<String, Value> {
        let embedding = self.gguf.tensors.iter().find(|info| info.name == "token_embd.weight");
        let vocab = embedding.and_then(|info| info.shape.first());
        let config = json!({
            "hidden_size": self.integer("embedding_length"),
            "num_hidden_layers": self.integer("block_count"),
            "num_attention_heads": self.integer("attention.head_count"),
            "num_key_value_heads": self.integer("attention.head_count_kv"),
            "head_dim": self.integer("attention.key_length"),
            "intermediate_size": self.integer("feed_forward_length"),
            "max_position_embeddings": self.integer("context_length"),
            "vocab_size": vocab,
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon"),
            "rope_theta": self.number("rope.freq_base"),
            "rope_scaling": self.scaling(),
            "attention_bias": self.has("blk.0.attn_q.bias"),
            "mlp_bias": self.has("blk.0.ffn_up.bias"),
            "tie_word_embeddings": !self.has("output.weight"),
        });
        match config {
            Value::Object(entries) => entries,
            _ => Map::new(),
        }
    }

    /// `rope.scaling.*`; the divisors of Llama 3 come as a tensor instead.
    fn scaling(&self) -> Value {
        let kind = self.gguf.metadata.text(&format!("{}.rope.scaling.type", self.architecture));
        match kind {
            None | Some("none") => Value::Null,
            Some(kind) => json!({
                "rope_type": kind,
                "factor": self.number("rope.scaling.factor"),
                "attention_factor": self.number("rope.scaling.attn_factor"),
                "original_max_position_embeddings": self.integer("rope.scaling.original_context_length"),
            }),
        }
    }
}
