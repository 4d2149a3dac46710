//! The verdict on a Gaussian flow, with what it rests on.

use std::ops::ControlFlow;

use super::bounds::{blow_up_not_after, blow_up_not_before};
use super::certificate::{Certificate, Claim, certify};
use super::run::{End, JudgeOptions, Moment, Run};
use crate::error::DynamicsError;
use crate::field::GaussianFlow;
use crate::measure::Gaussian;

/// A time of blow-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlowUp {
    /// The best value: exact, or fitted.
    pub time: f64,
    /// [lower, upper], see [`judge`].
    pub bracket: [f64; 2],
    /// Whether the upper end is proven (from the state reached), not only twice the fitted rest.
    pub is_upper_proven: bool,
}

/// What becomes of the covariance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Regime {
    /// It tends to one of smaller rank.
    Collapse {
        /// The rank of the limit.
        rank: usize,
    },
    /// It stays bounded and keeps its rank.
    Bounded,
    /// It grows for ever, without a pole.
    Growth {
        /// d/dt ln tr Σ at the end of the run.
        rate: f64,
    },
    /// It becomes infinite in finite time.
    BlowUp(BlowUp),
    /// Its spectrum is constant while it turns.
    Isospectral,
}

impl Regime {
    /// Its name in reports and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Collapse { .. } => "collapse",
            Self::Bounded => "bounded",
            Self::Growth { .. } => "growth",
            Self::BlowUp(_) => "blow_up",
            Self::Isospectral => "isospectral",
        }
    }
}

/// A regime and its grounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The regime.
    pub regime: Regime,
    /// What was known beforehand.
    pub certificate: Certificate,
    /// Whether the certificate alone proves the regime; otherwise the run shows it.
    pub is_proven: bool,
    /// Whether the run settled: it escaped, grew at one rate for long, came to rest or reached the horizon within its
    /// steps. True without a run.
    pub is_settled: bool,
    /// The time to which the flow was followed (0 if the certificate made a run needless).
    pub time: f64,
    /// Evaluations of the field.
    pub evaluations: u64,
}

impl Verdict {
    /// The regime's name in reports and tables; "open" where the run did not settle: what it saw last is no verdict.
    pub fn name(&self) -> &'static str {
        if self.is_settled { self.regime.name() } else { "open" }
    }
}

/// Says what becomes of the covariance of `start`, and on what grounds.
///
/// First [`certify`]; where that proves a regime there is no run. Otherwise the flow is followed in its own time (one
/// unit is an e-fold of the factor or of t) until tr Σ has escaped, Σ is at rest, or the horizon is reached. Where fast
/// modes that have died limit the steps (a direction grows, and all else relaxes at a rate proportional to it), implicit
/// steps take over for softmax and L2 with up to 400 numbers in the factor; there tr Σ need only grow a million times, the
/// last thousand of them at one rate (larger flows: a thousand times, the last thirty):
///
/// - *blow-up*: with g = tr Σ / (tr Σ)', a pole of any order p has g' → -1/p, so t* is where the line through g at two
///   late moments meets 0; g' → 0 is growth. The bracket: below, the time reached plus the proven bound
///   [`blow_up_not_before`] from the state there; above, [`blow_up_not_after`] from there, or, where nothing is proven,
///   twice the fitted rest. Both are widened by 100 rtol t for the solver's error.
/// - *rank*: an eigenvalue of Σ collapses if it falls faster than t^{-1/2} over the last factor 3 of time (1.25 for a
///   run at rest), or is below 1e-26 of the largest: relative to the flow, not to a fixed threshold.
///
/// # Errors
/// [`DynamicsError::Shape`] if `start` does not fit the flow; [`DynamicsError::Domain`] for bad options;
/// [`DynamicsError::Decomposition`].
///
/// # Example
/// ```
/// use metastable_dynamics::field::{GaussianFlow, GaussianKernel};
/// use metastable_dynamics::gaussian::{JudgeOptions, Regime, judge};
/// use metastable_dynamics::{Head, Matrix, measure::Gaussian};
/// let start = Gaussian::centred(Matrix::scaled_identity(2, 0.5)).unwrap();
/// let flow = GaussianFlow::new(vec![Head::identity(2)], GaussianKernel::SOFTMAX, &start).unwrap();
/// let verdict = judge(&flow, &start, &JudgeOptions::default()).unwrap();
/// let Regime::BlowUp(pole) = verdict.regime else { panic!() };
/// assert!((pole.time - 1.0).abs() < 1e-14);
/// assert!(verdict.is_proven && verdict.certificate.statement.contains("closed form"));
/// ```
pub fn judge(flow: &GaussianFlow, start: &Gaussian, options: &JudgeOptions) -> Result<Verdict, DynamicsError> {
    let verdict = judge_while(flow, start, options, &mut |_| ControlFlow::Continue(()))?;
    Ok(verdict.expect("nobody broke the run off"))
}

