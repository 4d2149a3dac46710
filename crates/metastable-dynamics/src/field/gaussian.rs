//! Attention moving a Gaussian: the flow of its mean and of a factor of its covariance.
//!
//! On μ = N(α, Σ) some kernels have an affine field Γ_μ(x) = c + B(x - α). Then μ stays Gaussian,
//! α' = c, Σ' = BΣ + ΣBᵀ, and Σ = L Lᵀ with L' = B L for *any* factor L [d, r]: rank and positivity are exact, singular
//! covariances are welcome. Reading order: [`kernel`] (who is admitted), `reduced` (c and B L), then the flow here; `tangent`
//! (its derivative, for stiff flows).
//!
//! What this is not: an approximation for kernels without closure (they are refused), nor a model of few tokens:
//! n particles follow the moments only while √(xᵀAᵀΣAx) ≪ √(2 ln n) \[derived\].

pub mod kernel;
mod reduced;
mod tangent;

pub use kernel::GaussianKernel;

use super::{Blocks, VectorField};
use crate::error::{DynamicsError, require_finite};
use crate::head::Head;
use crate::linalg::Matrix;
use crate::measure::Gaussian;
use reduced::{Reduced, add_product};

/// The moments of a Gaussian under attention of one or more heads, an optional linear feed-forward part W x + b and
/// optional noise √(2τ) dB.
///
/// ```text
/// α' = Σ_h c_h + W α + b,    L' = Σ_h B_h L + W L                    (state: α, then L [d, r] row by row)
/// α' as above,               Σ' = BΣ + ΣBᵀ + WΣ + ΣWᵀ + 2τI          (with noise; state: α, then Σ [d, d])
///
///                  c                                  B                    U = W_h V_h, A = beta KᵀQ, M = beta KᵀK
/// softmax          U (I + ΣA) α                       U Σ A                                      [code][checked]
/// L2               U (I + 2ΣM)^{-1} (I + 2ΣA) α       2 U (I + 2ΣM)^{-1} Σ A                     [code][checked]
/// Sinkhorn         U α / ε                            U Cᵀ Σ^{-1} / ε, C = E_π[x yᵀ]             [code][checked]
/// linear           U (Σ + ααᵀ) A α                    U (Σ + ααᵀ) A                              [derived]
/// ```
///
/// The sum of affine fields is affine, so several heads, W x + b and noise keep Gaussians too \[derived\].
/// Mean and covariance are two blocks for the error control. With noise the covariance itself is the state, because the
/// factor's equation L' = BL + τ L^{-T} is singular where Σ is; a stage that leaves the cone of covariances has a
/// velocity that is not a number, which makes an adaptive solver retry with a shorter step (never clipped: clipping
/// changes limiting ranks). One evaluation costs O(H (k + d) d r + H r³).
///
/// # Example
/// ```
/// use metastable_dynamics::field::{GaussianFlow, GaussianKernel, VectorField};
/// use metastable_dynamics::{Head, Matrix, measure::Gaussian};
/// let start = Gaussian::centred(Matrix::scaled_identity(2, 0.5)).unwrap();
/// let flow = GaussianFlow::new(vec![Head::identity(2)], GaussianKernel::SOFTMAX, &start).unwrap();
/// let state = flow.state(&start).unwrap();
/// let mut velocity = vec![0.0; flow.len()];
/// flow.evaluate(0.0, &state, &mut velocity);
/// // L' = L LᵀL: 0.5^{3/2} on the diagonal.
/// assert!((velocity[2] - 0.5_f64.powf(1.5)).abs() < 1e-15);
/// ```
///
/// # References
/// Castin, Ablin, Carrillo, Peyré, arXiv 2501.18322, and their code (which scales A by 1/√d but not M; we scale
/// nothing but by beta).
#[derive(Debug, Clone, PartialEq)]
pub struct GaussianFlow {
    heads: Vec<Head>,
    values: Vec<Matrix>,
    kernel: GaussianKernel,
    dim: usize,
    rank: usize,
    feed_forward: Option<(Matrix, Vec<f64>)>,
    noise: f64,
    ends: [usize; 2],
}

