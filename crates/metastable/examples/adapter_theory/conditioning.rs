//! Matrix factorisation, sensing and regression: condition numbers and rates of descent against what theory predicts.
//!
//! A matrix X* of rank r is recovered from ½<E, K E>, E = B A - X*: K is the identity (factorisation), the mean of
//! <M, ·>M over Gaussian measurements M (sensing), or E ↦ E C for inputs of covariance C (regression). Every run starts 1e-3 away from a minimiser whose factors are off
//! balance, and takes the best constant step that the Hessian there allows.

use std::error::Error;
use std::path::Path;

use metastable_dynamics::balance::condition::Condition;
use metastable_dynamics::balance::hessian::{extremes, factor_hessian};
use metastable_dynamics::balance::rate::{best_step, factor_of_step, kappa_of_uneven_rates, steps_to};
use metastable_dynamics::balance::{LowRankPair, norm_balanced};
use metastable_dynamics::{DynamicsError, Matrix};
use metastable_model::train::{Balora, Base, Gradient, Method, PairOptimizer};

use crate::problems::normal;
use crate::statistics::{median, quantile, short};
use crate::table::{Axis, Band, Findings, Quantity, Work, numbers, texts};

/// Which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// K is the identity.
    Factorisation,
    /// K comes from measurements.
    Sensing,
    /// K comes from inputs whose covariance has the condition number that varies; σ_1/σ_r is 4.
    Regression,
}

/// r.
const RANK: usize = 3;
/// Side of X*.
const SIDE: usize = 9;
/// Measurements, about five for every entry.
const MEASUREMENTS: usize = 400;
/// Distance of the start from the minimiser, small enough for rates to be those of the Hessian.
const DISTANCE: f64 = 1e-3;
/// The loss, relative to the start's, at which a run ends: far above rounding.
const GOAL: f64 = 1e-18;
/// Runs that need more steps are not made to their end.
const MOST_STEPS: usize = 40_000;

/// The methods, under plain descent.
pub(crate) const METHODS: [(&str, Method); 7] = [
    ("lora", Method::Lora),
    ("balora", Method::Balora(Balora { form: metastable_model::train::Form::Canonical, transport: true, every: 1 })),
    ("reflora", Method::RefLora { warmup: 0 }),
    ("norm-balance", Method::NormBalance { transport: true }),
    ("lora-plus-4", Method::LoraPlus { ratio: 4.0 }),
    ("scaled-gd", Method::Riemannian { damping: 0.0 }),
    ("lora-pro", Method::LoraPro),
];

/// How factors are brought off balance by c >= 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gauge {
    /// M = c·I.
    Scalar,
    /// M = O diag(c, 1, 1/c) Oᵀ with a random O, whose imbalance no single number repairs.
    Shear,
}

/// One loss and its minimiser in balanced factors.
pub(crate) struct Recovery {
    pub(crate) balanced: LowRankPair,
    target: Matrix,
    /// K on the entries of a matrix, row by row; none for the identity.
    curvature: Option<Matrix>,
    /// The least and largest eigenvalue of K.
    pub(crate) curvature_ends: [f64; 2],
    seed: u64,
}

impl Recovery {
    /// Singular values from `ratio` to 1 in geometric steps; for regression from 4, and eigenvalues of the covariance from 1 to
    /// 1/`ratio`.
    pub(crate) fn new(loss: Loss, ratio: f64, seed: u64) -> Result<Self, DynamicsError> {
        let (ratio, covariance) = if loss == Loss::Regression { (4.0, ratio) } else { (ratio, 1.0) };
        let basis = |stream| normal(seed, stream, SIDE, RANK, 1.0).thin_qr().0;
        let (u, v) = (basis(1), basis(2));
        let root = |k: usize| ratio.powf(0.5 * (1.0 - k as f64 / (RANK as f64 - 1.0)));
        let b = Matrix::from_fn(SIDE, RANK, |i, k| root(k) * u.at(i, k));
        let balanced = LowRankPair::new(Matrix::from_fn(RANK, SIDE, |k, j| root(k) * v.at(j, k)), b)?;
        let (curvature, curvature_ends) = match loss {
            Loss::Factorisation => (None, [1.0, 1.0]),
            Loss::Sensing => {
                let measured = normal(seed, 3, MEASUREMENTS, SIDE * SIDE, 1.0);
                let gram = measured.transpose().multiply(&measured).scaled(1.0 / MEASUREMENTS as f64);
                let values = gram.symmetric_eigen()?.0;
                let ends = [values[0], values[values.len() - 1]];
                (Some(gram), ends)
            }
            Loss::Regression => {
                let o = normal(seed, 7, SIDE, SIDE, 1.0).thin_qr().0;
                let power = |k: usize| covariance.powf(-(k as f64) / (SIDE as f64 - 1.0));
                let c = Matrix::from_fn(SIDE, SIDE, |i, k| o.at(i, k) * power(k)).multiply(&o.transpose());
                // Row by row, entry (i, j) of E C is Σ_k E_ik C_kj.
                let of = |at: usize, from: usize| {
                    if at / SIDE == from / SIDE { c.at(from % SIDE, at % SIDE) } else { 0.0 }
                };
                (Some(Matrix::from_fn(SIDE * SIDE, SIDE * SIDE, of)), [1.0 / covariance, 1.0])
            }
        };
        Ok(Self { target: balanced.product(), balanced, curvature, curvature_ends, seed })
    }

