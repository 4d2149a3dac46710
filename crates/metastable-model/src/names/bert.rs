//! BERT and RoBERTa: keys with or without the prefix that a task head adds, norms as weight/bias or, in files that came
//! from TensorFlow, gamma/beta.

use super::{LayerParameter, Parameter, Part, Spelling, linear, norm, rows, with_and_without};

pub(super) fn spellings(prefix: &str, parameter: Parameter) -> Vec<Spelling> {
    let names = match parameter {
        Parameter::TokenEmbedding => vec!["embeddings.word_embeddings.weight".to_owned()],
        Parameter::PositionEmbedding => vec!["embeddings.position_embeddings.weight".to_owned()],
        Parameter::SegmentEmbedding => vec!["embeddings.token_type_embeddings.weight".to_owned()],
        Parameter::EmbeddingNorm(part) => norm("embeddings.LayerNorm", part),
        Parameter::Layer(layer, of, part) => in_layer(&format!("encoder.layer.{layer}"), of, part),
        Parameter::EmbeddingProjection(_) | Parameter::FinalNorm(_) | Parameter::Output => vec![],
    };
    rows(with_and_without(prefix, names))
}

fn in_layer(layer: &str, of: LayerParameter, part: Part) -> Vec<String> {
    let linear = |path: &str| linear(&format!("{layer}.{path}"), part);
    match of {
        LayerParameter::Query => linear("attention.self.query"),
        LayerParameter::Key => linear("attention.self.key"),
        LayerParameter::Value => linear("attention.self.value"),
        LayerParameter::AttentionOutput => linear("attention.output.dense"),
        LayerParameter::AttentionNorm => norm(&format!("{layer}.attention.output.LayerNorm"), part),
        LayerParameter::FeedForwardIn => linear("intermediate.dense"),
        LayerParameter::FeedForwardOut => linear("output.dense"),
        LayerParameter::FeedForwardNorm => norm(&format!("{layer}.output.LayerNorm"), part),
        LayerParameter::QueryNorm | LayerParameter::KeyNorm | LayerParameter::FeedForwardGate => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixed_and_bare_spellings_are_both_offered() {
        let names = |parameter| spellings("bert", parameter).into_iter().map(|s| s.name).collect::<Vec<_>>();
        let query = names(Parameter::Layer(3, LayerParameter::Query, Part::Bias));
        let bare = "encoder.layer.3.attention.self.query.bias";
        assert_eq!(query, [bare.to_owned(), format!("bert.{bare}")]);
        let norms = names(Parameter::EmbeddingNorm(Part::Weight));
        assert!(norms.contains(&"bert.embeddings.LayerNorm.gamma".into()));
    }
}
