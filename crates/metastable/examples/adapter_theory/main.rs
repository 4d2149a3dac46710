//! Experiments with adapters on small problems: what balance is worth, in theory and in practice.
//!
//! ```text
//! cargo run --release -p metastable --example adapter_theory -- EXPERIMENT --output FOLDER [--seeds N]
//!
//!   factorisation       condition numbers and rates of matrix factorisation against their formulas
//!   sensing             the same from Gaussian measurements
//!   regression          the same from inputs whose covariance has condition number 1, 100, 10000
//!   synthetic LAYERS    the paper's synthetic figure, one or two linear layers under sign descent
//!   heat-map LAYERS     the same over rates and starts
//!   forgetting DEPTH    addition modulo 17 while an adapter learns subtraction
//!   protocol TASK       all methods over a grid of rates and scales; TASK is chain-1, chain-2, teacher, or mails with
//!                       --model FOLDER (a BERT with its pooler) and --mails FILE.jsonl (scripts/fetch-data);
//!                       --base adamw, sgd or sign, --decay 0.01, --clip 1.0: what moves the factors of all methods
//! ```
//!
//! FOLDER gets a table (`points.parquet`, `points.csv`, a row a run), `report.json`, its page and figures. A run that is killed
//! continues when the same command is given again.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod adapted;
mod conditioning;
mod forgetting;
mod judge;
mod methods;
mod modular;
mod problems;
mod protocol;
mod statistics;
mod synthetic;
mod table;

use std::error::Error;
use std::path::PathBuf;

use conditioning::{Cases, Loss};
use metastable_model::train::Base;
use protocol::{Grid, Movement, Sources, Task};
use synthetic::Figure;

/// What the user asked for.
struct Request {
    words: Vec<String>,
    output: PathBuf,
    seeds: Option<u64>,
    sources: Option<Sources>,
    movement: Movement,
}

fn main() -> Result<(), Box<dyn Error>> {
    let request = parse(std::env::args().skip(1))?;
    let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
    let seeds = |usual: u64| request.seeds.unwrap_or(usual);
    match words[..] {
        ["factorisation"] => conditioning::run(Loss::Factorisation, &Cases::usual(seeds(5)), &request.output),
        ["sensing"] => conditioning::run(Loss::Sensing, &Cases::usual(seeds(5)), &request.output),
        ["regression"] => conditioning::run(Loss::Regression, &Cases::usual_regression(seeds(5)), &request.output),
        ["synthetic", layers] => {
            let size = synthetic::Size::published(of_two("synthetic", layers, ["1", "2"])? + 1, seeds(8));
            synthetic::run(Figure::Curves, size, &request.output)
        }
        ["heat-map", layers] => {
            let size = synthetic::Size::published(of_two("heat-map", layers, ["1", "2"])? + 1, seeds(8));
            synthetic::run(Figure::Maps, size, &request.output)
        }
        ["forgetting", depth] => {
            let depth = [2, 4][of_two("forgetting", depth, ["2", "4"])?];
            forgetting::run(forgetting::Size::of(depth, seeds(5)), &request.output)
        }
        ["protocol", task] => {
            let named = |candidate: &Task| candidate.name() == task;
            let task = Task::ALL.into_iter().find(named).ok_or_else(|| {
                let names: Vec<&str> = Task::ALL.iter().map(|task| task.name()).collect();
                format!("protocol: expected one of {}, found {task}", names.join(", "))
            })?;
            protocol::run(task, &Grid::of(task, seeds(5), request.movement), request.sources.as_ref(), &request.output)
        }
        _ => {
            Err(format!("expected an experiment, found `{}`; the first lines of main.rs list them", words.join(" "))
                .into())
        }
    }
}

/// The place of a word among two.
fn of_two(of: &str, word: &str, known: [&str; 2]) -> Result<usize, Box<dyn Error>> {
    let place = known.iter().position(|known| *known == word);
    place.ok_or_else(|| format!("{of}: expected {}, found {word}", known.join(" or ")).into())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request, Box<dyn Error>> {
    let (mut words, mut output, mut seeds, mut model, mut mails) = (Vec::new(), None, None, None, None);
    let mut movement = Movement::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument}: expected a value"));
        match argument.as_str() {
            "--output" => output = Some(PathBuf::from(value()?)),
            "--seeds" => seeds = Some(positive(&value()?)?),
            "--model" => model = Some(PathBuf::from(value()?)),
            "--mails" => mails = Some(PathBuf::from(value()?)),
            "--base" => movement.base = base(&value()?)?,
            "--decay" => movement.decay = not_negative("--decay", &value()?)?,
            "--clip" => movement.clip = not_negative("--clip", &value()?)?,
            flag if flag.starts_with("--") => return Err(format!("unknown flag {flag}").into()),
            word => words.push(word.to_owned()),
        }
    }
    let sources = model.zip(mails).map(|(model, mails)| Sources { model, mails });
    Ok(Request { words, output: output.ok_or("--output: expected a folder")?, seeds, sources, movement })
}

fn base(name: &str) -> Result<Base, Box<dyn Error>> {
    match name {
        "adamw" => Ok(Base::default()),
        "sgd" => Ok(Base::Sgd),
        "sign" => Ok(Base::Sign),
        _ => Err(format!("--base: expected adamw, sgd or sign, found {name}").into()),
    }
}

fn not_negative(flag: &str, text: &str) -> Result<f64, Box<dyn Error>> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0);
    number.ok_or_else(|| format!("{flag}: expected a finite number >= 0, found {text}").into())
}

fn positive(text: &str) -> Result<u64, Box<dyn Error>> {
    text.parse()
        .ok()
        .filter(|seeds| *seeds > 0)
        .ok_or_else(|| format!("--seeds: expected a number above 0, found {text}").into())
}
