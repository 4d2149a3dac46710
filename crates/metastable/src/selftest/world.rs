//! How a law runs a flow: one call from tokens to states at chosen times, through the real fields and solvers.

use std::ops::ControlFlow;
use std::path::Path;

use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Score};
use metastable_dynamics::field::{ParticleFlow, Placement, RescaledFlow, VectorField};
use metastable_dynamics::geometry::{Euclidean, Geometry, Spheres};
use metastable_dynamics::solver::{Method, Sampler, SolverOptions, Stepper, integrate};
use metastable_dynamics::{DynamicsError, Head, Matrix, TokensRef, random};

use crate::arrays::parse_npy;

/// States at the times asked for, each n·d values.
pub(super) type States = Vec<Vec<f64>>;

/// Precise enough that the solver's error (some 1e-11 over the times used here) stays below the tolerances.
pub(super) fn precise() -> SolverOptions {
    SolverOptions::adaptive(Method::Dop853, 1e-12, 1e-13)
}

/// The solver that `simulate` takes where the config names none.
pub(super) fn usual() -> SolverOptions {
    use crate::simulate::meant::{DEFAULT_ATOL, DEFAULT_RTOL};
    SolverOptions::adaptive(Method::Tsit5, DEFAULT_RTOL, DEFAULT_ATOL)
}

/// Follows a field from `start` at time 0 and reads the state at increasing `times`.
pub(super) fn follow(
    field: &dyn VectorField,
    geometry: &dyn Geometry,
    options: SolverOptions,
    start: &[f64],
    times: &[f64],
) -> Result<States, DynamicsError> {
    let mut stepper = Stepper::new(field, geometry, options, 0.0, start.to_vec())?;
    let asked = times.iter().copied().filter(|t| *t > 0.0);
    let mut sampler = Sampler::new(std::iter::once(0.0).chain(asked).collect(), stepper.values())?;
    let end = times.iter().copied().fold(0.0, f64::max);
    let outcome = integrate(&mut stepper, end, &mut |step| {
        sampler.observe(step);
        ControlFlow::Continue(())
    });
    if !sampler.is_complete() {
        let (expected, found) = (format!("a solution up to t = {end}"), format!("{:?} at {}", outcome.stop, outcome.t));
        return Err(DynamicsError::Domain { name: "flow".into(), expected, found });
    }
    let skip = usize::from(times.first() != Some(&0.0));
    Ok((skip..sampler.filled()).map(|i| sampler.sample(i).to_vec()).collect())
}

/// One head on the unit spheres (models M3 to M5).
pub(super) fn on_sphere(
    head: &Head,
    kernel: AttentionKernel,
    start: &[f64],
    times: &[f64],
) -> Result<States, DynamicsError> {
    let dim = head.dim();
    let field = ParticleFlow::new(vec![head.clone()], kernel, start.len() / dim, Placement::Tangent)?;
    follow(&field, &Spheres { dim }, precise(), start, times)
}

/// One head in R^d (model M1).
pub(super) fn in_space(
    head: &Head,
    kernel: AttentionKernel,
    start: &[f64],
    times: &[f64],
) -> Result<States, DynamicsError> {
    let field = ParticleFlow::new(vec![head.clone()], kernel, start.len() / head.dim(), Placement::Ambient)?;
    follow(&field, &Euclidean, precise(), start, times)
}

/// One softmax head at beta = 1 in rescaled coordinates z = e^{-tV} x (model M2).
pub(super) fn rescaled(head: &Head, start: &[f64], times: &[f64]) -> Result<States, DynamicsError> {
    let field = RescaledFlow::new(head.clone(), AttentionKernel::softmax(1.0)?, start.len() / head.dim())?;
    follow(&field, &Euclidean, usual(), start, times)
}

/// The field of one head at a state.
pub(super) fn velocity(
    head: &Head,
    kernel: AttentionKernel,
    placement: Placement,
    state: &[f64],
) -> Result<Vec<f64>, DynamicsError> {
    let field = ParticleFlow::new(vec![head.clone()], kernel, state.len() / head.dim(), placement)?;
    let mut velocity = vec![0.0; state.len()];
    field.evaluate(0.0, state, &mut velocity);
    Ok(velocity)
}

/// Weights e^{beta <x_i, x_j>}/n: USA.
pub(super) fn unnormalised(beta: f64) -> Result<AttentionKernel, DynamicsError> {
    AttentionKernel::new(Score::Dot, Normalization::Exponential, Mask::Full, beta)
}

/// Q, K = I and V as given.
pub(super) fn with_value(value: Matrix) -> Result<Head, DynamicsError> {
    let identity = Matrix::scaled_identity(value.columns(), 1.0);
    Head::new(identity.clone(), identity, value, None)
}

/// A matrix of independent N(0, scale²) entries.
pub(super) fn random_matrix(seed: u64, rows: usize, columns: usize, scale: f64) -> Matrix {
    let values = random::standard_normal(seed, rows, columns);
    Matrix::from_fn(rows, columns, |i, j| scale * values[i * columns + j])
}

/// A random orthogonal matrix: the eigenvectors of a random symmetric one.
pub(super) fn random_rotation(seed: u64, d: usize) -> Result<Matrix, DynamicsError> {
    let matrix = random_matrix(seed, d, d, 1.0);
    Ok(matrix.add_scaled(1.0, &matrix.transpose()).symmetric_eigen()?.1)
}

/// `points` equally spaced times from 0 to `end`.
pub(super) fn times(end: f64, points: u32) -> Vec<f64> {
    (0..points).map(|k| end * f64::from(k) / f64::from(points - 1)).collect()
}

/// The largest |a - b|.
pub(super) fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The largest fall in a sequence that must not decrease; 0 if it does not.
pub(super) fn largest_fall(values: &[f64]) -> f64 {
    values.windows(2).map(|pair| pair[0] - pair[1]).fold(0.0, f64::max)
}

/// <x_i, v> for all tokens.
pub(super) fn along(state: &[f64], v: &[f64]) -> Vec<f64> {
    TokensRef::new(v.len(), state).iter().map(|x| metastable_dynamics::linalg::dot(x, v)).collect()
}

/// The smallest of some numbers.
pub(super) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The largest of some numbers.
pub(super) fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The authors' tokens, `numpy.random.RandomState(42).uniform(-1, 1, (20, 2))` [code].
pub(super) fn seed_42() -> Vec<f64> {
    npy(include_bytes!("../../../../examples/tokens/seed-42.npy"))
}

/// `numpy.random.default_rng(7).uniform(-5, 5, (40, 2))`: the cascade of theory 2.2 (4b) [derived].
pub(super) fn generator_7() -> Vec<f64> {
    npy(include_bytes!("../../../../examples/tokens/generator-7.npy"))
}

fn npy(bytes: &[u8]) -> Vec<f64> {
    parse_npy(Path::new("compiled in"), bytes)
        .and_then(|array| array.into_rows(Path::new("compiled in")))
        .expect("these bytes were compiled in, and every law that uses them has a test")
        .1
}