/// As [`judge`], showing the time reached after every step to `observer`, who may break the run off: then there is no
/// verdict.
///
/// # Errors
/// As [`judge`].
pub fn judge_while(
    flow: &GaussianFlow,
    start: &Gaussian,
    options: &JudgeOptions,
    observer: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<Option<Verdict>, DynamicsError> {
    let certificate = certify(flow, start)?;
    if options.use_certificates
        && let Some(regime) = proven(certificate.claim)
    {
        let zero = Verdict { regime, certificate, is_proven: true, is_settled: true, time: 0.0, evaluations: 0 };
        return Ok(Some(zero));
    }
    let Some(run) = Run::new(flow, start, options, observer)? else { return Ok(None) };
    let may_blow_up = !(options.use_certificates && matches!(certificate.claim, Claim::Global));
    let regime = run.regime(flow, start, may_blow_up)?;
    let is_proven = matches!((certificate.claim, &regime), (Claim::BlowUp { .. }, Regime::BlowUp(_)));
    let (time, evaluations) = (run.last.t, run.evaluations);
    Ok(Some(Verdict { regime, certificate, is_proven, is_settled: run.end != End::Exhausted, time, evaluations }))
}

/// The regime that a claim settles by itself.
fn proven(claim: Claim) -> Option<Regime> {
    match claim {
        Claim::Collapse { rank } => Some(Regime::Collapse { rank }),
        Claim::Bounded => Some(Regime::Bounded),
        Claim::Isospectral => Some(Regime::Isospectral),
        Claim::BlowUp { time: Some(time) } => {
            // The closed form is exact up to the rounding of one eigenvalue problem.
            let margin = 1e-14 * time;
            let bracket = [time - margin, time + margin];
            Some(Regime::BlowUp(BlowUp { time, bracket, is_upper_proven: true }))
        }
        Claim::BlowUp { time: None } | Claim::Global | Claim::Nothing => None,
    }
}

impl Run {
    fn regime(&self, flow: &GaussianFlow, start: &Gaussian, may_blow_up: bool) -> Result<Regime, DynamicsError> {
        if self.end == End::Vanished {
            return Ok(Regime::Collapse { rank: 0 });
        }
        if self.end == End::Steady {
            return Ok(Regime::Growth { rate: 1.0 / self.last.growth_time });
        }
        if self.end == End::Escaped {
            let order = self.pole_slope();
            if may_blow_up && order > POLE {
                return Ok(Regime::BlowUp(self.pole(flow, order)?));
            }
            return Ok(Regime::Growth { rate: 1.0 / self.last.growth_time });
        }
        // At rest what converges has converged; longer ago it may still have moved like something that collapses.
        let span = if self.end == End::AtRest { AT_REST_SPAN } else { SPAN };
        let before = self.moments.iter().rev().find(|m| span * m.t <= self.last.t).unwrap_or(&self.moments[0]);
        let (early, late) = (before.gaussian.spectrum()?, self.last.gaussian.spectrum()?);
        if self.end != End::AtRest && self.is_isospectral(&late)? {
            return Ok(Regime::Isospectral);
        }
        let may_grow = self.end != End::AtRest && before.t > 0.0;
        if may_grow && self.last.trace / before.trace > (self.last.t / before.t).powf(COLLAPSE_EXPONENT) {
            return Ok(Regime::Growth { rate: 1.0 / self.last.growth_time });
        }
        let shrink = if before.t > 0.0 { (self.last.t / before.t).powf(-COLLAPSE_EXPONENT) } else { 0.0 };
        let largest = late.first().copied().unwrap_or(0.0);
        let rank = early.iter().zip(&late).filter(|(e, l)| **l > shrink * **e && **l > LOST * largest).count();
        let full = start.spectrum()?.iter().filter(|v| **v > 0.0).count();
        Ok(if rank < full { Regime::Collapse { rank } } else { Regime::Bounded })
    }

    /// -g' of g = tr Σ / (tr Σ)' between the end and the last moment that was a millionth as large: 1/p at a pole
    /// of order p.
    fn pole_slope(&self) -> f64 {
        let before = self.moments.iter().rev().find(|m| m.trace <= 1e-6 * self.last.trace).unwrap_or(&self.moments[0]);
        (before.growth_time - self.last.growth_time) / (self.last.t - before.t)
    }

    fn pole(&self, flow: &GaussianFlow, slope: f64) -> Result<BlowUp, DynamicsError> {
        let Moment { t, growth_time, gaussian, .. } = &self.last;
        let rest = growth_time / slope;
        let proven = blow_up_not_after(flow, gaussian)?;
        let margin = 100.0 * self.rtol * t;
        let bracket = [
            t + blow_up_not_before(flow, gaussian)?.min(rest) - margin,
            t + proven.unwrap_or(2.0 * rest).max(rest) + margin,
        ];
        Ok(BlowUp { time: t + rest, bracket, is_upper_proven: proven.is_some() })
    }

    /// Whether no eigenvalue has moved since the start by more than the solver's error explains.
    fn is_isospectral(&self, late: &[f64]) -> Result<bool, DynamicsError> {
        let first = self.moments[0].gaussian.spectrum()?;
        let largest = first.first().copied().unwrap_or(0.0);
        Ok(first.iter().zip(late).all(|(a, b)| (a - b).abs() <= SAME_SPECTRUM * largest))
    }
}

/// Growth whose g' is nearer to 0 than this is no pole of an order below 20.
const POLE: f64 = 0.05;
/// Eigenvalues now are compared with those at a time earlier by this factor.
const SPAN: f64 = 3.0;
/// And by this one for a run that has come to rest.
const AT_REST_SPAN: f64 = 1.25;
/// Powers of t: between bounded (0) and the slowest collapse or growth seen (1).
const COLLAPSE_EXPONENT: f64 = 0.5;
/// What a factor in f64 cannot tell from zero: (1e-13)².
const LOST: f64 = 1e-26;
/// A spectrum that moved less than this over the whole run, relative to the largest eigenvalue.
const SAME_SPECTRUM: f64 = 1e-6;
