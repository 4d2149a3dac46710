//! GPT-2: `Conv1D` matrices [inputs, outputs]; query, key and value joined in one.

use super::{LayerParameter, Parameter, Part, Spelling, Storage, linear, rows, with_and_without};

pub(super) fn spellings(parameter: Parameter) -> Vec<Spelling> {
    match parameter {
        Parameter::TokenEmbedding => bare(vec!["wte.weight".to_owned()]),
        Parameter::PositionEmbedding => bare(vec!["wpe.weight".to_owned()]),
        Parameter::FinalNorm(part) => bare(linear("ln_f", part)),
        Parameter::Output => rows(["lm_head.weight".to_owned()]),
        Parameter::Layer(layer, of, part) => in_layer(&format!("h.{layer}"), of, part),
        Parameter::SegmentEmbedding | Parameter::EmbeddingNorm(_) | Parameter::EmbeddingProjection(_) => vec![],
    }
}

fn in_layer(layer: &str, of: LayerParameter, part: Part) -> Vec<Spelling> {
    let stored = |path: &str, storage| {
        let names = with_and_without("transformer", linear(&format!("{layer}.{path}"), part));
        names.into_iter().map(|name| Spelling { name, storage }).collect()
    };
    let joined = |index| stored("attn.c_attn", Storage::JoinedColumns { index, count: 3 });
    match of {
        LayerParameter::Query => joined(0),
        LayerParameter::Key => joined(1),
        LayerParameter::Value => joined(2),
        LayerParameter::AttentionOutput => stored("attn.c_proj", Storage::Columns),
        LayerParameter::AttentionNorm => stored("ln_1", Storage::Rows),
        LayerParameter::FeedForwardIn => stored("mlp.c_fc", Storage::Columns),
        LayerParameter::FeedForwardOut => stored("mlp.c_proj", Storage::Columns),
        LayerParameter::FeedForwardNorm => stored("ln_2", Storage::Rows),
        LayerParameter::QueryNorm | LayerParameter::KeyNorm | LayerParameter::FeedForwardGate => vec![],
    }
}

fn bare(names: Vec<String>) -> Vec<Spelling> {
    rows(with_and_without("transformer", names))
}
