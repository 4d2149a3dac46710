//! Llama, Mistral and Qwen.

use super::{LayerParameter, Parameter, Spelling, linear, rows, with_and_without};

pub(super) fn spellings(parameter: Parameter) -> Vec<Spelling> {
    let names = match parameter {
        Parameter::TokenEmbedding => vec!["embed_tokens.weight".to_owned()],
        Parameter::FinalNorm(part) => linear("norm", part),
        Parameter::Output => return rows(["lm_head.weight".to_owned()]),
        Parameter::Layer(layer, of, part) => linear(&format!("layers.{layer}.{}", path(of)), part),
        Parameter::PositionEmbedding
        | Parameter::SegmentEmbedding
        | Parameter::EmbeddingNorm(_)
        | Parameter::EmbeddingProjection(_) => vec![],
    };
    // Most files hold a language model, so the prefixed name is the usual one.
    let mut spellings = rows(with_and_without("model", names));
    spellings.reverse();
    spellings
}

fn path(of: LayerParameter) -> &'static str {
    match of {
        LayerParameter::Query => "self_attn.q_proj",
        LayerParameter::Key => "self_attn.k_proj",
        LayerParameter::Value => "self_attn.v_proj",
        LayerParameter::AttentionOutput => "self_attn.o_proj",
        LayerParameter::AttentionNorm => "input_layernorm",
        LayerParameter::QueryNorm => "self_attn.q_norm",
        LayerParameter::KeyNorm => "self_attn.k_norm",
        LayerParameter::FeedForwardIn => "mlp.up_proj",
        LayerParameter::FeedForwardGate => "mlp.gate_proj",
        LayerParameter::FeedForwardOut => "mlp.down_proj",
        LayerParameter::FeedForwardNorm => "post_attention_layernorm",
    }
}
