//! All methods on one task over a grid of effective learning rates and scales, several seeds a cell.
//!
//! Equal for all: data and their order, steps, optimizer, weight decay, clipping, f64. Rates are lr·σ = 10^{k/2} (lr·σ² under plain
//! descent); where the best rate of a method at a scale is at the edge of the grid, the grid is continued there.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use metastable_model::train::Base;
use serde_json::{Value, json};

use crate::adapted::{Problem, Setting, train};
use crate::judge::judged;
use crate::methods::{RIVALS, Rival};
use crate::problems::{Chain, Features, Mails, Teacher};
use crate::statistics::median;
use crate::table::{Axis, Band, Findings, Quantity, Work, numbers, texts};

/// A task of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// One linear layer.
    ChainOne,
    /// Two linear layers.
    ChainTwo,
    /// A network of two layers and its teacher.
    Teacher,
    /// The pooler of MiniLM on mails.
    Mails,
}

impl Task {
    pub(crate) const ALL: [Self; 4] = [Self::ChainOne, Self::ChainTwo, Self::Teacher, Self::Mails];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ChainOne => "chain-1",
            Self::ChainTwo => "chain-2",
            Self::Teacher => "teacher",
            Self::Mails => "mails",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::ChainOne => "one linear layer 20 x 20, r = 4: excess loss after 100 steps",
            Self::ChainTwo => "two linear layers 20 x 20, r = 4: excess loss after 100 steps",
            Self::Teacher => "teacher and student 24-48-8, r = 4: test loss after 250 steps",
            Self::Mails => "MiniLM's pooler on SpamAssassin, r = 8: test loss after 100 steps",
        }
    }

    fn rank(self) -> usize {
        if self == Self::Mails { 8 } else { 4 }
    }

    fn steps(self) -> u64 {
        if self == Self::Teacher { 250 } else { 100 }
    }

    /// k of the smallest and the largest rate 10^{k/2}.
    fn rates(self) -> [i32; 2] {
        match self {
            Self::ChainOne | Self::ChainTwo => [-6, 1],
            Self::Teacher => [-7, -1],
            Self::Mails => [-8, -2],
        }
    }
}

/// The grid of a run.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    pub(crate) rivals: Vec<Rival>,
    pub(crate) sigmas: Vec<f64>,
    /// k of rates 10^{k/2}, increasing, without gaps.
    pub(crate) rates: Vec<i32>,
    pub(crate) seeds: Vec<u64>,
    pub(crate) movement: Movement,
}

/// What moves the factors of all methods.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Movement {
    pub(crate) base: Base,
    /// The decoupled weight decay.
    pub(crate) decay: f64,
    /// The norm that all gradients together are clipped to; 0 for none.
    pub(crate) clip: f64,
}

impl Default for Movement {
    fn default() -> Self {
        Self { base: Base::default(), decay: 0.0, clip: 0.0 }
    }
}

impl Movement {
    fn words(self) -> String {
        let base = match self.base {
            Base::Sgd => "plain descent",
            Base::Sign => "sign descent",
            _ => "AdamW",
        };
        let clip = if self.clip > 0.0 { format!("clipped to {}", self.clip) } else { "no clipping".into() };
        format!("{base}, weight decay {}, {clip}", self.decay)
    }
}

impl Grid {
    pub(crate) fn of(task: Task, seeds: u64, movement: Movement) -> Self {
        let [first, last] = task.rates();
        Self {
            rivals: RIVALS.to_vec(),
            sigmas: vec![0.1, 1.0, 10.0],
            rates: (first..=last).collect(),
            seeds: (0..seeds).collect(),
            movement,
        }
    }
}

/// The rate of k.
pub(crate) fn rate(k: i32) -> f64 {
    10.0_f64.powf(f64::from(k) / 2.0)
}

/// What is kept of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Kept {
    pub(crate) validation: f64,
    pub(crate) test: f64,
    /// The test loss at equal seconds, if a step takes 5 % longer.
    pub(crate) sooner: f64,
    /// How much lower or higher a loss the start's moved base allows.
    pub(crate) moved_floor: f64,
    pub(crate) kappa: f64,
    pub(crate) skipped: u64,
}

/// Where a run stands: method, scale, rate, seed, by their places in the grid but for the rate, which is k.
pub(crate) type Place = (usize, usize, i32, usize);

