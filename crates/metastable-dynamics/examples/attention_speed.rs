//! The time of one attention field, as `benches/peers/attention` measures it against other programs.
//!
//! ```text
//! cargo run --release -p metastable-dynamics --example attention_speed -- f32 8192 3 [REPEATS] [general]
//! cargo run --release -p metastable-dynamics --example attention_speed -- peak
//! cargo run --release -p metastable-dynamics --example attention_speed              (commands on standard input)
//! ```
//!
//! Softmax attention of n tokens on the unit sphere of R^d with themselves, beta = 4, on all threads
//! (`RAYON_NUM_THREADS`). The first form prints the largest error of three rows against f64, then the seconds of each
//! repetition. Scores of tokens with themselves are symmetric, so that each pair is weighed once; `general` turns the
//! queries by a quarter in the first plane, so that they are not. The second prints the fused products that all threads reach in registers, in GFLOP/s. The third answers
//! every line `f32 8192 3` or `f32 8192 3 general` of standard input by `SECONDS ERROR` of one repetition, after a first one that is not timed.
// An example is a user of the mathematics: it may read a clock and standard input.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::attention::fused::{Real, Rows, attend};
use metastable_dynamics::random;
use pulp::{Arch, Simd, WithSimd};

const BETA: f64 = 4.0;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        None => serve(),
        Some("peak") => {
            println!("{:.1} {:.1}", peak_gflops::<f32>(), peak_gflops::<f64>());
            Ok(())
        }
        Some(number) => {
            let general = arguments.iter().any(|word| word == "general");
            let mut field = Field::new(number, [size(arguments.get(1))?, size(arguments.get(2))?], general)?;
            println!("error {:e}", field.run().1);
            let repeats = arguments.get(3).filter(|word| *word != "general");
            for _ in 0..repeats.map_or(Ok(7), |text| text.parse())? {
                println!("seconds {:.6}", field.run().0);
            }
            Ok(())
        }
    }
}

/// Answers the commands on standard input.
fn serve() -> Result<(), Box<dyn Error>> {
    let mut current: Option<(String, Field)> = None;
    for line in std::io::stdin().lines() {
        let line = line?;
        if current.as_ref().is_none_or(|(name, _)| *name != line) {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let number = words.first().map_or("", String::as_str);
            let mut field = Field::new(number, [size(words.get(1))?, size(words.get(2))?], words.len() > 3)?;
            field.run();
            current = Some((line, field));
        }
        if let Some((_, field)) = &mut current {
            let (seconds, error) = field.run();
            println!("{seconds:.6} {error:e}");
        }
    }
    Ok(())
}

fn size(text: Option<&String>) -> Result<usize, Box<dyn Error>> {
    Ok(text.ok_or("expected TYPE N D, such as f32 8192 3")?.parse()?)
}

/// Queries and tokens, a kernel, and room for the field.
struct Field {
    queries: Vec<f64>,
    tokens: Vec<f64>,
    dim: usize,
    kernel: AttentionKernel,
    numbers: Numbers,
}

/// Queries, tokens and room for their field.
enum Numbers {
    Single([Vec<f32>; 3]),
    Double([Vec<f64>; 3]),
}

impl Field {
    fn new(number: &str, [count, dim]: [usize; 2], general: bool) -> Result<Self, Box<dyn Error>> {
        let mut tokens = random::standard_normal(1, count, dim);
        for token in tokens.chunks_exact_mut(dim) {
            let norm = token.iter().map(|x| x * x).sum::<f64>().sqrt();
            token.iter_mut().for_each(|x| *x /= norm);
        }
        if number == "f32" {
            tokens.iter_mut().for_each(|x| *x = f64::from(*x as f32));
        }
        let mut queries = tokens.clone();
        for query in queries.chunks_exact_mut(dim).filter(|query| general && query.len() > 1) {
            (query[0], query[1]) = (-query[1], query[0]);
        }
        let single = |numbers: &[f64]| numbers.iter().map(|x| *x as f32).collect();
        let numbers = match number {
            "f32" => Numbers::Single([single(&queries), single(&tokens), vec![0.0; tokens.len()]]),
            "f64" => Numbers::Double([queries.clone(), tokens.clone(), vec![0.0; tokens.len()]]),
            _ => return Err("expected f32 or f64".into()),
        };
        Ok(Self { queries, tokens, dim, kernel: AttentionKernel::softmax(BETA)?, numbers })
    }

