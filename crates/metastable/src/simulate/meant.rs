//! A simulation as it is meant: files read, shapes checked, defaults filled. Whatever is wrong is said here, before
//! anything is computed or written.

use std::path::{Path, PathBuf};

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::{FeedForward, Noise, VectorField};
use metastable_dynamics::geometry::{Geometry, Spheres};
use metastable_dynamics::head::Target;
use metastable_dynamics::solver::{Method, SolverOptions, StepSize};
use metastable_dynamics::{Head, LowRankUpdate, Tokens};

use super::depth::{Layer, Run};
use super::forms::{MatrixConfig, Save};
use super::inputs::Inputs;
use super::seed::MOST_VALUES;
use super::written::{
    Coordinates, GeometryName, HeadConfig, LoraConfig, NormalizationName, PlacementName, Precision, SimulateConfig,
    TargetName, TimeConfig,
};
use crate::error::LabError;

/// Relative tolerance per token where the config gives none: clusters come out to about 1e-9.
pub const DEFAULT_RTOL: f64 = 1e-10;
/// Absolute tolerance per token where the config gives none.
pub const DEFAULT_ATOL: f64 = 1e-12;

/// The same where fields are computed in single precision, whose rounding is no error of a step.
pub const SINGLE_RTOL: f64 = 1e-5;
/// The same for the absolute tolerance.
pub const SINGLE_ATOL: f64 = 1e-6;
/// The least tolerances in single precision: fields have rounding noise of about 1e-7.
pub const LEAST_SINGLE_TOLERANCE: f64 = 1e-6;

/// A validated simulation.
#[derive(Debug)]
pub struct Simulation {
    /// The config as resolved: title and seed filled in.
    pub config: SimulateConfig,
    /// The initial tokens, on the sphere if that is where they live.
    pub tokens: Tokens,
    /// The heads of the base run; of its first layer, where weights change with depth.
    pub heads: Vec<Head>,
    /// The heads of the twin, if any update was given; of its first layer.
    pub adapted: Option<Vec<Head>>,
    /// All layers: those heads, and those that follow.
    pub layers: Vec<Layer>,
    /// The linear layer beside attention.
    pub feed_forward: Option<FeedForward>,
    /// Noise on every token.
    pub noise: Option<Noise>,
    /// The kernel.
    pub kernel: AttentionKernel,
    /// Times to save, the first is 0.
    pub times: Vec<f64>,
    /// How to integrate.
    pub solver: SolverOptions,
    /// The cascade's data, if its theorem applies.
    pub cascade: Option<super::cascade::Setting>,
    /// Files that were read, by the names that the config gives them.
    pub inputs: Vec<(String, PathBuf)>,
    /// Things the user should know.
    pub warnings: Vec<String>,
}

impl Simulation {
    /// Validates a written config; relative files are looked up in `folder`, errors name `file`.
    ///
    /// # Errors
    /// [`LabError`] naming the key and what was expected; file errors naming the file.
    pub fn new(mut config: SimulateConfig, file: &Path) -> Result<Self, LabError> {
        if config.title.is_none() {
            config.title = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        }
        let mut inputs = Inputs::new(file).with_seed(config.seed);
        require_tokens(&config, &inputs)?;
        let mut warnings = Vec::new();
        let tokens = super::seed::tokens(&config, &mut inputs)?;
        super::depth::check_space(&config, &inputs)?;
        let tokens = place(tokens, &config, &inputs, &mut warnings)?;
        let layers = super::depth::layers(&config, tokens.dim(), &mut inputs)?;
        let (heads, adapted) = (layers[0].heads.clone(), layers[0].adapted.clone());
        let feed_forward = super::depth::feed_forward(&config, tokens.dim(), &mut inputs)?;
        let times = times(&config.time, tokens.as_slice().len(), &inputs)?;
        let solver = solver(&config.time, config.precision, &inputs)?;
        let noise = super::depth::noise(&config, &solver, &times, &inputs)?;
        let kernel = super::kernel::kernel(&config.kernel, &solver, &inputs)?;
        if !(config.observe.cluster_radius > 0.0 && config.observe.cluster_radius.is_finite()) {
            let found = config.observe.cluster_radius.to_string();
            return Err(inputs.wrong("observe.cluster_radius", "a positive number", found));
        }
        if !(config.observe.close_cosine >= -1.0 && config.observe.close_cosine < 1.0) {
            let found = config.observe.close_cosine.to_string();
            return Err(inputs.wrong("observe.close_cosine", "a cosine in [-1, 1)", found));
        }
        if config.space.coordinates == Coordinates::Rescaled && config.space.geometry == GeometryName::Sphere {
            return Err(inputs.wrong("space.coordinates", "\"plain\" on the sphere", "\"rescaled\""));
        }
        if config.space.coordinates == Coordinates::Rescaled && config.precision == Precision::F32 {
            return Err(inputs.wrong(
                "precision",
                "\"f64\" in rescaled coordinates, whose scores grow without bound",
                "\"f32\"",
            ));
        }
        if config.kernel.normalization == NormalizationName::Sinkhorn && config.precision == Precision::F32 {
            let expected = "\"f64\" for Sinkhorn's weights, whose fixed point single precision cannot reach";
            return Err(inputs.wrong("precision", expected, "\"f32\""));
        }
        if config.precision == Precision::F32 {
            warnings.push("attention fields were computed in single precision: they carry noise of about 1e-7".into());
        }
        let inputs_read = inputs.files();
        let mut simulation = Self {
            config,
            tokens,
            heads,
            adapted,
            layers,
            feed_forward,
            noise,
            kernel,
            times,
            solver,
            cascade: None,
            inputs: inputs_read,
            warnings,
        };
        for run in [Run::Base, Run::Adapted].into_iter().filter(|run| *run == Run::Base || simulation.adapted.is_some())
        {
            simulation.flows(run).map_err(|source| inputs.refused("head", source))?;
            let velocity = |kernel| simulation.velocity_under(kernel, run);
            super::kernel::require_a_field(kernel, simulation.tokens.dim(), velocity, &inputs)?;
        }
        let Simulation { config, kernel, heads, adapted, .. } = &simulation;
        simulation.cascade = super::cascade::setting(config, kernel, heads, adapted.as_deref(), &inputs)?;
        Ok(simulation)
    }

