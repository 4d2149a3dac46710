//! `metastable selftest`.

use anyhow::Result;
use metastable::LabError;
use metastable::selftest::{self, LawResult};
use metastable::table::{Column, Table};

use super::show::{self, Out};
use crate::args::OutputFormat;
use crate::progress::Progress;

/// Compares this build with the closed forms; prints the error of every law.
pub(crate) fn run(format: OutputFormat, progress: &mut Progress) -> Result<()> {
    let results = selftest::run();
    progress.clear();
    let mut table = Table::new("selftest");
    table.push("law", Column::Text(results.iter().map(|law| law.name.to_string()).collect()))?;
    table.push("error", Column::Float(results.iter().map(|law| law.error).collect()))?;
    table.push("tolerance", Column::numbers(results.iter().map(|law| law.tolerance)))?;
    let verdict = |law: &LawResult| match (&law.failure, law.passed) {
        (Some(failure), _) => failure.clone(),
        (None, true) => "ok".into(),
        (None, false) => "FAILED".into(),
    };
    table.push("verdict", Column::Text(results.iter().map(verdict).collect()))?;
    table.push(
        "source",
        Column::Text(results.iter().map(|law| format!("{} [{}]", law.source, law.provenance)).collect()),
    )?;
    let mut out = Out::new();
    match format {
        OutputFormat::Json => out.json(&table.to_json())?,
        OutputFormat::Csv => out.text(&table.to_csv())?,
        OutputFormat::Table => out.text(&show::table(&table))?,
    }
    let failed: Vec<&str> = results.iter().filter(|law| !law.passed).map(|law| law.name).collect();
    if failed.is_empty() {
        if format == OutputFormat::Table {
            out.line(&format!("\n{} laws hold", results.len()))?;
        }
        return Ok(());
    }
    Err(LabError::CheckFailed {
        check: "selftest".into(),
        expected: "every law within its tolerance".into(),
        found: failed.join(", "),
    }
    .into())
}
