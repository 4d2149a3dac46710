//! What moves the tokens at which depth: layers of heads, where tokens are normalised, the feed-forward layer, noise.
//!
//! Time is cut into pieces in which the field is continuous; the engine solves from one cut to the next.

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::{AttentionFlow, FeedForward, Noise, ParticleFlow, Placement, RescaledFlow};
use metastable_dynamics::geometry::{Euclidean, Geometry, Spheres};
use metastable_dynamics::solver::{Method, SolverOptions, StepSize};
use metastable_dynamics::{DynamicsError, Head, Matrix};

use super::inputs::Inputs;
use super::meant::{Simulation, adapt, read_head};
use super::written::{Coordinates, GeometryName, HeadConfig, PlacementName, Precision, SimulateConfig};
use crate::error::LabError;

/// Heads in force until a time.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Until when.
    pub end: f64,
    /// The heads of the base run.
    pub heads: Vec<Head>,
    /// The heads of the twin.
    pub adapted: Option<Vec<Head>>,
}

/// One of the two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Without LoRA.
    Base,
    /// With it.
    Adapted,
}

/// The flow of one run, piece after piece.
pub struct Flows {
    pieces: Vec<Piece>,
}

/// A flow that is in force until a time.
pub struct Piece {
    /// Until when.
    pub end: f64,
    /// The flow, without noise.
    pub flow: AttentionFlow,
    /// The space of the cloud.
    pub geometry: Box<dyn Geometry>,
}

impl Flows {
    /// The piece in force from time t on; the last one at the end.
    pub fn piece(&self, t: f64) -> &Piece {
        self.pieces.iter().find(|piece| t < piece.end).unwrap_or(&self.pieces[self.pieces.len() - 1])
    }

    /// The flow in force from time t on; the last one at the end.
    pub fn at(&self, t: f64) -> &AttentionFlow {
        &self.piece(t).flow
    }

    /// Whether a piece begins at time t.
    pub fn begins_at(&self, t: f64) -> bool {
        t == 0.0 || self.pieces.iter().any(|piece| piece.end == t)
    }
}

impl Simulation {
    /// The flow of a run.
    ///
    /// # Errors
    /// [`DynamicsError`] if heads, kernel, coordinates and placement do not fit together.
    pub fn flows(&self, run: Run) -> Result<Flows, DynamicsError> {
        self.flows_under(self.kernel, run)
    }

    /// The same flow with weights of another kernel.
    pub(super) fn flows_under(&self, kernel: AttentionKernel, run: Run) -> Result<Flows, DynamicsError> {
        let mut pieces = Vec::new();
        let mut begin = 0.0;
        for layer in &self.layers {
            let heads = match run {
                Run::Base => &layer.heads,
                Run::Adapted => layer.adapted.as_ref().unwrap_or(&layer.heads),
            };
            // Mix-LN has a cut of its own.
            let cut = self.config.space.mix_until.filter(|t| begin < *t && *t < layer.end);
            for end in cut.into_iter().chain([layer.end]) {
                pieces.push(self.piece(kernel, [begin, end], heads)?);
                begin = end;
            }
        }
        Ok(Flows { pieces })
    }

    fn piece(&self, kernel: AttentionKernel, [begin, end]: [f64; 2], heads: &[Head]) -> Result<Piece, DynamicsError> {
        let placement = self.placement_from(begin);
        let on_sphere = self.config.space.geometry == GeometryName::Sphere || placement.is_tangent();
        let geometry: Box<dyn Geometry> = match on_sphere {
            true => Box::new(Spheres { dim: self.tokens.dim() }),
            false => Box::new(Euclidean),
        };
        let flow = match self.config.space.coordinates {
            Coordinates::Plain => AttentionFlow::Particle(self.particle_flow(kernel, heads, placement)?),
            Coordinates::Rescaled => AttentionFlow::Rescaled(Box::new(self.rescaled_flow(kernel, heads)?)),
        };
        Ok(Piece { end, flow, geometry })
    }

