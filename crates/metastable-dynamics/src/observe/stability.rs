//! How far a LoRA twin can be from its base: proven envelopes, and the drift of the leading direction of V.
//!
//! The bounds hold for one softmax head, any mask, both runs from the same tokens, exact flows. They are our own
//! \[derived\] replacements, with explicit constants, for propositions whose constants we have not seen (arXiv
//! 2402.15415: v1 Proposition 1, v2 Proposition 3.1). delta(t) = max_i |x_i(t) - x~_i(t)|; W_p <= delta for every p.

use serde::{Deserialize, Serialize};

use super::quadrature::ln_integral_upper;
use crate::error::DynamicsError;
use crate::head::Head;
use crate::linalg::{Matrix, dot, norm};

/// The operator norms that the envelopes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OperatorNorms {
    /// |V| of the base run.
    pub value: f64,
    /// |V + ΔV| of the twin.
    pub value_adapted: f64,
    /// |ΔV|.
    pub delta_value: f64,
    /// |A|, with logits x_iᵀ A x_j: A = beta Qᵀ K of the base run.
    pub logits: f64,
    /// |ΔA|.
    pub delta_logits: f64,
    /// R = max_i |x_i(0)|.
    pub radius: f64,
}

impl OperatorNorms {
    /// The norms of a base head and its adapted twin, with V meaning W V. O(d³).
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    ///
    /// # Panics
    /// If the heads differ in dimension.
    pub fn between(base: &Head, adapted: &Head, beta: f64, radius: f64) -> Result<Self, DynamicsError> {
        let (value, value_adapted) = (base.output_value(), adapted.output_value());
        let (logits, logits_adapted) = (base.query_key(), adapted.query_key());
        Ok(Self {
            value: value.operator_norm()?,
            value_adapted: value_adapted.operator_norm()?,
            delta_value: value_adapted.add_scaled(-1.0, &value).operator_norm()?,
            logits: beta.abs() * logits.operator_norm()?,
            delta_logits: beta.abs() * logits_adapted.add_scaled(-1.0, &logits).operator_norm()?,
            radius,
        })
    }
}

/// An upper bound that may leave the range of f64.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The bound; +infinity where it overflows (still a bound; JSON shows null).
    pub value: f64,
    /// Its natural logarithm; -infinity for 0.
    pub ln_value: f64,
}

/// Relative room for the rounding of the few operations behind a bound.
const ROUNDING: f64 = 1e-12;

impl Envelope {
    fn from_ln(ln_value: f64) -> Self {
        let ln_value = if ln_value.is_nan() { f64::INFINITY } else { ln_value + ROUNDING * (1.0 + ln_value.abs()) };
        if ln_value == f64::NEG_INFINITY || ln_value.is_nan() {
            return Self { value: 0.0, ln_value: f64::NEG_INFINITY };
        }
        Self { value: ln_value.exp(), ln_value }
    }
}

/// ln((e^{rate·t} - 1)/rate), and ln t for rate 0.
fn ln_growth(rate: f64, t: f64) -> f64 {
    if rate == 0.0 {
        return t.ln();
    }
    rate * t + (-(-rate * t).exp_m1() / rate).ln()
}

/// S1, the sphere flow (M3): delta(t) <= (|V||ΔA| + |ΔV|)(e^{kappa t} - 1)/kappa, kappa = |V|(1 + 2|A|) + 2|V + ΔV|.
///
/// \[derived\]: softmax is 1-Lipschitz from l_inf to l_1; a logit moves by at most 2|A| delta + |ΔA|; and
/// |Proj_a u - Proj_b v| <= |u - v| + 2 |a - b| |v| \[lean\]. Assumes unit tokens (`radius` is not used). O(1).
pub fn sphere_envelope(norms: &OperatorNorms, t: f64) -> Envelope {
    let (source, kappa) = sphere_rates(norms);
    Envelope::from_ln(source.ln() + ln_growth(kappa, t))
}

/// The time before which the twin on the sphere cannot deviate by `distance` (corollary of S1):
/// ln(1 + kappa·distance / (|V||ΔA| + |ΔV|)) / kappa, of order ln(1/eps); infinite for an update that is zero.
pub fn sphere_deviation_time(norms: &OperatorNorms, distance: f64) -> f64 {
    let (source, kappa) = sphere_rates(norms);
    if source == 0.0 {
        return f64::INFINITY;
    }
    if kappa == 0.0 { distance / source } else { (kappa * distance / source).ln_1p() / kappa }
}

