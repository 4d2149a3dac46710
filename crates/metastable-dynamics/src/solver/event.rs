//! Events: where a scalar function of time and state changes sign inside a step.

use super::dense::DenseStep;

/// Which way the sign changes. Zero belongs to the negative side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From g > 0 to g <= 0.
    Falling,
    /// From g <= 0 to g > 0.
    Rising,
}

/// A sign change of g on the dense output.
///
/// The bracket encloses the sign change of g along the *computed* path; how far that is from the true path is the
/// solver's error, of which the bracket knows nothing.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Crossing {
    /// The middle of the bracket.
    pub time: f64,
    /// [lo, hi]: g is on one side at lo and on the other at hi; hi - lo is a few units in the last place.
    pub bracket: [f64; 2],
    /// Which way.
    pub direction: Direction,
}

/// Finds the sign changes of scalar functions g(t, y) in steps. Owns the room it needs.
///
/// It looks at g on a grid inside the step, so sign changes nearer to each other than a cell of the grid can hide
/// in pairs.
#[derive(Debug, Clone)]
pub struct EventLocator {
    interior: usize,
    state: Vec<f64>,
    found: Vec<Crossing>,
}

impl EventLocator {
    /// The default number of interior points.
    pub const INTERIOR_POINTS: usize = 8;

    /// For states of `len` entries.
    pub fn new(len: usize) -> Self {
        Self::with_interior_points(len, Self::INTERIOR_POINTS)
    }

    /// Looks at `interior` equally spaced points inside each step, beside its ends.
    pub fn with_interior_points(len: usize, interior: usize) -> Self {
        Self { interior, state: vec![0.0; len], found: Vec::new() }
    }

    /// All sign changes of `g` that the grid shows in `step`, in order of time: the first of them answers "when does
    /// it begin", the last one "since when". Cells with a NaN at an end are passed over.
    ///
    /// Cost: interior + 2 evaluations of g, and at most 54 or so for each crossing (a dozen if g is smooth).
    pub fn crossings(&mut self, step: &DenseStep<'_>, g: &mut dyn FnMut(f64, &[f64]) -> f64) -> &[Crossing] {
        self.found.clear();
        let (start, end) = (step.start(), step.end());
        let cells = self.interior + 1;
        let state = &mut self.state;
        let mut along = |t: f64| {
            step.evaluate(t, state);
            g(t, state)
        };
        let mut low = (start, along(start));
        for i in 1..=cells {
            let t = if i == cells { end } else { start + (end - start) * (i as f64 / cells as f64) };
            let high = (t, along(t));
            if !low.1.is_nan() && !high.1.is_nan() && (low.1 > 0.0) != (high.1 > 0.0) {
                self.found.push(locate(low, high, &mut along));
            }
            low = high;
        }
        &self.found
    }
}

/// Narrows a bracket of a sign change to a few units in the last place by interpolate-truncate-project, which needs
/// as few evaluations as the secant method on smooth functions and, on any function, one more than bisection.
///
/// # References
/// Oliveira, Takahashi (2020), "An enhancement of the bisection method average performance preserving minmax
/// optimality", ACM Trans. Math. Softw. 47(1), with k1 = 0.2 / (b - a), k2 = 2, n0 = 1 [2nd].
fn locate(mut low: (f64, f64), mut high: (f64, f64), g: &mut dyn FnMut(f64) -> f64) -> Crossing {
    let direction = if low.1 > 0.0 { Direction::Falling } else { Direction::Rising };
    let tolerance = 2.0 * f64::EPSILON * low.0.abs().max(high.0.abs()).max(f64::MIN_POSITIVE);
    let truncation = 0.2 / (high.0 - low.0);
    let halvings = ((high.0 - low.0) / (2.0 * tolerance)).log2().ceil().max(0.0);
    let mut radius = tolerance * (halvings + 1.0).exp2();
    while high.0 - low.0 > 2.0 * tolerance {
        let middle = low.0 + 0.5 * (high.0 - low.0);
        let slack = (radius - 0.5 * (high.0 - low.0)).max(0.0);
        let secant = low.0 + (high.0 - low.0) * (low.1 / (low.1 - high.1));
        let towards = (middle - secant).signum();
        let step = truncation * (high.0 - low.0).powi(2);
        let truncated = if step <= (middle - secant).abs() { secant + towards * step } else { middle };
        let projected = if (truncated - middle).abs() <= slack { truncated } else { middle - towards * slack };
        // Infinite values of g, or rounding at the last places, may put it outside.
        let t = if low.0 < projected && projected < high.0 { projected } else { middle };
        if t <= low.0 || t >= high.0 {
            break;
        }
        let value = g(t);
        if (value > 0.0) == (low.1 > 0.0) {
            low = (t, value);
        } else {
            high = (t, value);
        }
        radius *= 0.5;
    }
    Crossing { time: low.0 + 0.5 * (high.0 - low.0), bracket: [low.0, high.0], direction }
}