    /// Seconds and error of one field.
    fn run(&mut self) -> (f64, f64) {
        let Self { queries, tokens, dim, kernel, numbers } = self;
        let exact = [queries.as_slice(), tokens.as_slice()];
        match numbers {
            Numbers::Single(numbers) => (timed(numbers, *dim, kernel), error(exact, *dim, &numbers[2])),
            Numbers::Double(numbers) => (timed(numbers, *dim, kernel), error(exact, *dim, &numbers[2])),
        }
    }
}

fn timed<T: Real>([queries, tokens, out]: &mut [Vec<T>; 3], dim: usize, kernel: &AttentionKernel) -> f64 {
    let (queries, tokens) = (Rows::new(black_box(queries), dim), Rows::new(black_box(tokens), dim));
    let start = Instant::now();
    attend(queries, tokens, tokens, kernel, black_box(out));
    start.elapsed().as_secs_f64()
}

/// The largest error of the first, the 18th and the last row.
fn error<T: Real>([queries, tokens]: [&[f64]; 2], dim: usize, out: &[T]) -> f64 {
    let rows: Vec<&[f64]> = tokens.chunks_exact(dim).collect();
    let queries: Vec<&[f64]> = queries.chunks_exact(dim).collect();
    let mut worst = 0.0_f64;
    for i in [0, 17.min(rows.len() - 1), rows.len() - 1] {
        let dot = |j: usize| queries[i].iter().zip(rows[j]).map(|(x, y)| x * y).sum::<f64>();
        let weights: Vec<f64> = (0..rows.len()).map(|j| (BETA * (dot(j) - 1.0)).exp()).collect();
        let total: f64 = weights.iter().sum();
        for c in 0..dim {
            let exact = weights.iter().zip(&rows).map(|(w, row)| w * row[c]).sum::<f64>() / total;
            worst = worst.max((out[i * dim + c].to_f64() - exact).abs());
        }
    }
    worst
}

/// Twelve sums in registers, each waiting for itself alone: nothing but fused products.
struct Products<T>(usize, std::marker::PhantomData<T>);

macro_rules! products {
    ($real:ty, $splat:ident, $lanes:ident, $mul_add:ident) => {
        impl WithSimd for Products<$real> {
            type Output = usize;

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) -> usize {
                let (factor, term) = (simd.$splat(black_box(0.9999)), simd.$splat(black_box(1e-3)));
                let mut sums = [simd.$splat(1.0); 12];
                for _ in 0..self.0 {
                    for sum in &mut sums {
                        *sum = simd.$mul_add(*sum, factor, term);
                    }
                }
                black_box(&sums);
                24 * S::$lanes * self.0
            }
        }
    };
}

products!(f32, splat_f32s, F32_LANES, mul_add_f32s);
products!(f64, splat_f64s, F64_LANES, mul_add_f64s);

/// The best of 20 rounds on all threads.
fn peak_gflops<T: Real>() -> f64
where
    Products<T>: WithSimd<Output = usize>,
{
    let round = || {
        let start = Instant::now();
        let operations: usize =
            rayon::broadcast(|_| Arch::new().dispatch(Products::<T>(1_000_000, std::marker::PhantomData))).iter().sum();
        operations as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    // Half a second: until the threads have found cores of their own.
    (0..200).map(|_| round()).fold(0.0, f64::max)
}
