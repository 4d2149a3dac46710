//! What the runs of a task say, in numbers and in words.

use serde_json::{Value, json};

use crate::methods::CONTROL;
use crate::protocol::{Grid, Runs, rate};
use crate::statistics::{bootstrap, median, words};

/// The verdicts of a task.
pub(crate) struct Verdict {
    pub(crate) sentences: Vec<String>,
    pub(crate) json: Value,
}

/// One method at its best setting of every scale.
pub(crate) struct Standing {
    pub(crate) name: &'static str,
    /// (k of the best rate, test losses of all seeds) for every scale.
    pub(crate) at: Vec<(i32, Vec<f64>)>,
    /// As [`Standing::at`], at equal seconds if a step takes 5 % longer.
    pub(crate) sooner: Vec<Vec<f64>>,
    /// The scale of the least, and of the largest, median validation loss at its best rate.
    pub(crate) best: usize,
    pub(crate) worst: usize,
    /// Share of the grid's cells whose median is within 5 % of the optimum, and within a factor of ten; see [`standings`].
    pub(crate) near: [f64; 2],
    /// The largest κ of a pair at the end, of all seeds, for every scale at its best rate.
    pub(crate) kappas: Vec<Vec<f64>>,
}

/// The standing of every method of which there are runs at all scales.
///
/// The optimum is the best of the methods that learn the same model. PiSSA's and OLoRA's losses are above the floor of their
/// own base; DoRA's rows have lengths of their own, so that it goes below the floor of the others, and is then left out.
pub(crate) fn standings(grid: &Grid, runs: &Runs) -> Vec<Standing> {
    let middle = |at: (usize, usize, i32)| median(&runs.of(at, |kept| kept.validation)).unwrap_or(f64::INFINITY);
    let methods = 0..grid.rivals.len();
    let scales = 0..grid.sigmas.len();
    let everywhere = methods.clone().flat_map(|m| scales.clone().map(move |s| (m, s)));
    let optimum = everywhere.filter_map(|(m, s)| Some(middle((m, s, runs.best_rate(m, s)?))));
    let optimum = optimum.filter(|loss| *loss >= 0.0).fold(f64::INFINITY, f64::min);
    let standing = |m: usize| {
        let rates = scales.clone().map(|s| runs.best_rate(m, s)).collect::<Option<Vec<i32>>>()?;
        let at: Vec<_> = rates.iter().enumerate().map(|(s, k)| (*k, runs.of((m, s, *k), |kept| kept.test))).collect();
        let losses: Vec<f64> = rates.iter().enumerate().map(|(s, k)| middle((m, s, *k))).collect();
        let place = |better: fn(f64, f64) -> bool| {
            (0..losses.len()).fold(0, |b, s| if better(losses[s], losses[b]) { s } else { b })
        };
        let cells: Vec<f64> = scales
            .clone()
            .flat_map(|s| grid.rates.iter().map(move |k| (s, *k)))
            .map(|(s, k)| middle((m, s, k)))
            .collect();
        let share = |factor: f64| cells.iter().filter(|x| **x <= factor * optimum).count() as f64 / cells.len() as f64;
        Some(Standing {
            name: grid.rivals[m].name,
            at,
            sooner: rates.iter().enumerate().map(|(s, k)| runs.of((m, s, *k), |kept| kept.sooner)).collect(),
            best: place(|x, y| x < y),
            worst: place(|x, y| x > y),
            near: [share(1.05), share(10.0)],
            kappas: rates.iter().enumerate().map(|(s, k)| runs.of((m, s, *k), |kept| kept.kappa)).collect(),
        })
    };
    methods.filter_map(standing).collect()
}

/// Seeds in which `x` is at most `y`.
pub(crate) fn wins(x: &[f64], y: &[f64]) -> usize {
    x.iter().zip(y).filter(|(x, y)| x <= y).count()
}

/// x/y, seed by seed, 0 where x is below a floor that y is above.
pub(crate) fn ratios(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| if x == y { 1.0 } else { x.max(0.0) / y }).collect()
}

/// The table of methods, and R3 to R5 in words.
pub(crate) fn judged(grid: &Grid, runs: &Runs) -> Verdict {
    let standings = standings(grid, runs);
    let find = |name: &str| standings.iter().find(|standing| standing.name == name);
    let mut sentences = vec![header(grid)];
    sentences.extend(standings.iter().map(|standing| row(grid, standing, find("lora"))));
    if let (Some(lora), Some(balora)) = (find("lora"), find("balora")) {
        sentences.push(conditions(lora, balora));
        sentences.extend(robustness(grid, lora, balora));
        sentences.extend(at_the_optimum(lora, balora));
        for name in ["norm-balance", "reflora"] {
            sentences.extend(find(name).map(|other| compared(grid, balora, other)));
        }
        sentences.extend(find(CONTROL).map(|control| compared(grid, balora, control)));
    }
    let entry = |standing: &Standing| {
        let finite = |x: &f64| x.is_finite().then_some(*x);
        json!({
            "method": standing.name,
            "best_sigma": grid.sigmas[standing.best],
            "worst_sigma": grid.sigmas[standing.worst],
            "near": standing.near,
            "at": standing.at.iter().enumerate().map(|(s, (k, tests))| json!({
                "sigma": grid.sigmas[s],
                "rate": rate(*k),
                "tests": tests.iter().map(finite).collect::<Vec<_>>(),
                "median": median(tests).as_ref().and_then(finite),
                "interval": bootstrap(tests).map(|ends| ends.map(|x| finite(&x))),
            })).collect::<Vec<_>>(),
        })
    };
    Verdict { json: json!({"methods": standings.iter().map(entry).collect::<Vec<_>>()}), sentences }
}

