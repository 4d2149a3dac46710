//! What a reader must know of a family to read its numbers.

use metastable_model::Config;
use metastable_model::config::{Mask, NormPlace, Position};

/// Which tokens a token sees, in words.
pub(super) fn attention(mask: Mask) -> String {
    match mask {
        Mask::Full => "full".into(),
        Mask::SlidingWindow { size, first_layer: 0 } => format!("causal, the last {size}"),
        Mask::SlidingWindow { size, first_layer } => {
            format!("causal, the last {size} from block {first_layer} on")
        }
        _ => "causal".into(),
    }
}

/// Sentences about the choices of a family that change what the report's numbers mean.
pub(super) fn family_definitions(config: &Config) -> Vec<String> {
    let mut sentences = Vec::new();
    if config.norm_place == NormPlace::Before {
        sentences.push(
            "The last level is shown after the final norm, as `transformers` lists it; before_final_norm and \
             hidden_before_norm hold the stream before it."
                .into(),
        );
    }
    if config.mask != Mask::Full {
        sentences.push(format!(
            "Attention: {}. without_first leaves out special tokens and the first token, which often is a sink.",
            attention(config.mask)
        ));
    }
    if matches!(config.position, Position::Rotary(_)) {
        sentences.push(
            "Rotary positions are left out of the QK circuits: they are those of two tokens at the same place.".into(),
        );
    }
    if config.kv_heads < config.heads {
        sentences.push(format!(
            "Grouped attention: {} query heads share each key and value head (kv_head).",
            config.heads / config.kv_heads
        ));
    }
    if config.query_key_norm {
        sentences.push(
            "Queries and keys are normalised per head: circuits carry the norms' gains, not the normalisation.".into(),
        );
    }
    if config.distinct_layers < config.layers {
        sentences.push(format!("{} distinct blocks are shared by {} layers.", config.distinct_layers, config.layers));
    }
    sentences
}
