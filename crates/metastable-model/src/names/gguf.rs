//! GGUF files of Llama, Mistral and Qwen. llama.cpp pairs neighbouring rows of Llama's queries and keys; Qwen's stay.

use super::{LayerParameter, Parameter, Spelling, Storage, linear};
use crate::config::{Config, Family};

pub(super) fn spellings(config: &Config, parameter: Parameter) -> Vec<Spelling> {
    let mut storage = Storage::Rows;
    let names = match parameter {
        Parameter::TokenEmbedding => vec!["token_embd.weight".to_owned()],
        Parameter::FinalNorm(part) => linear("output_norm", part),
        Parameter::Output => vec!["output.weight".to_owned()],
        Parameter::RotaryDivisors => vec!["rope_freqs.weight".to_owned()],
        Parameter::Layer(layer, of, part) => {
            storage = stored(config, of);
            linear(&format!("blk.{layer}.{}", path(of)), part)
        }
        Parameter::PositionEmbedding
        | Parameter::SegmentEmbedding
        | Parameter::EmbeddingNorm(_)
        | Parameter::EmbeddingProjection(_)
        | Parameter::Head(..) => vec![],
    };
    names.into_iter().map(|name| Spelling { name, storage }).collect()
}

fn stored(config: &Config, of: LayerParameter) -> Storage {
    match (config.family, of) {
        (Family::Llama | Family::Mistral, LayerParameter::Query) => Storage::PairedRows { heads: config.heads },
        (Family::Llama | Family::Mistral, LayerParameter::Key) => Storage::PairedRows { heads: config.kv_heads },
        _ => Storage::Rows,
    }
}

fn path(of: LayerParameter) -> &'static str {
    match of {
        LayerParameter::Query => "attn_q",
        LayerParameter::Key => "attn_k",
        LayerParameter::Value => "attn_v",
        LayerParameter::AttentionOutput => "attn_output",
        LayerParameter::AttentionNorm => "attn_norm",
        LayerParameter::QueryNorm => "attn_q_norm",
        LayerParameter::KeyNorm => "attn_k_norm",
        LayerParameter::FeedForwardIn => "ffn_up",
        LayerParameter::FeedForwardGate => "ffn_gate",
        LayerParameter::FeedForwardOut => "ffn_down",
        LayerParameter::FeedForwardNorm => "ffn_norm",
    }
}
