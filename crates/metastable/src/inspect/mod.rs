//! The job `inspect`: real text through a real checkpoint, with layers as time.
//!
//! [`report`] says what comes out; here text becomes ids, ids become hidden states, and hidden states are observed like
//! the saved times of a simulation.

pub mod drift;
pub mod export;
mod family;
pub mod heads;
mod lipschitz;
pub mod mean_field;
pub mod report;
mod text;
mod tokens;
pub mod twin;
mod verdict;
pub mod weights;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metastable_dynamics::Tokens;
use metastable_model::config::{Mask, OutputHead};
use metastable_model::{Config, Encoded, Hidden, Input, Model, Summary, Weights};

use crate::arrays::{Tensor, TensorData, safetensors_bytes};
use crate::display::{CloudBuilder, GAMMA, Projection, Selection};
use crate::error::LabError;
use crate::hub::HubCache;
use crate::observables::{AttentionObservables, Collector};
use crate::provenance::{Provenance, fingerprint, sha256_hex};
use crate::publish;
use crate::render::Display;
use crate::report::{AttentionNote, Axis, ClusterSummary, Header, TokensSummary};
use crate::run_dir::{Existing, RunDir, SCHEMA, write_file};
use crate::table::{Column, Table};
use crate::watch::Watcher;
use family::{attention, family_definitions};
pub use heads::HeadChoice;
use heads::Heads;
use report::{
    ContentRow, FirstToken, InspectConfig, InspectReport, LayerRow, LipschitzRow, ModelSummary, SurrogateRow,
};
pub use text::TextSource;
pub(crate) use text::read_text;
use tokens::{ContentRows, Ignored, direction_energy, first_token};
pub use twin::AdapterRequest;
use twin::{Adapted, Attached, LayerTwin};
pub use verdict::Threshold;
pub use weights::inspect_weights;

/// Tokens of which a linked pair has cosine above 1 - r²/2 = 0.755.
pub const DEFAULT_CLUSTER_RADIUS: f64 = 0.7;

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct InspectRequest {
    /// The checkpoint: a folder, a GGUF file, or the name of a Hub model in the local cache.
    pub model: PathBuf,
    /// The text; absent for [`inspect_weights`] alone.
    pub text: Option<TextSource>,
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
    /// Relative positions at which the query-key circuits of rotary models are measured; none to leave that out.
    pub distances: Vec<usize>,
    /// Heads to be written as a configuration of `simulate`, run, and compared with the layers.
    pub export_head: Option<HeadChoice>,
    /// The adapter whose effect is followed beside the base model.
    pub adapter: Option<AdapterRequest>,
}

