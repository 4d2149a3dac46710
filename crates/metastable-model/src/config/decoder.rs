//! Configs of decoders: GPT-2; Llama and its descendants.

use super::{Biases, Config, Family, FeedForwardKind, Keys, Mask, NormKind, NormPlace, OutputHead, Position, Rotary};
use crate::error::ModelError;

/// GPT-2, which has words of its own.
pub(super) fn gpt2(keys: &Keys<'_>) -> Result<Config, ModelError> {
    keys.fixed("scale_attn_weights", true, "scores are divided by sqrt(head_dim)")?;
    keys.fixed("scale_attn_by_inverse_layer_idx", false, "scores of all layers have one scale")?;
    keys.fixed("add_cross_attention", false, "a decoder alone")?;
    let hidden = keys.side("n_embd")?;
    let heads = keys.divisor("n_head", keys.side("n_head")?, ("n_embd", hidden))?;
    let layers = keys.side("n_layer")?;
    Ok(Config {
        family: Family::Gpt2,
        layers,
        distinct_layers: layers,
        hidden,
        embedding: hidden,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        intermediate: keys.side_or("n_inner", 4 * hidden)?,
        vocab: keys.side("vocab_size")?,
        positions: keys.side("n_positions")?,
        segments: 0,
        feed_forward: FeedForwardKind::Plain,
        activation: keys.activation("activation_function", "gelu_new")?,
        norm: NormKind::LayerNorm,
        norm_epsilon: keys.epsilon("layer_norm_epsilon", 1e-5)?,
        norm_place: NormPlace::Before,
        query_key_norm: false,
        position: Position::Learned { padding: None },
        mask: Mask::Causal,
        biases: Biases { query_key_value: true, attention_output: true, feed_forward: true },
        output: output(keys, true)?,
    })
}

/// Llama, Mistral, Qwen 2 and Qwen 3.
pub(super) fn llama_like(family: Family, keys: &Keys<'_>) -> Result<Config, ModelError> {
    let hidden = keys.side("hidden_size")?;
    let heads = keys.side("num_attention_heads")?;
    let kv_heads = match family {
        Family::Mistral if !keys.written("num_key_value_heads") => MISTRAL_KV_HEADS,
        _ => keys.side_or("num_key_value_heads", heads)?,
    };
    let layers = keys.side("num_hidden_layers")?;
    let head_dim = head_dim(family, keys, hidden, heads)?;
    let written_positions = keys.side("max_position_embeddings")?;
    let (rotary, positions) = Rotary::read(keys, written_positions)?;
    let attention_bias = keys.flag("attention_bias", false)?;
    let mlp_bias = keys.flag("mlp_bias", false)?;
    Ok(Config {
        family,
        layers,
        distinct_layers: layers,
        hidden,
        embedding: hidden,
        heads,
        kv_heads: keys.divisor("num_key_value_heads", kv_heads, ("num_attention_heads", heads))?,
        head_dim,
        intermediate: keys.side("intermediate_size")?,
        vocab: keys.side("vocab_size")?,
        positions,
        segments: 0,
        feed_forward: FeedForwardKind::Gated,
        activation: keys.activation("hidden_act", "silu")?,
        norm: NormKind::RmsNorm,
        norm_epsilon: keys.epsilon("rms_norm_eps", 1e-6)?,
        norm_place: NormPlace::Before,
        query_key_norm: family == Family::Qwen3,
        position: Position::Rotary(rotary),
        mask: mask(family, keys, layers)?,
        biases: Biases {
            query_key_value: match family {
                Family::Qwen2 => true,
                Family::Mistral => false,
                _ => attention_bias,
            },
            attention_output: matches!(family, Family::Llama | Family::Qwen3) && attention_bias,
            feed_forward: family == Family::Llama && mlp_bias,
        },
        output: output(keys, false)?,
    })
}

/// `head_dim`, where absent hidden/heads, and 128 in Qwen 3. Even, because rotations act on pairs.
fn head_dim(family: Family, keys: &Keys<'_>, hidden: usize, heads: usize) -> Result<usize, ModelError> {
    let head_dim = match keys.get("head_dim") {
        Some(_) => keys.side("head_dim")?,
        None if family == Family::Qwen3 => 128,
        None => hidden / keys.divisor("num_attention_heads", heads, ("hidden_size", hidden))?,
    };
    match head_dim.is_multiple_of(2) {
        true => Ok(head_dim),
        false => Err(keys.refuse("head_dim", "an even number, for rotations of pairs", head_dim)),
    }
}

/// Mistral's window holds for all layers; Qwen's, where it is switched on, from `max_window_layers` on.
fn mask(family: Family, keys: &Keys<'_>, layers: usize) -> Result<Mask, ModelError> {
    let first_layer = match family {
        Family::Mistral => 0,
        Family::Qwen2 | Family::Qwen3 if keys.flag("use_sliding_window", false)? => {
            let written = keys.get("max_window_layers");
            match written.map(|value| value.as_u64().ok_or(value)) {
                None => QWEN_WINDOW_LAYERS.min(layers),
                Some(Ok(first)) => usize::try_from(first).unwrap_or(layers).min(layers),
                Some(Err(value)) => return Err(keys.refuse("max_window_layers", "a number of layers", value)),
            }
        }
        _ => return Ok(Mask::Causal),
    };
    if keys.written("sliding_window") && keys.get("sliding_window").is_none() {
        return Ok(Mask::Causal);
    }
    Ok(Mask::SlidingWindow { size: keys.side_or("sliding_window", DEFAULT_WINDOW)?, first_layer })
}

/// `num_key_value_heads` of MistralConfig where config.json is silent.
const MISTRAL_KV_HEADS: usize = 8;

/// `sliding_window` of MistralConfig and Qwen2Config where config.json is silent; `null` means none.
const DEFAULT_WINDOW: usize = 4096;

/// `max_window_layers` of Qwen2Config where config.json is silent.
const QWEN_WINDOW_LAYERS: usize = 28;

fn output(keys: &Keys<'_>, tied: bool) -> Result<OutputHead, ModelError> {
    Ok(if keys.flag("tie_word_embeddings", tied)? { OutputHead::Tied } else { OutputHead::Untied })
}
