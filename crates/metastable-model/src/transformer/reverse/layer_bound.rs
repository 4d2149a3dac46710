//! A proven upper bound of the constant of a layer's attention at one text, from what its heads see.
//!
//! Head h moves token i's output by Σ_j P_ij W V ε_j (values), by W Σ_j P_ij (v_j - v̄_i) (q̃_i·R_j K ε_j)/√k (keys) and by
//! W Σ_j P_ij (v_j - v̄_i) (k̃_j - k̄_i)ᵀ R_i Q ε_i/√k (queries), tildes as they meet, with biases and rotations R. Hence
//! ‖D‖_2 ≤ ‖N‖_2 for the nonnegative n x n matrix \[derived\]
//!
//! ```text
//! N_ij = Σ_h P_ij (‖W V‖ + |W (v_j - v̄_i)| ‖K‖ |q̃_i|/√k) + δ_ij σ_i(W v) σ_i(k̃) ‖Q‖/√k
//! ```
//!
//! with σ_i the standard deviation under the weights of row i (Cauchy-Schwarz). Where queries and keys are normalised,
//! ‖Q‖ and ‖K‖ are multiplied by the slopes of the norms at the tokens i and j. One head alone has its own N; larger
//! parts of a block follow from the slopes of norms and of the feed-forward part, as 1 + … for a residual connection.

use metastable_dynamics::smoothness::nonnegative::spectral_norm_upper;
use metastable_dynamics::{DynamicsError, Matrix};
use rayon::prelude::*;

use super::block::LayerPart;
use super::layer::Layer;
use super::real::Real;
use crate::linear::Linear;

/// Relative margin for the rounding of weights, values and sums in f32: a few hundred of its eps.
const ROUNDING: f64 = 1e-4;

/// ‖D‖_2 ≤ this, for attention alone. O(H n² k).
///
/// # Errors
/// [`DynamicsError::Decomposition`].
pub(crate) fn attention_upper<T: Real>(layer: &Layer<'_, T>) -> Result<f64, DynamicsError> {
    let n = layer.count();
    let parts: Vec<Vec<f64>> =
        (0..layer.attention().heads).map(|head| head_norms(layer, head)).collect::<Result<_, DynamicsError>>()?;
    let sum = Matrix::from_fn(n, n, |i, j| parts.iter().map(|part| part[i * n + j]).sum());
    Ok(spectral_norm_upper(&sum) * (1.0 + ROUNDING))
}

/// ‖D_h‖_2 ≤ this, for one head with its part of the output map. O(n² k).
///
/// # Errors
/// As [`attention_upper`].
pub(crate) fn head_upper<T: Real>(layer: &Layer<'_, T>, head: usize) -> Result<f64, DynamicsError> {
    let n = layer.count();
    let norms = Matrix::new("norms of blocks", n, n, head_norms(layer, head)?)?;
    Ok(spectral_norm_upper(&norms) * (1.0 + ROUNDING))
}

/// ‖D‖_2 ≤ this, for a part of a layer. [`LayerPart::Block`] costs O(hidden²·intermediate) besides.
///
/// # Errors
/// As [`attention_upper`].
pub(crate) fn part_upper<T: Real>(layer: &Layer<'_, T>, part: LayerPart) -> Result<f64, DynamicsError> {
    let (attention, slopes) = (attention_upper(layer)?, layer.slopes());
    let before = |slope: f64| if slopes.is_before { slope } else { 1.0 };
    let after = |slope: f64| if slopes.is_before { 1.0 } else { slope };
    let composite = attention * before(slopes.attention_norm);
    let residual = (1.0 + composite) * after(slopes.attention_norm);
    let feed_forward = || layer.feed_forward_upper() * before(slopes.feed_forward_norm);
    Ok(match part {
        LayerPart::Attention => attention,
        LayerPart::Composite => composite,
        LayerPart::Residual => residual,
        LayerPart::Block => residual * (1.0 + feed_forward()) * after(slopes.feed_forward_norm),
    } * (1.0 + ROUNDING))
}