/// Follows a text through a checkpoint, into a run folder.
///
/// # Errors
/// [`LabError`] naming the file or flag; the folder is not touched then.
pub fn run(request: &InspectRequest, watcher: &mut dyn Watcher) -> Result<InspectReport, LabError> {
    if !(request.cluster_radius > 0.0 && request.cluster_radius.is_finite()) {
        return Err(setting("--cluster-radius", "a positive number", request.cluster_radius));
    }
    let source =
        request.text.as_ref().ok_or_else(|| setting("--text", "a file, or --prompt with a text", "neither"))?;
    let (text, origin) = read_text(source)?;
    watcher.progress(0.05, "opening the checkpoint");
    let weights = Weights::open(&HubCache::of_environment().resolve(&request.model)?)?;
    let layers = require_layers(&request.layers, &weights.summary())?;
    request.export_head.map_or(Ok(()), |choice| choice.require(weights.config()))?;
    let limit = request.max_tokens.unwrap_or(usize::MAX).min(weights.config().positions);
    let encoded = weights.text()?.encode_at_most(&text, limit)?;
    let model = Model::load(&weights)?;
    let config = InspectConfig {
        model: request.model.display().to_string(),
        text: origin,
        max_tokens: limit,
        dropped_tokens: encoded.dropped,
        layers,
        definitions: definitions(request.cluster_radius, weights.config(), encoded.ids.len()),
        cluster_radius: request.cluster_radius,
        distances: request.distances.clone(),
        export_head: request.export_head.map(|choice| match choice.head {
            Some(head) => format!("{}.{head}", choice.layer),
            None => choice.layer.to_string(),
        }),
        adapter: request.adapter.as_ref().map(|adapter| adapter.adapter.display().to_string()),
        scale_sweep: request.adapter.as_ref().map(|adapter| adapter.scale_sweep.clone()).unwrap_or_default(),
    };
    let mut provenance = provenance(&weights, Some(&text))?;
    if let Some(adapter) = &request.adapter {
        for (name, file) in Adapted::files(adapter)? {
            provenance.add_input(&name, &file)?;
        }
    }
    let heads = Heads::of(&weights, &config.layers, &request.distances)?;
    drop(weights);
    let attached = request.adapter.as_ref().map(|adapter| Attached::of(&model, adapter)).transpose()?;
    let resolved = crate::document::to_toml(&config)?;
    let mut folder = RunDir::begin(&request.output, request.existing, &fingerprint(&resolved, &provenance))?;
    watcher.progress(0.2, "forward pass");
    let hidden = model.forward(&Input::from(&encoded))?;
    let adapted = attached.map(|attached| Adapted::run(&model, attached, &encoded)).transpose()?;
    let seen = Seen { model: &model, hidden: &hidden, adapted: adapted.as_ref(), encoded: &encoded, heads: &heads };
    let mut observed = observe(&seen, config, provenance, watcher)?;
    if let Some(choice) = request.export_head {
        let source = export::Source {
            name: &name_of_model(&observed.0.config.model),
            model: &model,
            adapted: adapted.as_ref().map(|adapted| &adapted.model),
            hidden: &hidden,
            radius: request.cluster_radius,
        };
        observed.0.idealised = Some(export::export(&source, choice, (&mut folder, &request.output), watcher)?);
    }
    watcher.progress(0.95, "writing the report");
    folder.write("config.resolved.toml", resolved.as_bytes())?;
    folder.write("hidden.safetensors", &hidden_bytes(&seen)?)?;
    folder.write("layers.parquet", &layers_table(&observed.0)?.to_parquet()?)?;
    folder.write("heads.parquet", &heads::table(&observed.0.heads)?.to_parquet()?)?;
    folder.write("heads.safetensors", &heads.arrays())?;
    publish::publish(&mut folder, &observed.0, &observed.1)?;
    folder.finish()?;
    Ok(observed.0)
}

/// Writes for given ids the scores of next tokens `logits` [n, vocab] of a decoder, or the last hidden states
/// `hidden_last` [n, d] of an encoder.
///
/// # Errors
/// [`LabError`]; nothing is written then.
pub fn logits(model: &Path, ids: &[u32], output: &Path) -> Result<(), LabError> {
    if output.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(setting("--output", "a file ending in .safetensors", output.display()));
    }
    let model = Model::open(&HubCache::of_environment().resolve(model)?)?;
    let hidden = model.forward(&Input::new(ids.to_vec())?)?;
    let (name, width, values) = match model.config().output {
        OutputHead::None => ("hidden_last", hidden.dim(), hidden.last().to_vec()),
        _ => ("logits", model.config().vocab, model.logits(&hidden)?),
    };
    let tensor = Tensor::new(name, &[hidden.count(), width], TensorData::F32(&values));
    write_file(output, &safetensors_bytes(&[tensor], &BTreeMap::new()))
}

pub(crate) fn setting(name: &str, expected: impl ToString, found: impl ToString) -> LabError {
    LabError::Setting { name: name.into(), expected: expected.to_string(), found: found.to_string() }
}

fn provenance(weights: &Weights, text: Option<&str>) -> Result<Provenance, LabError> {
    let mut provenance = Provenance::new(0, "f32");
    for file in weights.files() {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        provenance.add_input(&name, &file)?;
    }
    if let Some(text) = text {
        provenance.inputs.insert("text".into(), sha256_hex(text.as_bytes()));
    }
    Ok(provenance)
}

