//! The stepper: one accepted step at a time, resumable to the bit.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use super::control::{self, Control, Tolerance};
use super::dense::DenseStep;
use super::options::{SolverOptions, StepSize};
use super::slopes::{Slopes, System, Trial, is_finite};
use super::stop::StopReason;
use super::tableau::Tableau;
use crate::error::{DynamicsError, require_finite};
use crate::field::VectorField;
use crate::geometry::Geometry;

/// What a solve has cost. Resumed solves count as if they had never stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Accepted steps.
    pub steps: u64,
    /// Rejected tries.
    pub rejected: u64,
    /// Evaluations of the field, those for dense output and for the first step size included.
    pub evaluations: u64,
}

/// Everything a solve needs to go on bit-identically: save it between two steps, give it to [`Stepper::resume`].
///
/// Its numbers are finite, so any format that keeps every bit of an f64 will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SolverState {
    /// Where the solve began.
    pub t0: f64,
    /// Where it is.
    pub t: f64,
    /// The state there, n·d values for clouds.
    pub y: Vec<f64>,
    /// The next adaptive step to try; none before the first step.
    pub step: Option<f64>,
    /// The last accepted error in units of the tolerance, floored.
    pub previous_error: f64,
    /// Fixed steps: the last grid point t0 + k dt that was reached is the one of this k.
    pub grid_index: u64,
    /// Whether f(t, y) is already among the counted evaluations.
    pub slope_counted: bool,
    /// What the field's inner iterations start from (see [`VectorField::evaluate_from`]); mostly empty.
    #[serde(default)]
    pub memory: Vec<f64>,
    /// The cost so far.
    pub stats: Stats,
}

/// What [`Stepper::advance`] did.
pub enum Advance<'s> {
    /// One accepted step, with its dense output.
    Step(DenseStep<'s>),
    /// No step: the solve is over, and stays so for this end time.
    Stopped(StopReason),
}

/// Follows y' = f(t, y) forward in time by explicit Runge-Kutta steps.
///
/// Memory: s + 8 states for a method with s stages (at most 12 + 12). A step allocates nothing.
///
/// # Example
/// ```
/// use metastable_dynamics::field::VectorField;
/// use metastable_dynamics::geometry::Euclidean;
/// use metastable_dynamics::solver::{Advance, Method, SolverOptions, Stepper};
///
/// struct Decay;
/// impl VectorField for Decay {
///     fn len(&self) -> usize { 1 }
///     fn block_len(&self) -> usize { 1 }
///     fn evaluate(&self, _t: f64, y: &[f64], velocity: &mut [f64]) { velocity[0] = -y[0]; }
/// }
///
/// let options = SolverOptions::adaptive(Method::Dopri5, 1e-10, 1e-10);
/// let mut stepper = Stepper::new(&Decay, &Euclidean, options, 0.0, vec![1.0]).unwrap();
/// while let Advance::Step(_) = stepper.advance(2.0) {}
/// assert_eq!(stepper.time(), 2.0);
/// assert!((stepper.values()[0] - (-2.0_f64).exp()).abs() < 1e-10);
/// ```
pub struct Stepper<'f> {
    system: System<'f>,
    options: SolverOptions,
    tableau: &'static Tableau,
    /// Behind a cell because dense output, which only reads, takes (and counts) missing slopes when it is asked for.
    slopes: RefCell<Slopes>,
    t0: f64,
    t: f64,
    y: Vec<f64>,
    t_previous: f64,
    y_previous: Vec<f64>,
    candidate: Vec<f64>,
    /// The length of the last step; t - t_previous up to rounding.
    h: f64,
    step: Option<f64>,
    previous_error: f64,
    grid_index: u64,
    steps: u64,
    rejected: u64,
}

