//! Particles beside the moments: tokens drawn from the Gaussian, followed by the attention flow itself.
//!
//! n particles differ from the moments by a sampling error of order 1/√n, as long as the empirical average over e^{score}
//! is an average: its relative variance at x is (e^w - 1)/n with w = xᵀAᵀΣAx, and its largest term is reached at
//! |y| ~ √(2 ln n). So particles follow the moments only while √w ≪ √(2 ln n) \[derived\].

use metastable_dynamics::field::{GaussianFlow, GaussianKernel, ParticleFlow, Placement};
use metastable_dynamics::geometry::Euclidean;
use metastable_dynamics::linalg::dot;
use metastable_dynamics::measure::Gaussian;
use metastable_dynamics::solver::{Advance, Method, Sampler, SolverOptions, Stepper};
use metastable_dynamics::{DynamicsError, Matrix, random};
use serde::{Deserialize, Serialize};

use super::meant::GaussianSimulation;
use super::written::GaussianConfig;
use crate::error::LabError;
use crate::simulate::inputs::Inputs;

/// A cloud of more particles, all draws together, is refused: one evaluation of one draw costs n² weights.
const MOST_PARTICLES: usize = 1 << 20;
/// Positions of at most this many particles are kept, those of one draw.
const MOST_DRAWN: usize = 1000;
/// Solver error of the particles: far below any sampling error.
const RTOL: f64 = 1e-9;

/// How many particles, how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Particles {
    /// The numbers n, as given.
    pub counts: Vec<usize>,
    /// Independent draws of each.
    pub repeats: usize,
    seed: u64,
}

/// One draw, followed through the saved times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Draw {
    /// n.
    pub count: usize,
    /// Means of the cloud, [S, d].
    pub means: Vec<f64>,
    /// Covariances of the cloud (divisor n), [S, d, d].
    pub covariances: Vec<f64>,
    /// The largest √w over the particles at each saved time; none for kernels without exponentials.
    pub reach: Option<Vec<f64>>,
    /// Positions [S, m, d] of the first m particles, for the draw that is shown.
    pub positions: Vec<f64>,
}

impl Particles {
    /// The draws, in the order in which they are followed: (n, number of the repeat).
    pub fn draws(&self) -> Vec<(usize, usize)> {
        self.counts.iter().flat_map(|&n| (0..self.repeats).map(move |r| (n, r))).collect()
    }

    /// The draw whose positions are shown: the first of the largest number.
    pub fn shown(&self) -> usize {
        let largest = self.counts.iter().copied().max().unwrap_or(0);
        self.draws().iter().position(|(n, _)| *n == largest).unwrap_or(0)
    }
}

/// The particles that a config asks for.
///
/// # Errors
/// [`LabError`] naming the key.
pub fn meant(
    written: &GaussianConfig,
    start: &Gaussian,
    seed: u64,
    has_more_than_attention: bool,
    inputs: &Inputs,
) -> Result<Option<Particles>, LabError> {
    let counts = written.particles.0.clone();
    let repeats = written.repeats.unwrap_or(1);
    if counts.is_empty() {
        return match written.repeats {
            Some(repeats) => Err(inputs.wrong("gaussian.repeats", "`particles` beside it", repeats)),
            None => Ok(None),
        };
    }
    if has_more_than_attention {
        let found = "a feed-forward part or noise, which the particle flow does not have";
        return Err(inputs.wrong("gaussian.particles", "attention alone", found));
    }
    let total = counts.iter().try_fold(0_usize, |sum, n| sum.checked_add(n.checked_mul(repeats)?));
    let most = MOST_PARTICLES / start.dim();
    if counts.iter().any(|n| *n < 2) || repeats == 0 || total.is_none_or(|total| total > most) {
        let expected = format!("at least 2 particles and one repeat, and at most {most} particles in all");
        return Err(inputs.wrong("gaussian.particles", expected, format!("{counts:?} with {repeats} repeats")));
    }
    Ok(Some(Particles { counts, repeats, seed }))
}

/// Follows draw number `index`. Deterministic, on any number of threads.
///
/// # Errors
/// [`DynamicsError`] if the kernel has no particles.
pub fn follow(simulation: &GaussianSimulation, particles: &Particles, index: usize) -> Result<Draw, DynamicsError> {
    let (count, repeat) = particles.draws()[index];
    let tokens = draw(&simulation.start, particles.seed, count, repeat);
    let flow = ParticleFlow::new(simulation.heads.clone(), simulation.attention, count, Placement::Ambient)?;
    let options = SolverOptions { max_steps: 100_000, ..SolverOptions::adaptive(Method::Dop853, RTOL, 1e-3 * RTOL) };
    let mut stepper = Stepper::new(&flow, &Euclidean, options, 0.0, tokens)?;
    let mut sampler = Sampler::new(simulation.times.clone(), stepper.values())?;
    let end = simulation.config.time.end;
    while let Advance::Step(step) = stepper.advance(end) {
        sampler.observe(&step);
    }
    observe(simulation, count, &sampler, index == particles.shown())
}

