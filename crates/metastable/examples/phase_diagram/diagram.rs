//! The T(eps) diagram: when twenty tokens gather under V = diag(1, 1 - eps), and when they leave the clusters of V = I.
//!
//! One base run with V = I gives the clusters. Each eps is then a run of its own; runs share nothing, so they go
//! side by side and come out equal on any number of threads. Tokens are followed in rescaled coordinates, where
//! clusters stand still. Only the library is used: a flow, a solver, an assignment, events.

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::RescaledFlow;
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::head::Target;
use metastable_dynamics::observe::{Assignment, BracketedTime, Clusters, single_linkage};
use metastable_dynamics::solver::{Advance, DenseStep, Direction, EventLocator, Method, SolverOptions, Stepper};
use metastable_dynamics::{DynamicsError, Head, LowRankUpdate, Matrix, Tokens};
use rayon::prelude::*;

/// How near all tokens must be to their clusters, the authors' delta.
pub(crate) const RADIUS: f64 = 0.1;
/// When the clusters of the base run are read off: gaps inside clusters shrink like e^{-t}, to 1e-13 here.
const BASE_END: f64 = 30.0;

/// How runs are integrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Tsit5 at rtol 1e-10, crossings located on the dense output.
    Exact,
    /// Explicit Euler with dt = 0.1, times on the grid: what the authors' program does.
    Euler,
}

impl Scheme {
    /// The authors' step.
    const STEP: f64 = 0.1;

    fn options(self) -> SolverOptions {
        match self {
            Self::Exact => SolverOptions::adaptive(Method::Tsit5, 1e-10, 1e-12),
            Self::Euler => SolverOptions::fixed(Method::Euler, Self::STEP),
        }
    }

    /// C of T_departure ~ C / eps, from the closed form at this scheme's clusters: theory [derived], checked there.
    pub(crate) fn constant(self) -> f64 {
        match self {
            Self::Exact => 0.575_463_731_1,
            Self::Euler => 0.540_075_555_5,
        }
    }

    /// For tables and legends.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Exact => "exact flow (tsit5, rtol 1e-10)",
            Self::Euler => "explicit Euler, dt = 0.1",
        }
    }

    /// One word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Euler => "euler",
        }
    }

    /// How many decimals of a time mean something.
    pub(crate) fn decimals(self) -> usize {
        match self {
            Self::Exact => 6,
            Self::Euler => 1,
        }
    }

    /// Long enough to see the departure.
    fn end(self, epsilon: f64) -> f64 {
        1.2 * self.constant() / epsilon + 20.0
    }
}

/// One column of the diagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// The strength of the adapter.
    pub(crate) epsilon: f64,
    /// First time all tokens are within the radius of their own base clusters.
    pub(crate) cluster: BracketedTime,
    /// First later time one is not.
    pub(crate) departure: BracketedTime,
}

/// The whole diagram.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Diagram {
    /// The clusters of V = I.
    pub(crate) clusters: Clusters,
    /// One point for every eps.
    pub(crate) points: Vec<Point>,
}

/// Computes the diagram of a cloud in the plane: the base run once, then all points in parallel.
///
/// # Errors
/// [`DynamicsError`] if the cloud is not planar.
pub(crate) fn diagram(tokens: &Tokens, scheme: Scheme, epsilons: &[f64]) -> Result<Diagram, DynamicsError> {
    let clusters = base_clusters(tokens, scheme)?;
    let assignment = Assignment::new(&clusters, RADIUS)?;
    let points = epsilons.par_iter().map(|&epsilon| point(tokens, scheme, epsilon, &assignment));
    Ok(Diagram { points: points.collect::<Result<_, _>>()?, clusters })
}

/// The flow under V = diag(1, 1 - eps), a rank-one update of V = I.
pub(crate) fn flow(count: usize, epsilon: f64) -> Result<RescaledFlow, DynamicsError> {
    let (a, b) = (Matrix::from_rows("a", &[[0.0, 1.0]])?, Matrix::from_rows("b", &[[0.0], [-epsilon]])?);
    let head = Head::identity(2).updated(Target::Value, &LowRankUpdate::new(&a, &b, 1.0)?)?;
    RescaledFlow::new(head, AttentionKernel::softmax(1.0)?, count)
}

fn base_clusters(tokens: &Tokens, scheme: Scheme) -> Result<Clusters, DynamicsError> {
    let flow = flow(tokens.count(), 0.0)?;
    let mut stepper = Stepper::new(&flow, &Euclidean, scheme.options(), 0.0, tokens.as_slice().to_vec())?;
    while let Advance::Step(_) = stepper.advance(BASE_END) {}
    Ok(single_linkage(Tokens::new(2, stepper.values().to_vec())?.view(), RADIUS))
}

/// Follows one twin until it has left.
fn point(tokens: &Tokens, scheme: Scheme, epsilon: f64, assignment: &Assignment) -> Result<Point, DynamicsError> {
    let flow = flow(tokens.count(), epsilon)?;
    let mut stepper = Stepper::new(&flow, &Euclidean, scheme.options(), 0.0, tokens.as_slice().to_vec())?;
    let mut watch = Watch::new(scheme, assignment, tokens.as_slice().len());
    while let Advance::Step(step) = stepper.advance(scheme.end(epsilon)) {
        watch.observe(&step);
        if watch.departure.value.is_some() {
            break;
        }
    }
    Ok(Point { epsilon, cluster: watch.cluster, departure: watch.departure })
}

/// Looks for arrival, then for departure.
struct Watch<'a> {
    scheme: Scheme,
    assignment: &'a Assignment,
    locator: EventLocator,
    cluster: BracketedTime,
    departure: BracketedTime,
}

impl<'a> Watch<'a> {
    fn new(scheme: Scheme, assignment: &'a Assignment, len: usize) -> Self {
        let (cluster, departure) = Default::default();
        Self { scheme, assignment, locator: EventLocator::new(len), cluster, departure }
    }

    fn observe(&mut self, step: &DenseStep<'_>) {
        match self.scheme {
            Scheme::Exact => self.locate(step),
            Scheme::Euler => self.compare(step),
        }
    }

    /// The authors' way: only states on the grid are looked at.
    fn compare(&mut self, step: &DenseStep<'_>) {
        let is_near = excess(self.assignment, step.end_state()) <= 0.0;
        let time = BracketedTime::between(step.start(), step.end());
        match self.cluster.value {
            None if is_near => self.cluster = time,
            Some(_) if !is_near => self.departure = time,
            _ => {}
        }
    }

    fn locate(&mut self, step: &DenseStep<'_>) {
        let assignment = self.assignment;
        for crossing in self.locator.crossings(step, &mut |_, state| excess(assignment, state)) {
            let time = BracketedTime { value: Some(crossing.time), bracket: Some(crossing.bracket) };
            match (crossing.direction, self.cluster.value, self.departure.value) {
                (Direction::Falling, None, _) => self.cluster = time,
                (Direction::Rising, Some(_), None) => self.departure = time,
                _ => {}
            }
        }
    }
}

fn excess(assignment: &Assignment, state: &[f64]) -> f64 {
    assignment.excess(metastable_dynamics::TokensRef::new(2, state))
}
