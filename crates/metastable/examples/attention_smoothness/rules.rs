//! Steps and products of Lanczos beside those of the authors' stopping rule, on the six reference shapes.

use metastable_dynamics::attention::{AttentionKernel, Mask};
use metastable_dynamics::field::{AttentionFlow, ParticleFlow, Placement};
use metastable_dynamics::smoothness::{FlowJacobian, LanczosOptions, PowerRule, power_iteration, top_singular_triplet};
use metastable_dynamics::{Head, Matrix, random};

use crate::Failure;

/// n, d, mask and seed: n·d from 1024 to 1536.
const SHAPES: [(usize, usize, Mask, u64); 6] = [
    (64, 16, Mask::Full, 10),
    (64, 16, Mask::Causal, 20),
    (32, 32, Mask::Full, 30),
    (48, 32, Mask::Causal, 40),
    (128, 8, Mask::Full, 50),
    (96, 16, Mask::Causal, 60),
];

/// Prints one line a shape: steps of Lanczos to a relative 1e-6 and to its own stop, iterations of the authors' rule
/// (absolute 1e-4 on the square), the products that each costs, and the error that each leaves.
pub(crate) fn print() -> Result<(), Failure> {
    println!("Lanczos beside the authors' rule (|µ - µ'| <= 1e-4 on the square, at most 100); products with J and Jᵀ");
    println!(
        "{:>4} {:>3} {:<7} {:>10} {:>10} {:>9} {:>9} {:>10} {:>9} {:>9}",
        "n", "d", "mask", "constant", "steps 1e-6", "products", "to stop", "authors", "products", "error"
    );
    for (n, d, mask, seed) in SHAPES {
        let scale = 1.0 / (d as f64).sqrt();
        let draw = |seed| Matrix::new("random", d, d, random::standard_normal(seed, d, d)).map(|m| m.scaled(scale));
        let head = Head::new(draw(seed)?, Matrix::scaled_identity(d, 1.0), draw(seed + 1)?, None)?;
        let kernel = AttentionKernel::softmax(1.0)?.masked(mask);
        let flow = AttentionFlow::Particle(ParticleFlow::new(vec![head], kernel, n, Placement::Ambient)?);
        let tokens = random::standard_normal(seed + 2, n, d);
        let map = FlowJacobian { flow: &flow, t: 0.0, state: &tokens };
        let top = top_singular_triplet(&map, &LanczosOptions::default())?;
        let near = |value: &f64| top.value - value <= 1e-6 * top.value;
        let steps = 1 + top.history.iter().position(near).unwrap_or(top.steps);
        let power = power_iteration(&map, &PowerRule::as_published())?;
        println!(
            "{n:>4} {d:>3} {:<7} {:>10.6} {steps:>10} {:>9} {:>9} {:>10} {:>9} {:>9.1e}",
            if mask == Mask::Full { "full" } else { "causal" },
            top.value,
            2 * steps,
            2 * top.steps,
            power.iterations,
            2 * power.iterations,
            1.0 - power.value / top.value
        );
    }
    Ok(())
}
