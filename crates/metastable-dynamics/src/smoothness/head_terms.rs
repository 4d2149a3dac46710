//! The parts of one head's Jacobian at given tokens, by which bounds and explanations speak of it.
//!
//! With M = W V, weights P and slopes s (derivatives of weights by scores: P itself for softmax), the block of token
//! j's influence on token i is
//!
//! ```text
//! D_ij = P_ij M + s_ij c_ij b_ijᵀ + δ_ij Σ_l s_il c_il a_ilᵀ
//!        value    key               query path
//! c_ij = M (x_j - m_i),  m_i = Σ_j P_ij x_j        (softmax; c_ij = M x_j otherwise)
//! a_ij, b_ij = ∂S_ij/∂x_i, ∂S_ij/∂x_j:  beta Qᵀ K x_j,  beta Kᵀ Q x_i                             (dot scores)
//!              -2 beta Qᵀ (Q x_i - K x_j),  2 beta Kᵀ (Q x_i - K x_j)                   (squared distance)
//! ```
//!
//! \[derived\]; for softmax and dot scores it is the variance form V[P_ij (I + (x_j - m_i)(A x_i)ᵀ) + δ_ij Cov_i A] with
//! A = beta Kᵀ Q. The paper's letter A stands for this matrix.

use rayon::prelude::*;

use crate::attention::statistics::weights;
use crate::attention::{AttentionKernel, Normalization, Projections, Score};
use crate::error::DynamicsError;
use crate::head::Head;
use crate::linalg::{Matrix, dot, squared_distance};
use crate::tokens::TokensRef;

/// One head's P, s, M x_j, centres, a and b. Memory O(n² + n d + d²).
#[derive(Debug, Clone)]
pub struct HeadTerms {
    pub(super) count: usize,
    pub(super) dim: usize,
    /// P, [n, n].
    pub(super) weights: Matrix,
    /// s, [n, n]; none where it is P.
    slopes: Option<Matrix>,
    /// M, [d, d].
    pub(super) image: Matrix,
    /// M x_j, [n, d].
    pub(super) moved: Vec<f64>,
    /// What c_ij is measured from, [n, d].
    pub(super) centres: Vec<f64>,
    /// b_ij = key_own_i + key_other_j, each [n, d].
    pub(super) key_own: Vec<f64>,
    pub(super) key_other: Vec<f64>,
    /// a_ij = query_own_i + query_other_j, each [n, d].
    query_own: Vec<f64>,
    query_other: Vec<f64>,
}

impl HeadTerms {
    /// The terms of `head` at `tokens`; `None` for a kernel whose weights do not depend on single scores.
    /// O(n² (k + d) + n d²).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if the dimensions differ; [`DynamicsError::Domain`] if a score is beyond f64.
    pub fn new(head: &Head, kernel: &AttentionKernel, tokens: TokensRef<'_>) -> Result<Option<Self>, DynamicsError> {
        let (n, d) = (tokens.count(), tokens.dim());
        if head.dim() != d {
            return Err(DynamicsError::shape("head", format!("d = {d}"), format!("d = {}", head.dim())));
        }
        let mut projections = Projections::zeros(n, head.query().rows(), head.value().rows());
        projections.fill(kernel, 1.0, tokens.as_slice(), [head.query(), head.key(), head.value()]);
        let weights = weights(&projections, kernel);
        if !weights.as_slice().iter().all(|w| w.is_finite()) {
            return Err(DynamicsError::domain("scores", "attention scores within f64", "a score beyond f64"));
        }
        let Some(slopes) = slopes(&weights, kernel) else { return Ok(None) };
        let image = head.output_value();
        let moved = mapped(&image, tokens.as_slice());
        let centres = match kernel.normalization() {
            Normalization::Softmax => centres(&weights, &moved, d),
            _ => vec![0.0; n * d],
        };
        let gain = kernel.beta() * if kernel.score() == Score::Dot { 1.0 } else { 2.0 };
        let pulled = |left: &Matrix, right: &Matrix, scale: f64| {
            mapped(&left.transpose().multiply(right).scaled(scale), tokens.as_slice())
        };
        let (query, key) = (head.query(), head.key());
        let own = |matrix: &Matrix| match kernel.score() {
            Score::SquaredDistance => pulled(matrix, matrix, -gain),
            _ => vec![0.0; n * d],
        };
        Ok(Some(Self {
            count: n,
            dim: d,
            key_own: pulled(key, query, gain),
            key_other: own(key),
            query_own: own(query),
            query_other: pulled(query, key, gain),
            slopes,
            weights,
            image,
            moved,
            centres,
        }))
    }

