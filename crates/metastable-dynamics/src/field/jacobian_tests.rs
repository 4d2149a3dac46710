//! Laws of the flows' Jacobian products.

use super::{AttentionFlow, ParticleFlow, Placement, RescaledFlow, VectorField};
use crate::attention::{AttentionKernel, Mask, Normalization, Score};
use crate::head::Head;
use crate::linalg::{Matrix, dot};
use crate::random;

const COUNT: usize = 6;
const DIM: usize = 3;

fn matrix(seed: u64, rows: usize, columns: usize) -> Matrix {
    Matrix::new("random", rows, columns, random::standard_normal(seed, rows, columns)).unwrap().scaled(0.5)
}

/// Two heads, one with an output matrix and narrow values.
fn two_heads() -> Vec<Head> {
    let narrow = Head::new(matrix(1, 2, DIM), matrix(2, 2, DIM), matrix(3, 2, DIM), Some(matrix(4, DIM, 2))).unwrap();
    vec![narrow, Head::new(matrix(5, 3, DIM), matrix(6, 3, DIM), matrix(7, DIM, DIM), None).unwrap()]
}

fn square_head() -> Head {
    Head::new(matrix(8, 2, DIM), matrix(9, 2, DIM), matrix(10, DIM, DIM), None).unwrap()
}

/// Every kind of flow with a time at which to look at it.
fn flows() -> Vec<(AttentionFlow, f64)> {
    let softmax = AttentionKernel::softmax(0.8).unwrap();
    let exponential =
        AttentionKernel::new(Score::SquaredDistance, Normalization::Exponential, Mask::Causal, 0.8).unwrap();
    let particle =
        |kernel, placement| AttentionFlow::Particle(ParticleFlow::new(two_heads(), kernel, COUNT, placement).unwrap());
    let rescaled = RescaledFlow::new(square_head(), softmax, COUNT).unwrap();
    let layers = RescaledFlow::layers(square_head(), softmax.masked(Mask::Causal), COUNT, 0.2).unwrap();
    vec![
        (particle(softmax, Placement::Ambient), 0.0),
        (particle(softmax, Placement::Tangent), 0.0),
        (particle(exponential, Placement::Tangent), 0.0),
        (AttentionFlow::Rescaled(Box::new(rescaled)), 0.7),
        (AttentionFlow::Rescaled(Box::new(layers)), 0.6),
    ]
}

fn jvp(flow: &AttentionFlow, t: f64, state: &[f64], direction: &[f64]) -> Vec<f64> {
    let mut out = vec![f64::NAN; state.len()];
    flow.jvp(t, state, direction, &mut out);
    out
}

fn vjp(flow: &AttentionFlow, t: f64, state: &[f64], cotangent: &[f64]) -> Vec<f64> {
    let mut out = vec![f64::NAN; state.len()];
    flow.vjp(t, state, cotangent, &mut out);
    out
}

fn field(flow: &AttentionFlow, t: f64, state: &[f64]) -> Vec<f64> {
    let mut out = vec![f64::NAN; state.len()];
    flow.evaluate(t, state, &mut out);
    out
}

#[test]
fn jvp_is_the_derivative_of_every_flow() {
    let (state, direction) = (random::standard_normal(20, COUNT, DIM), random::standard_normal(21, COUNT, DIM));
    for (flow, t) in flows() {
        let central = |h: f64| -> Vec<f64> {
            let moved = |h: f64| {
                let state: Vec<f64> = state.iter().zip(&direction).map(|(x, e)| x + h * e).collect();
                field(&flow, t, &state)
            };
            moved(h).iter().zip(moved(-h)).map(|(a, b)| (a - b) / (2.0 * h)).collect()
        };
        let exact = jvp(&flow, t, &state, &direction);
        for ((fine, coarse), exact) in central(1e-3).iter().zip(central(2e-3)).zip(&exact) {
            let found = (4.0 * fine - coarse) / 3.0;
            // Richardson: h⁴ = 2e-11 times fifth derivatives / 120 of order 100, rounding 1e-16 / h of fields of order 10.
            assert!((found - exact).abs() < 1e-10 * (1.0 + exact.abs()), "{flow:?}: {found} {exact}");
        }
    }
}

