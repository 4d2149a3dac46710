//! How long the next step may be: error norm, proportional-integral control, the first step.
//!
//! # References
//! Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, section II.4 (control, first step), and
//! (1996) II, section IV.2 (proportional-integral control); `dopri5.f`, `dop853.f` [code].

use super::method::Method;
use crate::field::Blocks;

/// Tolerances of the error norm.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance<'f> {
    pub(super) rtol: f64,
    pub(super) atol: f64,
    /// The blocks of the state.
    pub(super) blocks: Blocks<'f>,
}

impl Tolerance<'_> {
    /// max over blocks of |v_b|_2 / (atol + rtol |y_b|_2).
    pub(super) fn norm(&self, v: &[f64], y: &[f64]) -> f64 {
        self.blocks.ranges(y.len()).fold(0.0, |worst, range| {
            let norm = norm(&v[range.clone()]);
            larger(worst, if norm == 0.0 { 0.0 } else { norm / (self.atol + self.rtol * self::norm(&y[range])) })
        })
    }

    /// The error of a step of length h from `y` to `y_new`, in units of the tolerance: max over blocks of
    /// h |e_b|_2 / scale_b, scale_b = atol + rtol max(|y_b|_2, |y_new_b|_2). With a second estimate `third` (DOP853)
    /// the block's error is h |e|^2 / sqrt(|e|^2 + 0.01 |third|^2), which is O(h^8) where e is O(h^6).
    pub(super) fn error(&self, h: f64, y: &[f64], y_new: &[f64], fifth: &[f64], third: Option<&[f64]>) -> f64 {
        let mut worst = 0.0;
        for range in self.blocks.ranges(y.len()) {
            let scale = self.atol + self.rtol * norm(&y[range.clone()]).max(norm(&y_new[range.clone()]));
            let fifth = norm(&fifth[range.clone()]);
            let third = third.map_or(0.0, |third| norm(&third[range]));
            let error = if fifth == 0.0 { 0.0 } else { fifth * (fifth / fifth.hypot(0.1 * third)) };
            worst = larger(worst, if error == 0.0 { 0.0 } else { h * error / scale });
        }
        worst
    }
}

/// Euclidean norm.
pub(super) fn norm(v: &[f64]) -> f64 {
    v.iter().map(|c| c * c).sum::<f64>().sqrt()
}

/// The larger of two numbers, NaN if either is (`f64::max` would hide it).
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// Step-size control of one method: h_new = h * clamp(0.9 err^-(q - 3/4 beta) err_previous^beta), q = 1 / (order of
/// the local error estimate). `err` is in units of the tolerance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    exponent: f64,
    /// Weight of the previous error: damps the zigzag of step sizes where stability limits them. `dop853.f` has 0.
    beta: f64,
    max_factor: f64,
}

impl Control {
    /// Safety factor, `dopri5.f` and `dop853.f`.
    const SAFETY: f64 = 0.9;
    /// A rejected or accepted step never shrinks faster than this.
    const MIN_FACTOR: f64 = 0.2;
    /// The factor after a step through which the field was not finite: there is no error to learn from.
    pub(super) const NOT_FINITE_FACTOR: f64 = 0.1;
    /// The smallest error remembered, `dopri5.f`.
    pub(super) const MIN_ERROR: f64 = 1e-4;

    pub(super) fn new(method: Method) -> Self {
        match method {
            // facl = 0.333, fac2 = 6 and beta = 0 are the defaults of `dop853.f`; 0.04 and 10 those of `dopri5.f`.
            Method::Dop853 => Self { exponent: 1.0 / 8.0, beta: 0.0, max_factor: 6.0 },
            _ => Self { exponent: 1.0 / 5.0, beta: 0.04, max_factor: 10.0 },
        }
    }

