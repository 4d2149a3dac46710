//! States at chosen times, read off the steps as they pass.

use serde::{Deserialize, Serialize};

use super::dense::DenseStep;
use crate::error::{DynamicsError, require_finite};

/// Collects the states at increasing times; the first one is the initial state. Stores no steps.
///
/// Serialise it beside the [`SolverState`](super::SolverState) to resume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    times: Vec<f64>,
    len: usize,
    /// [filled, len], sample after sample.
    values: Vec<f64>,
}

impl Sampler {
    /// Samples at `times`, of which the first is t0 and `initial` the state there.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] if there are no times, they do not increase strictly, or the state is empty;
    /// [`DynamicsError::NotFinite`].
    pub fn new(times: Vec<f64>, initial: &[f64]) -> Result<Self, DynamicsError> {
        require_finite("sample times", &times)?;
        if times.is_empty() || initial.is_empty() {
            return Err(DynamicsError::domain("sample times", "at least one, of a state with entries", "none"));
        }
        if let Some(i) = times.windows(2).position(|pair| pair[0] >= pair[1]) {
            let found = format!("{} after {} at position {}", times[i + 1], times[i], i + 1);
            return Err(DynamicsError::domain("sample times", "strictly increasing times", found));
        }
        let mut values = Vec::with_capacity(times.len() * initial.len());
        values.extend_from_slice(initial);
        Ok(Self { times, len: initial.len(), values })
    }

    /// Takes the samples that lie in this step.
    ///
    /// # Panics
    /// If steps were left out: the next time must not lie before the step.
    pub fn observe(&mut self, step: &DenseStep<'_>) {
        while let Some(&time) = self.times.get(self.filled()).filter(|&&time| time <= step.end()) {
            let start = self.values.len();
            self.values.resize(start + self.len, 0.0);
            step.evaluate(time, &mut self.values[start..]);
        }
    }

    /// The number of samples taken.
    pub fn filled(&self) -> usize {
        self.values.len() / self.len
    }

    /// Whether all were taken.
    pub fn is_complete(&self) -> bool {
        self.filled() == self.times.len()
    }

    /// All times, taken or not.
    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// The samples taken, [filled, len].
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Sample i.
    ///
    /// # Panics
    /// If it was not taken.
    pub fn sample(&self, i: usize) -> &[f64] {
        &self.values[i * self.len..(i + 1) * self.len]
    }
}