    /// K D.
    fn curved(&self, d: &Matrix) -> Matrix {
        let Some(curvature) = &self.curvature else { return d.clone() };
        let mut out = vec![0.0; SIDE * SIDE];
        curvature.apply(d.as_slice(), &mut out);
        Matrix::from_fn(SIDE, SIDE, |i, j| out[SIDE * i + j])
    }

    fn loss_and_gradient(&self, pair: &LowRankPair) -> (f64, Gradient) {
        let error = pair.product().add_scaled(-1.0, &self.target);
        let g = self.curved(&error);
        let loss = 0.5 * error.as_slice().iter().zip(g.as_slice()).map(|(e, g)| e * g).sum::<f64>();
        let a = pair.b().transpose().multiply(&g);
        (loss, Gradient { a, b: g.multiply(&pair.a().transpose()) })
    }

    /// The minimiser off balance by c.
    pub(crate) fn minimiser(&self, gauge: Gauge, c: f64) -> Result<LowRankPair, DynamicsError> {
        let m = match gauge {
            Gauge::Scalar => Matrix::scaled_identity(RANK, c),
            Gauge::Shear => {
                let o = normal(self.seed, 4, RANK, RANK, 1.0).thin_qr().0;
                let stretched = Matrix::from_fn(RANK, RANK, |i, k| o.at(i, k) * c.powf(1.0 - k as f64));
                stretched.multiply(&o.transpose())
            }
        };
        self.balanced.regauged(&m)
    }

    /// The ends of the spectrum that a method's descent has near a minimiser, besides flat directions.
    pub(crate) fn spectrum(&self, method: Method, minimiser: &LowRankPair) -> Result<[f64; 2], DynamicsError> {
        let of = |pair: &LowRankPair| {
            let flat = self.target.scaled(0.0);
            extremes(&factor_hessian(pair, &flat, |d| self.curved(d)), RANK)
        };
        match method {
            Method::Balora(_) | Method::RefLora { .. } => of(&self.balanced),
            Method::NormBalance { .. } => match norm_balanced(minimiser)? {
                Some((pair, _)) => of(&pair),
                None => of(minimiser),
            },
            // Even descent in the coordinates (A, B/√ratio).
            Method::LoraPlus { ratio } => {
                of(&LowRankPair::new(minimiser.a().scaled(ratio.sqrt()), minimiser.b().clone())?)
            }
            Method::Riemannian { .. } => self.projected(2.0_f64.sqrt()),
            Method::LoraPro => self.projected(1.0),
            _ => of(minimiser),
        }
    }

    /// Of T^½ K T^½, where T D = P_B D + D P_A (ScaledGD, inside = √2) or P_B D + (1 - P_B) D P_A (LoRA-Pro, inside = 1):
    /// T^½ multiplies P_B D P_A by `inside` and P_B D (1 - P_A) + (1 - P_B) D P_A by 1.
    fn projected(&self, inside: f64) -> Result<[f64; 2], DynamicsError> {
        let onto = |q: Matrix| q.multiply(&q.transpose());
        let p_b = onto(self.balanced.b().thin_qr().0);
        let p_a = onto(self.balanced.a().transpose().thin_qr().0);
        let root = |d: &Matrix| {
            let (left, right) = (p_b.multiply(d), d.multiply(&p_a));
            let both = left.multiply(&p_a);
            left.add_scaled(1.0, &right).add_scaled(inside - 2.0, &both)
        };
        let side = SIDE * SIDE;
        let column = |k: usize| {
            let unit = Matrix::from_fn(SIDE, SIDE, |i, j| f64::from(SIDE * i + j == k));
            root(&self.curved(&root(&unit))).as_slice().to_vec()
        };
        let columns: Vec<Vec<f64>> = (0..side).map(column).collect();
        let map = Matrix::from_fn(side, side, |i, j| 0.5 * (columns[j][i] + columns[i][j]));
        let spectrum = map.symmetric_eigen()?.0;
        // What is neither in the columns of B nor in the rows of A.
        let flat = (SIDE - RANK) * (SIDE - RANK);
        Ok([spectrum[flat], spectrum[side - 1]])
    }
}

