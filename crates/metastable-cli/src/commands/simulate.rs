//! `metastable simulate`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use metastable::simulate::report::{SimulateReport, TwinReport};
use metastable::simulate::resolved::resolved;
use metastable::simulate::summary::time;
use metastable::simulate::{self, Finished, SimulateRequest};
use metastable::table::{Column, Table};

use super::gaussian;
use super::show::{self, Out};
use crate::args::{OutputFormat, SimulateArgs};
use crate::progress::Progress;

/// Runs a simulation, or with `--dry-run` only checks it.
pub(crate) fn run(args: &SimulateArgs, format: OutputFormat, progress: &mut Progress) -> Result<()> {
    let mut out = Out::new();
    if args.dry_run {
        let loaded = simulate::load_any(&args.config, &args.overrides, args.seed)?;
        out.text(&resolved(loaded.config(), &args.config)?)?;
        return Ok(());
    }
    let output = args.run.output.clone().unwrap_or_else(|| default_output(&args.config));
    let request = SimulateRequest {
        config: args.config.clone(),
        overrides: args.overrides.clone(),
        seed: args.seed,
        output: output.clone(),
        existing: args.run.existing(),
    };
    let finished = simulate::run_any(&request, progress)?;
    progress.clear();
    let report = match &finished {
        Finished::Particles(report) => report,
        Finished::Gaussian(report) => return gaussian::show(report, format, &output, &mut out),
    };
    match format {
        OutputFormat::Json => out.json(&summary(report))?,
        OutputFormat::Csv => out.text(&times_table(report)?.to_csv())?,
        OutputFormat::Table => readable(report, &mut out)?,
    }
    if format == OutputFormat::Table {
        out.line("")?;
        out.line(&format!("seed {}; report: {}", report.header.provenance.seed, output.join("report.html").display()))?;
    }
    Ok(())
}

/// runs/ and the config's file name.
pub(crate) fn default_output(config: &Path) -> PathBuf {
    Path::new("runs").join(config.file_stem().unwrap_or(config.as_os_str()))
}

fn readable(report: &SimulateReport, out: &mut Out) -> Result<()> {
    show::head(&report.header, out)?;
    if report.twin.is_some() {
        out.line("")?;
        out.text(&show::table(&times_table(report)?))?;
    }
    if let Some(cascade) = report.twin.as_ref().and_then(cascade_table) {
        out.line("\nslow-time cascade, merges within the cluster radius")?;
        out.text(&show::table(&cascade?))?;
    }
    Ok(())
}

/// The three times of a twin; without one, the base run's end.
fn times_table(report: &SimulateReport) -> Result<Table> {
    let mut table = Table::new("times");
    let end = report.config.time.end;
    let rows = match &report.twin {
        Some(twin) => vec![
            ("cluster time", time(&twin.cluster_time, end)),
            ("departure time", time(&twin.departure_time, end)),
            ("second-cluster time", time(&twin.second_cluster_time, end)),
        ],
        None => vec![("end", format!("t = {}", report.stop.time))],
    };
    table.push("event", Column::Text(rows.iter().map(|(name, _)| name.to_string()).collect()))?;
    table.push("time", Column::Text(rows.into_iter().map(|(_, time)| time).collect()))?;
    Ok(table)
}

fn cascade_table(twin: &TwinReport) -> Option<Result<Table>> {
    let cascade = twin.cascade.as_ref().filter(|cascade| !cascade.events.is_empty())?;
    let build = || {
        let mut table = Table::new("cascade");
        let clusters = cascade.events.iter().map(|e| format!("{} -> {}", e.from, e.into)).collect();
        table.push("clusters", Column::Text(clusters))?;
        table.push("release (predicted)", Column::numbers(cascade.events.iter().map(|e| e.release_time)))?;
        table.push("merge (predicted)", Column::numbers(cascade.events.iter().map(|e| e.merge_time)))?;
        let seen = cascade.events.iter().map(|e| e.simulated_merge_time).collect();
        table.push("merge (simulated)", Column::Float(seen))?;
        Ok(table)
    };
    Some(build())
}

/// What scripts ask for most, on stdout; everything is in report.json.
fn summary(report: &SimulateReport) -> serde_json::Value {
    let twin = report.twin.as_ref().map(|twin| {
        serde_json::json!({
            "cluster_time": twin.cluster_time,
            "departure_time": twin.departure_time,
            "second_cluster_time": twin.second_cluster_time,
            "clusters": { "count": twin.clusters.count, "centers": twin.clusters.centers },
            "cascade": twin.cascade,
        })
    });
    serde_json::json!({
        "title": report.header.title,
        "seed": report.header.provenance.seed,
        "stop": report.stop,
        "clusters": { "count": report.clusters.count, "centers": report.clusters.centers },
        "twin": twin,
        "summary": report.header.summary,
        "warnings": report.header.warnings,
    })
}
