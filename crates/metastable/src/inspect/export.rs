//! Heads of a checkpoint as a configuration of `simulate`, the flow that it describes, and how the real layers differ.

use std::collections::BTreeMap;
use std::path::Path;

use metastable_dynamics::measure::transport;
use metastable_dynamics::observe::{cloud::mean_cosine, single_linkage};
use metastable_dynamics::{Head, Matrix, Tokens, TokensRef};
use metastable_model::config::{Mask, NormKind, NormPlace, Position};
use metastable_model::{Config, Hidden, Model, SphereHeads};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::heads::HeadChoice;
use super::twin::MOST_TOKENS_FOR_TRANSPORT;
use crate::arrays::{Tensor, TensorData, safetensors_bytes};
use crate::document::to_toml;
use crate::error::LabError;
use crate::run_dir::RunDir;
use crate::simulate;
use crate::simulate::engine::{Outside, Progress, Unfinished, integrate};
use crate::simulate::report::Stop;
use crate::watch::Watcher;

/// The configuration, in the run folder.
pub(crate) const CONFIG: &str = "idealised/head.toml";
/// Its arrays.
pub(crate) const ARRAYS: &str = "idealised/head.safetensors";
/// Its flow.
pub(crate) const TRAJECTORY: &str = "idealised/trajectory.safetensors";

/// One block of the model as an autonomous flow on the sphere, beside the layers that really follow.
#[derive(Debug, Clone, Serialize)]
pub struct Idealised {
    /// The block, from 0; the flow starts at the tokens that enter it.
    pub layer: usize,
    /// The head, from 0; null for all of the block.
    pub head: Option<usize>,
    /// The configuration, for `simulate`.
    pub config: &'static str,
    /// What scores are multiplied by.
    pub beta: f64,
    /// The time of one layer.
    pub time_per_layer: f64,
    /// What of the real block the configuration does not have.
    pub left_out: Vec<String>,
    /// What the numbers mean.
    pub definitions: Vec<String>,
    /// Why the flow ended, and when.
    pub stop: Option<Stop>,
    /// A row for every level from the block on.
    pub levels: Vec<IdealisedLevel>,
}

/// The flow and the real layers at one level; of directions.
#[derive(Debug, Clone, Serialize)]
pub struct IdealisedLevel {
    /// The level; the flow starts at the first of them.
    pub index: usize,
    /// The time of the flow.
    pub time: f64,
    /// Of the real tokens.
    pub mean_cosine: Option<f64>,
    /// Of the flow's.
    pub mean_cosine_flow: Option<f64>,
    /// Of the flow's twin, where an adapter is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_cosine_flow_lora: Option<f64>,
    /// Clusters of the real tokens at the report's radius.
    pub n_clusters: usize,
    /// Of the flow's.
    pub n_clusters_flow: usize,
    /// Root mean square over tokens of the distance between a token and itself in the flow.
    pub rms_distance: f64,
    /// Mean over tokens of their cosine.
    pub cosine: f64,
    /// Exact W_2 between the two clouds; null beyond 1024 tokens.
    pub wasserstein2: Option<f64>,
}

/// What is exported: a model at a text, and perhaps the same model adapted.
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) model: &'a Model,
    pub(super) adapted: Option<&'a Model>,
    pub(super) hidden: &'a Hidden,
    pub(super) radius: f64,
}

/// Writes the configuration, runs it, and compares it with the layers.
///
/// # Errors
/// [`LabError`] of files, solver and decompositions; [`LabError::Stopped`] if the watcher asks.
pub(super) fn export(
    source: &Source<'_>,
    choice: HeadChoice,
    (folder, path): (&mut RunDir, &Path),
    watcher: &mut dyn Watcher,
) -> Result<Idealised, LabError> {
    let placed = chosen(source.model.sphere_heads(source.hidden, choice.layer)?, choice);
    let adapted = source.adapted.map(|model| model.sphere_heads(source.hidden, choice.layer)).transpose()?;
    let adapted = adapted.map(|adapted| chosen(adapted, choice));
    let real: Vec<Tokens> = (choice.layer..source.hidden.levels())
        .map(|level| source.model.sphere_tokens(source.hidden, level))
        .collect::<Result<_, _>>()?;
    let mut files = Files::default();
    let config = config(source, choice, (&placed, adapted.as_ref()), real.len(), &mut files);
    folder.write(ARRAYS, &files.bytes())?;
    folder.write(CONFIG, to_toml(&config)?.as_bytes())?;
    let simulation = simulate::load(&path.join(CONFIG), &[], None)?;
    let mut progress = Progress::default();
    let mut save = |_: &Progress| Ok(());
    match integrate(&simulation, &mut progress, &mut Outside::new(watcher, &mut save)) {
        Ok(()) => {}
        Err(Unfinished::Failed(error)) => return Err(error),
        Err(Unfinished::Stopped(interruption)) => {
            return Err(LabError::Stopped { folder: path.to_owned(), interruption });
        }
    }
    let flow = Flow::of(progress.base.as_ref(), &placed.tokens);
    let twin = progress.twin.as_ref().map(|twin| Flow::of(Some(twin), &placed.tokens));
    folder.write(TRAJECTORY, &trajectory(&simulation.times, &flow, twin.as_ref(), &placed.tokens))?;
    let outcome = progress.base.as_ref().map(|run| &run.outcome);
    Ok(Idealised {
        layer: choice.layer,
        head: choice.head,
        config: CONFIG,
        beta: placed.beta,
        time_per_layer: placed.time_per_layer,
        left_out: left_out(source.model.config(), choice, source.hidden.count()),
        definitions: definitions(),
        stop: outcome.map(|outcome| Stop { reason: outcome.stop, time: outcome.t }),
        levels: levels(&real, (&flow, twin.as_ref()), &simulation.times, (choice.layer, source.radius))?,
    })
}

