//! Attention in rescaled coordinates z = e^{-tV} x, where clusters are points (model M2).

use std::sync::{Mutex, PoisonError};

use super::VectorField;
use super::propagator::Propagator;
use crate::attention::jacobian::{attend_relative_jvp, attend_relative_vjp};
use crate::attention::streaming::attend_relative;
use crate::attention::{AttentionKernel, Projections};
use crate::error::DynamicsError;
use crate::head::Head;
use crate::linalg::Matrix;

/// z_i' = Σ_j P_ij(t) V (z_j - z_i), P from the unrescaled tokens: scores beta <Q e^{tV} z_i, K e^{tV} z_j>
/// [lean, 2305.05465 e:Rres].
///
/// Runs for ever: the scores' factor e^{2λt} (λ the leading growth of V) is kept apart, rows are shifted by their
/// maximum before it is applied, and it is clamped where softmax is an exact arg-max [derived].
///
/// In *discrete* time ([`RescaledFlow::layers`]) the twin of explicit Euler x ← x + h Σ P V x: with R = I + hV and
/// z^k = R^{-k} x^k, z^{k+1} = z^k + h R^{-1} V Σ_j P_ij (z_j^k - z_i^k), identical to rounding [lean][derived].
#[derive(Debug)]
pub struct RescaledFlow {
    head: Head,
    kernel: AttentionKernel,
    count: usize,
    clock: Clock,
    /// V, or R^{-1} V in discrete time.
    mobility: Matrix,
    scratch: Mutex<Projections>,
}

/// How tokens are recovered from z at time t.
#[derive(Debug)]
enum Clock {
    Continuous(Propagator),
    /// R / ρ(R), its growth ρ(R), and the step h.
    Layers(Matrix, f64, f64),
}

impl RescaledFlow {
    /// The continuous flow of `count` tokens.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] unless the weights are row-stochastic (softmax, hardmax) and the head has no output
    /// matrix; [`DynamicsError::Decomposition`].
    pub fn new(head: Head, kernel: AttentionKernel, count: usize) -> Result<Self, DynamicsError> {
        let clock = Clock::Continuous(Propagator::new(head.value())?);
        let mobility = head.value().clone();
        Self::with_clock(head, kernel, count, clock, mobility)
    }

    /// The discrete twin for explicit Euler with step h.
    ///
    /// # Errors
    /// As [`RescaledFlow::new`]; also if I + hV is singular or h is not positive.
    pub fn layers(head: Head, kernel: AttentionKernel, count: usize, step: f64) -> Result<Self, DynamicsError> {
        if !(step > 0.0 && step.is_finite()) {
            return Err(DynamicsError::domain("step", "a positive number", step));
        }
        let identity = Matrix::scaled_identity(head.dim(), 1.0);
        let advance = identity.add_scaled(step, head.value());
        let mobility = advance.inverse()?.multiply(head.value());
        let growth = advance.eigenvalues()?.iter().map(|(re, im)| re.hypot(*im)).fold(0.0, f64::max);
        let clock = Clock::Layers(advance.scaled(1.0 / growth), growth, step);
        Self::with_clock(head, kernel, count, clock, mobility)
    }

    fn with_clock(
        head: Head,
        kernel: AttentionKernel,
        count: usize,
        clock: Clock,
        mobility: Matrix,
    ) -> Result<Self, DynamicsError> {
        if !kernel.normalization().is_stochastic() {
            return Err(DynamicsError::domain(
                "coordinates",
                "softmax or hardmax weights for rescaled coordinates",
                format!("{:?}", kernel.normalization()),
            ));
        }
        if head.output().is_some() {
            return Err(DynamicsError::domain(
                "coordinates",
                "a head without output matrix for rescaled coordinates",
                "an output matrix",
            ));
        }
        let scratch = Mutex::new(Projections::zeros(count, head.query().rows(), head.dim()));
        Ok(Self { head, kernel, count, clock, mobility, scratch })
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The kernel.
    pub fn kernel(&self) -> &AttentionKernel {
        &self.kernel
    }

    /// Queries and keys of the unrescaled tokens at time t, values V z.
    ///
    /// # Panics
    /// If the state has another length.
    pub fn projections(&self, t: f64, state: &[f64]) -> Projections {
        let mut projections = Projections::zeros(self.count, self.head.query().rows(), self.head.dim());
        self.fill(t, state, &mut projections);
        projections
    }

    /// Writes J E, the derivative of the field at time t along `direction` E [n, d], into `out` [n, d].
    ///
    /// z enters the scores through Q e^{tV}, K e^{tV} and the messages through V (R^{-1} V between layers), so this
    /// is [`attend_relative_jvp`] under those matrices [derived]. Derivatives of scores carry the gain e^{2λt}: off
    /// ties they vanish together with the losers' weights, at ties of different tokens they are truly that large.
    /// O(n² (k + d)) time, O(n (k + d)) memory.
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    pub fn jvp(&self, t: f64, state: &[f64], direction: &[f64], out: &mut [f64]) {
        assert_eq!(direction.len(), state.len(), "a direction of the state's length");
        let (projections, tangents) = (self.projections(t, state), self.projections(t, direction));
        attend_relative_jvp(&projections, &tangents, &self.kernel, out);
    }

    /// Writes Jᵀ G, the gradient of <G, F(t, state)> for a `cotangent` G [n, d], into `out` [n, d]: the transpose of
    /// [`RescaledFlow::jvp`], at the same cost.
    ///
    /// # Panics
    /// If a slice has another length than n·d.
    pub fn vjp(&self, t: f64, state: &[f64], cotangent: &[f64], out: &mut [f64]) {
        assert_eq!(out.len(), state.len(), "a gradient of the state's length");
        out.fill(0.0);
        let (matrices, _) = self.matrices(t);
        let bars = attend_relative_vjp(&self.projections(t, state), &self.kernel, cotangent);
        bars.pull_back([&matrices[0], &matrices[1], &self.mobility], out);
    }

    fn fill(&self, t: f64, state: &[f64], projections: &mut Projections) {
        let ([query, key], gain) = self.matrices(t);
        projections.fill(&self.kernel, gain, state, [&query, &key, &self.mobility]);
    }

    /// Q and K times the bounded part of e^{tV}, and the factor that is missing from the scores.
    fn matrices(&self, t: f64) -> ([Matrix; 2], f64) {
        let (bounded, gain) = match &self.clock {
            Clock::Continuous(propagator) => (propagator.bounded_part(t), (2.0 * propagator.growth() * t).exp()),
            Clock::Layers(advance, growth, step) => {
                let layer = (t / step).round();
                (power(advance, layer as u64), growth.powf(2.0 * layer))
            }
        };
        ([self.head.query().multiply(&bounded), self.head.key().multiply(&bounded)], gain)
    }
}

impl VectorField for RescaledFlow {
    fn len(&self) -> usize {
        self.count * self.head.dim()
    }