/// κ in closed form: exact for factorisation; times [`Recovery::curvature_ends`]' ratio a bound for the others.
pub(crate) fn formula(method: Method, minimiser: &LowRankPair) -> Result<f64, DynamicsError> {
    let of: Condition = minimiser.condition()?;
    let ends = |factor: &Matrix| -> Result<[f64; 2], DynamicsError> {
        let values = factor.singular_values()?;
        Ok([values[0].powi(2), values[RANK - 1].powi(2)])
    };
    Ok(match method {
        Method::Balora(_) | Method::RefLora { .. } => of.balanced,
        Method::NormBalance { .. } => match norm_balanced(minimiser)? {
            Some((pair, _)) => pair.condition()?.kappa,
            None => of.kappa,
        },
        Method::LoraPlus { ratio } => kappa_of_uneven_rates(ends(minimiser.a())?, ends(minimiser.b())?, ratio),
        Method::Riemannian { .. } => 2.0,
        Method::LoraPro => 1.0,
        _ => of.kappa,
    })
}

/// What a run measured beside what was predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// κ of the closed form times the ratio of the ends of K: exact for factorisation, a bound for the others.
    pub(crate) formula: f64,
    /// κ of the Hessian, by its eigenvalues.
    pub(crate) kappa: f64,
    /// Factor of the loss a step, from the second half (in logarithm) of the run; and predicted from the spectrum.
    pub(crate) factor: f64,
    pub(crate) predicted_factor: f64,
    /// Steps to [`GOAL`] of the first loss, and predicted.
    pub(crate) steps: f64,
    pub(crate) predicted_steps: f64,
}

/// Descends from near a minimiser.
pub(crate) fn descend(recovery: &Recovery, method: Method, gauge: Gauge, c: f64) -> Result<Measured, DynamicsError> {
    let minimiser = recovery.minimiser(gauge, c)?;
    let ends = recovery.spectrum(method, &minimiser)?;
    let kappa = ends[1] / ends[0];
    // With κ = 1 the best step ends the run in quadratic convergence, which has no rate: half of it has.
    let step = best_step(ends) * if kappa < 1.01 { 0.5 } else { 1.0 };
    let predicted_factor = factor_of_step(step, ends);
    let mut pair = start(recovery, method, &minimiser)?;
    let mut optimizer = PairOptimizer::new(method, Base::Sgd, &pair, 1.0);
    let (first, mut gradient) = recovery.loss_and_gradient(&pair);
    let mut losses = vec![first];
    while losses[losses.len() - 1] > GOAL * first && losses.len() <= MOST_STEPS {
        pair = optimizer.step(&pair, &gradient, step, 0.0)?.pair;
        let (loss, next) = recovery.loss_and_gradient(&pair);
        losses.push(loss);
        gradient = next;
    }
    let last = losses.len() - 1;
    let has_arrived = losses[last] <= GOAL * first;
    // The second half of the way down, where the slowest direction is what remains.
    let half = losses.iter().position(|loss| *loss <= (losses[last] * first).sqrt()).unwrap_or(0).min(last - 1);
    Ok(Measured {
        formula: recovery.curvature_ends[1] / recovery.curvature_ends[0] * formula(method, &minimiser)?,
        kappa,
        factor: ((losses[last] / losses[half]).ln() / (last - half) as f64).exp(),
        predicted_factor,
        steps: if has_arrived { last as f64 } else { f64::INFINITY },
        predicted_steps: steps_to(first, GOAL * first, predicted_factor),
    })
}

/// A point near the minimiser; BaLoRA's is on the manifold.
fn start(recovery: &Recovery, method: Method, minimiser: &LowRankPair) -> Result<LowRankPair, DynamicsError> {
    let near = LowRankPair::new(
        minimiser.a().add_scaled(DISTANCE, &normal(recovery.seed, 5, RANK, SIDE, 1.0)),
        minimiser.b().add_scaled(DISTANCE, &normal(recovery.seed, 6, SIDE, RANK, 1.0)),
    )?;
    if matches!(method, Method::Balora(_)) { Ok(near.project()?.pair) } else { Ok(near) }
}