impl GaussianFlow {
    /// The flow from Gaussians of the dimension and rank of `start`.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] if there is no head, or for a bad beta or ε; [`DynamicsError::Shape`] if a head has
    /// another dimension.
    pub fn new(heads: Vec<Head>, kernel: GaussianKernel, start: &Gaussian) -> Result<Self, DynamicsError> {
        kernel.validate()?;
        let (dim, rank) = (start.dim(), start.rank());
        if heads.is_empty() {
            return Err(DynamicsError::domain("head", "at least one head", 0));
        }
        if let Some(head) = heads.iter().find(|head| head.dim() != dim) {
            return Err(DynamicsError::shape("head", format!("d = {dim}"), format!("d = {}", head.dim())));
        }
        let values = heads.iter().map(|head| head.output_value().scaled(1.0 / kernel.epsilon())).collect();
        let ends = [dim, dim + dim * rank];
        Ok(Self { heads, values, kernel, dim, rank, feed_forward: None, noise: 0.0, ends })
    }

    /// With a linear feed-forward part W x + b, W [d, d].
    ///
    /// # Errors
    /// [`DynamicsError::Shape`], [`DynamicsError::NotFinite`].
    pub fn with_feed_forward(self, weight: Matrix, bias: Vec<f64>) -> Result<Self, DynamicsError> {
        if (weight.rows(), weight.columns()) != (self.dim, self.dim) {
            return Err(DynamicsError::shape("feed_forward", format!("[{0}, {0}]", self.dim), weight.shape()));
        }
        if bias.len() != self.dim {
            return Err(DynamicsError::shape("feed_forward bias", self.dim, bias.len()));
        }
        require_finite("feed_forward bias", &bias)?;
        Ok(Self { feed_forward: Some((weight, bias)), ..self })
    }

