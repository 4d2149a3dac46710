//! Times the hidden states of N tokens through a checkpoint: `forward_time MODEL N RUNS`.
//!
//! Prints `seconds S` for every run, and on Linux `peak P`, the most memory the process had, in bytes. Used by
//! benches/peers/compare-forward.

use std::path::Path;
use std::time::Instant;

use metastable_model::{Input, Model, ModelError};

fn main() -> Result<(), ModelError> {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize, default| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let model = Model::open(Path::new(arguments.get(1).map_or("model.gguf", |path| path)))?;
    let vocab = model.summary().vocab as u64;
    let ids = (0..number(2, 512)).map(|i| (1000 + i * 7919 % (vocab / 2)) as u32).collect();
    let input = Input::new(ids)?;
    for _ in 0..number(3, 3) {
        let start = Instant::now();
        let hidden = model.forward(&input)?;
        println!("seconds {:.4}", start.elapsed().as_secs_f64());
        assert_eq!(hidden.levels(), model.config().layers + 1);
    }
    if let Some(peak) = peak() {
        println!("peak {peak}");
    }
    Ok(())
}

/// The high-water mark of resident memory, in bytes.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}
