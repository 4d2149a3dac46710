//! Upper bounds on a whole ball: for every cloud of n tokens with |x_i| ≤ R, from norms of the matrices alone.
//!
//! With a = ‖A‖_2 R², A = beta Kᵀ Q and M = W V, for softmax of dot scores \[derived\]:
//!
//! ```text
//! unified, full    ‖D_X f‖ ≤ ‖M‖ (a + (1 + a) √Λ),  Λ = n / (1 + (n - 1) e^{-2a}) ≤ min(n, e^{2a})
//! unified, causal  ‖D_X f‖ ≤ ‖M‖ (a + min((1 + a) √n, (2 + 4a) e^{2a}))
//! general          ‖D_X f‖ ≤ √3 ‖M‖ (‖A‖² R⁴ (4n + 1) + n)^{1/2}                              (full and causal)
//! mean field       sup_n of the first: ‖M‖ (a + (1 + a) e^a); causal ‖M‖ (a + (2 + 4a) e^{2a})
//! ```
//!
//! The other kernels, by the same three paths \[derived\]; c = 1 (full) or 2 (causal, Hardy's norm of the average):
//!
//! ```text
//! squared distance  ‖M‖ (2a + (1 + 2 |beta| ‖K‖ ρ R) √Λ),  ρ = (‖Q‖ + ‖K‖) R, Λ with |beta| ρ² in place of 2a
//!                   (causal: √n in place of √Λ)
//! sigmoid           ‖M‖ (c + (1 + c) b/4)           b bounds |<∂S/∂x>| R: a, or 2 |beta| max(‖Q‖, ‖K‖) ρ R
//! linear            ‖M‖ (c s + (1 + c) b)           s bounds |S|: a, or |beta| ρ²
//! exponential       ‖M‖ e^s (c + (1 + c) b)         (s = 0 for squared distance and beta ≥ 0)
//! hardmax           ‖M‖ √n                          off the ties
//! ```
//!
//! Everything is computed in logarithms: e^a exceeds f64 from a = 710 on, and heads of real checkpoints have a of
//! many thousands.
//!
//! # References
//! The general bound has the shape that we recall of the main theorem of Castin, Ablin, Peyré, 2312.14820; its proof
//! here is our own \[derived\]. The unified bound is not in the paper as far as we know.

use crate::attention::{AttentionKernel, Mask, Normalization, Score};
use crate::error::DynamicsError;
use crate::head::Head;

/// A bound that is kept as its logarithm.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct LogBound {
    /// ln of the bound: -∞ for 0, +∞ only if even the logarithm exceeds f64.
    pub ln: f64,
}

impl LogBound {
    /// The bound itself; infinite beyond f64.
    pub fn value(self) -> f64 {
        self.ln.exp()
    }

    /// The sum of two bounds.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { ln: ln_add(self.ln, other.ln) }
    }
}

/// Upper bounds for all clouds of `count` tokens in the ball of radius R.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct APriori {
    /// The unified bound (softmax), or that of the kernel at hand.
    pub unified: LogBound,
    /// The general √n bound; softmax of dot scores only.
    pub general: Option<LogBound>,
    /// The bound for any number of tokens; softmax of dot scores only.
    pub mean_field: Option<LogBound>,
}

/// The numbers of one head that a-priori bounds are made of, as logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norms {
    /// ln ‖A‖_2 = ln(|beta| ‖Kᵀ Q‖_2).
    pub ln_a: f64,
    /// ln ‖Q‖_2 and ln ‖K‖_2.
    pub ln_query: f64,
    /// See `ln_query`.
    pub ln_key: f64,
    /// ln ‖W V‖_2.
    pub ln_value: f64,
}

impl Norms {
    /// The norms of a head under a kernel. Four decompositions.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn of(head: &Head, kernel: &AttentionKernel) -> Result<Self, DynamicsError> {
        Ok(Self {
            ln_a: kernel.beta().abs().ln() + head.query_key().operator_norm()?.ln(),
            ln_query: head.query().operator_norm()?.ln(),
            ln_key: head.key().operator_norm()?.ln(),
            ln_value: head.output_value().operator_norm()?.ln(),
        })
    }
}

impl APriori {
    /// The bounds of one head.
    ///
    /// # Example
    /// A = -I on the ball of radius 2, whatever n: 276.99; the two-point cloud attains 165.85 of it.
    /// ```
    /// use metastable_dynamics::attention::AttentionKernel;
    /// use metastable_dynamics::smoothness::a_priori::{APriori, Norms};
    /// use metastable_dynamics::{Head, Matrix};
    /// let identity = Matrix::scaled_identity(2, 1.0);
    /// let head = Head::new(identity.scaled(-1.0), identity.clone(), identity, None).unwrap();
    /// let kernel = AttentionKernel::softmax(1.0).unwrap();
    /// let bounds = APriori::of(&Norms::of(&head, &kernel).unwrap(), &kernel, 100, 2.0).unwrap();
    /// assert!((bounds.mean_field.unwrap().value() - 276.99).abs() < 0.01);
    /// ```
    ///
    /// `None` for a kernel without a bound of ours.
    pub fn of(norms: &Norms, kernel: &AttentionKernel, count: usize, radius: f64) -> Option<Self> {
        let ball = Ball { norms, kernel, ln_n: (count as f64).ln(), count: count as f64, ln_r: radius.ln() };
        let scaled = |ln: f64| LogBound {
            ln: if norms.ln_value == f64::NEG_INFINITY { norms.ln_value } else { norms.ln_value + ln },
        };
        let dot_softmax = kernel.score() == Score::Dot && kernel.normalization() == Normalization::Softmax;
        Some(Self {
            unified: scaled(ball.unified()?),
            general: dot_softmax.then(|| scaled(ball.general())),
            mean_field: dot_softmax.then(|| scaled(ball.mean_field())),
        })
    }

