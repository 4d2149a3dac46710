//! `metastable finetune`.

use anyhow::Result;
use metastable::document::to_toml;
use metastable::finetune::report::FinetuneReport;
use metastable::finetune::{self, FinetuneRequest};
use metastable::table::{Column, Table};

use super::show::{self, Out};
use super::simulate::default_output;
use crate::args::{FinetuneArgs, Global, OutputFormat};
use crate::progress::Progress;

/// Trains an adapter, or with `--dry-run` only checks the configuration.
pub(crate) fn run(args: &FinetuneArgs, global: &Global, progress: &mut Progress) -> Result<()> {
    let mut out = Out::new();
    if args.dry_run {
        out.text(&to_toml(&finetune::load(&args.config, &args.overrides, args.seed)?)?)?;
        return Ok(());
    }
    let output = args.run.output.clone().unwrap_or_else(|| default_output(&args.config));
    let request = FinetuneRequest {
        config: args.config.clone(),
        overrides: args.overrides.clone(),
        seed: args.seed,
        output: output.clone(),
        existing: args.run.existing(),
        offline: global.offline,
    };
    let report = finetune::run(&request, progress)?;
    progress.clear();
    let table = table(&report)?;
    match global.format {
        OutputFormat::Json => out.json(&serde_json::json!({
            "title": report.title, "final_loss": report.final_loss, "eval_loss": report.eval_loss,
            "eval_accuracy": report.eval_accuracy, "base_eval_loss": report.base_eval_loss, "steps": report.steps,
            "saved_step": report.saved_step, "tokens_per_second": report.tokens_per_second,
            "peak_memory_bytes": report.peak_memory_bytes, "summary": report.summary, "warnings": report.warnings,
        }))?,
        OutputFormat::Csv => out.text(&table.to_csv())?,
        OutputFormat::Table => {
            out.line(&format!("{}\n", report.title))?;
            report.summary.iter().try_for_each(|sentence| out.line(&format!("  {sentence}")))?;
            report.warnings.iter().try_for_each(|warning| out.line(&format!("  warning: {warning}")))?;
            out.line("")?;
            out.text(&show::table(&table))?;
            out.line(&format!("\nadapter: {}", output.join("adapter").display()))?;
            out.line(&format!("report: {}", output.join("report.html").display()))?;
        }
    }
    Ok(())
}

/// The steps at which held-out examples were evaluated, or the last step.
fn table(report: &FinetuneReport) -> Result<Table> {
    let evaluated = || report.series.iter().filter(|metrics| metrics.eval_loss.is_some());
    let rows: Vec<_> = match evaluated().next() {
        Some(_) => evaluated().collect(),
        None => report.series.last().into_iter().collect(),
    };
    let mut table = Table::new("evaluations");
    table.push("step", Column::Integer(rows.iter().map(|row| i64::try_from(row.step).unwrap_or(-1)).collect()))?;
    table.push("loss", Column::numbers(rows.iter().map(|row| row.loss)))?;
    table.push("held-out loss", Column::Float(rows.iter().map(|row| row.eval_loss).collect()))?;
    table.push("held-out accuracy", Column::Float(rows.iter().map(|row| row.eval_accuracy).collect()))?;
    table.push("kappa", Column::Float(rows.iter().map(|row| row.kappa).collect()))?;
    table.push("in balance", Column::Float(rows.iter().map(|row| row.kappa_balanced).collect()))?;
    Ok(table)
}