    /// The number n of tokens.
    pub fn count(&self) -> usize {
        self.count
    }

    /// P, [n, n].
    pub fn weights(&self) -> &Matrix {
        &self.weights
    }

    /// s_ij >= 0.
    pub(super) fn slope(&self, i: usize, j: usize) -> f64 {
        self.slopes.as_ref().unwrap_or(&self.weights).at(i, j)
    }

    /// The largest weight or slope; 1 if all are 0.
    pub(super) fn scale(&self) -> f64 {
        let largest = self.slopes.iter().map(Matrix::max_abs).fold(self.weights.max_abs(), f64::max);
        if largest == 0.0 { 1.0 } else { largest }
    }

    fn own<'a>(&self, rows: &'a [f64], i: usize) -> &'a [f64] {
        &rows[i * self.dim..(i + 1) * self.dim]
    }

    /// |c_ij|.
    pub(super) fn spread(&self, i: usize, j: usize) -> f64 {
        squared_distance(self.own(&self.moved, j), self.own(&self.centres, i)).sqrt()
    }

    /// |b_ij|.
    pub(super) fn key_size(&self, i: usize, j: usize) -> f64 {
        let pairs = self.own(&self.key_own, i).iter().zip(self.own(&self.key_other, j));
        pairs.map(|(a, b)| (a + b) * (a + b)).sum::<f64>().sqrt()
    }

    /// c_ij into `out`.
    pub(super) fn difference(&self, i: usize, j: usize, out: &mut [f64]) {
        let pairs = self.own(&self.moved, j).iter().zip(self.own(&self.centres, i));
        out.iter_mut().zip(pairs).for_each(|(out, (x, m))| *out = x - m);
    }

    /// b_ij into `out`.
    pub(super) fn key_direction(&self, i: usize, j: usize, out: &mut [f64]) {
        let pairs = self.own(&self.key_own, i).iter().zip(self.own(&self.key_other, j));
        out.iter_mut().zip(pairs).for_each(|(out, (a, b))| *out = a + b);
    }

    /// The query path of token i, Σ_j s_ij c_ij a_ijᵀ, [d, d]; M Cov_i A for softmax and dot scores. O(n d²).
    pub fn query_block(&self, i: usize) -> Matrix {
        let d = self.dim;
        let (mut sum, mut c, mut a) = (vec![0.0; d * d], vec![0.0; d], vec![0.0; d]);
        for j in (0..self.count).filter(|&j| self.slope(i, j) != 0.0) {
            self.difference(i, j, &mut c);
            let pairs = self.own(&self.query_own, i).iter().zip(self.own(&self.query_other, j));
            a.iter_mut().zip(pairs).for_each(|(a, (x, y))| *a = x + y);
            for (row, c) in sum.chunks_exact_mut(d).zip(&c) {
                let factor = self.slope(i, j) * c;
                row.iter_mut().zip(&a).for_each(|(sum, a)| *sum += factor * a);
            }
        }
        Matrix::from_fn(d, d, |r, c| sum[r * d + c])
    }

    /// D_ii, [d, d].
    pub(super) fn diagonal_block(&self, i: usize, query_block: &Matrix) -> Matrix {
        let d = self.dim;
        let (mut c, mut b) = (vec![0.0; d], vec![0.0; d]);
        self.difference(i, i, &mut c);
        self.key_direction(i, i, &mut b);
        let (p, s) = (self.weights.at(i, i), self.slope(i, i));
        Matrix::from_fn(d, d, |r, l| p * self.image.at(r, l) + s * c[r] * b[l] + query_block.at(r, l))
    }

    /// The block D_ij, [d, d]: how token i's output answers token j. O(n d²) if i = j, else O(d²).
    pub fn block(&self, i: usize, j: usize) -> Matrix {
        if i == j {
            return self.diagonal_block(i, &self.query_block(i));
        }
        let d = self.dim;
        let (mut c, mut b) = (vec![0.0; d], vec![0.0; d]);
        self.difference(i, j, &mut c);
        self.key_direction(i, j, &mut b);
        let (p, s) = (self.weights.at(i, j), self.slope(i, j));
        Matrix::from_fn(d, d, |r, l| p * self.image.at(r, l) + s * c[r] * b[l])
    }

    /// The three paths of J E, each [n, d]: value, query, key. Their sum is the head's part of the Jacobian product.
    /// O(n² d + n d²).
    pub fn paths(&self, direction: &[f64]) -> [Vec<f64>; 3] {
        let (n, d) = (self.count, self.dim);
        assert_eq!(direction.len(), n * d, "a direction of the tokens' shape");
        let moved = mapped(&self.image, direction);
        let mut out = [vec![0.0; n * d], vec![0.0; n * d], vec![0.0; n * d]];
        let [value, query, key] = &mut out;
        let rows = value.par_chunks_exact_mut(d).zip(query.par_chunks_exact_mut(d)).zip(key.par_chunks_exact_mut(d));
        rows.enumerate().for_each_init(
            || [vec![0.0; d], vec![0.0; d]],
            |[c, b], (i, ((value, query), key))| {
                for j in 0..n {
                    let (p, s) = (self.weights.at(i, j), self.slope(i, j));
                    value.iter_mut().zip(self.own(&moved, j)).for_each(|(out, x)| *out += p * x);
                    self.difference(i, j, c);
                    self.key_direction(i, j, b);
                    let through_key = s * dot(b, self.own(direction, j));
                    key.iter_mut().zip(&*c).for_each(|(out, c)| *out += through_key * c);
                    let own = dot(self.own(&self.query_own, i), self.own(direction, i));
                    let through_query = s * (own + dot(self.own(&self.query_other, j), self.own(direction, i)));
                    query.iter_mut().zip(&*c).for_each(|(out, c)| *out += through_query * c);
                }
            },
        );
        out
    }
}

