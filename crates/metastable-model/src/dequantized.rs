//! A GGUF file as the Hugging Face folder it stands for: config.json, tokenizer, and weights whose blocks are decoded.
//!
//! Every number that blocks encode is an f32, so nothing is lost, and both give the same results to the bit; the folder is
//! as large as the model in single precision.

use std::collections::BTreeMap;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use crate::config::{Config, OutputHead, written_in_gguf};
use crate::error::ModelError;
use crate::gguf::{Gguf, Metadata};
use crate::lora::{NewTensor, f32_bytes, write_tensors};
use crate::mapped::map;
use crate::names::{LayerParameter, Parameter, Part, spellings};
use crate::text::gguf_tokenizer;
use crate::weights::Weights;

/// The files of a folder, made one by one: what is in memory at once is the largest of them.
pub struct Dequantized<'a> {
    weights: &'a Weights,
    small: BTreeMap<&'static str, Vec<u8>>,
    shards: Vec<(String, Vec<Stored>)>,
    notes: Vec<String>,
}

/// A tensor of the folder.
struct Stored {
    name: String,
    parameter: Parameter,
    shape: Vec<usize>,
}

/// A file of weights holds no more, unless a single tensor does.
const LARGEST_SHARD: usize = 2 << 30;

/// Index of the files of weights, where there are several.
const INDEX: &str = "model.safetensors.index.json";

impl Weights {
    /// A GGUF file as a folder; none where the checkpoint is a folder already. O(metadata).
    ///
    /// # Errors
    /// [`ModelError::Tensor`] where the file has divisors of rotary positions of its own, which no config.json states.
    pub fn dequantized(&self) -> Result<Option<Dequantized<'_>>, ModelError> {
        if !self.is_gguf() {
            return Ok(None);
        }
        let path = self.checkpoint().path();
        let bytes = map(path, "a GGUF file")?;
        let malformed = |found| ModelError::Malformed { path: path.into(), expected: "a GGUF file", found };
        let gguf = Gguf::parse(&bytes).map_err(malformed)?;
        if self.checkpoint().tensors().has(Parameter::RotaryDivisors) {
            return Err(ModelError::Tensor {
                path: path.into(),
                tensor: "rope_freqs.weight".into(),
                expected: "rotary positions that a config.json can state".into(),
                found: "a table of divisors of their frequencies".into(),
            });
        }
        let shards = shards(self.stored(), LARGEST_SHARD);
        let mut small = BTreeMap::from([("config.json", pretty(&config_json(&gguf)))]);
        if shards.len() > 1 {
            small.insert(INDEX, pretty(&index(&shards)));
        }
        let mut notes = vec!["the blocks of the GGUF file are written as the F32 numbers they encode".to_owned()];
        match gguf_tokenizer(&gguf.metadata) {
            Ok(tokenizer) => {
                small.insert("tokenizer.json", pretty(&tokenizer));
                small.insert("tokenizer_config.json", pretty(&tokenizer_config(&gguf.metadata, self.config())));
            }
            Err((expected, found)) => notes.push(format!("no tokenizer.json: expected {expected}, found {found}")),
        }
        Ok(Some(Dequantized { weights: self, small, shards, notes }))
    }

    /// Every tensor that the forward pass reads, under the family's own names.
    fn stored(&self) -> Vec<Stored> {
        let (config, tensors) = (self.config(), self.checkpoint().tensors());
        let table = vec![config.vocab, config.hidden];
        let mut all = vec![(Parameter::TokenEmbedding, table.clone())];
        for layer in 0..config.distinct_layers {
            for of in LayerParameter::ALL {
                let shape = of.shape(config);
                all.push((Parameter::Layer(layer, of, Part::Bias), vec![shape[0]]));
                all.push((Parameter::Layer(layer, of, Part::Weight), shape));
            }
        }
        all.push((Parameter::FinalNorm(Part::Weight), vec![config.hidden]));
        if config.output != OutputHead::Tied {
            all.push((Parameter::Output, table));
        }
        let name = |parameter| spellings(config.family, parameter).into_iter().next().map(|usual| usual.name);
        let here = all.into_iter().filter(|(parameter, _)| tensors.has(*parameter));
        here.filter_map(|(parameter, shape)| Some(Stored { name: name(parameter)?, parameter, shape })).collect()
    }
}

