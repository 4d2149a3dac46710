//! What a model of modular addition forgets while an adapter on its value matrix learns subtraction.
//!
//! Addition is trained in full (AdamW, rate 1e-3, decay 1, betas 0.9 and 0.98, full batch, 60 % of all questions); then the
//! adapter alone on 30 % of subtraction, r = 16, scale alpha/r = 2 \[code\]. Here p, d and the numbers of steps are smaller, the
//! adapter's rate is larger, and subtraction has a sign of its own that the full training never saw \[guess\].

use std::error::Error;
use std::path::Path;

use metastable_dynamics::{DynamicsError, Matrix, random};
use metastable_model::train::base::MatrixMoments;
use metastable_model::train::{Base, Gradient, Init, PairOptimizer};
use serde_json::{Value, json};

use crate::methods::{Rival, rival};
use crate::modular::{Modular, Operation, Question, VALUE, questions};
use crate::statistics::{median, words};
use crate::table::{Axis, Band, Findings, Quantity, Work, numbers, texts};

/// The methods that are compared, LoRA first.
const METHODS: [&str; 3] = ["lora", "balora", "norm-balance"];
/// alpha/r.
const SCALE: f64 = 2.0;
const FULL: Base = Base::AdamW { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

/// The size of the experiment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) model: Modular,
    /// Steps of the full training at most; it ends 100 steps after the training questions are all answered.
    pub(crate) full_steps: usize,
    pub(crate) adapter_steps: usize,
    /// Steps between two looks at both operations.
    pub(crate) every: usize,
    pub(crate) rank: usize,
    pub(crate) rate: f64,
    pub(crate) seeds: u64,
}

impl Size {
    pub(crate) fn of(depth: usize, seeds: u64) -> Self {
        let model = Modular { p: 17, dim: 48, depth };
        Self { model, full_steps: 3000, adapter_steps: 300, every: 10, rank: 16, rate: 1e-3, seeds }
    }
}

/// One look: (step, accuracy of addition, of subtraction, loss of subtraction on its training questions).
type Look = [f64; 4];

/// Questions drawn without replacement, and the rest.
fn split(all: Vec<Question>, share: f64, seed: u64, stream: u64) -> (Vec<Question>, Vec<Question>) {
    let draws = random::uniforms(seed, stream, all.len());
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|i, j| draws[*i].total_cmp(&draws[*j]));
    // A share of the questions, rounded.
    let cut = (share * all.len() as f64).round() as usize;
    let pick = |places: &[usize]| places.iter().map(|i| all[*i]).collect();
    (pick(&order[..cut]), pick(&order[cut..]))
}

/// Trains addition in full; answers the parameters and the accuracy on its training questions and on the others.
pub(crate) fn addition(size: &Size, seed: u64) -> (Vec<Matrix>, [f64; 2], usize) {
    let (seen, unseen) = split(questions(size.model.p, Operation::Addition), 0.6, seed, 200);
    let mut parameters = size.model.start(seed);
    let mut moments: Vec<MatrixMoments> = parameters.iter().map(MatrixMoments::zero).collect();
    let decay = if size.model.depth >= 4 { 0.4 } else { 1.0 };
    let (mut steps, mut left) = (0_usize, size.full_steps);
    while left > 0 {
        let gradients = size.model.gradients(&parameters, &seen).1;
        for ((parameter, gradient), moments) in parameters.iter_mut().zip(&gradients).zip(&mut moments) {
            *parameter = FULL.step_matrix(parameter, gradient, 1e-3, decay, moments);
        }
        (steps, left) = (steps + 1, left - 1);
        if steps.is_multiple_of(50) && left > 100 && size.model.evaluate(&parameters, &seen).1 == 1.0 {
            left = 100;
        }
    }
    let accuracy = |of: &[Question]| size.model.evaluate(&parameters, of).1;
    let accuracies = [accuracy(&seen), accuracy(&unseen)];
    (parameters, accuracies, steps)
}

/// Trains the adapter on subtraction and looks at both operations on the way.
pub(crate) fn subtraction(
    size: &Size,
    rival: &Rival,
    parameters: &[Matrix],
    seed: u64,
) -> Result<Vec<Look>, DynamicsError> {
    let (add, subtract) =
        (questions(size.model.p, Operation::Addition), questions(size.model.p, Operation::Subtraction));
    let (seen, _) = split(subtract.clone(), 0.3, seed, 201);
    let value = parameters[VALUE].clone();
    let mut parameters = parameters.to_vec();
    let mut pair = Init::Kaiming.pair(&value, size.rank, SCALE, seed, 0)?.pair;
    let mut optimizer = PairOptimizer::new(rival.method, Base::default(), &pair, SCALE);
    let mut looks = Vec::new();
    for step in 0..=size.adapter_steps {
        parameters[VALUE] = value.add_scaled(SCALE, &pair.product());
        if step.is_multiple_of(size.every) {
            let accuracy = |of: &[Question]| size.model.evaluate(&parameters, of).1;
            let loss = size.model.evaluate(&parameters, &seen).0;
            looks.push([step as f64, accuracy(&add), accuracy(&subtract), loss]);
        }
        let g = size.model.gradients(&parameters, &seen).1.swap_remove(VALUE).scaled(SCALE);
        let a = pair.b().transpose().multiply(&g);
        let gradient = Gradient { a, b: g.multiply(&pair.a().transpose()) };
        pair = optimizer.step(&pair, &gradient, size.rate, 0.0)?.pair;
    }
    Ok(looks)
}

