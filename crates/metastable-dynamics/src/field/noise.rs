//! Noise √(2τ) dB on every token: Euler-Maruyama steps, as a field of the ordinary solver.

use rand::RngExt;
use rand_distr::StandardNormal;

use super::VectorField;
use crate::error::DynamicsError;
use crate::geometry::{Geometry, Spheres};
use crate::random;

/// Brownian motion of temperature τ in steps of length h.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    temperature: f64,
    step: f64,
    seed: u64,
}

/// Streams of noise have this bit set, those of initial tokens do not: the same seed serves both.
const NOISE_STREAM: u64 = 1 << 63;

/// Words of the generator kept for one step of one token, far more than any dimension takes.
const WORDS_A_STEP: u128 = 1 << 32;

impl Noise {
    /// √(2τ) dB in steps of length `step`.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] unless both are finite and positive.
    pub fn new(temperature: f64, step: f64, seed: u64) -> Result<Self, DynamicsError> {
        for (name, value) in [("temperature", temperature), ("dt", step)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(DynamicsError::domain(name, "a finite number > 0", value));
            }
        }
        Ok(Self { temperature, step, seed })
    }

    /// τ.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// h.
    pub fn step(&self) -> f64 {
        self.step
    }

    /// Adds √(2τ/h) ξ to the velocity of token i in step k, ξ standard normal: one stream a token, and in it one place
    /// a step, so a token's noise does not depend on the number of tokens, on threads, or on where a run was resumed.
    fn add(&self, k: u64, i: usize, velocity: &mut [f64]) {
        let mut generator = random::stream(self.seed, NOISE_STREAM | i as u64);
        generator.set_word_pos(u128::from(k) * WORDS_A_STEP);
        let size = (2.0 * self.temperature / self.step).sqrt();
        for v in velocity {
            let normal: f64 = generator.sample(StandardNormal);
            *v += size * normal;
        }
    }
}

/// A field with noise: dx = F dt + √(2τ) dB, on spheres with the noise projected to the tangent space.
///
/// In the step from t = k h it is F(t, x) + √(2τ/h) ξ_k, so a solver that takes *explicit Euler steps of exactly h*
/// takes Euler-Maruyama steps: strong order 1/2 for general noise and 1 for this additive one, weak order 1. On
/// spheres the retraction of x + √(2τh) Proj ξ supplies the drift -τ(d - 1) x that keeps Brownian motion on the
/// sphere, up to O(h²) \[derived\]. Any other method, or another step, would be wrong: between grid times it has no
/// meaning.
pub struct NoisyFlow<'f> {
    flow: &'f dyn VectorField,
    noise: Noise,
    on_spheres: bool,
}

impl<'f> NoisyFlow<'f> {
    /// Adds `noise` to a flow of tokens (one block a token).
    pub fn new(flow: &'f dyn VectorField, noise: Noise, on_spheres: bool) -> Self {
        Self { flow, noise, on_spheres }
    }

    fn shake(&self, t: f64, state: &[f64], velocity: &mut [f64]) {
        let (dim, k) = (self.flow.block_len(), (t / self.noise.step).round() as u64);
        let mut noise = vec![0.0; state.len()];
        noise.chunks_exact_mut(dim).enumerate().for_each(|(i, token)| self.noise.add(k, i, token));
        if self.on_spheres {
            Spheres { dim }.project(state, &mut noise);
        }
        velocity.iter_mut().zip(noise).for_each(|(v, noise)| *v += noise);
    }
}

impl VectorField for NoisyFlow<'_> {
    fn len(&self) -> usize {
        self.flow.len()
    }

    fn block_len(&self) -> usize {
        self.flow.block_len()
    }

    fn evaluate(&self, t: f64, state: &[f64], velocity: &mut [f64]) {
        self.flow.evaluate(t, state, velocity);
        self.shake(t, state, velocity);
    }

    fn evaluate_from(&self, t: f64, state: &[f64], memory: &[f64], next: &mut Vec<f64>, velocity: &mut [f64]) {
        self.flow.evaluate_from(t, state, memory, next, velocity);
        self.shake(t, state, velocity);
    }
}
