//! Cost of one attention field and of its Jacobian products: softmax of n tokens of R^d with Q = K = V = I.
//!
//! Run with `cargo bench -p metastable-dynamics --bench attention`; compare medians.

use divan::Bencher;
use metastable_dynamics::Head;
use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::{AttentionFlow, ParticleFlow, Placement, VectorField};
use metastable_dynamics::random;

/// Counts and dimensions: planar theory experiments, and one head of a transformer.
const SIZES: [(usize, usize); 4] = [(1024, 3), (4096, 3), (1024, 64), (4096, 64)];

fn main() {
    divan::main();
}

/// The flow, and a state and a direction for it.
fn problem((n, d): (usize, usize)) -> (AttentionFlow, Vec<f64>, Vec<f64>) {
    // beta <x, y> of Gaussian tokens has variance beta² d: weights neither flat nor one-hot.
    let kernel = AttentionKernel::softmax(1.0 / (d as f64).sqrt()).expect("a positive beta");
    let flow = ParticleFlow::new(vec![Head::identity(d)], kernel, n, Placement::Ambient).expect("shapes fit");
    (AttentionFlow::Particle(flow), random::standard_normal(1, n, d), random::standard_normal(2, n, d))
}

#[divan::bench(args = SIZES, sample_count = 9, sample_size = 1)]
fn field(bencher: Bencher, size: (usize, usize)) {
    let (flow, state, mut out) = problem(size);
    bencher.bench_local(|| flow.evaluate(0.0, &state, &mut out));
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn jvp(bencher: Bencher, size: (usize, usize)) {
    let (flow, state, direction) = problem(size);
    let mut out = vec![0.0; state.len()];
    bencher.bench_local(|| flow.jvp(0.0, &state, &direction, &mut out));
}

#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn vjp(bencher: Bencher, size: (usize, usize)) {
    let (flow, state, cotangent) = problem(size);
    let mut out = vec![0.0; state.len()];
    bencher.bench_local(|| flow.vjp(0.0, &state, &cotangent, &mut out));
}
