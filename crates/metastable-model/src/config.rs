//! config.json: as written by `transformers`, then as meant.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::ModelError;

/// A model family: where a checkpoint's names and its forward's choices come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// BERT encoders (J. Devlin et al., 2018): learned positions, full attention, LayerNorm after each block.
    Bert,
}

impl Family {
    const ALL: [Self; 1] = [Self::Bert];

    /// The `model_type` of config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
        }
    }
}

/// The nonlinearity of the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x Φ(x) with the normal distribution function Φ, through erf.
    Gelu,
    /// x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³))), what GPT-2 made popular.
    GeluTanh,
}

/// The shape of a model, validated: every side is at least 1 and at most 2^24, and heads divide the hidden side.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The family.
    pub family: Family,
    /// Number of blocks L.
    pub layers: usize,
    /// Width d of a token.
    pub hidden: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Rows of the token embedding.
    pub vocab: usize,
    /// Rows of the position embedding: the longest text.
    pub positions: usize,
    /// Rows of the segment embedding.
    pub segments: usize,
    /// The nonlinearity of the feed-forward block.
    pub activation: Activation,
    /// What LayerNorm adds to the variance.
    pub norm_epsilon: f64,
}

impl Config {
    /// Width of one head, d / heads.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Reads and validates a config.json.
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::Unreadable`], [`ModelError::Malformed`] (no JSON object, over 1 MiB),
    /// [`ModelError::UnsupportedFamily`], [`ModelError::Config`] naming the key.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = read_bounded(path, "config.json of a model folder", LARGEST_CONFIG)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| malformed(path, error.to_string()))?;
        let found = value.get("model_type").and_then(Value::as_str).unwrap_or("none").to_owned();
        let Some(family) = Family::ALL.into_iter().find(|family| family.name() == found) else {
            let supported = Family::ALL.map(Family::name).join(", ");
            return Err(ModelError::UnsupportedFamily { path: path.into(), found, supported });
        };
        let written: Written = serde_json::from_value(value).map_err(|error| malformed(path, error.to_string()))?;
        written.validate(family, path)
    }
}

/// config.json as written: only the keys that change the forward pass; `transformers`' defaults where it has them.
#[derive(Deserialize)]
struct Written {
    num_hidden_layers: u64,
    hidden_size: u64,
    num_attention_heads: u64,
    intermediate_size: u64,
    vocab_size: u64,
    max_position_embeddings: u64,
    #[serde(default = "two_segments")]
    type_vocab_size: u64,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "bert_norm_epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    #[serde(default)]
    is_decoder: bool,
}

fn two_segments() -> u64 {
    2
}

fn gelu() -> String {
    "gelu".into()
}

fn bert_norm_epsilon() -> f64 {
    1e-12
}

fn absolute() -> String {
    "absolute".into()
}

/// Largest accepted side: products of two sides and a size of 8 bytes then fit 64 bits.
const LARGEST_SIDE: u64 = 1 << 24;

/// Largest accepted config.json; real ones have a few kilobytes (label maps: some hundred).
const LARGEST_CONFIG: u64 = 1 << 20;

impl Written {
    fn validate(self, family: Family, path: &Path) -> Result<Config, ModelError> {
        let refuse = |name, expected: &str, found: String| ModelError::Config {
            path: path.into(),
            name,
            expected: expected.into(),
            found,
        };
        let side = |name, value: u64| match value {
            1..=LARGEST_SIDE => Ok(value as usize),
            _ => Err(refuse(name, "an integer from 1 to 2^24", value.to_string())),
        };
        let activation = match self.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
            _ => {
                return Err(refuse("hidden_act", "gelu, gelu_new, gelu_fast or gelu_pytorch_tanh", self.hidden_act));
            }
        };
        if self.position_embedding_type != "absolute" {
            return Err(refuse("position_embedding_type", "absolute", self.position_embedding_type));
        }
        if self.is_decoder {
            return Err(refuse("is_decoder", "false: an encoder", "true".into()));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return Err(refuse("layer_norm_eps", "a number between 0 and 1", self.layer_norm_eps.to_string()));
        }
        let hidden = side("hidden_size", self.hidden_size)?;
        let heads = side("num_attention_heads", self.num_attention_heads)?;
        if hidden % heads != 0 {
            let expected = format!("a divisor of hidden_size = {hidden}");
            return Err(refuse("num_attention_heads", &expected, heads.to_string()));
        }
        Ok(Config {
            family,
            layers: side("num_hidden_layers", self.num_hidden_layers)?,
            hidden,
            heads,
            intermediate: side("intermediate_size", self.intermediate_size)?,
            vocab: side("vocab_size", self.vocab_size)?,
            positions: side("max_position_embeddings", self.max_position_embeddings)?,
            segments: side("type_vocab_size", self.type_vocab_size)?,
            activation,
            norm_epsilon: self.layer_norm_eps,
        })
    }
}

/// All bytes of a file that has at most `limit` of them.
pub(crate) fn read_bounded(path: &Path, expected: &'static str, limit: u64) -> Result<Vec<u8>, ModelError> {
    let reading = |error| ModelError::reading(path, expected, error);
    let mut bytes = Vec::new();
    File::open(path).map_err(reading)?.take(limit + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > limit {
        let found = format!("more than {limit} bytes");
        return Err(ModelError::Malformed { path: path.into(), expected, found });
    }
    Ok(bytes)
}

fn malformed(path: &Path, found: String) -> ModelError {
    ModelError::Malformed {
        path: path.into(),
        expected: "a JSON object with the keys of a transformer's config",
        found,
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!((config.layers, config.head_dim(), config.segments), (2, 4, 2));
        assert_eq!(config.norm_epsilon, 1e-12);
        assert_eq!(read(json!({"hidden_act": "gelu_new"})).unwrap().activation, Activation::GeluTanh);
    }

    #[test]
    fn every_wrong_value_is_named_with_what_was_expected() {
        let cases = [
            (json!({"num_attention_heads": 5}), "num_attention_heads: expected a divisor of hidden_size = 12, found 5"),
            (json!({"num_attention_heads": 0}), "num_attention_heads: expected an integer from 1"),
            (json!({"hidden_size": 1u64 << 40}), "hidden_size: expected an integer from 1 to 2^24"),
            (json!({"hidden_act": "relu"}), "hidden_act: expected gelu"),
            (json!({"position_embedding_type": "relative_key"}), "position_embedding_type: expected absolute"),
            (json!({"layer_norm_eps": -1.0}), "layer_norm_eps: expected a number between 0 and 1"),
            (json!({"is_decoder": true}), "is_decoder: expected false"),
            (json!({"vocab_size": null}), "missing field `vocab_size`"),
            (json!({"vocab_size": -3}), "found"),
            (json!({"model_type": "t5"}), "model_type `t5` is not supported, expected one of: bert"),
            (json!({"model_type": null}), "model_type `none` is not supported"),
        ];
        for (changes, expected) in cases {
            let message = read(changes.clone()).unwrap_err().to_string();
            assert!(message.contains(expected), "{changes}: {message}");
        }
    }
}
