//! Gaussian measures N(mean, covariance) on R^d, singular covariances included, and their Wasserstein distance.

use nalgebra::DMatrix;

use crate::error::{DynamicsError, require_finite};
use crate::linalg::Matrix;

/// A Gaussian measure N(α, Σ), with a factor L [d, r] of its covariance, Σ = L Lᵀ, r = rank Σ (at least one column).
///
/// Nothing here needs a density, so Σ may be singular; Σ = 0 is a point mass.
///
/// # Example
/// ```
/// use metastable_dynamics::{Matrix, measure::Gaussian};
/// let covariance = Matrix::from_rows("covariance", &[[1.0, 1.0], [1.0, 1.0]]).unwrap();
/// let gaussian = Gaussian::new(vec![0.0, 0.0], covariance).unwrap();
/// assert_eq!(gaussian.rank(), 1);
/// let indefinite = Matrix::from_rows("covariance", &[[1.0, 2.0], [2.0, 1.0]]).unwrap();
/// assert!(Gaussian::new(vec![0.0, 0.0], indefinite).unwrap_err().to_string().starts_with("covariance"));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: Matrix,
    factor: Matrix,
}

impl Gaussian {
    /// Negative eigenvalues and asymmetries up to this part of the largest entry count as rounding.
    pub const ROUNDING: f64 = 1e-12;

    /// N(mean, covariance): the factor is Cholesky's where Σ is positive definite (L lower triangular, r = d), else
    /// eigenvectors times roots of those eigenvalues that rounding cannot explain. O(d³).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`], [`DynamicsError::NotFinite`], [`DynamicsError::NotSymmetric`];
    /// [`DynamicsError::Domain`] naming the eigenvalue that is negative; [`DynamicsError::Decomposition`].
    pub fn new(mean: Vec<f64>, covariance: Matrix) -> Result<Self, DynamicsError> {
        let d = mean.len();
        check_mean(&mean)?;
        if (covariance.rows(), covariance.columns()) != (d, d) {
            return Err(DynamicsError::shape("covariance", format!("[{d}, {d}]"), covariance.shape()));
        }
        require_finite("covariance", covariance.as_slice())?;
        let asymmetry = covariance.asymmetry();
        if asymmetry > Self::ROUNDING * covariance.max_abs() {
            return Err(DynamicsError::NotSymmetric { name: "covariance".into(), asymmetry });
        }
        let covariance = symmetric_part(&covariance);
        let factor = factor(&covariance)?;
        Ok(Self { mean, covariance, factor })
    }

    /// N(mean, L Lᵀ) for any L [d, r]; the factor is kept as it is, even if its columns are dependent.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if the rows of L are not as many as the entries of the mean;
    /// [`DynamicsError::NotFinite`].
    pub fn from_factor(mean: Vec<f64>, factor: Matrix) -> Result<Self, DynamicsError> {
        check_mean(&mean)?;
        if factor.rows() != mean.len() {
            return Err(DynamicsError::shape("factor", format!("[{}, r]", mean.len()), factor.shape()));
        }
        require_finite("factor", factor.as_slice())?;
        let covariance = symmetric_part(&factor.multiply(&factor.transpose()));
        require_finite("covariance", covariance.as_slice())?;
        Ok(Self { mean, covariance, factor })
    }

    /// N(0, covariance).
    ///
    /// # Errors
    /// As [`Gaussian::new`].
    pub fn centred(covariance: Matrix) -> Result<Self, DynamicsError> {
        Self::new(vec![0.0; covariance.rows()], covariance)
    }

    /// The dimension d.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// α.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Σ, [d, d], symmetric to the bit.
    pub fn covariance(&self) -> &Matrix {
        &self.covariance
    }

    /// L, [d, r], Σ = L Lᵀ.
    pub fn factor(&self) -> &Matrix {
        &self.factor
    }

    /// The number of columns of the factor: the rank of Σ, at least 1, for a Gaussian made by [`Gaussian::new`].
    pub fn rank(&self) -> usize {
        self.factor.columns()
    }

    /// tr Σ, the mean squared distance from the mean.
    pub fn trace(&self) -> f64 {
        self.factor.as_slice().iter().map(|entry| entry * entry).sum()
    }

    /// The eigenvalues of Σ, largest first: squares of the singular values of L, so that small ones are as exact
    /// as (eps σ_1 / σ_i) allows, not lost below eps times the largest. As many as min(d, r); O(d r min(d, r)).
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn spectrum(&self) -> Result<Vec<f64>, DynamicsError> {
        Ok(self.factor.singular_values()?.into_iter().map(|s| s * s).collect())
    }

