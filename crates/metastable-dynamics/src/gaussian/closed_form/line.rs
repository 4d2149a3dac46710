//! One dimension: mean α and variance s under scalar weights q, k, v, a = kq.

/// A head on the line, with the scores' beta in q and k.
///
/// All formulas \[checked\] to 13 digits; each gives `None` from the time of blow-up on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineHead {
    /// Q.
    pub query: f64,
    /// K.
    pub key: f64,
    /// V.
    pub value: f64,
}

/// Mean and variance on the line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineMoments {
    /// α.
    pub mean: f64,
    /// s >= 0.
    pub variance: f64,
}

impl LineHead {
    /// a = kq.
    pub fn logit(&self) -> f64 {
        self.key * self.query
    }

    /// Softmax, s' = 2vas², α' = v(1 + as)α: s = s_0 / (1 - 2vas_0 t), α = α_0 e^{vt} √(s/s_0), t* = 1/(2vas_0).
    pub fn softmax(&self, start: LineMoments, t: f64) -> Option<LineMoments> {
        let shrink = 1.0 - 2.0 * self.value * self.logit() * start.variance * t;
        (shrink > 0.0).then(|| LineMoments {
            mean: start.mean * (self.value * t).exp() / shrink.sqrt(),
            variance: start.variance / shrink,
        })
    }

    /// When softmax blows up, if it does.
    pub fn softmax_blow_up(&self, start: LineMoments) -> Option<f64> {
        let rate = 2.0 * self.value * self.logit() * start.variance;
        (rate > 0.0).then(|| 1.0 / rate)
    }

    /// L2, s' = 4vas²/(1 + 2k²s): with w + ln w = z (so w = W_0(e^z), Lambert), 1/s = 2k² w,
    /// z = (1/s_0 - 2k² ln s_0 - 4vat) / (2k²) - ln(2k²); α = α_0 √(s/s_0) exp((1/s_0 - 1/s) / (4a)). Never blows up.
    ///
    /// Solved for w + ln w, it overflows for no argument. For a = 0 nothing moves but the mean:
    /// α' = vα/(1 + 2k²s).
    pub fn squared_distance(&self, start: LineMoments, t: f64) -> LineMoments {
        let (a, keys) = (self.logit(), 2.0 * self.key * self.key);
        if a == 0.0 || start.variance == 0.0 {
            let rate = self.value / (1.0 + keys * start.variance);
            return LineMoments { mean: start.mean * (rate * t).exp(), ..start };
        }
        let drift = 4.0 * self.value * a * t;
        let w = lambert_of_exp((1.0 / start.variance - keys * start.variance.ln() - drift) / keys - keys.ln());
        let variance = 1.0 / (keys * w);
        let growth = ((1.0 / start.variance - 1.0 / variance) / (4.0 * a)).exp();
        LineMoments { mean: start.mean * (variance / start.variance).sqrt() * growth, variance }
    }

    /// Sinkhorn at ε: with 2|a|s/ε = sinh u, u - coth(u/2) grows at the rate 2v sign(a)/ε; α = α_0 e^{vt/ε}.
    /// Never blows up.
    pub fn sinkhorn(&self, start: LineMoments, epsilon: f64, t: f64) -> LineMoments {
        let a = self.logit();
        let mean = start.mean * (self.value * t / epsilon).exp();
        if a == 0.0 || start.variance == 0.0 {
            return LineMoments { mean, ..start };
        }
        let implicit = |u: f64| u - 1.0 / (0.5 * u).tanh();
        let u0 = (2.0 * a.abs() * start.variance / epsilon).asinh();
        let goal = implicit(u0) + 2.0 * self.value * a.signum() * t / epsilon;
        // u > goal because coth > 1 for u > 0; u < max(goal, 0) + 1 + 2 because coth(u/2) < 1 + 2/u.
        let u = bisect(|u| implicit(u) - goal, 0.0, goal.max(0.0) + 3.0);
        LineMoments { mean, variance: 0.5 * epsilon * u.sinh() / a.abs() }
    }

    /// The variance under softmax with noise τ > 0, s' = 2vas² + 2τ, s_∞ = √(τ/|va|):
    /// va < 0: s = s_∞ (s_0 + s_∞ T)/(s_∞ + s_0 T), T = tanh(2√(-vaτ) t) (both branches, tanh and coth, in one);
    /// va > 0: s = s_∞ (s_0 + s_∞ T)/(s_∞ - s_0 T), T = tan(2√(vaτ) t); va = 0: s_0 + 2τt.
    pub fn noisy_softmax_variance(&self, variance: f64, tau: f64, t: f64) -> Option<f64> {
        let product = self.value * self.logit();
        if product == 0.0 {
            return Some(variance + 2.0 * tau * t);
        }
        let scale = (tau / product.abs()).sqrt();
        let angle = 2.0 * (product.abs() * tau).sqrt() * t;
        if product < 0.0 {
            let tanh = angle.tanh();
            return Some(scale * (variance + scale * tanh) / (scale + variance * tanh));
        }
        if self.noisy_softmax_blow_up(variance, tau).is_some_and(|end| t >= end) {
            return None;
        }
        let tan = angle.tan();
        // t* comes before the quarter turn (at it for s_0 = 0), so the tangent is positive.
        Some(scale * (variance + scale * tan) / (scale - variance * tan))
    }

    /// When softmax with noise τ > 0 blows up: (π/2 - arctan(s_0 √(va/τ))) / (2√(vaτ)) if va > 0.
    pub fn noisy_softmax_blow_up(&self, variance: f64, tau: f64) -> Option<f64> {
        let product = self.value * self.logit();
        let quarter = std::f64::consts::FRAC_PI_2;
        (product > 0.0).then(|| (quarter - (variance * (product / tau).sqrt()).atan()) / (2.0 * (product * tau).sqrt()))
    }
}

/// W_0(e^z): the w > 0 with w + ln w = z. Newton on a concave increasing function, from below the root.
fn lambert_of_exp(z: f64) -> f64 {
    // ln w <= w - 1 gives w >= (z + 1)/2; for z < 1, w < 1 and w >= e^{z - 1}.
    let mut w = if z > 1.0 { 0.5 * (z + 1.0) } else { (z - 1.0).exp() };
    for _ in 0..MAX_NEWTON {
        let next = w * (1.0 + z - w.ln()) / (1.0 + w);
        if (next - w).abs() <= f64::EPSILON * w {
            return next;
        }
        w = next;
    }
    w
}

/// Newton doubles its digits each time; from a factor e below the root six are enough.
const MAX_NEWTON: usize = 30;

/// The zero of an increasing function on (low, high), to the last bit.
fn bisect(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        if f(middle) < 0.0 { low = middle } else { high = middle }
    }
}
