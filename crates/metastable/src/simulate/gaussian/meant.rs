//! A Gaussian run as it is meant: files read, shapes checked, the kernel asked whether it keeps Gaussians.

use std::path::{Path, PathBuf};

use metastable_dynamics::attention::AttentionKernel;
use metastable_dynamics::field::{GaussianFlow, GaussianKernel};
use metastable_dynamics::measure::Gaussian;
use metastable_dynamics::solver::{Method, SolverOptions};
use metastable_dynamics::{DynamicsError, Head};

use super::grid;
use super::particles::{self, Particles};
use super::written::GaussianConfig;
use crate::error::LabError;
use crate::simulate::forms::MatrixConfig;
use crate::simulate::inputs::Inputs;
use crate::simulate::written::{Coordinates, GeometryName, PlacementName, Precision, SimulateConfig, TimeConfig};
use crate::simulate::{depth, kernel, meant};

/// Relative tolerance of mean and covariance where the config gives none.
pub const DEFAULT_RTOL: f64 = 1e-12;
/// Absolute tolerance where the config gives none.
pub const DEFAULT_ATOL: f64 = 1e-14;
/// Larger matrices are refused: a state has d² numbers and a step costs d³.
const LARGEST_DIM: usize = 1024;

/// A validated Gaussian run.
#[derive(Debug)]
pub struct GaussianSimulation {
    /// The config as resolved: title, seed, method and tolerances filled in.
    pub config: SimulateConfig,
    /// N(mean, covariance) at time 0.
    pub start: Gaussian,
    /// The heads of the base run.
    pub heads: Vec<Head>,
    /// The heads of the twin, if any update was given.
    pub adapted: Option<Vec<Head>>,
    /// The kernel in its Gaussian form.
    pub kernel: GaussianKernel,
    /// The kernel of particles.
    pub attention: AttentionKernel,
    /// More starts of the base flow.
    pub family: Vec<Gaussian>,
    /// Particles beside the moments.
    pub particles: Option<Particles>,
    /// Times to save, the first is 0.
    pub times: Vec<f64>,
    /// How to integrate.
    pub solver: SolverOptions,
    /// Files that were read, by the names that the config gives them.
    pub inputs: Vec<(String, PathBuf)>,
    feed_forward: Option<(metastable_dynamics::Matrix, Vec<f64>)>,
    noise: f64,
}

impl GaussianSimulation {
    /// Validates a written config; relative files are looked up in the folder of `file`, which errors name.
    ///
    /// # Errors
    /// [`LabError`] naming the key and what was expected; file errors naming the file.
    pub fn new(mut config: SimulateConfig, file: &Path) -> Result<Self, LabError> {
        if config.title.is_none() {
            config.title = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        }
        let mut inputs = Inputs::new(file).with_seed(config.seed);
        let written = config.gaussian.clone().ok_or_else(|| inputs.missing("gaussian"))?;
        refuse_moved_keys(&written, &inputs)?;
        refuse_particles_only(&config, &inputs)?;
        super::still::check(written.still.as_ref(), &inputs)?;
        let start = start(&written, &mut inputs)?;
        let d = start.dim();
        let heads = meant::read_heads(&config.head, d, &mut inputs)?;
        let adapted = meant::adapt(&config.lora.0, &heads, "", &mut inputs)?;
        let feed_forward = depth::weight_and_bias(&config, d, &mut inputs)?;
        let noise = noise(&config, &inputs)?;
        let family = grid::starts(written.grid, d, &inputs)?;
        let times = meant::times(&config.time, (d + d * d) * (1 + family.len()), &inputs)?;
        fill_tolerances(&mut config.time);
        let solver = meant::solver(&config.time, config.precision, &inputs)?;
        let attention = kernel::kernel(&config.kernel, &solver, &inputs)?;
        let kernel = gaussian_kernel(&attention, &inputs)?;
        let particles =
            particles::meant(&written, &start, config.seed, feed_forward.is_some() || noise > 0.0, &inputs)?;
        let inputs_read = inputs.files();
        let simulation = Self {
            config,
            start,
            heads,
            adapted,
            kernel,
            attention,
            family,
            particles,
            times,
            solver,
            inputs: inputs_read,
            feed_forward,
            noise,
        };
        for heads in std::iter::once(&simulation.heads).chain(&simulation.adapted) {
            simulation.require_finite_start(heads, &inputs)?;
        }
        Ok(simulation)
    }

