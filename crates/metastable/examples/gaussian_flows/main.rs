//! One hundred random Gaussian flows of d = 5 under softmax attention: what becomes of each, and when.
//!
//! ```text
//! cargo run --release -p metastable --example gaussian_flows -- [--by-run] [--general] [--seconds] [--write FILE]
//! ```
//!
//! Two thirds are drawn as for the published histograms: Q of two rows, K = -Q, with V = I and with V = GᵀG. A third has
//! V = I and independent Q and K: these blow up.
//! `--general` draws Q, K and V independently instead: four in ten grow along one direction for ever, which makes all the
//! rest stiff.
//! `--by-run` uses no certificate, so that every flow is integrated; `--seconds` prints the time of the classification
//! alone, for `benches/peers/compare-gaussian`; `--write` saves the drawn matrices for a peer (`.safetensors`).

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use metastable::arrays::{Tensor, TensorData, safetensors_bytes};
use metastable_dynamics::field::{GaussianFlow, GaussianKernel};
use metastable_dynamics::gaussian::{JudgeOptions, Regime, Verdict, judge};
use metastable_dynamics::measure::Gaussian;
use metastable_dynamics::{DynamicsError, Head, Matrix, random};

const FLOWS: usize = 100;
const DIM: usize = 5;
const ROWS: usize = 2;

/// A flow, its start, and V.
struct Drawn {
    flow: GaussianFlow,
    start: Gaussian,
    value: Matrix,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut by_run, mut general, mut times_itself, mut file) = (false, false, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--by-run" => by_run = true,
            "--general" => general = true,
            "--seconds" => times_itself = true,
            "--write" => file = Some(arguments.next().ok_or("--write: expected a file")?),
            other => return Err(format!("{other}: expected --by-run, --general, --seconds or --write FILE").into()),
        }
    }
    let drawn = (0..FLOWS).map(|index| draw(index, general)).collect::<Result<Vec<_>, _>>()?;
    if let Some(file) = file {
        std::fs::write(&file, matrices(&drawn))?;
        return Ok(());
    }
    let options = JudgeOptions { use_certificates: !by_run, ..JudgeOptions::default() };
    let clock = Instant::now();
    let verdicts =
        drawn.iter().map(|drawn| judge(&drawn.flow, &drawn.start, &options)).collect::<Result<Vec<_>, _>>()?;
    let seconds = clock.elapsed().as_secs_f64();
    print_tally(&verdicts);
    if times_itself {
        println!("seconds {seconds:.4}");
    }
    Ok(())
}

fn draw(index: usize, is_general: bool) -> Result<Drawn, DynamicsError> {
    // Five streams a flow.
    let normal = |stream: usize, rows: usize| {
        let values = random::standard_normal((5 * index + stream) as u64, rows, DIM);
        Matrix::new("draw", rows, DIM, values)
    };
    let factor = normal(0, DIM)?;
    let start = Gaussian::centred(factor.multiply(&factor.transpose()))?;
    let query = normal(1, ROWS)?;
    let square = normal(3, DIM)?;
    let (key, value) = match (is_general, index % 3) {
        (true, _) => (normal(2, ROWS)?, square),
        (false, 0) => (query.scaled(-1.0), Matrix::scaled_identity(DIM, 1.0)),
        (false, 1) => (normal(2, ROWS)?, Matrix::scaled_identity(DIM, 1.0)),
        (false, _) => (query.scaled(-1.0), square.transpose().multiply(&square)),
    };
    // Scores over √d, as in the authors' code.
    let kernel = GaussianKernel::Softmax { beta: 1.0 / (DIM as f64).sqrt() };
    let flow = GaussianFlow::new(vec![Head::new(query, key, value.clone(), None)?], kernel, &start)?;
    Ok(Drawn { flow, start, value })
}

/// `logits` (A, with beta), `value` and `covariance`, [100, 5, 5] each.
fn matrices(drawn: &[Drawn]) -> Vec<u8> {
    let stack = |of: &dyn Fn(&Drawn) -> Vec<f64>| drawn.iter().flat_map(of).collect::<Vec<f64>>();
    let arrays = [
        ("logits", stack(&|drawn| drawn.flow.logits(0).as_slice().to_vec())),
        ("value", stack(&|drawn| drawn.value.as_slice().to_vec())),
        ("covariance", stack(&|drawn| drawn.start.covariance().as_slice().to_vec())),
    ];
    let shape = [drawn.len(), DIM, DIM];
    let tensors: Vec<Tensor> =
        arrays.iter().map(|(name, values)| Tensor::new(name, &shape, TensorData::F64(values))).collect();
    safetensors_bytes(&tensors, &BTreeMap::new())
}

fn print_tally(verdicts: &[Verdict]) {
    let mut tally = BTreeMap::<String, usize>::new();
    for verdict in verdicts {
        let name = match &verdict.regime {
            Regime::Collapse { rank } if verdict.is_settled => format!("collapse to rank {rank}"),
            _ => verdict.name().replace('_', " "),
        };
        *tally.entry(name).or_default() += 1;
    }
    for (name, count) in tally {
        println!("{count:4} {name}");
    }
    let mut poles: Vec<f64> = verdicts
        .iter()
        .filter_map(|verdict| if let Regime::BlowUp(pole) = &verdict.regime { Some(pole.time) } else { None })
        .collect();
    poles.sort_by(f64::total_cmp);
    if let (Some(first), Some(last)) = (poles.first(), poles.last()) {
        println!("     blow-up times from {first:.12} to {last:.12}");
    }
    let evaluations: u64 = verdicts.iter().map(|verdict| verdict.evaluations).sum();
    println!("     {evaluations} evaluations of the field");
}
