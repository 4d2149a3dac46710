//! Laws and golden numbers of Gaussian flows.
//!
//! The golden numbers are ours, from an independent program (SciPy: DOP853 at rtol 1e-13, atol 1e-15; closed forms
//! where there are any), stated to be safe to 12 digits; none is read off the paper.

mod blow_up;
mod collapse;
mod energy;
mod invariants;
mod line_and_plane;
mod master;
mod symmetries;
mod verdicts;

use crate::field::{GaussianFlow, GaussianKernel};
use crate::head::Head;
use crate::linalg::Matrix;
use crate::measure::Gaussian;

/// A matrix from rows.
pub(crate) fn matrix<const C: usize>(rows: &[[f64; C]]) -> Matrix {
    Matrix::from_rows("m", rows).unwrap()
}

/// Σ from its upper triangle 11, 12, 13, 22, 23, 33.
pub(crate) fn symmetric([a, b, c, d, e, f]: [f64; 6]) -> Matrix {
    matrix(&[[a, b, c], [b, d, e], [c, e, f]])
}

/// N(α_0, Σ_0) of the master data.
pub(crate) fn start() -> Gaussian {
    Gaussian::new(vec![0.4, -0.7, 0.2], symmetric([1.0, 0.3, -0.2, 0.8, 0.1, 0.5])).unwrap()
}

pub(crate) fn query() -> Matrix {
    matrix(&[[0.6, -0.4, 0.2], [0.1, 0.5, -0.3], [-0.2, 0.3, 0.7]])
}

pub(crate) fn key() -> Matrix {
    matrix(&[[0.5, 0.2, -0.1], [-0.3, 0.4, 0.6], [0.2, -0.5, 0.3]])
}

pub(crate) fn value() -> Matrix {
    matrix(&[[0.3, -0.2, 0.1], [0.4, 0.2, -0.3], [-0.1, 0.5, 0.6]])
}

/// A positive definite value matrix.
pub(crate) fn value_positive() -> Matrix {
    matrix(&[[1.0, 0.4, 0.1], [0.4, 0.9, -0.2], [0.1, -0.2, 0.6]])
}

/// Logits with A + Aᵀ > 0.
pub(crate) fn logits_positive() -> Matrix {
    matrix(&[[0.5, 0.3, 0.0], [-0.1, 0.6, 0.2], [0.1, 0.0, 0.4]])
}

/// A head with given logits A = KᵀQ: K = I, Q = A.
pub(crate) fn with_logits(logits: &Matrix, value: &Matrix) -> Head {
    Head::new(logits.clone(), Matrix::scaled_identity(logits.rows(), 1.0), value.clone(), None).unwrap()
}

/// A = -QᵀQ through K = -Q.
pub(crate) fn repulsive(query: &Matrix, value: &Matrix) -> Head {
    Head::new(query.clone(), query.scaled(-1.0), value.clone(), None).unwrap()
}

pub(crate) const SOFTMAX: GaussianKernel = GaussianKernel::Softmax { beta: 1.0 };
pub(crate) const LINEAR: GaussianKernel = GaussianKernel::Linear { beta: 1.0 };
pub(crate) const L2: GaussianKernel = GaussianKernel::SquaredDistance { beta: 1.0 };

pub(crate) fn sinkhorn(epsilon: f64) -> GaussianKernel {
    GaussianKernel::Sinkhorn { beta: 1.0, epsilon }
}

pub(crate) fn flow(head: Head, kernel: GaussianKernel, start: &Gaussian) -> GaussianFlow {
    GaussianFlow::new(vec![head], kernel, start).unwrap()
}

/// The flow at a time, at the tolerance of the golden numbers.
pub(crate) fn at(flow: &GaussianFlow, start: &Gaussian, t: f64) -> Gaussian {
    let (gaussian, outcome) = super::evolve(flow, start, t, 1e-13).unwrap();
    assert_eq!(outcome.t, t, "{outcome:?}");
    gaussian
}

/// The covariance at a late time, in logarithmic time.
pub(crate) fn late(flow: &GaussianFlow, start: &Gaussian, t: f64) -> Gaussian {
    let (gaussian, outcome) = super::evolve_covariance(flow, start, t, 1e-13).unwrap();
    assert_eq!(outcome.stop, crate::solver::StopReason::EndTime, "{outcome:?}");
    gaussian
}

/// Asserts |found - expected| <= tolerance entry by entry.
#[track_caller]
pub(crate) fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance, "entry {i}: {found:.15} instead of {expected:.15}");
    }
}