impl Dequantized<'_> {
    /// The names of the files, all of which [`Dequantized::bytes`] makes.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.small.keys().copied().chain(self.shards.iter().map(|(name, _)| name.as_str()))
    }

    /// What was left aside, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The bytes of a file. O(file).
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for a NaN, an infinity or a wrong shape.
    pub fn bytes(&self, file: &str) -> Result<Vec<u8>, ModelError> {
        if let Some(bytes) = self.small.get(file) {
            return Ok(bytes.clone());
        }
        let Some((_, stored)) = self.shards.iter().find(|(name, _)| name == file) else {
            return Err(ModelError::input("file", "one of the folder's files", file));
        };
        let tensors = self.weights.checkpoint().tensors();
        let decoded = |tensor: &Stored| Ok(f32_bytes(&tensors.take(tensor.parameter, &tensor.shape)?));
        let bytes = stored.iter().map(decoded).collect::<Result<Vec<_>, ModelError>>()?;
        let new: Vec<NewTensor<'_>> = stored
            .iter()
            .zip(&bytes)
            .map(|(tensor, bytes)| NewTensor { name: &tensor.name, dtype: Dtype::F32, shape: &tensor.shape, bytes })
            .collect();
        Ok(write_tensors(&[("format".into(), json!("pt"))], &new))
    }
}

/// Tensors in order, in files of at most `limit` bytes where that can be.
fn shards(stored: Vec<Stored>, limit: usize) -> Vec<(String, Vec<Stored>)> {
    let mut groups: Vec<(usize, Vec<Stored>)> = Vec::new();
    for tensor in stored {
        let bytes = size_of::<f32>() * tensor.shape.iter().product::<usize>();
        match groups.last_mut().filter(|(size, _)| size + bytes <= limit) {
            Some((size, group)) => {
                *size += bytes;
                group.push(tensor);
            }
            None => groups.push((bytes, vec![tensor])),
        }
    }
    let count = groups.len();
    let name = |index: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    };
    groups.into_iter().enumerate().map(|(index, (_, group))| (name(index), group)).collect()
}

fn index(shards: &[(String, Vec<Stored>)]) -> Value {
    let places = shards.iter().flat_map(|(file, stored)| stored.iter().map(move |tensor| (tensor, file)));
    let map: Map<String, Value> = places.map(|(tensor, file)| (tensor.name.clone(), json!(file))).collect();
    json!({"metadata": {}, "weight_map": map})
}

/// What `transformers` would have written.
fn config_json(gguf: &Gguf<'_>) -> Value {
    let architecture = gguf.metadata.text("general.architecture").unwrap_or_default();
    let mut entries = written_in_gguf(gguf);
    entries.retain(|_, value| !value.is_null());
    entries.insert("model_type".into(), json!(architecture));
    let class = match architecture {
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    entries.insert("architectures".into(), json!([class]));
    entries.insert("hidden_act".into(), json!("silu"));
    entries.insert("torch_dtype".into(), json!("float32"));
    for (key, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = gguf.metadata.integer(&format!("tokenizer.ggml.{name}_token_id")) {
            entries.insert(key.into(), json!(id));
        }
    }
    Value::Object(entries)
}

/// What `transformers` asks for beside tokenizer.json.
fn tokenizer_config(metadata: &Metadata<'_>, config: &Config) -> Value {
    let tokens = metadata.array("tokenizer.ggml.tokens").and_then(|array| array.texts()).unwrap_or_default();
    let mut entries = Map::new();
    entries.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    entries.insert("model_max_length".into(), json!(config.positions));
    entries.insert("clean_up_tokenization_spaces".into(), json!(false));
    for (key, name) in [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")]
    {
        let id = metadata.integer(&format!("tokenizer.ggml.{name}_token_id"));
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
            entries.insert(key.into(), json!(token));
        }
    }
    if let Some(template) = metadata.text("tokenizer.chat_template") {
        entries.insert("chat_template".into(), json!(template));
    }
    Value::Object(entries)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_keep_the_order_and_the_limit_and_are_named_by_their_count() {
        let stored = |numbers: usize| Stored {
            name: numbers.to_string(),
            parameter: Parameter::TokenEmbedding,
            shape: vec![numbers],
        };
        let split = |limit| -> Vec<(String, usize)> {
            let tensors = [3, 4, 20, 1].map(stored).into();
            shards(tensors, limit).into_iter().map(|(name, group)| (name, group.len())).collect()
        };
        assert_eq!(split(1 << 20), [("model.safetensors".to_owned(), 4)]);
        // Seven numbers fit; twenty do not, and have a file of their own.
        let names = [1, 2, 3].map(|index| format!("model-{index:05}-of-00003.safetensors"));
        assert_eq!(split(28), [(names[0].clone(), 2), (names[1].clone(), 1), (names[2].clone(), 1)]);
        let weight_map = &index(&shards([3, 20].map(stored).into(), 12))["weight_map"];
        assert_eq!(weight_map["20"], "model-00002-of-00002.safetensors");
    }
}
