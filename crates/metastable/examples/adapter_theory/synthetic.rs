//! The synthetic figure of the paper: one and two linear layers, 100 full-batch steps of sign descent, and its maps over
//! rates and starts.
//!
//! The authors' code calls the optimizer Adam; it is g/(|g| + 1e-8), without moments \[code\]. A starts normal, B at 0;
//! the best constant rate is chosen for every run by its final loss, as theirs is, so no number here is of held-out data.

use std::error::Error;
use std::path::Path;

use metastable_model::train::Base;

use crate::adapted::{Outcome, Setting, train};
use crate::judge::ratios;
use crate::methods::{Rival, rival};
use crate::problems::Chain;
use crate::statistics::{median, words};
use crate::table::{Axis, Band, Findings, Quantity, Work, numbers, texts};

/// The methods of the figure.
const METHODS: [&str; 8] =
    ["lora", "balora", "balora-nearest", "norm-balance", "reflora", "scaled-gd-1e-6", "lora-plus-16", "lora-pro"];
/// Deviations of the start; the paper's figure has 1 \[code\].
const STARTS: [f64; 3] = [0.1, 1.0, 10.0];
/// Whose curves are drawn.
const DRAWN: usize = 1;
const RANK: usize = 4;

/// The size of the experiment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// 1 or 2.
    pub(crate) layers: usize,
    pub(crate) seeds: u64,
    pub(crate) steps: u64,
    /// Rates between the smallest and the largest, on a logarithmic scale.
    pub(crate) rates: usize,
}

impl Size {
    /// The published sizes: 20 rates from 5e-3 to 0.5 for one layer, 50 from 1e-5 to 0.3 for two \[code\].
    pub(crate) fn published(layers: usize, seeds: u64) -> Self {
        Self { layers, seeds, steps: 100, rates: if layers == 1 { 20 } else { 50 } }
    }

    fn rates(self) -> Vec<f64> {
        let [low, high]: [f64; 2] = if self.layers == 1 { [5e-3, 0.5] } else { [1e-5, 0.3] };
        let share = |k: usize| k as f64 / (self.rates.max(2) - 1) as f64;
        (0..self.rates).map(|k| low * (high / low).powf(share(k))).collect()
    }
}

/// All runs: method, start, rate, seed, the last fastest.
struct Runs {
    rates: Vec<f64>,
    outcomes: Vec<Outcome>,
    size: Size,
}

impl Runs {
    fn make(size: Size) -> Result<Self, Box<dyn Error>> {
        let (rates, mut outcomes) = (size.rates(), Vec::new());
        let problems =
            (0..size.seeds).map(|seed| Chain::new(size.layers, RANK, seed)).collect::<Result<Vec<_>, _>>()?;
        let rivals: Vec<Rival> = METHODS.into_iter().filter_map(rival).collect();
        for rival in &rivals {
            for start in STARTS {
                for rate in &rates {
                    for (seed, problem) in problems.iter().enumerate() {
                        let setting = Setting {
                            rank: RANK,
                            sigma: 1.0,
                            rate: *rate,
                            steps: size.steps,
                            base: Base::Sign,
                            decay: 0.0,
                            clip: 0.0,
                            seed: seed as u64,
                            normal_start: Some(start),
                        };
                        outcomes.push(train(problem, rival, &setting, start == STARTS[DRAWN])?);
                    }
                }
            }
            eprintln!("{} done", rival.name);
        }
        Ok(Self { rates, outcomes, size })
    }

    fn at(&self, method: usize, start: usize, rate: usize, seed: usize) -> &Outcome {
        let seeds = self.size.seeds as usize;
        &self.outcomes[((method * STARTS.len() + start) * self.rates.len() + rate) * seeds + seed]
    }

    fn seeds(&self) -> std::ops::Range<usize> {
        0..self.size.seeds as usize
    }

    /// The run of the best rate, for every seed.
    fn best(&self, method: usize, start: usize) -> Vec<&Outcome> {
        let of = |seed: usize| {
            let runs = (0..self.rates.len()).map(|rate| self.at(method, start, rate, seed));
            runs.min_by(|x, y| x.test.total_cmp(&y.test)).expect("there is at least one rate")
        };
        self.seeds().map(of).collect()
    }

    fn finals(&self, method: usize, start: usize) -> Vec<f64> {
        self.best(method, start).iter().map(|outcome| outcome.test).collect()
    }
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Excess loss over steps at the best rates.
    Curves,
    /// Final excess loss over rate and start.
    Maps,
}

/// Makes the runs and one of the figures.
pub(crate) fn run(figure: Figure, size: Size, output: &Path) -> Result<(), Box<dyn Error>> {
    let work = Work::begin(output, &format!("adapter_theory {figure:?} 1 {size:?}"))?;
    let runs = Runs::make(size)?;
    let findings = match figure {
        Figure::Curves => curves(&runs)?,
        Figure::Maps => maps(&runs)?,
    };
    work.finish(&findings)
}

/// Excess below this is drawn as this.
const SMALLEST: f64 = 1e-16;

fn methods() -> Axis {
    Axis::Words("method", METHODS.map(str::to_owned).to_vec())
}

