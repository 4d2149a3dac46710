//! Functionals that Gaussian flows descend or ascend: gradient structures in closed form.
//!
//! A Bures-Wasserstein descent of F on centred Gaussians is Σ' = -2(GΣ + ΣG), G = ∂F/∂Σ, along which
//! F' = -4 tr(GΣG) <= 0. All formulas are derived for symmetric A (scores yᵀAx) and checked against finite differences.

use nalgebra::DMatrix;

use crate::error::DynamicsError;
use crate::field::{GaussianFlow, GaussianKernel};
use crate::head::Head;
use crate::linalg::Matrix;
use crate::measure::Gaussian;

/// -¼ tr(AΣAΣ): centred softmax flows with V = A = Aᵀ are its Bures-Wasserstein descent, with V = -A its ascent
/// \[checked\]. With a mean other than 0 softmax is no such flow \[derived\]. O(d³).
///
/// # Errors
/// [`DynamicsError::Shape`] unless A is [d, d].
pub fn softmax_energy(logits: &Matrix, gaussian: &Gaussian) -> Result<f64, DynamicsError> {
    let product = square(logits, gaussian)?.multiply(gaussian.covariance());
    Ok(-0.25 * trace(&product.multiply(&product)))
}

/// -½ (tr(ΣM) - ½ ln det(I + 2ΣM)), M = KᵀK: centred L2 flows with Q = K, V = M are its Bures-Wasserstein descent
/// \[checked\]; we have not seen this in the paper. O(d³).
///
/// # Errors
/// [`DynamicsError::Shape`] unless M is [d, d]; [`DynamicsError::Domain`] unless I + 2LᵀML is positive definite.
pub fn squared_distance_energy(keys: &Matrix, gaussian: &Gaussian) -> Result<f64, DynamicsError> {
    let reduced = reduced(square(keys, gaussian)?, gaussian);
    let log_det = log_det(&reduced.scaled(2.0).add_scaled(1.0, &Matrix::scaled_identity(reduced.rows(), 1.0)), "keys")?;
    Ok(-0.5 * (trace(&reduced) - 0.5 * log_det))
}

/// ½ ∬ e^{yᵀAx} dμ dμ = ½ det(I - ΣAΣAᵀ)^{-1/2} for a centred Gaussian, or none where it is infinite, that is, unless
/// the norm of LᵀAL is below 1.
///
/// Softmax flows with V = A = Aᵀ ascend it in the metric of mobility μ/Z_μ ("twisted") \[2nd\]: see
/// [`twisted_energy_rate`]. O(d³).
///
/// # Errors
/// [`DynamicsError::Shape`] unless A is [d, d]; [`DynamicsError::Decomposition`].
pub fn twisted_energy(logits: &Matrix, gaussian: &Gaussian) -> Result<Option<f64>, DynamicsError> {
    let reduced = reduced(square(logits, gaussian)?, gaussian);
    let values = reduced.singular_values()?;
    if values.first().is_some_and(|s| *s >= 1.0) {
        return Ok(None);
    }
    Ok(Some(0.5 / values.iter().map(|s| (1.0 - s * s).sqrt()).product::<f64>()))
}

/// dE/dt = 2E tr(H²(Σ⁻¹ - H)⁻¹), H = AΣA, of [`twisted_energy`] along the softmax flow with V = A = Aᵀ; never negative
/// \[checked\]. O(d³).
///
/// # Errors
/// As [`twisted_energy`]; [`DynamicsError::Decomposition`] for a singular Σ.
pub fn twisted_energy_rate(logits: &Matrix, gaussian: &Gaussian) -> Result<Option<f64>, DynamicsError> {
    let Some(energy) = twisted_energy(logits, gaussian)? else { return Ok(None) };
    let h = logits.multiply(gaussian.covariance()).multiply(logits);
    let inner = gaussian.covariance().inverse()?.add_scaled(-1.0, &h).inverse()?;
    Ok(Some(2.0 * energy * trace(&h.multiply(&h).multiply(&inner))))
}

/// W_ε(μ) = min over couplings of ∫ -yᵀAx dπ + ε KL(π | μ⊗μ) = -tr(AC) - (ε/2) ln det(I - Σ⁻¹CΣ⁻¹Cᵀ) for centred
/// Gaussians and symmetric A, C the coupling's cross-covariance.
///
/// Sinkhorn flows with V = A = Aᵀ are the Wasserstein descent of W_ε/(2ε) \[checked\]. O(d³).
///
/// # Errors
/// [`DynamicsError::Shape`] unless A is [d, d]; [`DynamicsError::NotSymmetric`]; [`DynamicsError::Domain`] for a bad ε;
/// [`DynamicsError::Decomposition`] for a singular Σ.
pub fn sinkhorn_energy(logits: &Matrix, epsilon: f64, gaussian: &Gaussian) -> Result<f64, DynamicsError> {
    square(logits, gaussian)?;
    if logits.asymmetry() > 1e-12 * logits.max_abs() {
        return Err(DynamicsError::NotSymmetric { name: "logits".into(), asymmetry: logits.asymmetry() });
    }
    let identity = Matrix::scaled_identity(gaussian.dim(), 1.0);
    let head = Head::new(logits.clone(), identity.clone(), identity, None)?;
    let flow = GaussianFlow::new(vec![head], GaussianKernel::Sinkhorn { beta: 1.0, epsilon }, gaussian)?;
    // With V = I and symmetric A the flow moves at Σ' = 2C/ε.
    let coupling = flow.moment_velocity(gaussian)?.1.scaled(0.5 * epsilon);
    let inverse = gaussian.factor().inverse()?;
    let correlation = inverse.multiply(&coupling).multiply(&inverse.transpose());
    let rest = identity_minus(&correlation.multiply(&correlation.transpose()));
    Ok(-trace(&logits.multiply(&coupling)) - 0.5 * epsilon * log_det(&rest, "coupling")?)
}

fn square<'m>(matrix: &'m Matrix, gaussian: &Gaussian) -> Result<&'m Matrix, DynamicsError> {
    let d = gaussian.dim();
    match (matrix.rows(), matrix.columns()) == (d, d) {
        true => Ok(matrix),
        false => Err(DynamicsError::shape("logits", format!("[{d}, {d}]"), matrix.shape())),
    }
}

/// LᵀAL.
fn reduced(matrix: &Matrix, gaussian: &Gaussian) -> Matrix {
    gaussian.factor().transpose().multiply(matrix).multiply(gaussian.factor())
}

fn identity_minus(matrix: &Matrix) -> Matrix {
    Matrix::scaled_identity(matrix.rows(), 1.0).add_scaled(-1.0, matrix)
}

fn trace(matrix: &Matrix) -> f64 {
    (0..matrix.rows()).map(|i| matrix.at(i, i)).sum()
}

/// ln det of a symmetric positive definite matrix.
fn log_det(matrix: &Matrix, name: &str) -> Result<f64, DynamicsError> {
    let cholesky = DMatrix::from_row_slice(matrix.rows(), matrix.columns(), matrix.as_slice()).cholesky();
    let factor = cholesky.ok_or_else(|| DynamicsError::domain(name, "a finite functional", "one that is not"))?;
    Ok((0..matrix.rows()).map(|i| 2.0 * factor.l_dirty()[(i, i)].ln()).sum())
}