    /// The flow from `start` under `heads`.
    ///
    /// # Errors
    /// [`DynamicsError`] if heads, kernel and start do not fit together.
    pub fn flow(&self, heads: &[Head], start: &Gaussian) -> Result<GaussianFlow, DynamicsError> {
        let flow = GaussianFlow::new(heads.to_vec(), self.kernel, start)?;
        let flow = match &self.feed_forward {
            Some((weight, bias)) => flow.with_feed_forward(weight.clone(), bias.clone())?,
            None => flow,
        };
        flow.with_noise(self.noise)
    }

    /// Scores and values whose products overflow are said at the door, not met as a blow-up at time 0.
    fn require_finite_start(&self, heads: &[Head], inputs: &Inputs) -> Result<(), LabError> {
        let flow = self.flow(heads, &self.start).map_err(|source| inputs.refused("gaussian", source))?;
        flow.moment_velocity(&self.start).map(|_| ()).map_err(|source| match source {
            DynamicsError::NotFinite { .. } | DynamicsError::Decomposition { .. } => inputs.wrong(
                "kernel.beta",
                "scores and values whose products with the covariance are finite",
                format!("beta = {:?}, with which the velocity overflows at time 0", self.config.kernel.beta),
            ),
            other => inputs.refused("gaussian", other),
        })
    }
}

/// Keys that tokens and Gaussians share stand at the top level.
fn refuse_moved_keys(written: &GaussianConfig, inputs: &Inputs) -> Result<(), LabError> {
    if written.feed_forward.is_some() {
        let expected = "[feed_forward] at the top level, with the same keys";
        return Err(inputs.wrong("gaussian.feed_forward", expected, "it in [gaussian]"));
    }
    if written.noise.is_some() {
        let expected = "[noise] at the top level, with the key `temperature`";
        return Err(inputs.wrong("gaussian.noise", expected, "it in [gaussian]"));
    }
    Ok(())
}

/// What belongs to particles alone.
fn refuse_particles_only(config: &SimulateConfig, inputs: &Inputs) -> Result<(), LabError> {
    if !config.tokens.is_absent() {
        return Err(inputs.wrong("gaussian", "either [tokens] or [gaussian]", "both"));
    }
    if config.space.geometry == GeometryName::Sphere {
        let found = "\"sphere\": the normalised tokens of a Gaussian are not Gaussian";
        return Err(inputs.wrong("space.geometry", "\"euclidean\" for a Gaussian", found));
    }
    if config.space.coordinates == Coordinates::Rescaled {
        return Err(inputs.wrong("space.coordinates", "\"plain\" for a Gaussian", "\"rescaled\""));
    }
    if config.precision == Precision::F32 {
        return Err(inputs.wrong("precision", "\"f64\" for a Gaussian, whose field has no sum over tokens", "\"f32\""));
    }
    let others = [
        ("space.placement", config.space.placement.is_some_and(|name| name != PlacementName::None)),
        ("layer", !config.layer.is_empty()),
    ];
    if let Some((key, _)) = others.iter().find(|(_, given)| *given) {
        return Err(inputs.wrong(key, "none beside [gaussian]", "one"));
    }
    if config.observe.cascade == Some(true) {
        return Err(inputs.wrong("observe.cascade", "false for a Gaussian, which has no clusters", true));
    }
    Ok(())
}