/// s as far as it is not P; `None` for kernels whose weights do not depend on single scores.
fn slopes(weights: &Matrix, kernel: &AttentionKernel) -> Option<Option<Matrix>> {
    let n = weights.rows();
    let visible = |i: usize| kernel.mask().visible(i, n);
    let slope_of = |slope: &dyn Fn(f64, f64) -> f64| {
        let entry = |i, j| if j < visible(i) { slope(weights.at(i, j), visible(i) as f64) } else { 0.0 };
        Some(Some(Matrix::from_fn(n, n, entry)))
    };
    match kernel.normalization() {
        Normalization::Softmax | Normalization::Exponential => Some(None),
        // P = σ / N, σ' = σ (1 - σ).
        Normalization::Sigmoid { .. } => slope_of(&|p, n| p * (1.0 - n * p).max(0.0)),
        Normalization::Linear => slope_of(&|_, n| 1.0 / n),
        Normalization::Hardmax => slope_of(&|_, _| 0.0),
        #[allow(unreachable_patterns, reason = "a kernel that couples rows, such as Sinkhorn, has no such slopes")]
        _ => None,
    }
}

/// M x_i for every token.
fn mapped(matrix: &Matrix, tokens: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; tokens.len() / matrix.columns() * matrix.rows()];
    for (token, out) in tokens.chunks_exact(matrix.columns()).zip(out.chunks_exact_mut(matrix.rows())) {
        matrix.apply(token, out);
    }
    out
}

/// Σ_j P_ij y_j, measured from the y of the row's largest weight: exact where all visible y are equal.
fn centres(weights: &Matrix, moved: &[f64], d: usize) -> Vec<f64> {
    let n = weights.rows();
    let mut centres = vec![0.0; n * d];
    centres.par_chunks_exact_mut(d).enumerate().for_each(|(i, centre)| {
        let row = weights.row(i);
        let top = (1..n).fold(0, |best, j| if row[j] > row[best] { j } else { best });
        let reference = &moved[top * d..(top + 1) * d];
        for (p, y) in row.iter().zip(moved.chunks_exact(d)).filter(|(p, _)| **p != 0.0) {
            centre.iter_mut().zip(y.iter().zip(reference)).for_each(|(m, (y, r))| *m += p * (y - r));
        }
        centre.iter_mut().zip(reference).for_each(|(m, r)| *m += r);
    });
    centres
}
