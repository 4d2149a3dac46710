//! `metastable inspect` and `metastable logits`.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use metastable::adapter::Strictness;
use metastable::hub::{Role, fetch};
use metastable::inspect::drift::LayerDrift;
use metastable::inspect::export::{Idealised, IdealisedLevel};
use metastable::inspect::report::{ContentRow, InspectReport, LayerRow};
use metastable::inspect::twin::{AdapterReport, SweepRow};
use metastable::inspect::{
    self, AdapterRequest, DEFAULT_CLUSTER_RADIUS, HeadChoice, InspectRequest, TextSource, Threshold,
};
use metastable::table::{Column, Table};

use super::show::{self, Out};
use crate::args::{Global, InspectArgs, LogitsArgs, OutputFormat};
use crate::progress::Progress;

/// Follows a text through a checkpoint, or measures its heads where there is no text.
pub(crate) fn run(args: InspectArgs, global: &Global, progress: &mut Progress) -> Result<()> {
    let format = global.format;
    let thresholds = args.fail_if.iter().map(|text| Threshold::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let name = args.model.file_name().map_or("inspect".into(), |name| name.to_os_string());
    let request = InspectRequest {
        output: args.run.output.clone().unwrap_or_else(|| Path::new("runs").join(name)),
        existing: args.run.existing(),
        model: args.model,
        text: args.input.text.map(TextSource::File).or(args.input.prompt.map(TextSource::Prompt)),
        max_tokens: args.max_tokens.map(NonZeroUsize::get),
        layers: args.layers,
        cluster_radius: args.cluster_radius.unwrap_or(DEFAULT_CLUSTER_RADIUS),
        distances: args.distances,
        export_head: args.export_head.as_deref().map(HeadChoice::parse).transpose()?,
        adapter: args.adapter.map(|adapter| AdapterRequest {
            adapter,
            strictness: if args.allow_partial { Strictness::Partial } else { Strictness::Closed },
            scale_sweep: args.scale_sweep,
        }),
    };
    fetch(&request.model, Role::Model, global.offline, progress)?;
    if let Some(request) = &request.adapter {
        fetch(&request.adapter, Role::Adapter, global.offline, progress)?;
    }
    if request.text.is_none() {
        return weights_alone(&request, format, progress);
    }
    let report = inspect::run(&request, progress)?;
    progress.clear();
    show_report(&report, &request, format)?;
    let failure = report.adapter.iter().find_map(|report| thresholds.iter().find_map(|t| t.failure(report)));
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// The heads of a checkpoint, without a text.
fn weights_alone(request: &InspectRequest, format: OutputFormat, progress: &mut Progress) -> Result<()> {
    let report = inspect::inspect_weights(request, progress)?;
    progress.clear();
    let (mut out, table) = (Out::new(), report.table()?);
    match format {
        OutputFormat::Json => out.json(&serde_json::json!({
            "title": report.header.title, "model": report.model, "heads": report.heads, "summary": report.header.summary,
        })),
        OutputFormat::Csv => out.text(&table.to_csv()),
        OutputFormat::Table => {
            out.line(&format!("{}\n", report.header.title))?;
            report.header.summary.iter().try_for_each(|sentence| out.line(&format!("  {sentence}")))?;
            out.line("")?;
            out.text(&show::table(&table))?;
            out.line(&format!("\nreport: {}", request.output.join("report.html").display()))
        }
    }
}

fn show_report(report: &InspectReport, request: &InspectRequest, format: OutputFormat) -> Result<()> {
    let mut out = Out::new();
    let table = layers(report)?;
    match format {
        OutputFormat::Json => out.json(&serde_json::json!({
            "title": report.header.title, "model": report.model, "layers": report.layers,
            "before_final_norm": report.before_final_norm, "mean_field": report.mean_field,
            "idealised": report.idealised, "adapter": report.adapter, "summary": report.header.summary, "warnings": report.header.warnings,
        }))?,
        OutputFormat::Csv => out.text(&table.to_csv())?,
        OutputFormat::Table => {
            out.line(&format!("{}\n", report.header.title))?;
            for sentence in report.header.summary.iter().chain(&report.header.warnings) {
                out.line(&format!("  {sentence}"))?;
            }
            out.line("")?;
            out.text(&show::table(&table))?;
            if let Some(adapter) = &report.adapter {
                out.line("")?;
                out.text(&show::table(&adapter_layers(adapter)?))?;
                if !adapter.scale_sweep.is_empty() {
                    out.line("\nlast layer, at other scales of the adapter")?;
                    out.text(&show::table(&scales(&adapter.scale_sweep)?))?;
                }
            }
            if let Some(idealised) = &report.idealised {
                out.line("")?;
                out.text(&show::table(&idealised_levels(idealised)?))?;
                out.line(&format!("\nconfiguration: {}", request.output.join(idealised.config).display()))?;
            }
            out.line(&format!("\nreport: {}", request.output.join("report.html").display()))?;
        }
    }
    Ok(())
}

fn idealised_levels(idealised: &Idealised) -> Result<Table> {
    let rows = &idealised.levels;
    let mut table = Table::new("idealised");
    let numbers = |pick: fn(&IdealisedLevel) -> Option<f64>| Column::Float(rows.iter().map(pick).collect());
    table.push("layer", integers(rows.iter().map(|row| row.index)))?;
    table.push("time of the flow", numbers(|row| Some(row.time)))?;
    table.push("mean cosine", numbers(|row| row.mean_cosine))?;
    table.push("of the flow", numbers(|row| row.mean_cosine_flow))?;
    table.push("rms distance", numbers(|row| Some(row.rms_distance)))?;
    table.push("W2", numbers(|row| row.wasserstein2))?;
    Ok(table)
}

/// The last level at other scales of the adapter, and where the clouds part there.
fn scales(rows: &[SweepRow]) -> Result<Table> {
    let mut table = Table::new("scales");
    table.push("factor", Column::numbers(rows.iter().map(|row| row.factor)))?;
    table.push("shift", Column::numbers(rows.iter().map(|row| row.shift_relative)))?;
    table.push("cosine", Column::numbers(rows.iter().map(|row| row.cosine)))?;
    table.push("clusters", integers(rows.iter().map(|row| row.n_clusters)))?;
    table.push("changed", integers(rows.iter().map(|row| row.clusters_changed)))?;
    table.push("clouds part at layer", Column::Float(rows.iter().map(|row| row.departure.value).collect()))?;
    Ok(table)
}

fn integers(values: impl Iterator<Item = usize>) -> Column {
    Column::Integer(values.map(|value| i64::try_from(value).unwrap_or(i64::MAX)).collect())
}

fn adapter_layers(report: &AdapterReport) -> Result<Table> {
    let rows = &report.layers;
    let mut table = Table::new("adapter");
    let counts = |pick: fn(&LayerDrift) -> usize| integers(rows.iter().map(|row| pick(&row.drift)));
    table.push("layer", counts(|row| row.index))?;
    table.push("shift", Column::numbers(rows.iter().map(|row| row.drift.shift_relative)))?;
    table.push("cosine", Column::numbers(rows.iter().map(|row| row.drift.cosine)))?;
    table.push("clusters", counts(|row| row.n_clusters))?;
    table.push("changed", counts(|row| row.clusters_changed))?;
    table.push("born", counts(|row| row.clusters_born))?;
    table.push("died", counts(|row| row.clusters_died))?;
    table.push("W2", Column::Float(rows.iter().map(|row| row.wasserstein2).collect()))?;
    table.push("energy change", Column::Float(rows.iter().map(|row| row.energy_change).collect()))?;
    Ok(table)
}

/// Writes logits or last hidden states.
pub(crate) fn logits(args: &LogitsArgs, global: &Global, progress: &mut Progress) -> Result<()> {
    fetch(&args.model, Role::Model, global.offline, progress)?;
    progress.clear();
    inspect::logits(&args.model, &args.ids, &args.output)?;
    Out::new().line(&args.output.display().to_string())
}

/// A row a level: all tokens, and those without special ones; in families with causal attention also without the first
/// token, which it makes a sink.
fn layers(report: &InspectReport) -> Result<Table> {
    let rows = &report.layers;
    let mut table = Table::new("layers");
    let cosines = |pick: fn(&LayerRow) -> Option<&ContentRow>| {
        Column::Float(rows.iter().map(|row| pick(row).and_then(|row| row.mean_cosine)).collect())
    };
    table.push("layer", integers(rows.iter().map(|row| row.index)))?;
    table.push("mean cosine", Column::Float(rows.iter().map(|row| row.mean_cosine).collect()))?;
    table.push("without special", cosines(|row| row.without_special.as_ref()))?;
    if rows.iter().any(|row| row.without_first.is_some()) {
        table.push("without first", cosines(|row| row.without_first.as_ref()))?;
    }
    table.push("clusters", Column::Float(rows.iter().map(|row| row.n_clusters).collect()))?;
    table.push("effective rank", Column::Float(rows.iter().map(|row| row.effective_rank).collect()))?;
    table.push("anisotropy", Column::Float(rows.iter().map(|row| row.anisotropy).collect()))?;
    table.push("mean norm", Column::Float(rows.iter().map(|row| row.radius_mean).collect()))?;
    Ok(table)
}
