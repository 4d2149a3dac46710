//! How the constant grows with the number of tokens: sweeps over prefixes, power laws with their uncertainty.

use super::lanczos::{LanczosOptions, top_singular_triplet};
use super::linear_map::{FlowJacobian, LinearMap};
use crate::attention::statistics::followed;
use crate::attention::{AttentionKernel, Projections};
use crate::error::DynamicsError;
use crate::field::{AttentionFlow, ParticleFlow, Placement};
use crate::head::Head;
use crate::random;
use crate::tokens::TokensRef;

/// The constant of the first `count` tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefixConstant {
    /// How many tokens.
    pub count: usize,
    /// The constant (a lower value).
    pub value: f64,
    /// Steps of Lanczos.
    pub steps: usize,
    /// Whether Lanczos converged.
    pub converged: bool,
}

/// Share of the random vector in a warm start: enough to find a direction that the shorter text does not have.
const FRESH: f64 = 0.1;

/// The constants of growing prefixes, each started at the singular vector of the one before.
///
/// `map_of(m)` is the Jacobian at the first m tokens, with m·`dim` inputs. Under a causal mask it is the leading block
/// of the next one, so that constants never fall and warm starts are nearly right.
///
/// # Errors
/// As [`top_singular_triplet`]; [`DynamicsError::Domain`] if `lengths` do not increase.
pub fn sweep<M: LinearMap>(
    lengths: &[usize],
    dim: usize,
    map_of: impl Fn(usize) -> Result<M, DynamicsError>,
    options: &LanczosOptions,
) -> Result<Vec<PrefixConstant>, DynamicsError> {
    if lengths.windows(2).any(|pair| pair[0] >= pair[1]) || lengths.first() == Some(&0) {
        return Err(DynamicsError::domain("lengths", "positive increasing numbers", format!("{lengths:?}")));
    }
    let mut before: Option<Vec<f64>> = None;
    let mut found = Vec::new();
    for &count in lengths {
        let start = before.map(|mut start: Vec<f64>| {
            start.resize(count * dim, 0.0);
            let fresh = random::standard_normal(options.seed, 1, count * dim);
            let share = FRESH / (count as f64 * dim as f64).sqrt();
            start.iter_mut().zip(fresh).for_each(|(x, z)| *x += share * z);
            start
        });
        let top = top_singular_triplet(&map_of(count)?, &LanczosOptions { start, ..options.clone() })?;
        found.push(PrefixConstant { count, value: top.value, steps: top.steps, converged: top.converged });
        before = Some(top.right);
    }
    Ok(found)
}

/// [`sweep`] for heads at the prefixes of a cloud.
///
/// # Errors
/// As [`sweep`]; also if a length exceeds the number of tokens, or as [`ParticleFlow::new`].
pub fn prefix_constants(
    heads: &[Head],
    kernel: &AttentionKernel,
    tokens: TokensRef<'_>,
    lengths: &[usize],
    options: &LanczosOptions,
) -> Result<Vec<PrefixConstant>, DynamicsError> {
    let (n, d) = (tokens.count(), tokens.dim());
    if let Some(length) = lengths.iter().find(|length| **length > n) {
        return Err(DynamicsError::domain("lengths", format!("at most {n} tokens"), length));
    }
    let map_of = |count: usize| {
        let flow = ParticleFlow::new(heads.to_vec(), *kernel, count, Placement::Ambient)?;
        Ok(Prefix { flow: AttentionFlow::Particle(flow), state: &tokens.as_slice()[..count * d] })
    };
    sweep(lengths, d, map_of, options)
}

/// A Jacobian that owns its flow.
struct Prefix<'a> {
    flow: AttentionFlow,
    state: &'a [f64],
}

impl Prefix<'_> {
    fn jacobian(&self) -> FlowJacobian<'_> {
        FlowJacobian { flow: &self.flow, t: 0.0, state: self.state }
    }
}

impl LinearMap for Prefix<'_> {
    fn inputs(&self) -> usize {
        self.state.len()
    }

    fn outputs(&self) -> usize {
        self.state.len()
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        self.jacobian().apply(x, out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        self.jacobian().apply_transposed(y, out);
    }
}

