//! What a solve is asked for: method, step size, limits; checked once.

use serde::{Deserialize, Serialize};

use super::method::Method;
use crate::error::DynamicsError;

/// How long a step is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepSize {
    /// Steps of this length on the grid t_k = t0 + k dt; only a step that would pass the end is shorter.
    Fixed(f64),
    /// The estimated error of a step stays below atol + rtol |block| in each block of the state.
    Adaptive {
        /// Relative tolerance.
        rtol: f64,
        /// Absolute tolerance.
        atol: f64,
    },
}

/// Method, step size and limits of a solve.
///
/// # Example
/// ```
/// use metastable_dynamics::solver::{Method, SolverOptions};
/// assert!(SolverOptions::adaptive(Method::Tsit5, 1e-8, 1e-10).validate().is_ok());
/// let error = SolverOptions::adaptive(Method::Rk4, 1e-8, 1e-10).validate().unwrap_err();
/// assert!(error.to_string().contains("rk4"));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SolverOptions {
    /// The Runge-Kutta method.
    pub method: Method,
    /// Fixed or adaptive steps.
    pub step: StepSize,
    /// Stop after so many accepted steps.
    pub max_steps: u64,
    /// Give a step up after so many rejections in a row (adaptive steps only).
    pub max_rejections: u32,
    /// The first step to try (adaptive steps only); Hairer's choice if absent.
    pub initial_step: Option<f64>,
    /// A state with an entry beyond this in absolute value has blown up.
    pub escape_norm: f64,
    /// Stop where max_b |f_b|_2 * max(1, t - t0) <= stationary * max_b |y_b|_2, b over the blocks of the state: going
    /// on at this velocity for as long again as the solve has lasted would move no block by more than this fraction
    /// of the largest one. Time enters because some attention flows collapse like 1/t, for which a bound on the
    /// velocity alone stops too early. It is a criterion for autonomous fields, and it also stops near an *unstable*
    /// equilibrium: leave it out where metastable states are what is being looked for.
    pub stationary: Option<f64>,
}

impl SolverOptions {
    /// The default of `max_steps`.
    pub const MAX_STEPS: u64 = 10_000_000;
    /// The default of `max_rejections`: each shrinks the step, mostly fivefold, and 5^-50 is beyond any rounding.
    pub const MAX_REJECTIONS: u32 = 50;
    /// The default of `escape_norm`: squares of such entries still are finite.
    pub const ESCAPE_NORM: f64 = 1e150;

    /// Fixed steps of length `dt`, other options at their defaults.
    pub fn fixed(method: Method, dt: f64) -> Self {
        Self::with_step(method, StepSize::Fixed(dt))
    }

    /// Adaptive steps, other options at their defaults.
    pub fn adaptive(method: Method, rtol: f64, atol: f64) -> Self {
        Self::with_step(method, StepSize::Adaptive { rtol, atol })
    }

    /// Any step size, other options at their defaults.
    pub fn with_step(method: Method, step: StepSize) -> Self {
        Self {
            method,
            step,
            max_steps: Self::MAX_STEPS,
            max_rejections: Self::MAX_REJECTIONS,
            initial_step: None,
            escape_norm: Self::ESCAPE_NORM,
            stationary: None,
        }
    }

    /// Checks every option.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] naming the option: steps and limits must be positive, tolerances non-negative and
    /// not both zero, and adaptive steps need a method that estimates its error.
    pub fn validate(&self) -> Result<(), DynamicsError> {
        match self.step {
            StepSize::Fixed(dt) => require_positive("dt", dt)?,
            StepSize::Adaptive { rtol, atol } => self.validate_tolerances(rtol, atol)?,
        }
        if let Some(step) = self.initial_step {
            require_positive("initial_step", step)?;
        }
        if let Some(bound) = self.stationary {
            require_positive("stationary", bound)?;
        }
        // Infinity is a fair choice here: then only states that are not finite count as blown up.
        if self.escape_norm.is_nan() || self.escape_norm <= 0.0 {
            return Err(DynamicsError::domain("escape_norm", "a positive number", self.escape_norm));
        }
        if self.max_steps == 0 {
            return Err(DynamicsError::domain("max_steps", "at least 1", 0));
        }
        Ok(())
    }

    fn validate_tolerances(&self, rtol: f64, atol: f64) -> Result<(), DynamicsError> {
        if !self.method.is_adaptive() {
            let expected = "tsit5, dopri5 or dop853 for adaptive steps";
            return Err(DynamicsError::domain("method", expected, self.method.name()));
        }
        for (name, value) in [("rtol", rtol), ("atol", atol)] {
            if !value.is_finite() || value < 0.0 {
                return Err(DynamicsError::domain(name, "a finite number >= 0", value));
            }
        }
        if rtol == 0.0 && atol == 0.0 {
            return Err(DynamicsError::domain("rtol and atol", "at least one above 0", "both 0"));
        }
        Ok(())
    }
}

fn require_positive(name: &str, value: f64) -> Result<(), DynamicsError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(DynamicsError::domain(name, "a finite number > 0", value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_option_is_named() {
        let good = || SolverOptions::adaptive(Method::Dopri5, 1e-6, 1e-9);
        let bad = [
            ("dt", SolverOptions::fixed(Method::Euler, 0.0)),
            ("dt", SolverOptions::fixed(Method::Euler, f64::NAN)),
            ("rtol", SolverOptions::adaptive(Method::Tsit5, -1.0, 1e-9)),
            ("atol", SolverOptions::adaptive(Method::Tsit5, 1e-6, f64::INFINITY)),
            ("rtol and atol", SolverOptions::adaptive(Method::Tsit5, 0.0, 0.0)),
            ("method", SolverOptions::adaptive(Method::Heun, 1e-6, 1e-9)),
            ("initial_step", SolverOptions { initial_step: Some(-0.1), ..good() }),
            ("stationary", SolverOptions { stationary: Some(0.0), ..good() }),
            ("escape_norm", SolverOptions { escape_norm: f64::NAN, ..good() }),
            ("max_steps", SolverOptions { max_steps: 0, ..good() }),
        ];
        for (name, options) in bad {
            let message = options.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}:")), "{message}");
        }
        assert!(good().validate().is_ok());
    }
}
