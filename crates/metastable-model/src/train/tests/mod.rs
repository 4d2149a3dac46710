//! Oracles of the optimizers, on problems with closed forms: matrix factorisation and sensing.

mod equivalences;
mod examples;
mod invariance;
mod rates;

use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::{Matrix, random};

use super::{Base, Gradient, Method, PairOptimizer};

fn normal(seed: u64, rows: usize, columns: usize) -> Matrix {
    Matrix::new("normal", rows, columns, random::standard_normal(seed, rows, columns)).unwrap()
}

fn gaussian_pair(seed: u64, outputs: usize, r: usize, inputs: usize) -> LowRankPair {
    LowRankPair::new(normal(2 * seed, r, inputs), normal(2 * seed + 1, outputs, r)).unwrap()
}

fn relative_error(x: &Matrix, y: &Matrix) -> f64 {
    x.add_scaled(-1.0, y).frobenius_norm() / y.frobenius_norm()
}

/// ½‖s·B A - Z‖² and its gradients.
struct Factorisation {
    target: Matrix,
    scale: f64,
}

impl Factorisation {
    fn residual(&self, pair: &LowRankPair) -> Matrix {
        pair.product().scaled(self.scale).add_scaled(-1.0, &self.target)
    }

    fn loss(&self, pair: &LowRankPair) -> f64 {
        0.5 * self.residual(pair).frobenius_norm().powi(2)
    }

    fn gradient(&self, pair: &LowRankPair) -> Gradient {
        chain(pair, &self.residual(pair), self.scale)
    }
}

/// g_A = s·BᵀG, g_B = s·G Aᵀ.
fn chain(pair: &LowRankPair, g: &Matrix, scale: f64) -> Gradient {
    Gradient { a: pair.b().transpose().multiply(g).scaled(scale), b: g.multiply(&pair.a().transpose()).scaled(scale) }
}

/// The pairs after every step.
fn path(
    problem: &Factorisation,
    method: Method,
    base: Base,
    start: LowRankPair,
    rate: f64,
    steps: usize,
) -> Vec<LowRankPair> {
    let mut optimizer = PairOptimizer::new(method, base, &start, problem.scale);
    let mut pair = start;
    (0..steps)
        .map(|_| {
            pair = optimizer.step(&pair, &problem.gradient(&pair), rate, 0.0).unwrap().pair;
            pair.clone()
        })
        .collect()
}

/// The largest relative distance of two paths' products.
fn deviation(x: &[LowRankPair], y: &[LowRankPair]) -> f64 {
    x.iter().zip(y).map(|(x, y)| relative_error(&x.product(), &y.product())).fold(0.0, f64::max)
}

const ADAM: Base = Base::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