fn definitions(radius: f64, config: &Config, n: usize) -> Vec<String> {
    let mut definitions = vec![
        "Level 0 is the embedding, level l the output of block l; every token of the text counts, special ones included, \
         unless said otherwise."
            .into(),
        format!(
            "Clusters: single linkage of tokens normalised to the unit sphere at radius {radius}, that is, cosine above {:.3}.",
            1.0 - radius * radius / 2.0
        ),
        "Energy: (1/(2 n²)) Σ_ij e^<u_i, u_j> of the normalised tokens u (beta = 1, Q = K = I).".into(),
    ];
    definitions.extend(heads::definitions());
    definitions.push(mean_field::definition());
    definitions.push(surrogate_definition(n, config));
    definitions.push(lipschitz::definition(n));
    definitions.extend(family_definitions(config));
    definitions
}

/// Observables of every level, spectra of every head, and what is drawn.
fn observe(
    seen: &Seen<'_>,
    config: InspectConfig,
    provenance: Provenance,
    watcher: &mut dyn Watcher,
) -> Result<(InspectReport, Display), LabError> {
    let Seen { model, hidden, encoded, .. } = *seen;
    let (n, d, levels) = (hidden.count(), hidden.dim(), hidden.levels());
    let clouds = hidden.trajectory()?;
    let adapted_clouds = seen.adapted.map(|adapted| adapted.hidden.trajectory()).transpose()?.unwrap_or_default();
    let states: Vec<&[f64]> = clouds.iter().chain(&adapted_clouds).map(|cloud| cloud.as_slice()).collect();
    let projection = Projection::of(d, &states)?;
    let selection = Selection::new(n, projection.dim(), levels);
    let ignored = Ignored::new(&encoded.special, model.config().mask);
    let radius = config.cluster_radius;
    let drawing = Drawing { projection: &projection, selection: &selection, radius };
    let base = drawing.follow(model, hidden, &clouds, watcher)?;
    let rows = clouds.iter().map(|cloud| ignored.rows(cloud.view(), radius)).collect::<Result<_, _>>()?;
    let before_final_norm =
        hidden.before_final_norm()?.map(|cloud| ignored.norm_row(cloud.view(), radius)).transpose()?;
    let mut twin = None;
    if let Some(adapted) = seen.adapted {
        let followed = drawing.follow(&adapted.model, &adapted.hidden, &adapted_clouds, watcher)?;
        let energies = [&base.series.energy[..], &followed.series.energy[..]];
        let compared = twin::compare(&clouds, &adapted_clouds, energies, radius)?;
        let mut report = twin::report(model, &clouds, adapted, &compared, &config.layers, radius)?;
        report.verdict = verdict::sentence(&report, n);
        twin = Some((report, followed, compared));
    }
    let Followed { series, cluster_history, last, cloud, first } = base;
    let mut heads = seen.heads.rows.clone();
    let lipschitz = lipschitz::rows(model, hidden, &config.layers, watcher)?;
    let head_constants = lipschitz::heads(model, hidden, &config.layers, watcher)?;
    heads.iter_mut().zip(&head_constants).for_each(|(row, found)| row.lipschitz = *found);
    if let (Some(adapted), Some((report, _, _))) = (seen.adapted, &mut twin) {
        let changes = lipschitz::changes(&lipschitz, &adapted.model, &adapted.hidden, &config.layers, watcher)?;
        report.layers.iter_mut().zip(changes).for_each(|(row, change)| row.lipschitz_change = change);
        let changes =
            lipschitz::head_changes(&head_constants, &adapted.model, &adapted.hidden, &config.layers, watcher)?;
        report.heads.iter_mut().zip(changes).for_each(|(row, change)| row.lipschitz_change = change);
    }
    let surrogate = surrogate(model, hidden)?;
    let rows = LevelRows { content: rows, first, surrogate, lipschitz: &lipschitz };
    let layers = layer_rows(&series, rows);
    let mean_field = mean_field::of(&layers, before_final_norm.as_ref());
    let header = Header {
        schema: SCHEMA,
        job: "inspect",
        title: title(&config.model, encoded),
        summary: summary(&series, seen, twin.as_ref().map(|(report, _, _)| report.verdict.clone())),
        warnings: warnings(encoded, config.max_tokens, model.config()),
        provenance,
        axis: Axis { name: "layer", symbol: "layer" },
        tokens: TokensSummary {
            count: n,
            dim: d,
            strings: Some(encoded.tokens.clone()),
            special: Some(encoded.special.clone()),
        },
        projection: projection.statement.clone(),
        display_tokens: selection.tokens.clone(),
        attention: Some(AttentionNote {
            gamma: GAMMA,
            note: "Mean over heads of the weights of the block that made this level; no block made level 0.".into(),
        }),
    };
    let times = (0..levels).map(|level| level as f64).collect();
    let (mut adapter, mut layer_twin, mut twin_cloud) = (None, None, None);
    if let Some((report, followed, compared)) = twin {
        layer_twin = Some(LayerTwin {
            clusters: followed.last.map(cluster_summary).unwrap_or_else(no_clusters),
            series: followed.series,
            cluster_history: followed.cluster_history,
            departure_time: compared.departure,
            max_distance: compared.paired.max.iter().flatten().copied().reduce(f64::max),
            wasserstein2: compared.layers.iter().map(|layer| layer.wasserstein2).collect(),
            paired_distance: compared.paired,
        });
        (adapter, twin_cloud) = (Some(report), Some(followed.cloud));
    }
    let report = InspectReport {
        model: model_summary(&model.summary(), model.config(), &header.provenance),
        header,
        clusters: last.map(cluster_summary).unwrap_or_else(no_clusters),
        series,
        cluster_history,
        layers,
        before_final_norm,
        mean_field,
        heads,
        idealised: None,
        adapter,
        twin: layer_twin,
        config,
    };
    Ok((report, Display { times, base: cloud, twin: twin_cloud, samples: None }))
}