    /// The factor for the step after an accepted one. After rejections it does not grow: the error was just too large.
    pub(super) fn accepted(&self, error: f64, previous: f64, rejections: u32) -> f64 {
        let factor = Self::SAFETY * error.powf(-(self.exponent - 0.75 * self.beta)) * previous.powf(self.beta);
        factor.clamp(Self::MIN_FACTOR, if rejections > 0 { 1.0 } else { self.max_factor })
    }

    /// The factor for another try of a rejected step.
    pub(super) fn rejected(&self, error: f64) -> f64 {
        (Self::SAFETY * error.powf(-self.exponent)).clamp(Self::MIN_FACTOR, 1.0)
    }
}

/// The shortest step that still moves time by several units in its last place.
pub(super) fn shortest_step(t: f64) -> f64 {
    (16.0 * f64::EPSILON * t.abs()).max(f64::MIN_POSITIVE)
}

/// Hairer's first guess: a hundredth of |y| / |f|, both in units of the tolerance.
pub(super) fn explicit_euler_step(state_norm: f64, slope_norm: f64) -> f64 {
    if state_norm < 1e-5 || slope_norm < 1e-5 { 1e-6 } else { 0.01 * state_norm / slope_norm }
}

/// The first step for a method of order `order`, from the probing step `probe` = [`explicit_euler_step`], the norm
/// of the slope and that of the slope's change over the probing step divided by its length:
/// h^order max(|f|, |f'|) = 0.01, at most a hundred probes.
pub(super) fn initial_step(probe: f64, slope_norm: f64, curvature_norm: f64, order: u32) -> f64 {
    let steepest = slope_norm.max(curvature_norm);
    let step =
        if steepest <= 1e-15 { (probe * 1e-3).max(1e-6) } else { (0.01 / steepest).powf(1.0 / f64::from(order)) };
    step.min(100.0 * probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_norm_is_that_of_the_worst_block() {
        let tolerance = Tolerance { rtol: 0.0, atol: 0.5, blocks: Blocks::Equal(2) };
        let error = tolerance.error(2.0, &[0.0; 4], &[0.0; 4], &[0.3, 0.4, 3.0, 4.0], None);
        assert_eq!(error, 2.0 * 5.0 / 0.5);
        let relative = Tolerance { rtol: 1.0, atol: 0.0, blocks: Blocks::Equal(1) };
        assert_eq!(relative.error(1.0, &[1.0, 100.0], &[2.0, 50.0], &[1.0, 10.0], None), 0.5);
    }

    #[test]
    fn an_error_that_is_not_a_number_is_not_hidden() {
        let tolerance = Tolerance { rtol: 0.0, atol: 1.0, blocks: Blocks::Equal(1) };
        assert!(tolerance.error(1.0, &[0.0; 2], &[0.0; 2], &[f64::NAN, 1.0], None).is_nan());
    }

    #[test]
    fn a_vanishing_first_estimate_of_dop853_gives_no_division_by_zero() {
        let tolerance = Tolerance { rtol: 0.0, atol: 1.0, blocks: Blocks::Equal(1) };
        assert_eq!(tolerance.error(1.0, &[0.0], &[0.0], &[0.0], Some(&[0.0])), 0.0);
        assert_eq!(tolerance.error(1.0, &[0.0], &[0.0], &[3.0], Some(&[0.0])), 3.0);
        // |e|^2 / sqrt(|e|^2 + 0.01 |e3|^2) = 9 / 5.
        assert!((tolerance.error(1.0, &[0.0], &[0.0], &[3.0], Some(&[40.0])) - 1.8).abs() < 1e-15);
    }

    #[test]
    fn steps_never_grow_after_a_rejection() {
        let control = Control::new(Method::Dopri5);
        assert_eq!(control.accepted(1e-9, 1e-4, 1), 1.0);
        assert_eq!(control.accepted(0.0, 1e-4, 0), 10.0);
        assert_eq!(control.rejected(f64::INFINITY), 0.2);
    }
}
