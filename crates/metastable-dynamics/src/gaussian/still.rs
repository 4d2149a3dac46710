//! Covariances where they have become still: as published scripts stop and count, along the exact flow or their own scheme.
//!
//! A *rank* in a published histogram is a number of eigenvalues above an absolute threshold at the moment when |Σ'| falls
//! below an absolute speed. Both depend on the units, so this is not the rank of the limit ([`super::judge`] says that);
//! it is what such a figure shows, and what a comparison with it needs.

use super::clock::{LogTime, OwnTime};
use crate::error::DynamicsError;
use crate::field::GaussianFlow;
use crate::geometry::Euclidean;
use crate::linalg::Matrix;
use crate::measure::Gaussian;
use crate::solver::{Advance, Direction, EventLocator, Method, SolverOptions, Stepper};

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StillRule {
    /// Still where |Σ'| in the Frobenius norm is below this.
    pub speed: f64,
    /// Escaped where tr Σ is above this.
    pub escape: f64,
    /// Steps to take at most.
    pub max_steps: u64,
}

/// Why it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillEnd {
    /// |Σ'| fell below the speed.
    Still,
    /// tr Σ rose above its limit, or a pole was met.
    Escaped,
    /// The steps were used up.
    Exhausted,
}

/// Where a covariance stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopped {
    /// Why.
    pub end: StillEnd,
    /// When.
    pub time: f64,
    /// Steps taken.
    pub steps: u64,
    /// Eigenvalues of Σ there, largest first.
    pub eigenvalues: Vec<f64>,
}

impl StillRule {
    fn validate(&self) -> Result<(), DynamicsError> {
        for (name, value) in [("speed", self.speed), ("escape", self.escape)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(DynamicsError::domain(name, "a positive number", value));
            }
        }
        if self.max_steps == 0 { Err(DynamicsError::domain("max_steps", "a positive number", 0)) } else { Ok(()) }
    }
}

/// Follows the exact flow of the covariance until it is still: DOP853 in logarithmic time at relative tolerance `rtol`,
/// the moment located on the dense output.
///
/// # Errors
/// [`DynamicsError::Domain`] for a rule without meaning; those of [`super::evolve_covariance`].
pub fn exact_until_still(
    flow: &GaussianFlow,
    start: &Gaussian,
    rule: &StillRule,
    rtol: f64,
) -> Result<Stopped, DynamicsError> {
    rule.validate()?;
    let state = flow.state(start)?;
    let clock = LogTime(OwnTime::new(flow, &state));
    let unit = clock.0.unit();
    let atol = 1e-3 * rtol * start.trace().sqrt().max(f64::MIN_POSITIVE);
    let options = SolverOptions { max_steps: rule.max_steps, ..SolverOptions::adaptive(Method::Dop853, rtol, atol) };
    let mut locator = EventLocator::new(state.len());
    let mut stepper = Stepper::new(&clock, &Euclidean, options, 0.0, state)?;
    // A state that has no speed is not still.
    let excess = |state: &[f64]| speed_at(flow, state).map_or(f64::INFINITY, |speed| speed - rule.speed);
    let stopped = |end, u: f64, state: &[f64], steps| {
        let eigenvalues = flow.gaussian(state)?.spectrum()?;
        Ok(Stopped { end, time: unit * u.exp_m1(), steps, eigenvalues })
    };
    if excess(stepper.values()) <= 0.0 {
        return stopped(StillEnd::Still, 0.0, stepper.values(), 0);
    }
    let mut at = vec![0.0; stepper.values().len()];
    loop {
        let found = match stepper.advance(f64::INFINITY) {
            Advance::Step(step) => {
                let crossings = locator.crossings(&step, &mut |_, state| excess(state));
                let first = crossings.iter().find(|crossing| crossing.direction == Direction::Falling);
                first.map(|crossing| {
                    step.evaluate(crossing.time, &mut at);
                    crossing.time
                })
            }
            Advance::Stopped(_) => {
                let end = if stepper.stats().steps < rule.max_steps { StillEnd::Escaped } else { StillEnd::Exhausted };
                return stopped(end, stepper.time(), stepper.values(), stepper.stats().steps);
            }
        };
        if let Some(u) = found {
            return stopped(StillEnd::Still, u, &at, stepper.stats().steps);
        }
        if flow.gaussian(stepper.values())?.trace() > rule.escape {
            return stopped(StillEnd::Escaped, stepper.time(), stepper.values(), stepper.stats().steps);
        }
    }
}