/// What was computed of a text, before it is observed.
struct Seen<'a> {
    model: &'a Model,
    hidden: &'a Hidden,
    adapted: Option<&'a Adapted>,
    encoded: &'a Encoded,
    heads: &'a Heads,
}

/// How clouds of both runs are observed and drawn.
struct Drawing<'a> {
    projection: &'a Projection,
    selection: &'a Selection,
    radius: f64,
}

/// One run as observed.
struct Followed {
    series: crate::observables::Series,
    cluster_history: crate::observables::ClusterHistory,
    last: Option<metastable_dynamics::observe::Clusters>,
    cloud: crate::render::Cloud,
    /// Where attention is causal: the first token of every level.
    first: Vec<Option<FirstToken>>,
}

impl Drawing<'_> {
    fn follow(
        &self,
        model: &Model,
        hidden: &Hidden,
        clouds: &[Tokens],
        watcher: &mut dyn Watcher,
    ) -> Result<Followed, LabError> {
        let (n, d) = (hidden.count(), hidden.dim());
        let mut collector = Collector::on_directions(self.radius);
        let mut builder = CloudBuilder::new(n, self.projection.dim(), self.selection);
        let mut first = Vec::new();
        for (level, cloud) in clouds.iter().enumerate() {
            watcher.progress(0.2 + 0.6 * level as f64 / clouds.len() as f64, &format!("level {level}"));
            let log_energy = direction_energy(cloud.view())?;
            collector.observe(level as f64, cloud.view(), AttentionObservables { log_energy, rank: None })?;
            let positions = self.projection.apply(d, cloud.as_slice(), self.selection);
            // No block made the embedding.
            let weights = level.checked_sub(1).map(|block| model.mean_attention_weights(hidden, block)).transpose()?;
            builder.push_weights(&positions, weights.as_ref());
            let is_causal = model.config().mask != Mask::Full;
            first.push(first_token(cloud.view(), weights.as_ref()).filter(|_| is_causal));
        }
        let (series, mut cluster_history, last) = collector.finish();
        cluster_history.labels.iter_mut().for_each(|labels| *labels = self.selection.of(labels));
        Ok(Followed { series, cluster_history, last, cloud: builder.finish(), first })
    }
}

/// What is known of every level beside the series.
struct LevelRows<'a> {
    content: Vec<ContentRows>,
    first: Vec<Option<FirstToken>>,
    surrogate: Vec<SurrogateRow>,
    lipschitz: &'a [LipschitzRow],
}

