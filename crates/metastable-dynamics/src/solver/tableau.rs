//! The form of a Runge-Kutta method as data: coefficients, error estimate and dense output.
//!
//! A step of size h from (t, y) takes slopes k_i = f(t + c_i h, y + h sum_{j<i} a_ij k_j), i = 0, ..., s-1, and gives
//! y_new = y + h sum_i b_i k_i. Index s is always the *end slope* f(t + h, y_new), which is the next step's k_0.

/// The coefficients of one method with s stages.
#[derive(Debug)]
pub(super) struct Tableau {
    /// c_i, s numbers.
    pub(super) nodes: &'static [f64],
    /// a_ij; row i has i entries.
    pub(super) stages: &'static [&'static [f64]],
    /// b_i, s numbers.
    pub(super) weights: &'static [f64],
    /// How the local error is estimated, if at all.
    pub(super) error: Option<ErrorEstimate>,
    /// How states inside the step are found.
    pub(super) interpolant: Interpolant,
}

/// Weights e_i over the slopes 0..=s (the last one is the end slope): err = h sum_i e_i k_i.
#[derive(Debug)]
pub(super) struct ErrorEstimate {
    /// The estimate of a pair, or the fifth-order one of DOP853.
    pub(super) fifth: &'static [f64],
    /// DOP853's second estimate, which guards against the first one being small by accident.
    pub(super) third: Option<&'static [f64]>,
}

impl ErrorEstimate {
    /// Whether the estimate needs the end slope before the step is accepted.
    pub(super) fn uses_end_slope(&self) -> bool {
        let nonzero = |weights: &[f64]| weights.last().is_some_and(|&weight| weight != 0.0);
        nonzero(self.fifth) || self.third.is_some_and(nonzero)
    }
}

/// A slope that only dense output needs: k = f(t + node h, y + h sum_j row_j k_j), j over all slopes before it.
#[derive(Debug)]
pub(super) struct ExtraStage {
    pub(super) node: f64,
    pub(super) row: &'static [f64],
}

/// Dense output y(t + x h) = y + h sum_i w_i(x) k_i, 0 <= x <= 1, over all slopes (end slope and extra ones included).
#[derive(Debug)]
pub(super) enum Interpolant {
    /// w_i = x b_i.
    Linear,
    /// w_i = x (b_i + (1-x) (F1_i + x (F2_i + (1-x) (row0_i + x (row1_i + ...))))), Hairer's nested form, with
    /// F1 = [i=0] - b_i and F2 = 2 b_i - [i=0] - [i=s]: the first three levels alone are the cubic Hermite polynomial.
    Nested { rows: &'static [&'static [f64]], extra: &'static [ExtraStage] },
}

impl Tableau {
    /// The number s of stages.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The stages that only dense output needs.
    pub(super) fn extra(&self) -> &'static [ExtraStage] {
        match &self.interpolant {
            Interpolant::Linear => &[],
            Interpolant::Nested { extra, .. } => extra,
        }
    }

    /// The number of slopes the dense output combines.
    pub(super) fn dense_slopes(&self) -> usize {
        match self.interpolant {
            Interpolant::Linear => self.len(),
            Interpolant::Nested { extra, .. } => self.len() + 1 + extra.len(),
        }
    }

    /// Writes the weights w_i(x) of the dense output; `out` has [`Tableau::dense_slopes`] entries.
    pub(super) fn dense_weights(&self, x: f64, out: &mut [f64]) {
        let end = self.len();
        for (i, w) in out.iter_mut().enumerate() {
            let b = self.weights.get(i).copied().unwrap_or(0.0);
            *w = match self.interpolant {
                Interpolant::Linear => x * b,
                Interpolant::Nested { rows, .. } => {
                    let first = f64::from(u8::from(i == 0));
                    let last = f64::from(u8::from(i == end));
                    // Levels 3, 4, ... multiply what stands inside them by 1-x, x, 1-x, ... in turn.
                    let inner =
                        rows.iter().enumerate().rev().fold(0.0, |inner, (level, row)| {
                            (row[i] + inner) * if level % 2 == 0 { 1.0 - x } else { x }
                        });
                    x * (b + (1.0 - x) * (first - b + x * (2.0 * b - first - last + inner)))
                }
            };
        }
    }
}