/// y = factor·n^exponent, fitted by least squares of logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerLaw {
    /// The exponent.
    pub exponent: f64,
    /// The factor.
    pub factor: f64,
    /// The 95 % confidence interval of the exponent, for independent normal errors of ln y.
    pub interval: [f64; 2],
}

impl PowerLaw {
    /// Fits points (n, y); `None` for fewer than three, for equal n, and for numbers that are not positive.
    ///
    /// # Example
    /// ```
    /// use metastable_dynamics::smoothness::scaling::PowerLaw;
    /// let points: Vec<_> = (1..20).map(|n| (n as f64, 3.0 * (n as f64).sqrt())).collect();
    /// let law = PowerLaw::fit(&points).unwrap();
    /// assert!((law.exponent - 0.5).abs() < 1e-12 && (law.factor - 3.0).abs() < 1e-12);
    /// assert!(law.interval[1] - law.interval[0] < 1e-12);
    /// ```
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        if points.len() < 3 || points.iter().any(|(n, y)| !(*n > 0.0 && *y > 0.0 && y.is_finite() && n.is_finite())) {
            return None;
        }
        let count = points.len() as f64;
        let logs: Vec<(f64, f64)> = points.iter().map(|(n, y)| (n.ln(), y.ln())).collect();
        let mean = |pick: &dyn Fn(&(f64, f64)) -> f64| logs.iter().map(pick).sum::<f64>() / count;
        let (x0, y0) = (mean(&|p| p.0), mean(&|p| p.1));
        let spread: f64 = logs.iter().map(|(x, _)| (x - x0) * (x - x0)).sum();
        if spread == 0.0 {
            return None;
        }
        let exponent = logs.iter().map(|(x, y)| (x - x0) * (y - y0)).sum::<f64>() / spread;
        let rest: f64 = logs.iter().map(|(x, y)| (y - y0 - exponent * (x - x0)).powi(2)).sum();
        let half = student_97_5(points.len() - 2) * (rest / (count - 2.0) / spread).sqrt();
        let interval = [exponent - half, exponent + half];
        Some(Self { exponent, factor: (y0 - exponent * x0).exp(), interval })
    }
}

/// The 97.5 % quantile of Student's t with 1 to 10 degrees of freedom.
///
/// # References
/// Any table, such as M. Abramowitz, I. Stegun, "Handbook of Mathematical Functions", 1964, table 26.10.
const STUDENT: [f64; 10] =
    [12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139];

/// The 97.5 % quantile of Student's t: tabulated, then by the expansion in 1/degrees (26.7.5), good to 1e-4.
fn student_97_5(degrees: usize) -> f64 {
    if degrees <= STUDENT.len() {
        return STUDENT[degrees - 1];
    }
    let (z, v) = (1.959_963_985_f64, degrees as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    z + first / v + second / (v * v)
}

/// What ‖D_{tX} f‖_2 tends to as t → ∞: ‖M‖_2 times the root of the largest in-degree of X's arg-max map, for one head
/// whose rows have unique arg-max tokens (all but a null set of clouds, where A ≠ 0) \[derived\]. O(n² k).
///
/// # Errors
/// [`DynamicsError::Decomposition`]; [`DynamicsError::Shape`] if the dimensions differ.
pub fn large_radius_limit(head: &Head, kernel: &AttentionKernel, tokens: TokensRef<'_>) -> Result<f64, DynamicsError> {
    if head.dim() != tokens.dim() {
        return Err(DynamicsError::shape("head", format!("d = {}", tokens.dim()), format!("d = {}", head.dim())));
    }
    let mut projections = Projections::zeros(tokens.count(), head.query().rows(), head.value().rows());
    projections.fill(kernel, 1.0, tokens.as_slice(), [head.query(), head.key(), head.value()]);
    let mut degrees = vec![0_u32; tokens.count()];
    followed(&projections, kernel.mask()).into_iter().for_each(|j| degrees[j] += 1);
    let largest = degrees.iter().copied().max().unwrap_or(0);
    Ok(head.output_value().operator_norm()? * f64::from(largest).sqrt())
}
