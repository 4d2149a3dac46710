//! The local Lipschitz constant of attention at a cloud, from both sides.

use super::a_priori::{APriori, Norms};
use super::certificates::{Certificates, ROUNDING};
use super::head_terms::HeadTerms;
use super::lanczos::{LanczosOptions, SingularTriplet, norm, top_singular_triplet};
use super::linear_map::{FlowJacobian, dense};
use super::probability::probable_upper;
use crate::attention::AttentionKernel;
use crate::error::DynamicsError;
use crate::field::{AttentionFlow, ParticleFlow, Placement};
use crate::head::Head;
use crate::tokens::TokensRef;

/// How much is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoSidedOptions {
    /// The lower value.
    pub lanczos: LanczosOptions,
    /// n·d up to which the whole Jacobian is decomposed: its largest singular value is then the upper value.
    pub dense_limit: usize,
    /// n up to which the n x n certificates are made.
    pub certificate_limit: usize,
    /// The probability of failure that the probable upper value may have.
    pub failure_probability: f64,
}

impl Default for TwoSidedOptions {
    fn default() -> Self {
        Self {
            lanczos: LanczosOptions::default(),
            dense_limit: 256,
            certificate_limit: 1024,
            failure_probability: 1e-6,
        }
    }
}

/// lower ≤ ‖D_X f‖_2 ≤ upper.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoSided {
    /// The largest singular value that Lanczos found, with its vectors: proven from below.
    pub triplet: SingularTriplet,
    /// The least of the proven bounds; `None` for a kernel without one of ours. As a logarithm where f64 ends.
    pub upper: Option<UpperBound>,
    /// Bounds at these tokens; `None` beyond `certificate_limit` and for kernels without.
    pub certificates: Option<Certificates>,
    /// Bounds on the ball through the farthest token.
    pub a_priori: Option<APriori>,
    /// ‖D‖_2 of the dense Jacobian, up to `dense_limit`: proven up to rounding.
    pub dense: Option<f64>,
    /// An estimate: above ‖D‖_2 except with the stated probability over the random start.
    pub probable_upper: Option<f64>,
    /// R = max |x_i|.
    pub radius: f64,
}

/// The least proven bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpperBound {
    /// Its value, infinite beyond f64.
    pub value: f64,
    /// Its logarithm.
    pub ln: f64,
    /// Which bound it is: "dense", "three_term", "block_norm", "frobenius" or "a_priori".
    pub which: &'static str,
}

impl TwoSided {
    /// The lower value.
    pub fn lower(&self) -> f64 {
        self.triplet.value
    }
}

/// Encloses the local Lipschitz constant of X ↦ Σ_h W_h P^h X V_hᵀ at `tokens`, residual not included.
///
/// O(steps·H n² (k + d)) for the lower value, O(H n² d²) time and O(H n²) memory for the certificates.
///
/// # Errors
/// [`DynamicsError::Domain`] without heads, for options out of range, or where a score exceeds f64;
/// [`DynamicsError::Shape`] if heads and tokens differ in d; [`DynamicsError::NotFinite`] for NaN among tokens;
/// [`DynamicsError::Decomposition`].
///
/// # Example
/// Equal tokens see nothing but their mean: the constant is ‖V‖.
/// ```
/// use metastable_dynamics::attention::AttentionKernel;
/// use metastable_dynamics::smoothness::{TwoSidedOptions, lipschitz};
/// use metastable_dynamics::{Head, Tokens};
/// let tokens = Tokens::from_rows(&[[0.3, -0.4]; 7]).unwrap();
/// let kernel = AttentionKernel::softmax(1.0).unwrap();
/// let constant = lipschitz(&[Head::identity(2)], &kernel, tokens.view(), &TwoSidedOptions::default()).unwrap();
/// assert!((constant.lower() - 1.0).abs() < 1e-14 && constant.upper.unwrap().value < 1.0 + 1e-11);
/// ```
pub fn lipschitz(
    heads: &[Head],
    kernel: &AttentionKernel,
    tokens: TokensRef<'_>,
    options: &TwoSidedOptions,
) -> Result<TwoSided, DynamicsError> {
    check(heads, tokens, options)?;
    let flow = ParticleFlow::new(heads.to_vec(), *kernel, tokens.count(), Placement::Ambient)?;
    let flow = AttentionFlow::Particle(flow);
    let jacobian = FlowJacobian { flow: &flow, t: 0.0, state: tokens.as_slice() };
    let certificates = certificates(heads, kernel, tokens, options)?;
    let triplet = top_singular_triplet(&jacobian, &options.lanczos)?;
    let radius = tokens.iter().map(norm).fold(0.0, f64::max);
    let a_priori = a_priori(heads, kernel, tokens.count(), radius)?;
    let size = tokens.as_slice().len();
    let dense = match size <= options.dense_limit {
        true => Some(dense(&jacobian).operator_norm()? * (1.0 + ROUNDING)),
        false => None,
    };
    let upper = least(triplet.value, certificates.as_ref(), a_priori.as_ref(), dense);
    let probable_upper = triplet
        .random_start
        .then(|| probable_upper(triplet.value, size, triplet.steps, options.failure_probability))
        .flatten();
    Ok(TwoSided { triplet, upper, certificates, a_priori, dense, probable_upper, radius })
}

