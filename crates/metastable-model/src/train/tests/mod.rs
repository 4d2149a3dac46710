//! Oracles of the optimizers, on problems with closed forms: matrix factorisation and sensing.
//!
//! Numbers of random draws are those of scripts/golden/adapter_oracles.py (numpy 2.4.6) and adapter_steps.py (torch 2.15.0),
//! which share the draws and no code.

mod decay;
mod equivalences;
mod examples;
mod invariance;
mod peft;
mod rates;

use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::random::numpy::RandomState;
use metastable_dynamics::{Matrix, random};

use super::{Base, Gradient, Method, PairOptimizer};

fn normal(seed: u64, rows: usize, columns: usize) -> Matrix {
    Matrix::new("normal", rows, columns, random::standard_normal(seed, rows, columns)).unwrap()
}

/// `numpy.random.RandomState(seed).randn(rows, columns)`.
fn drawn(seed: u32, rows: usize, columns: usize) -> Matrix {
    let mut stream = RandomState::new(seed);
    let draws = (0..rows * columns).map(|_| stream.standard_normal()).collect();
    Matrix::new("drawn", rows, columns, draws).unwrap()
}

fn zeros(rows: usize, columns: usize) -> Matrix {
    Matrix::from_fn(rows, columns, |_, _| 0.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    0.5 * (values[(values.len() - 1) / 2] + values[values.len() / 2])
}

/// |x - y| <= tolerance·|y|.
#[track_caller]
fn close(x: f64, y: f64, tolerance: f64) {
    assert!((x - y).abs() <= tolerance * y.abs(), "{x} instead of {y}");
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
