//! From the maps of a layer to attention heads, and the spectra of a head's two circuits.
//!
//! Biases are not part of a [`Head`]: scores and messages of the real model are affine in each token, and the bilinear
//! form QᵀK and the linear map W V below leave their constant and linear terms out.

use metastable_dynamics::{Head, Matrix};
use nalgebra::DMatrix;

use crate::error::ModelError;
use crate::linear::Linear;
use crate::transformer::Attention;
use crate::transformer::norm::Norm;

/// Singular values and eigenvalues of a head's circuits, xᵀ(QᵀK)y and W V.
///
/// Both circuits are d × d of rank at most head_dim, and are never formed: with the thin QR factors Qᵀ = U₁R₁ and
/// Kᵀ = U₂R₂ the singular values of QᵀK are those of the small core R₁R₂ᵀ, and the nonzero eigenvalues of W V are
/// those of V W.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HeadSpectrum {
    /// Singular values of QᵀK, largest first; Q carries the 1/sqrt(head_dim) of the scores.
    pub qk_singular_values: Vec<f64>,
    /// How many of them exceed `qk_tolerance`.
    pub qk_rank: usize,
    /// d·2^-23·(largest singular value): what rounding weights to f32 may leave of a zero.
    pub qk_tolerance: f64,
    /// ‖QᵀK‖_F² / ‖QᵀK‖², between 1 and the rank; 0 for a zero circuit.
    pub qk_stable_rank: f64,
    /// ‖QᵀK‖, the operator norm.
    pub qk_norm: f64,
    /// Singular values of W V, largest first.
    pub ov_singular_values: Vec<f64>,
    /// ‖W V‖, the operator norm.
    pub ov_norm: f64,
    /// Eigenvalues of W V of largest modulus, as (real, imaginary), largest first: eight, or nine where the eighth would
    /// leave its complex conjugate behind.
    pub ov_eigenvalues_top: Vec<(f64, f64)>,
}

/// How many eigenvalues a [`HeadSpectrum`] lists.
const TOP_EIGENVALUES: usize = 8;

impl HeadSpectrum {
    /// The spectra of a head. O(d·k²) for d × k factors.
    ///
    /// # Errors
    /// [`ModelError::Mathematics`] if a decomposition does not converge.
    pub fn of(head: &Head) -> Result<Self, ModelError> {
        let qk = product_core(head.query(), head.key())?.singular_values()?;
        let (ov, eigenvalues) = match head.output() {
            Some(output) => {
                let ov = product_core(&output.transpose(), head.value())?.singular_values()?;
                let value_rows = head.value().rows();
                let small = if value_rows <= head.dim() { head.value().multiply(output) } else { head.output_value() };
                (ov, small.eigenvalues()?)
            }
            None => (head.value().singular_values()?, head.value().eigenvalues()?),
        };
        let qk_norm = qk[0];
        let qk_tolerance = head.dim() as f64 * f64::from(f32::EPSILON) * qk_norm;
        let squares: f64 = qk.iter().map(|s| s * s).sum();
        Ok(Self {
            qk_rank: qk.iter().filter(|s| **s > qk_tolerance).count(),
            qk_tolerance,
            qk_stable_rank: if qk_norm > 0.0 { squares / (qk_norm * qk_norm) } else { 0.0 },
            qk_norm,
            qk_singular_values: qk,
            ov_norm: ov[0],
            ov_singular_values: ov,
            ov_eigenvalues_top: top(eigenvalues),
        })
    }
}

/// The heads of a layer in f64: query (scaled by 1/sqrt(head_dim)), key and value [head_dim, d], output [d, head_dim].
///
/// Query heads of one group come with the same key and value. Gains of norms of queries and keys (Qwen 3) are factors of
/// their rows; the normalisation itself depends on the token and is left out. Rotations (RoPE) are left out: the circuit
/// is that of two tokens at the same place.
pub(crate) fn heads(attention: &Attention) -> Result<Vec<Head>, ModelError> {
    let head_dim = attention.head_dim;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let rows = |map: &Linear, first: usize, norm: Option<&Norm>, scale: f64| {
        let factor = |i: usize| scale * norm.map_or(1.0, |norm| f64::from(norm.gain()[i]));
        Matrix::from_fn(head_dim, map.inputs(), |i, j| factor(i) * f64::from(map.row(first + i)[j]))
    };
    let head = |head: usize| {
        let (first, shared) = (head * head_dim, attention.group(head) * head_dim);
        let output =
            Matrix::from_fn(attention.output.outputs(), head_dim, |i, j| f64::from(attention.output.row(i)[first + j]));
        let query = rows(&attention.query, first, attention.query_norm.as_ref(), scale);
        let key = rows(&attention.key, shared, attention.key_norm.as_ref(), 1.0);
        Ok(Head::new(query, key, rows(&attention.value, shared, None, 1.0), Some(output))?)
    };
    (0..attention.heads).map(head).collect()
}

