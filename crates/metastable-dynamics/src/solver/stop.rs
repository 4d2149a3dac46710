//! Why a solve ends.

use serde::{Deserialize, Serialize};

/// Why a solve ended. None of these is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The end time was reached.
    EndTime,
    /// The velocity fell below [`SolverOptions::stationary`](super::SolverOptions::stationary).
    Stationary,
    /// The state left [`SolverOptions::escape_norm`](super::SolverOptions::escape_norm), stopped being finite, or
    /// runs into a pole at the time reached.
    BlowUp,
    /// No step is short enough for the tolerance, and the state is not escaping: the field is singular here, or the
    /// tolerance is beyond rounding.
    StepUnderflow,
    /// The observer asked to stop.
    Observer,
    /// [`SolverOptions::max_steps`](super::SolverOptions::max_steps) were taken.
    MaxSteps,
}