    fn particle_flow(
        &self,
        kernel: AttentionKernel,
        heads: &[Head],
        placement: Placement,
    ) -> Result<ParticleFlow, DynamicsError> {
        let flow = ParticleFlow::new(heads.to_vec(), kernel, self.tokens.count(), placement)?;
        let flow = match self.config.precision {
            Precision::F64 => flow,
            Precision::F32 => flow.in_single_precision(),
        };
        match &self.feed_forward {
            Some(feed_forward) => flow.with_feed_forward(feed_forward.clone()),
            None => Ok(flow),
        }
    }

    fn rescaled_flow(&self, kernel: AttentionKernel, heads: &[Head]) -> Result<RescaledFlow, DynamicsError> {
        let [head] = heads else {
            return Err(DynamicsError::Domain {
                name: "space.coordinates".into(),
                expected: "one head for \"rescaled\"".into(),
                found: format!("{} heads", heads.len()),
            });
        };
        match self.layer_step() {
            Some(step) => RescaledFlow::layers(head.clone(), kernel, self.tokens.count(), step),
            None => RescaledFlow::new(head.clone(), kernel, self.tokens.count()),
        }
    }

    /// Where tokens are normalised in the piece that begins at time t.
    fn placement_from(&self, t: f64) -> Placement {
        let space = &self.config.space;
        let is_layered = self.config.time.layers.is_some();
        match (space.placement, space.geometry) {
            (Some(PlacementName::Pre), _) => Placement::PreNorm,
            (Some(PlacementName::Peri), _) => Placement::PeriNorm,
            (Some(PlacementName::Mix), _) if space.mix_until.is_some_and(|until| t >= until) => Placement::PreNorm,
            (Some(PlacementName::Mix), _) => Placement::Tangent,
            (Some(PlacementName::Ngpt), _) => Placement::Hyperspherical { alpha: space.alpha.unwrap_or(1.0) },
            // Discrete layers move in R^d and are normalised afterwards.
            (_, GeometryName::Sphere) if !is_layered => Placement::Tangent,
            _ => Placement::Ambient,
        }
    }

    /// Whether nothing but attention of constant weights moves the tokens, in R^d or on spheres: what most theorems
    /// are about.
    pub fn has_constant_pure_attention(&self) -> bool {
        let space = &self.config.space;
        let is_plain = matches!(space.placement, None | Some(PlacementName::None | PlacementName::Post));
        is_plain && self.layers.len() == 1 && self.feed_forward.is_none() && self.noise.is_none()
    }
}

/// Refuses placements that do not belong to the geometry, and what rescaled coordinates do not know.
pub(super) fn check_space(config: &SimulateConfig, inputs: &Inputs) -> Result<(), LabError> {
    let space = &config.space;
    let wrong =
        |key: &str, expected: &str, found: &dyn std::fmt::Debug| Err(inputs.wrong(key, expected, format!("{found:?}")));
    match (space.geometry, space.placement) {
        (
            GeometryName::Sphere,
            Some(name @ (PlacementName::None | PlacementName::Pre | PlacementName::Peri | PlacementName::Mix)),
        ) => {
            return wrong("space.placement", "\"post\" or \"ngpt\" on the sphere", &name);
        }
        (GeometryName::Euclidean, Some(name @ (PlacementName::Post | PlacementName::Ngpt))) => {
            return wrong("space.placement", "\"none\", \"pre\", \"peri\" or \"mix\" in euclidean space", &name);
        }
        _ => {}
    }
    if space.alpha.is_some() != (space.placement == Some(PlacementName::Ngpt)) && space.alpha.is_some() {
        return wrong("space.alpha", "placement = \"ngpt\" beside it", &space.placement);
    }
    if space.alpha.is_some_and(|alpha| !(alpha.is_finite() && alpha > 0.0)) {
        return wrong("space.alpha", "a positive number", &space.alpha.unwrap_or(f64::NAN));
    }
    match (space.placement == Some(PlacementName::Mix), space.mix_until) {
        (true, None) => return wrong("space.mix_until", "a time inside the run for placement = \"mix\"", &"none"),
        (false, Some(_)) => return wrong("space.mix_until", "placement = \"mix\" beside it", &space.placement),
        (true, Some(t)) if !(t > 0.0 && t < config.time.end) => {
            return wrong("space.mix_until", "a time inside the run", &t);
        }
        (true, Some(_)) if config.time.layers.is_some() => {
            return wrong("space.placement", "continuous time for \"mix\"", &"layers");
        }
        _ => {}
    }
    let changes = space.mix_until.is_some() || !config.layer.is_empty() || config.noise.is_some();
    if changes && let Some(bound) = config.time.stationary {
        return wrong("time.stationary", "a field that is constant in time, without layers, mix or noise", &bound);
    }
    if space.coordinates == Coordinates::Rescaled {
        let foreign = [
            ("space.placement", space.placement.is_some()),
            ("feed_forward", config.feed_forward.is_some()),
            ("noise", config.noise.is_some()),
            ("layer", !config.layer.is_empty()),
        ];
        if let Some((key, _)) = foreign.iter().find(|(_, given)| *given) {
            let expected = "plain coordinates beside it (z = exp(-tV) x is exact for attention of constant V alone)";
            return Err(inputs.wrong(key, expected, "\"rescaled\""));
        }
    }
    Ok(())
}

