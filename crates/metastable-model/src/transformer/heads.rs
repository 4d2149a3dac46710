//! Heads that tasks put on encoders: frozen parts of the road from hidden states to a loss.

use super::norm::Norm;
use crate::checkpoint::Tensors;
use crate::config::{Activation, Config, Family, NormKind};
use crate::error::ModelError;
use crate::linear::{Constant, Linear};
use crate::names::{HeadParameter, Parameter, Part};

/// The heads that a checkpoint holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heads {
    /// W_p, b_p of tanh(W_p h_first + b_p).
    pub(crate) pooler: Option<Linear>,
    /// The way to scores of masked tokens.
    pub(crate) masked: Option<MaskedHead>,
}

/// Scores of masked tokens: E·norm(σ(W h + b)) + c, E the token embedding.
#[derive(Debug, Clone)]
pub(crate) struct MaskedHead {
    /// W [embedding, hidden], b.
    pub(crate) transform: Linear,
    /// σ.
    pub(crate) activation: Activation,
    /// The norm.
    pub(crate) norm: Norm,
    /// c [vocab].
    pub(crate) constants: Vec<f32>,
}

impl Heads {
    /// Loads what is there.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for a head that is there in part, or does not fit.
    pub(crate) fn load(tensors: &Tensors<'_>, config: &Config) -> Result<Self, ModelError> {
        let has = |of| tensors.has(Parameter::Head(of, Part::Weight));
        let linear = |of, shape| Linear::load_as(tensors, |part| Parameter::Head(of, part), shape, Constant::With);
        let pooler = match has(HeadParameter::Pooler) {
            true => Some(linear(HeadParameter::Pooler, [config.hidden, config.hidden])?),
            false => None,
        };
        let masked = match has(HeadParameter::MaskedTransform) {
            true => Some(MaskedHead {
                transform: linear(HeadParameter::MaskedTransform, [config.embedding, config.hidden])?,
                activation: match config.family {
                    // RoBERTa's and XLM-RoBERTa's heads always use the exact GELU.
                    Family::Roberta | Family::XlmRoberta => Activation::Gelu,
                    _ => config.activation,
                },
                norm: Norm::load(
                    tensors,
                    |part| Parameter::Head(HeadParameter::MaskedNorm, part),
                    config.embedding,
                    (NormKind::LayerNorm, config.norm_epsilon),
                )?,
                constants: tensors.take(Parameter::Head(HeadParameter::MaskedScores, Part::Bias), &[config.vocab])?,
            }),
            false => None,
        };
        Ok(Self { pooler, masked })
    }
}