/// A row of Markdown.
fn header(grid: &Grid) -> String {
    let scales: Vec<String> = grid.sigmas.iter().map(|sigma| format!(" σ = {sigma} |")).collect();
    let rules = "---|".repeat(grid.sigmas.len());
    format!(
        "| method |{} ratio to lora, both at their best | near the best: 5 %, factor 10 |\n|---|{rules}---|---|",
        scales.concat()
    )
}

fn row(grid: &Grid, standing: &Standing, lora: Option<&Standing>) -> String {
    let edge = |k: i32| if grid.rates.contains(&k) { "" } else { "*" };
    let scale = |(k, tests): &(i32, Vec<f64>)| format!(" {} at 1e{}{} |", words(tests), f64::from(*k) / 2.0, edge(*k));
    let scales: String = standing.at.iter().map(scale).collect();
    let against = lora.map(|lora| words(&ratios(&standing.at[standing.best].1, &lora.at[lora.best].1)));
    let [close, double] = standing.near.map(|share| format!("{:.0} %", 100.0 * share));
    format!("| {} |{scales} {} | {close}, {double} |", standing.name, against.unwrap_or_default())
}

/// R2: condition numbers at the end.
fn conditions(lora: &Standing, balora: &Standing) -> String {
    let (x, y): (Vec<f64>, Vec<f64>) = (balora.kappas.concat(), lora.kappas.concat());
    let lower = x.iter().zip(&y).filter(|(x, y)| x < y).count();
    format!(
        "R2, largest κ of a pair at the end, at the best rates: balora's is below lora's in {lower} of {} runs, median {} against {}: {}.",
        x.len(),
        words(&x),
        words(&y),
        if 20 * lower >= 19 * x.len() { "holds" } else { "fails" }
    )
}

/// R3: at the worst scale, and the share of the grid.
fn robustness(grid: &Grid, lora: &Standing, balora: &Standing) -> [String; 2] {
    let (x, y) = (&balora.at[balora.worst].1, &lora.at[lora.worst].1);
    let (won, seeds) = (wins(x, y), x.len());
    let holds = |yes: bool| if yes { "holds" } else { "fails" };
    [
        format!(
            "R3, worst scale (σ = {} for lora, {} for balora): balora's loss is at most lora's in {won} of {seeds} seeds, median {} against {}: {}.",
            grid.sigmas[lora.worst],
            grid.sigmas[balora.worst],
            words(x),
            words(y),
            holds(5 * won >= 4 * seeds)
        ),
        format!(
            "R3, share of the grid within 5 % (a factor of 10) of the best: balora {:.0} % ({:.0} %), lora {:.0} % ({:.0} %): {}.",
            100.0 * balora.near[0],
            100.0 * balora.near[1],
            100.0 * lora.near[0],
            100.0 * lora.near[1],
            holds(balora.near[0] > lora.near[0] || (balora.near[0] == lora.near[0] && balora.near[1] > lora.near[1]))
        ),
    ]
}

/// R4: paired, each at its own optimum.
fn at_the_optimum(lora: &Standing, balora: &Standing) -> [String; 2] {
    let base = &lora.at[lora.best].1;
    let said = |ratios: Vec<f64>| {
        let verdict = match bootstrap(&ratios) {
            Some([_, high]) if high < 1.0 => "balora is better",
            Some([low, _]) if low > 1.0 => "lora is better",
            _ => "no difference is shown",
        };
        format!("{}: {verdict}", words(&ratios))
    };
    let (steps, seconds) = (ratios(&balora.at[balora.best].1, base), ratios(&balora.sooner[balora.best], base));
    [
        format!("R4, balora/lora, each at its best setting, seed by seed: {}.", said(steps)),
        format!("R4 at equal seconds, if a projection makes a step 5 % longer: {}.", said(seconds)),
    ]
}

/// R5: balora against another method at every scale.
fn compared(grid: &Grid, balora: &Standing, other: &Standing) -> String {
    let at = |s: usize| format!("{} at σ = {}", words(&ratios(&other.at[s].1, &balora.at[s].1)), grid.sigmas[s]);
    let scales: Vec<String> = (0..grid.sigmas.len()).map(at).collect();
    format!("R5, {}/balora at the best rate of each: {}.", other.name, scales.join(", "))
}
