//! How long `adapter info` takes for an adapter of a 7B model: 32 layers of 7 modules, r = 16, written here.
//!
//! ```sh
//! cargo run --release -p metastable --example adapter-speed -- [FOLDER]
//! benches/peers/adapter_info.py FOLDER
//! ```
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use metastable::adapter::info;
use metastable_dynamics::random::standard_normal;
use metastable_model::lora::{Adapter, Factor, LoraModule, PeftFiles};

/// Llama-2-7B: [out, in] of the seven maps of a layer.
const SHAPES: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", 4096, 4096),
    ("self_attn.k_proj", 4096, 4096),
    ("self_attn.v_proj", 4096, 4096),
    ("self_attn.o_proj", 4096, 4096),
    ("mlp.gate_proj", 11008, 4096),
    ("mlp.up_proj", 11008, 4096),
    ("mlp.down_proj", 4096, 11008),
];
const LAYERS: usize = 32;
const RANK: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("adapter-7b"), PathBuf::from);
    write(&folder)?;
    for _ in 0..5 {
        let start = Instant::now();
        let report = info(&folder, None)?;
        println!(
            "{:.3} s for {} modules, {} numbers",
            start.elapsed().as_secs_f64(),
            report.modules.len(),
            report.parameters
        );
    }
    Ok(())
}

fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let factor = |seed, rows, columns| {
        let values = standard_normal(seed, rows, columns).into_iter().map(|value| 0.01 * value as f32).collect();
        Factor::new(rows, columns, values)
    };
    let mut modules = Vec::new();
    for layer in 0..LAYERS {
        for (i, (name, outputs, inputs)) in SHAPES.into_iter().enumerate() {
            let seed = 2 * (layer * SHAPES.len() + i) as u64;
            let name = format!("model.layers.{layer}.{name}");
            let (a, b) = (factor(seed, RANK, inputs)?, factor(seed + 1, outputs, RANK)?);
            modules.push(LoraModule::linear(&name, a, b, 32.0, false)?);
        }
    }
    let files = Adapter::from_modules(modules, Vec::new(), false, None, Some("CAUSAL_LM")).to_peft()?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(PeftFiles::CONFIG), files.config)?;
    Ok(std::fs::write(folder.join(PeftFiles::WEIGHTS), files.tensors)?)
}
