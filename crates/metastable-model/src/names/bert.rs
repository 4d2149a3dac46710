//! BERT: keys with or without the `bert.` prefix (a task head adds it), norms as weight/bias or, in files that came
//! from TensorFlow, gamma/beta.

use super::{LayerParameter, Parameter, Part};

pub(super) fn spellings(parameter: Parameter) -> Vec<String> {
    let bare = match parameter {
        Parameter::TokenEmbedding => vec!["embeddings.word_embeddings.weight".to_owned()],
        Parameter::PositionEmbedding => vec!["embeddings.position_embeddings.weight".to_owned()],
        Parameter::SegmentEmbedding => vec!["embeddings.token_type_embeddings.weight".to_owned()],
        Parameter::EmbeddingNorm(part) => norm("embeddings.LayerNorm", part),
        Parameter::Layer(layer, of, part) => in_layer(&format!("encoder.layer.{layer}"), of, part),
    };
    bare.iter().cloned().chain(bare.iter().map(|name| format!("bert.{name}"))).collect()
}

fn in_layer(layer: &str, of: LayerParameter, part: Part) -> Vec<String> {
    let linear = |path: &str| match part {
        Part::Weight => vec![format!("{layer}.{path}.weight")],
        Part::Bias => vec![format!("{layer}.{path}.bias")],
    };
    match of {
        LayerParameter::Query => linear("attention.self.query"),
        LayerParameter::Key => linear("attention.self.key"),
        LayerParameter::Value => linear("attention.self.value"),
        LayerParameter::AttentionOutput => linear("attention.output.dense"),
        LayerParameter::AttentionNorm => norm(&format!("{layer}.attention.output.LayerNorm"), part),
        LayerParameter::FeedForwardIn => linear("intermediate.dense"),
        LayerParameter::FeedForwardOut => linear("output.dense"),
        LayerParameter::FeedForwardNorm => norm(&format!("{layer}.output.LayerNorm"), part),
    }
}

fn norm(path: &str, part: Part) -> Vec<String> {
    match part {
        Part::Weight => vec![format!("{path}.weight"), format!("{path}.gamma")],
        Part::Bias => vec![format!("{path}.bias"), format!("{path}.beta")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixed_and_bare_spellings_are_both_offered() {
        let query = spellings(Parameter::Layer(3, LayerParameter::Query, Part::Bias));
        let bare = "encoder.layer.3.attention.self.query.bias";
        assert_eq!(query, [bare.to_owned(), format!("bert.{bare}")]);
        assert!(spellings(Parameter::EmbeddingNorm(Part::Weight)).contains(&"bert.embeddings.LayerNorm.gamma".into()));
    }
}