fn curves(runs: &Runs) -> Result<Findings, Box<dyn Error>> {
    let mut cells = Vec::new();
    let mut rows: Vec<(usize, u64, usize, f64)> = Vec::new();
    for method in 0..METHODS.len() {
        let best = runs.best(method, DRAWN);
        for step in 0..=runs.size.steps as usize {
            let here: Vec<f64> = best.iter().filter_map(|outcome| outcome.curve.get(step).copied()).collect();
            rows.extend(here.iter().enumerate().map(|(seed, loss)| (method, step as u64, seed, *loss)));
            cells.push(here.iter().map(|loss| loss.max(SMALLEST).log10()).collect());
        }
    }
    let mut table = metastable::table::Table::new("points");
    table.push("method", texts(rows.iter().map(|row| METHODS[row.0])))?;
    table.push("step", numbers(rows.iter().map(|row| row.1 as f64)))?;
    table.push("seed", numbers(rows.iter().map(|row| row.2 as f64)))?;
    table.push("excess", numbers(rows.iter().map(|row| row.3)))?;
    Ok(Findings {
        title: format!("Synthetic figure, {} linear layers, sign descent, start of deviation 1", runs.size.layers),
        sentences: sentences(runs),
        seeds: (0..runs.size.seeds).collect(),
        axes: vec![methods(), Axis::Linear("step", (0..=runs.size.steps).map(|step| step as f64).collect())],
        band: Band::Quartiles,
        quantities: vec![Quantity { name: "log10 of the excess loss".into(), cells }],
        table,
        details: serde_json::Value::Null,
    })
}

fn maps(runs: &Runs) -> Result<Findings, Box<dyn Error>> {
    let mut table = metastable::table::Table::new("points");
    let (mut cells, mut places, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for method in 0..METHODS.len() {
        for start in 0..STARTS.len() {
            for rate in 0..runs.rates.len() {
                let finals: Vec<f64> = runs.seeds().map(|seed| runs.at(method, start, rate, seed).test).collect();
                places.extend(runs.seeds().map(|seed| (method, start, rate, seed)));
                cells.push(finals.iter().map(|loss| loss.max(SMALLEST).log10()).collect());
                losses.extend(finals);
            }
        }
    }
    table.push("method", texts(places.iter().map(|at| METHODS[at.0])))?;
    table.push("start", numbers(places.iter().map(|at| STARTS[at.1])))?;
    table.push("rate", numbers(places.iter().map(|at| runs.rates[at.2])))?;
    table.push("seed", numbers(places.iter().map(|at| at.3 as f64)))?;
    table.push("excess", numbers(losses))?;
    let mut sentences = sentences(runs);
    sentences.extend((0..METHODS.len()).map(|method| robust(runs, method)));
    Ok(Findings {
        title: format!("Rates and starts, {} linear layers, sign descent", runs.size.layers),
        sentences,
        seeds: (0..runs.size.seeds).collect(),
        axes: vec![
            methods(),
            Axis::Logarithmic("start", STARTS.to_vec()),
            Axis::Logarithmic("rate", runs.rates.clone()),
        ],
        band: Band::Quartiles,
        quantities: vec![Quantity { name: "log10 of the excess loss".into(), cells }],
        table,
        details: serde_json::Value::Null,
    })
}

/// A row of Markdown for every method.
fn sentences(runs: &Runs) -> Vec<String> {
    let layers = runs.size.layers;
    let mut sentences = vec![
        format!(
            "Excess loss after {} steps at the best rate of each run, {layers} linear layers, median and 95 % bootstrap interval over {} seeds:",
            runs.size.steps, runs.size.seeds
        ),
        "| method | start 0.1 | start 1 | start 10 | lora/method at start 1 |\n|---|---|---|---|---|".into(),
    ];
    for (method, name) in METHODS.iter().enumerate() {
        let starts: String =
            (0..STARTS.len()).map(|start| format!(" {} |", words(&runs.finals(method, start)))).collect();
        let gain = ratios(&runs.finals(0, DRAWN), &runs.finals(method, DRAWN));
        sentences.push(format!("| {name} |{starts} {} |", words(&gain)));
    }
    sentences
}

/// The share of rates and starts whose median is within a factor of two of the best median of all methods.
fn robust(runs: &Runs, method: usize) -> String {
    let cell = |method: usize, start: usize, rate: usize| {
        let finals: Vec<f64> = runs.seeds().map(|seed| runs.at(method, start, rate, seed).test).collect();
        median(&finals).unwrap_or(f64::INFINITY)
    };
    let of = |method: usize| -> Vec<f64> {
        (0..STARTS.len()).flat_map(|start| (0..runs.rates.len()).map(move |rate| cell(method, start, rate))).collect()
    };
    let best = (0..METHODS.len()).flat_map(of).fold(f64::INFINITY, f64::min);
    let cells = of(method);
    let near = cells.iter().filter(|loss| **loss <= 2.0 * best).count();
    format!("{}: {near} of {} cells within a factor of two of the best of all methods.", METHODS[method], cells.len())
}
