//! Dobrushin's estimate: how far two solutions of the same flow can drift apart, with explicit constants.
//!
//! One head in R^d, supports in B(0, R_0), A = beta KᵀQ. The field of a law μ on B(0, R) is Lipschitz in the point and
//! in the law,
//!
//! ```text
//! softmax   Lip_x = |V||A|R²      Lip_µ = |V|(1 + 2|A|R²) e^{2|A|R²}
//! sigmoid   Lip_x = |V||A|R²/4    Lip_µ = |V|(1 + |A|R²/4)
//! ```
//!
//! the radius is at most R_0 e^{|V|t}, so W_p(μ_t, ν_t) <= exp(∫_0^t (Lip_x + c Lip_µ)(R(s)) ds) W_p(μ_0, ν_0) with
//! c = 1; under the causal mask it holds for the conditional distance d_p with Hardy's constant c = p/(p - 1). Triple
//! exponential in t for softmax, double for sigmoid: one-sided, far from sharp.
//!
//! # References
//! Castin et al. 2501.18322 for the statement \[2nd\]; every constant \[derived\].

use crate::attention::{AttentionKernel, Mask, Normalization, Score};
use crate::error::DynamicsError;
use crate::head::Head;
use crate::measure::conditional::hardy_constant;

/// The numbers that the estimate is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dobrushin {
    value: f64,
    logits: f64,
    radius: f64,
    mask_factor: f64,
    is_sigmoid: bool,
}

impl Dobrushin {
    /// The estimate for one head, from laws on the ball of `radius`; under the causal mask in d_p.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] for kernels whose constants are not here (softmax and sigmoid of scalar products are),
    /// a radius that is not positive, or p <= 1 under the causal mask; [`DynamicsError::Decomposition`].
    pub fn new(head: &Head, kernel: &AttentionKernel, radius: f64, p: f64) -> Result<Self, DynamicsError> {
        let is_sigmoid = match (kernel.score(), kernel.normalization()) {
            (Score::Dot, Normalization::Softmax) => false,
            (Score::Dot, Normalization::Sigmoid { .. }) => true,
            (_, other) => {
                let expected = "softmax or sigmoid weights of scalar products";
                return Err(DynamicsError::domain("kernel", expected, format!("{other:?}")));
            }
        };
        if !(radius.is_finite() && radius > 0.0) {
            return Err(DynamicsError::domain("radius", "a finite number > 0", radius));
        }
        let mask_factor = match kernel.mask() {
            Mask::Full => 1.0,
            Mask::Causal => hardy_constant(p)?,
        };
        let value = head.output_value().operator_norm()?;
        let logits = kernel.beta().abs() * head.query_key().operator_norm()?;
        Ok(Self { value, logits, radius, mask_factor, is_sigmoid })
    }

    /// R_0 e^{|V|t}.
    pub fn radius(&self, t: f64) -> f64 {
        self.radius * (self.value * t).exp()
    }

    /// Lip_x + c Lip_µ at time t.
    pub fn rate(&self, t: f64) -> f64 {
        let spread = self.logits * self.radius(t).powi(2);
        let (point, law) = match self.is_sigmoid {
            true => (spread / 4.0, 1.0 + spread / 4.0),
            false => (spread, (1.0 + 2.0 * spread) * (2.0 * spread).exp()),
        };
        self.value * (point + self.mask_factor * law)
    }

    /// ln of the factor: ∫_0^t rate, from above; +infinity beyond f64. The rate is convex in time, so the trapezoidal
    /// rule on 4096 pieces bounds the integral; its excess is O(pieces⁻²). O(1).
    pub fn ln_factor(&self, t: f64) -> f64 {
        const PIECES: u32 = 4096;
        let h = t / f64::from(PIECES);
        let ends = 0.5 * (self.rate(0.0) + self.rate(t));
        let inner: f64 = (1..PIECES).map(|k| self.rate(h * f64::from(k))).sum();
        h * (ends + inner)
    }

