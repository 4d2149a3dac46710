//! The job `inspect`: real text through a real checkpoint, with layers as time.
//!
//! [`report`] says what comes out; here text becomes ids, ids become hidden states, and hidden states are observed like
//! the saved times of a simulation.

pub mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metastable_dynamics::attention::{AttentionKernel, Projections, statistics};
use metastable_dynamics::observe::{CloudShape, single_linkage};
use metastable_dynamics::{Matrix, TokensRef};
use metastable_model::{Encoded, Hidden, Input, Model};

use crate::arrays::{Tensor, TensorData, safetensors_bytes};
use crate::display::{CloudBuilder, GAMMA, Projection, Selection};
use crate::error::LabError;
use crate::observables::{AttentionObservables, Collector};
use crate::provenance::{Provenance, fingerprint, sha256_hex};
use crate::publish;
use crate::render::Display;
use crate::report::{AttentionNote, Axis, ClusterSummary, Header, TokensSummary};
use crate::run_dir::{Existing, RunDir, SCHEMA, write_file};
use crate::table::{Column, Table};
use crate::watch::Watcher;
use report::{ContentRow, HeadRow, InspectConfig, InspectReport, LayerRow, ModelSummary};

/// Tokens of which a linked pair has cosine above 1 - r²/2 = 0.755.
pub const DEFAULT_CLUSTER_RADIUS: f64 = 0.7;

/// Where the text comes from.
#[derive(Debug, Clone)]
pub enum TextSource {
    /// A UTF-8 file.
    File(PathBuf),
    /// Given as it is.
    Prompt(String),
}

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct InspectRequest {
    /// The checkpoint's folder.
    pub model: PathBuf,
    /// The text.
    pub text: TextSource,
    /// The run folder.
    pub output: PathBuf,
    /// What to do if it exists.
    pub existing: Existing,
    /// A limit on the number of tokens; the model's own if absent.
    pub max_tokens: Option<usize>,
    /// Blocks whose heads are analysed; all if empty.
    pub layers: Vec<usize>,
    /// The linking radius of clusters between normalised tokens.
    pub cluster_radius: f64,
}

/// Follows a text through a checkpoint, into a run folder.
///
/// # Errors
/// [`LabError`] naming the file or flag; the folder is not touched then.
pub fn run(request: &InspectRequest, watcher: &mut dyn Watcher) -> Result<InspectReport, LabError> {
    if !(request.cluster_radius > 0.0 && request.cluster_radius.is_finite()) {
        return Err(setting("--cluster-radius", "a positive number", request.cluster_radius));
    }
    let (text, origin) = read_text(&request.text)?;
    watcher.progress(0.05, "opening the checkpoint");
    let model = Model::open(&request.model)?;
    let summary = model.summary();
    if let Some(layer) = request.layers.iter().find(|layer| **layer >= summary.layers) {
        return Err(setting("--layers", format!("layers below {}", summary.layers), layer));
    }
    let limit = request.max_tokens.unwrap_or(usize::MAX).min(model.config().positions);
    let encoded = model.text()?.encode_at_most(&text, limit)?;
    let layers = if request.layers.is_empty() { (0..summary.layers).collect() } else { request.layers.clone() };
    let config = InspectConfig {
        model: request.model.display().to_string(),
        text: origin,
        max_tokens: limit,
        dropped_tokens: encoded.dropped,
        layers,
        definitions: definitions(request.cluster_radius),
        cluster_radius: request.cluster_radius,
    };
    let provenance = provenance(request, &text)?;
    let resolved = crate::document::to_toml(&config)?;
    let mut folder = RunDir::begin(&request.output, request.existing, &fingerprint(&resolved, &provenance))?;
    watcher.progress(0.2, "forward pass");
    let hidden = model.forward(&Input::from(&encoded))?;
    let observed = observe(&model, &hidden, &encoded, config, provenance, watcher)?;
    watcher.progress(0.95, "writing the report");
    folder.write("config.resolved.toml", resolved.as_bytes())?;
    folder.write("hidden.safetensors", &hidden_bytes(&hidden, &encoded)?)?;
    folder.write("layers.parquet", &layers_table(&observed.0)?.to_parquet()?)?;
    folder.write("heads.parquet", &heads_table(&observed.0)?.to_parquet()?)?;
    publish::publish(&mut folder, &observed.0, &observed.1)?;
    folder.finish()?;
    Ok(observed.0)
}

