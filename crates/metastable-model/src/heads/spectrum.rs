//! Spectra of the two circuits of a head: what its weights alone predict.

use metastable_dynamics::linalg::norm;
use metastable_dynamics::{Head, Matrix};
use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;
use serde::Serialize;

use crate::error::ModelError;

/// Singular values and eigenvalues of a head's circuits, xᵀ(QᵀK)y and W V.
///
/// Both circuits are d × d of rank at most head_dim, and are never formed: with the thin QR factors Qᵀ = U₁R₁ and
/// Kᵀ = U₂R₂ the singular values of QᵀK are those of the small core R₁R₂ᵀ, tr (QᵀK)² is that of (K Qᵀ)², and the nonzero
/// eigenvalues of W V are those of V W.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// exp of the entropy of σ_i/Σσ; 0 for a zero circuit.
    pub qk_effective_rank: f64,
    /// ‖QᵀK‖, the operator norm.
    pub qk_norm: f64,
    /// ‖QᵀK‖_F.
    pub qk_frobenius: f64,
    /// ‖S‖_F²/‖QᵀK‖_F² of the symmetric part S; 1 minus it is the share of the antisymmetric part. Half for entries
    /// without a pattern; none for a zero circuit.
    pub qk_symmetric_share: Option<f64>,
    /// sqrt(d)·‖S‖_F: the β of softmax(β<u_i, u_j>) if S were a multiple of the identity and tokens had norm sqrt(d), as
    /// after a LayerNorm of gain 1 \[derived\]; the number that the LoRA paper's code prints for ALBERT \[code\].
    pub effective_beta: f64,
    /// Singular values of W V, largest first.
    pub ov_singular_values: Vec<f64>,
    /// ‖W V‖, the operator norm.
    pub ov_norm: f64,
    /// ‖W V‖_F² / ‖W V‖²; 0 for a zero circuit.
    pub ov_stable_rank: f64,
    /// Eigenvalues of W V as (real, imaginary), largest modulus first, but for the d - head_dim zeros that every such
    /// product has: at most head_dim of them.
    pub ov_eigenvalues: Vec<(f64, f64)>,
    /// The first of them: eight, or nine where the eighth would leave its complex conjugate behind.
    pub ov_eigenvalues_top: Vec<(f64, f64)>,
    /// |λ_1| - |λ_2| of `ov_eigenvalues`, λ_2 the next one that is not the conjugate of λ_1; |λ_1| if there is no other.
    pub ov_gap: f64,
    /// What the leading eigenvalue says of the head's own flow.
    pub regime: Regime,
}

/// What theory says of the flow x_i' = Σ_j P_ij W V x_j of this head alone, its weights repeated for ever, from the
/// leading eigenvalue λ_1 (largest modulus) of W V and its eigenvector φ.
///
/// # References
/// B. Geshkovski et al. 2305.05465, `l:3hyperplanes` for a good triple: λ_1 > 0 simple, all others smaller in modulus,
/// <Qφ, Kφ> > 0 \[lean\]. The other names describe the eigenvalue; no theorem is claimed for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Regime {
    /// A good triple: rescaled tokens approach at most three parallel hyperplanes.
    Hyperplanes,
    /// λ_1 > 0 leads alone, but <Qφ, Kφ> <= 0: tokens attend away from the leading direction.
    TurnedAway,
    /// A complex pair leads: the leading plane turns.
    Rotating,
    /// λ_1 < 0 leads alone: messages point back.
    Reversing,
    /// No eigenvalue leads, to the stated tolerance d·2^-23·‖W V‖.
    Undecided,
}

impl Regime {
    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hyperplanes => "hyperplanes",
            Self::TurnedAway => "turned_away",
            Self::Rotating => "rotating",
            Self::Reversing => "reversing",
            Self::Undecided => "undecided",
        }
    }
}

/// How many eigenvalues `ov_eigenvalues_top` lists.
const TOP_EIGENVALUES: usize = 8;

impl HeadSpectrum {
    /// The spectra of several heads, in their order. Parallel over heads.
    ///
    /// # Errors
    /// As [`HeadSpectrum::of`], of the first head that fails.
    pub fn of_all(heads: &[Head]) -> Result<Vec<Self>, ModelError> {
        heads.par_iter().map(Self::of).collect::<Vec<_>>().into_iter().collect()
    }

