//! Attention moving the tokens themselves, in R^d or on spheres.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::VectorField;
use crate::attention::jacobian::{Cotangents, add_transposed, attend_jvp, attend_vjp};
use crate::attention::streaming::attend;
use crate::attention::{AttentionKernel, Normalization, Projections, Sinkhorn, sinkhorn};
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
    scratch: Mutex<Scratch>,
}

#[derive(Debug)]
struct Scratch {
    projections: Vec<Projections>,
    messages: Vec<f64>,
    failure: Option<DynamicsError>,
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
        let scratch = Mutex::new(Scratch { projections, messages: vec![0.0; count * widest], failure: None });
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
            self.attend_jvp(&projections, &tangents, &mut messages);
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
            let bars = self.attend_vjp(&self.projections(h, state), &messages);
            bars.pull_back([head.query(), head.key(), head.value()], out);
        }
    }

    /// Why the last evaluation or product gave no numbers, if it did not: Sinkhorn that did not converge.
    pub fn failure(&self) -> Option<DynamicsError> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sinkhorn(&self) -> Option<Sinkhorn> {
        if let Normalization::Sinkhorn(options) = self.kernel.normalization() { Some(options) } else { None }
    }

    /// As [`attend_jvp`]; remembers why it fails.
    fn attend_jvp(&self, projections: &Projections, tangents: &Projections, out: &mut [f64]) {
        let Some(options) = self.sinkhorn() else { return attend_jvp(projections, tangents, &self.kernel, out) };
        let product = sinkhorn::solve(projections, options, &[])
            .and_then(|potentials| sinkhorn::jvp(projections, tangents, options, &potentials, out));
        if let Err(error) = product {
            out.fill(f64::NAN);
            self.lock().failure = Some(error);
        }
    }

    /// As [`attend_vjp`]; remembers why it fails.
    fn attend_vjp(&self, projections: &Projections, cotangent: &[f64]) -> Cotangents {
        let Some(options) = self.sinkhorn() else { return attend_vjp(projections, &self.kernel, cotangent) };
        let product = sinkhorn::solve(projections, options, &[])
            .and_then(|potentials| sinkhorn::vjp(projections, options, &potentials, cotangent));
        let (n, k) = (self.count, projections.width());
        let [queries, keys, values] = product.unwrap_or_else(|error| {
            self.lock().failure = Some(error);
            [vec![f64::NAN; n * k], vec![f64::NAN; n * k], vec![f64::NAN; cotangent.len()]]
        });
        Cotangents { queries, keys, values }
    }

    /// u: the field before any projection to spheres.
    fn ambient_velocity(&self, state: &[f64]) -> Vec<f64> {
        let mut velocity = vec![0.0; self.len()];
        self.add_heads(state, &[], &mut Vec::new(), &mut velocity);
        velocity
    }

    /// velocity += Σ_h W_h Σ_j P^h_ij V_h x_j. Sinkhorn's column potentials, head after head, come from `memory` and
    /// go to `next`; where they do not converge all velocities are NaN.
    fn add_heads(&self, state: &[f64], memory: &[f64], next: &mut Vec<f64>, velocity: &mut [f64]) {
        next.clear();
        let mut scratch = self.lock();
        let Scratch { projections, messages, failure } = &mut *scratch;
        *failure = None;
        for (h, (head, projections)) in self.heads.iter().zip(projections).enumerate() {
            projections.fill(&self.kernel, 1.0, state, [head.query(), head.key(), head.value()]);
            let messages = &mut messages[..self.count * head.value().rows()];
            if let Some(options) = self.sinkhorn() {
                let start = memory.get(h * self.count..(h + 1) * self.count).unwrap_or(&[]);
                match sinkhorn::solve(projections, options, start) {
                    Ok(potentials) => {
                        next.extend_from_slice(potentials.column());
                        sinkhorn::attend(projections, options, &potentials, messages);
                    }
                    Err(error) => {
                        *failure = Some(error);
                        next.clear();
                        return velocity.fill(f64::NAN);
                    }
                }
            } else {
                attend(projections, &self.kernel, messages);
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

    fn evaluate(&self, t: f64, state: &[f64], velocity: &mut [f64]) {
        self.evaluate_from(t, state, &[], &mut Vec::new(), velocity);
    }

    fn evaluate_from(&self, _t: f64, state: &[f64], memory: &[f64], next: &mut Vec<f64>, velocity: &mut [f64]) {
        velocity.fill(0.0);
        self.add_heads(state, memory, next, velocity);
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
