//! Attention moving the tokens themselves, in R^d or on spheres.

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::VectorField;
use super::placement::{Placement, direction_rates, directions};
use crate::attention::jacobian::{Cotangents, add_transposed, attend_jvp, attend_vjp};
use crate::attention::streaming::{attend, attend_in_single_precision};
use crate::attention::{AttentionKernel, Normalization, Projections, Sinkhorn, sinkhorn};
use crate::error::{DynamicsError, require_finite};
use crate::geometry::{Geometry, Spheres};
use crate::head::Head;
use crate::linalg::{Matrix, dot};

/// A linear feed-forward layer beside attention: W x + b of what attention sees.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForward {
    weight: Matrix,
    bias: Vec<f64>,
}

impl FeedForward {
    /// W \[d, d\] and b \[d\].
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] unless W is square and b has as many entries; [`DynamicsError::NotFinite`].
    pub fn new(weight: Matrix, bias: Vec<f64>) -> Result<Self, DynamicsError> {
        let d = weight.rows();
        if weight.columns() != d {
            return Err(DynamicsError::shape("weight", format!("[{d}, {d}]"), weight.shape()));
        }
        if bias.len() != d {
            return Err(DynamicsError::shape("bias", format!("[{d}]"), format!("[{}]", bias.len())));
        }
        require_finite("weight", weight.as_slice())?;
        require_finite("bias", &bias)?;
        Ok(Self { weight, bias })
    }

    /// W.
    pub fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// b.
    pub fn bias(&self) -> &[f64] {
        &self.bias
    }
}

