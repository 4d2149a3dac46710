//! Softmax attention with V = vI: the covariance solves a Riccati equation whose precision is linear in time.

use crate::error::DynamicsError;
use crate::linalg::Matrix;
use crate::measure::Gaussian;

/// The exact flow of N(α_0, Σ_0), Σ_0 = L Lᵀ of any rank, under one softmax head with V = vI and logits A:
///
/// ```text
/// Σ(t) = L (I - v t S)^{-1} Lᵀ,   S = Lᵀ (A + Aᵀ) L        [checked; = (Σ_0^{-1} - v t (A + Aᵀ))^{-1} if Σ_0 > 0]
/// t*   = 1 / max λ(v S), never if that is not positive      [checked]
/// α(t) = e^{vt} P(t) α_0,   P = (I - 2 v t Σ_0 A)^{-1/2} for symmetric A      [derived]
/// ```
#[derive(Debug, Clone)]
pub struct ScalarValue {
    start: Gaussian,
    logits: Matrix,
    v: f64,
    /// Eigenvalues of S, ascending, and L times its eigenvectors.
    rates: Vec<f64>,
    directions: Matrix,
}

/// Eigenvalues of v S below this part of |S| in absolute value belong to its kernel.
const KERNEL: f64 = 1e-12;

impl ScalarValue {
    /// Prepares S. O(d² r + r³).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] unless A is [d, d]; [`DynamicsError::Decomposition`].
    pub fn new(start: &Gaussian, logits: &Matrix, v: f64) -> Result<Self, DynamicsError> {
        let d = start.dim();
        if (logits.rows(), logits.columns()) != (d, d) {
            return Err(DynamicsError::shape("logits", format!("[{d}, {d}]"), logits.shape()));
        }
        let factor = start.factor();
        let half = factor.transpose().multiply(logits).multiply(factor);
        let symmetric = Matrix::from_fn(half.rows(), half.rows(), |i, j| half.at(i, j) + half.at(j, i));
        let (rates, vectors) = symmetric.symmetric_eigen()?;
        Ok(Self { start: start.clone(), logits: logits.clone(), v, rates, directions: factor.multiply(&vectors) })
    }

    /// t*, if the covariance blows up.
    pub fn blow_up_time(&self) -> Option<f64> {
        let fastest = self.rates.iter().map(|rate| self.v * rate).fold(0.0, f64::max);
        (fastest > 0.0).then(|| 1.0 / fastest)
    }

    /// Σ(t), or none from t* on. O(d² r).
    pub fn covariance(&self, t: f64) -> Option<Matrix> {
        let weights: Vec<f64> = self.rates.iter().map(|rate| 1.0 / (1.0 - self.v * t * rate)).collect();
        weights.iter().all(|w| *w > 0.0 && w.is_finite()).then(|| self.combine(&weights))
    }

    /// α(t) for symmetric A; none from t* on, or if A is not symmetric to the bit. O(d²).
    pub fn mean(&self, t: f64) -> Option<Vec<f64>> {
        if self.logits.asymmetry() > 0.0 || self.blow_up_time().is_some_and(|end| t >= end) {
            return None;
        }
        // P α = α + L E φ(λ) Eᵀ Lᵀ A α for S / 2 = LᵀAL = E diag(λ) Eᵀ, φ(λ) = ((1 - 2vtλ)^{-1/2} - 1) / λ.
        let mut pulled = vec![0.0; self.start.dim()];
        self.logits.apply(self.start.mean(), &mut pulled);
        let mut mean = self.start.mean().to_vec();
        for (j, rate) in self.rates.iter().enumerate() {
            let root = (1.0 - self.v * t * rate).sqrt();
            let phi = 2.0 * self.v * t / (root * (1.0 + root));
            let along: f64 = pulled.iter().enumerate().map(|(i, p)| p * self.directions.at(i, j)).sum();
            mean.iter_mut().enumerate().for_each(|(i, m)| *m += self.directions.at(i, j) * phi * along);
        }
        Some(mean.into_iter().map(|m| m * (self.v * t).exp()).collect())
    }

    /// The limit Σ_∞ = L Π Lᵀ, Π the projection to ker S, and its rank; none if the flow blows up.
    ///
    /// For v S <= 0 and Σ_0 > 0 this is N (Nᵀ Σ_0^{-1} N)^{-1} Nᵀ, N a basis of ker(A + Aᵀ) \[checked\]; the form here
    /// also holds for singular Σ_0 \[derived\]. Eigenvalues of S below 1e-12 |S| count as zero.
    pub fn limit(&self) -> Option<(Matrix, usize)> {
        let scale = self.rates.iter().fold(0.0_f64, |m, r| m.max(r.abs()));
        let is_kernel = |rate: f64| rate.abs() <= KERNEL * scale;
        if self.rates.iter().any(|rate| self.v * rate > 0.0 && !is_kernel(*rate)) {
            return None;
        }
        let weights: Vec<f64> =
            self.rates.iter().map(|rate| if self.v == 0.0 || is_kernel(*rate) { 1.0 } else { 0.0 }).collect();
        let limit = self.combine(&weights);
        Some((limit, weights.iter().filter(|w| **w > 0.0).count()))
    }

    /// Σ_j w_j (L e_j)(L e_j)ᵀ.
    fn combine(&self, weights: &[f64]) -> Matrix {
        let d = self.start.dim();
        Matrix::from_fn(d, d, |i, k| {
            let (low, high) = (i.min(k), i.max(k));
            let terms = weights.iter().enumerate();
            terms.map(|(j, w)| w * self.directions.at(low, j) * self.directions.at(high, j)).sum()
        })
    }
}
