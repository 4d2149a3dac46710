//! What imbalance costs: the condition number of the loss's Hessian on the factors.

use crate::balance::jacobi::jacobi;
use crate::balance::pair::LowRankPair;
use crate::error::DynamicsError;

/// The condition number of ½‖B A - Z‖² at B A = Z, besides its r² flat directions.
///
/// The Hessian's other eigenvalues are σ_i(B)² + σ_j(A)², σ_i(B)² (if in > r) and σ_j(A)² (if out > r); for
/// in, out > r that gives κ = (σ_1(A)² + σ_1(B)²) / min(σ_r(A)², σ_r(B)²) ≥ 2σ_1/σ_r with equality exactly when the
/// pair is balanced. Gradient descent then needs about κ/2 steps for each factor e² of the loss.
///
/// The balanced pair is optimal for this isotropic loss only. With anisotropic inputs another gauge may do better
/// (200 of 200 random problems, ratio down to 0.31 \[derived, checked\]): read κ as a bound, not as a verdict.
///
/// # References
/// Castin et al. 2026: the formula and its optimum \[2nd\]; proof and eigenvalues \[derived, checked\].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// κ of this pair; infinite if a factor has rank below r.
    pub kappa: f64,
    /// κ after the projection: 2σ_1/σ_r if in, out > r; infinite if the product has rank below r.
    pub balanced: f64,
}

impl LowRankPair {
    /// The condition number of the pair and of its balanced twin. O((in + out)·r² + r³).
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn condition(&self) -> Result<Condition, DynamicsError> {
        let r = self.rank();
        let (inputs, outputs) = (self.a().columns(), self.b().rows());
        let largest_and_smallest = |factor: &crate::Matrix| {
            let values = jacobi(&factor.thin_qr().1)?.values;
            let smallest = if values.len() < r { 0.0 } else { values[r - 1] };
            Ok::<_, DynamicsError>((values[0].powi(2), if factor.rows() < r { 0.0 } else { smallest.powi(2) }))
        };
        let of_a = largest_and_smallest(&self.a().transpose())?;
        let of_b = largest_and_smallest(self.b())?;
        let spectrum = self.spectrum()?;
        let shared = (spectrum[0], spectrum[r - 1]);
        let kappa = |a: (f64, f64), b: (f64, f64)| {
            let flat_b = if inputs > r { b.1 } else { f64::INFINITY };
            let flat_a = if outputs > r { a.1 } else { f64::INFINITY };
            let least = (a.1 + b.1).min(flat_a).min(flat_b);
            if least > 0.0 { (a.0 + b.0) / least } else { f64::INFINITY }
        };
        Ok(Condition { kappa: kappa(of_a, of_b), balanced: kappa(shared, shared) })
    }
}

/// κ of a rank-one pair with a² - b² = D and a·b = σ: 2q/(q - |D|), q = sqrt(D² + 4σ²) \[derived\]. Gradient flow keeps
/// D for ever.
///
/// # Example
/// ```
/// use metastable_dynamics::balance::condition::rank_one_kappa;
/// assert_eq!(rank_one_kappa(0.0, 1.0), 2.0);
/// assert!((rank_one_kappa(4.0, 1.0) - 18.944271910).abs() < 1e-9);
/// ```
pub fn rank_one_kappa(imbalance: f64, sigma: f64) -> f64 {
    let q = imbalance.hypot(2.0 * sigma);
    // q - |D| = 4σ²/(q + |D|) without cancellation.
    2.0 * q * (q + imbalance.abs()) / (4.0 * sigma * sigma)
}

/// The best possible κ of ½‖B A - Z‖² with B A the best rank-r approximation of Z: 2σ_1/(σ_r - σ_{r+1}), reached by the
/// balanced pair \[derived\]; with σ_{r+1} = 0 the value of [`Condition::balanced`].
pub fn balanced_kappa_with_residual(first: f64, last: f64, next: f64) -> f64 {
    2.0 * first / (last - next)
}