fn layer_rows(series: &crate::observables::Series, rows: LevelRows<'_>) -> Vec<LayerRow> {
    let row = |(index, (content, first)): (usize, (ContentRows, Option<FirstToken>))| LayerRow {
        index,
        mean_cosine: series.mean_cosine[index],
        n_clusters: series.n_clusters[index],
        max_mass: series.max_mass[index],
        effective_rank: series.effective_rank[index],
        anisotropy: series.anisotropy[index],
        energy: series.energy[index],
        radius_mean: series.radius_mean[index],
        lipschitz: rows.lipschitz[index],
        gaussian_surrogate: rows.surrogate.get(index).copied().unwrap_or_default(),
        without_special: content.without_special,
        without_first: content.without_first,
        first_token: first,
    };
    rows.content.into_iter().zip(rows.first).enumerate().map(row).collect()
}

/// Covariances of higher rank get no Gaussian surrogate: distances cost O(rank³) a level, and the rank is that of the text
/// or of the model, whichever is shorter.
const LARGEST_RANK_FOR_SURROGATE: usize = 1024;

/// One row a level; empty where [`no_surrogate`] has a reason.
fn surrogate(model: &Model, hidden: &Hidden) -> Result<Vec<SurrogateRow>, LabError> {
    if no_surrogate(hidden.count(), model.config()).is_some() {
        return Ok(Vec::new());
    }
    let levels = model.gaussian_surrogate(hidden)?.unwrap_or_default();
    Ok(levels.into_iter().map(SurrogateRow::from).collect())
}

/// Why a text has no Gaussian surrogate, if it has none.
fn no_surrogate(n: usize, config: &Config) -> Option<String> {
    if config.query_key_norm {
        return Some("queries and keys are normalised, and attention is no softmax of a bilinear form".into());
    }
    let most = LARGEST_RANK_FOR_SURROGATE;
    (n.min(config.hidden) > most).then(|| format!("the text has more than {most} tokens, the model more dimensions"))
}

fn surrogate_definition(n: usize, config: &Config) -> String {
    let limit = no_surrogate(n, config).map_or_else(String::new, |why| format!(" Left out: {why}."));
    format!(
        "gaussian_surrogate: W_2 (Bures) between the Gaussian of a level's mean and covariance, before the final norm, and \
         the image of the level before (one_block) or of level 0 (composed) under the blocks' linear algebra: attention \
         m -> W V (m + S Kᵀ Q m), S -> G S Gᵀ exactly as for a Gaussian without mask, rotations averaged over pairs, norms \
         with one scale for all tokens, the feed-forward layer by its mean and mean derivative. moved: W_2 to the level \
         before; spread: sqrt(tr S); one_block_relative = one_block/moved, below 1 where the surrogate predicts the \
         block better than no change.{limit}"
    )
}

/// The blocks whose heads are analysed; all if none are named.
fn require_layers(asked: &[usize], summary: &Summary) -> Result<Vec<usize>, LabError> {
    match asked.iter().find(|layer| **layer >= summary.layers) {
        Some(layer) => Err(setting("--layers", format!("layers below {}", summary.layers), layer)),
        None if asked.is_empty() => Ok((0..summary.layers).collect()),
        None => Ok(asked.to_vec()),
    }
}

fn model_summary(summary: &Summary, config: &Config, provenance: &Provenance) -> ModelSummary {
    ModelSummary {
        family: summary.family.into(),
        layers: summary.layers,
        hidden: summary.hidden,
        heads: summary.heads,
        kv_heads: summary.kv_heads,
        vocab: summary.vocab,
        parameters: summary.parameters,
        sha256: weights_hash(provenance),
        attention: attention(config.mask),
    }
}