/// A small matrix with the singular values of leftᵀ right, for left [k, d] and right [k, e]: R₁R₂ᵀ of the thin QR
/// factors of both transposes.
fn product_core(left: &Matrix, right: &Matrix) -> Result<Matrix, ModelError> {
    let (left, right) = (triangular_factor(left), triangular_factor(right));
    let core = (left * right.transpose()).transpose();
    Ok(Matrix::new("product core", core.ncols(), core.nrows(), core.as_slice().to_vec())?)
}

/// R of the thin QR decomposition of mᵀ.
fn triangular_factor(m: &Matrix) -> DMatrix<f64> {
    // Row-major [k, d] read column by column is the transpose [d, k].
    DMatrix::from_column_slice(m.columns(), m.rows(), m.as_slice()).qr().r()
}

/// The eigenvalues of largest modulus, conjugates side by side (positive imaginary part first), no pair split.
fn top(mut eigenvalues: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let modulus = |z: &(f64, f64)| z.0.hypot(z.1);
    eigenvalues.sort_by(|a, b| modulus(b).total_cmp(&modulus(a)).then(b.0.total_cmp(&a.0)).then(b.1.total_cmp(&a.1)));
    let split = TOP_EIGENVALUES < eigenvalues.len() && eigenvalues[TOP_EIGENVALUES - 1].1 > 0.0;
    eigenvalues.truncate(TOP_EIGENVALUES + usize::from(split));
    eigenvalues
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries in [-1, 1] without a pattern that a spectrum would notice.
    fn noise(rows: usize, columns: usize, seed: f64) -> Matrix {
        Matrix::from_fn(rows, columns, |i, j| {
            (12.9898 * (i as f64 + seed) + 78.233 * j as f64).sin() * 43_758.545 % 1.0
        })
    }

    fn head(k: usize, d: usize) -> Head {
        Head::new(noise(k, d, 1.0), noise(k, d, 2.0), noise(k, d, 3.0), Some(noise(d, k, 4.0))).unwrap()
    }

    #[test]
    fn spectra_of_the_cores_are_those_of_the_dense_products() {
        for (k, d) in [(4, 11), (1, 5), (6, 6), (7, 5)] {
            let head = head(k, d);
            let spectrum = HeadSpectrum::of(&head).unwrap();
            // Two products and two decompositions of matrices of norm about d: rounding of a few d·eps each.
            let tolerance = 1e-13 * (d * d) as f64;
            let dense = head.query_key().singular_values().unwrap();
            for (found, exact) in spectrum.qk_singular_values.iter().zip(&dense) {
                assert!((found - exact).abs() < tolerance, "qk {k} {d}: {found} {exact}");
            }
            let dense = head.output_value().singular_values().unwrap();
            for (found, exact) in spectrum.ov_singular_values.iter().zip(&dense) {
                assert!((found - exact).abs() < tolerance, "ov {k} {d}: {found} {exact}");
            }
            let exact = top(head.output_value().eigenvalues().unwrap());
            for (found, exact) in spectrum.ov_eigenvalues_top.iter().zip(&exact).take(k.min(d).min(8)) {
                let error = (found.0 - exact.0).hypot(found.1 - exact.1);
                assert!(error < 1e-9, "eigenvalues {k} {d}: {found:?} {exact:?}");
            }
            assert_eq!(spectrum.qk_rank, k.min(d));
        }
    }

    #[test]
    fn a_rank_one_circuit_has_rank_and_stable_rank_one() {
        let query = Matrix::from_fn(3, 8, |i, j| (i + 1) as f64 * (j as f64 - 2.0));
        let head = Head::new(query, noise(3, 8, 1.0), noise(3, 8, 2.0), Some(noise(8, 3, 3.0))).unwrap();
        let spectrum = HeadSpectrum::of(&head).unwrap();
        assert_eq!(spectrum.qk_rank, 1);
        assert!((spectrum.qk_stable_rank - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_zero_circuit_has_rank_zero() {
        let zero = Matrix::from_fn(2, 4, |_, _| 0.0);
        let head = Head::new(zero.clone(), noise(2, 4, 1.0), zero, Some(noise(4, 2, 3.0))).unwrap();
        let spectrum = HeadSpectrum::of(&head).unwrap();
        assert_eq!((spectrum.qk_rank, spectrum.qk_stable_rank, spectrum.qk_norm), (0, 0.0, 0.0));
    }

    #[test]
    fn a_conjugate_pair_is_never_split() {
        let mut values: Vec<(f64, f64)> = (0..7).map(|i| (10.0 - f64::from(i), 0.0)).collect();
        values.extend([(1.0, -2.0), (0.5, 0.0), (1.0, 2.0)]);
        let top = top(values);
        assert_eq!(top.len(), 9);
        assert_eq!(&top[7..], &[(1.0, 2.0), (1.0, -2.0)]);
    }
}
