//! The time of one attention field, as `benches/peers/attention` measures it against other programs.
//!
//! ```text
//! cargo run --release -p metastable-dynamics --example attention_speed -- f32 8192 3 [REPEATS]
//! ```
//!
//! Softmax attention of n tokens on the unit sphere of R^d with themselves, beta = 4, all threads (`RAYON_NUM_THREADS`).
//! Prints first the largest `error` of three rows against f64, then `seconds S` for each repetition.
// An example is a user of the mathematics: it may read a clock.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::attention::fused::{Real, Rows, attend};
use metastable_dynamics::random;

const BETA: f64 = 4.0;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| arguments.get(index).map_or(Ok(default), |text| text.parse());
    let (count, dim, repeats) = (number(1, 8192)?, number(2, 3)?, number(3, 7)?);
    match arguments.first().map(String::as_str) {
        Some("f32") => field::<f32>(count, dim, repeats),
        Some("f64") => field::<f64>(count, dim, repeats),
        _ => Err("the first argument is f32 or f64".into()),
    }
}

fn field<T: Real>(count: usize, dim: usize, repeats: usize) -> Result<(), Box<dyn Error>> {
    let mut tokens = random::standard_normal(1, count, dim);
    for token in tokens.chunks_exact_mut(dim) {
        let norm = token.iter().map(|x| x * x).sum::<f64>().sqrt();
        token.iter_mut().for_each(|x| *x = T::from_f64(*x / norm).to_f64());
    }
    let numbers: Vec<T> = tokens.iter().map(|x| T::from_f64(*x)).collect();
    let kernel = AttentionKernel::softmax(BETA)?;
    let rows = Rows::new(&numbers, dim);
    let mut out = vec![T::default(); numbers.len()];
    attend(rows, rows, rows, &kernel, &mut out);
    println!("error {:e}", error(&tokens, dim, &out));
    for _ in 0..repeats {
        let start = Instant::now();
        attend(rows, rows, rows, &kernel, black_box(&mut out));
        println!("seconds {:.6}", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The largest error of the first, the 18th and the last row.
fn error<T: Real>(tokens: &[f64], dim: usize, out: &[T]) -> f64 {
    let rows: Vec<&[f64]> = tokens.chunks_exact(dim).collect();
    let mut worst = 0.0_f64;
    for i in [0, 17, rows.len() - 1] {
        let dot = |j: usize| rows[i].iter().zip(rows[j]).map(|(x, y)| x * y).sum::<f64>();
        let weights: Vec<f64> = (0..rows.len()).map(|j| (BETA * (dot(j) - 1.0)).exp()).collect();
        let total: f64 = weights.iter().sum();
        for c in 0..dim {
            let exact = weights.iter().zip(&rows).map(|(w, row)| w * row[c]).sum::<f64>() / total;
            worst = worst.max((out[i * dim + c].to_f64() - exact).abs());
        }
    }
    worst
}