/// Writes the last hidden states `hidden_last` [n, d] of an encoder for given ids.
///
/// # Errors
/// [`LabError`]; nothing is written then.
pub fn logits(model: &Path, ids: &[u32], output: &Path) -> Result<(), LabError> {
    if output.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(setting("--output", "a file ending in .safetensors", output.display()));
    }
    let hidden = Model::open(model)?.forward(&Input::new(ids.to_vec())?)?;
    let last = hidden.level(hidden.levels() - 1);
    let tensor = Tensor::new("hidden_last", &[hidden.count(), hidden.dim()], TensorData::F32(last));
    write_file(output, &safetensors_bytes(&[tensor], &BTreeMap::new()))
}

fn setting(name: &str, expected: impl ToString, found: impl ToString) -> LabError {
    LabError::Setting { name: name.into(), expected: expected.to_string(), found: found.to_string() }
}

/// The text, and what the report calls its origin.
fn read_text(source: &TextSource) -> Result<(String, String), LabError> {
    let file = match source {
        TextSource::Prompt(text) => return Ok((text.clone(), "prompt".into())),
        TextSource::File(file) => file,
    };
    let bytes = std::fs::read(file).map_err(|source| LabError::Read { file: file.clone(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| LabError::Content {
        file: file.clone(),
        expected: "UTF-8 text".into(),
        found: format!("a byte that is not, at position {}", error.utf8_error().valid_up_to()),
    })?;
    Ok((text, file.display().to_string()))
}

fn provenance(request: &InspectRequest, text: &str) -> Result<Provenance, LabError> {
    let mut provenance = Provenance::new(0, "f32");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        provenance.add_input(name, &request.model.join(name))?;
    }
    provenance.inputs.insert("text".into(), sha256_hex(text.as_bytes()));
    Ok(provenance)
}

fn definitions(radius: f64) -> Vec<String> {
    vec![
        "Level 0 is the embedding, level l the output of block l; every token of the text counts, special ones included, \
         unless said otherwise."
            .into(),
        format!(
            "Clusters: single linkage of tokens normalised to the unit sphere at radius {radius}, that is, cosine above {:.3}.",
            1.0 - radius * radius / 2.0
        ),
        "Energy: (1/(2 n²)) Σ_ij e^<u_i, u_j> of the normalised tokens u (beta = 1, Q = K = I).".into(),
        "Head spectra: Q_hᵀK_h / sqrt(d_head) and W_O W_V per head, biases left out.".into(),
    ]
}

/// Observables of every level, spectra of every head, and what is drawn.
fn observe(
    model: &Model,
    hidden: &Hidden,
    encoded: &Encoded,
    config: InspectConfig,
    provenance: Provenance,
    watcher: &mut dyn Watcher,
) -> Result<(InspectReport, Display), LabError> {
    let (n, d, levels) = (hidden.count(), hidden.dim(), hidden.levels());
    let clouds = hidden.trajectory()?;
    let states: Vec<&[f64]> = clouds.iter().map(|cloud| cloud.as_slice()).collect();
    let projection = Projection::of(d, &states)?;
    let mut collector = Collector::on_directions(config.cluster_radius);
    let selection = Selection::new(n, projection.dim(), levels);
    let mut builder = CloudBuilder::new(n, projection.dim(), &selection);
    let mut rows = Vec::new();
    for (level, cloud) in clouds.iter().enumerate() {
        watcher.progress(0.2 + 0.6 * level as f64 / levels as f64, &format!("level {level}"));
        let log_energy = direction_energy(cloud.view())?;
        collector.observe(level as f64, cloud.view(), AttentionObservables { log_energy, rank: None })?;
        let positions = projection.apply(d, cloud.as_slice(), &selection);
        builder.push_weights(&positions, mean_weights(model, hidden, level)?.as_ref());
        rows.push(without_special(cloud.view(), &encoded.special, config.cluster_radius)?);
    }
    let (series, mut cluster_history, last) = collector.finish();
    cluster_history.labels.iter_mut().for_each(|labels| *labels = selection.of(labels));
    let heads = spectra(model, &config.layers)?;
    let layers = layer_rows(&series, rows);
    let header = Header {
        schema: SCHEMA,
        job: "inspect",
        title: title(&config.model, encoded),
        summary: summary(&series, encoded, levels),
        warnings: warnings(encoded, config.max_tokens),
        provenance,
        axis: Axis { name: "layer", symbol: "layer" },
        tokens: TokensSummary {
            count: n,
            dim: d,
            strings: Some(encoded.tokens.clone()),
            special: Some(encoded.special.clone()),
        },
        projection: projection.statement,
        display_tokens: selection.tokens,
        attention: Some(AttentionNote {
            gamma: GAMMA,
            note: "Mean over heads of the weights of the block that made this level; no block made level 0.".into(),
        }),
    };
    let report = InspectReport {
        model: model_summary(model, &header.provenance),
        header,
        clusters: last.map(cluster_summary).unwrap_or_else(no_clusters),
        series,
        cluster_history,
        layers,
        heads,
        config,
    };
    let times = (0..levels).map(|level| level as f64).collect();
    Ok((report, Display { times, base: builder.finish(), twin: None, samples: None }))
}

fn direction_energy(tokens: TokensRef<'_>) -> Result<Option<f64>, LabError> {
    let directions = crate::observables::directions(tokens);
    let identity = Matrix::scaled_identity(tokens.dim(), 1.0);
    let kernel = AttentionKernel::softmax(1.0)?;
    let mut projections = Projections::zeros(tokens.count(), tokens.dim(), tokens.dim());
    projections.fill(&kernel, 1.0, &directions, [&identity; 3]);
    Ok(statistics::log_energy(&projections))
}

/// The attention of the block that made this level, averaged over heads; no block made the embedding.
fn mean_weights(model: &Model, hidden: &Hidden, level: usize) -> Result<Option<Matrix>, LabError> {
    let Some(block) = level.checked_sub(1) else { return Ok(None) };
    let heads = model.summary().heads;
    let mut sum = model.attention_weights(hidden, block, 0)?;
    for head in 1..heads {
        sum = sum.add_scaled(1.0, &model.attention_weights(hidden, block, head)?);
    }
    Ok(Some(sum.scaled(1.0 / heads as f64)))
}

fn without_special(tokens: TokensRef<'_>, special: &[bool], radius: f64) -> Result<Option<ContentRow>, LabError> {
    let values: Vec<f64> =
        tokens.iter().zip(special).filter(|(_, special)| !**special).flat_map(|(token, _)| token.to_vec()).collect();
    if values.is_empty() {
        return Ok(None);
    }
    let content = TokensRef::new(tokens.dim(), &values);
    let shape = CloudShape::of(content)?;
    let directions = crate::observables::directions(content);
    Ok(Some(ContentRow {
        count: content.count(),
        mean_cosine: shape.mean_cosine,
        n_clusters: single_linkage(TokensRef::new(tokens.dim(), &directions), radius).count(),
        effective_rank: shape.effective_rank,
        anisotropy: shape.anisotropy,
        radius_mean: shape.mean_radius,
    }))
}

fn layer_rows(series: &crate::observables::Series, content: Vec<Option<ContentRow>>) -> Vec<LayerRow> {
    let row = |(index, without_special): (usize, Option<ContentRow>)| LayerRow {
        index,
        mean_cosine: series.mean_cosine[index],
        n_clusters: series.n_clusters[index],
        max_mass: series.max_mass[index],
        effective_rank: series.effective_rank[index],
        anisotropy: series.anisotropy[index],
        energy: series.energy[index],
        radius_mean: series.radius_mean[index],
        without_special,
    };
    content.into_iter().enumerate().map(row).collect()
}

fn spectra(model: &Model, layers: &[usize]) -> Result<Vec<HeadRow>, LabError> {
    let mut rows = Vec::new();
    for &layer in layers {
        for (head, spectrum) in model.spectra(layer)?.into_iter().enumerate() {
            rows.push(HeadRow {
                layer,
                head,
                qk_rank: spectrum.qk_rank,
                qk_tolerance: spectrum.qk_tolerance,
                qk_stable_rank: spectrum.qk_stable_rank,
                qk_norm: spectrum.qk_norm,
                ov_norm: spectrum.ov_norm,
                ov_eigenvalues_top: spectrum.ov_eigenvalues_top,
            });
        }
    }
    Ok(rows)
}

fn model_summary(model: &Model, provenance: &Provenance) -> ModelSummary {
    let summary = model.summary();
    ModelSummary {
        family: summary.family.into(),
        layers: summary.layers,
        hidden: summary.hidden,
        heads: summary.heads,
        kv_heads: summary.kv_heads,
        vocab: summary.vocab,
        parameters: summary.parameters,
        sha256: provenance.inputs.get("model.safetensors").cloned().unwrap_or_default(),
    }
}

fn cluster_summary(clusters: metastable_dynamics::observe::Clusters) -> ClusterSummary {
    ClusterSummary {
        count: clusters.count(),
        radius: clusters.radius,
        labels: clusters.labels,
        centers: clusters.centers,
        sizes: clusters.sizes,
        leaders: Vec::new(),
    }
}

fn no_clusters() -> ClusterSummary {
    ClusterSummary { count: 0, radius: 0.0, labels: vec![], centers: vec![], sizes: vec![], leaders: vec![] }
}

fn title(model: &str, encoded: &Encoded) -> String {
    let name = Path::new(model).file_name().map_or(model.to_string(), |name| name.to_string_lossy().into_owned());
    format!("{name}, {} tokens", encoded.ids.len())
}

fn summary(series: &crate::observables::Series, encoded: &Encoded, levels: usize) -> Vec<String> {
    let special = encoded.special.iter().filter(|special| **special).count();
    let mut sentences =
        vec![format!("{} tokens ({special} special) through {} blocks.", encoded.ids.len(), levels - 1)];
    if let (Some(Some(first)), Some(Some(last))) = (series.mean_cosine.first(), series.mean_cosine.last()) {
        sentences
            .push(format!("Mean cosine of token pairs: {first:.4} at the embedding, {last:.4} at the last level."));
    }
    if let (Some(Some(first)), Some(Some(last))) = (series.n_clusters.first(), series.n_clusters.last()) {
        sentences.push(format!("Clusters: {first} at the embedding, {last} at the last level."));
    }
    sentences
}

fn warnings(encoded: &Encoded, limit: usize) -> Vec<String> {
    match encoded.dropped {
        0 => Vec::new(),
        dropped => vec![format!("the text was cut after {limit} tokens: {dropped} tokens were dropped")],
    }
}

fn hidden_bytes(hidden: &Hidden, encoded: &Encoded) -> Result<Vec<u8>, LabError> {
    let (levels, n, d) = (hidden.levels(), hidden.count(), hidden.dim());
    let states: Vec<f32> = (0..levels).flat_map(|level| hidden.level(level).iter().copied()).collect();
    let ids: Vec<i64> = encoded.ids.iter().map(|id| i64::from(*id)).collect();
    let tensors = [
        Tensor::new("hidden", &[levels, n, d], TensorData::F32(&states)),
        Tensor::new("ids", &[n], TensorData::I64(&ids)),
    ];
    Ok(safetensors_bytes(&tensors, &BTreeMap::new()))
}

fn layers_table(report: &InspectReport) -> Result<Table, LabError> {
    let mut table = Table::new("layers");
    for (name, values) in report.series.columns() {
        table.push(if name == "t" { "layer" } else { name }, Column::Float(values))?;
    }
    let content = |pick: fn(&ContentRow) -> Option<f64>| {
        Column::Float(report.layers.iter().map(|row| row.without_special.as_ref().and_then(pick)).collect())
    };
    table.push("content_mean_cosine", content(|row| row.mean_cosine))?;
    table.push("content_n_clusters", content(|row| Some(row.n_clusters as f64)))?;
    table.push("content_effective_rank", content(|row| row.effective_rank))?;
    Ok(table)
}

fn heads_table(report: &InspectReport) -> Result<Table, LabError> {
    let mut table = Table::new("heads");
    let integers = |pick: fn(&HeadRow) -> usize| {
        Column::Integer(report.heads.iter().map(|row| i64::try_from(pick(row)).unwrap_or(i64::MAX)).collect())
    };
    let numbers = |pick: fn(&HeadRow) -> f64| Column::numbers(report.heads.iter().map(pick));
    table.push("layer", integers(|row| row.layer))?;
    table.push("head", integers(|row| row.head))?;
    table.push("qk_rank", integers(|row| row.qk_rank))?;
    table.push("qk_tolerance", numbers(|row| row.qk_tolerance))?;
    table.push("qk_stable_rank", numbers(|row| row.qk_stable_rank))?;
    table.push("qk_norm", numbers(|row| row.qk_norm))?;
    table.push("ov_norm", numbers(|row| row.ov_norm))?;
    Ok(table)
}
