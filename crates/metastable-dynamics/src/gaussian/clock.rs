//! A time in which every regime takes few steps.

use crate::field::{Blocks, GaussianFlow, GaussianKernel, VectorField};
use crate::linalg::{dot, norm};

/// The moment flow in its own time s, with t as the last variable of the state:
///
/// dt/ds = 1 / √(ρ² + 1/(T + t)²),  ρ = |L'| / |L|,  T = 1/ρ(0).
///
/// Near a pole ρ → ∞ and this is the rescaling dt = ds/(1 + |Σ|) up to constants (also for poles of other orders, which
/// that one is slow for); in algebraic collapse ρ ~ 1/t and s is the logarithm of t; in exponential growth s ~ t
/// \[derived\]. One unit of s is never more than about one e-fold of the factor or of time.
///
/// Only the covariance is followed unless the mean acts on it (linear attention): means grow like e^{tV} for ever.
pub(super) struct OwnTime<'f> {
    flow: &'f GaussianFlow,
    unit: f64,
    ends: [usize; 3],
}

/// The moment flow in logarithmic time u = ln(1 + t/T), t = T(e^u - 1): velocities times T e^u. Covariances only, as
/// for [`OwnTime`].
pub(super) struct LogTime<'f>(pub(super) OwnTime<'f>);

impl VectorField for LogTime<'_> {
    fn len(&self) -> usize {
        self.0.flow.len()
    }

    fn block_len(&self) -> usize {
        self.0.flow.block_len()
    }

    fn blocks(&self) -> Blocks<'_> {
        self.0.flow.blocks()
    }

    fn evaluate(&self, u: f64, state: &[f64], velocity: &mut [f64]) {
        self.0.velocity(state, velocity);
        let pace = self.0.unit * u.exp();
        velocity.iter_mut().for_each(|v| *v *= pace);
    }
}

/// The state's size and pace at a moment.
pub(super) struct Pace {
    /// tr Σ.
    pub(super) trace: f64,
    /// d/dt ln tr Σ.
    pub(super) growth: f64,
    /// |Σ'| / |Σ| in the Frobenius norm.
    pub(super) unrest: f64,
}

impl<'f> OwnTime<'f> {
    pub(super) fn new(flow: &'f GaussianFlow, state: &[f64]) -> Self {
        let len = flow.len();
        let mut own = Self { flow, unit: 1.0, ends: [flow.dim(), len, len + 1] };
        let mut velocity = vec![0.0; len];
        let rate = own.velocity(state, &mut velocity);
        own.unit = if rate > 0.0 { 1.0 / rate } else { 1.0 };
        own
    }

    /// T, the flow's time scale at the start.
    pub(super) fn unit(&self) -> f64 {
        self.unit
    }

    fn mean_matters(&self) -> bool {
        matches!(self.flow.kernel(), GaussianKernel::Linear { .. })
    }

    /// Writes the velocity in t of the moments, gives ρ.
    fn velocity(&self, moments: &[f64], velocity: &mut [f64]) -> f64 {
        self.flow.evaluate(0.0, moments, velocity);
        let d = self.flow.dim();
        if !self.mean_matters() {
            velocity[..d].fill(0.0);
        }
        let from = if self.mean_matters() { 0 } else { d };
        let size = norm(&moments[from..]);
        if size == 0.0 { 0.0 } else { norm(&velocity[from..]) / size }
    }

    /// The pace at a state of this system (the moments, then t).
    pub(super) fn pace(&self, state: &[f64]) -> Pace {
        let (d, len) = (self.flow.dim(), self.flow.len());
        let mut velocity = vec![0.0; len];
        self.velocity(&state[..len], &mut velocity);
        let (matrix, slope) = (&state[d..len], &velocity[d..]);
        let width = matrix.len() / d;
        if self.flow.noise() > 0.0 {
            let trace = |m: &[f64]| (0..d).map(|i| m[i * d + i]).sum::<f64>();
            let total = trace(matrix);
            return Pace { trace: total, growth: trace(slope) / total, unrest: norm(slope) / norm(matrix) };
        }
        let row = |i: usize| i * width..(i + 1) * width;
        let (mut squares, mut changes) = (0.0, 0.0);
        for i in 0..d {
            for j in 0..d {
                let entry = dot(&matrix[row(i)], &matrix[row(j)]);
                let change = dot(&slope[row(i)], &matrix[row(j)]) + dot(&matrix[row(i)], &slope[row(j)]);
                squares += entry * entry;
                changes += change * change;
            }
        }
        let trace = dot(matrix, matrix);
        let unrest = if squares > 0.0 { (changes / squares).sqrt() } else { 0.0 };
        Pace { trace, growth: if trace > 0.0 { 2.0 * dot(matrix, slope) / trace } else { 0.0 }, unrest }
    }
}

impl VectorField for OwnTime<'_> {
    fn len(&self) -> usize {
        self.ends[2]
    }

    fn block_len(&self) -> usize {
        1
    }

    /// Mean, factor (or covariance), time.
    fn blocks(&self) -> Blocks<'_> {
        Blocks::Ends(&self.ends)
    }

    fn evaluate(&self, _s: f64, state: &[f64], velocity: &mut [f64]) {
        let len = self.flow.len();
        let rate = self.velocity(&state[..len], &mut velocity[..len]);
        let step = 1.0 / rate.hypot(1.0 / (self.unit + state[len]));
        velocity[..len].iter_mut().for_each(|v| *v *= step);
        velocity[len] = if rate.is_nan() { f64::NAN } else { step };
    }
}
