//! Base optimizers of one pair of factors: what moves A and B once the gradients are what a method wants.

use metastable_dynamics::balance::{Gauge, LowRankPair};
use metastable_dynamics::{DynamicsError, Matrix};
use serde::{Deserialize, Serialize};

/// The gradients of the loss with respect to the factors: g_A = s·BᵀG [r, in], g_B = s·G Aᵀ [out, r], where G is the
/// gradient with respect to W, which is never formed.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradient {
    /// g_A [r, in].
    pub a: Matrix,
    /// g_B [out, r].
    pub b: Matrix,
}

impl Gradient {
    /// ‖g_A‖² + ‖g_B‖².
    pub fn squared_norm(&self) -> f64 {
        self.a.frobenius_norm().powi(2) + self.b.frobenius_norm().powi(2)
    }
}

/// The learning rate and what goes with it at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of A.
    pub a: f64,
    /// Of B.
    pub b: f64,
    /// Decoupled weight decay: factors shrink by 1 - rate·decay before they move.
    pub decay: f64,
}

/// How factors follow their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Base {
    /// x ← (1 - ηλ)x - η m̂/(sqrt(v̂) + ε) with bias-corrected moments.
    ///
    /// # References
    /// I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    AdamW {
        /// Decay of the first moment, usually 0.9.
        beta1: f64,
        /// Decay of the second moment, usually 0.999.
        beta2: f64,
        /// Usually 1e-8.
        epsilon: f64,
    },
    /// x ← (1 - ηλ)x - η g.
    Sgd,
    /// x ← (1 - ηλ)x - η g/(|g| + 1e-8), what the synthetic figure of the BaLoRA paper calls Adam \[code\].
    Sign,
}

impl Default for Base {
    fn default() -> Self {
        Self::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// What a base optimizer remembers of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    steps: u64,
    first_a: Matrix,
    first_b: Matrix,
    second_a: Matrix,
    second_b: Matrix,
}

impl Moments {
    /// Nothing yet, for a pair of these shapes.
    pub fn zero(pair: &LowRankPair) -> Self {
        let (zero_a, zero_b) = (pair.a().scaled(0.0), pair.b().scaled(0.0));
        Self { steps: 0, first_a: zero_a.clone(), first_b: zero_b.clone(), second_a: zero_a, second_b: zero_b }
    }

    /// Follows a change of factors: see [`Gauge`].
    pub fn transport(&mut self, gauge: &Gauge) {
        self.first_a = gauge.first_moment_a(&self.first_a);
        self.first_b = gauge.first_moment_b(&self.first_b);
        self.second_a = gauge.second_moment_a(&self.second_a);
        self.second_b = gauge.second_moment_b(&self.second_b);
    }
}

impl Base {
    /// One step of both factors. O((in + out)·r).
    ///
    /// # Errors
    /// [`DynamicsError::NotFinite`] if a factor overflows.
    pub fn step(
        &self,
        pair: &LowRankPair,
        gradient: &Gradient,
        rates: Rates,
        moments: &mut Moments,
    ) -> Result<LowRankPair, DynamicsError> {
        moments.steps += 1;
        let t = moments.steps;
        let a = self.moved(pair.a(), &gradient.a, rates.a, rates.decay, &mut moments.first_a, &mut moments.second_a, t);
        let b = self.moved(pair.b(), &gradient.b, rates.b, rates.decay, &mut moments.first_b, &mut moments.second_b, t);
        LowRankPair::new(finite("lora a", a)?, finite("lora b", b)?)
    }

    #[allow(clippy::too_many_arguments, reason = "the letters of the formula, for one factor")]
    fn moved(
        &self,
        x: &Matrix,
        g: &Matrix,
        rate: f64,
        decay: f64,
        first: &mut Matrix,
        second: &mut Matrix,
        steps: u64,
    ) -> Matrix {
        let kept = 1.0 - rate * decay;
        match *self {
            Self::Sgd => x.zip_with(g, |x, g| kept * x - rate * g),
            Self::Sign => x.zip_with(g, |x, g| kept * x - rate * g / (g.abs() + 1e-8)),
            Self::AdamW { beta1, beta2, epsilon } => {
                *first = first.zip_with(g, |m, g| beta1 * m + (1.0 - beta1) * g);
                *second = second.zip_with(g, |v, g| beta2 * v + (1.0 - beta2) * g * g);
                let power = |beta: f64| 1.0 - beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
                let (first_bias, second_bias) = (power(beta1), power(beta2).sqrt());
                let direction = first.zip_with(second, |m, v| m / first_bias / (v.sqrt() / second_bias + epsilon));
                x.zip_with(&direction, |x, d| kept * x - rate * d)
            }
        }
    }

    /// One step of a vector that is no factor (a magnitude of DoRA, a trained head) with its own moments.
    pub fn step_matrix(&self, x: &Matrix, g: &Matrix, rate: f64, decay: f64, moments: &mut MatrixMoments) -> Matrix {
        moments.steps += 1;
        let t = moments.steps;
        self.moved(x, g, rate, decay, &mut moments.first, &mut moments.second, t)
    }
}

/// What a base optimizer remembers of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatrixMoments {
    steps: u64,
    first: Matrix,
    second: Matrix,
}

impl MatrixMoments {
    /// Nothing yet.
    pub fn zero(matrix: &Matrix) -> Self {
        Self { steps: 0, first: matrix.scaled(0.0), second: matrix.scaled(0.0) }
    }
}

fn finite(name: &str, matrix: Matrix) -> Result<Matrix, DynamicsError> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    Matrix::new(name, rows, columns, matrix.as_slice().to_vec())
}