fn sphere_rates(norms: &OperatorNorms) -> (f64, f64) {
    let source = norms.value * norms.delta_logits + norms.delta_value;
    (source, norms.value * (1.0 + 2.0 * norms.logits) + 2.0 * norms.value_adapted)
}

/// S2, the plain flow in R^d (M1): with v = |V|, w = max(v, |V + ΔV|),
/// delta(t) <= int_0^t (v|ΔA| R³ e^{3ws} + |ΔV| R e^{ws}) exp(v(t - s) + v|A|R² (e^{2wt} - e^{2ws})/w) ds.
///
/// \[derived\]: as S1 without projections, with |x_i(s)| <= R e^{ws}. It is double exponential in t, so far from sharp
/// (the twin of the authors' experiment separates at a time of order 1/eps); that is why the logarithm comes along.
/// The integral is enclosed from above by a method whose excess is below 1e-4 of it; see `quadrature`.
pub fn euclidean_envelope(norms: &OperatorNorms, t: f64) -> Envelope {
    let v = norms.value;
    let w = v.max(norms.value_adapted);
    let sources =
        [((v * norms.delta_logits * norms.radius.powi(3)).ln(), 3.0 * w), ((norms.delta_value * norms.radius).ln(), w)];
    Envelope::from_ln(ln_integral_upper(&sources, v, v * norms.logits * norms.radius.powi(2), w, t))
}

/// S2 in rescaled coordinates (M2): |z_i - z~_i| <= |e^{-tV}| delta(t) + |e^{-tV} - e^{-tV~}| R e^{|V~| t}.
///
/// \[derived\]: z - z~ = e^{-tV}(x - x~) + (e^{-tV} - e^{-tV~}) x~, with delta from [`euclidean_envelope`] and V~ = V + ΔV.
/// `value`, `value_adapted`: V and V~, [d, d]. Where an exponential overflows the bound is +infinity. O(d³).
///
/// # Errors
/// [`DynamicsError::Shape`] unless both are square of one size; [`DynamicsError::Decomposition`].
pub fn rescaled_envelope(
    value: &Matrix,
    value_adapted: &Matrix,
    norms: &OperatorNorms,
    t: f64,
) -> Result<Envelope, DynamicsError> {
    if value.shape() != value_adapted.shape() {
        return Err(DynamicsError::shape("adapted value", value.shape(), value_adapted.shape()));
    }
    let plain = euclidean_envelope(norms, t).ln_value;
    let (Some(back), Some(back_adapted)) = (exp_back(value, t)?, exp_back(value_adapted, t)?) else {
        return Ok(Envelope::from_ln(f64::INFINITY));
    };
    let (size, size_adapted) = (back.operator_norm()?, back_adapted.operator_norm()?);
    // Scaling and squaring loses about |tV| eps.
    let rounding = ROUNDING * (1.0 + t * norms.value.max(norms.value_adapted));
    // Below the range of f64 the smallest normal number stands in: larger than the norm, so still a bound.
    let spread = if value == value_adapted {
        0.0
    } else {
        back.add_scaled(-1.0, &back_adapted).operator_norm()? + rounding * (size + size_adapted) + f64::MIN_POSITIVE
    };
    let first = plain + (size * (1.0 + rounding)).max(f64::MIN_POSITIVE).ln();
    let second = (spread * norms.radius).ln() + norms.value_adapted * t;
    Ok(Envelope::from_ln(ln_add(first, second)))
}

/// e^{-tV}, or none where it leaves the range of f64.
fn exp_back(value: &Matrix, t: f64) -> Result<Option<Matrix>, DynamicsError> {
    let exponent = value.scaled(-t);
    // Beyond this norm e^{-tV} over- or underflows in some direction unless V is normal; the bound is useless there.
    if exponent.frobenius_norm() > LARGEST_EXPONENT && !is_diagonal(&exponent) {
        return Ok(None);
    }
    let exp = exponent.exp()?;
    Ok(exp.as_slice().iter().all(|e| e.is_finite()).then_some(exp))
}

/// ln of f64::MAX, about.
const LARGEST_EXPONENT: f64 = 700.0;