    /// The velocities of the initial tokens under a kernel, \[n, d\].
    fn velocity_under(&self, kernel: AttentionKernel, run: Run) -> Result<Vec<f64>, LabError> {
        let flows = self.flows_under(kernel, run).map_err(LabError::Dynamics)?;
        let mut velocity = vec![0.0; self.tokens.as_slice().len()];
        flows.at(0.0).evaluate(0.0, self.tokens.as_slice(), &mut velocity);
        flows.at(0.0).failure().map_or(Ok(velocity), |failure| Err(LabError::Dynamics(failure)))
    }

    /// The step T / L of discrete layers.
    pub fn layer_step(&self) -> Option<f64> {
        self.config.time.layers.map(|layers| self.config.time.end / f64::from(layers))
    }
}

/// Puts tokens on the space they live in; says so if that moves them.
fn place(
    tokens: Tokens,
    config: &SimulateConfig,
    inputs: &Inputs,
    warnings: &mut Vec<String>,
) -> Result<Tokens, LabError> {
    let begins_on_sphere =
        config.space.geometry == GeometryName::Sphere || config.space.placement == Some(PlacementName::Mix);
    if !begins_on_sphere {
        if config.space.placement.is_some() && tokens.view().iter().any(|token| token.iter().all(|c| *c == 0.0)) {
            return Err(inputs.wrong("tokens", "tokens other than 0 where they are normalised", "a zero token"));
        }
        return Ok(tokens);
    }
    let dim = tokens.dim();
    let norms = tokens.view().iter().map(metastable_dynamics::linalg::norm);
    let worst = norms.map(|norm| (norm - 1.0).abs()).fold(0.0, f64::max);
    let mut values = tokens.into_vec();
    Spheres { dim }.retract(&mut values);
    if worst > 1e-6 {
        warnings
            .push(format!("the initial tokens were normalised to the unit sphere (largest | |x| - 1 | = {worst:.3})"));
    }
    Tokens::new(dim, values).map_err(|_| inputs.wrong("tokens", "tokens other than 0 on the sphere", "a zero token"))
}

/// A config of a particle run has tokens and no Gaussian.
fn require_tokens(config: &SimulateConfig, inputs: &Inputs) -> Result<(), LabError> {
    match (config.tokens.is_absent(), config.gaussian.is_some()) {
        (false, false) => Ok(()),
        (false, true) => Err(inputs.wrong("gaussian", "either [tokens] or [gaussian]", "both")),
        (true, true) => Err(inputs.wrong("gaussian", "[tokens] for this command", "[gaussian]")),
        (true, false) => Err(inputs.wrong("tokens", "exactly one of file, values and law, or a [gaussian]", "none")),
    }
}

/// The heads of tokens of dimension d.
pub(super) fn read_heads(written: &[HeadConfig], d: usize, inputs: &mut Inputs) -> Result<Vec<Head>, LabError> {
    if written.is_empty() {
        return Err(inputs.wrong("head", "at least one [[head]] table", "none"));
    }
    written.iter().enumerate().map(|(h, head)| read_head(&format!("head[{h}]"), head, d, inputs)).collect()
}