/// The layers of heads, with their ends.
pub(super) fn layers(config: &SimulateConfig, d: usize, inputs: &mut Inputs) -> Result<Vec<Layer>, LabError> {
    let end = config.time.end;
    if config.layer.is_empty() {
        if config.head.is_empty() {
            return Err(inputs.wrong("head", "at least one [[head]] table", "none"));
        }
        return Ok(vec![layer(config, "", &config.head, end, d, inputs)?]);
    }
    if config.head != [HeadConfig::default()] {
        return Err(inputs.wrong("layer", "either [[head]] or [[layer]] tables", "both"));
    }
    let count = count(config, d, inputs)?;
    let mut ends = ends(config, count, inputs)?.into_iter();
    let mut layers = Vec::with_capacity(count);
    for (l, written) in config.layer.iter().enumerate() {
        if written.head.is_empty() {
            return Err(inputs.wrong(&format!("layer[{l}].head"), "at least one head", "none"));
        }
        for (copy, end) in ends.by_ref().take(written.count()).enumerate() {
            // Random matrices are drawn by the name of their place.
            let copy = if copy == 0 { String::new() } else { format!("#{copy}") };
            layers.push(layer(config, &format!("layer[{l}]{copy}."), &written.head, end, d, inputs)?);
        }
    }
    Ok(layers)
}

/// How many layers the tables stand for.
fn count(config: &SimulateConfig, d: usize, inputs: &Inputs) -> Result<usize, LabError> {
    let (mut count, mut numbers) = (0_usize, 0_usize);
    for (l, layer) in config.layer.iter().enumerate() {
        let repeat = layer.count();
        // Query, key and value of every head, for both runs.
        numbers = numbers.saturating_add(layer.head.len().saturating_mul(6 * d * d).saturating_mul(repeat));
        count = count.saturating_add(repeat);
        if repeat == 0 || count > MOST_LAYERS || numbers > MOST_NUMBERS {
            let expected = format!("at least 1, and at most {MOST_LAYERS} layers and {MOST_NUMBERS} numbers in all");
            return Err(inputs.wrong(&format!("layer[{l}].repeat"), expected, repeat));
        }
    }
    Ok(count)
}

/// Layers of one run.
const MOST_LAYERS: usize = 1 << 16;
/// Numbers in the matrices of all layers: a gigabyte.
const MOST_NUMBERS: usize = 1 << 27;

fn layer(
    config: &SimulateConfig,
    place: &str,
    written: &[HeadConfig],
    end: f64,
    d: usize,
    inputs: &mut Inputs,
) -> Result<Layer, LabError> {
    let heads = written.iter().enumerate().map(|(h, head)| read_head(&format!("{place}head[{h}]"), head, d, inputs));
    let heads = heads.collect::<Result<Vec<_>, _>>()?;
    let adapted = adapt(&config.lora.0, &heads, place, inputs)?;
    Ok(Layer { end, heads, adapted })
}

