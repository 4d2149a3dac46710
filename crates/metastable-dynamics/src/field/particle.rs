//! Attention moving the tokens themselves, in R^d or on spheres.

use std::sync::{Mutex, PoisonError};

use super::VectorField;
use crate::attention::jacobian::{add_transposed, attend_jvp, attend_vjp};
use crate::attention::streaming::{attend, attend_in_single_precision};
use crate::attention::{AttentionKernel, Projections};
use crate::error::DynamicsError;
use crate::geometry::{Geometry, Spheres};
use crate::head::Head;
use crate::linalg::dot;

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
/// \[text\]\[lean\]. One evaluation costs O(H n² (k + m)) time and O(n d) memory.
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
    messages_in: Precision,
    scratch: Mutex<Scratch>,
}

/// The number type of the messages Σ_j P_ij V x_j; all else is f64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    Double,
    Single,
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
        Ok(Self { heads, kernel, count, dim, placement, messages_in: Precision::Double, scratch })
    }

    /// The same flow with scores, weights and their sums computed in `f32`
    /// ([`attend_in_single_precision`]): less than half of the time. The state, Q, K, V, W, their products with
    /// tokens, the projection to spheres and all derivatives stay f64. The velocity then has rounding noise of about
    /// 1e-7 of its size, below which no tolerance of a solver makes sense.
    pub fn in_single_precision(self) -> Self {
        Self { messages_in: Precision::Single, ..self }
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

    /// Writes J E, the derivative of the field at `state` along `direction` E [n, d], into `out` [n, d].
    ///
    /// With u_i = Σ_h W_h y^h_i and the derivative u̇ of [`attend_jvp`]; on spheres, where F_i = u_i - <x_i, u_i> x_i,
    /// Ḟ_i = u̇_i - (<ẋ_i, u_i> + <x_i, u̇_i>) x_i - <x_i, u_i> ẋ_i \[derived\]: the derivative of the formula in
    /// R^d, also for directions that are not tangent. O(H n² (k + m)) time, O(n (d + k + m)) memory.
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    pub fn jvp(&self, _t: f64, state: &[f64], direction: &[f64], out: &mut [f64]) {
        assert!([direction.len(), out.len()] == [self.len(); 2], "direction and out of the state's length");
        out.fill(0.0);
        for (h, head) in self.heads.iter().enumerate() {
            let (projections, tangents) = (self.projections(h, state), self.projections(h, direction));
            let mut messages = vec![0.0; self.count * head.value().rows()];
            attend_jvp(&projections, &tangents, &self.kernel, &mut messages);
            add_output(head, &messages, out);
        }
        if self.placement == Placement::Tangent {
            let ambient = self.ambient_velocity(state);
            let clouds = [state, direction, &ambient].map(|cloud| cloud.chunks_exact(self.dim));
            let [tokens, directions, velocities] = clouds;
            for (((x, dx), u), du) in tokens.zip(directions).zip(velocities).zip(out.chunks_exact_mut(self.dim)) {
                let (radial, change) = (dot(x, u), dot(dx, u) + dot(x, du));
                du.iter_mut().zip(x).zip(dx).for_each(|((du, x), dx)| *du -= change * x + radial * dx);
            }
        }
    }

    /// Writes Jᵀ G, the gradient of <G, F(state)> for a `cotangent` G [n, d], into `out` [n, d].
    ///
    /// The transpose of [`ParticleFlow::jvp`]: on spheres ū_i = G_i - <x_i, G_i> x_i goes back through the heads and
    /// -<x_i, G_i> u_i - <x_i, u_i> G_i is added for the projection \[derived\]. Same cost.
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    pub fn vjp(&self, _t: f64, state: &[f64], cotangent: &[f64], out: &mut [f64]) {
        assert!([cotangent.len(), out.len()] == [self.len(); 2], "cotangent and out of the state's length");
        out.fill(0.0);
        let mut ambient_cotangent = cotangent.to_vec();
        if self.placement == Placement::Tangent {
            Spheres { dim: self.dim }.project(state, &mut ambient_cotangent);
            let ambient = self.ambient_velocity(state);
            let clouds = [state, cotangent, &ambient].map(|cloud| cloud.chunks_exact(self.dim));
            let [tokens, cotangents, velocities] = clouds;
            for (((x, g), u), out) in tokens.zip(cotangents).zip(velocities).zip(out.chunks_exact_mut(self.dim)) {
                let (radial, pull) = (dot(x, u), dot(x, g));
                out.iter_mut().zip(u).zip(g).for_each(|((out, u), g)| *out = -pull * u - radial * g);
            }
        }
        for (h, head) in self.heads.iter().enumerate() {
            let messages = message_cotangent(head, &ambient_cotangent);
            let bars = attend_vjp(&self.projections(h, state), &self.kernel, &messages);
            bars.pull_back([head.query(), head.key(), head.value()], out);
        }
    }

    /// u: the field before any projection to spheres.
    fn ambient_velocity(&self, state: &[f64]) -> Vec<f64> {
        let mut velocity = vec![0.0; self.len()];
        self.add_heads(state, &mut velocity);
        velocity
    }

    /// velocity += Σ_h W_h Σ_j P^h_ij V_h x_j.
    fn add_heads(&self, state: &[f64], velocity: &mut [f64]) {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let Scratch { projections, messages } = &mut *scratch;
        for (head, projections) in self.heads.iter().zip(projections) {
            projections.fill(&self.kernel, 1.0, state, [head.query(), head.key(), head.value()]);
            let messages = &mut messages[..self.count * head.value().rows()];
            match self.messages_in {
                Precision::Double => attend(projections, &self.kernel, messages),
                Precision::Single => attend_in_single_precision(projections, &self.kernel, messages),
            }
            add_output(head, messages, velocity);
        }
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
        velocity.fill(0.0);
        self.add_heads(state, velocity);
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
                    *v += dot(output.row(c), message);
                }
            }
        }
    }
}

