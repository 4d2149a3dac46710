//! The T(eps) diagram of arXiv 2402.15415v1 [code]: when LoRA twins of a two-cluster run form clusters and leave them.
//!
//! ```text
//! cargo run --release -p metastable --example phase_diagram -- [--method exact|euler] [--output DIR] [--seconds]
//! ```
//!
//! Without `--method`, both are computed. With `--output`, DIR gets `phase-diagram.csv` and `phase-diagram.svg`.
//! `--seconds` prints the time of the computation alone, for `benches/peers/compare`.

mod diagram;
mod figure;
mod published;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use diagram::{Diagram, Scheme};
use metastable::arrays::read_array;
use metastable_dynamics::observe::BracketedTime;

/// The authors' tokens, `numpy.random.RandomState(42).uniform(-1, 1, (20, 2))`.
const TOKENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tokens/seed-42.npy");

/// What the user asked for.
struct Request {
    schemes: Vec<Scheme>,
    output: Option<PathBuf>,
    times_itself: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let request = parse(std::env::args().skip(1))?;
    let tokens = read_array(Path::new(TOKENS), "tokens")?.into_tokens(Path::new(TOKENS))?;
    let mut diagrams = Vec::new();
    for &scheme in &request.schemes {
        let start = Instant::now();
        let diagram = diagram::diagram(&tokens, scheme, &published::EPSILONS)?;
        let seconds = start.elapsed().as_secs_f64();
        print_table(scheme, &diagram);
        if request.times_itself {
            println!("seconds {seconds:.4}");
        }
        diagrams.push((scheme, diagram));
    }
    if let Some(folder) = request.output {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("phase-diagram.csv"), figure::csv(&diagrams))?;
        std::fs::write(folder.join("phase-diagram.svg"), figure::svg(&diagrams))?;
        eprintln!("wrote phase-diagram.csv and phase-diagram.svg to {}", folder.display());
    }
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request, Box<dyn Error>> {
    let mut request = Request { schemes: vec![Scheme::Exact, Scheme::Euler], output: None, times_itself: false };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--method" => {
                request.schemes = match arguments.next().as_deref() {
                    Some("exact") => vec![Scheme::Exact],
                    Some("euler") => vec![Scheme::Euler],
                    other => return Err(format!("--method: expected exact or euler, found {other:?}").into()),
                }
            }
            "--output" => request.output = Some(arguments.next().ok_or("--output: expected a folder")?.into()),
            "--seconds" => request.times_itself = true,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(request)
}

fn print_table(scheme: Scheme, diagram: &Diagram) {
    println!("{}", scheme.title());
    for center in &diagram.clusters.centers {
        println!("  cluster of V = I: ({:.10}, {:.10})", center[0], center[1]);
    }
    println!("  eps * T_departure -> {} as eps -> 0 (closed form)\n", scheme.constant());
    println!(
        "{:>7} {:>10} {:>14} {:>8} {:>10}  {:<15} note",
        "eps", "T_cluster", "T_departure", "+-", "eps*T_dep", "authors"
    );
    for (i, point) in diagram.points.iter().enumerate() {
        let authors = format!("{:.1} {:.1}", published::CLUSTERINGS[i], published::DEPARTURES[i]);
        println!(
            "{:>7} {:>10} {:>14} {:>8} {:>10}  {authors:<15} {}",
            point.epsilon,
            time(point.cluster, scheme.decimals()),
            time(point.departure, scheme.decimals()),
            half_width(point.departure),
            point.departure.value.map_or_else(|| "-".into(), |t| format!("{:.6}", t * point.epsilon)),
            published::note(i),
        );
    }
    println!();
}

fn time(time: BracketedTime, decimals: usize) -> String {
    time.value.map_or_else(|| "never".into(), |t| format!("{t:.decimals$}"))
}

/// Half the width of the bracket.
fn half_width(time: BracketedTime) -> String {
    time.bracket.map_or_else(|| "-".into(), |[low, high]| format!("{:.0e}", (high - low) / 2.0))
}