    /// With noise √(2τ) dB, τ >= 0; for τ > 0 the state is (α, Σ).
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] for a τ that is negative or not finite.
    pub fn with_noise(self, tau: f64) -> Result<Self, DynamicsError> {
        if !(tau.is_finite() && tau >= 0.0) {
            return Err(DynamicsError::domain("noise", "a finite number >= 0", tau));
        }
        let width = if tau > 0.0 { self.dim } else { self.rank };
        Ok(Self { noise: tau, ends: [self.dim, self.dim + self.dim * width], ..self })
    }

    /// The heads.
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// U_h = W_h V_h / ε of every head.
    pub fn values(&self) -> &[Matrix] {
        &self.values
    }

    /// The kernel.
    pub fn kernel(&self) -> &GaussianKernel {
        &self.kernel
    }

    /// W and b.
    pub fn feed_forward(&self) -> Option<(&Matrix, &[f64])> {
        self.feed_forward.as_ref().map(|(weight, bias)| (weight, bias.as_slice()))
    }

    /// τ.
    pub fn noise(&self) -> f64 {
        self.noise
    }

    /// The dimension d.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// A = beta KᵀQ of head `h`, [d, d]: scores <Qx, Ky> beta = yᵀ A x.
    ///
    /// # Panics
    /// If there is no such head.
    pub fn logits(&self, h: usize) -> Matrix {
        self.heads[h].query_key().transpose().scaled(self.kernel.beta())
    }

    /// The state of a Gaussian: (α, L), with noise (α, Σ).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if its dimension, or without noise its rank, is not the flow's.
    pub fn state(&self, gaussian: &Gaussian) -> Result<Vec<f64>, DynamicsError> {
        let matrix = if self.noise > 0.0 { gaussian.covariance() } else { gaussian.factor() };
        if self.ends != [gaussian.dim(), gaussian.dim() + matrix.as_slice().len()] {
            let expected = format!("d = {}, rank {}", self.dim, self.rank);
            let found = format!("d = {}, rank {}", gaussian.dim(), gaussian.rank());
            return Err(DynamicsError::shape("gaussian", expected, found));
        }
        Ok([gaussian.mean(), matrix.as_slice()].concat())
    }

    /// The Gaussian of a state.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] for a state of another length, and those of [`Gaussian::new`].
    pub fn gaussian(&self, state: &[f64]) -> Result<Gaussian, DynamicsError> {
        if state.len() != self.ends[1] {
            return Err(DynamicsError::shape("state", self.ends[1], state.len()));
        }
        let (mean, rest) = state.split_at(self.dim);
        let matrix = Matrix::new("covariance", self.dim, rest.len() / self.dim, rest.to_vec())?;
        if self.noise > 0.0 {
            return Gaussian::new(mean.to_vec(), matrix);
        }
        Gaussian::from_factor(mean.to_vec(), matrix)
    }

    /// α' and Σ' at a Gaussian: the right-hand side of the moment equations. O(H d³).
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] for another dimension; [`DynamicsError::Decomposition`].
    pub fn moment_velocity(&self, gaussian: &Gaussian) -> Result<(Vec<f64>, Matrix), DynamicsError> {
        if gaussian.dim() != self.dim {
            return Err(DynamicsError::shape(
                "gaussian",
                format!("d = {}", self.dim),
                format!("d = {}", gaussian.dim()),
            ));
        }
        let (d, rank) = (self.dim, gaussian.rank());
        let mut mean = vec![0.0; d];
        let mut slope = vec![0.0; d * rank];
        if !self.transport(gaussian.mean(), gaussian.factor().as_slice(), rank, [&mut mean, &mut slope]) {
            return Err(DynamicsError::Decomposition { name: "covariance".into(), what: "kernel's decomposition" });
        }
        let mut covariance = vec![0.0; d * d];
        self.spread(&slope, gaussian.factor().as_slice(), rank, &mut covariance);
        Ok((mean, Matrix::new("covariance velocity", d, d, covariance)?))
    }

    /// Writes c (with W α + b) and B L + W L for a factor of any rank; false if that is impossible at this state.
    pub(crate) fn transport(&self, mean: &[f64], factor: &[f64], rank: usize, [c, slope]: [&mut [f64]; 2]) -> bool {
        let d = self.dim;
        c.fill(0.0);
        slope.fill(0.0);
        for (head, value) in self.heads.iter().zip(&self.values) {
            let Some(field) = Reduced::new(&self.kernel, [head.query(), head.key()], mean, factor, rank) else {
                return false;
            };
            add_product(value.as_slice(), &field.mean, d, 1, c);
            add_product(value.as_slice(), &field.factor, d, rank, slope);
        }
        if let Some((weight, bias)) = &self.feed_forward {
            add_product(weight.as_slice(), mean, d, 1, c);
            c.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
            add_product(weight.as_slice(), factor, d, rank, slope);
        }
        true
    }

    /// Writes L' Lᵀ + L L'ᵀ + 2τI, symmetric to the bit.
    fn spread(&self, slope: &[f64], factor: &[f64], rank: usize, out: &mut [f64]) {
        let d = self.dim;
        let row = |i: usize| i * rank..(i + 1) * rank;
        for i in 0..d {
            for j in 0..=i {
                let half = crate::linalg::dot(&slope[row(i)], &factor[row(j)]);
                let other = crate::linalg::dot(&slope[row(j)], &factor[row(i)]);
                let noise = if i == j { 2.0 * self.noise } else { 0.0 };
                out[i * d + j] = half + other + noise;
                out[j * d + i] = out[i * d + j];
            }
        }
    }

    /// The field on (α, Σ).
    fn evaluate_covariance(&self, state: &[f64], velocity: &mut [f64]) -> bool {
        let (mean, rest) = state.split_at(self.dim);
        let (c, out) = velocity.split_at_mut(self.dim);
        let Ok(gaussian) = Matrix::new("covariance", self.dim, self.dim, rest.to_vec())
            .and_then(|covariance| Gaussian::new(mean.to_vec(), covariance))
        else {
            return false;
        };
        let mut slope = vec![0.0; self.dim * gaussian.rank()];
        let done = self.transport(mean, gaussian.factor().as_slice(), gaussian.rank(), [c, &mut slope]);
        self.spread(&slope, gaussian.factor().as_slice(), gaussian.rank(), out);
        done
    }
}

