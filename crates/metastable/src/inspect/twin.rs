//! The same text through the base model and through the adapted one: how far, which way, and where the clouds part.

use std::path::{Path, PathBuf};

use metastable_dynamics::measure::transport;
use metastable_dynamics::observe::{BracketedTime, leading_direction};
use metastable_dynamics::{Head, Tokens};
use metastable_model::lora::{self, Adapter, Strictness};
use metastable_model::{Encoded, Hidden, Input, Model};
use rayon::prelude::*;
use serde::Serialize;

use super::drift::{LayerDrift, Level};
use crate::adapter::{self, ModuleRow};
use crate::error::LabError;
use crate::hub::{Role, cached};
use crate::observables::{ClusterHistory, Series};
use crate::report::ClusterSummary;

/// Exact W2 costs up to O(n³) a level.
pub(super) const MOST_TOKENS_FOR_TRANSPORT: usize = 1024;

/// What stands before the names of an adapter's files in a report's provenance.
pub(super) const ADAPTER_FILES: &str = "adapter/";

/// What a face asks about an adapter.
#[derive(Debug, Clone)]
pub struct AdapterRequest {
    /// The adapter's folder or file, or its name in the Hub's local cache.
    pub adapter: PathBuf,
    /// Whether findings are tolerated.
    pub strictness: Strictness,
    /// Factors on the adapter's scale to be tried as well; none to skip the sweep.
    pub scale_sweep: Vec<f64>,
}

impl AdapterRequest {
    fn open(&self, strictness: Strictness) -> Result<Adapter, LabError> {
        Ok(Adapter::open(&cached(&self.adapter, Role::Adapter)?, strictness)?)
    }
}

/// The adapted model and its hidden states.
pub(super) struct Adapted {
    pub(super) path: String,
    pub(super) model: Model,
    pub(super) hidden: Hidden,
    pub(super) applied: usize,
    pub(super) notes: Vec<String>,
    pub(super) module_rows: Vec<ModuleRow>,
    pub(super) sweep: Vec<(f64, Hidden)>,
}

/// What an adapter did to a text.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    /// The adapter as given.
    pub adapter: String,
    /// Modules that found their map.
    pub modules: usize,
    /// What was left aside.
    pub notes: Vec<String>,
    /// What the numbers mean.
    pub definitions: Vec<&'static str>,
    /// A row a level.
    pub layers: Vec<AdapterLayer>,
    /// The first level at which some token is in another cluster, and the level before.
    pub departure: BracketedTime,
    /// A row a head of the analysed blocks.
    pub heads: Vec<AdapterHead>,
    /// A row a module, as `adapter info` measures it.
    pub module_rows: Vec<ModuleRow>,
    /// A row a factor on the scale, smallest first.
    pub scale_sweep: Vec<SweepRow>,
    /// The smallest factor > 0 at which some token of the last level is in another cluster, and the factor before; the base
    /// model is factor 0.
    pub bifurcation: BracketedTime,
    /// What it amounts to, in words with numbers.
    pub verdict: String,
}

/// One level of both runs; in files, the drift's keys stand beside the others.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterLayer {
    /// How far and which way the tokens moved, and what became of the clusters.
    #[serde(flatten)]
    pub drift: LayerDrift,
    /// Exact W2 between the clouds of normalised tokens; null beyond 1024 tokens.
    pub wasserstein2: Option<f64>,
    /// Energy of the adapted run.
    pub energy: Option<f64>,
    /// Its difference from the base run's.
    pub energy_change: Option<f64>,
    /// How the steepness of the attention that made the level changed; null where the base has no constant.
    pub lipschitz_change: Option<LipschitzChange>,
}

/// The local Lipschitz constant of the attention of one block, before and after the adapter, each at its own tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LipschitzChange {
    /// Of the base model at the base run's tokens; the numbers of [`LipschitzRow`](super::report::LipschitzRow).
    pub base: ConstantBounds,
    /// Of the adapted model at the adapted run's tokens.
    pub adapted: ConstantBounds,
    /// adapted.lower/base.lower; null over 0.
    pub ratio: Option<f64>,
    /// Whether the intervals \[lower, upper\] do not overlap: the constant itself changed, whatever its value in each.
    pub separated: bool,
}

impl LipschitzChange {
    /// Compares two intervals; one without an upper bound has no end.
    pub(super) fn between(base: ConstantBounds, adapted: ConstantBounds) -> Self {
        let below = |x: ConstantBounds, y: ConstantBounds| x.upper.is_some_and(|upper| upper < y.lower);
        Self {
            base,
            adapted,
            ratio: (base.lower > 0.0).then(|| adapted.lower / base.lower),
            separated: below(base, adapted) || below(adapted, base),
        }
    }
}

