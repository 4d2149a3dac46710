//! ALBERT: layers live in groups; a group is one distinct block.

use super::{LayerParameter, Parameter, Part, Spelling, linear, norm, rows, with_and_without};

pub(super) fn spellings(parameter: Parameter) -> Vec<Spelling> {
    let names = match parameter {
        Parameter::TokenEmbedding => vec!["embeddings.word_embeddings.weight".to_owned()],
        Parameter::PositionEmbedding => vec!["embeddings.position_embeddings.weight".to_owned()],
        Parameter::SegmentEmbedding => vec!["embeddings.token_type_embeddings.weight".to_owned()],
        Parameter::EmbeddingNorm(part) => norm("embeddings.LayerNorm", part),
        Parameter::EmbeddingProjection(part) => linear("encoder.embedding_hidden_mapping_in", part),
        Parameter::Layer(group, of, part) => {
            in_layer(&format!("encoder.albert_layer_groups.{group}.albert_layers.0"), of, part)
        }
        Parameter::FinalNorm(_) | Parameter::Output => vec![],
    };
    rows(with_and_without("albert", names))
}

fn in_layer(layer: &str, of: LayerParameter, part: Part) -> Vec<String> {
    let linear = |path: &str| linear(&format!("{layer}.{path}"), part);
    match of {
        LayerParameter::Query => linear("attention.query"),
        LayerParameter::Key => linear("attention.key"),
        LayerParameter::Value => linear("attention.value"),
        LayerParameter::AttentionOutput => linear("attention.dense"),
        LayerParameter::AttentionNorm => norm(&format!("{layer}.attention.LayerNorm"), part),
        LayerParameter::FeedForwardIn => linear("ffn"),
        LayerParameter::FeedForwardOut => linear("ffn_output"),
        LayerParameter::FeedForwardNorm => norm(&format!("{layer}.full_layer_layer_norm"), part),
        LayerParameter::QueryNorm | LayerParameter::KeyNorm | LayerParameter::FeedForwardGate => vec![],
    }
}