/// Mean and covariance.
fn start(written: &GaussianConfig, inputs: &mut Inputs) -> Result<Gaussian, LabError> {
    let mean = written.mean.as_ref().map(|mean| inputs.vector("gaussian.mean", mean)).transpose()?;
    let d = dim(written, mean.as_deref(), inputs)?;
    let mean = mean.unwrap_or_else(|| vec![0.0; d]);
    let half = MatrixConfig::Scalar(0.5);
    let covariance = match (&written.covariance, written.grid) {
        (Some(covariance), _) => covariance,
        (None, Some(_)) => &half,
        (None, None) => {
            let expected = "\"identity\", or another [d, d] matrix, inline or in a file";
            return Err(inputs.wrong("gaussian.covariance", expected, "none"));
        }
    };
    let covariance = inputs.matrix("gaussian.covariance", covariance, Some(d), d)?;
    Gaussian::new(mean, covariance).map_err(|source| match source {
        DynamicsError::Domain { expected, found, .. } => inputs.wrong("gaussian.covariance", expected, found),
        other => inputs.refused("gaussian.covariance", other),
    })
}

/// The dimension: the mean's, else the covariance's, else the key's, else that of the grid.
fn dim(written: &GaussianConfig, mean: Option<&[f64]>, inputs: &mut Inputs) -> Result<usize, LabError> {
    let rows = match &written.covariance {
        Some(MatrixConfig::Rows(rows)) => Some(rows.len()),
        Some(MatrixConfig::Random(law)) if law.shape.is_some() => Some(law.rows(0)),
        Some(MatrixConfig::File(file, tensor)) => inputs.array(file, tensor.as_deref())?.1.shape().first().copied(),
        _ => None,
    };
    let known = mean.map(<[f64]>::len).or(rows);
    if let (Some(known), Some(d)) = (known, written.d)
        && known != d
    {
        return Err(inputs.wrong("gaussian.d", format!("{known}, as the mean or the covariance"), d));
    }
    let d = known.or(written.d).or(written.grid.map(|_| 2));
    match d {
        Some(0) => Err(inputs.wrong("gaussian", "a dimension of at least 1", 0)),
        Some(d) if d > LARGEST_DIM => Err(inputs.wrong("gaussian", format!("a dimension of at most {LARGEST_DIM}"), d)),
        Some(d) => Ok(d),
        None => Err(inputs.wrong("gaussian.d", "the dimension, which neither mean nor covariance tells", "none")),
    }
}

/// The temperature of the noise, zero without.
fn noise(config: &SimulateConfig, inputs: &Inputs) -> Result<f64, LabError> {
    let Some(written) = config.noise else { return Ok(0.0) };
    let tau = written.temperature;
    if !(tau.is_finite() && tau > 0.0) {
        return Err(inputs.wrong("noise.temperature", "a finite number > 0", tau));
    }
    if config.time.layers.is_some() {
        return Err(inputs.wrong("noise", "no noise beside a finite number of layers", tau));
    }
    Ok(tau)
}

/// The Gaussian form of the kernel, or why there is none.
fn gaussian_kernel(attention: &AttentionKernel, inputs: &Inputs) -> Result<GaussianKernel, LabError> {
    let kernel = GaussianKernel::of(attention).map_err(|source| match source {
        DynamicsError::NoGaussianClosure { kernel, reason } => {
            let key = if kernel == "causal" { "kernel.mask" } else { "kernel.normalization" };
            let found = format!("{kernel} attention: {reason}");
            inputs.wrong(key, "a kernel under which a Gaussian stays Gaussian", found)
        }
        other => inputs.refused("kernel", other),
    })?;
    if matches!(kernel, GaussianKernel::SquaredDistance { beta } if beta < 0.0) {
        return Err(inputs.wrong("kernel.beta", "a number >= 0 for squared distances", kernel.beta()));
    }
    Ok(kernel)
}

/// Moments are cheap, so they are followed to the last digits unless the config says otherwise.
fn fill_tolerances(time: &mut TimeConfig) {
    if time.layers.is_some() || time.dt.is_some() {
        return;
    }
    let method = *time.method.get_or_insert(Method::Dop853);
    if method.is_adaptive() {
        time.rtol.get_or_insert(DEFAULT_RTOL);
        time.atol.get_or_insert(DEFAULT_ATOL);
    }
}
