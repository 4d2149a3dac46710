//! One name for all attention flows of clouds, so that observables can ask any of them for its attention.

use super::{ParticleFlow, RescaledFlow, VectorField};
use crate::attention::{AttentionKernel, Projections};
use crate::error::DynamicsError;

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

    /// Why the last evaluation or product gave no numbers, if it did not: an inner iteration that did not converge.
    pub fn failure(&self) -> Option<DynamicsError> {
        match self {
            Self::Particle(flow) => flow.failure(),
            Self::Rescaled(_) => None,
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

    /// Writes J E, the derivative of the field at (t, state) along `direction` E [n, d], into `out` [n, d]. Exact,
    /// O(H n² (k + m)) time, no n x n memory, equal to the bit on any number of threads.
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    ///
    /// # Example
    /// One token moves by x' = V x whatever it attends to, so the Jacobian is V.
    /// ```
    /// use metastable_dynamics::attention::AttentionKernel;
    /// use metastable_dynamics::field::{AttentionFlow, ParticleFlow, Placement};
    /// use metastable_dynamics::{Head, Matrix};
    /// let value = Matrix::from_rows("value", &[[1.0, 2.0], [3.0, 4.0]]).unwrap();
    /// let identity = Matrix::scaled_identity(2, 1.0);
    /// let head = Head::new(identity.clone(), identity, value, None).unwrap();
    /// let kernel = AttentionKernel::softmax(1.0).unwrap();
    /// let flow = ParticleFlow::new(vec![head], kernel, 1, Placement::Ambient).unwrap();
    /// let flow = AttentionFlow::Particle(flow);
    /// let mut product = [0.0; 2];
    /// flow.jvp(0.0, &[0.3, -0.8], &[1.0, 0.0], &mut product);
    /// assert_eq!(product, [1.0, 3.0]);
    /// flow.vjp(0.0, &[0.3, -0.8], &[1.0, 0.0], &mut product);
    /// assert_eq!(product, [1.0, 2.0]);
    /// ```
    pub fn jvp(&self, t: f64, state: &[f64], direction: &[f64], out: &mut [f64]) {
        match self {
            Self::Particle(flow) => flow.jvp(t, state, direction, out),
            Self::Rescaled(flow) => flow.jvp(t, state, direction, out),
        }
    }

    /// Writes Jᵀ G, the gradient of <G, F(t, state)> for a `cotangent` G [n, d], into `out` [n, d]: the transpose of
    /// [`AttentionFlow::jvp`].
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    pub fn vjp(&self, t: f64, state: &[f64], cotangent: &[f64], out: &mut [f64]) {
        match self {
            Self::Particle(flow) => flow.vjp(t, state, cotangent, out),
            Self::Rescaled(flow) => flow.vjp(t, state, cotangent, out),
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

    fn evaluate_from(&self, t: f64, state: &[f64], memory: &[f64], next: &mut Vec<f64>, velocity: &mut [f64]) {
        match self {
            Self::Particle(flow) => flow.evaluate_from(t, state, memory, next, velocity),
            Self::Rescaled(flow) => flow.evaluate_from(t, state, memory, next, velocity),
        }
    }
}
