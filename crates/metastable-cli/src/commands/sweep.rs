//! `metastable sweep`.

use anyhow::Result;
use metastable::sweep::report::SweepReport;
use metastable::sweep::{self, SweepRequest};
use metastable::table::{Column, Table};

use super::show::{self, Out};
use super::simulate::default_output;
use crate::args::{OutputFormat, SweepArgs};
use crate::progress::Progress;

/// More cells than this are for the table and the figures.
const MOST_CELLS: usize = 40;

/// Runs a sweep, or with `--dry-run` only checks it.
pub(crate) fn run(args: &SweepArgs, format: OutputFormat, progress: &mut Progress) -> Result<()> {
    let mut out = Out::new();
    if args.dry_run {
        let sweep = sweep::load(&args.config, &args.overrides, args.seed)?;
        out.text(&sweep.resolved()?)?;
        return Ok(());
    }
    let output = args.run.output.clone().unwrap_or_else(|| default_output(&args.config));
    let request = SweepRequest {
        config: args.config.clone(),
        overrides: args.overrides.clone(),
        seed: args.seed,
        output: output.clone(),
        existing: args.run.existing(),
    };
    let report = sweep::run(&request, progress)?;
    progress.clear();
    match format {
        OutputFormat::Json => out.json(&summary(&report))?,
        OutputFormat::Csv => out.text(&cells(&report)?.to_csv())?,
        OutputFormat::Table => {
            readable(&report, &mut out)?;
            let page = output.join("report.html");
            out.line(&format!("\ntable: {}; report: {}", output.join("points.parquet").display(), page.display()))?;
        }
    }
    match sweep::failed_points(&report, &output) {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn readable(report: &SweepReport, out: &mut Out) -> Result<()> {
    out.line(&format!("{}\n", report.title))?;
    for sentence in &report.summary {
        out.line(&format!("  {sentence}"))?;
    }
    for warning in &report.warnings {
        out.line(&format!("  warning: {warning}"))?;
    }
    let cells = cells(report)?;
    if (2..=MOST_CELLS).contains(&cells.rows()) {
        out.line("")?;
        out.text(&show::table(&cells))?;
    }
    Ok(())
}

/// One row for every cell of the axes: means with their intervals, or how often each word was found.
fn cells(report: &SweepReport) -> Result<Table> {
    let sizes: Vec<usize> = report.axes.iter().map(|axis| axis.values.len()).collect();
    let rows: usize = sizes.iter().product();
    let mut table = Table::new("cells");
    for (a, axis) in report.axes.iter().enumerate() {
        let after: usize = sizes[a + 1..].iter().product();
        let labels = (0..rows).map(|cell| axis.values[cell / after % sizes[a]].text()).collect();
        table.push(&axis.name, Column::Text(labels))?;
    }
    for column in &report.columns {
        if let (Some(mean), Some(low), Some(high)) = (&column.mean, &column.low, &column.high) {
            table.push(&column.name, Column::Float(mean.clone()))?;
            table.push(&format!("{} low", column.name), Column::Float(low.clone()))?;
            table.push(&format!("{} high", column.name), Column::Float(high.clone()))?;
        }
        if let Some(shares) = &column.shares {
            let found = |cell: usize| {
                let some = shares.iter().filter(|share| share.hits[cell] > 0);
                some.map(|share| format!("{}: {}", share.value.text(), share.hits[cell])).collect::<Vec<_>>().join(", ")
            };
            table.push(&format!("{} counts", column.name), Column::Text((0..rows).map(found).collect()))?;
        }
    }
    Ok(table)
}

/// What scripts ask for most, on stdout; everything is in report.json and points.parquet.
fn summary(report: &SweepReport) -> serde_json::Value {
    serde_json::json!({
        "title": report.title,
        "points": report.points,
        "axes": report.axes,
        "columns": report.columns,
        "failures": report.failures,
        "summary": report.summary,
        "warnings": report.warnings,
    })
}
