//! One evaluation of the attention field for many tokens: its time, and what it adds to the peak of resident memory.
//!
//! ```text
//! cargo run --release -p metastable-dynamics --example field_memory -- [N] [f32]      (default 20000, in f64)
//! ```
//!
//! The fused field holds O(n d) numbers; an n x n matrix of weights would take 3.2 GB for N = 20000 and 80 GB for
//! N = 100000. `RAYON_NUM_THREADS` sets the number of threads. Memory is read from Linux' /proc.
// An example is a user of the mathematics: it may read a clock and a file.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::time::Instant;

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::{ParticleFlow, Placement, VectorField};
use metastable_dynamics::{Head, random};

const DIM: usize = 3;
const REPEATS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).map_or(Ok(20_000), |n| n.parse())?;
    // Starts the threads, so that their stacks are not counted.
    rayon::broadcast(|_| ());
    let before = peak_memory();
    let tokens = random::standard_normal(1, count, DIM);
    let flow = ParticleFlow::new(vec![Head::identity(DIM)], AttentionKernel::softmax(1.0)?, count, Placement::Ambient)?;
    let single = std::env::args().nth(2).is_some_and(|precision| precision == "f32");
    let flow = if single { flow.in_single_precision() } else { flow };
    let mut velocity = vec![0.0; tokens.len()];
    let mut seconds: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            flow.evaluate(0.0, &tokens, &mut velocity);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let per_pair = seconds[REPEATS / 2] / (count * count) as f64 * 1e9;
    println!("n = {count}, d = {DIM}, {} threads", rayon::current_num_threads());
    println!("median of {REPEATS}: {:.3} s, {per_pair:.2} ns a pair of tokens", seconds[REPEATS / 2]);
    match (before, peak_memory()) {
        (Some(before), Some(after)) => println!(
            "peak resident memory {:.1} MB, of which tokens and field take {:.1} MB; an n x n matrix of f64 would take {:.0} MB",
            after / 1024.0,
            (after - before) / 1024.0,
            (count * count * 8) as f64 / 1e6
        ),
        _ => println!("peak memory: unknown here"),
    }
    println!("first velocity: {:?}", &velocity[..DIM]);
    Ok(())
}

/// VmHWM of this process in kB.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