    /// The spectra of a head. O(d·k²) for d × k factors.
    ///
    /// # Errors
    /// [`ModelError::Mathematics`] if a decomposition does not converge.
    pub fn of(head: &Head) -> Result<Self, ModelError> {
        let qk = product_core(head.query(), head.key())?.singular_values()?;
        let qk_norm = qk[0];
        let qk_tolerance = tolerance(head.dim(), qk_norm);
        let qk_frobenius = norm(&qk);
        let symmetric =
            symmetric_square(qk_frobenius, trace_of_square(&head.key().multiply(&head.query().transpose())));
        let ov = match head.output() {
            Some(output) => product_core(&output.transpose(), head.value())?.singular_values()?,
            None => head.value().singular_values()?,
        };
        let small = OutputValue::of(head);
        let ov_eigenvalues = ordered(small.matrix.eigenvalues()?);
        let ov_tolerance = tolerance(head.dim(), ov[0]);
        let ov_gap = gap(&ov_eigenvalues, ov_tolerance);
        Ok(Self {
            qk_rank: qk.iter().filter(|s| **s > qk_tolerance).count(),
            qk_tolerance,
            qk_stable_rank: stable_rank(&qk),
            qk_effective_rank: effective_rank(&qk),
            qk_norm,
            qk_frobenius,
            qk_symmetric_share: (qk_norm > 0.0).then(|| symmetric / (qk_frobenius * qk_frobenius)),
            effective_beta: (head.dim() as f64 * symmetric).sqrt(),
            qk_singular_values: qk,
            ov_norm: ov[0],
            ov_stable_rank: stable_rank(&ov),
            ov_singular_values: ov,
            ov_eigenvalues_top: top(&ov_eigenvalues),
            regime: regime(head, &small, &ov_eigenvalues, (ov_gap, ov_tolerance)),
            ov_eigenvalues,
            ov_gap,
        })
    }
}

/// What rounding weights to f32 may leave of a zero singular value, d·2^-23·σ_1.
fn tolerance(d: usize, largest: f64) -> f64 {
    d as f64 * f64::from(f32::EPSILON) * largest
}

/// ‖(A + Aᵀ)/2‖_F² = (‖A‖_F² + tr A²)/2.
pub(super) fn symmetric_square(frobenius: f64, trace_of_square: f64) -> f64 {
    (0.5 * (frobenius * frobenius + trace_of_square)).max(0.0)
}

/// tr M² of a square matrix.
pub(super) fn trace_of_square(m: &Matrix) -> f64 {
    (0..m.rows()).flat_map(|i| (0..m.rows()).map(move |j| (i, j))).map(|(i, j)| m.at(i, j) * m.at(j, i)).sum()
}

/// Σσ²/σ_1² of singular values, largest first; 0 for zeros.
pub(super) fn stable_rank(singular_values: &[f64]) -> f64 {
    let squares: f64 = singular_values.iter().map(|s| s * s).sum();
    if singular_values[0] > 0.0 { squares / (singular_values[0] * singular_values[0]) } else { 0.0 }
}

/// exp of the entropy of σ/Σσ; 0 for zeros.
fn effective_rank(singular_values: &[f64]) -> f64 {
    let sum: f64 = singular_values.iter().sum();
    let shares = singular_values.iter().filter(|s| **s > 0.0).map(|s| s / sum);
    if sum > 0.0 { shares.map(|share| -share * share.ln()).sum::<f64>().exp() } else { 0.0 }
}

/// The smaller of W V and V W, which share their nonzero eigenvalues.
struct OutputValue {
    matrix: Matrix,
    /// Whether it is V W, whose eigenvectors W takes to those of W V.
    is_inner: bool,
}

impl OutputValue {
    fn of(head: &Head) -> Self {
        match head.output() {
            Some(output) if head.value().rows() <= head.dim() => {
                Self { matrix: head.value().multiply(output), is_inner: true }
            }
            Some(_) => Self { matrix: head.output_value(), is_inner: false },
            None => Self { matrix: head.value().clone(), is_inner: false },
        }
    }