/// Wᵀ G_i for every token: the cotangent of a head's messages.
fn message_cotangent(head: &Head, cotangent: &[f64]) -> Vec<f64> {
    head.output().map_or_else(
        || cotangent.to_vec(),
        |output| {
            let mut messages = vec![0.0; cotangent.len() / head.dim() * output.columns()];
            add_transposed(output, cotangent, &mut messages);
            messages
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{Mask, Normalization, Score};
    use crate::random;

    /// Fields in single precision differ from those in double precision by rounding of its size, and do differ.
    #[test]
    fn single_precision_fields_are_fields_to_seven_digits() {
        for (n, d) in [(1, 3), (40, 2), (40, 20), (300, 3)] {
            for normalization in [Normalization::Softmax, Normalization::Sigmoid { bias: 0.2 }, Normalization::Linear] {
                for placement in [Placement::Ambient, Placement::Tangent] {
                    let kernel = AttentionKernel::new(Score::Dot, normalization, Mask::Causal, 2.0).unwrap();
                    let mut state = random::standard_normal(4, n, d);
                    Spheres { dim: d }.retract(&mut state);
                    let flow = || ParticleFlow::new(vec![Head::identity(d); 2], kernel, n, placement).unwrap();
                    let (mut double, mut single) = (vec![0.0; n * d], vec![0.0; n * d]);
                    flow().evaluate(0.0, &state, &mut double);
                    flow().in_single_precision().evaluate(0.0, &state, &mut single);
                    let worst = double.iter().zip(&single).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                    // Two heads of messages of size one, |S| <= 2: a few times 6e-8.
                    assert!(worst < 2e-6, "{n} {d} {normalization:?} {placement:?}: {worst:e}");
                    assert!(n < 40 || worst > 1e-9, "{normalization:?}: nothing was rounded");
                }
            }
        }
    }
}