    /// What W_p (d_p) of two solutions can have grown by at time t; +infinity beyond f64.
    pub fn factor(&self, t: f64) -> f64 {
        self.ln_factor(t).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Sinkhorn;
    use crate::field::{ParticleFlow, Placement};
    use crate::geometry::Euclidean;
    use crate::linalg::Matrix;
    use crate::measure::conditional::distance;
    use crate::measure::transport::wasserstein2;
    use crate::random;
    use crate::solver::{Advance, Method, SolverOptions, Stepper};
    use crate::tokens::TokensRef;

    fn head() -> Head {
        let matrix = |rows: &[[f64; 2]]| Matrix::from_rows("matrix", rows).unwrap();
        let (query, key) = (matrix(&[[0.6, -0.4], [0.1, 0.5]]), matrix(&[[0.5, 0.2], [-0.3, 0.4]]));
        Head::new(query, key, matrix(&[[0.3, -0.2], [0.4, 0.2]]), None).unwrap()
    }

    fn kernel(normalization: Normalization, mask: Mask) -> AttentionKernel {
        AttentionKernel::new(Score::Dot, normalization, mask, 1.0).unwrap()
    }

    /// The dossier's factors at R_0 = 1, t = 1: 1491.5 and 2.001 [checked].
    #[test]
    fn factors_are_those_of_the_theory() {
        let of = |kind| Dobrushin::new(&head(), &kernel(kind, Mask::Full), 1.0, 2.0).unwrap().factor(1.0);
        // Printed to one and three decimals.
        let (softmax, sigmoid) = (of(Normalization::Softmax), of(Normalization::Sigmoid { bias: 0.0 }));
        assert!((softmax - 1491.5).abs() < 0.06, "{softmax}");
        assert!((sigmoid - 2.001).abs() < 6e-4, "{sigmoid}");
    }

    /// The closed form of the sigmoid's integral: vt + a R_0² (e^{2vt} - 1)/4.
    #[test]
    fn the_integral_is_bounded_from_above_and_close() {
        let of = Dobrushin::new(&head(), &kernel(Normalization::Sigmoid { bias: 0.0 }, Mask::Full), 1.3, 2.0).unwrap();
        for t in [0.1, 1.0, 3.0] {
            let exact = of.value * t + of.logits * 1.69 * ((2.0 * of.value * t).exp() - 1.0) / 4.0;
            let excess = of.ln_factor(t) / exact - 1.0;
            assert!((-1e-14..1e-6).contains(&excess), "{t}: {excess:e}");
        }
    }

    fn follow(kernel: AttentionKernel, start: &[f64]) -> Vec<f64> {
        let flow = ParticleFlow::new(vec![head()], kernel, start.len() / 2, Placement::Ambient).unwrap();
        let options = SolverOptions::adaptive(Method::Dop853, 1e-10, 1e-12);
        let mut stepper = Stepper::new(&flow, &Euclidean, options, 0.0, start.to_vec()).unwrap();
        while let Advance::Step(_) = stepper.advance(1.0) {}
        stepper.values().to_vec()
    }

    #[test]
    fn two_solutions_stay_within_the_estimate() {
        let sigmoid = Normalization::Sigmoid { bias: 0.0 };
        for (kind, mask) in
            [Normalization::Softmax, sigmoid].into_iter().flat_map(|k| [(k, Mask::Full), (k, Mask::Causal)])
        {
            let kernel = kernel(kind, mask);
            let estimate = Dobrushin::new(&head(), &kernel, 1.0, 2.0).unwrap();
            let mut largest = 0.0_f64;
            for seed in 0..20 {
                let x: Vec<f64> = random::uniform(seed, 12, 2, -0.6, 0.6);
                let y: Vec<f64> =
                    x.iter().zip(random::standard_normal(seed + 100, 12, 2)).map(|(x, e)| x + 0.01 * e).collect();
                let apart = |x: &[f64], y: &[f64]| {
                    let (x, y) = (TokensRef::new(2, x), TokensRef::new(2, y));
                    match mask {
                        Mask::Full => wasserstein2(x, y).unwrap().distance,
                        Mask::Causal => distance(x, y, 2.0).unwrap(),
                    }
                };
                largest = largest.max(apart(&follow(kernel, &x), &follow(kernel, &y)) / apart(&x, &y));
            }
            assert!(largest > 0.5 && largest <= estimate.factor(1.0), "{kind:?} {mask:?}: {largest}");
        }
    }

    #[test]
    fn kernels_without_constants_are_refused() {
        for kind in [Normalization::Exponential, Normalization::Sinkhorn(Sinkhorn::converged(1.0))] {
            assert!(Dobrushin::new(&head(), &kernel(kind, Mask::Full), 1.0, 2.0).is_err());
        }
        assert!(Dobrushin::new(&head(), &kernel(Normalization::Softmax, Mask::Causal), 1.0, 1.0).is_err());
    }
}
