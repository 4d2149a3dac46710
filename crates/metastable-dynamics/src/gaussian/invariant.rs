//! What a Gaussian flow conserves or lets only fall, prepared once and measured at many times.

use super::bounds::Pair;
use crate::error::DynamicsError;
use crate::field::{GaussianFlow, GaussianKernel};
use crate::linalg::Matrix;
use crate::measure::Gaussian;

/// The basis N of the directions that no head looks at, and the inverse of V, where the flow has them.
///
/// ```text
/// tr(Nᵀ Σ⁻¹ N)   constant if A_h N = 0 for every head: softmax, L2, Sinkhorn; no feed-forward part, no noise [checked]
/// tr(V⁻¹ Σ)      one head, V invertible: d/dt = tr(Σ(A + Aᵀ)Σ) for softmax, so it never grows where A + Aᵀ <= 0 [derived]
/// ```
#[derive(Debug, Clone)]
pub struct Invariants {
    kernel: Option<Matrix>,
    inverse_value: Option<Matrix>,
}

impl Invariants {
    /// Those of a flow. O(H d³).
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn of(flow: &GaussianFlow) -> Result<Self, DynamicsError> {
        let inverse_value = Pair::of(flow).and_then(|_| flow.values()[0].inverse().ok());
        Ok(Self { kernel: common_kernel(flow)?, inverse_value })
    }

    /// The orthonormal basis N [d, m] of the common kernel of all A_h, if it is not trivial and the law holds.
    pub fn kernel(&self) -> Option<&Matrix> {
        self.kernel.as_ref()
    }

    /// tr(Nᵀ Σ⁻¹ N) = |L⁻¹N|²; none without kernel or for a singular Σ. The relative error is about
    /// eps √cond(Σ), for the inverse is that of the factor. O(d³).
    pub fn kernel_trace(&self, gaussian: &Gaussian) -> Option<f64> {
        let factor = gaussian.factor();
        let kernel = self.kernel.as_ref().filter(|_| factor.rows() == factor.columns())?;
        let moved = factor.inverse().ok()?.multiply(kernel);
        Some(moved.as_slice().iter().map(|entry| entry * entry).sum()).filter(|trace: &f64| trace.is_finite())
    }

    /// tr(V⁻¹ Σ); none for several heads or a singular V. O(d³).
    pub fn value_trace(&self, gaussian: &Gaussian) -> Option<f64> {
        let product = self.inverse_value.as_ref()?.multiply(gaussian.covariance());
        Some((0..product.rows()).map(|i| product.at(i, i)).sum()).filter(|trace: &f64| trace.is_finite())
    }
}

/// Eigenvectors of Σ_h A_hᵀ A_h whose eigenvalue is rounding.
fn common_kernel(flow: &GaussianFlow) -> Result<Option<Matrix>, DynamicsError> {
    let is_free = flow.feed_forward().is_none() && flow.noise() == 0.0;
    if !is_free || matches!(flow.kernel(), GaussianKernel::Linear { .. }) {
        return Ok(None);
    }
    let d = flow.dim();
    let mut squares = Matrix::from_fn(d, d, |_, _| 0.0);
    for h in 0..flow.heads().len() {
        let logits = flow.logits(h);
        squares = squares.add_scaled(1.0, &logits.transpose().multiply(&logits));
    }
    let (values, vectors) = squares.symmetric_eigen()?;
    let largest = values.last().copied().unwrap_or(0.0);
    // A squared matrix has half the digits: its zero eigenvalues come out as eps times the largest.
    let count = values.iter().filter(|value| **value <= KERNEL * largest).count();
    Ok((count > 0).then(|| Matrix::from_fn(d, count, |i, k| vectors.at(i, k))))
}

/// Eigenvalues of Σ AᵀA below this part of the largest: singular values of A below 1e-7 of its norm.
const KERNEL: f64 = 1e-14;