/// An interval with a constant inside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ConstantBounds {
    /// A lower value, by Lanczos.
    pub lower: f64,
    /// A proven upper bound.
    pub upper: Option<f64>,
}

/// One head of both models.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterHead {
    /// The block, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// Frobenius norm of the change of QᵀK, relative.
    pub qk_change: f64,
    /// Of W_O W_V.
    pub ov_change: f64,
    /// λ_1 - λ_2 of the symmetric part of W_O W_V; null without a positive eigenvalue, as all that follows.
    pub gap: Option<f64>,
    /// uᵀΔu.
    pub a: Option<f64>,
    /// |PΔu|.
    pub b: Option<f64>,
    /// ‖PΔP‖.
    pub e: Option<f64>,
    /// Whether gap + a > 2|b| + ‖E‖.
    pub stable: Option<bool>,
    /// 2|b|/(gap + a - ‖E‖); null where that is not positive.
    pub tan_double_angle_bound: Option<f64>,
    /// tan 2θ of the angle θ the leading direction really turned by; null beyond 45 degrees.
    pub tan_double_angle: Option<f64>,
    /// How the steepness of the head changed; null where the base has no constant.
    pub lipschitz_change: Option<LipschitzChange>,
}

/// The last level at another scale.
#[derive(Debug, Clone, Serialize)]
pub struct SweepRow {
    /// The factor on the adapter's scale; 0 is the base model.
    pub factor: f64,
    /// As in [`LayerDrift`], at the last level.
    pub shift_relative: f64,
    /// Likewise.
    pub cosine: f64,
    /// Likewise.
    pub clusters_changed: usize,
    /// Likewise.
    pub n_clusters: usize,
    /// The first level with a token in another cluster.
    pub departure: BracketedTime,
}

/// The adapted run in the layout that the page draws twins from; distances are those of normalised tokens.
#[derive(Debug, Clone, Serialize)]
pub struct LayerTwin {
    /// Its clusters at the last level.
    pub clusters: ClusterSummary,
    /// Its observables.
    pub series: Series,
    /// Its clusters over the levels.
    pub cluster_history: ClusterHistory,
    /// The level at which the clouds part.
    pub departure_time: BracketedTime,
    /// Largest distance of a token from its twin over all levels.
    pub max_distance: Option<f64>,
    /// max and rms over tokens.
    pub paired_distance: crate::simulate::report::PairedSeries,
    /// Exact W2 over the levels.
    pub wasserstein2: Vec<Option<f64>>,
}

const DEFINITIONS: [&str; 6] = [
    "shift_relative: ‖X̃ - X‖_F/‖X‖_F of all tokens of a level; cosine: mean over tokens of cos(x_i, x̃_i).",
    "clusters_changed: n minus the tokens in matched clusters, clusters matched by largest overlap first; clusters are \
     those of the base report.",
    "Departure: the first level with clusters_changed > 0, bracketed by the level before.",
    "wasserstein2 and twin distances: between tokens normalised to the unit sphere, where clusters live.",
    "Heads: gap + a > 2|b| + ‖E‖ of the symmetric part of W_O W_V, and tan 2θ <= 2|b|/(gap + a - ‖E‖); a theorem for \
     symmetric heads, an indication for real ones.",
    "lipschitz_change: the local constant of the attention that made the level, or of one head, of the base model at the \
     base tokens and of the adapted model at its own tokens, each in [lower, upper]; separated: the intervals do not overlap.",
];

/// An adapter that fits the model, before anything is run.
pub(super) struct Attached {
    request: AdapterRequest,
    adapter: Adapter,
    adapted: lora::Adapted,
}

impl Attached {
    /// Reads the adapter and puts it on the model.
    pub(super) fn of(model: &Model, request: &AdapterRequest) -> Result<Self, LabError> {
        if let Some(factor) = request.scale_sweep.iter().find(|factor| !factor.is_finite()) {
            return Err(LabError::Setting {
                name: "--scale-sweep".into(),
                expected: "finite numbers".into(),
                found: factor.to_string(),
            });
        }
        let adapter = request.open(request.strictness)?;
        let adapted = model.with_adapter(&adapter, request.strictness)?;
        Ok(Self { request: request.clone(), adapter, adapted })
    }
}