/// One head; `place` is its table, as "head[0]".
pub(super) fn read_head(place: &str, written: &HeadConfig, d: usize, inputs: &mut Inputs) -> Result<Head, LabError> {
    let key = |name: &str| format!("{place}.{name}");
    // Words and scalars mean a square matrix; rows and files bring their own number of rows.
    let fixed = |matrix: &MatrixConfig| {
        let scalar = matches!(matrix, MatrixConfig::Identity | MatrixConfig::Zero | MatrixConfig::Scalar(_));
        scalar.then_some(d)
    };
    let query = inputs.matrix(&key("query"), &written.query, fixed(&written.query), d)?;
    let key_matrix = inputs.matrix(&key("key"), &written.key, fixed(&written.key), d)?;
    let value = inputs.matrix(&key("value"), &written.value, fixed(&written.value), d)?;
    let output = match &written.output {
        Some(output) => Some(inputs.matrix(&key("output"), output, Some(d), value.rows())?),
        None => None,
    };
    Head::new(query, key_matrix, value, output).map_err(|source| inputs.refused(place, source))
}

/// Adds every update to the heads it names.
///
/// `layer` is the place of the layer, for the draws of updates that differ from layer to layer.
pub(super) fn adapt(
    loras: &[LoraConfig],
    heads: &[Head],
    layer: &str,
    inputs: &mut Inputs,
) -> Result<Option<Vec<Head>>, LabError> {
    if loras.is_empty() {
        return Ok(None);
    }
    let mut adapted = heads.to_vec();
    for (l, lora) in loras.iter().enumerate() {
        if lora.target.is_empty() {
            return Err(inputs.wrong(&format!("lora[{l}].target"), "\"query\", \"key\" or \"value\"", "an empty list"));
        }
        let chosen = chosen_heads(l, lora, heads.len(), inputs)?;
        for target in &lora.target.0 {
            let target = match target {
                TargetName::Query => Target::Query,
                TargetName::Key => Target::Key,
                TargetName::Value => Target::Value,
            };
            for &h in &chosen {
                let place = if lora.each_layer { layer } else { "" };
                let update = read_update(&format!("{place}lora[{l}]"), lora, target, &heads[h], inputs)?;
                adapted[h] = adapted[h]
                    .updated(target, &update)
                    .map_err(|source| inputs.refused(&format!("lora[{l}]"), source))?;
            }
        }
    }
    Ok(Some(adapted))
}

/// The heads that an update names: each exists and is named once, and there is one at least.
fn chosen_heads(l: usize, lora: &LoraConfig, count: usize, inputs: &Inputs) -> Result<Vec<usize>, LabError> {
    let Some(chosen) = lora.heads.clone() else { return Ok((0..count).collect()) };
    let wrong = |expected: String, found: String| Err(inputs.wrong(&format!("lora[{l}].heads"), expected, found));
    if chosen.is_empty() {
        return wrong("at least one head".into(), "an empty list".into());
    }
    if let Some(h) = chosen.iter().find(|h| **h >= count) {
        return wrong(format!("head numbers below {count}"), h.to_string());
    }
    if let Some(h) = chosen.iter().enumerate().find(|(k, h)| chosen[..*k].contains(h)) {
        return wrong("each head once".into(), format!("head {} twice", h.1));
    }
    Ok(chosen)
}

fn read_update(
    place: &str,
    lora: &LoraConfig,
    target: Target,
    head: &Head,
    inputs: &mut Inputs,
) -> Result<LowRankUpdate, LabError> {
    let key = |name: &str| format!("{place}.{name}");
    let matrix = match target {
        Target::Query => head.query(),
        Target::Key => head.key(),
        Target::Value => head.value(),
    };
    let (rows, columns) = (matrix.rows(), matrix.columns());
    match (&lora.a, &lora.b, &lora.delta) {
        (None, None, Some(delta)) => {
            if lora.alpha.is_some() || lora.rslora {
                return Err(inputs.wrong(&key("delta"), "no alpha or rslora beside a dense update", "both"));
            }
            Ok(LowRankUpdate::dense(inputs.matrix(&key("delta"), delta, Some(rows), columns)?))
        }
        (Some(a), Some(b), None) => {
            let a = inputs.matrix(&key("a"), a, None, columns)?;
            let b = inputs.matrix(&key("b"), b, Some(rows), a.rows())?;
            let rank = a.rows() as f64;
            let alpha = lora.alpha.unwrap_or(rank);
            if !alpha.is_finite() {
                return Err(inputs.wrong(&key("alpha"), "a finite number", alpha));
            }
            let scale = if lora.rslora { alpha / rank.sqrt() } else { alpha / rank };
            LowRankUpdate::new(&a, &b, scale).map_err(|source| inputs.refused(place, source))
        }
        _ => Err(inputs.wrong(place, "either a and b, or delta", "another combination")),
    }
}