/// All runs of a task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(pub(crate) BTreeMap<Place, Kept>);

impl Runs {
    /// The entries of all seeds.
    pub(crate) fn of(&self, (method, sigma, k): (usize, usize, i32), part: fn(&Kept) -> f64) -> Vec<f64> {
        let from = (method, sigma, k, 0)..(method, sigma, k, usize::MAX);
        self.0.range(from).map(|(_, kept)| part(kept)).collect()
    }

    /// The k of the least median validation loss of a method at a scale; the smallest of equals.
    pub(crate) fn best_rate(&self, method: usize, sigma: usize) -> Option<i32> {
        let mut rates: Vec<i32> = self.0.keys().filter(|at| (at.0, at.1) == (method, sigma)).map(|at| at.2).collect();
        rates.dedup();
        let loss = |k: i32| median(&self.of((method, sigma, k), |kept| kept.validation)).unwrap_or(f64::INFINITY);
        rates.into_iter().min_by(|x, y| loss(*x).total_cmp(&loss(*y)))
    }
}

/// Where the mails and their model are.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) model: PathBuf,
    pub(crate) mails: PathBuf,
}

/// At most so many half-decades are added at an edge.
const EXTENSIONS: i32 = 4;

/// Makes all runs of a task that are not yet made, then says what they say.
pub(crate) fn run(task: Task, grid: &Grid, sources: Option<&Sources>, output: &Path) -> Result<(), Box<dyn Error>> {
    let mut work = Work::begin(output, &fingerprint(task, grid))?;
    let features = match (task, sources) {
        (Task::Mails, Some(sources)) => {
            let stored = work.hidden();
            let (features, bytes) = Features::of(&sources.model, &sources.mails, stored.as_deref())?;
            if stored.is_none() {
                work.keep_hidden(&bytes)?;
            }
            Some(features)
        }
        (Task::Mails, None) => return Err("mails: expected --model FOLDER and --mails FILE.jsonl".into()),
        _ => None,
    };
    let problems = problems(task, grid, features.as_ref())?;
    let runs = all_runs(task, grid, &problems, &mut work)?;
    work.finish(&findings(task, grid, &runs)?)
}

/// One line that changes whenever the results would.
pub(crate) fn fingerprint(task: Task, grid: &Grid) -> String {
    format!("adapter_theory protocol 2 {} {grid:?}", task.name())
}

/// The problem of every seed.
fn problems<'a>(
    task: Task,
    grid: &Grid,
    features: Option<&'a Features>,
) -> Result<Vec<Box<dyn Problem + 'a>>, Box<dyn Error>> {
    let problem = |seed: &u64| -> Result<Box<dyn Problem + 'a>, Box<dyn Error>> {
        Ok(match task {
            Task::ChainOne => Box::new(Chain::new(1, task.rank(), *seed)?),
            Task::ChainTwo => Box::new(Chain::new(2, task.rank(), *seed)?),
            Task::Teacher => Box::new(Teacher::new(task.rank(), *seed)),
            Task::Mails => Box::new(Mails::new(features.ok_or("no features")?, *seed)),
        })
    };
    grid.seeds.iter().map(problem).collect()
}