impl<'f> Stepper<'f> {
    /// Begins at y(t0) = y0, retracted to the space. The field must be tangent to the space.
    ///
    /// # Errors
    /// Those of [`SolverOptions::validate`]; [`DynamicsError::Shape`] if `y0` does not fit the field or its blocks;
    /// [`DynamicsError::NotFinite`]; [`DynamicsError::Domain`] for a `t0` that is not finite.
    pub fn new(
        field: &'f dyn VectorField,
        geometry: &'f dyn Geometry,
        options: SolverOptions,
        t0: f64,
        mut y0: Vec<f64>,
    ) -> Result<Self, DynamicsError> {
        require_finite("initial state", &y0)?;
        System { field, geometry }.retract(&mut y0);
        let state = SolverState {
            t0,
            t: t0,
            y: y0,
            step: options.initial_step,
            previous_error: Control::MIN_ERROR,
            grid_index: 0,
            slope_counted: false,
            memory: Vec::new(),
            stats: Stats::default(),
        };
        Self::resume(field, geometry, options, state)
    }

    /// Goes on from a saved state, bit-identically if field, geometry, options and later end times are the same.
    ///
    /// # Errors
    /// As [`Stepper::new`], also for a saved step that is not positive.
    pub fn resume(
        field: &'f dyn VectorField,
        geometry: &'f dyn Geometry,
        options: SolverOptions,
        state: SolverState,
    ) -> Result<Self, DynamicsError> {
        options.validate()?;
        validate_state(field, &state)?;
        let (len, tableau) = (field.len(), options.method.tableau());
        Ok(Self {
            system: System { field, geometry },
            tableau,
            slopes: RefCell::new(Slopes::new(
                tableau,
                len,
                (state.stats.evaluations, state.slope_counted),
                state.memory,
            )),
            t0: state.t0,
            t: state.t,
            t_previous: state.t,
            y_previous: state.y.clone(),
            candidate: vec![0.0; len],
            y: state.y,
            h: 0.0,
            step: state.step,
            previous_error: state.previous_error,
            grid_index: state.grid_index,
            steps: state.stats.steps,
            rejected: state.stats.rejected,
            options,
        })
    }

    /// All that is needed to go on later.
    pub fn state(&self) -> SolverState {
        SolverState {
            t0: self.t0,
            t: self.t,
            y: self.y.clone(),
            step: self.step,
            previous_error: self.previous_error,
            grid_index: self.grid_index,
            slope_counted: self.slopes.borrow().is_current_counted(),
            memory: self.slopes.borrow().memory().to_vec(),
            stats: self.stats(),
        }
    }

    /// The time reached.
    pub fn time(&self) -> f64 {
        self.t
    }

    /// The state there.
    pub fn values(&self) -> &[f64] {
        &self.y
    }

    /// The cost so far.
    pub fn stats(&self) -> Stats {
        Stats { steps: self.steps, rejected: self.rejected, evaluations: self.slopes.borrow().evaluations }
    }

    /// The options in force.
    pub fn options(&self) -> &SolverOptions {
        &self.options
    }