/// The times to save, for states of `values` numbers.
pub(super) fn times(written: &TimeConfig, values: usize, inputs: &Inputs) -> Result<Vec<f64>, LabError> {
    let end = written.end;
    if !(end > 0.0 && end.is_finite()) {
        return Err(inputs.wrong("time.end", "a positive number", end));
    }
    let count = match &written.save {
        Save::Count(count) => *count,
        Save::Times(times) => times.len(),
    };
    let most = MOST_VALUES / values;
    if count > most.max(2) {
        let expected = format!("at most {most} times of {values} numbers each");
        return Err(inputs.wrong("time.save", expected, count));
    }
    match &written.save {
        Save::Count(count) if *count >= 2 => {
            let last = (*count - 1) as f64;
            Ok((0..*count).map(|k| if k + 1 == *count { end } else { end * (k as f64 / last) }).collect())
        }
        Save::Count(count) => Err(inputs.wrong("time.save", "at least 2 times", count)),
        Save::Times(times) => {
            let increasing = times.windows(2).all(|pair| pair[0] < pair[1]);
            let inside = times.iter().all(|t| (0.0..=end).contains(t));
            if times.is_empty() || !increasing || !inside {
                return Err(inputs.wrong("time.save", format!("increasing times in [0, {end}]"), format!("{times:?}")));
            }
            let mut times = times.clone();
            if times[0] > 0.0 {
                times.insert(0, 0.0);
            }
            if times.last().is_some_and(|t| *t < end) {
                times.push(end);
            }
            Ok(times)
        }
    }
}

pub(super) fn solver(written: &TimeConfig, precision: Precision, inputs: &Inputs) -> Result<SolverOptions, LabError> {
    let positive = |name: &str, value: Option<f64>| match value {
        Some(v) if !(v > 0.0 && v.is_finite()) => Err(inputs.wrong(&format!("time.{name}"), "a positive number", v)),
        other => Ok(other),
    };
    let (dt, rtol, atol) =
        (positive("dt", written.dt)?, positive("rtol", written.rtol)?, positive("atol", written.atol)?);
    let stationary = positive("stationary", written.stationary)?;
    let (method, step) = match written.layers {
        Some(layers) => {
            if layers == 0
                || dt.is_some()
                || rtol.or(atol).is_some()
                || written.method.is_some_and(|m| m != Method::Euler)
            {
                return Err(inputs.wrong(
                    "time.layers",
                    "a positive number, without dt, tolerances or another method",
                    layers,
                ));
            }
            (Method::Euler, StepSize::Fixed(written.end / f64::from(layers)))
        }
        None => {
            let method = written.method.unwrap_or(Method::Tsit5);
            let fixed = matches!(method, Method::Euler | Method::Heun | Method::Rk4);
            match dt {
                Some(_) if rtol.or(atol).is_some() => {
                    return Err(inputs.wrong("time.dt", "either a fixed step dt, or rtol and atol", "both"));
                }
                Some(dt) => (method, StepSize::Fixed(dt)),
                None if fixed => return Err(inputs.wrong("time.dt", "a step for a fixed-step method", "none")),
                None => {
                    let [rtol, atol] = tolerances([rtol, atol], precision, inputs)?;
                    (method, StepSize::Adaptive { rtol, atol })
                }
            }
        }
    };
    if written.max_steps == Some(0) {
        return Err(inputs.wrong("time.max_steps", "a positive number", 0));
    }
    let mut options = SolverOptions::with_step(method, step);
    options.max_steps = written.max_steps.unwrap_or(options.max_steps);
    options.stationary = stationary;
    options.validate().map_err(|source| inputs.refused("time", source))?;
    Ok(options)
}

/// Relative and absolute tolerance as given, or the precision's own.
fn tolerances(given: [Option<f64>; 2], precision: Precision, inputs: &Inputs) -> Result<[f64; 2], LabError> {
    if precision == Precision::F64 {
        return Ok([given[0].unwrap_or(DEFAULT_RTOL), given[1].unwrap_or(DEFAULT_ATOL)]);
    }
    for (name, tolerance) in ["rtol", "atol"].into_iter().zip(given) {
        if let Some(found) = tolerance.filter(|tolerance| *tolerance < LEAST_SINGLE_TOLERANCE) {
            let expected = format!("{LEAST_SINGLE_TOLERANCE:e} or more with precision \"f32\"");
            return Err(inputs.wrong(&format!("time.{name}"), expected, format!("{found:e}")));
        }
    }
    Ok([given[0].unwrap_or(SINGLE_RTOL), given[1].unwrap_or(SINGLE_ATOL)])
}
