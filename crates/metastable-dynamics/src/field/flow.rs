//! One name for all attention flows of clouds, so that observables can ask any of them for its attention.

use super::{ParticleFlow, RescaledFlow, VectorField};
use crate::attention::{AttentionKernel, Projections};

/// An attention flow in either kind of coordinates.
#[derive(Debug)]
pub enum AttentionFlow {
    /// Tokens themselves.
    Particle(ParticleFlow),
    /// z = e^{-tV} x.
    Rescaled(Box<RescaledFlow>),
}

impl AttentionFlow {
    /// The number of heads.
    pub fn heads(&self) -> usize {
        match self {
            Self::Particle(flow) => flow.heads().len(),
            Self::Rescaled(_) => 1,
        }
    }

    /// The kernel.
    pub fn kernel(&self) -> &AttentionKernel {
        match self {
            Self::Particle(flow) => flow.kernel(),
            Self::Rescaled(flow) => flow.kernel(),
        }
    }

    /// Queries, keys and values of head `h` at time t.
    ///
    /// # Panics
    /// If there is no head `h` or the state has another length.
    pub fn projections(&self, h: usize, t: f64, state: &[f64]) -> Projections {
        match self {
            Self::Particle(flow) => flow.projections(h, state),
            Self::Rescaled(flow) => flow.projections(t, state),
        }
    }
}

impl VectorField for AttentionFlow {
    fn len(&self) -> usize {
        match self {
            Self::Particle(flow) => flow.len(),
            Self::Rescaled(flow) => flow.len(),
        }
    }

    fn block_len(&self) -> usize {
        match self {
            Self::Particle(flow) => flow.block_len(),
            Self::Rescaled(flow) => flow.block_len(),
        }
    }

    fn evaluate(&self, t: f64, state: &[f64], velocity: &mut [f64]) {
        match self {
            Self::Particle(flow) => flow.evaluate(t, state, velocity),
            Self::Rescaled(flow) => flow.evaluate(t, state, velocity),
        }
    }
}
