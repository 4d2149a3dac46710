//! What became of a Gaussian, in sentences: the same for the terminal and for the page.

use super::report::{FamilyReport, GaussianReport, GaussianSummary};
use crate::simulate::summary::ending;

/// The summary of a report.
pub fn sentences(report: &GaussianReport) -> Vec<String> {
    let mut sentences = vec![format!(
        "A Gaussian in R^{}: {} ({} steps, {} evaluations of the field).",
        report.header.tokens.dim,
        ending(&report.stop),
        report.solver.steps,
        report.solver.evaluations
    )];
    sentences.push(format!("The covariance {}.", fate(&report.gaussian)));
    sentences.push(grounds(&report.gaussian));
    sentences.extend(report.gaussian.family.as_ref().map(family));
    if let Some(twin) = &report.twin {
        sentences.push(format!("With LoRA the covariance {}.", fate(&twin.gaussian)));
        if let Some(distance) = twin.max_distance {
            sentences.push(format!("The two Gaussians are at most {distance:.6} apart (Bures-Wasserstein)."));
        }
    }
    for particles in &report.gaussian.particles {
        let last =
            |column: &[Option<f64>]| column.last().copied().flatten().map_or("–".into(), |x| format!("{x:.3}"));
        sentences.push(format!(
            "{} particles ({} draws) end with errors · √n of {} (mean) and {} (covariance); sampling alone gives {:.3} \
             and {:.3} at t = 0.",
            particles.count,
            particles.repeats,
            last(&particles.mean_error),
            last(&particles.covariance_error),
            particles.sampling_mean_error,
            particles.sampling_covariance_error
        ));
    }
    sentences
}

/// What becomes of a covariance, after "the covariance".
pub fn fate(gaussian: &GaussianSummary) -> String {
    match (gaussian.regime, gaussian.limit_rank, &gaussian.blow_up) {
        ("collapse", Some(rank), _) => format!("collapses to rank {rank}"),
        ("bounded", Some(rank), _) => format!("stays bounded and keeps its rank {rank}"),
        ("open", ..) => {
            format!("has shown no regime by t = {}, where its run was out of steps", time(gaussian.followed_to))
        }
        ("isospectral", ..) => "turns with a constant spectrum".into(),
        ("blow_up", _, Some(pole)) => {
            let kind = if pole.upper_is_proven { "between" } else { "upper end fitted, between" };
            format!("blows up at t* = {:.12} ({kind} {:.12} and {:.12})", pole.fit, pole.lower, pole.upper)
        }
        _ => {
            let rate =
                gaussian.growth_rate.map_or(String::new(), |rate| format!(", tr Σ at the rate {rate:.6} at last"));
            format!("grows for ever without a pole{rate}")
        }
    }
}

fn grounds(gaussian: &GaussianSummary) -> String {
    let certificate = &gaussian.certificate;
    match (certificate.claim, certificate.is_proven) {
        ("nothing", _) => {
            format!(
                "No certificate is known: the verdict is the run's, followed to t = {}.",
                time(gaussian.followed_to)
            )
        }
        (_, true) => format!("Proven: {}.", certificate.statement),
        (_, false) => {
            format!(
                "Known: {}; the regime is the run's, followed to t = {}.",
                certificate.statement,
                time(gaussian.followed_to)
            )
        }
    }
}

/// A time in plain digits where they are few.
fn time(t: f64) -> String {
    if t == 0.0 || (1e-3..1e5).contains(&t) { format!("{t:.4}") } else { format!("{t:.4e}") }
}

fn family(family: &FamilyReport) -> String {
    let regime = |r: &super::report::FamilyRegime| match r.limit_rank {
        Some(rank) => format!("{} {} (rank {rank})", r.count, r.regime.replace('_', " ")),
        None => format!("{} {}", r.count, r.regime.replace('_', " ")),
    };
    let tally: Vec<String> = family.regimes.iter().map(regime).collect();
    let times = family.blow_up_times.map_or(String::new(), |[least, median, most]| {
        format!("; blow-up times from {least:.9} over the median {median:.9} to {most:.9}")
    });
    format!("Of {} other starts: {}{times}.", family.count, tally.join(", "))
}