/// What varies besides methods and gauges.
#[derive(Debug, Clone)]
pub(crate) struct Cases {
    /// σ_1/σ_r; for regression the condition number of the covariance.
    pub(crate) ratios: Vec<f64>,
    pub(crate) cs: Vec<f64>,
    pub(crate) seeds: u64,
}

impl Cases {
    pub(crate) fn usual(seeds: u64) -> Self {
        Self { ratios: vec![1.0, 4.0, 16.0], cs: vec![1.0, 1.5, 2.0, 3.0], seeds }
    }

    pub(crate) fn usual_regression(seeds: u64) -> Self {
        Self { ratios: vec![1.0, 100.0, 10_000.0], ..Self::usual(seeds) }
    }
}

const GAUGES: [(&str, Gauge); 2] = [("scalar", Gauge::Scalar), ("shear", Gauge::Shear)];

/// A row of the table: method, gauge, ratio, c, by place, seed, and what was measured.
type Row = ((usize, usize, usize, usize), u64, Measured);

/// Runs all methods, gauges and spectra.
pub(crate) fn run(loss: Loss, cases: &Cases, output: &Path) -> Result<(), Box<dyn Error>> {
    let work = Work::begin(output, &format!("adapter_theory {loss:?} 1 {cases:?}"))?;
    let mut rows: Vec<Row> = Vec::new();
    for (m, (_, method)) in METHODS.into_iter().enumerate() {
        for (g, (_, gauge)) in GAUGES.into_iter().enumerate() {
            for (k, ratio) in cases.ratios.iter().copied().enumerate() {
                for (i, c) in cases.cs.iter().copied().enumerate() {
                    for seed in 0..cases.seeds {
                        let recovery = Recovery::new(loss, ratio, seed)?;
                        rows.push(((m, g, k, i), seed, descend(&recovery, method, gauge, c)?));
                    }
                }
            }
        }
    }
    work.finish(&findings(loss, cases, &rows)?)
}

fn findings(loss: Loss, cases: &Cases, rows: &[Row]) -> Result<Findings, Box<dyn Error>> {
    let mut table = metastable::table::Table::new("points");
    table.push("method", texts(rows.iter().map(|row| METHODS[row.0.0].0)))?;
    table.push("gauge", texts(rows.iter().map(|row| GAUGES[row.0.1].0)))?;
    table.push(varied(loss), numbers(rows.iter().map(|row| cases.ratios[row.0.2])))?;
    table.push("c", numbers(rows.iter().map(|row| cases.cs[row.0.3])))?;
    table.push("seed", numbers(rows.iter().map(|row| row.1 as f64)))?;
    type Part = (&'static str, fn(&Measured) -> f64);
    let parts: [Part; 6] = [
        ("kappa_formula", |m| m.formula),
        ("kappa_hessian", |m| m.kappa),
        ("loss_factor", |m| m.factor),
        ("loss_factor_predicted", |m| m.predicted_factor),
        ("steps", |m| m.steps),
        ("steps_predicted", |m| m.predicted_steps),
    ];
    for (name, part) in parts {
        table.push(name, numbers(rows.iter().map(|row| part(&row.2))))?;
    }
    // Rows are cell after cell, the seeds of a cell together.
    let cells = |part: fn(&Measured) -> f64| {
        rows.chunks(cases.seeds as usize).map(|cell| cell.iter().map(|row| part(&row.2)).collect()).collect()
    };
    Ok(Findings {
        title: format!("{}: condition numbers and rates", name(loss)),
        sentences: sentences(loss, cases, rows),
        seeds: (0..cases.seeds).collect(),
        axes: vec![
            Axis::Words("method", METHODS.iter().map(|(name, _)| (*name).to_owned()).collect()),
            Axis::Words("gauge", GAUGES.iter().map(|(name, _)| (*name).to_owned()).collect()),
            Axis::Logarithmic(varied(loss), cases.ratios.clone()),
            Axis::Logarithmic("c", cases.cs.clone()),
        ],
        band: Band::Quartiles,
        quantities: vec![
            Quantity { name: "log10 of kappa".into(), cells: cells(|m| m.kappa.log10()) },
            Quantity { name: "steps over predicted steps".into(), cells: cells(|m| m.steps / m.predicted_steps) },
        ],
        table,
        details: serde_json::Value::Null,
    })
}

fn name(loss: Loss) -> &'static str {
    match loss {
        Loss::Factorisation => "Matrix factorisation",
        Loss::Sensing => "Matrix sensing",
        Loss::Regression => "Anisotropic regression",
    }
}

