//! Whether an adapter's files can be trusted to do what they say.

use std::path::Path;

use metastable_model::lora::{Adapter, Finding, Severity};
use serde::Serialize;

use crate::error::LabError;
use crate::hub::{Role, cached};

/// Everything found about an adapter's files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// The adapter as given.
    pub adapter: String,
    /// "peft", "mlx" or "kohya".
    pub layout: &'static str,
    /// Modules that could be read.
    pub modules: usize,
    /// Whether nothing of severity error was found.
    pub sound: bool,
    /// Errors first.
    pub findings: Vec<FindingRow>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingRow {
    /// "error" or "warning".
    pub severity: &'static str,
    /// Its stable name.
    pub code: &'static str,
    /// The tensor, module or key.
    pub subject: String,
    /// What was expected and what was found.
    pub message: String,
}

impl From<&Finding> for FindingRow {
    fn from(finding: &Finding) -> Self {
        let severity = match finding.severity {
            Severity::Error => "error",
            _ => "warning",
        };
        let (subject, message) = (finding.subject.clone(), finding.message.clone());
        Self { severity, code: finding.code.name(), subject, message }
    }
}

/// Reads an adapter, a path or a name in the Hub's local cache, and judges it; a face turns [`CheckReport::failure`] into exit code 3.
///
/// # Errors
/// [`LabError::Model`] where nothing can be read at all.
pub fn check(path: &Path) -> Result<CheckReport, LabError> {
    let survey = Adapter::survey(&cached(path, Role::Adapter)?)?;
    let findings: Vec<FindingRow> = survey.findings.iter().map(FindingRow::from).collect();
    Ok(CheckReport {
        adapter: path.display().to_string(),
        layout: survey.adapter.layout().name(),
        modules: survey.adapter.modules().len(),
        sound: findings.iter().all(|finding| finding.severity != "error"),
        findings,
    })
}

impl CheckReport {
    /// The failed check, if the adapter is not sound.
    pub fn failure(&self) -> Option<LabError> {
        let errors = self.findings.iter().filter(|finding| finding.severity == "error").count();
        (errors > 0).then(|| LabError::CheckFailed {
            check: format!("adapter {}", self.adapter),
            expected: "no findings of severity error".into(),
            found: errors.to_string(),
        })
    }
}