fn is_diagonal(matrix: &Matrix) -> bool {
    (0..matrix.rows()).all(|i| (0..matrix.columns()).all(|j| i == j || matrix.at(i, j) == 0.0))
}

/// ln(e^a + e^b).
fn ln_add(a: f64, b: f64) -> f64 {
    let (low, high) = (a.min(b), a.max(b));
    if high.is_infinite() { high } else { high + (low - high).exp().ln_1p() }
}

/// What a symmetric update does to the leading eigenvector u_1 of a symmetric V.
///
/// With a = u_1ᵀ ΔV u_1, b = P ΔV u_1, E = P ΔV P, P the projection orthogonal to u_1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LeadingDrift {
    /// lambda_1 - lambda_2 of V; infinite for d = 1.
    pub gap: f64,
    /// a.
    pub along: f64,
    /// |b|.
    pub across: f64,
    /// |E|.
    pub rest: f64,
    /// Whether gap + a > 2|b| + |E|: the condition of long-time stability, arXiv 2402.15415v2 Proposition 3.3 \[2nd\].
    pub is_stable: bool,
    /// (2|b| + |E|)/(gap + a), under that condition: |u_1 - u~_1| is below a constant times it \[2nd\]; constant 1 held in
    /// 1400 random cases \[checked\], it is not proven.
    pub distance_estimate: Option<f64>,
    /// An upper bound of tan 2 theta, theta the angle between u_1 and u~_1: 2|b|/(gap + a - |E|), if gap + a > |E|;
    /// equality for d = 2 and E >= 0 \[derived\].
    pub tan_two_theta: Option<f64>,
    /// The same bound as an angle theta < pi/4.
    pub angle: Option<f64>,
}

/// Measures how an update turns the leading direction. `value`, `delta`: V and ΔV, [d, d]. O(d³).
///
/// # Errors
/// [`DynamicsError::NotSymmetric`] naming the culprit (beyond 1e-12 of its largest entry); [`DynamicsError::Shape`];
/// [`DynamicsError::Decomposition`].
///
/// # References
/// arXiv 2402.15415v2, Proposition 3.3 \[2nd\]. The tan 2 theta bound \[derived\]: in the plane of u_1 and u~_1 the update
/// is a 2 x 2 problem with off-diagonal at most |b| and diagonal difference at least gap + a - |E|; it is the
/// tan 2 theta theorem of C. Davis and W. Kahan, 1970, for one vector.
pub fn leading_drift(value: &Matrix, delta: &Matrix) -> Result<LeadingDrift, DynamicsError> {
    for (name, matrix) in [("value", value), ("value update", delta)] {
        let asymmetry = matrix.asymmetry();
        if asymmetry > ROUNDING * matrix.max_abs() {
            return Err(DynamicsError::NotSymmetric { name: name.into(), asymmetry });
        }
    }
    if value.shape() != delta.shape() {
        return Err(DynamicsError::shape("value update", value.shape(), delta.shape()));
    }
    let d = value.rows();
    let (eigenvalues, vectors) = value.symmetric_eigen()?;
    let leading: Vec<f64> = (0..d).map(|i| vectors.at(i, d - 1)).collect();
    let gap = if d == 1 { f64::INFINITY } else { eigenvalues[d - 1] - eigenvalues[d - 2] };
    let mut image = vec![0.0; d];
    delta.apply(&leading, &mut image);
    let along = dot(&leading, &image);
    let b: Vec<f64> = image.iter().zip(&leading).map(|(y, u)| y - along * u).collect();
    let across = norm(&b);
    // P ΔV P = ΔV - u (ΔV u)ᵀ - (ΔV u) uᵀ + a u uᵀ.
    let projected = Matrix::from_fn(d, d, |i, j| {
        delta.at(i, j) - leading[i] * image[j] - image[i] * leading[j] + along * leading[i] * leading[j]
    });
    let rest = projected.operator_norm()?;
    let is_stable = gap + along > 2.0 * across + rest;
    let tan_two_theta = (gap + along > rest).then(|| 2.0 * across / (gap + along - rest));
    Ok(LeadingDrift {
        gap,
        along,
        across,
        rest,
        is_stable,
        distance_estimate: is_stable.then(|| (2.0 * across + rest) / (gap + along)),
        tan_two_theta,
        angle: tan_two_theta.map(|tangent| 0.5 * tangent.atan()),
    })
}

#[cfg(test)]
mod tests;
