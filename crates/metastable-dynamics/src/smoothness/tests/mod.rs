//! Laws, goldens and bad input of the two-sided constants.

mod bad_input;
mod explained;
mod goldens;
mod inequalities;
mod invariances;
mod lanczos;
mod laws;
mod stored;
mod worst_cases;

use super::linear_map::{FlowJacobian, dense};
use crate::attention::{AttentionKernel, Mask, Normalization, Score};
use crate::field::{AttentionFlow, ParticleFlow, Placement};
use crate::head::Head;
use crate::linalg::Matrix;
use crate::random;

/// s·sin(k + 1.7 r), r row-major from 0: the theory's matrices without a generator.
pub(super) fn det(rows: usize, columns: usize, k: f64, s: f64) -> Matrix {
    Matrix::from_fn(rows, columns, |i, j| s * (k + 1.7 * (i * columns + j) as f64).sin())
}

/// The head with Kᵀ Q = A.
pub(super) fn head_of(a: &Matrix, value: &Matrix) -> Head {
    Head::new(a.clone(), Matrix::scaled_identity(a.rows(), 1.0), value.clone(), None).unwrap()
}

pub(super) fn softmax(mask: Mask) -> AttentionKernel {
    AttentionKernel::softmax(1.0).unwrap().masked(mask)
}

pub(super) fn kernel(score: Score, normalization: Normalization, mask: Mask) -> AttentionKernel {
    AttentionKernel::new(score, normalization, mask, 0.7).unwrap()
}

pub(super) fn flow(heads: &[Head], kernel: AttentionKernel, n: usize) -> AttentionFlow {
    AttentionFlow::Particle(ParticleFlow::new(heads.to_vec(), kernel, n, Placement::Ambient).unwrap())
}

/// The dense Jacobian, one exact product a column.
pub(super) fn jacobian(heads: &[Head], kernel: AttentionKernel, tokens: &[f64]) -> Matrix {
    let flow = flow(heads, kernel, tokens.len() / heads[0].dim());
    dense(&FlowJacobian { flow: &flow, t: 0.0, state: tokens })
}

/// ‖D‖_2 of the dense Jacobian: the oracle.
pub(super) fn constant(heads: &[Head], kernel: AttentionKernel, tokens: &[f64]) -> f64 {
    jacobian(heads, kernel, tokens).operator_norm().unwrap()
}

pub(super) fn matrix(seed: u64, rows: usize, columns: usize, size: f64) -> Matrix {
    Matrix::new("random", rows, columns, random::standard_normal(seed, rows, columns)).unwrap().scaled(size)
}

/// A random problem: heads, kernel and tokens; small, so that a thousand of them take seconds.
pub(super) struct Problem {
    pub(super) heads: Vec<Head>,
    pub(super) kernel: AttentionKernel,
    pub(super) tokens: Vec<f64>,
    pub(super) n: usize,
    pub(super) d: usize,
}

impl Problem {
    pub(super) fn constant(&self) -> f64 {
        constant(&self.heads, self.kernel, &self.tokens)
    }
}

pub(super) fn problem(seed: u64, n: usize, d: usize, size: f64, kernel: AttentionKernel) -> Problem {
    let head = Head::new(matrix(seed, 2, d, 1.0), matrix(seed + 1, 2, d, 1.0), matrix(seed + 2, d, d, 1.0), None);
    let tokens: Vec<f64> = random::standard_normal(seed + 3, n, d).iter().map(|x| size * x).collect();
    Problem { heads: vec![head.unwrap()], kernel, tokens, n, d }
}

pub(super) const MASKS: [Mask; 2] = [Mask::Full, Mask::Causal];

/// Every kernel with a derivative that depends on single scores, and hardmax.
pub(super) fn kernels() -> Vec<AttentionKernel> {
    let normalizations = [
        Normalization::Softmax,
        Normalization::Exponential,
        Normalization::Sigmoid { bias: -1.0 },
        Normalization::Linear,
        Normalization::Hardmax,
    ];
    let scores = [Score::Dot, Score::SquaredDistance];
    let all = scores.iter().flat_map(|score| normalizations.iter().map(move |normalization| (*score, *normalization)));
    all.flat_map(|(score, normalization)| MASKS.map(|mask| kernel(score, normalization, mask))).collect()
}
