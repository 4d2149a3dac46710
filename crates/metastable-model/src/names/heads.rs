//! Heads that tasks put on encoders, and what their files call them.

use super::{HeadParameter, Part, Spelling, linear, rows, with_and_without};
use crate::config::Family;

pub(super) fn spellings(family: Family, of: HeadParameter, part: Part) -> Vec<Spelling> {
    let names = match (family, of) {
        (Family::Bert, HeadParameter::Pooler) => with_and_without("bert", linear("pooler.dense", part)),
        (Family::Albert, HeadParameter::Pooler) => with_and_without("albert", linear("pooler", part)),
        (Family::Bert, HeadParameter::MaskedTransform) => linear("cls.predictions.transform.dense", part),
        (Family::Bert, HeadParameter::MaskedNorm) => linear("cls.predictions.transform.LayerNorm", part),
        (Family::Bert, HeadParameter::MaskedScores) => {
            [linear("cls.predictions", part), linear("cls.predictions.decoder", part)].concat()
        }
        (Family::Albert, HeadParameter::MaskedTransform) => linear("predictions.dense", part),
        (Family::Albert, HeadParameter::MaskedNorm) => linear("predictions.LayerNorm", part),
        (Family::Albert, HeadParameter::MaskedScores) => linear("predictions", part),
        (Family::Roberta | Family::XlmRoberta, HeadParameter::MaskedTransform) => linear("lm_head.dense", part),
        (Family::Roberta | Family::XlmRoberta, HeadParameter::MaskedNorm) => linear("lm_head.layer_norm", part),
        (Family::Roberta | Family::XlmRoberta, HeadParameter::MaskedScores) => linear("lm_head", part),
        (Family::DistilBert, HeadParameter::MaskedTransform) => linear("vocab_transform", part),
        (Family::DistilBert, HeadParameter::MaskedNorm) => linear("vocab_layer_norm", part),
        (Family::DistilBert, HeadParameter::MaskedScores) => linear("vocab_projector", part),
        _ => vec![],
    };
    rows(names)
}