impl Adapted {
    /// Runs the text through the adapted model, and once for each factor of the sweep.
    pub(super) fn run(model: &Model, attached: Attached, encoded: &Encoded) -> Result<Self, LabError> {
        let Attached { request, adapter: opened, adapted } = attached;
        let input = Input::from(encoded);
        let hidden = adapted.model.forward(&input)?;
        let mut sweep = Vec::new();
        for factor in &request.scale_sweep {
            let scaled = model.with_adapter(&opened.scaled(*factor), request.strictness)?;
            sweep.push((*factor, scaled.model.forward(&input)?));
        }
        let module_rows = adapter::info(&request.adapter, None)?.modules;
        let path = request.adapter.display().to_string();
        let lora::Adapted { model, applied, notes, .. } = adapted;
        Ok(Self { path, model, hidden, applied, notes, module_rows, sweep })
    }

    /// The adapter's files, for provenance.
    pub(super) fn files(request: &AdapterRequest) -> Result<Vec<(String, PathBuf)>, LabError> {
        let adapter = request.open(Strictness::Partial)?;
        let folder = adapter.folder();
        let names = ["adapter_config.json", "adapter_model.safetensors", "adapters.safetensors"];
        let inside = names.iter().map(|name| (format!("{ADAPTER_FILES}{name}"), folder.join(name)));
        let single = std::iter::once((format!("{ADAPTER_FILES}{}", name_of(folder)), folder.to_owned()));
        Ok(inside.chain(single).filter(|(_, file)| file.is_file()).collect())
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Levels of both runs compared, and distances for the page.
pub(super) struct Compared {
    pub(super) layers: Vec<AdapterLayer>,
    pub(super) departure: BracketedTime,
    pub(super) paired: crate::simulate::report::PairedSeries,
}

/// Compares all levels of two runs; `energies` are [base, adapted] by level. O(L (n² d + n³)).
pub(super) fn compare(
    base: &[Tokens],
    adapted: &[Tokens],
    energies: [&[Option<f64>]; 2],
    radius: f64,
) -> Result<Compared, LabError> {
    let rows: Vec<(AdapterLayer, f64, f64)> = base
        .par_iter()
        .zip(adapted)
        .enumerate()
        .map(|(index, (x, y))| {
            let level = Level::of(index, x.view(), y.view(), radius)?;
            let transport = x.count() <= MOST_TOKENS_FOR_TRANSPORT;
            let (u, v) = (level.base.view(), level.adapted.view());
            let wasserstein2 = if transport { Some(transport::wasserstein2(u, v)?.distance) } else { None };
            let paired = transport::paired(u, v)?;
            let energy = energies[1].get(index).copied().flatten();
            let before = energies[0].get(index).copied().flatten();
            let energy_change = energy.zip(before).map(|(after, before)| after - before);
            let row = AdapterLayer { drift: level.drift, wasserstein2, energy, energy_change, lipschitz_change: None };
            Ok((row, paired.max, paired.rms))
        })
        .collect::<Result<_, LabError>>()?;
    let paired = crate::simulate::report::PairedSeries {
        max: rows.iter().map(|(_, max, _)| Some(*max)).collect(),
        rms: rows.iter().map(|(_, _, rms)| Some(*rms)).collect(),
    };
    let layers: Vec<AdapterLayer> = rows.into_iter().map(|(row, _, _)| row).collect();
    Ok(Compared {
        departure: first_change(layers.iter().map(|row| (row.drift.index as f64, row.drift.clusters_changed))),
        layers,
        paired,
    })
}

/// Where clusters of the last level first change as the scale grows from the base model's 0.
fn bifurcation(sweep: &[SweepRow]) -> BracketedTime {
    let grown = sweep.iter().filter(|row| row.factor > 0.0).map(|row| (row.factor, row.clusters_changed));
    first_change(std::iter::once((0.0, 0)).chain(grown))
}

/// The first place with a change, bracketed by the place before (the same place if there is none).
fn first_change(places: impl Iterator<Item = (f64, usize)>) -> BracketedTime {
    let mut before = None;
    for (place, changed) in places {
        if changed > 0 {
            return BracketedTime::between(before.unwrap_or(place), place);
        }
        before = Some(place);
    }
    BracketedTime::default()
}

/// The heads of the analysed blocks, base against adapted.
fn heads(base: &Model, adapted: &Model, layers: &[usize]) -> Result<Vec<AdapterHead>, LabError> {
    let mut rows = Vec::new();
    for &layer in layers {
        let pairs: Vec<(Head, Head)> =
            base.head_matrices(layer)?.into_iter().zip(adapted.head_matrices(layer)?).collect();
        let found: Vec<AdapterHead> = pairs
            .par_iter()
            .enumerate()
            .map(|(head, (before, after))| head_row(layer, head, before, after))
            .collect::<Result<_, LabError>>()?;
        rows.extend(found);
    }
    Ok(rows)
}

fn head_row(layer: usize, head: usize, before: &Head, after: &Head) -> Result<AdapterHead, LabError> {
    use metastable_dynamics::balance::LowRankPair;
    let qk = |head: &Head| LowRankPair::new(head.key().clone(), head.query().transpose());
    let ov = |head: &Head| {
        let output =
            head.output().cloned().unwrap_or_else(|| metastable_dynamics::Matrix::scaled_identity(head.dim(), 1.0));
        LowRankPair::new(head.value().clone(), output)
    };
    let change = |before: LowRankPair, after: LowRankPair| -> Result<f64, LabError> {
        let size = before.spectrum()?.iter().map(|s| s * s).sum::<f64>().sqrt();
        Ok(if size > 0.0 { before.product_distance(&after)? / size } else { 0.0 })
    };
    let found = leading_direction(before, after)?;
    let tangent = found.filter(|found| found.angle < std::f64::consts::FRAC_PI_4);
    Ok(AdapterHead {
        layer,
        head,
        qk_change: change(qk(before)?, qk(after)?)?,
        ov_change: change(ov(before)?, ov(after)?)?,
        gap: found.map(|found| found.gap),
        a: found.map(|found| found.a),
        b: found.map(|found| found.b),
        e: found.map(|found| found.e),
        stable: found.map(|found| found.holds),
        tan_double_angle_bound: found.and_then(|found| found.tan_double_angle_bound),
        tan_double_angle: tangent.map(|found| (2.0 * found.angle).tan()),
        lipschitz_change: None,
    })
}

/// Everything about the adapter but what the page draws.
pub(super) fn report(
    model: &Model,
    base: &[Tokens],
    adapted: &Adapted,
    compared: &Compared,
    layers: &[usize],
    radius: f64,
) -> Result<AdapterReport, LabError> {
    let mut scale_sweep = Vec::new();
    for (factor, hidden) in &adapted.sweep {
        let other = compare(base, &hidden.trajectory()?, [&[], &[]], radius)?;
        if let Some(AdapterLayer { drift: last, .. }) = other.layers.last() {
            scale_sweep.push(SweepRow {
                factor: *factor,
                shift_relative: last.shift_relative,
                cosine: last.cosine,
                clusters_changed: last.clusters_changed,
                n_clusters: last.n_clusters,
                departure: other.departure,
            });
        }
    }
    let heads = heads(model, &adapted.model, layers)?;
    scale_sweep.sort_by(|x, y| x.factor.total_cmp(&y.factor));
    let bifurcation = bifurcation(&scale_sweep);
    Ok(AdapterReport {
        adapter: adapted.path.clone(),
        modules: adapted.applied,
        notes: adapted.notes.clone(),
        definitions: DEFINITIONS.into(),
        verdict: String::new(),
        layers: compared.layers.clone(),
        departure: compared.departure,
        heads,
        module_rows: adapted.module_rows.clone(),
        scale_sweep,
        bifurcation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_bracketed_by_the_place_before() {
        let found = first_change([(0.0, 0), (1.0, 0), (2.0, 3), (3.0, 0)].into_iter());
        assert_eq!((found.value, found.bracket), (Some(2.0), Some([1.0, 2.0])));
        assert_eq!(first_change([(0.0, 0)].into_iter()), BracketedTime::default());
        assert_eq!(first_change([(0.0, 1)].into_iter()).bracket, Some([0.0, 0.0]));
    }

    #[test]
    fn a_bifurcation_lies_above_the_last_factor_without_a_change() {
        let row = |(factor, clusters_changed): (f64, usize)| SweepRow {
            factor,
            clusters_changed,
            shift_relative: 0.0,
            cosine: 1.0,
            n_clusters: 1,
            departure: BracketedTime::default(),
        };
        let found = |rows: &[(f64, usize)]| {
            let sweep: Vec<SweepRow> = rows.iter().copied().map(row).collect();
            bifurcation(&sweep).bracket
        };
        assert_eq!(found(&[(0.5, 0), (1.0, 2), (2.0, 0)]), Some([0.5, 1.0]));
        // The base model is factor 0, tried or not; what happens below it is another branch.
        assert_eq!(found(&[(-1.0, 3), (1.0, 2)]), Some([0.0, 1.0]));
        assert_eq!(found(&[(-1.0, 3), (1.0, 0)]), None);
    }
}
