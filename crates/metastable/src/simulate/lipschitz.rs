//! The local Lipschitz constant of a config's attention at its tokens, enclosed from both sides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use metastable_dynamics::Head;
use metastable_dynamics::smoothness::{LogBound, TwoSided, TwoSidedOptions, lipschitz};
use serde::Serialize;

use super::meant::Simulation;
use crate::arrays::{Tensor, TensorData, npy_bytes, safetensors_bytes};
use crate::error::LabError;
use crate::run_dir::write_file;
use crate::table::{Column, Table};

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct LipschitzRequest {
    /// The config file.
    pub config: PathBuf,
    /// `--set key=value` overrides.
    pub overrides: Vec<String>,
    /// Overrides the config's seed, which also starts Lanczos.
    pub seed: Option<u64>,
    /// Where to write the singular vectors, `.safetensors` or `.npy`.
    pub singular_vector: Option<PathBuf>,
}

/// lower ≤ ‖D_X f‖_2 ≤ upper for f(X) = Σ_h W_h P^h X V_hᵀ, residual not included.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LipschitzReport {
    /// The largest singular value found; proven from below.
    pub lower: f64,
    /// The least proven bound; null for a kernel without one, or beyond f64 (then see `ln_upper`).
    pub upper: Option<f64>,
    /// Its logarithm.
    pub ln_upper: Option<f64>,
    /// Which bound `upper` is.
    pub upper_from: Option<&'static str>,
    /// How `lower` was found.
    pub method: &'static str,
    /// Steps, each one product with the Jacobian and one with its transpose.
    pub iterations: usize,
    /// ‖Jᵀu - lower·v‖ / lower.
    pub residual: f64,
    /// Whether the residual is within the tolerance.
    pub converged: bool,
    /// Proven upper bounds; null beyond f64 and where none is known.
    pub bounds: Bounds,
    /// Their logarithms.
    pub ln_bounds: Bounds,
    /// Further upper bounds.
    pub more_bounds: MoreBounds,
    /// Their logarithms.
    pub ln_more_bounds: MoreBounds,
    /// An estimate, not a proof.
    pub probable_upper: Option<ProbableUpper>,
    /// What each number is.
    pub status: BTreeMap<&'static str, &'static str>,
    /// R = max |x_i|, the radius of the ball of `a_priori`.
    pub radius: f64,
    /// The same under the LoRA adapter of the config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Box<LipschitzReport>>,
}

/// Proven upper bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bounds {
    /// Value, query and key path bounded apart.
    pub three_term: Option<f64>,
    /// The norm of the matrix of block norms.
    pub block_norm: Option<f64>,
    /// The Frobenius norm of the Jacobian.
    pub frobenius: Option<f64>,
    /// For all clouds of n tokens in the ball.
    pub a_priori: Option<f64>,
}

/// Further upper bounds: `dense` at these tokens, the others on the ball.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MoreBounds {
    /// By a singular value decomposition of the whole Jacobian, where that is small.
    pub dense: Option<f64>,
    /// √3 ‖V‖ (‖A‖² R⁴ (4n + 1) + n)^{1/2}.
    pub general: Option<f64>,
    /// For any number of tokens.
    pub mean_field: Option<f64>,
}

/// Above the constant, except with a small probability over the random start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProbableUpper {
    /// The value.
    pub value: f64,
    /// The probability.
    pub failure_probability: f64,
}

/// Encloses the constant at the tokens of a config, and writes the singular vectors if asked to.
///
/// # Errors
/// [`LabError`] naming file, key or flag; nothing is written then.
pub fn run(request: &LipschitzRequest) -> Result<LipschitzReport, LabError> {
    let format = request.singular_vector.as_deref().map(VectorFormat::of).transpose()?;
    let simulation = load(request)?;
    let mut options = TwoSidedOptions::default();
    options.lanczos.seed = simulation.config.seed;
    let solve = |heads: &[Head]| lipschitz(heads, &simulation.kernel, simulation.tokens.view(), &options);
    let base = solve(&simulation.heads)?;
    let twin = simulation.adapted.as_deref().map(solve).transpose()?;
    if let (Some(file), Some(format)) = (&request.singular_vector, format) {
        write_file(file, &format.bytes(&simulation, &base, twin.as_ref()))?;
    }
    let failure = options.failure_probability;
    let lora = twin.map(|twin| Box::new(LipschitzReport::new(&twin, failure)));
    Ok(LipschitzReport { lora, ..LipschitzReport::new(&base, failure) })
}

/// The config; it needs no times, as nothing moves.
fn load(request: &LipschitzRequest) -> Result<Simulation, LabError> {
    let read = |overrides: &[String]| super::load(&request.config, overrides, request.seed);
    match read(&request.overrides) {
        Err(LabError::MissingKey { missing, .. }) if missing == "time" => {
            let overrides: Vec<String> = request.overrides.iter().cloned().chain(["time.end=1".into()]).collect();
            read(&overrides)
        }
        other => other,
    }
}

