//! A softmax head whose scores are capped, S_ij = c·tanh(s_ij / c), with biases: exact streaming products.
//!
//! Capped scores stay in (-c, c), as in checkpoints that bound their logits. Only their slope is new,
//! dS_ij = (1 - (S_ij / c)²) ds_ij; everything else is softmax. Rows of weights are made again where they are needed from
//! their maximum and their sum, so that memory stays O(n k).

use rayon::prelude::*;

use super::linear_map::LinearMap;
use crate::attention::Mask;
use crate::error::{DynamicsError, require_finite};
use crate::head::Head;
use crate::linalg::{Matrix, dot};
use crate::tokens::TokensRef;

/// How the scores of a capped head are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cap<'a> {
    /// Multiplies the scalar products; 1/√k in checkpoints.
    pub beta: f64,
    /// c > 0; infinite for none.
    pub cap: f64,
    /// Who sees whom.
    pub mask: Mask,
    /// Added to every query, \[k\]; a bias of keys would change nothing without a cap, with one it does.
    pub query_bias: &'a [f64],
    /// Added to every key, \[k\].
    pub key_bias: &'a [f64],
}

/// The Jacobian of X ↦ (W Σ_j P_ij V x_j)_i with P = softmax(c tanh(beta <Q x_i + b, K x_j + b'> / c)) at given tokens.
#[derive(Debug, Clone)]
pub struct CappedHead {
    head: Head,
    mask: Mask,
    cap: f64,
    /// beta (Q x + b), [n, k].
    query: Vec<f64>,
    /// K x + b', [n, k].
    key: Vec<f64>,
    /// V x, [n, m].
    value: Vec<f64>,
    /// Σ_j P_ij V x_j, [n, m].
    message: Vec<f64>,
    /// The largest score of every row, and Σ_j e^{S_ij - max}.
    rows: Vec<[f64; 2]>,
    /// beta.
    beta: f64,
}

impl CappedHead {
    /// The Jacobian at `tokens`. O(n² k + n k d).
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] unless `cap` is positive; [`DynamicsError::Shape`] if head, biases and tokens do not
    /// fit; [`DynamicsError::NotFinite`] for tokens or biases with NaN.
    ///
    /// # Example
    /// Equal tokens see nothing but their mean, whatever the cap: the constant is ‖V‖ = 1.
    /// ```
    /// use metastable_dynamics::attention::Mask;
    /// use metastable_dynamics::smoothness::capped::{Cap, CappedHead};
    /// use metastable_dynamics::smoothness::{LanczosOptions, top_singular_triplet};
    /// use metastable_dynamics::{Head, Tokens};
    /// let tokens = Tokens::from_rows(&[[0.3, -0.4]; 5]).unwrap();
    /// let cap = Cap { beta: 1.0, cap: 30.0, mask: Mask::Full, query_bias: &[0.1, 0.2], key_bias: &[0.0; 2] };
    /// let map = CappedHead::new(&Head::identity(2), cap, tokens.view()).unwrap();
    /// let top = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
    /// assert!((top.value - 1.0).abs() < 1e-13);
    /// ```
    pub fn new(head: &Head, how: Cap<'_>, tokens: TokensRef<'_>) -> Result<Self, DynamicsError> {
        if how.cap.is_nan() || how.cap <= 0.0 {
            return Err(DynamicsError::domain("cap", "a positive number", how.cap));
        }
        if !how.beta.is_finite() {
            return Err(DynamicsError::domain("beta", "a finite number", how.beta));
        }
        require_finite("tokens", tokens.as_slice())?;
        if head.dim() != tokens.dim() {
            return Err(DynamicsError::shape("head", format!("d = {}", tokens.dim()), format!("d = {}", head.dim())));
        }
        for (name, bias) in [("query bias", how.query_bias), ("key bias", how.key_bias)] {
            require_finite(name, bias)?;
            if bias.len() != head.query().rows() {
                return Err(DynamicsError::shape(
                    name,
                    format!("[{}]", head.query().rows()),
                    format!("[{}]", bias.len()),
                ));
            }
        }
        let affine = |matrix: &Matrix, bias: &[f64], scale: f64| {
            let mut out = mapped(matrix, tokens.as_slice());
            out.chunks_exact_mut(bias.len())
                .for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x = scale * (*x + b)));
            out
        };
        let mut map = Self {
            query: affine(head.query(), how.query_bias, how.beta),
            key: affine(head.key(), how.key_bias, 1.0),
            value: mapped(head.value(), tokens.as_slice()),
            message: Vec::new(),
            rows: vec![[0.0, 1.0]; tokens.count()],
            head: head.clone(),
            mask: how.mask,
            cap: how.cap,
            beta: how.beta,
        };
        let (n, m) = (tokens.count(), head.value().rows());
        let found: Vec<([f64; 2], Vec<f64>)> = (0..n).into_par_iter().map(|i| map.row(i, n, m)).collect();
        map.rows = found.iter().map(|(row, _)| *row).collect();
        map.message = found.into_iter().flat_map(|(_, message)| message).collect();
        Ok(map)
    }

    /// Maximum, sum and message of row i.
    fn row(&self, i: usize, n: usize, m: usize) -> ([f64; 2], Vec<f64>) {
        let scores: Vec<f64> = (0..self.mask.visible(i, n)).map(|j| self.score(i, j)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut message) = (0.0, vec![0.0; m]);
        for (score, value) in scores.iter().zip(self.value.chunks_exact(m)) {
            let weight = (score - largest).exp();
            sum += weight;
            message.iter_mut().zip(value).for_each(|(out, v)| *out += weight * v);
        }
        message.iter_mut().for_each(|out| *out /= sum);
        ([largest, sum], message)
    }

    fn token<'a>(&self, rows: &'a [f64], i: usize) -> &'a [f64] {
        let width = rows.len() / self.rows.len();
        &rows[i * width..(i + 1) * width]
    }

    /// S_ij.
    fn score(&self, i: usize, j: usize) -> f64 {
        let plain = dot(self.token(&self.query, i), self.token(&self.key, j));
        if self.cap.is_infinite() { plain } else { self.cap * (plain / self.cap).tanh() }
    }

    /// P_ij and P_ij ∂S_ij/∂s_ij.
    fn weight(&self, i: usize, j: usize) -> [f64; 2] {
        let (score, [largest, sum]) = (self.score(i, j), self.rows[i]);
        let weight = (score - largest).exp() / sum;
        [weight, weight * (1.0 - (score / self.cap).powi(2))]
    }

    /// What the output map makes of messages [n, m].
    fn written(&self, messages: &[f64], out: &mut [f64]) {
        match self.head.output() {
            Some(output) => out.copy_from_slice(&mapped(output, messages)),
            None => out.copy_from_slice(messages),
        }
    }
}