/// Until when each layer is in force.
fn ends(config: &SimulateConfig, count: usize, inputs: &Inputs) -> Result<Vec<f64>, LabError> {
    let end = config.time.end;
    if let Some(steps) = config.time.layers
        && !(steps as usize).is_multiple_of(count)
    {
        return Err(inputs.wrong("time.layers", format!("a multiple of the {count} layers"), steps));
    }
    let given: Vec<f64> = config.layer.iter().filter_map(|layer| layer.end).collect();
    if given.is_empty() {
        // The same products as the solver's grid, so that steps land on them.
        let share = end / count as f64;
        return Ok((1..=count).map(|l| if l == count { end } else { share * l as f64 }).collect());
    }
    if let Some(l) = config.layer.iter().position(|layer| layer.repeat.is_some()) {
        let expected = "equal shares of time.end, without `end`, beside `repeat`";
        return Err(inputs.wrong(&format!("layer[{l}].repeat"), expected, format!("end = {given:?}")));
    }
    let increasing = given.windows(2).all(|pair| pair[0] < pair[1]) && given.first().is_some_and(|t| *t > 0.0);
    if given.len() != count || !increasing || given.last() != Some(&end) || config.time.layers.is_some() {
        let expected =
            format!("in all tables or none, increasing, the last equal to time.end = {end}, without time.layers");
        return Err(inputs.wrong("layer.end", expected, format!("{given:?}")));
    }
    Ok(given)
}

/// The linear layer beside attention.
pub(super) fn feed_forward(
    config: &SimulateConfig,
    d: usize,
    inputs: &mut Inputs,
) -> Result<Option<FeedForward>, LabError> {
    let Some((weight, bias)) = weight_and_bias(config, d, inputs)? else { return Ok(None) };
    FeedForward::new(weight, bias).map(Some).map_err(|source| inputs.refused("feed_forward", source))
}

/// W and b of the linear layer.
pub(super) fn weight_and_bias(
    config: &SimulateConfig,
    d: usize,
    inputs: &mut Inputs,
) -> Result<Option<(Matrix, Vec<f64>)>, LabError> {
    let Some(written) = &config.feed_forward else { return Ok(None) };
    let weight = inputs.matrix("feed_forward.weight", &written.weight, Some(d), d)?;
    let bias = written.bias.as_ref().map(|bias| inputs.vector("feed_forward.bias", bias)).transpose()?;
    let bias = bias.unwrap_or_else(|| vec![0.0; d]);
    if bias.len() != d {
        return Err(inputs.wrong("feed_forward.bias", format!("{d} numbers"), bias.len()));
    }
    Ok(Some((weight, bias)))
}

/// Noise, which needs Euler steps of one length, and times on their grid.
pub(super) fn noise(
    config: &SimulateConfig,
    solver: &SolverOptions,
    times: &[f64],
    inputs: &Inputs,
) -> Result<Option<Noise>, LabError> {
    let Some(written) = &config.noise else { return Ok(None) };
    let (StepSize::Fixed(step), Method::Euler) = (solver.step, solver.method) else {
        let expected = "\"euler\" with dt beside [noise] (Euler-Maruyama)";
        return Err(inputs.wrong("time.method", expected, solver.method.name()));
    };
    let on_grid = |t: f64| (t / step - (t / step).round()).abs() < 1e-6;
    let cuts = config.layer.iter().filter_map(|layer| layer.end).chain(config.space.mix_until);
    if let Some(t) = times.iter().copied().chain(cuts).find(|t| !on_grid(*t)) {
        let expected = format!("end, saved times and cuts on the grid of dt = {step} beside [noise]");
        return Err(inputs.wrong("time", expected, format!("t = {t}")));
    }
    Noise::new(written.temperature, step, config.seed).map(Some).map_err(|source| inputs.refused("noise", source))
}