/// What [`Cases::ratios`] are.
fn varied(loss: Loss) -> &'static str {
    if loss == Loss::Regression { "covariance_condition" } else { "sigma_ratio" }
}

/// A row of Markdown for every method, then R2.
fn sentences(loss: Loss, cases: &Cases, rows: &[Row]) -> Vec<String> {
    let (k, i) = (cases.ratios.len() / 2, cases.cs.len() / 2);
    let what = if loss == Loss::Factorisation { "formula" } else { "bound" };
    let mut sentences = vec![format!(
        "| method | κ over its {what} | ln(loss factor) over predicted | steps over predicted | median steps, {} = {}, c = {}, scalar and shear |\n|---|---|---|---|---|",
        if loss == Loss::Regression { "condition of the covariance" } else { "σ_1/σ_r" },
        cases.ratios[k],
        cases.cs[i]
    )];
    let spread = |values: &[f64]| {
        let part = |q: f64| quantile(values, q).map_or_else(|| "none".into(), short);
        format!("{} ({} to {})", part(0.5), part(0.0), part(1.0))
    };
    for (m, (name, _)) in METHODS.iter().enumerate() {
        let of = |part: fn(&Measured) -> f64| -> Vec<f64> {
            rows.iter().filter(|row| row.0.0 == m).map(|row| part(&row.2)).filter(|x| x.is_finite()).collect()
        };
        let steps = |g: usize| {
            let here = rows.iter().filter(|row| row.0 == (m, g, k, i)).map(|row| row.2.steps).collect::<Vec<_>>();
            median(&here).map_or_else(|| "none".into(), short)
        };
        sentences.push(format!(
            "| {name} | {} | {} | {} | {}, {} |",
            spread(&of(|m| m.kappa / m.formula)),
            spread(&of(|m| m.factor.ln() / m.predicted_factor.ln())),
            spread(&of(|m| m.steps / m.predicted_steps)),
            steps(0),
            steps(1),
        ));
    }
    sentences.push(mechanism(loss, cases, rows));
    sentences.extend((loss == Loss::Regression).then(|| by_covariance(cases, rows)));
    sentences
}

/// What is left of the gain where K is uneven: balanced factors are then no longer the best of all.
fn by_covariance(cases: &Cases, rows: &[Row]) -> String {
    let at = |k: usize| {
        let of = |m: usize| rows.iter().filter(move |row| row.0.0 == m && row.0.2 == k && cases.cs[row.0.3] > 1.0);
        let gains: Vec<f64> = of(0).zip(of(1)).map(|(x, y)| x.2.kappa / y.2.kappa).collect();
        let part = |q: f64| quantile(&gains, q).map_or_else(|| "none".into(), short);
        let better = gains.iter().filter(|gain| **gain > 1.0).count();
        let counted = format!("balora's is lower in {better} of {}", gains.len());
        format!("{} ({} to {}; {counted}) at {}", part(0.5), part(0.0), part(1.0), short(cases.ratios[k]))
    };
    let all: Vec<String> = (0..cases.ratios.len()).map(at).collect();
    format!("κ of lora's Hessian over balora's, off balance, by the condition of the covariance: {}.", all.join(", "))
}

/// R2: lora's steps over balora's, against the prediction, where both arrive and factors are off balance.
fn mechanism(loss: Loss, cases: &Cases, rows: &[Row]) -> String {
    let of = |m: usize| rows.iter().filter(move |row| row.0.0 == m && cases.cs[row.0.3] > 1.0);
    let pairs = of(0).zip(of(1)).filter(|(x, y)| x.2.steps.is_finite() && y.2.steps.is_finite());
    let ratios: Vec<f64> =
        pairs.map(|(x, y)| (x.2.steps / y.2.steps) / (x.2.predicted_steps / y.2.predicted_steps)).collect();
    let (all, lower) = (of(0).count(), of(0).zip(of(1)).filter(|(x, y)| y.2.kappa < x.2.kappa).count());
    let close = ratios.iter().filter(|ratio| (*ratio - 1.0).abs() <= 0.2).count();
    format!(
        "R2, {}: balora's κ is below lora's in {lower} of {all} runs off balance; lora's steps over balora's are within 20 % of the prediction in {close} of {} runs in which both arrive.",
        name(loss).to_lowercase(),
        ratios.len()
    )
}
