//! The feed-forward block: every token for itself.

use super::activation::activate;
use crate::checkpoint::Tensors;
use crate::config::{Activation, Config, FeedForwardKind};
use crate::error::ModelError;
use crate::linear::{Constant, Linear};
use crate::names::LayerParameter;

/// W₂ σ(W₁ x + b₁) + b₂, or W₂ (σ(W_g x) ⊙ W₁ x).
#[derive(Debug, Clone)]
pub(crate) struct FeedForward {
    /// W₁ [intermediate, hidden].
    pub(crate) input: Linear,
    /// W_g [intermediate, hidden], where the block is gated.
    pub(crate) gate: Option<Linear>,
    /// W₂ [hidden, intermediate].
    pub(crate) output: Linear,
    /// σ.
    pub(crate) activation: Activation,
}

impl FeedForward {
    /// Loads the two or three maps of a distinct block.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(crate) fn load(tensors: &Tensors<'_>, config: &Config, layer: usize) -> Result<Self, ModelError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let constant = Constant::from_flag(config.biases.feed_forward);
        let load = |parameter, shape| Linear::load(tensors, (layer, parameter), shape, constant);
        Ok(Self {
            input: load(LayerParameter::FeedForwardIn, [intermediate, hidden])?,
            gate: match config.feed_forward {
                FeedForwardKind::Plain => None,
                FeedForwardKind::Gated => Some(load(LayerParameter::FeedForwardGate, [intermediate, hidden])?),
            },
            output: load(LayerParameter::FeedForwardOut, [hidden, intermediate])?,
            activation: config.activation,
        })
    }

    /// What W₂ is applied to: σ(W₁ x + b₁), or σ(W_g x) ⊙ W₁ x; [n, intermediate].
    pub(crate) fn inner(&self, x: &[f32]) -> Vec<f32> {
        let width = self.input.outputs();
        let mut inner = vec![0.0; x.len() / self.input.inputs() * width];
        let Some(gate) = &self.gate else {
            self.input.apply_then(x, &mut inner, |_, block| activate(self.activation, block));
            return inner;
        };
        let up = self.input.map(x);
        gate.apply_then(x, &mut inner, |first, block| {
            activate(self.activation, block);
            block.iter_mut().zip(&up[first * width..]).for_each(|(gate, up)| *gate *= up);
        });
        inner
    }
}