    /// Takes one accepted step towards `t_end`, or says why there is none. The step that reaches `t_end` lands on it
    /// exactly.
    ///
    /// Reasons, in this order: the state has escaped ([`StopReason::BlowUp`]); t >= t_end ([`StopReason::EndTime`]);
    /// [`StopReason::MaxSteps`]; the velocity is not finite (blow-up again); [`StopReason::Stationary`]; and from
    /// the try itself blow-up or [`StopReason::StepUnderflow`].
    pub fn advance(&mut self, t_end: f64) -> Advance<'_> {
        match self.try_advance(t_end) {
            Err(stop) => Advance::Stopped(stop),
            Ok(()) => Advance::Step(DenseStep {
                system: self.system,
                tableau: self.tableau,
                slopes: &self.slopes,
                trial: Trial { t: self.t_previous, t_new: self.t, h: self.h },
                y_previous: &self.y_previous,
                y: &self.y,
            }),
        }
    }

    fn try_advance(&mut self, t_end: f64) -> Result<(), StopReason> {
        if self.y.iter().any(|entry| entry.abs() > self.options.escape_norm) {
            return Err(StopReason::BlowUp);
        }
        if t_end.is_nan() || self.t >= t_end {
            return Err(StopReason::EndTime);
        }
        if self.steps >= self.options.max_steps {
            return Err(StopReason::MaxSteps);
        }
        let slopes = self.slopes.get_mut();
        slopes.begin(&self.system, self.tableau.len(), self.t, &self.y);
        if !is_finite(slopes.first()) {
            return Err(StopReason::BlowUp);
        }
        if self.is_stationary() {
            return Err(StopReason::Stationary);
        }
        match self.options.step {
            StepSize::Fixed(dt) => self.fixed_step(dt, t_end),
            StepSize::Adaptive { rtol, atol } => {
                let tolerance = Tolerance { rtol, atol, blocks: self.system.field.blocks() };
                self.adaptive_step(tolerance, t_end)
            }
        }
    }

    /// The criterion of [`SolverOptions::stationary`].
    fn is_stationary(&mut self) -> bool {
        let Some(bound) = self.options.stationary else { return false };
        let blocks = self.system.field.blocks();
        let largest = |v: &[f64]| blocks.ranges(v.len()).map(|range| control::norm(&v[range])).fold(0.0, f64::max);
        let velocity = largest(self.slopes.get_mut().first());
        velocity * (self.t - self.t0).max(1.0) <= bound * largest(&self.y)
    }

    /// One step of the grid t0 + k dt, or the shorter one that ends at `t_end`.
    fn fixed_step(&mut self, dt: f64, t_end: f64) -> Result<(), StopReason> {
        // Grid times are products, not sums, so rounding does not pile up. Times closer than this are the same.
        let slack = 1e-9 * dt + 4.0 * f64::EPSILON * self.t.abs();
        let (here, next) = (self.grid_time(dt, self.grid_index), self.grid_time(dt, self.grid_index + 1));
        let reaches_grid = next <= t_end + slack;
        let t_new = if next >= t_end - slack { t_end } else { next };
        if t_new <= self.t {
            return Err(StopReason::StepUnderflow);
        }
        // From grid point to grid point the step is dt to the bit, whatever the rounding of the times.
        let is_whole = reaches_grid && (self.t - here).abs() <= slack;
        let h = if is_whole { dt } else { t_new - self.t };
        let trial = Trial { t: self.t, t_new, h };
        if !self.slopes.get_mut().take(&self.system, self.tableau, trial, &self.y, &mut self.candidate) {
            return Err(StopReason::BlowUp);
        }
        self.grid_index += u64::from(reaches_grid);
        self.accept(trial, false);
        Ok(())
    }

    fn grid_time(&self, dt: f64, index: u64) -> f64 {
        self.t0 + index as f64 * dt
    }

    /// Tries steps until one has an error within the tolerance.
    fn adaptive_step(&mut self, tolerance: Tolerance, t_end: f64) -> Result<(), StopReason> {
        let control = Control::new(self.options.method);
        let mut proposal = match self.step {
            Some(step) => step,
            None => self.first_step(&tolerance, t_end),
        };
        let mut rejections = 0;
        loop {
            if proposal < control::shortest_step(self.t) || rejections > self.options.max_rejections {
                return Err(self.underflow(proposal));
            }
            let remaining = t_end - self.t;
            // A hundredth is stretched over rather than left for a step of its own, as in `dopri5.f`.
            let is_last = 1.01 * proposal >= remaining;
            let h = if is_last { remaining } else { proposal };
            let trial = Trial { t: self.t, t_new: if is_last { t_end } else { self.t + h }, h };
            match self.try_step(&tolerance, trial) {
                Some(error) if error <= 1.0 => {
                    let next = h * control.accepted(error, self.previous_error, rejections);
                    // A step cut short by the end says nothing against the longer one that was proposed.
                    self.step = Some(if is_last { next.max(proposal) } else { next });
                    self.previous_error = error.max(Control::MIN_ERROR);
                    let has_end = self.tableau.error.as_ref().is_some_and(|error| error.uses_end_slope());
                    self.accept(trial, has_end);
                    return Ok(());
                }
                Some(error) if !error.is_nan() => proposal = h * control.rejected(error),
                _ => proposal = h * Control::NOT_FINITE_FACTOR,
            }
            rejections += 1;
            self.rejected += 1;
        }
    }

    /// The candidate at the end of the trial and its error in units of the tolerance; `None` if the field or the
    /// candidate is not finite on the way.
    fn try_step(&mut self, tolerance: &Tolerance, trial: Trial) -> Option<f64> {
        let estimate = self.tableau.error.as_ref()?;
        let slopes = self.slopes.get_mut();
        if !slopes.take(&self.system, self.tableau, trial, &self.y, &mut self.candidate) {
            return None;
        }
        let end = self.tableau.len();
        if estimate.uses_end_slope() && !slopes.take_end(&self.system, end, trial.t_new, &self.candidate) {
            return None;
        }
        let (fifth, third) = slopes.error_estimates(estimate.fifth, estimate.third);
        Some(tolerance.error(trial.h, &self.y, &self.candidate, fifth, third))
    }

    /// Hairer's first step; one more evaluation, at most `t_end` far.
    fn first_step(&mut self, tolerance: &Tolerance, t_end: f64) -> f64 {
        let slopes = self.slopes.get_mut();
        let slope_norm = tolerance.norm(slopes.first(), &self.y);
        let h = control::explicit_euler_step(tolerance.norm(&self.y, &self.y), slope_norm).min(t_end - self.t);
        let trial = Trial { t: self.t, t_new: self.t + h, h };
        let curvature_norm = tolerance.norm(slopes.probe(&self.system, trial, &self.y).0, &self.y);
        let step = control::initial_step(h, slope_norm, curvature_norm, self.options.method.order());
        // A probe that met infinities: begin below it, the first tries will tell.
        if step.is_finite() && step > 0.0 { step } else { h }
    }

    /// Why no step is short enough: a block that would still double within a millionth-inverse of such steps is
    /// escaping (y' = y^2 cannot come nearer to its pole than rounding of t allows, so its norm stays far below any
    /// bound); otherwise the field is at fault.
    fn underflow(&mut self, proposal: f64) -> StopReason {
        let h = proposal.max(control::shortest_step(self.t));
        let velocity = self.slopes.get_mut().first();
        let is_escaping = self.system.field.blocks().ranges(self.y.len()).any(|range| {
            let (y, f) = (&self.y[range.clone()], &velocity[range]);
            let radial: f64 = y.iter().zip(f).map(|(y, f)| y * f).sum();
            h * radial > ESCAPE_GROWTH * y.iter().map(|y| y * y).sum::<f64>()
        });
        if is_escaping { StopReason::BlowUp } else { StopReason::StepUnderflow }
    }

    /// Makes the candidate the state.
    fn accept(&mut self, trial: Trial, has_end: bool) {
        std::mem::swap(&mut self.y_previous, &mut self.y);
        std::mem::swap(&mut self.y, &mut self.candidate);
        self.t_previous = self.t;
        self.t = trial.t_new;
        self.h = trial.h;
        self.steps += 1;
        self.slopes.get_mut().accept(has_end);
    }
}

/// Relative growth in one shortest step that tells escape from a singular field. At underflow a pole (t* - t)^-p
/// grows by h p / (t* - t) ~ 1e-2 a step, even log(1/(t* - t)) by 1e-4; a square-root end (t* - t)^(1/2) moves 1e-8.
const ESCAPE_GROWTH: f64 = 1e-6;

fn validate_state(field: &dyn VectorField, state: &SolverState) -> Result<(), DynamicsError> {
    let (len, blocks) = (field.len(), field.blocks());
    if state.y.len() != len {
        return Err(DynamicsError::shape("state", len, state.y.len()));
    }
    if !blocks.fit(len) {
        return Err(DynamicsError::shape("state", format!("whole blocks, {blocks:?}"), len));
    }
    require_finite("state", &state.y)?;
    require_finite("time", &[state.t0, state.t])?;
    require_finite("memory", &state.memory)?;
    let step = state.step.unwrap_or(1.0);
    for (name, value) in [("step", step), ("previous_error", state.previous_error)] {
        if !value.is_finite() || value <= 0.0 {
            return Err(DynamicsError::domain(name, "a finite number > 0", value));
        }
    }
    Ok(())
}