impl LipschitzReport {
    fn new(found: &TwoSided, failure_probability: f64) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        let (at, ball) = (found.certificates, found.a_priori);
        let of_ball = |pick: &dyn Fn(LogBound) -> f64| {
            let general = ball.and_then(|ball| ball.general).map(pick).and_then(finite);
            let mean_field = ball.and_then(|ball| ball.mean_field).map(pick).and_then(finite);
            (ball.map(|ball| pick(ball.unified)).and_then(finite), general, mean_field)
        };
        let bounds = |convert: &dyn Fn(f64) -> f64, pick: &dyn Fn(LogBound) -> f64| {
            let (a_priori, general, mean_field) = of_ball(pick);
            let bounds = Bounds {
                three_term: at.map(|at| convert(at.three_term)).and_then(finite),
                block_norm: at.map(|at| convert(at.block_norm)).and_then(finite),
                frobenius: at.map(|at| convert(at.frobenius)).and_then(finite),
                a_priori,
            };
            (bounds, MoreBounds { dense: found.dense.map(convert).and_then(finite), general, mean_field })
        };
        let (plain, more) = bounds(&|value| value, &LogBound::value);
        let (logarithms, more_logarithms) = bounds(&f64::ln, &|bound| bound.ln);
        Self {
            lower: found.lower(),
            upper: found.upper.and_then(|upper| finite(upper.value)),
            ln_upper: found.upper.and_then(|upper| finite(upper.ln)),
            upper_from: found.upper.map(|upper| upper.which),
            method: "golub_kahan_lanczos",
            iterations: found.triplet.steps,
            residual: found.triplet.residual,
            converged: found.triplet.converged,
            bounds: plain,
            ln_bounds: logarithms,
            more_bounds: more,
            ln_more_bounds: more_logarithms,
            probable_upper: found.probable_upper.map(|value| ProbableUpper { value, failure_probability }),
            status: STATUS.into_iter().collect(),
            radius: found.radius,
            lora: None,
        }
    }

    /// The numbers as rows: name, value, ln, status.
    ///
    /// # Errors
    /// [`LabError::Column`] never happens: all columns have one entry a row.
    pub fn table(&self) -> Result<Table, LabError> {
        let mut rows: Vec<(String, Option<f64>, Option<f64>)> = Vec::new();
        for (suffix, report) in [("", Some(self)), (" (lora)", self.lora.as_deref())] {
            let Some(report) = report else { continue };
            let mut row = |name: &str, value, ln| rows.push((format!("{name}{suffix}"), value, ln));
            let ln_of = |value: f64| (value > 0.0).then(|| value.ln());
            row("lower", Some(report.lower), ln_of(report.lower));
            row("upper", report.upper, report.ln_upper);
            let (b, l, m, k) = (report.bounds, report.ln_bounds, report.more_bounds, report.ln_more_bounds);
            row("three_term", b.three_term, l.three_term);
            row("block_norm", b.block_norm, l.block_norm);
            row("frobenius", b.frobenius, l.frobenius);
            row("a_priori", b.a_priori, l.a_priori);
            row("dense", m.dense, k.dense);
            row("general", m.general, k.general);
            row("mean_field", m.mean_field, k.mean_field);
            let probable = report.probable_upper.map(|probable| probable.value);
            row("probable_upper", probable, probable.and_then(ln_of));
        }
        let status = |name: &str| {
            let plain = name.trim_end_matches(" (lora)");
            STATUS.iter().find(|(key, _)| *key == plain).map_or("", |(_, status)| status).to_owned()
        };
        let mut table = Table::new("lipschitz");
        table.push("name", Column::Text(rows.iter().map(|row| row.0.clone()).collect()))?;
        table.push("value", Column::Float(rows.iter().map(|row| row.1).collect()))?;
        table.push("ln", Column::Float(rows.iter().map(|row| row.2).collect()))?;
        table.push("status", Column::Text(rows.iter().map(|row| status(&row.0)).collect()))?;
        Ok(table)
    }
}

/// What each number is: "proven" up to rounding, or "estimate".
const STATUS: [(&str, &str); 10] = [
    ("lower", "proven"),
    ("upper", "proven"),
    ("three_term", "proven"),
    ("block_norm", "proven"),
    ("frobenius", "proven"),
    ("a_priori", "proven"),
    ("dense", "proven"),
    ("general", "proven"),
    ("mean_field", "proven"),
    ("probable_upper", "estimate"),
];

/// How singular vectors are written.
#[derive(Debug, Clone, Copy)]
enum VectorFormat {
    /// `right`, `left` [n, d], `singular_value` [1]; under an adapter also `right_lora` and so on.
    Safetensors,
    /// The right one, [n, d].
    Npy,
}

impl VectorFormat {
    fn of(file: &Path) -> Result<Self, LabError> {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("npy") => Ok(Self::Npy),
            _ => Err(LabError::Setting {
                name: "--singular-vector".into(),
                expected: "a file ending in .safetensors or .npy".into(),
                found: file.display().to_string(),
            }),
        }
    }

    fn bytes(self, simulation: &Simulation, base: &TwoSided, twin: Option<&TwoSided>) -> Vec<u8> {
        let shape = [simulation.tokens.count(), simulation.tokens.dim()];
        if let Self::Npy = self {
            return npy_bytes(&shape, &base.triplet.right);
        }
        let runs: Vec<(&str, &TwoSided)> = [("", base)].into_iter().chain(twin.map(|twin| ("_lora", twin))).collect();
        let values: Vec<[f64; 1]> = runs.iter().map(|(_, run)| [run.lower()]).collect();
        let mut tensors = Vec::new();
        for ((suffix, run), value) in runs.iter().zip(&values) {
            let name = |name: &str| format!("{name}{suffix}");
            tensors.push((name("right"), shape.to_vec(), &run.triplet.right[..]));
            tensors.push((name("left"), shape.to_vec(), &run.triplet.left[..]));
            tensors.push((name("singular_value"), vec![1], &value[..]));
        }
        let tensors: Vec<Tensor> =
            tensors.iter().map(|(name, shape, values)| Tensor::new(name, shape, TensorData::F64(values))).collect();
        safetensors_bytes(&tensors, &BTreeMap::new())
    }
}