/// n tokens of N(mean, covariance): mean + L g.
fn draw(start: &Gaussian, seed: u64, count: usize, repeat: usize) -> Vec<f64> {
    let (d, rank) = (start.dim(), start.factor().columns());
    // Repeats are streams of other seeds; the tokens of a repeat do not depend on their number.
    let normal = random::standard_normal(seed.wrapping_add(repeat as u64), count, rank);
    let mut tokens = Vec::with_capacity(count * d);
    let mut moved = vec![0.0; d];
    for g in normal.chunks_exact(rank) {
        start.factor().apply(g, &mut moved);
        tokens.extend(moved.iter().zip(start.mean()).map(|(x, m)| x + m));
    }
    tokens
}

fn observe(
    simulation: &GaussianSimulation,
    count: usize,
    sampler: &Sampler,
    is_shown: bool,
) -> Result<Draw, DynamicsError> {
    let d = simulation.start.dim();
    let flow = simulation.flow(&simulation.heads, &simulation.start)?;
    let mut draw = Draw { count, means: vec![], covariances: vec![], reach: Some(vec![]), positions: vec![] };
    for s in 0..sampler.filled() {
        let state = sampler.sample(s);
        let (mean, covariance) = moments(d, state);
        let reach = reach(&flow, &covariance, state)?;
        draw.reach = draw.reach.zip(reach).map(|(mut list, reach)| {
            list.push(reach);
            list
        });
        draw.means.extend(mean);
        draw.covariances.extend(covariance.as_slice());
        if is_shown {
            draw.positions.extend(&state[..count.min(MOST_DRAWN) * d]);
        }
    }
    Ok(draw)
}

/// Mean and covariance of a cloud, with the divisor n.
pub fn moments(d: usize, state: &[f64]) -> (Vec<f64>, Matrix) {
    let n = (state.len() / d) as f64;
    let mut mean = vec![0.0; d];
    for x in state.chunks_exact(d) {
        mean.iter_mut().zip(x).for_each(|(m, x)| *m += x / n);
    }
    let mut sums = vec![0.0; d * d];
    for x in state.chunks_exact(d) {
        for i in 0..d {
            for j in 0..=i {
                sums[i * d + j] += (x[i] - mean[i]) * (x[j] - mean[j]) / n;
            }
        }
    }
    (mean, Matrix::from_fn(d, d, |i, j| sums[i.max(j) * d + i.min(j)]))
}

/// max √w over the tokens and heads, where e^w - 1 is n times the relative variance of the empirical partition function
/// at x, up to a factor that x does not enter: w = bᵀRb with b = Ax. Softmax: R = Σ; Sinkhorn: R = Σ/ε²; L2, whose
/// weights are e^{2<Qx, Ky> - |Ky|²}: R = 8(Σ⁻¹ + 4M)⁻¹ - 4(Σ⁻¹ + 2M)⁻¹ (for a mean of 0). None for linear attention,
/// which has no exponentials \[derived\].
fn reach(flow: &GaussianFlow, covariance: &Matrix, state: &[f64]) -> Result<Option<f64>, DynamicsError> {
    let d = flow.dim();
    let mut largest = 0.0_f64;
    let (mut ax, mut moved) = (vec![0.0; d], vec![0.0; d]);
    for (h, head) in flow.heads().iter().enumerate() {
        let logits = flow.logits(h);
        let spread = match *flow.kernel() {
            GaussianKernel::Softmax { .. } => covariance.clone(),
            GaussianKernel::Sinkhorn { epsilon, .. } => covariance.scaled(epsilon.powi(-2)),
            GaussianKernel::Linear { .. } => return Ok(None),
            GaussianKernel::SquaredDistance { beta } => {
                let keys = head.key().transpose().multiply(head.key()).scaled(beta);
                narrowed(covariance, &keys, 4.0)?.scaled(8.0).add_scaled(-4.0, &narrowed(covariance, &keys, 2.0)?)
            }
        };
        for x in state.chunks_exact(d) {
            logits.apply(x, &mut ax);
            spread.apply(&ax, &mut moved);
            largest = largest.max(dot(&ax, &moved).max(0.0).sqrt());
        }
    }
    Ok(Some(largest))
}

/// (Σ⁻¹ + cM)⁻¹ = (I + cΣM)⁻¹Σ, for singular Σ too.
fn narrowed(covariance: &Matrix, keys: &Matrix, c: f64) -> Result<Matrix, DynamicsError> {
    let product = covariance.multiply(keys).scaled(c);
    let identity = Matrix::scaled_identity(covariance.rows(), 1.0);
    Ok(product.add_scaled(1.0, &identity).inverse()?.multiply(covariance))
}