    /// The eigenvector of W V for the real eigenvalue that leads, by inverse iteration; none if it does not converge.
    fn eigenvector(&self, head: &Head, eigenvalue: f64) -> Option<Vec<f64>> {
        let k = self.matrix.rows();
        let small = DMatrix::from_row_slice(k, k, self.matrix.as_slice());
        // Just beside the eigenvalue, so that the shifted matrix can be inverted.
        let shifted = &small - DMatrix::identity(k, k) * (eigenvalue * (1.0 + 1e-10));
        let lu = shifted.lu();
        let mut vector = DVector::from_fn(k, |i, _| 1.0 + 0.5 * (i as f64).sin());
        for _ in 0..8 {
            vector = lu.solve(&vector)?;
            let length = vector.norm();
            if !(length.is_finite() && length > 0.0) {
                return None;
            }
            vector /= length;
        }
        let residual = (&small * &vector - &vector * eigenvalue).norm();
        // NaN is no convergence either.
        if residual.is_nan() || residual > 1e-6 * small.norm() {
            return None;
        }
        Some(match head.output().filter(|_| self.is_inner) {
            Some(output) => applied(output, vector.as_slice()),
            None => vector.as_slice().to_vec(),
        })
    }
}

fn applied(matrix: &Matrix, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; matrix.rows()];
    matrix.apply(x, &mut y);
    y
}

fn regime(head: &Head, small: &OutputValue, eigenvalues: &[(f64, f64)], (gap, tolerance): (f64, f64)) -> Regime {
    let Some(&(real, imaginary)) = eigenvalues.first().filter(|_| gap > tolerance) else { return Regime::Undecided };
    if imaginary.abs() > tolerance {
        return Regime::Rotating;
    }
    if real < 0.0 {
        return Regime::Reversing;
    }
    let Some(direction) = small.eigenvector(head, real) else { return Regime::Undecided };
    let (query, key) = (applied(head.query(), &direction), applied(head.key(), &direction));
    match metastable_dynamics::linalg::dot(&query, &key) > 0.0 {
        true => Regime::Hyperplanes,
        false => Regime::TurnedAway,
    }
}

/// By how much the first eigenvalue leads those that are not its conjugate.
fn gap(eigenvalues: &[(f64, f64)], tolerance: f64) -> f64 {
    let modulus = |z: &(f64, f64)| z.0.hypot(z.1);
    let Some(first) = eigenvalues.first() else { return 0.0 };
    let partner = usize::from(first.1.abs() > tolerance);
    modulus(first) - eigenvalues.get(1 + partner).map_or(0.0, modulus)
}

/// A small matrix with the singular values of leftᵀ right, for left [k, d] and right [k, e]: R₁R₂ᵀ of the thin QR
/// factors of both transposes.
fn product_core(left: &Matrix, right: &Matrix) -> Result<Matrix, ModelError> {
    let (left, right) = (triangular_factor(left), triangular_factor(right));
    let core = (left * right.transpose()).transpose();
    Ok(Matrix::new("product core", core.ncols(), core.nrows(), core.as_slice().to_vec())?)
}

/// R of the thin QR decomposition of mᵀ.
pub(super) fn triangular_factor(m: &Matrix) -> DMatrix<f64> {
    // Row-major [k, d] read column by column is the transpose [d, k].
    DMatrix::from_column_slice(m.columns(), m.rows(), m.as_slice()).qr().r()
}

/// Largest modulus first, conjugates side by side, positive imaginary part first.
fn ordered(mut eigenvalues: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let modulus = |z: &(f64, f64)| z.0.hypot(z.1);
    eigenvalues.sort_by(|a, b| modulus(b).total_cmp(&modulus(a)).then(b.0.total_cmp(&a.0)).then(b.1.total_cmp(&a.1)));
    eigenvalues
}

