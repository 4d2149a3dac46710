//! The self-test: every closed form this program implements, evaluated in this build through the real flows and
//! solvers.
//!
//! A [`Law`] is a sentence that must hold, with its source, its provenance mark and a tolerance; its error is a number
//! that is small when it holds: a distance from a closed form, the violation of an inequality, or, for bounds, the
//! ratio actual/bound with tolerance 1. [`run`] evaluates all of them, in a few seconds.
//!
//! Reading order: `world` (how a law runs a flow), then the laws by subject: `equiangular`, `circle`,
//! `statics` (no time), `conserved`, `symmetry`, `limits` and `rescaled` (where tokens end), `causal`,
//! `metastability`, `adapters` and `departure` (LoRA), `unified` (all kernels, placements, noise), `gaussian` (moments instead of tokens).

mod adapters;
mod causal;
mod circle;
mod conserved;
mod departure;
mod equiangular;
mod gaussian;
mod limits;
mod metastability;
mod references;
mod rescaled;
mod statics;
mod symmetry;
mod unified;
mod world;

use metastable_dynamics::DynamicsError;
use serde::Serialize;

/// How well a law holds: its error, or why it could not be evaluated.
type Measured = Result<f64, DynamicsError>;

/// A closed form or proven property, and how to evaluate it here.
#[derive(Debug, Clone, Copy)]
pub struct Law {
    /// The sentence, in snake case; also the name of its test.
    pub name: &'static str,
    /// Paper and statement.
    pub source: &'static str,
    /// The provenance mark: "derived", "text", "lean", "code", "2nd", as the citation index explains.
    pub provenance: &'static str,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Why this tolerance.
    pub because: &'static str,
    measure: fn() -> Measured,
}

/// What the evaluation of a law gave.
#[derive(Debug, Clone, Serialize)]
pub struct LawResult {
    /// The law's name.
    pub name: &'static str,
    /// Paper and statement.
    pub source: &'static str,
    /// The provenance mark.
    pub provenance: &'static str,
    /// The error; none if it could not be evaluated.
    pub error: Option<f64>,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Whether the error is at most the tolerance.
    pub passed: bool,
    /// Why it could not be evaluated.
    pub failure: Option<String>,
}

impl Law {
    /// Evaluates the law in this build.
    pub fn evaluate(&self) -> LawResult {
        let (error, failure) = match (self.measure)() {
            Ok(error) if error.is_nan() => (None, Some("the error is not a number".into())),
            Ok(error) => (Some(error), None),
            Err(failure) => (None, Some(failure.to_string())),
        };
        LawResult {
            name: self.name,
            source: self.source,
            provenance: self.provenance,
            error,
            tolerance: self.tolerance,
            passed: error.is_some_and(|error| error <= self.tolerance),
            failure,
        }
    }
}

/// All laws, by subject.
pub fn laws() -> Vec<Law> {
    let subjects = [
        equiangular::LAWS,
        circle::LAWS,
        statics::LAWS,
        conserved::LAWS,
        symmetry::LAWS,
        limits::LAWS,
        rescaled::LAWS,
        causal::LAWS,
        metastability::LAWS,
        adapters::LAWS,
        departure::LAWS,
        gaussian::LAWS,
        unified::LAWS,
        references::LAWS,
    ];
    subjects.concat()
}

/// Evaluates all laws, one after the other.
pub fn run() -> Vec<LawResult> {
    laws().iter().map(Law::evaluate).collect()
}
