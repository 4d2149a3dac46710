//! The query-key circuit of a rotary model as a function of relative position.

use metastable_dynamics::linalg::norm;
use metastable_dynamics::{Head, Matrix};
use rayon::prelude::*;

use super::spectrum::{stable_rank, symmetric_square, trace_of_square, triangular_factor};
use crate::error::ModelError;

/// The circuit Qᵀ R_{-δ} K by which a token scores one that stands δ places before it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct DistancePoint {
    /// δ.
    pub distance: usize,
    /// The operator norm: the largest score of two unit vectors.
    pub norm: f64,
    /// The Frobenius norm.
    pub frobenius: f64,
    /// frobenius²/norm²; 0 for a zero circuit.
    pub stable_rank: f64,
    /// Share of the symmetric part in frobenius²; none for a zero circuit.
    pub symmetric_share: Option<f64>,
}

/// How queries and keys turn with their position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turns {
    /// Angle a place of each pair of coordinates (r, r + head_dim/2).
    pub(crate) frequencies: Vec<f64>,
    /// What scaling multiplies every score by.
    pub(crate) factor: f64,
}

/// One head over several distances; scores are x_iᵀ Qᵀ R_iᵀ R_j K x_j = x_iᵀ (Qᵀ R_{j-i} K) x_j.
///
/// With the thin QR factors Qᵀ = U₁R₁ and Kᵀ = U₂R₂ the singular values are those of R₁ R_{-δ} R₂ᵀ. O(d·k² + k³) a
/// distance, parallel over distances.
///
/// # Errors
/// [`ModelError::Mathematics`] if a decomposition does not converge.
///
/// # References
/// J. Su et al., "RoFormer", 2021, equation 16: scores depend on positions through j - i alone \[2nd\].
pub(crate) fn curve(head: &Head, turns: &Turns, distances: &[usize]) -> Result<Vec<DistancePoint>, ModelError> {
    let (query, key) = (triangular_factor(head.query()), triangular_factor(head.key()));
    let dense = |m: &nalgebra::DMatrix<f64>| Matrix::from_fn(m.nrows(), m.ncols(), |i, j| m[(i, j)]);
    let (query, key) = (dense(&query), dense(&key).transpose());
    let cross = head.key().multiply(&head.query().transpose());
    let point = |&distance: &usize| {
        let values = query.multiply(&turns.back(distance, &key)).singular_values()?;
        let frobenius = norm(&values);
        let symmetric = symmetric_square(frobenius, trace_of_square(&turns.back(distance, &cross)));
        Ok(DistancePoint {
            distance,
            norm: values[0],
            frobenius,
            stable_rank: stable_rank(&values),
            symmetric_share: (frobenius > 0.0).then(|| symmetric / (frobenius * frobenius)),
        })
    };
    distances.par_iter().map(point).collect::<Vec<_>>().into_iter().collect()
}

impl Turns {
    /// R_{-δ} m, for m with head_dim rows.
    fn back(&self, distance: usize, m: &Matrix) -> Matrix {
        let pairs = self.frequencies.len();
        let angle = |pair: usize| distance as f64 * self.frequencies[pair];
        Matrix::from_fn(m.rows(), m.columns(), |i, j| {
            let (sine, cosine) = angle(i % pairs).sin_cos();
            let (own, partner) = (m.at(i, j), m.at((i + pairs) % (2 * pairs), j));
            // R_δ takes (a, b) to (a cos - b sin, b cos + a sin); its inverse changes the signs of the sines.
            self.factor * if i < pairs { own * cosine + partner * sine } else { own * cosine - partner * sine }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rows: usize, columns: usize, seed: f64) -> Matrix {
        Matrix::from_fn(rows, columns, |i, j| {
            (12.9898 * (i as f64 + seed) + 78.233 * j as f64).sin() * 43_758.545 % 1.0
        })
    }

    fn head() -> Head {
        Head::new(noise(6, 11, 1.0), noise(6, 11, 2.0), noise(6, 11, 3.0), Some(noise(11, 6, 4.0))).unwrap()
    }

    /// R_p as a dense matrix, straight from its definition.
    fn rotation(turns: &Turns, position: f64) -> Matrix {
        let pairs = turns.frequencies.len();
        Matrix::from_fn(2 * pairs, 2 * pairs, |i, j| {
            let (sine, cosine) = (position * turns.frequencies[i % pairs]).sin_cos();
            match (i == j, i % pairs == j % pairs) {
                (true, _) => cosine,
                (false, true) => {
                    if i < pairs {
                        -sine
                    } else {
                        sine
                    }
                }
                _ => 0.0,
            }
        })
    }

    #[test]
    fn the_curve_is_that_of_the_dense_rotated_product() {
        let turns = Turns { frequencies: vec![1.0, 0.3, 0.05], factor: 1.7 };
        let head = head();
        for point in curve(&head, &turns, &[0, 1, 7]).unwrap() {
            // Two tokens at positions 20 and 20 - δ.
            let rotated = |m: &Matrix, position: f64| rotation(&turns, position).multiply(m);
            let (query, key) = (rotated(head.query(), 20.0), rotated(head.key(), 20.0 - point.distance as f64));
            let dense = query.transpose().multiply(&key).scaled(turns.factor);
            let size = dense.frobenius_norm();
            let symmetric = dense.zip_with(&dense.transpose(), |a, b| 0.5 * (a + b)).frobenius_norm();
            assert!((point.norm - dense.operator_norm().unwrap()).abs() < 1e-11, "{point:?}");
            assert!((point.frobenius - size).abs() < 1e-11, "{point:?}");
            assert!((point.symmetric_share.unwrap() - (symmetric / size).powi(2)).abs() < 1e-11, "{point:?}");
        }
    }

    #[test]
    fn without_turns_every_distance_is_the_same_circuit() {
        let turns = Turns { frequencies: vec![0.0; 3], factor: 1.0 };
        let head = head();
        let spectrum = super::super::HeadSpectrum::of(&head).unwrap();
        for point in curve(&head, &turns, &[0, 5, 100]).unwrap() {
            assert!(
                (point.norm - spectrum.qk_norm).abs() < 1e-12
                    && (point.frobenius - spectrum.qk_frobenius).abs() < 1e-12
            );
        }
    }
}
