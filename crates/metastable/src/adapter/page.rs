//! What `info` found, as a run folder with a page.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::info::{InfoReport, info};
use crate::document::to_toml;
use crate::error::LabError;
use crate::hub::{Role, cached};
use crate::provenance::{Provenance, fingerprint};
use crate::publish;
use crate::report::{Axis, Header, TokensSummary};
use crate::run_dir::{Existing, RunDir, SCHEMA};

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// The adapter.
    pub adapter: PathBuf,
    /// A base model, for intruder directions.
    pub base: Option<PathBuf>,
    /// The run folder.
    pub output: PathBuf,
    /// What to do if it exists.
    pub existing: Existing,
}

/// The report of a page.
#[derive(Debug, Clone, Serialize)]
struct PageReport<'a> {
    #[serde(flatten)]
    header: Header,
    config: PageConfig,
    adapter: &'a InfoReport,
}

#[derive(Debug, Clone, Serialize)]
struct PageConfig {
    adapter: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
}

/// Measures an adapter as [`info`] does and writes `report.json`, `report.html` and `modules.parquet` into a run folder.
///
/// # Errors
/// As [`info`], and [`LabError`] of the folder.
pub fn page(request: &PageRequest) -> Result<InfoReport, LabError> {
    let report = info(&request.adapter, request.base.as_deref())?;
    let config = PageConfig {
        adapter: request.adapter.display().to_string(),
        base: request.base.as_ref().map(|base| base.display().to_string()),
    };
    let mut provenance = Provenance::new(0, "f64");
    for file in files(&cached(&request.adapter, Role::Adapter)?) {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        provenance.add_input(&name, &file)?;
    }
    let resolved = to_toml(&config)?;
    let mut folder = RunDir::begin(&request.output, request.existing, &fingerprint(&resolved, &provenance))?;
    let name = request.adapter.file_name().map_or_else(|| config.adapter.clone(), |n| n.to_string_lossy().into_owned());
    let header = Header {
        schema: SCHEMA,
        job: "adapter",
        title: format!("{name}, {} modules", report.modules.len()),
        summary: report.summary.clone(),
        warnings: report
            .findings
            .iter()
            .map(|found| format!("{}: `{}` {}", found.severity, found.subject, found.message))
            .collect(),
        provenance,
        axis: Axis { name: "layer", symbol: "layer" },
        tokens: TokensSummary { count: 0, dim: 0, strings: None, special: None },
        projection: None,
        display_tokens: None,
        attention: None,
    };
    folder.write("config.resolved.toml", resolved.as_bytes())?;
    folder.write("modules.parquet", &report.table()?.to_parquet()?)?;
    publish::publish_without_clouds(&mut folder, &PageReport { header, config, adapter: &report })?;
    folder.finish()?;
    Ok(report)
}

/// The files that the numbers depend on.
fn files(adapter: &Path) -> Vec<PathBuf> {
    if adapter.is_file() {
        return vec![adapter.to_owned()];
    }
    let names = ["adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"];
    names.iter().map(|name| adapter.join(name)).filter(|file| file.is_file()).collect()
}