/// The hash of the model's weights file, or of the list of hashes of its shards; what an adapter brings is none of them.
fn weights_hash(provenance: &Provenance) -> String {
    let is_weights = |name: &str| {
        !name.starts_with(twin::ADAPTER_FILES) && (name.ends_with(".safetensors") || name.ends_with(".gguf"))
    };
    let hashes = || provenance.inputs.iter().filter(|(name, _)| is_weights(name)).map(|(_, hash)| hash.as_str());
    match (hashes().next(), hashes().count()) {
        (Some(only), 1) => only.into(),
        _ => sha256_hex(hashes().collect::<Vec<_>>().join("\n").as_bytes()),
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

/// What people call the model: the last part of its path.
fn name_of_model(model: &str) -> String {
    Path::new(model).file_name().map_or(model.to_string(), |name| name.to_string_lossy().into_owned())
}

fn title(model: &str, encoded: &Encoded) -> String {
    format!("{}, {} tokens", name_of_model(model), encoded.ids.len())
}

fn summary(series: &crate::observables::Series, seen: &Seen<'_>, verdict: Option<String>) -> Vec<String> {
    let (encoded, levels) = (seen.encoded, seen.hidden.levels());
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
    sentences.push(heads::sentence(&seen.heads.rows));
    sentences.extend(verdict);
    sentences
}

fn warnings(encoded: &Encoded, limit: usize, config: &Config) -> Vec<String> {
    let dropped = encoded.dropped;
    let cut = (dropped > 0).then(|| format!("the text was cut after {limit} tokens: {dropped} tokens were dropped"));
    let surrogate = no_surrogate(encoded.ids.len(), config).map(|why| format!("no Gaussian surrogate: {why}"));
    cut.into_iter().chain(surrogate).collect()
}

fn hidden_bytes(seen: &Seen<'_>) -> Result<Vec<u8>, LabError> {
    let Seen { hidden, encoded, .. } = *seen;
    let (levels, n, d) = (hidden.levels(), hidden.count(), hidden.dim());
    let all = |hidden: &Hidden| -> Vec<f32> {
        (0..levels - 1).flat_map(|level| hidden.level(level)).chain(hidden.last()).copied().collect()
    };
    let states = all(hidden);
    let adapted = seen.adapted.map(|adapted| all(&adapted.hidden));
    let ids: Vec<i64> = encoded.ids.iter().map(|id| i64::from(*id)).collect();
    let mut tensors = vec![
        Tensor::new("hidden", &[levels, n, d], TensorData::F32(&states)),
        Tensor::new("ids", &[n], TensorData::I64(&ids)),
    ];
    if let Some(adapted) = &adapted {
        tensors.push(Tensor::new("hidden_lora", &[levels, n, d], TensorData::F32(adapted)));
    }
    if hidden.normed().is_some() {
        tensors.push(Tensor::new("hidden_before_norm", &[n, d], TensorData::F32(hidden.level(levels - 1))));
    }
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
    let without_first = |pick: fn(&ContentRow) -> Option<f64>| {
        Column::Float(report.layers.iter().map(|row| row.without_first.as_ref().and_then(pick)).collect())
    };
    let lipschitz = |pick: fn(&LipschitzRow) -> Option<f64>| {
        Column::Float(report.layers.iter().map(|row| pick(&row.lipschitz)).collect())
    };
    table.push("lipschitz_lower", lipschitz(|row| row.lower))?;
    table.push("lipschitz_upper", lipschitz(|row| row.upper))?;
    let surrogate = |pick: fn(&SurrogateRow) -> Option<f64>| {
        Column::Float(report.layers.iter().map(|row| pick(&row.gaussian_surrogate)).collect())
    };
    table.push("surrogate_one_block", surrogate(|row| row.one_block))?;
    table.push("surrogate_composed", surrogate(|row| row.composed))?;
    table.push("surrogate_moved", surrogate(|row| row.moved))?;
    if let Some(field) = &report.mean_field {
        table.push("mean_field_gamma", Column::numbers(field.levels.iter().map(|level| level.gamma)))?;
        table.push("mean_field_residual", Column::numbers(field.levels.iter().map(|level| level.residual)))?;
    }
    table.push("content_mean_cosine", content(|row| row.mean_cosine))?;
    table.push("content_n_clusters", content(|row| Some(row.n_clusters as f64)))?;
    table.push("content_effective_rank", content(|row| row.effective_rank))?;
    table.push("without_first_mean_cosine", without_first(|row| row.mean_cosine))?;
    table.push("without_first_n_clusters", without_first(|row| Some(row.n_clusters as f64)))?;
    Ok(table)
}