/// M x_i for every token.
fn mapped(matrix: &Matrix, tokens: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; tokens.len() / matrix.columns() * matrix.rows()];
    let pairs = tokens.chunks_exact(matrix.columns()).zip(out.chunks_exact_mut(matrix.rows()));
    pairs.for_each(|(token, out)| matrix.apply(token, out));
    out
}

impl LinearMap for CappedHead {
    fn inputs(&self) -> usize {
        self.rows.len() * self.head.dim()
    }

    fn outputs(&self) -> usize {
        self.rows.len() * self.head.output().map_or(self.head.value().rows(), Matrix::rows)
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        let (n, m) = (self.rows.len(), self.head.value().rows());
        let (dq, dk, dv) = (mapped(self.head.query(), x), mapped(self.head.key(), x), mapped(self.head.value(), x));
        let mut moved = vec![0.0; n * m];
        moved.par_chunks_exact_mut(m).enumerate().for_each(|(i, moved)| {
            let mut mean = 0.0;
            for j in 0..self.mask.visible(i, n) {
                let [weight, slope] = self.weight(i, j);
                let own = self.beta * dot(self.token(&dq, i), self.token(&self.key, j));
                let change = slope * (own + dot(self.token(&self.query, i), self.token(&dk, j)));
                mean += change;
                let values = self.token(&self.value, j).iter().zip(self.token(&dv, j));
                moved.iter_mut().zip(values).for_each(|(out, (v, dv))| *out += change * v + weight * dv);
            }
            moved.iter_mut().zip(self.token(&self.message, i)).for_each(|(out, y)| *out -= mean * y);
        });
        self.written(&moved, out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        let (n, k) = (self.rows.len(), self.head.query().rows());
        let pulled = self.head.output().map_or_else(|| y.to_vec(), |output| mapped(&output.transpose(), y));
        let m = self.head.value().rows();
        // Σ_j P_ij <ȳ_i, V x_j> = <ȳ_i, message_i>.
        let means: Vec<f64> = (0..n).map(|i| dot(self.token(&pulled, i), self.token(&self.message, i))).collect();
        let slope = |i: usize, j: usize| {
            let [weight, slope] = self.weight(i, j);
            [weight, slope * (dot(self.token(&pulled, i), self.token(&self.value, j)) - means[i])]
        };
        // Each token gathers what its query, its key and its value answer: parallel over outputs, sums in order.
        out.par_chunks_exact_mut(self.head.dim()).enumerate().for_each(|(t, out)| {
            let (mut query, mut key, mut value) = (vec![0.0; k], vec![0.0; k], vec![0.0; m]);
            for j in 0..self.mask.visible(t, n) {
                let [_, change] = slope(t, j);
                let from = self.token(&self.key, j);
                query.iter_mut().zip(from).for_each(|(out, x)| *out += self.beta * change * x);
            }
            for i in self.mask.observers(t, n) {
                let [weight, change] = slope(i, t);
                key.iter_mut().zip(self.token(&self.query, i)).for_each(|(out, x)| *out += change * x);
                value.iter_mut().zip(self.token(&pulled, i)).for_each(|(out, x)| *out += weight * x);
            }
            out.fill(0.0);
            let parts = [(self.head.query(), &query), (self.head.key(), &key), (self.head.value(), &value)];
            for (matrix, cotangent) in parts {
                for (row, x) in cotangent.iter().enumerate() {
                    out.iter_mut().zip(matrix.row(row)).for_each(|(out, w)| *out += x * w);
                }
            }
        });
    }
}