fn check(heads: &[Head], tokens: TokensRef<'_>, options: &TwoSidedOptions) -> Result<(), DynamicsError> {
    crate::error::require_finite("tokens", tokens.as_slice())?;
    if let Some(head) = heads.iter().find(|head| head.dim() != tokens.dim()) {
        return Err(DynamicsError::shape("head", format!("d = {}", tokens.dim()), format!("d = {}", head.dim())));
    }
    if !(options.failure_probability > 0.0 && options.failure_probability < 1.0) {
        let found = options.failure_probability;
        return Err(DynamicsError::domain("failure_probability", "a number in (0, 1)", found));
    }
    Ok(())
}

fn certificates(
    heads: &[Head],
    kernel: &AttentionKernel,
    tokens: TokensRef<'_>,
    options: &TwoSidedOptions,
) -> Result<Option<Certificates>, DynamicsError> {
    if tokens.count() > options.certificate_limit {
        return Ok(None);
    }
    let terms = heads.iter().map(|head| HeadTerms::new(head, kernel, tokens)).collect::<Result<Option<Vec<_>>, _>>()?;
    terms.map(|terms| Certificates::of(&terms)).transpose()
}

fn a_priori(
    heads: &[Head],
    kernel: &AttentionKernel,
    count: usize,
    radius: f64,
) -> Result<Option<APriori>, DynamicsError> {
    let mut sum: Option<APriori> = None;
    for head in heads {
        let Some(bounds) = APriori::of(&Norms::of(head, kernel)?, kernel, count, radius) else { return Ok(None) };
        sum = Some(sum.map_or(bounds, |sum| sum.plus(bounds)));
    }
    Ok(sum)
}

/// The least bound, and not below the lower value by a rounding.
fn least(
    lower: f64,
    certificates: Option<&Certificates>,
    a_priori: Option<&APriori>,
    dense: Option<f64>,
) -> Option<UpperBound> {
    let of_value = |which: &'static str, value: f64| UpperBound { value, ln: value.ln(), which };
    let at_tokens = certificates
        .into_iter()
        .flat_map(|c| [("three_term", c.three_term), ("block_norm", c.block_norm), ("frobenius", c.frobenius)]);
    let known = at_tokens.chain(dense.map(|value| ("dense", value))).map(|(which, value)| of_value(which, value));
    let on_ball = a_priori.map(|a| UpperBound { value: a.unified.value(), ln: a.unified.ln, which: "a_priori" });
    let least = known.chain(on_ball).filter(|bound| !bound.ln.is_nan()).min_by(|a, b| a.ln.total_cmp(&b.ln))?;
    Some(if least.value < lower { of_value(least.which, lower) } else { least })
}