fn chosen(mut placed: SphereHeads, choice: HeadChoice) -> SphereHeads {
    if let Some(head) = choice.head {
        placed.heads = vec![placed.heads.swap_remove(head)];
    }
    placed
}

/// The configuration of `simulate`, with its arrays in `files`.
fn config(
    source: &Source<'_>,
    choice: HeadChoice,
    (placed, adapted): (&SphereHeads, Option<&SphereHeads>),
    levels: usize,
    files: &mut Files,
) -> Value {
    let mask = if source.model.config().mask == Mask::Full { "full" } else { "causal" };
    let which = choice.head.map_or("all heads".to_owned(), |head| format!("head {head}"));
    let tokens = &placed.tokens;
    files.add("tokens", tokens.count(), tokens.dim(), tokens.as_slice());
    let (mut heads, mut updates) = (Vec::new(), Vec::new());
    for (number, head) in placed.heads.iter().enumerate() {
        let (table, deltas) = files.head(number, head, adapted.map(|adapted| &adapted.heads[number]));
        heads.push(table);
        updates.extend(deltas);
    }
    // A text may end at the last level, where nothing is left to run: the flow then takes the time of one layer.
    let layers = levels.max(2) - 1;
    let mut config = json!({
        "title": format!("{}: block {}, {which}, on the sphere", source.name, choice.layer),
        "tokens": { "file": "head.safetensors", "tensor": "tokens" },
        "head": heads,
        "kernel": { "mask": mask, "beta": placed.beta },
        "space": { "geometry": "sphere" },
        "time": { "end": layers as f64 * placed.time_per_layer, "save": layers + 1, "rtol": 1e-6, "atol": 1e-9 },
        "observe": { "cluster_radius": source.radius },
    });
    if !updates.is_empty() {
        config["lora"] = updates.into();
    }
    config
}

/// The arrays beside the configuration, by name.
#[derive(Default)]
struct Files(BTreeMap<String, ([usize; 2], Vec<f64>)>);

impl Files {
    fn add(&mut self, name: &str, rows: usize, columns: usize, values: &[f64]) -> Value {
        self.0.insert(name.to_owned(), ([rows, columns], values.to_vec()));
        json!({ "file": "head.safetensors", "tensor": name })
    }

    fn matrix(&mut self, name: &str, matrix: &Matrix) -> Value {
        self.add(name, matrix.rows(), matrix.columns(), matrix.as_slice())
    }

    /// The table of the base head, and an update for each matrix that the adapted head has otherwise.
    fn head(&mut self, number: usize, base: &Head, adapted: Option<&Head>) -> (Value, Vec<Value>) {
        // An update of the output map has no name in a configuration; joined to the value map it has.
        let joined = adapted.is_some_and(|adapted| adapted.output() != base.output());
        let value = |head: &Head| if joined { head.output_value() } else { head.value().clone() };
        let matrices =
            |head: &Head| [("query", head.query().clone()), ("key", head.key().clone()), ("value", value(head))];
        let mut table = Map::new();
        for (name, matrix) in matrices(base) {
            table.insert(name.into(), self.matrix(&format!("{name}_{number}"), &matrix));
        }
        if let Some(output) = base.output().filter(|_| !joined) {
            table.insert("output".into(), self.matrix(&format!("output_{number}"), output));
        }
        let pairs = adapted.into_iter().flat_map(|adapted| matrices(base).into_iter().zip(matrices(adapted)));
        let mut updates = Vec::new();
        for ((name, before), (_, after)) in pairs.filter(|((_, before), (_, after))| before != after) {
            let delta = self.matrix(&format!("{name}_{number}_delta"), &after.add_scaled(-1.0, &before));
            updates.push(json!({ "target": name, "heads": [number], "delta": delta }));
        }
        (table.into(), updates)
    }

    fn bytes(&self) -> Vec<u8> {
        let tensors: Vec<Tensor<'_>> =
            self.0.iter().map(|(name, (shape, values))| Tensor::new(name, shape, TensorData::F64(values))).collect();
        safetensors_bytes(&tensors, &BTreeMap::new())
    }
}

/// The saved states of one run; a run that stopped early stands still from then on.
struct Flow {
    states: Vec<Tokens>,
}

