//! Attention moving the tokens themselves, in R^d or on spheres.

use std::sync::{Mutex, PoisonError};

use super::VectorField;
use crate::attention::streaming::attend;
use crate::attention::{AttentionKernel, Projections};
use crate::error::DynamicsError;
use crate::geometry::{Geometry, Spheres};
use crate::head::Head;

/// Where the velocity of a token may point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere in R^d: residual attention (M1), and residual layers that are normalised afterwards.
    Ambient,
    /// In the tangent space of the token's sphere: post-LN attention in continuous time (M3, M4).
    Tangent,
}

/// x_i' = Σ_h W_h Σ_j P^h_ij V_h x_j, projected to the tangent space if `placement` says so.
///
/// Models M1 (softmax, ambient), M3 (softmax, tangent), M4 (exponential, tangent), M5 (causal mask) of the theory
/// [text][lean]. One evaluation costs O(H n² (k + m)) time and O(n d) memory.
///
/// # References
/// Sander et al. 2110.11773; Geshkovski et al. 2312.10794, equations (SA) and (USA).
#[derive(Debug)]
pub struct ParticleFlow {
    heads: Vec<Head>,
    kernel: AttentionKernel,
    count: usize,
    dim: usize,
    placement: Placement,
    scratch: Mutex<Scratch>,
}

#[derive(Debug)]
struct Scratch {
    projections: Vec<Projections>,
    messages: Vec<f64>,
}

impl ParticleFlow {
    /// A flow of `count` tokens under all `heads`.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] if there is no head or no token; [`DynamicsError::Shape`] if heads differ in d.
    pub fn new(
        heads: Vec<Head>,
        kernel: AttentionKernel,
        count: usize,
        placement: Placement,
    ) -> Result<Self, DynamicsError> {
        let dim = heads.first().map(Head::dim).ok_or_else(|| DynamicsError::domain("head", "at least one head", 0))?;
        if count == 0 {
            return Err(DynamicsError::domain("tokens", "at least one token", 0));
        }
        if let Some(head) = heads.iter().find(|head| head.dim() != dim) {
            return Err(DynamicsError::shape("head", format!("d = {dim}"), format!("d = {}", head.dim())));
        }
        let widest = heads.iter().map(|head| head.value().rows()).max().unwrap_or(dim);
        let projections = heads.iter().map(|h| Projections::zeros(count, h.query().rows(), h.value().rows())).collect();
        let scratch = Mutex::new(Scratch { projections, messages: vec![0.0; count * widest] });
        Ok(Self { heads, kernel, count, dim, placement, scratch })
    }

    /// The heads.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// The kernel.
    pub fn kernel(&self) -> &AttentionKernel {
        &self.kernel
    }

    /// Queries, keys and values of head `h` at a state.
    ///
    /// # Panics
    /// If there is no head `h` or the state has another length.
    pub fn projections(&self, h: usize, state: &[f64]) -> Projections {
        let head = &self.heads[h];
        let mut projections = Projections::zeros(self.count, head.query().rows(), head.value().rows());
        projections.fill(&self.kernel, 1.0, state, [head.query(), head.key(), head.value()]);
        projections
    }
}

impl VectorField for ParticleFlow {
    fn len(&self) -> usize {
        self.count * self.dim
    }

    fn block_len(&self) -> usize {
        self.dim
    }

    fn evaluate(&self, _t: f64, state: &[f64], velocity: &mut [f64]) {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let Scratch { projections, messages } = &mut *scratch;
        velocity.fill(0.0);
        for (head, projections) in self.heads.iter().zip(projections) {
            projections.fill(&self.kernel, 1.0, state, [head.query(), head.key(), head.value()]);
            let messages = &mut messages[..self.count * head.value().rows()];
            attend(projections, &self.kernel, messages);
            add_output(head, messages, velocity);
        }
        if self.placement == Placement::Tangent {
            Spheres { dim: self.dim }.project(state, velocity);
        }
    }
}

/// velocity_i += W message_i (W the identity if the head has no output matrix).
fn add_output(head: &Head, messages: &[f64], velocity: &mut [f64]) {
    let d = head.dim();
    match head.output() {
        None => velocity.iter_mut().zip(messages).for_each(|(v, m)| *v += m),
        Some(output) => {
            for (message, velocity) in messages.chunks_exact(output.columns()).zip(velocity.chunks_exact_mut(d)) {
                for (c, v) in velocity.iter_mut().enumerate() {
                    *v += crate::linalg::dot(output.row(c), message);
                }
            }
        }
    }
}