    /// The bounds of the sum of heads: the sums of theirs.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let both = |a: Option<LogBound>, b: Option<LogBound>| a.zip(b).map(|(a, b)| a.plus(b));
        Self {
            unified: self.unified.plus(other.unified),
            general: both(self.general, other.general),
            mean_field: both(self.mean_field, other.mean_field),
        }
    }
}

/// Bounds for ‖M‖ = 1, as logarithms.
struct Ball<'a> {
    norms: &'a Norms,
    kernel: &'a AttentionKernel,
    ln_n: f64,
    count: f64,
    ln_r: f64,
}

impl Ball<'_> {
    /// ln a.
    fn ln_a(&self) -> f64 {
        product(self.norms.ln_a, 2.0 * self.ln_r)
    }

    /// ln ρ.
    fn ln_rho(&self) -> f64 {
        product(ln_add(self.norms.ln_query, self.norms.ln_key), self.ln_r)
    }

    /// ln Λ for scores that differ by at most `range`.
    fn ln_lambda(&self, range: f64) -> f64 {
        self.ln_n - ((self.count - 1.0) * (-range).exp()).ln_1p()
    }

    fn unified(&self) -> Option<f64> {
        let (causal, distance) = (self.kernel.mask() == Mask::Causal, self.kernel.score() == Score::SquaredDistance);
        let ln_c = if causal { 2.0_f64.ln() } else { 0.0 };
        let ln_beta = self.kernel.beta().abs().ln();
        let ln_largest_matrix = self.norms.ln_query.max(self.norms.ln_key);
        let (ln_score, ln_slope) = if distance {
            let slope = product(product(ln_largest_matrix, self.ln_rho()), product(ln_beta, self.ln_r));
            (product(ln_beta, 2.0 * self.ln_rho()), slope + 2.0_f64.ln())
        } else {
            (self.ln_a(), self.ln_a())
        };
        // c + (1 + c) b.
        let paths = |ln_slope: f64| ln_add(ln_c, product(ln_add(0.0, ln_c), ln_slope));
        Some(match self.kernel.normalization() {
            Normalization::Softmax if distance => {
                let ln_key = product(product(self.norms.ln_key, self.ln_rho()), product(ln_beta, self.ln_r));
                let half_lambda = if causal { self.ln_n } else { self.ln_lambda(ln_score.exp()) } / 2.0;
                ln_add(2.0_f64.ln() + self.ln_a(), ln_add(0.0, 2.0_f64.ln() + ln_key) + half_lambda)
            }
            Normalization::Softmax if causal => self.causal(),
            Normalization::Softmax => self.full(self.ln_lambda(2.0 * self.ln_a().exp()) / 2.0),
            Normalization::Sigmoid { .. } => paths(ln_slope - 4.0_f64.ln()),
            Normalization::Linear => ln_add(product(ln_c, ln_score), product(ln_add(0.0, ln_c), ln_slope)),
            Normalization::Exponential => {
                let decays = distance && self.kernel.beta() >= 0.0;
                paths(ln_slope) + if decays { 0.0 } else { ln_score.exp() }
            }
            Normalization::Hardmax => self.ln_n / 2.0,
            #[allow(unreachable_patterns, reason = "for a kernel that couples rows, such as Sinkhorn, we know none")]
            _ => return None,
        })
    }

    /// ln(a + (1 + a) e^{half}).
    fn full(&self, half: f64) -> f64 {
        ln_add(self.ln_a(), ln_add(0.0, self.ln_a()) + half)
    }

    fn causal(&self) -> f64 {
        self.full(self.ln_n / 2.0).min(self.hardy())
    }

    /// ln(a + (2 + 4a) e^{2a}).
    fn hardy(&self) -> f64 {
        let ln_a = self.ln_a();
        ln_add(ln_a, ln_add(2.0_f64.ln(), 4.0_f64.ln() + ln_a) + 2.0 * ln_a.exp())
    }

    fn general(&self) -> f64 {
        let squares = ln_add(2.0 * self.ln_a() + (4.0 * self.count + 1.0).ln(), self.ln_n);
        0.5 * 3.0_f64.ln() + 0.5 * squares
    }

    fn mean_field(&self) -> f64 {
        if self.kernel.mask() == Mask::Causal { self.hardy() } else { self.full(self.ln_a().exp()) }
    }
}

/// ln(e^x + e^y).
fn ln_add(x: f64, y: f64) -> f64 {
    let (low, high) = if x < y { (x, y) } else { (y, x) };
    if low == f64::NEG_INFINITY || high == f64::INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// ln(e^x e^y), where a factor 0 wins over an infinite one.
fn product(x: f64, y: f64) -> f64 {
    if x == f64::NEG_INFINITY || y == f64::NEG_INFINITY { f64::NEG_INFINITY } else { x + y }
}