/// The first eigenvalues, no pair split.
fn top(eigenvalues: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let split = TOP_EIGENVALUES < eigenvalues.len() && eigenvalues[TOP_EIGENVALUES - 1].1 > 0.0;
    eigenvalues.iter().take(TOP_EIGENVALUES + usize::from(split)).copied().collect()
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
            let exact = top(&ordered(head.output_value().eigenvalues().unwrap()));
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
        let top = top(&ordered(values));
        assert_eq!(top.len(), 9);
        assert_eq!(&top[7..], &[(1.0, 2.0), (1.0, -2.0)]);
    }

    #[test]
    fn shares_and_beta_are_those_of_the_symmetric_part_of_the_dense_product() {
        for (k, d) in [(4, 11), (1, 5), (6, 6), (7, 5)] {
            let head = head(k, d);
            let spectrum = HeadSpectrum::of(&head).unwrap();
            let dense = head.query_key();
            let symmetric = dense.zip_with(&dense.transpose(), |a, b| 0.5 * (a + b)).frobenius_norm();
            let share = spectrum.qk_symmetric_share.unwrap();
            assert!((share - (symmetric / dense.frobenius_norm()).powi(2)).abs() < 1e-12, "{k} {d}");
            assert!((spectrum.effective_beta - (d as f64).sqrt() * symmetric).abs() < 1e-12 * d as f64, "{k} {d}");
            assert!((spectrum.qk_frobenius - dense.frobenius_norm()).abs() < 1e-12 * d as f64);
        }
    }

    #[test]
    fn the_effective_beta_of_a_multiple_of_the_identity_is_that_of_tokens_of_norm_root_d() {
        // <Q x, K y> = c<x, y> = c·d·<u, v> for x = sqrt(d) u.
        let (d, c) = (6, 0.3);
        let head = Head::new(Matrix::scaled_identity(d, c), Matrix::scaled_identity(d, 1.0), noise(d, d, 1.0), None);
        let spectrum = HeadSpectrum::of(&head.unwrap()).unwrap();
        assert!((spectrum.effective_beta - c * d as f64).abs() < 1e-12);
        assert!((spectrum.qk_symmetric_share.unwrap() - 1.0).abs() < 1e-12);
        assert!((spectrum.qk_effective_rank - 6.0).abs() < 1e-12);
    }

    #[test]
    fn the_regime_is_read_off_the_leading_eigenvalue() {
        let identity = Matrix::scaled_identity(3, 1.0);
        let found = |query: f64, value: &[[f64; 3]]| {
            let value = Matrix::from_rows("value", value).unwrap();
            let head = Head::new(Matrix::scaled_identity(3, query), identity.clone(), value, None).unwrap();
            let spectrum = HeadSpectrum::of(&head).unwrap();
            (spectrum.regime, (spectrum.ov_gap * 1e9).round() / 1e9)
        };
        let leading = [[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, -1.5]];
        assert_eq!(found(1.0, &leading), (Regime::Hyperplanes, 0.5));
        assert_eq!(found(-1.0, &leading), (Regime::TurnedAway, 0.5));
        let turning = [[0.0, -2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]];
        assert_eq!(found(1.0, &turning), (Regime::Rotating, 1.0));
        let back = [[-2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]];
        assert_eq!(found(1.0, &back), (Regime::Reversing, 1.0));
        let twice = [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]];
        assert_eq!(found(1.0, &twice), (Regime::Undecided, 0.0));
    }

    #[test]
    fn the_leading_direction_of_a_product_is_found_through_its_small_side() {
        // W V = φψᵀ + small noise: the eigenvector is near φ, and the regime turns with the sign of <Qφ, Kφ>.
        let (k, d) = (2, 9);
        let phi: Vec<f64> = (0..d).map(|i| 1.0 + (i as f64).cos()).collect();
        let value = Matrix::from_fn(k, d, |i, j| if i == 0 { phi[j] } else { 0.01 * (j as f64).sin() });
        let output = Matrix::from_fn(d, k, |i, j| if j == 0 { phi[i] } else { 0.01 * (3.0 * i as f64).sin() });
        for sign in [1.0, -1.0] {
            let query = Matrix::from_fn(k, d, |i, j| if i == 0 { sign * phi[j] } else { 0.0 });
            let key = Matrix::from_fn(k, d, |i, j| if i == 0 { phi[j] } else { 1.0 });
            let head = Head::new(query, key, value.clone(), Some(output.clone())).unwrap();
            let expected = if sign > 0.0 { Regime::Hyperplanes } else { Regime::TurnedAway };
            assert_eq!(HeadSpectrum::of(&head).unwrap().regime, expected);
        }
    }

    #[test]
    fn regimes_are_spelled_in_files_as_in_tables() {
        let all = [Regime::Hyperplanes, Regime::TurnedAway, Regime::Rotating, Regime::Reversing, Regime::Undecided];
        for regime in all {
            assert_eq!(serde_json::to_value(regime).unwrap(), regime.name());
        }
    }
}