    /// ln det Σ, minus infinity if Σ is singular.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn log_det(&self) -> Result<f64, DynamicsError> {
        if self.rank() < self.dim() {
            return Ok(f64::NEG_INFINITY);
        }
        Ok(self.spectrum()?.into_iter().map(f64::ln).sum())
    }

    /// The image under x ↦ M x + b: N(Mα + b, (ML)(ML)ᵀ).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if M [m, d] or b \[m\] do not fit; [`DynamicsError::NotFinite`] on overflow.
    pub fn push_forward(&self, map: &Matrix, shift: &[f64]) -> Result<Self, DynamicsError> {
        if map.columns() != self.dim() || shift.len() != map.rows() {
            return Err(DynamicsError::shape("map", format!("[{}, {}]", shift.len(), self.dim()), map.shape()));
        }
        let mut mean = vec![0.0; map.rows()];
        map.apply(&self.mean, &mut mean);
        mean.iter_mut().zip(shift).for_each(|(m, b)| *m += b);
        Self::from_factor(mean, map.multiply(&self.factor))
    }
}

/// The Bures distance squared, tr Σ_1 + tr Σ_2 - 2 tr (Σ_1^{1/2} Σ_2 Σ_1^{1/2})^{1/2}: the covariance part of W_2².
///
/// Computed as min over orthogonal O of |L_1 - L_2 O|_F², attained at O = W Uᵀ for L_1ᵀ L_2 = U S Wᵀ: a sum of
/// squares, so near and singular covariances lose nothing to cancellation \[derived\]. O(d³).
///
/// # Errors
/// [`DynamicsError::Shape`] if dimensions differ; [`DynamicsError::Decomposition`].
///
/// # References
/// Bhatia, Jain, Lim (2019), "On the Bures-Wasserstein distance between positive definite matrices", Theorem 1.
pub fn bures_squared(a: &Gaussian, b: &Gaussian) -> Result<f64, DynamicsError> {
    if a.dim() != b.dim() {
        return Err(DynamicsError::shape("gaussian", format!("d = {}", a.dim()), format!("d = {}", b.dim())));
    }
    let width = a.rank().max(b.rank());
    let (a, b) = (padded(&a.factor, width), padded(&b.factor, width));
    let svd = (a.transpose() * &b).try_svd(true, true, f64::EPSILON, MAX_SWEEPS);
    let (u, w_t) = svd
        .and_then(|svd| Some((svd.u?, svd.v_t?)))
        .ok_or_else(|| DynamicsError::Decomposition { name: "factors".into(), what: "singular value decomposition" })?;
    Ok((a - b * (w_t.transpose() * u.transpose())).norm_squared())
}

/// W_2(N(α_1, Σ_1), N(α_2, Σ_2)): its square is |α_1 - α_2|² + [`bures_squared`].
///
/// # Errors
/// As [`bures_squared`].
pub fn wasserstein2(a: &Gaussian, b: &Gaussian) -> Result<f64, DynamicsError> {
    let bures = bures_squared(a, b)?;
    Ok((crate::linalg::squared_distance(&a.mean, &b.mean) + bures).sqrt())
}

/// Iterations that a decomposition may take.
const MAX_SWEEPS: usize = 100_000;

fn check_mean(mean: &[f64]) -> Result<(), DynamicsError> {
    if mean.is_empty() {
        return Err(DynamicsError::shape("mean", "at least one entry", 0));
    }
    require_finite("mean", mean)
}

fn symmetric_part(matrix: &Matrix) -> Matrix {
    Matrix::from_fn(matrix.rows(), matrix.rows(), |i, j| 0.5 * (matrix.at(i, j) + matrix.at(j, i)))
}

fn padded(factor: &Matrix, width: usize) -> DMatrix<f64> {
    DMatrix::from_fn(factor.rows(), width, |i, j| if j < factor.columns() { factor.at(i, j) } else { 0.0 })
}

