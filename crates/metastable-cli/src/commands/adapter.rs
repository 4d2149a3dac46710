//! `metastable adapter info|check|compare|rebalance|merge|convert`.

use std::path::Path;

use anyhow::Result;
use metastable::adapter::{self, FindingRow, InfoReport, PageRequest, Strictness};
use metastable::hub::{Role, fetch};
use metastable::run_dir::Existing;
use metastable::table::{Column, Table};
use serde_json::json;

use super::show::{self, Out};
use crate::args::{AdapterAction, AdapterArgs, Global, OutputFormat};
use crate::progress::Progress;

/// Does what was asked with an adapter.
pub(crate) fn run(args: AdapterArgs, global: &Global, progress: &mut Progress) -> Result<()> {
    let wanted = |json: bool| if json { OutputFormat::Json } else { global.format };
    // What is missing is downloaded here; the jobs find it under its name.
    let mut have = |name: &Path, role: Role| {
        let found = fetch(name, role, global.offline, progress);
        progress.clear();
        found.map(drop)
    };
    match args.action {
        AdapterAction::Info { input, base, output, overwrite } => {
            base.as_ref().map_or(Ok(()), |base| have(base, Role::Model))?;
            have(&input.adapter, Role::Adapter)?;
            let adapter = input.adapter;
            let report = match output {
                None => adapter::info(&adapter, base.as_deref())?,
                Some(output) => {
                    let existing = if overwrite { Existing::Overwrite } else { Existing::Refuse };
                    adapter::page(&PageRequest { adapter, base, output, existing })?
                }
            };
            info(&report, wanted(input.json))
        }
        AdapterAction::Check(input) => {
            have(&input.adapter, Role::Adapter)?;
            check(&input.adapter, wanted(input.json))
        }
        AdapterAction::Compare { first, second, json } => {
            [&first, &second].into_iter().try_for_each(|adapter| have(adapter, Role::Adapter))?;
            compare(&first, &second, wanted(json))
        }
        AdapterAction::Rebalance { input, output, undo: true, .. } => {
            adapter::undo(&input, &output)?;
            Out::new().line(&output.display().to_string())
        }
        AdapterAction::Rebalance { input, output, allow_partial, json, .. } => {
            have(&input, Role::Adapter)?;
            let report = adapter::rebalance(&input, &output, strictness(allow_partial))?;
            let sentence = format!(
                "largest product error {:.1e}, largest gap {:.1e}: {}",
                report.max_product_error, report.max_gap, report.output
            );
            show_report(json!(report), &report.table()?, &[sentence], wanted(json))
        }
        AdapterAction::Merge { model, adapter, output, allow_partial, json } => {
            have(&model, Role::Model)?;
            have(&adapter, Role::Adapter)?;
            let report = adapter::merge(&model, &adapter, &output, strictness(allow_partial))?;
            merged(&report, wanted(json))
        }
        AdapterAction::Convert { input, output, base, allow_partial, json } => {
            base.as_ref().map_or(Ok(()), |base| have(base, Role::Model))?;
            have(&input, Role::Adapter)?;
            let report = adapter::convert(&input, base.as_deref(), &output, strictness(allow_partial))?;
            match wanted(json) {
                OutputFormat::Json => Out::new().json(&json!(report)),
                _ => Out::new()
                    .line(&format!("{} modules from {} to peft: {}", report.modules, report.from, report.output)),
            }
        }
    }
}

fn strictness(allow_partial: bool) -> Strictness {
    if allow_partial { Strictness::Partial } else { Strictness::Closed }
}

fn info(report: &InfoReport, format: OutputFormat) -> Result<()> {
    let mut sentences = report.summary.clone();
    sentences.extend(report.findings.iter().map(sentence));
    show_report(json!(report), &report.table()?, &sentences, format)
}

fn check(path: &Path, format: OutputFormat) -> Result<()> {
    let report = adapter::check(path)?;
    let mut table = Table::new("findings");
    let texts = |pick: fn(&FindingRow) -> String| Column::Text(report.findings.iter().map(pick).collect());
    table.push("severity", texts(|finding| finding.severity.into()))?;
    table.push("code", texts(|finding| finding.code.into()))?;
    table.push("subject", texts(|finding| finding.subject.clone()))?;
    table.push("message", texts(|finding| finding.message.clone()))?;
    let sentence = format!("{} modules, {} findings", report.modules, report.findings.len());
    show_report(json!(report), &table, &[sentence], format)?;
    report.failure().map_or(Ok(()), |failure| Err(failure.into()))
}

fn compare(first: &Path, second: &Path, format: OutputFormat) -> Result<()> {
    let report = adapter::compare(first, second)?;
    let cosine = report.cosine.map_or("none".into(), |cosine| format!("{cosine:.4}"));
    let mut sentences = vec![format!("cosine of the updates, all common modules together: {cosine}")];
    sentences.extend(report.definitions.iter().map(|definition| (*definition).to_owned()));
    for (names, which) in [(&report.only_first, "first"), (&report.only_second, "second")] {
        if !names.is_empty() {
            sentences.push(format!("{} modules are in the {which} adapter alone", names.len()));
        }
    }
    show_report(json!(report), &report.table()?, &sentences, format)
}

fn merged(report: &adapter::MergeReport, format: OutputFormat) -> Result<()> {
    let mut out = Out::new();
    if format == OutputFormat::Json {
        return out.json(&json!(report));
    }
    out.line(&format!(
        "{} modules merged ({}); {} of {} tokens within {:.1e} of base and adapter (accepted: {:.0e}), which are {:.1e} \
         from the base: {}",
        report.modules,
        report.dtypes.join(", "),
        report.compared,
        report.probe,
        report.error,
        report.tolerance,
        report.change,
        report.output
    ))?;
    report.notes.iter().try_for_each(|note| out.line(&format!("  {note}")))
}

fn sentence(finding: &FindingRow) -> String {
    format!("{}: `{}` {}", finding.severity, finding.subject, finding.message)
}

fn show_report(json: serde_json::Value, table: &Table, sentences: &[String], format: OutputFormat) -> Result<()> {
    let mut out = Out::new();
    match format {
        OutputFormat::Json => out.json(&json),
        OutputFormat::Csv => out.text(&table.to_csv()),
        OutputFormat::Table => {
            if table.rows() > 0 {
                out.text(&show::table(table))?;
                out.line("")?;
            }
            sentences.iter().try_for_each(|sentence| out.line(sentence))
        }
    }
}
