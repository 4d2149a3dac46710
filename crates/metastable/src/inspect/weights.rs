//! A checkpoint without a text: its heads alone, read block by block.

use metastable_model::Weights;
use serde::Serialize;

use super::heads::{self, HeadRow, Heads};
use super::report::{InspectConfig, ModelSummary};
use super::{InspectRequest, family, model_summary, require_layers};
use crate::document::to_toml;
use crate::error::LabError;
use crate::hub::HubCache;
use crate::provenance::fingerprint;
use crate::publish;
use crate::report::{Axis, Header, TokensSummary};
use crate::run_dir::{RunDir, SCHEMA};
use crate::table::Table;
use crate::watch::Watcher;

/// Everything that weights alone say.
#[derive(Debug, Clone, Serialize)]
pub struct WeightsReport {
    /// Title, summary, provenance; of no tokens.
    #[serde(flatten)]
    pub header: Header,
    /// What was asked.
    pub config: InspectConfig,
    /// The checkpoint.
    pub model: ModelSummary,
    /// Spectra of every head.
    pub heads: Vec<HeadRow>,
}

/// Measures the heads of a checkpoint into a run folder, without a text and without a forward pass: one block in memory
/// at a time. What the request says of texts and adapters is not looked at.
///
/// # Errors
/// [`LabError`] naming the file or flag; the folder is not touched then.
pub fn inspect_weights(request: &InspectRequest, watcher: &mut dyn Watcher) -> Result<WeightsReport, LabError> {
    watcher.progress(0.05, "opening the checkpoint");
    let weights = Weights::open(&HubCache::of_environment().resolve(&request.model)?)?;
    let layers = require_layers(&request.layers, &weights.summary())?;
    let mut definitions = heads::definitions().to_vec();
    definitions.extend(family::family_definitions(weights.config()));
    let config = InspectConfig {
        model: request.model.display().to_string(),
        text: "none".into(),
        max_tokens: 0,
        dropped_tokens: 0,
        layers,
        definitions,
        cluster_radius: request.cluster_radius,
        distances: request.distances.clone(),
        export_head: None,
        adapter: None,
        scale_sweep: Vec::new(),
    };
    let provenance = super::provenance(&weights, None)?;
    let resolved = to_toml(&config)?;
    let fingerprint = fingerprint(&resolved, &provenance);
    watcher.progress(0.2, "spectra of the heads");
    let heads = Heads::of(&weights, &config.layers, &request.distances)?;
    let summary = weights.summary();
    let mut folder = RunDir::begin(&request.output, request.existing, &fingerprint)?;
    let report = WeightsReport {
        model: model_summary(&summary, weights.config(), &provenance),
        header: Header {
            schema: SCHEMA,
            job: "inspect",
            title: super::name_of_model(&config.model),
            summary: vec!["Weights alone: no text was followed.".into(), heads::sentence(&heads.rows)],
            warnings: Vec::new(),
            provenance,
            axis: Axis { name: "layer", symbol: "layer" },
            tokens: TokensSummary { count: 0, dim: summary.hidden, strings: None, special: None },
            projection: None,
            display_tokens: None,
            attention: None,
        },
        heads: heads.rows.clone(),
        config,
    };
    watcher.progress(0.95, "writing the report");
    folder.write("config.resolved.toml", resolved.as_bytes())?;
    folder.write("heads.safetensors", &heads.arrays())?;
    folder.write("heads.parquet", &heads::table(&heads.rows)?.to_parquet()?)?;
    publish::publish_without_clouds(&mut folder, &report)?;
    folder.finish()?;
    Ok(report)
}

impl WeightsReport {
    /// The heads as a table.
    ///
    /// # Errors
    /// [`LabError::Column`] never, in practice: all columns have a row a head.
    pub fn table(&self) -> Result<Table, LabError> {
        heads::table(&self.heads)
    }
}