/// Explicit Euler on the covariance with step `dt`; after every step negative eigenvalues are set to 1e-14. What the
/// authors' scripts do \[code\], **not** the flow: where dt λ_max(Σ^{1/2} sym(-A) Σ^{1/2}) > 1 a step leaves the cone of
/// covariances, and clipping then destroys a direction for good, so that limiting ranks come out smaller
/// \[checked\].
///
/// Eigenvalues are those before the last step, as the scripts count them. O(d³) a step.
///
/// # Errors
/// [`DynamicsError::Domain`] for a rule or step without meaning; those of [`GaussianFlow::moment_velocity`].
///
/// # References
/// Castin, Ablin, Carrillo, Peyré, arXiv 2501.18322, their `evolution` and `psd_projection` \[code\].
pub fn clipped_euler_until_still(
    flow: &GaussianFlow,
    start: &Gaussian,
    rule: &StillRule,
    dt: f64,
) -> Result<Stopped, DynamicsError> {
    rule.validate()?;
    if !(dt > 0.0 && dt.is_finite()) {
        return Err(DynamicsError::domain("dt", "a positive number", dt));
    }
    let mean = start.mean().to_vec();
    let mut covariance = start.covariance().clone();
    let mut steps = 0;
    loop {
        let (_, velocity) = flow.moment_velocity(&Gaussian::new(mean.clone(), covariance.clone())?)?;
        let next = clipped(&covariance.add_scaled(dt, &velocity))?;
        steps += 1;
        let trace: f64 = (0..next.rows()).map(|i| next.at(i, i)).sum();
        let end = if velocity.frobenius_norm() < rule.speed {
            StillEnd::Still
        } else if trace > rule.escape {
            StillEnd::Escaped
        } else if steps == rule.max_steps {
            StillEnd::Exhausted
        } else {
            covariance = next;
            continue;
        };
        let mut eigenvalues = covariance.symmetric_eigen()?.0;
        eigenvalues.reverse();
        return Ok(Stopped { end, time: (steps - 1) as f64 * dt, steps, eigenvalues });
    }
}

/// What negative eigenvalues become.
const CLIPPED: f64 = 1e-14;

/// The symmetric matrix with its negative eigenvalues replaced.
fn clipped(matrix: &Matrix) -> Result<Matrix, DynamicsError> {
    let (values, vectors) = matrix.symmetric_eigen()?;
    let d = values.len();
    let kept: Vec<f64> = values.iter().map(|value| if *value < 0.0 { CLIPPED } else { *value }).collect();
    let entry = |i: usize, j: usize| (0..d).map(|k| vectors.at(i, k) * kept[k] * vectors.at(j, k)).sum();
    // Rounding must not make it asymmetric.
    Ok(Matrix::from_fn(d, d, |i, j| entry(i.min(j), i.max(j))))
}

