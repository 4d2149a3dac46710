//! Dense output: the state anywhere inside the last step.

use std::cell::RefCell;

use super::slopes::{Slopes, System, Trial};
use super::tableau::Tableau;

/// The last accepted step, and the polynomial through it.
///
/// Order of the polynomial: [`Method::dense_order`](super::Method::dense_order). It meets both ends exactly and, but
/// for Euler's, also their slopes. On the sphere its values are retracted.
pub struct DenseStep<'s> {
    pub(super) system: System<'s>,
    pub(super) tableau: &'static Tableau,
    pub(super) slopes: &'s RefCell<Slopes>,
    pub(super) trial: Trial,
    pub(super) y_previous: &'s [f64],
    pub(super) y: &'s [f64],
}

/// At least as many as any method's dense output combines.
const MAX_SLOPES: usize = 16;

impl DenseStep<'_> {
    /// Where the step began.
    pub fn start(&self) -> f64 {
        self.trial.t
    }

    /// Where it ended.
    pub fn end(&self) -> f64 {
        self.trial.t_new
    }

    /// The state at the start.
    pub fn start_state(&self) -> &[f64] {
        self.y_previous
    }

    /// The state at the end.
    pub fn end_state(&self) -> &[f64] {
        self.y
    }

    /// Writes the state at time `t`, start <= t <= end, into `out`. O(slopes · len).
    ///
    /// The first call in a step may evaluate the field: once for Heun, RK4, fixed-step Tsit5 and Dopri5 (the next
    /// step then need not), four times for Dop853. These evaluations are counted.
    ///
    /// # Panics
    /// If `t` is outside the step, or `out` has another length than the state.
    pub fn evaluate(&self, t: f64, out: &mut [f64]) {
        let Trial { t: start, t_new: end, h } = self.trial;
        assert!(start <= t && t <= end, "dense output at {t}, outside [{start}, {end}]");
        if t == start {
            return out.copy_from_slice(self.y_previous);
        }
        if t == end {
            return out.copy_from_slice(self.y);
        }
        let mut slopes = self.slopes.borrow_mut();
        slopes.complete(&self.system, self.tableau, self.trial, self.y_previous, self.y);
        let mut buffer = [0.0; MAX_SLOPES];
        let weights = &mut buffer[..self.tableau.dense_slopes()];
        self.tableau.dense_weights((t - start) / (end - start), weights);
        slopes.combine(out, self.y_previous, h, weights);
        self.system.retract(out);
    }
}