/// L with Σ = L Lᵀ.
fn factor(covariance: &Matrix) -> Result<Matrix, DynamicsError> {
    let d = covariance.rows();
    let (values, vectors) = covariance.symmetric_eigen()?;
    let largest = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    let smallest = values.first().copied().unwrap_or(0.0);
    if smallest < -Gaussian::ROUNDING * largest {
        return Err(DynamicsError::domain(
            "covariance",
            "a positive semidefinite matrix",
            format!("the eigenvalue {smallest:e}"),
        ));
    }
    // Backward error of the eigenvalue problem; what a negative eigenvalue shows of rounding, a positive one may hide.
    let cutoff = (d as f64 * f64::EPSILON * largest).max(-smallest);
    let kept: Vec<usize> = (0..d).filter(|&i| values[i] > cutoff).collect();
    if kept.len() == d
        && let Some(cholesky) = DMatrix::from_row_slice(d, d, covariance.as_slice()).cholesky()
    {
        let lower = cholesky.l();
        return Ok(Matrix::from_fn(d, d, |i, j| lower[(i, j)]));
    }
    if kept.is_empty() {
        return Ok(Matrix::from_fn(d, 1, |_, _| 0.0));
    }
    Ok(Matrix::from_fn(d, kept.len(), |i, j| vectors.at(i, kept[j]) * values[kept[j]].sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn square(d: usize, values: &[f64]) -> Matrix {
        Matrix::new("m", d, d, values.to_vec()).unwrap()
    }

    /// Σ of rank r: product of a [d, r] matrix with its transpose.
    fn of_rank(d: usize, r: usize, entries: &[f64]) -> Gaussian {
        let factor = Matrix::from_fn(d, r, |i, j| entries[i * r + j] + if i == j { 1.5 } else { 0.0 });
        Gaussian::new(vec![0.0; d], factor.multiply(&factor.transpose())).unwrap()
    }

    proptest! {
        #[test]
        fn a_factor_times_its_transpose_is_the_covariance_and_shows_the_rank(
            r in 1_usize..=4, entries in prop::collection::vec(-0.5..0.5, 16),
        ) {
            let gaussian = of_rank(4, r, &entries);
            prop_assert_eq!(gaussian.rank(), r);
            let product = gaussian.factor().multiply(&gaussian.factor().transpose());
            // Backward error of an eigenvalue problem of size 4.
            let error = product.add_scaled(-1.0, gaussian.covariance()).max_abs();
            prop_assert!(error < 1e-14 * gaussian.trace(), "{error:e}");
        }

        #[test]
        fn bures_agrees_with_its_textbook_formula_and_is_symmetric(
            r in 1_usize..=3, a in prop::collection::vec(-0.5..0.5, 9), b in prop::collection::vec(-0.5..0.5, 9),
        ) {
            let (a, b) = (of_rank(3, 3, &a), of_rank(3, r, &b));
            let (values, vectors) = a.covariance().symmetric_eigen().unwrap();
            let root = Matrix::from_fn(3, 3, |i, j| {
                (0..3).map(|k| vectors.at(i, k) * values[k].sqrt() * vectors.at(j, k)).sum()
            });
            let inner = symmetric_part(&root.multiply(b.covariance()).multiply(&root));
            let overlap: f64 = inner.symmetric_eigen().unwrap().0.iter().map(|v| v.max(0.0).sqrt()).sum();
            let textbook = a.trace() + b.trace() - 2.0 * overlap;
            // The textbook form takes the root of eigenvalues that are zero up to eps, which costs sqrt(eps) each.
            prop_assert!((bures_squared(&a, &b).unwrap() - textbook).abs() < 1e-6);
            prop_assert!((bures_squared(&a, &b).unwrap() - bures_squared(&b, &a).unwrap()).abs() < 1e-13);
        }
    }

    #[test]
    fn nearly_equal_gaussians_have_a_distance_below_the_root_of_rounding() {
        let a = Gaussian::centred(square(2, &[2.0, 0.5, 0.5, 1.0])).unwrap();
        let b = Gaussian::from_factor(vec![0.0; 2], a.factor().scaled(1.0 + 1e-12)).unwrap();
        // tr Σ 1e-24 = 3e-24; the formula with traces would give 0 or 4e-16.
        assert!((bures_squared(&a, &b).unwrap() / 3e-24 - 1.0).abs() < 1e-2);
    }

    #[test]
    fn distance_between_point_masses_is_that_of_the_points() {
        let zero = Matrix::from_fn(2, 2, |_, _| 0.0);
        let a = Gaussian::new(vec![0.0, 0.0], zero.clone()).unwrap();
        let b = Gaussian::new(vec![3.0, 4.0], zero).unwrap();
        assert_eq!(wasserstein2(&a, &b).unwrap(), 5.0);
        assert_eq!(a.log_det().unwrap(), f64::NEG_INFINITY);
    }

    #[test]
    fn bad_moments_are_named() {
        let identity = Matrix::scaled_identity(2, 1.0);
        let cases = [
            (vec![], identity.clone(), "mean"),
            (vec![0.0, f64::NAN], identity.clone(), "mean"),
            (vec![0.0; 3], identity, "covariance"),
            (vec![0.0; 2], square(2, &[1.0, 0.1, 0.2, 1.0]), "covariance"),
            (vec![0.0; 2], square(2, &[1.0, 0.0, 0.0, -1e-6]), "covariance"),
        ];
        for (mean, covariance, name) in cases {
            let message = Gaussian::new(mean, covariance).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}:")), "{message}");
        }
    }

    #[test]
    fn pushing_forward_multiplies_the_factor() {
        let gaussian = Gaussian::new(vec![1.0, 2.0], square(2, &[2.0, 0.5, 0.5, 1.0])).unwrap();
        let map = Matrix::from_rows("map", &[[1.0, 1.0]]).unwrap();
        let sum = gaussian.push_forward(&map, &[-3.0]).unwrap();
        assert_eq!(sum.mean(), [0.0]);
        assert!((sum.covariance().at(0, 0) - 4.0).abs() < 1e-15);
    }
}
