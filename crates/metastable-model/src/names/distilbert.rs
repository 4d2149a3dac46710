//! DistilBERT: BERT's parts under other names.

use super::{LayerParameter, Parameter, Part, Spelling, linear, norm, rows, with_and_without};

pub(super) fn spellings(parameter: Parameter) -> Vec<Spelling> {
    let names = match parameter {
        Parameter::TokenEmbedding => vec!["embeddings.word_embeddings.weight".to_owned()],
        Parameter::PositionEmbedding => vec!["embeddings.position_embeddings.weight".to_owned()],
        Parameter::EmbeddingNorm(part) => norm("embeddings.LayerNorm", part),
        Parameter::Layer(layer, of, part) => in_layer(&format!("transformer.layer.{layer}"), of, part),
        Parameter::SegmentEmbedding
        | Parameter::EmbeddingProjection(_)
        | Parameter::FinalNorm(_)
        | Parameter::Output => vec![],
    };
    rows(with_and_without("distilbert", names))
}

fn in_layer(layer: &str, of: LayerParameter, part: Part) -> Vec<String> {
    let linear = |path: &str| linear(&format!("{layer}.{path}"), part);
    match of {
        LayerParameter::Query => linear("attention.q_lin"),
        LayerParameter::Key => linear("attention.k_lin"),
        LayerParameter::Value => linear("attention.v_lin"),
        LayerParameter::AttentionOutput => linear("attention.out_lin"),
        LayerParameter::AttentionNorm => norm(&format!("{layer}.sa_layer_norm"), part),
        LayerParameter::FeedForwardIn => linear("ffn.lin1"),
        LayerParameter::FeedForwardOut => linear("ffn.lin2"),
        LayerParameter::FeedForwardNorm => norm(&format!("{layer}.output_layer_norm"), part),
        LayerParameter::QueryNorm | LayerParameter::KeyNorm | LayerParameter::FeedForwardGate => vec![],
    }
}
