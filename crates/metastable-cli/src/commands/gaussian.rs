//! What `metastable simulate` says of a Gaussian run.

use std::path::Path;

use anyhow::Result;
use metastable::simulate::gaussian::report::{GaussianReport, GaussianSummary};
use metastable::table::{Column, Table};

use super::show::{self, Out};
use crate::args::OutputFormat;

/// The verdict in the format asked for.
pub(super) fn show(report: &GaussianReport, format: OutputFormat, output: &Path, out: &mut Out) -> Result<()> {
    match format {
        OutputFormat::Json => out.json(&summary(report)),
        OutputFormat::Csv => out.text(&verdicts(report)?.to_csv()),
        OutputFormat::Table => {
            show::head(&report.header, out)?;
            out.line("")?;
            let seed = report.header.provenance.seed;
            out.line(&format!("seed {seed}; report: {}", output.join("report.html").display()))
        }
    }
}

/// One row a run.
fn verdicts(report: &GaussianReport) -> Result<Table> {
    let twin = report.twin.as_ref().map(|twin| ("lora", &twin.gaussian));
    let runs: Vec<(&str, &GaussianSummary)> = std::iter::once(("base", &report.gaussian)).chain(twin).collect();
    let pole = |pick: fn(&metastable::simulate::gaussian::report::BlowUpReport) -> f64| {
        Column::Float(runs.iter().map(|(_, gaussian)| gaussian.blow_up.as_ref().map(pick)).collect())
    };
    let mut table = Table::new("verdicts");
    table.push("run", Column::Text(runs.iter().map(|(name, _)| name.to_string()).collect()))?;
    table.push("regime", Column::Text(runs.iter().map(|(_, gaussian)| gaussian.regime.to_string()).collect()))?;
    let ranks = runs.iter().map(|(_, gaussian)| gaussian.limit_rank.map(|rank| rank as f64));
    table.push("limit_rank", Column::Float(ranks.collect()))?;
    table.push("blow_up_time", pole(|pole| pole.fit))?;
    table.push("blow_up_lower", pole(|pole| pole.lower))?;
    table.push("blow_up_upper", pole(|pole| pole.upper))?;
    Ok(table)
}

/// What scripts ask for most, on stdout; everything is in report.json.
fn summary(report: &GaussianReport) -> serde_json::Value {
    let twin = report.twin.as_ref();
    serde_json::json!({
        "title": report.header.title,
        "seed": report.header.provenance.seed,
        "stop": report.stop,
        "gaussian": report.gaussian,
        "twin": twin.map(|twin| serde_json::json!({ "gaussian": twin.gaussian, "max_distance": twin.max_distance })),
        "summary": report.header.summary,
        "warnings": report.header.warnings,
    })
}