#[test]
fn vjp_is_the_transpose_of_jvp_for_every_flow() {
    let state = random::standard_normal(30, COUNT, DIM);
    for (flow, t) in flows() {
        for seed in 31..36 {
            let direction = random::standard_normal(seed, COUNT, DIM);
            let cotangent = random::standard_normal(seed + 100, COUNT, DIM);
            let (forward, backward) = (jvp(&flow, t, &state, &direction), vjp(&flow, t, &state, &cotangent));
            let size: f64 =
                cotangent.iter().zip(&forward).chain(direction.iter().zip(&backward)).map(|(a, b)| (a * b).abs()).sum();
            let (left, right) = (dot(&cotangent, &forward), dot(&backward, &direction));
            // Sums of 18 products of numbers that are themselves sums of a few dozen terms.
            assert!((left - right).abs() < 1e-13 * (1.0 + size), "{flow:?}: {left} {right}");
        }
    }
}

/// <x, F(x)> = 0 on the sphere, so <ẋ, F> + <x, Ḟ> = 0 for tangent directions.
#[test]
fn tangent_fields_stay_tangent_to_first_order() {
    use crate::geometry::{Geometry, Spheres};
    let state = random::sphere(40, COUNT, DIM);
    let mut direction = random::standard_normal(41, COUNT, DIM);
    Spheres { dim: DIM }.project(&state, &mut direction);
    let (flow, t) = flows().swap_remove(1);
    let (velocity, product) = (field(&flow, t, &state), jvp(&flow, t, &state, &direction));
    for i in 0..COUNT {
        let own = i * DIM..(i + 1) * DIM;
        let rate = dot(&direction[own.clone()], &velocity[own.clone()]) + dot(&state[own.clone()], &product[own]);
        // A few roundings of numbers of order 1.
        assert!(rate.abs() < 1e-14, "{rate}");
    }
}

/// At t = 0 rescaled and plain velocities differ by V z_i, so the Jacobians differ by I ⊗ V.
#[test]
fn rescaled_products_at_time_zero_are_plain_ones_minus_the_drift() {
    let kernel = AttentionKernel::softmax(1.1).unwrap();
    let plain = ParticleFlow::new(vec![square_head()], kernel, COUNT, Placement::Ambient).unwrap();
    let rescaled = RescaledFlow::new(square_head(), kernel, COUNT).unwrap();
    let (state, direction) = (random::standard_normal(50, COUNT, DIM), random::standard_normal(51, COUNT, DIM));
    let (mut left, mut right, mut drift) = (vec![0.0; 18], vec![0.0; 18], [0.0; DIM]);
    plain.jvp(0.0, &state, &direction, &mut left);
    rescaled.jvp(0.0, &state, &direction, &mut right);
    for ((left, right), e) in left.chunks(DIM).zip(right.chunks(DIM)).zip(direction.chunks(DIM)) {
        square_head().value().apply(e, &mut drift);
        for c in 0..DIM {
            // A few roundings of numbers of order 1.
            assert!((left[c] - drift[c] - right[c]).abs() < 1e-14, "{} {}", left[c] - drift[c], right[c]);
        }
    }
}

/// Clusters are reached and e^{2λt} is beyond any float: still finite, still each other's transpose.
#[test]
fn rescaled_products_survive_huge_times() {
    let kernel = AttentionKernel::softmax(1.0).unwrap();
    let flow = AttentionFlow::Rescaled(Box::new(RescaledFlow::new(Head::identity(DIM), kernel, COUNT).unwrap()));
    let mut state = random::standard_normal(60, COUNT, DIM);
    state.copy_within(0..DIM, DIM);
    let (direction, cotangent) = (random::standard_normal(61, COUNT, DIM), random::standard_normal(62, COUNT, DIM));
    for t in [10.0, 300.0, 1e5] {
        let (forward, backward) = (jvp(&flow, t, &state, &direction), vjp(&flow, t, &state, &cotangent));
        let (left, right) = (dot(&cotangent, &forward), dot(&backward, &direction));
        // Weights are 0, 1/2 or 1 here, the products averages of numbers of order 1.
        assert!((left - right).abs() < 1e-13 && left != 0.0, "t = {t}: {left} {right}");
    }
}
