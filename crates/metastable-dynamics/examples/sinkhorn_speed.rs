//! The times of Sinkhorn attention: its potentials, its field, and its Jacobian products.
//!
//! ```text
//! cargo run --release -p metastable-dynamics --example sinkhorn_speed -- N D [EPSILON] [REPEATS]
//! ```
//!
//! n normal tokens of R^d under normal queries, keys and values, beta = 1/√d, so that scores are of order one whatever d
//! is; ε = 0.5 unless given. Prints the passes that the potentials took, then the least seconds of the repetitions (3)
//! on all threads (`RAYON_NUM_THREADS`): `solve` alone, `field` the messages from the potentials, `jvp` and `vjp`
//! with the solve they begin with. The checksums tell whether two builds compute the same.
// An example is a user of the mathematics: it may read a clock.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use metastable_dynamics::attention::jacobian::{attend_jvp, attend_vjp};
use metastable_dynamics::attention::sinkhorn::{attend, solve};
use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Projections, Score, Sinkhorn};
use metastable_dynamics::{Matrix, random};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [n, d] =
        [0, 1].map(|at| arguments.get(at).ok_or("expected N D").and_then(|s| s.parse().map_err(|_| "a number")));
    let (n, d): (usize, usize) = (n?, d?);
    let options = Sinkhorn::converged(arguments.get(2).map_or(Ok(0.5), |text| text.parse())?);
    let repeats: usize = arguments.get(3).map_or(Ok(3), |text| text.parse())?;
    for score in [Score::Dot, Score::SquaredDistance] {
        let beta = (d as f64).sqrt().recip();
        let kernel = AttentionKernel::new(score, Normalization::Sinkhorn(options), Mask::Full, beta)?;
        let projections = [1, 5].map(|seed| cloud(&kernel, seed, n, d));
        let cotangent = random::standard_normal(9, n, d);
        let potentials = solve(&projections[0], options, &[])?;
        println!("{score:?} n {n} d {d} epsilon {} passes {}", options.epsilon, potentials.iterations());
        report("solve", repeats, || solve(&projections[0], options, &[]).map_or(f64::NAN, |p| p.column()[0]));
        let mut out = vec![0.0; n * d];
        report("field", repeats, || {
            attend(&projections[0], options, &potentials, &mut out);
            sum_of_sizes(&out)
        });
        report("jvp", repeats, || {
            attend_jvp(&projections[0], &projections[1], &kernel, &mut out);
            sum_of_sizes(&out)
        });
        report("vjp", repeats, || {
            let bars = attend_vjp(&projections[0], &kernel, &cotangent);
            sum_of_sizes(&bars.queries) + sum_of_sizes(&bars.keys) + sum_of_sizes(&bars.values)
        });
    }
    Ok(())
}

fn cloud(kernel: &AttentionKernel, seed: u64, n: usize, d: usize) -> Projections {
    let matrix = |seed: u64| {
        let entries = random::standard_normal(100 + seed, d, d);
        Matrix::new("head", d, d, entries).map(|matrix| matrix.scaled((d as f64).sqrt().recip()))
    };
    let mut projections = Projections::zeros(n, d, d);
    if let (Ok(query), Ok(key), Ok(value)) = (matrix(0), matrix(1), matrix(2)) {
        projections.fill(kernel, 1.0, &random::standard_normal(seed, n, d), [&query, &key, &value]);
    }
    projections
}

fn sum_of_sizes(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x.abs()).sum()
}

fn report(name: &str, repeats: usize, mut work: impl FnMut() -> f64) {
    let (mut least, mut checksum) = (f64::INFINITY, 0.0);
    for _ in 0..repeats {
        let start = Instant::now();
        checksum = black_box(work());
        least = least.min(start.elapsed().as_secs_f64());
    }
    println!("  {name:6} {least:.4} s   {checksum:.12e}");
}