    fn block_len(&self) -> usize {
        self.head.dim()
    }

    fn evaluate(&self, t: f64, state: &[f64], velocity: &mut [f64]) {
        let mut projections = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(t, state, &mut projections);
        attend_relative(&projections, &self.kernel, velocity);
    }
}

/// M^k by repeated squaring.
fn power(matrix: &Matrix, mut exponent: u64) -> Matrix {
    let mut result = Matrix::scaled_identity(matrix.rows(), 1.0);
    let mut square = matrix.clone();
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.multiply(&square);
        }
        square = square.multiply(&square);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{ParticleFlow, Placement};
    use crate::random;

    /// Theory item 14: explicit Euler on M1 and its discrete rescaling are one computation.
    #[test]
    fn discrete_layers_in_rescaled_coordinates_are_the_euler_steps_of_the_tokens() {
        let value = Matrix::from_rows("value", &[[0.64709742, 0.81911926], [0.61210449, 0.63263484]]).unwrap();
        let identity = Matrix::scaled_identity(2, 1.0);
        let head = Head::new(identity.clone(), identity.clone(), value.clone(), None).unwrap();
        let kernel = AttentionKernel::softmax(1.0).unwrap();
        let (n, h) = (8, 0.1);
        let plain = ParticleFlow::new(vec![head.clone()], kernel, n, Placement::Ambient).unwrap();
        let rescaled = RescaledFlow::layers(head, kernel, n, h).unwrap();
        let mut x = random::uniform(1, n, 2, -1.0, 1.0);
        let mut z = x.clone();
        let mut velocity = vec![0.0; 2 * n];
        for layer in 0..15 {
            let t = h * f64::from(layer);
            plain.evaluate(t, &x, &mut velocity);
            x.iter_mut().zip(&velocity).for_each(|(x, v)| *x += h * v);
            rescaled.evaluate(t, &z, &mut velocity);
            z.iter_mut().zip(&velocity).for_each(|(z, v)| *z += h * v);
        }
        let advance = power(&identity.add_scaled(h, &value), 15);
        let largest = x.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (x, z) in x.chunks(2).zip(z.chunks(2)) {
            let mut recovered = [0.0; 2];
            advance.apply(z, &mut recovered);
            // 15 steps of a few roundings each, amplified by the flow's own growth of about 8 in relative terms.
            assert!((recovered[0] - x[0]).abs().max((recovered[1] - x[1]).abs()) < 1e-13 * largest);
        }
    }

    #[test]
    fn consensus_is_exactly_stationary_at_any_time() {
        let flow = RescaledFlow::new(Head::identity(2), AttentionKernel::softmax(1.0).unwrap(), 3).unwrap();
        let mut velocity = [1.0; 6];
        for t in [0.0, 3.0, 400.0, 1e5] {
            flow.evaluate(t, &[0.3, -0.7, 0.3, -0.7, 0.3, -0.7], &mut velocity);
            assert_eq!(velocity, [0.0; 6]);
        }
    }

    #[test]
    fn unnormalised_weights_have_no_rescaled_form() {
        use crate::attention::{Mask, Normalization, Score};
        let kernel = AttentionKernel::new(Score::Dot, Normalization::Exponential, Mask::Full, 1.0).unwrap();
        assert!(RescaledFlow::new(Head::identity(2), kernel, 3).is_err());
    }
}