impl Flow {
    fn of(run: Option<&simulate::engine::Run>, start: &Tokens) -> Self {
        let values = run.map_or(&[][..], |run| run.sampler.values());
        let size = start.count() * start.dim();
        let state = |values: &[f64]| Tokens::new(start.dim(), values.to_vec()).ok();
        let filled = run.map_or(0, |run| run.sampler.filled());
        Self { states: values.chunks_exact(size).take(filled).filter_map(state).collect() }
    }

    fn at(&self, level: usize) -> Option<&Tokens> {
        self.states.get(level).or_else(|| self.states.last())
    }
}

fn trajectory(times: &[f64], flow: &Flow, twin: Option<&Flow>, start: &Tokens) -> Vec<u8> {
    let values = |flow: &Flow| flow.states.iter().flat_map(Tokens::as_slice).copied().collect::<Vec<f64>>();
    let shape = |flow: &Flow| [flow.states.len(), start.count(), start.dim()];
    let (base, adapted) = (values(flow), twin.map(values));
    let times = &times[..flow.states.len().min(times.len())];
    let mut tensors = vec![
        Tensor::new("time", &[times.len()], TensorData::F64(times)),
        Tensor::new("tokens", &shape(flow), TensorData::F64(&base)),
    ];
    if let (Some(flow), Some(values)) = (twin, &adapted) {
        tensors.push(Tensor::new("tokens_lora", &shape(flow), TensorData::F64(values)));
    }
    safetensors_bytes(&tensors, &BTreeMap::new())
}

fn levels(
    real: &[Tokens],
    (flow, twin): (&Flow, Option<&Flow>),
    times: &[f64],
    (layer, radius): (usize, f64),
) -> Result<Vec<IdealisedLevel>, LabError> {
    let row = |(k, real): (usize, &Tokens)| -> Result<Option<IdealisedLevel>, LabError> {
        let Some(moved) = flow.at(k) else { return Ok(None) };
        let (x, y) = (real.view(), moved.view());
        let paired = transport::paired(x, y)?;
        let cosines = x.iter().zip(y.iter()).map(|(u, v)| metastable_dynamics::linalg::dot(u, v)).sum::<f64>();
        let is_short = x.count() <= MOST_TOKENS_FOR_TRANSPORT;
        let clusters = |tokens: TokensRef<'_>| single_linkage(tokens, radius).count();
        Ok(Some(IdealisedLevel {
            index: layer + k,
            time: times.get(k).copied().unwrap_or_default(),
            mean_cosine: mean_cosine(x),
            mean_cosine_flow: mean_cosine(y),
            mean_cosine_flow_lora: twin.and_then(|twin| twin.at(k)).and_then(|tokens| mean_cosine(tokens.view())),
            n_clusters: clusters(x),
            n_clusters_flow: clusters(y),
            rms_distance: paired.rms,
            cosine: cosines / x.count() as f64,
            wasserstein2: is_short.then(|| transport::wasserstein2(x, y)).transpose()?.map(|found| found.distance),
        }))
    };
    let rows: Vec<Option<IdealisedLevel>> = real.iter().enumerate().map(row).collect::<Result<_, _>>()?;
    Ok(rows.into_iter().flatten().collect())
}

fn left_out(config: &Config, choice: HeadChoice, tokens: usize) -> Vec<String> {
    let mut left_out = vec!["the feed-forward layer".to_owned()];
    let mut add = |is: bool, what: &str| left_out.extend(is.then(|| what.to_owned()));
    add(choice.head.is_some() && config.heads > 1, "the other heads of the block");
    add(config.distinct_layers > 1, "the weights of the later blocks: this block is repeated");
    add(config.biases.query_key_value, "the biases of queries, keys and values");
    add(config.biases.attention_output, "the bias of the output map");
    let shifted = config.norm_place == NormPlace::Before && config.norm == NormKind::LayerNorm;
    add(shifted, "the bias of the norm before attention");
    add(config.norm_place == NormPlace::After, "the differences in length that the gain and bias of the norm leave");
    let rotary = matches!(config.position, Position::Rotary(_));
    add(rotary, "the rotations of queries and keys (RoPE): the head is that of two tokens at one place");
    add(config.query_key_norm, "the normalisation of queries and keys; its gains are in the matrices");
    let window = match config.mask {
        Mask::SlidingWindow { size, first_layer } => choice.layer >= first_layer && size < tokens,
        _ => false,
    };
    add(window, "the window: every token sees all before it");
    left_out
}

fn definitions() -> Vec<String> {
    vec![
        "Tokens are directions of the stream: x/|x| where norms stand after blocks; where they stand before, the gain is in \
         Q, K and V, and a LayerNorm's mean is taken away."
            .into(),
        "The flow u_i' = Proj_{u_i} Σ_h Σ_j P^h_ij W_h V_h u_j, P^h = softmax_j(beta <Q_h u_i, K_h u_j>), is the block's own \
         attention to first order in its update; one layer takes time_per_layer."
            .into(),
        "rms_distance, cosine, wasserstein2: between the real directions of a level and those of the flow at the same \
         layer; the flow starts at the real tokens, so the first row is 0."
            .into(),
    ]
}
