//! Flows that can be solved token by token.

use crate::error::DynamicsError;
use crate::linalg::{Matrix, norm};
use crate::tokens::{Tokens, TokensRef};

/// Attention without scores (A = QᵀK = 0) in R^d: everybody attends to the mean, so
/// x_i(t) = x_i(0) + (e^{tV} - I) mean(x(0)) \[derived\]\[checked\].
///
/// `tokens` [n, d], `value` [d, d]. O(n d + d³).
///
/// # Errors
/// [`DynamicsError::Shape`] unless V is [d, d]; [`DynamicsError::NotFinite`] where e^{tV} overflows.
pub fn without_scores(tokens: TokensRef<'_>, value: &Matrix, t: f64) -> Result<Tokens, DynamicsError> {
    let mut mean = vec![0.0; tokens.dim()];
    for token in tokens.iter() {
        mean.iter_mut().zip(token).for_each(|(m, x)| *m += x / tokens.count() as f64);
    }
    let moved = free_token(&mean, value, t)?;
    let shift: Vec<f64> = moved.iter().zip(&mean).map(|(a, b)| a - b).collect();
    let values = tokens.iter().flat_map(|token| token.iter().zip(&shift).map(|(x, s)| x + s)).collect();
    Tokens::new(tokens.dim(), values)
}

/// One token, or full consensus, in R^d: x(t) = e^{tV} x(0), whatever the scores are \[derived\].
///
/// # Errors
/// [`DynamicsError::Shape`] unless V is [d, d].
pub fn free_token(token: &[f64], value: &Matrix, t: f64) -> Result<Vec<f64>, DynamicsError> {
    let d = token.len();
    if (value.rows(), value.columns()) != (d, d) {
        return Err(DynamicsError::shape("value", format!("[{d}, {d}]"), value.shape()));
    }
    let mut moved = vec![0.0; d];
    value.scaled(t).exp()?.apply(token, &mut moved);
    Ok(moved)
}

/// One token, or full consensus, on the sphere: x(t) = e^{tV} x(0) / |e^{tV} x(0)|, Oja's flow \[derived\]\[checked\].
///
/// # Errors
/// [`DynamicsError::Shape`] unless V is [d, d].
pub fn free_token_on_sphere(token: &[f64], value: &Matrix, t: f64) -> Result<Vec<f64>, DynamicsError> {
    let mut moved = free_token(token, value, t)?;
    let length = norm(&moved);
    moved.iter_mut().for_each(|x| *x /= length);
    Ok(moved)
}

/// The cross-ratio |x_i - x_j||x_k - x_l| / (|x_i - x_k||x_j - x_l|), conserved on any sphere at beta = 0 for any V:
/// all tokens share one drift vector, and Proj_x(w) generates Möbius maps of the sphere \[derived\]\[checked\].
///
/// # Panics
/// If an index is out of range.
pub fn cross_ratio(tokens: TokensRef<'_>, [i, j, k, l]: [usize; 4]) -> f64 {
    let distance = |a: usize, b: usize| crate::linalg::squared_distance(tokens.token(a), tokens.token(b)).sqrt();
    distance(i, j) * distance(k, l) / (distance(i, k) * distance(j, l))
}
