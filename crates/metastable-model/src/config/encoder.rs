//! Configs of encoders: BERT and those that write their config as it does; DistilBERT.

use super::{Biases, Config, Family, FeedForwardKind, Keys, Mask, NormKind, NormPlace, OutputHead, Position};
use crate::error::ModelError;

/// BERT, RoBERTa, XLM-RoBERTa and ALBERT.
pub(super) fn bert_like(family: Family, keys: &Keys<'_>) -> Result<Config, ModelError> {
    let position = keys.text("position_embedding_type", "absolute")?;
    if position != "absolute" {
        return Err(keys.refuse("position_embedding_type", "absolute", position));
    }
    keys.fixed("is_decoder", false, "an encoder")?;
    let albert = family == Family::Albert;
    let layers = keys.side("num_hidden_layers")?;
    let hidden = keys.side("hidden_size")?;
    let rows = keys.side("max_position_embeddings")?;
    let padding = match family {
        Family::Roberta | Family::XlmRoberta => Some(keys.id("pad_token_id")?.unwrap_or(ROBERTA_PADDING)),
        _ => None,
    };
    let reserved = padding.map_or(0, |padding| padding as usize + 1);
    if rows <= reserved {
        let expected = format!("more than the {reserved} rows up to the padding's");
        return Err(keys.refuse("max_position_embeddings", expected, rows));
    }
    if albert && keys.side_or("inner_group_num", 1)? != 1 {
        return Err(keys.refuse("inner_group_num", "1", keys.side("inner_group_num")?));
    }
    let groups = if albert { keys.side_or("num_hidden_groups", 1)? } else { layers };
    if groups > layers {
        return Err(keys.refuse("num_hidden_groups", format!("at most num_hidden_layers = {layers}"), groups));
    }
    let default_activation = if albert { "gelu_new" } else { "gelu" };
    let shape = Encoder {
        family,
        layers,
        hidden,
        heads: keys.divisor("num_attention_heads", keys.side("num_attention_heads")?, ("hidden_size", hidden))?,
        intermediate: keys.side("intermediate_size")?,
        vocab: keys.side("vocab_size")?,
        positions: rows - reserved,
    };
    Ok(Config {
        distinct_layers: groups,
        embedding: if albert { keys.side_or("embedding_size", ALBERT_EMBEDDING)? } else { hidden },
        segments: keys.side_or("type_vocab_size", 2)?,
        activation: keys.activation("hidden_act", default_activation)?,
        norm_epsilon: keys.epsilon("layer_norm_eps", 1e-12)?,
        position: Position::Learned { padding },
        ..shape.config()
    })
}

/// `pad_token_id` of RobertaConfig where config.json is silent.
const ROBERTA_PADDING: u32 = 1;

/// `embedding_size` of AlbertConfig where config.json is silent.
const ALBERT_EMBEDDING: usize = 128;

/// DistilBERT, which has words of its own.
pub(super) fn distilbert(keys: &Keys<'_>) -> Result<Config, ModelError> {
    let hidden = keys.side("dim")?;
    let shape = Encoder {
        family: Family::DistilBert,
        layers: keys.side("n_layers")?,
        hidden,
        heads: keys.divisor("n_heads", keys.side("n_heads")?, ("dim", hidden))?,
        intermediate: keys.side("hidden_dim")?,
        vocab: keys.side("vocab_size")?,
        positions: keys.side("max_position_embeddings")?,
    };
    Ok(Config { activation: keys.activation("activation", "gelu")?, ..shape.config() })
}

/// What encoders have in common.
struct Encoder {
    family: Family,
    layers: usize,
    hidden: usize,
    heads: usize,
    intermediate: usize,
    vocab: usize,
    positions: usize,
}

impl Encoder {
    fn config(self) -> Config {
        Config {
            family: self.family,
            layers: self.layers,
            distinct_layers: self.layers,
            hidden: self.hidden,
            embedding: self.hidden,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim: self.hidden / self.heads,
            intermediate: self.intermediate,
            vocab: self.vocab,
            positions: self.positions,
            segments: 0,
            feed_forward: FeedForwardKind::Plain,
            activation: super::Activation::Gelu,
            norm: NormKind::LayerNorm,
            norm_epsilon: 1e-12,
            norm_place: NormPlace::After,
            query_key_norm: false,
            position: Position::Learned { padding: None },
            mask: Mask::Full,
            biases: Biases { query_key_value: true, attention_output: true, feed_forward: true },
            output: OutputHead::None,
        }
    }
}