/// One head's part of N, [n, n].
fn head_norms<T: Real>(layer: &Layer<'_, T>, head: usize) -> Result<Vec<f64>, DynamicsError> {
    let (attention, n) = (layer.attention(), layer.count());
    let k = attention.head_dim;
    let (wide, narrow) = (attention.heads * k, attention.kv_heads * k);
    let (own, shared) = (head * k, attention.group(head) * k);
    let output = Matrix::from_fn(attention.output.outputs(), k, |r, c| f64::from(attention.output.entry(r, own + c)));
    let rows = |map: &Linear, first: usize| Matrix::from_fn(k, map.inputs(), |r, c| f64::from(map.entry(first + r, c)));
    let value = rows(&attention.value, shared);
    // Norms of tall products from small Gram matrices: ‖W V‖² = λ_max(Wᵀ W V Vᵀ), similar to a symmetric one.
    let gram = |m: &Matrix| m.multiply(&m.transpose());
    let (output_gram, value_gram) = (gram(&output.transpose()), gram(&value));
    let output_root = root(&output_gram)?;
    let middle = symmetric(&output_root.multiply(&value_gram).multiply(&output_root));
    let value_norm = largest(&middle)?;
    let query_norm = largest(&symmetric(&gram(&rows(&attention.query, own))))?;
    let key_norm = largest(&symmetric(&gram(&rows(&attention.key, shared))))?;
    let (heads, shape) = layer.heads();
    let part = |all: &[T], width: usize, first: usize| -> Vec<f64> {
        all.chunks_exact(width).flat_map(|row| row[first..first + k].iter().map(|x| x.to_f64())).collect()
    };
    let (queries, keys) = (part(&heads.query, wide, own), part(&heads.key, narrow, shared));
    // |W y| = |√(Wᵀ W) y|.
    let values = Matrix::new("values", n, k, part(&heads.value, narrow, shared))?.multiply(&output_root);
    let weights = shape.dense_weights(heads, n, head);
    let scale = 1.0 / (k as f64).sqrt();
    let [query_slopes, key_slopes] = layer.projection_slopes(head);
    let mut norms = vec![0.0; n * n];
    norms.par_chunks_exact_mut(n).enumerate().for_each(|(i, norms)| {
        let row = &weights[i * n..(i + 1) * n];
        let query = queries[i * k..(i + 1) * k].iter().map(|x| x * x).sum::<f64>().sqrt();
        let spreads = spreads(row, values.as_slice(), k);
        let key_variance: f64 = row.iter().zip(&self::spreads(row, &keys, k)).map(|(p, s)| p * s * s).sum();
        let value_variance: f64 = row.iter().zip(&spreads).map(|(p, s)| p * s * s).sum();
        for (((norm, p), spread), slope) in norms.iter_mut().zip(row).zip(&spreads).zip(&key_slopes) {
            *norm = p * (value_norm + spread * key_norm * slope * query * scale);
        }
        norms[i] += (key_variance * value_variance).sqrt() * query_norm * query_slopes[i] * scale;
    });
    Ok(norms)
}

/// |y_j - ȳ| for the mean ȳ of rows y_j under the weights of one row; 0 where the weight is.
fn spreads(row: &[f64], all: &[f64], k: usize) -> Vec<f64> {
    let seen = || row.iter().zip(all.chunks_exact(k)).filter(|(p, _)| **p > 0.0);
    let mut mean = vec![0.0; k];
    seen().for_each(|(p, y)| mean.iter_mut().zip(y).for_each(|(mean, y)| *mean += p * y));
    let spread = |y: &[f64]| y.iter().zip(&mean).map(|(y, mean)| (y - mean) * (y - mean)).sum::<f64>().sqrt();
    row.iter().zip(all.chunks_exact(k)).map(|(p, y)| if *p > 0.0 { spread(y) } else { 0.0 }).collect()
}

fn symmetric(m: &Matrix) -> Matrix {
    Matrix::from_fn(m.rows(), m.rows(), |i, j| 0.5 * (m.at(i, j) + m.at(j, i)))
}

/// √λ_max of a symmetric positive matrix.
fn largest(gram: &Matrix) -> Result<f64, DynamicsError> {
    Ok(gram.symmetric_eigen()?.0.last().map_or(0.0, |value| value.max(0.0).sqrt()))
}

/// The symmetric square root of a Gram matrix.
fn root(gram: &Matrix) -> Result<Matrix, DynamicsError> {
    let (values, basis) = symmetric(gram).symmetric_eigen()?;
    let scaled = Matrix::from_fn(basis.rows(), basis.columns(), |i, j| basis.at(i, j) * values[j].max(0.0).sqrt());
    Ok(scaled.multiply(&basis.transpose()))
}