fn all_runs(
    task: Task,
    grid: &Grid,
    problems: &[Box<dyn Problem + '_>],
    work: &mut Work,
) -> Result<Runs, Box<dyn Error>> {
    let mut runs = Runs::default();
    let mut cell = |runs: &mut Runs, (method, sigma, k): (usize, usize, i32)| -> Result<(), Box<dyn Error>> {
        for (seed, problem) in problems.iter().enumerate() {
            let kept = one(task, grid, problem.as_ref(), (method, sigma, k, seed), work)?;
            runs.0.insert((method, sigma, k, seed), kept);
        }
        Ok(())
    };
    for method in 0..grid.rivals.len() {
        for sigma in 0..grid.sigmas.len() {
            for k in &grid.rates {
                cell(&mut runs, (method, sigma, *k))?;
            }
            let [mut first, mut last] = [grid.rates[0], grid.rates[grid.rates.len() - 1]];
            for _ in 0..EXTENSIONS {
                let next = match runs.best_rate(method, sigma) {
                    Some(k) if k == first => first - 1,
                    Some(k) if k == last => last + 1,
                    _ => break,
                };
                (first, last) = (first.min(next), last.max(next));
                cell(&mut runs, (method, sigma, next))?;
            }
        }
        eprintln!("{}: {} done", task.name(), grid.rivals[method].name);
    }
    Ok(runs)
}

/// One run, or what was kept of it.
fn one(
    task: Task,
    grid: &Grid,
    problem: &dyn Problem,
    (method, sigma, k, seed): Place,
    work: &mut Work,
) -> Result<Kept, Box<dyn Error>> {
    let name = format!("{}/{}/{k}/{}", grid.rivals[method].name, grid.sigmas[sigma], grid.seeds[seed]);
    // JSON has no infinity: null stands for it.
    let number = |value: &Value| value.as_f64().unwrap_or(f64::INFINITY);
    if let Some(found) = work.found(&name) {
        let [validation, test, sooner, moved_floor, kappa] =
            ["validation", "test", "sooner", "moved_floor", "kappa"].map(|key| number(&found[key]));
        let skipped = found["skipped"].as_u64().unwrap_or(0);
        return Ok(Kept { validation, test, sooner, moved_floor, kappa, skipped });
    }
    let setting = Setting {
        rank: task.rank(),
        sigma: grid.sigmas[sigma],
        rate: rate(k),
        steps: task.steps(),
        base: grid.movement.base,
        decay: grid.movement.decay,
        clip: grid.movement.clip,
        seed: grid.seeds[seed],
        normal_start: None,
    };
    let outcome = train(problem, &grid.rivals[method], &setting, false)?;
    let kept = Kept {
        validation: outcome.validation,
        test: outcome.test,
        sooner: outcome.sooner,
        moved_floor: outcome.moved_floor,
        kappa: outcome.kappa,
        skipped: outcome.skipped,
    };
    let found = json!({
        "validation": kept.validation, "test": kept.test, "sooner": kept.sooner, "moved_floor": kept.moved_floor,
        "kappa": kept.kappa, "skipped": kept.skipped,
    });
    work.keep(&name, found)?;
    Ok(kept)
}

/// The table, the medians over the grid, and the verdicts.
fn findings(task: Task, grid: &Grid, runs: &Runs) -> Result<Findings, Box<dyn Error>> {
    let mut table = metastable::table::Table::new("points");
    let places: Vec<&Place> = runs.0.keys().collect();
    let column = |part: &dyn Fn(&Kept) -> f64| numbers(runs.0.values().map(part));
    table.push("method", texts(places.iter().map(|at| grid.rivals[at.0].name)))?;
    table.push("sigma", numbers(places.iter().map(|at| grid.sigmas[at.1])))?;
    table.push("rate", numbers(places.iter().map(|at| rate(at.2))))?;
    table.push("seed", numbers(places.iter().map(|at| grid.seeds[at.3] as f64)))?;
    table.push("validation", column(&|kept| kept.validation))?;
    table.push("test", column(&|kept| kept.test))?;
    table.push("test_at_equal_seconds", column(&|kept| kept.sooner))?;
    table.push("moved_floor", column(&|kept| kept.moved_floor))?;
    table.push("kappa", column(&|kept| kept.kappa))?;
    table.push("skipped", column(&|kept| kept.skipped as f64))?;
    let mut cells = Vec::new();
    for method in 0..grid.rivals.len() {
        for sigma in 0..grid.sigmas.len() {
            for k in &grid.rates {
                let tests = runs.of((method, sigma, *k), |kept| kept.test);
                cells.push(tests.into_iter().map(|test| test.max(SMALLEST).log10()).collect());
            }
        }
    }
    let verdict = judged(grid, runs);
    let mut sentences = vec![format!("{}; {}.", task.words(), grid.movement.words())];
    sentences.extend(verdict.sentences.clone());
    Ok(Findings {
        title: format!("Protocol: {}", task.words()),
        sentences,
        seeds: grid.seeds.clone(),
        axes: vec![
            Axis::Words("method", grid.rivals.iter().map(|rival| rival.name.to_owned()).collect()),
            Axis::Logarithmic("sigma", grid.sigmas.clone()),
            Axis::Logarithmic("rate", grid.rates.iter().map(|k| rate(*k)).collect()),
        ],
        band: Band::Bootstrap,
        quantities: vec![Quantity { name: "log10 of the test loss".into(), cells }],
        table,
        details: verdict.json,
    })
}

/// Losses below rounding are drawn as this.
const SMALLEST: f64 = 1e-16;
