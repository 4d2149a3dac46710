//! Times what balancing adds to an optimizer step: `projection_time [bert|smollm2] [RANK] [RUNS]`.
//!
//! Steps all factor pairs of an adapter (BERT-base: query and value; SmolLM2-135M: every linear map) on random
//! gradients, one after the other, as LoRA and as BaLoRA. Prints the least time of a step of each and the difference:
//! beside the time of a whole training step (benches/peers/finetune.py) it is the share of the projection.

use std::time::Instant;

use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::{DynamicsError, Matrix, random};
use metastable_model::train::{Balora, Base, Form, Gradient, Method, PairOptimizer};

/// Inputs and outputs of the adapted maps of one layer, and the number of layers.
fn shapes(model: &str) -> (Vec<(usize, usize)>, usize) {
    match model {
        "smollm2" => (vec![(576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576)], 30),
        _ => (vec![(768, 768), (768, 768)], 12),
    }
}

fn normal(seed: u64, rows: usize, columns: usize, scale: f64) -> Matrix {
    let draws = random::standard_normal(seed, rows, columns);
    Matrix::from_fn(rows, columns, |i, j| scale * draws[i * columns + j])
}

fn main() -> Result<(), DynamicsError> {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize, default| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (maps, layers) = shapes(arguments.get(1).map_or("bert", |model| model));
    let (rank, runs) = (number(2, 8), number(3, 5));
    let mut pairs = Vec::new();
    for (k, (inputs, outputs)) in (0..layers).flat_map(|_| &maps).enumerate() {
        let seed = 4 * k as u64;
        let pair = LowRankPair::new(normal(seed, rank, *inputs, 0.03), normal(seed + 1, *outputs, rank, 0.003))?;
        let gradient = Gradient { a: normal(seed + 2, rank, *inputs, 1e-3), b: normal(seed + 3, *outputs, rank, 1e-3) };
        pairs.push((pair, gradient));
    }
    let balora = Method::Balora(Balora { form: Form::Canonical, transport: true, every: 1 });
    let base = Base::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    let mut least = [f64::INFINITY; 2];
    for _ in 0..runs {
        for (least, method) in least.iter_mut().zip([Method::Lora, balora]) {
            let mut optimizers: Vec<_> =
                pairs.iter().map(|(pair, _)| PairOptimizer::new(method, base, pair, 2.0)).collect();
            let start = Instant::now();
            for (optimizer, (pair, gradient)) in optimizers.iter_mut().zip(&pairs) {
                optimizer.step(pair, gradient, 1e-4, 0.0)?;
            }
            *least = least.min(start.elapsed().as_secs_f64());
        }
    }
    let [plain, balanced] = least;
    println!("{} pairs, rank {rank}, one thread", pairs.len());
    println!("step of LoRA {:.2} ms, of BaLoRA {:.2} ms", 1e3 * plain, 1e3 * balanced);
    println!("projection {:.2} ms", 1e3 * (balanced - plain));
    Ok(())
}
