//! What happened, in sentences: the same for the terminal and for the page.

use metastable_dynamics::observe::BracketedTime;
use metastable_dynamics::solver::StopReason;

use super::laws::LawSeries;
use super::report::{SimulateReport, Stop, TwinReport};
use crate::report::shown;

/// The summary of a report.
pub fn sentences(report: &SimulateReport) -> Vec<String> {
    let mut sentences = vec![format!(
        "{} tokens in R^{}: {} ({} steps, {} evaluations of the field).",
        report.header.tokens.count,
        report.header.tokens.dim,
        ending(&report.stop),
        report.solver.steps,
        report.solver.evaluations
    )];
    sentences.push(format!("The base run ends in {}.", clusters(report.clusters.count, &report.clusters.sizes)));
    sentences.extend(report.laws.iter().filter_map(about_law));
    if let Some(twin) = &report.twin {
        sentences.extend(about_twin(report, twin));
    }
    sentences
}

/// "Law sinkhorn_mean: …, largest violation 3.1e-13."
fn about_law(law: &LawSeries) -> Option<String> {
    let violation = law.largest_violation?;
    Some(format!("Law {}: {}; largest violation {violation:.1e}.", law.name, law.statement))
}

fn about_twin(report: &SimulateReport, twin: &TwinReport) -> Vec<String> {
    let end = report.config.time.end;
    let mut sentences = vec![format!(
        "The LoRA twin ends in {} ({}).",
        clusters(twin.clusters.count, &twin.clusters.sizes),
        ending(&twin.stop)
    )];
    let radius = report.clusters.radius;
    sentences.push(match twin.cluster_time.value {
        None => format!("It never gathers at the base clusters (all tokens within {radius}) within T = {end}."),
        Some(_) => format!("It has gathered at the base clusters at {}.", time(&twin.cluster_time, end)),
    });
    if twin.cluster_time.value.is_some() {
        sentences.push(match twin.departure_time.value {
            None => format!("No token leaves its base cluster within T = {end}."),
            Some(_) => format!("The first token leaves its base cluster at {}.", time(&twin.departure_time, end)),
        });
    }
    if twin.departure_time.value.is_some() {
        sentences.push(match twin.second_cluster_time.value {
            None => format!("It does not settle in clusters of its own within T = {end}."),
            Some(_) => format!("It has settled in its own clusters at {}.", time(&twin.second_cluster_time, end)),
        });
    }
    if let Some(cascade) = &twin.cascade
        && let Some(first) = cascade.events.first()
    {
        let simulated = first.simulated_merge_time.map_or("not seen".into(), |t| format!("t = {t:.4}"));
        sentences.push(format!(
            "The slow-time cascade predicts {}; the first at t = {:.4}, simulated: {simulated}.",
            counted(cascade.events.len(), "merge"),
            first.merge_time
        ));
    }
    sentences
}

/// "t = 5.7512", with its bracket where that is wider than the printed digits.
pub fn time(time: &BracketedTime, end: f64) -> String {
    match (time.value, time.bracket) {
        (Some(t), Some([lo, hi])) if hi - lo > 1e-6 => {
            format!("t = {} (between {} and {})", shown(t, 6), shown(lo, 6), shown(hi, 6))
        }
        (Some(t), _) => format!("t = {}", shown(t, 6)),
        _ => format!("never within T = {end}"),
    }
}

fn clusters(count: usize, sizes: &[usize]) -> String {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let shown: Vec<String> = sizes.iter().take(8).map(usize::to_string).collect();
    let more = if sizes.len() > 8 { ", …" } else { "" };
    format!("{} (sizes {}{more})", counted(count, "cluster"), shown.join(", "))
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// How a run ended, after its subject.
pub fn ending(stop: &Stop) -> String {
    let t = stop.time;
    match stop.reason {
        StopReason::EndTime => format!("integrated to t = {t}"),
        StopReason::Stationary => format!("stationary at t = {}", shown(t, 6)),
        StopReason::BlowUp => format!("escaped to infinity at t = {}", shown(t, 6)),
        StopReason::StepUnderflow => format!("no step small enough at t = {}", shown(t, 6)),
        StopReason::Observer => format!("stopped at t = {}", shown(t, 6)),
        StopReason::MaxSteps => format!("out of steps at t = {}", shown(t, 6)),
    }
}
