//! Fields with closed-form flows.

use crate::field::VectorField;
use crate::geometry::{Euclidean, Geometry, Spheres};

/// A field from a closure.
pub(super) struct Closure<F> {
    pub(super) len: usize,
    pub(super) block: usize,
    pub(super) f: F,
}

impl<F: Fn(f64, &[f64], &mut [f64]) + Sync> VectorField for Closure<F> {
    fn len(&self) -> usize {
        self.len
    }

    fn block_len(&self) -> usize {
        self.block
    }

    fn evaluate(&self, t: f64, state: &[f64], velocity: &mut [f64]) {
        (self.f)(t, state, velocity);
    }
}

/// A scalar field.
pub(super) fn scalar(f: impl Fn(f64, f64) -> f64 + Sync) -> impl VectorField {
    Closure { len: 1, block: 1, f: move |t, y: &[f64], v: &mut [f64]| v[0] = f(t, y[0]) }
}

/// y' = -y.
pub(super) fn decay() -> impl VectorField {
    scalar(|_, y| -y)
}

/// A turn of the plane at unit speed; from (1, 0) the first coordinate is cos t.
pub(super) fn rotation() -> impl VectorField {
    Closure {
        len: 2,
        block: 2,
        f: |_, y: &[f64], v: &mut [f64]| {
            v[0] = -y[1];
            v[1] = y[0];
        },
    }
}

/// V of the flow on the sphere is [a, -w; w, a] on the first two axes and b on the third.
const GROWTH: f64 = 0.4;
const TURN: f64 = 1.0;
const DECAY: f64 = -0.2;

/// A problem: field, space, start, end and the exact state at any time.
pub(super) struct Problem {
    pub(super) name: &'static str,
    pub(super) field: Box<dyn VectorField>,
    pub(super) geometry: Box<dyn Geometry>,
    pub(super) initial: Vec<f64>,
    pub(super) end: f64,
    pub(super) exact: fn(f64) -> Vec<f64>,
}

/// The four problems of the order tests.
pub(super) fn problems() -> Vec<Problem> {
    vec![
        Problem {
            name: "y' = y cos t",
            field: Box::new(scalar(|t, y| y * t.cos())),
            geometry: Box::new(Euclidean),
            initial: vec![1.0],
            end: 2.0,
            exact: |t| vec![t.sin().exp()],
        },
        Problem {
            name: "rotation",
            field: Box::new(rotation()),
            geometry: Box::new(Euclidean),
            initial: vec![1.0, 0.0],
            end: 2.0,
            exact: |t| vec![t.cos(), t.sin()],
        },
        Problem {
            name: "y' = sin y",
            field: Box::new(scalar(|_, y| y.sin())),
            geometry: Box::new(Euclidean),
            initial: vec![0.1],
            end: 5.0,
            exact: |t| vec![2.0 * (t.exp() * 0.05_f64.tan()).atan()],
        },
        Problem {
            name: "x' = Proj_x(V x) on two spheres",
            field: Box::new(Closure { len: 6, block: 3, f: projected_linear }),
            geometry: Box::new(Spheres { dim: 3 }),
            initial: sphere_flow(0.0),
            end: 2.0,
            exact: sphere_flow,
        },
    ]
}

fn projected_linear(_t: f64, x: &[f64], v: &mut [f64]) {
    for (x, v) in x.chunks(3).zip(v.chunks_mut(3)) {
        v.copy_from_slice(&[GROWTH * x[0] - TURN * x[1], TURN * x[0] + GROWTH * x[1], DECAY * x[2]]);
    }
    Spheres { dim: 3 }.project(x, v);
}

/// e^{tV} x0 / |e^{tV} x0| for two points x0.
fn sphere_flow(t: f64) -> Vec<f64> {
    let (sin, cos) = (TURN * t).sin_cos();
    let (plane, axis) = ((GROWTH * t).exp(), (DECAY * t).exp());
    let flow = |[x, y, z]: [f64; 3]| [plane * (cos * x - sin * y), plane * (sin * x + cos * y), axis * z];
    let mut state = [flow([0.2, 0.5, 0.9]), flow([-0.4, 0.3, -0.8])].concat();
    Spheres { dim: 3 }.retract(&mut state);
    state
}

/// Largest difference of two states.
pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The slope of the least-squares line through (ln x, ln y).
pub(super) fn log_slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x.ln() / n, b + y.ln() / n));
    let (xy, xx) = points.iter().fold((0.0, 0.0), |(xy, xx), (x, y)| {
        let dx = x.ln() - mx;
        (xy + dx * (y.ln() - my), xx + dx * dx)
    });
    xy / xx
}
