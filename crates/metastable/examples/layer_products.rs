//! Times of one Lanczos step (J E and Jᵀ G) of a layer's attention, and of a profile over all layers.
//!
//! ```text
//! cargo run --release -p metastable --example layer_products -- MODEL N LAYER [profile]
//! ```
//!
//! Prints seconds of each product and the growth of the peak of memory over them (Linux); with
//! `profile` also lower and upper constants of every layer. The peer is `benches/peers/layer_jacobian.py`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use metastable_dynamics::random;
use metastable_dynamics::smoothness::LinearMap;
use metastable_model::smoothness::single_precision_lanczos;
use metastable_model::{Input, LayerPart, Model, Precision};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, n, layer, rest @ ..] = &arguments[..] else { return Err("expected MODEL N LAYER [profile]".into()) };
    let (n, layer): (u32, usize) = (n.parse()?, layer.parse()?);
    let model = Model::open(model.as_ref())?;
    let most = u32::try_from(model.config().vocab)? - 10;
    let hidden = model.forward(&Input::new((0..n).map(|i| 7 + (1 + 31 * i * i + 7 * i) % most).collect())?)?;
    for part in [LayerPart::Attention, LayerPart::Block] {
        let map = model.layer_jacobian(&hidden, layer, part, Precision::F32)?;
        let direction = random::standard_normal(0, 1, map.inputs());
        let mut out = vec![0.0; map.inputs()];
        let before = fresh_peak_memory();
        let mut costs = [[f64::INFINITY, 0.0]; 2];
        for (transposed, [best, cpu]) in costs.iter_mut().enumerate() {
            let before = cpu_seconds();
            for _ in 0..REPEATS {
                let start = Instant::now();
                if transposed == 1 {
                    map.apply_transposed(&direction, &mut out)
                } else {
                    map.apply(&direction, &mut out)
                }
                *best = best.min(start.elapsed().as_secs_f64());
            }
            *cpu = (cpu_seconds() - before) / f64::from(REPEATS);
        }
        let grown = (peak_memory() - before) / 1024.0;
        let [[jvp, jvp_cpu], [vjp, vjp_cpu]] = costs;
        println!(
            "{part:?} n = {n}: J E {jvp:.4} s (cpu {jvp_cpu:.4}), Jᵀ G {vjp:.4} s (cpu {vjp_cpu:.4}), peak +{grown:.1} MiB"
        );
    }
    if rest.first().is_some_and(|word| word == "profile") {
        let start = Instant::now();
        for layer in 0..model.config().layers {
            let found = model.layer_constant(&hidden, layer, LayerPart::Attention, &single_precision_lanczos())?;
            let (lower, steps) = (found.triplet.value, found.triplet.steps);
            println!("layer {layer}: {lower:.4} <= L <= {:.4} ({steps} steps)", found.upper);
        }
        println!("profile of {} layers: {:.2} s", model.config().layers, start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Products of each kind: the best wall time counts, and the mean processor time, which a busy machine changes little.
const REPEATS: u32 = 10;

/// User and system time of all threads of this process, in steps of 10 ms; 0 where there is no such file.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The peak of memory, counted from now on (Linux: 5 in `clear_refs` sets it to what the process holds).
fn fresh_peak_memory() -> f64 {
    // Where there is no such file the earlier peak stays, and the growth is one from there.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    peak_memory()
}

/// VmHWM of this process in KiB, 0 where there is no such file.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
}