/// |Σ'| in the Frobenius norm.
fn speed_at(flow: &GaussianFlow, state: &[f64]) -> Result<f64, DynamicsError> {
    Ok(flow.moment_velocity(&flow.gaussian(state)?)?.1.frobenius_norm())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::GaussianKernel;
    use crate::head::Head;
    use crate::random::numpy::RandomState;

    /// The published draws: Q ~ N(0, 1)^{k x d} with k = ⌊d/2⌋ after `before` numbers of seed 40, K = -Q, V = I, scores
    /// over √d; Σ_0 = G Gᵀ with G the draw `index` of seed 41.
    fn draw(d: usize, before: usize, q: usize, g: usize) -> (GaussianFlow, Gaussian) {
        let normals = |seed: u32, skip: usize, rows: usize| {
            let mut stream = RandomState::new(seed);
            let values: Vec<f64> = (0..skip + rows * d).map(|_| stream.standard_normal()).collect();
            Matrix::new("draw", rows, d, values[skip..].to_vec()).unwrap()
        };
        let query = normals(40, before + q * (d / 2) * d, d / 2);
        let factor = normals(41, g * d * d, d);
        let start = Gaussian::centred(factor.multiply(&factor.transpose())).unwrap();
        let head = Head::new(query.clone(), query.scaled(-1.0), Matrix::scaled_identity(d, 1.0), None).unwrap();
        let kernel = GaussianKernel::Softmax { beta: 1.0 / (d as f64).sqrt() };
        (GaussianFlow::new(vec![head], kernel, &start).unwrap(), start)
    }

    const RULE: StillRule = StillRule { speed: 1e-4, escape: 1e3, max_steps: 60_000 };

    /// d = 3, the third draw (theory section 4): Euler with clipping ends at eigenvalues (1e-14, .0364, 5.17), the exact
    /// limit is (0, 3.0963, 6.0884) \[checked\].
    #[test]
    fn clipping_destroys_a_direction_that_the_exact_flow_keeps() {
        let (flow, start) = draw(3, 0, 2, 2);
        let euler = clipped_euler_until_still(&flow, &start, &RULE, 0.09).unwrap();
        assert_eq!(euler.end, StillEnd::Still);
        // Digits given by the theory.
        assert!(
            (euler.eigenvalues[0] - 5.17).abs() < 5e-3 && (euler.eigenvalues[1] - 0.0364).abs() < 5e-5,
            "{euler:?}"
        );
        let exact = exact_until_still(&flow, &start, &RULE, 1e-11).unwrap();
        assert_eq!(exact.end, StillEnd::Still);
        for (found, limit) in exact.eigenvalues.iter().zip([6.0884, 3.0963, 0.0]) {
            // The collapsing eigenvalue s has s' = -c s², so that speed 1e-4 leaves s = √(1e-4/c): up to 1e-2 here.
            assert!((found - limit).abs() < 1e-2, "{exact:?}");
        }
    }

    /// For V = I the flow is known: Σ(t) = (Σ_0⁻¹ - t sym(A))⁻¹.
    #[test]
    fn the_exact_flow_stops_where_the_closed_form_has_the_speed() {
        let (flow, start) = draw(3, 0, 5, 5);
        let found = exact_until_still(&flow, &start, &RULE, 1e-12).unwrap();
        let logits = flow.logits(0);
        let symmetric = logits.add_scaled(1.0, &logits.transpose());
        let at = start.covariance().inverse().unwrap().add_scaled(-found.time, &symmetric).inverse().unwrap();
        let at = at.scaled(0.5).add_scaled(0.5, &at.transpose());
        let speed = flow.moment_velocity(&Gaussian::centred(at.clone()).unwrap()).unwrap().1.frobenius_norm();
        // The inverse of Σ_0, of condition 1e3 or so, loses three of sixteen digits; the solver keeps eleven.
        assert!((speed / 1e-4 - 1.0).abs() < 1e-8, "{speed}");
        let mut eigenvalues = at.symmetric_eigen().unwrap().0;
        eigenvalues.reverse();
        for (a, b) in found.eigenvalues.iter().zip(&eigenvalues) {
            assert!((a - b).abs() < 1e-9 * eigenvalues[0], "{found:?} {eigenvalues:?}");
        }
    }

    #[test]
    fn what_grows_escapes_and_what_is_slow_uses_its_steps_up() {
        let start = Gaussian::centred(Matrix::scaled_identity(2, 0.5)).unwrap();
        let flow = GaussianFlow::new(vec![Head::identity(2)], GaussianKernel::SOFTMAX, &start).unwrap();
        // Σ = I/(2 - 2t): a pole at t = 1.
        let exact = exact_until_still(&flow, &start, &RULE, 1e-10).unwrap();
        assert!(exact.end == StillEnd::Escaped && exact.time < 1.0 && exact.time > 0.99, "{exact:?}");
        assert_eq!(clipped_euler_until_still(&flow, &start, &RULE, 0.01).unwrap().end, StillEnd::Escaped);
        let short = StillRule { max_steps: 3, ..RULE };
        let euler = clipped_euler_until_still(&flow, &start, &short, 1e-6).unwrap();
        assert_eq!((euler.end, euler.steps), (StillEnd::Exhausted, 3));
        assert_eq!(exact_until_still(&flow, &start, &short, 1e-12).unwrap().end, StillEnd::Exhausted);
        let still = StillRule { speed: 10.0, ..RULE };
        assert_eq!(exact_until_still(&flow, &start, &still, 1e-10).unwrap().time, 0.0);
    }

    #[test]
    fn rules_without_meaning_are_refused() {
        let (flow, start) = draw(3, 0, 0, 0);
        for rule in [
            StillRule { speed: 0.0, ..RULE },
            StillRule { escape: f64::NAN, ..RULE },
            StillRule { max_steps: 0, ..RULE },
        ] {
            assert!(exact_until_still(&flow, &start, &rule, 1e-10).is_err(), "{rule:?}");
            assert!(clipped_euler_until_still(&flow, &start, &rule, 0.1).is_err(), "{rule:?}");
        }
        assert!(clipped_euler_until_still(&flow, &start, &RULE, 0.0).is_err());
    }
}