/// x_i' = Σ_h W_h Σ_j P^h_ij V_h x_j (+ W x_i + b), normalised and projected as `placement` says.
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
    feed_forward: Option<Box<FeedForward>>,
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
    failure: Option<Box<DynamicsError>>,
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
        Ok(Self { heads, kernel, count, dim, placement, messages_in: Precision::Double, feed_forward: None, scratch })
    }

    /// The same flow with scores, weights and their sums computed in `f32`
    /// ([`attend_in_single_precision`]): less than half of the time. The state, Q, K, V, W, their products with
    /// tokens, the projection to spheres and all derivatives stay f64. The velocity then has rounding noise of about
    /// 1e-7 of its size, below which no tolerance of a solver makes sense.
    pub fn in_single_precision(self) -> Self {
        Self { messages_in: Precision::Single, ..self }
    }

    /// The same flow with a linear feed-forward layer beside attention.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if it is of another dimension.
    pub fn with_feed_forward(self, feed_forward: FeedForward) -> Result<Self, DynamicsError> {
        let (d, found) = (self.dim, feed_forward.bias.len());
        if found != d {
            return Err(DynamicsError::shape("feed_forward", format!("d = {d}"), format!("d = {found}")));
        }
        Ok(Self { feed_forward: Some(Box::new(feed_forward)), ..self })
    }

    /// Where tokens are normalised.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// The linear layer beside attention.
    pub fn feed_forward(&self) -> Option<&FeedForward> {
        self.feed_forward.as_deref()
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
        let mut projections = Projections::like(head, self.count);
        let seen = self.seen(state);
        projections.fill(&self.kernel, 1.0, &seen, [head.query(), head.key(), head.value()]);
        projections
    }

    /// What attention sees of the tokens: themselves, or their directions.
    fn seen<'s>(&self, state: &'s [f64]) -> Cow<'s, [f64]> {
        match self.placement.normalizes_input() {
            true => Cow::Owned(directions(self.dim, state)),
            false => Cow::Borrowed(state),
        }
    }

    /// Writes J E, the derivative of the field at `state` along `direction` E [n, d], into `out` [n, d].
    ///
    /// The chain rule through the placement: what attention sees, u_i = Σ_h W_h y^h_i + W x_i + b with the derivative
    /// u̇ of [`attend_jvp`], its norm, and on spheres, where F_i = u_i - <x_i, u_i> x_i,
    /// Ḟ_i = u̇_i - (<ẋ_i, u_i> + <x_i, u̇_i>) x_i - <x_i, u_i> ẋ_i \[derived\]: the derivative of the formula in
    /// R^d, also for directions that are not tangent. O(H n² (k + m)) time, O(n (d + k + m)) memory.
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    pub fn jvp(&self, _t: f64, state: &[f64], direction: &[f64], out: &mut [f64]) {
        assert!([direction.len(), out.len()] == [self.len(); 2], "direction and out of the state's length");
        self.lock().failure = None;
        let d = self.dim;
        let bare = self.is_bare().then(Vec::new).unwrap_or_else(|| self.bare_output(state));
        let moved = match self.placement.normalizes_input() {
            true => direction_rates(d, state, direction),
            false => direction.to_vec(),
        };
        out.fill(0.0);
        for (h, head) in self.heads.iter().enumerate() {
            let (projections, mut tangents) = (self.projections(h, state), Projections::like(head, self.count));
            tangents.fill(&self.kernel, 1.0, &moved, [head.query(), head.key(), head.value()]);
            let mut messages = vec![0.0; self.count * head.value().rows()];
            self.attend_jvp(&projections, &tangents, &mut messages);
            add_output(head, &messages, out);
        }
        if let Some(feed_forward) = &self.feed_forward {
            add_linear(&feed_forward.weight, &moved, out);
        }
        if self.is_bare() {
            return;
        }
        let mut velocity = bare.clone();
        if self.placement.normalizes_output() {
            out.copy_from_slice(&direction_rates(d, &bare, out));
            velocity = directions(d, &bare);
        }
        let speed = self.placement.speed();
        out.iter_mut().chain(&mut velocity).for_each(|c| *c *= speed);
        if self.placement.is_tangent() {
            let clouds = [state, direction, &velocity].map(|cloud| cloud.chunks_exact(d));
            let [tokens, directions, velocities] = clouds;
            for (((x, dx), u), du) in tokens.zip(directions).zip(velocities).zip(out.chunks_exact_mut(d)) {
                let (radial, change) = (dot(x, u), dot(dx, u) + dot(x, du));
                du.iter_mut().zip(x).zip(dx).for_each(|((du, x), dx)| *du -= change * x + radial * dx);
            }
        }
    }

    /// Writes Jᵀ G, the gradient of <G, F(state)> for a `cotangent` G [n, d], into `out` [n, d].
    ///
    /// The transpose of [`ParticleFlow::jvp`]: on spheres ū_i = G_i - <x_i, G_i> x_i goes back through the heads and
    /// -<x_i, G_i> u_i - <x_i, u_i> G_i is added for the projection \[derived\]; directions are their own transposes.
    /// Same cost.
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    pub fn vjp(&self, _t: f64, state: &[f64], cotangent: &[f64], out: &mut [f64]) {
        assert!([cotangent.len(), out.len()] == [self.len(); 2], "cotangent and out of the state's length");
        self.lock().failure = None;
        let d = self.dim;
        let mut own = vec![0.0; self.len()];
        let mut pulled = cotangent.to_vec();
        if !self.is_bare() {
            let bare = self.bare_output(state);
            let speed = self.placement.speed();
            if self.placement.is_tangent() {
                let mut velocity = if self.placement.normalizes_output() { directions(d, &bare) } else { bare.clone() };
                velocity.iter_mut().for_each(|c| *c *= speed);
                Spheres { dim: d }.project(state, &mut pulled);
                let clouds = [state, cotangent, &velocity].map(|cloud| cloud.chunks_exact(d));
                let [tokens, cotangents, velocities] = clouds;
                for (((x, g), u), own) in tokens.zip(cotangents).zip(velocities).zip(own.chunks_exact_mut(d)) {
                    let (radial, pull) = (dot(x, u), dot(x, g));
                    own.iter_mut().zip(u).zip(g).for_each(|((own, u), g)| *own = -pull * u - radial * g);
                }
            }
            pulled.iter_mut().for_each(|c| *c *= speed);
            if self.placement.normalizes_output() {
                pulled = direction_rates(d, &bare, &pulled);
            }
        }
        let mut seen_bar = vec![0.0; self.len()];
        for (h, head) in self.heads.iter().enumerate() {
            let messages = message_cotangent(head, &pulled);
            let bars = self.attend_vjp(&self.projections(h, state), &messages);
            bars.pull_back([head.query(), head.key(), head.value()], &mut seen_bar);
        }
        if let Some(feed_forward) = &self.feed_forward {
            add_transposed(&feed_forward.weight, &pulled, &mut seen_bar);
        }
        if self.placement.normalizes_input() {
            seen_bar = direction_rates(d, state, &seen_bar);
        }
        out.iter_mut().zip(own).zip(seen_bar).for_each(|((out, own), bar)| *out = own + bar);
    }

    /// Whether the velocity is the output itself.
    fn is_bare(&self) -> bool {
        !self.placement.is_tangent() && !self.placement.normalizes_output()
    }

    /// Why the last evaluation or product gave no numbers, if it did not: Sinkhorn that did not converge.
    pub fn failure(&self) -> Option<DynamicsError> {
        self.lock().failure.as_deref().cloned()
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
            self.lock().failure = Some(Box::new(error));
        }
    }

    /// As [`attend_vjp`]; remembers why it fails.
    fn attend_vjp(&self, projections: &Projections, cotangent: &[f64]) -> Cotangents {
        let Some(options) = self.sinkhorn() else { return attend_vjp(projections, &self.kernel, cotangent) };
        let product = sinkhorn::solve(projections, options, &[])
            .and_then(|potentials| sinkhorn::vjp(projections, options, &potentials, cotangent));
        let (n, k) = (self.count, projections.width());
        let [queries, keys, values] = product.unwrap_or_else(|error| {
            self.lock().failure = Some(Box::new(error));
            [vec![f64::NAN; n * k], vec![f64::NAN; n * k], vec![f64::NAN; cotangent.len()]]
        });
        Cotangents { queries, keys, values }
    }

    /// u: the output of heads and feed-forward layer, before it is normalised or projected.
    fn bare_output(&self, state: &[f64]) -> Vec<f64> {
        let mut output = vec![0.0; self.len()];
        self.add_output_of_all(&self.seen(state), &[], &mut Vec::new(), &mut output);
        output
    }

    /// velocity += u of tokens as attention sees them.
    fn add_output_of_all(&self, seen: &[f64], memory: &[f64], next: &mut Vec<f64>, velocity: &mut [f64]) {
        self.add_heads(seen, memory, next, velocity);
        if let Some(feed_forward) = &self.feed_forward {
            add_linear(&feed_forward.weight, seen, velocity);
            for velocity in velocity.chunks_exact_mut(self.dim) {
                velocity.iter_mut().zip(&feed_forward.bias).for_each(|(v, b)| *v += b);
            }
        }
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
                        *failure = Some(Box::new(error));
                        next.clear();
                        return velocity.fill(f64::NAN);
                    }
                }
            } else {
                match self.messages_in {
                    Precision::Double => attend(projections, &self.kernel, messages),
                    Precision::Single => attend_in_single_precision(projections, &self.kernel, messages),
                }
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
        self.add_output_of_all(&self.seen(state), memory, next, velocity);
        if self.placement.normalizes_output() {
            let speed = self.placement.speed();
            let unit = directions(self.dim, velocity);
            velocity.iter_mut().zip(unit).for_each(|(v, unit)| *v = speed * unit);
        }
        if self.placement.is_tangent() {
            Spheres { dim: self.dim }.project(state, velocity);
        }
    }
}

/// out_i += M x_i.
fn add_linear(matrix: &Matrix, cloud: &[f64], out: &mut [f64]) {
    for (x, out) in cloud.chunks_exact(matrix.columns()).zip(out.chunks_exact_mut(matrix.rows())) {
        out.iter_mut().enumerate().for_each(|(r, out)| *out += dot(matrix.row(r), x));
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