/// All seeds and methods; a seed that is done survives a kill.
pub(crate) fn run(size: Size, output: &Path) -> Result<(), Box<dyn Error>> {
    let mut work = Work::begin(output, &format!("adapter_theory forgetting 1 {size:?}"))?;
    let mut found: Vec<Value> = Vec::new();
    for seed in 0..size.seeds {
        let name = seed.to_string();
        if work.found(&name).is_none() {
            let (parameters, [seen, unseen], steps) = addition(&size, seed);
            eprintln!("seed {seed}: addition {seen:.3} seen, {unseen:.3} unseen after {steps} steps");
            let looks = METHODS.into_iter().filter_map(rival);
            let looks =
                looks.map(|rival| subtraction(&size, &rival, &parameters, seed)).collect::<Result<Vec<_>, _>>()?;
            work.keep(&name, json!({"seen": seen, "unseen": unseen, "steps": steps, "looks": looks}))?;
        }
        found.extend(work.found(&name).cloned());
    }
    work.finish(&findings(&size, &found)?)
}

/// Entry `part` of look `k` of a method, of all seeds.
fn entries(found: &[Value], method: usize, k: usize, part: usize) -> Vec<f64> {
    found.iter().filter_map(|of_seed| of_seed["looks"][method][k][part].as_f64()).collect()
}

fn findings(size: &Size, found: &[Value]) -> Result<Findings, Box<dyn Error>> {
    let looks = size.adapter_steps / size.every + 1;
    let places: Vec<(usize, usize, usize)> = (0..METHODS.len())
        .flat_map(|m| (0..looks).flat_map(move |k| (0..found.len()).map(move |seed| (m, k, seed))))
        .collect();
    let part = |part: usize| {
        let of = |(m, k, seed): &(usize, usize, usize)| found[*seed]["looks"][*m][*k][part].as_f64();
        numbers(places.iter().map(|at| of(at).unwrap_or(f64::NAN)).collect::<Vec<_>>())
    };
    let mut table = metastable::table::Table::new("points");
    table.push("method", texts(places.iter().map(|at| METHODS[at.0])))?;
    table.push("seed", numbers(places.iter().map(|at| at.2 as f64)))?;
    for (index, name) in ["step", "addition", "subtraction", "subtraction_loss"].into_iter().enumerate() {
        table.push(name, part(index))?;
    }
    let cells = |part: usize| {
        (0..METHODS.len()).flat_map(|m| (0..looks).map(move |k| entries(found, m, k, part))).collect::<Vec<_>>()
    };
    Ok(Findings {
        title: format!("Forgetting of addition modulo {}, depth {}", size.model.p, size.model.depth),
        sentences: sentences(size, found, looks),
        seeds: (0..size.seeds).collect(),
        axes: vec![
            Axis::Words("method", METHODS.map(str::to_owned).to_vec()),
            Axis::Linear("step", (0..looks).map(|k| (k * size.every) as f64).collect()),
        ],
        band: Band::Quartiles,
        quantities: vec![
            Quantity { name: "accuracy of addition".into(), cells: cells(1) },
            Quantity { name: "accuracy of subtraction".into(), cells: cells(2) },
        ],
        table,
        details: json!({"seeds": found}),
    })
}

fn sentences(size: &Size, found: &[Value], looks: usize) -> Vec<String> {
    let of = |key: &str| -> Vec<f64> { found.iter().filter_map(|of_seed| of_seed[key].as_f64()).collect() };
    let mut sentences = vec![
        format!(
            "Depth {}: full training of addition modulo {} ends at accuracy {} on seen and {} on unseen questions.",
            size.model.depth,
            size.model.p,
            words(&of("seen")),
            words(&of("unseen"))
        ),
        "| method | addition before | after 30 steps | at the end | steps to half of it | subtraction at the end |\n|---|---|---|---|---|---|".into(),
    ];
    let early = (30 / size.every).min(looks - 1);
    for (m, name) in METHODS.iter().enumerate() {
        let at = |k: usize, part: usize| words(&entries(found, m, k, part));
        let half = |of_seed: &Value| {
            let accuracy = |k: usize| of_seed["looks"][m][k][1].as_f64().unwrap_or(f64::NAN);
            let k = (0..looks).find(|k| accuracy(*k) <= 0.5 * accuracy(0));
            k.map_or(f64::INFINITY, |k| (k * size.every) as f64)
        };
        let halves: Vec<f64> = found.iter().map(half).collect();
        let half = match median(&halves) {
            Some(steps) if steps.is_finite() => words(&halves),
            _ => "not reached".into(),
        };
        let end = looks - 1;
        sentences.push(format!(
            "| {name} | {} | {} | {} | {half} | {} |",
            at(0, 1),
            at(early, 1),
            at(end, 1),
            at(end, 2)
        ));
    }
    sentences
}