impl VectorField for GaussianFlow {
    fn len(&self) -> usize {
        self.ends[1]
    }

    /// d, which cuts the mean and the factor into whole parts.
    fn block_len(&self) -> usize {
        self.dim
    }

    /// The mean, and the factor (or the covariance).
    fn blocks(&self) -> Blocks<'_> {
        Blocks::Ends(&self.ends)
    }

    fn evaluate(&self, _t: f64, state: &[f64], velocity: &mut [f64]) {
        let done = if self.noise > 0.0 {
            self.evaluate_covariance(state, velocity)
        } else {
            let (mean, factor) = state.split_at(self.dim);
            let (c, slope) = velocity.split_at_mut(self.dim);
            self.transport(mean, factor, self.rank, [c, slope])
        };
        if !done {
            velocity.fill(f64::NAN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Gaussian {
        let covariance = Matrix::from_rows("covariance", &[[2.0, 0.5], [0.5, 1.0]]).unwrap();
        Gaussian::new(vec![1.0, -1.0], covariance).unwrap()
    }

    #[test]
    fn mean_and_factor_are_blocks_of_their_own() {
        let flow = GaussianFlow::new(vec![Head::identity(2)], GaussianKernel::SOFTMAX, &start()).unwrap();
        assert_eq!(flow.blocks().ranges(flow.len()).collect::<Vec<_>>(), [0..2, 2..6]);
        let state = flow.state(&start()).unwrap();
        let back = flow.gaussian(&state).unwrap();
        assert_eq!((back.mean(), back.factor()), (start().mean(), start().factor()));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let flow = || GaussianFlow::new(vec![Head::identity(2)], GaussianKernel::SOFTMAX, &start()).unwrap();
        let kernel = GaussianKernel::Sinkhorn { beta: 1.0, epsilon: 0.0 };
        let three = Matrix::scaled_identity(3, 1.0);
        let cases = [
            ("head", GaussianFlow::new(vec![], GaussianKernel::SOFTMAX, &start()).unwrap_err()),
            ("head", GaussianFlow::new(vec![Head::identity(3)], GaussianKernel::SOFTMAX, &start()).unwrap_err()),
            ("epsilon", GaussianFlow::new(vec![Head::identity(2)], kernel, &start()).unwrap_err()),
            ("noise", flow().with_noise(-1.0).unwrap_err()),
            ("feed_forward", flow().with_feed_forward(three.clone(), vec![0.0; 2]).unwrap_err()),
            ("gaussian", flow().state(&Gaussian::centred(three).unwrap()).unwrap_err()),
        ];
        for (name, error) in cases {
            assert!(error.to_string().starts_with(&format!("{name}:")), "{error}");
        }
    }

    /// Noise changes the state from L to Σ, not the flow: τ → 0 gives the same velocity of Σ.
    #[test]
    fn noise_adds_twice_its_strength_to_the_diagonal() {
        let plain = GaussianFlow::new(vec![Head::identity(2)], GaussianKernel::SOFTMAX, &start()).unwrap();
        let noisy = plain.clone().with_noise(0.25).unwrap();
        let (_, slope) = plain.moment_velocity(&start()).unwrap();
        let mut velocity = vec![0.0; noisy.len()];
        noisy.evaluate(0.0, &noisy.state(&start()).unwrap(), &mut velocity);
        for (at, (found, slope)) in velocity[2..].iter().zip(slope.as_slice()).enumerate() {
            let noise = if at % 3 == 0 { 0.5 } else { 0.0 };
            assert!((found - slope - noise).abs() < 1e-14 * slope.abs().max(1.0));
        }
    }

    #[test]
    fn a_state_outside_the_cone_has_no_velocity() {
        let flow = GaussianFlow::new(vec![Head::identity(2)], GaussianKernel::SOFTMAX, &start()).unwrap();
        let flow = flow.with_noise(0.25).unwrap();
        let mut velocity = vec![0.0; 6];
        flow.evaluate(0.0, &[0.0, 0.0, 1.0, 2.0, 2.0, 1.0], &mut velocity);
        assert!(velocity.iter().all(|v| v.is_nan()));
    }
}
