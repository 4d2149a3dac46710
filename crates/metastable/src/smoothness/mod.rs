//! How smooth a checkpoint is at a text: constants of layers, of single heads and of all blocks together, from both
//! sides; why; how they grow with the text; how much worse it can get; and what an adapter, coarser weights or other
//! positions change.
//!
//! [`report`] says what comes out and [`rows`] what it is made of, [`compare`] holds two models beside each other,
//! [`worst`] searches.

pub mod compare;
pub mod report;
pub mod rows;
pub mod worst;

use std::path::PathBuf;

use metastable_dynamics::smoothness::LanczosOptions;
use metastable_dynamics::smoothness::scaling::PowerLaw;
use metastable_model::config::Mask;
use metastable_model::smoothness::{LayerHeads, single_precision_lanczos};
use metastable_model::{Encoded, Hidden, Input, LayerPart, Model, Weights};

pub use compare::VariantRequest;
pub use report::ModelLipschitzReport;
use rows::{
    Constant, DepthRow, Growth, GrowthPoint, HeadWhy, LayerRow, LayerWhy, ShareRow, SmoothHeadRow, TokenEnergy,
};
pub use worst::WorstRequest;

use crate::error::LabError;
use crate::hub::HubCache;
use crate::inspect::{TextSource, read_text, setting};
use crate::watch::Watcher;

/// Tokens that are looked at where nobody says how many.
pub const DEFAULT_TOKENS: usize = 256;

/// Tokens that an explanation names.
const NAMED_TOKENS: usize = 5;

/// What a face asks for.
#[derive(Debug, Clone)]
pub struct SmoothnessRequest {
    /// The checkpoint: a folder, a GGUF file, or the name of a Hub model in the local cache.
    pub model: PathBuf,
    /// The text.
    pub text: TextSource,
    /// A limit on the number of tokens; [`DEFAULT_TOKENS`] if absent.
    pub max_tokens: Option<usize>,
    /// Blocks that are looked at; all if empty.
    pub layers: Vec<usize>,
    /// Says why: paths, tokens, sinks, values alone.
    pub explain: bool,
    /// All blocks one after another.
    pub depth: bool,
    /// How constants grow with the text.
    pub growth: bool,
    /// Clouds and tokens that are worse than the text.
    pub worst: Option<WorstRequest>,
    /// What the model is compared with.
    pub variants: Vec<VariantRequest>,
    /// Starts Lanczos.
    pub seed: u64,
}

/// A model with its text.
pub(crate) struct Subject<'a> {
    pub(crate) model: &'a Model,
    pub(crate) encoded: &'a Encoded,
    pub(crate) hidden: &'a Hidden,
    pub(crate) layers: &'a [usize],
    pub(crate) lanczos: &'a LanczosOptions,
}

/// Looks at a checkpoint.
///
/// # Errors
/// [`LabError`] naming the file or flag.
pub fn run(request: &SmoothnessRequest, watcher: &mut dyn Watcher) -> Result<ModelLipschitzReport, LabError> {
    let (text, origin) = read_text(&request.text)?;
    watcher.progress(0.02, "opening the checkpoint");
    let weights = Weights::open(&HubCache::of_environment().resolve(&request.model)?)?;
    let count = weights.summary().layers;
    if let Some(layer) = request.layers.iter().find(|layer| **layer >= count) {
        return Err(setting("--layers", format!("layers below {count}"), layer));
    }
    let layers = if request.layers.is_empty() { (0..count).collect() } else { request.layers.clone() };
    let limit = request.max_tokens.unwrap_or(DEFAULT_TOKENS).min(weights.config().positions);
    let encoded = weights.text()?.encode_at_most(&text, limit)?;
    let model = Model::load(&weights)?;
    drop(weights);
    // All that can be wrong with what is compared is said before anything long begins.
    let variants = request.variants.iter().map(|variant| variant.model(&model)).collect::<Result<Vec<_>, _>>()?;
    if let Some(worst) = &request.worst {
        worst.check(&model, &encoded)?;
    }
    watcher.progress(0.1, "forward pass");
    let hidden = model.forward(&Input::from(&encoded))?;
    let lanczos = LanczosOptions { seed: request.seed, ..single_precision_lanczos() };
    let subject = Subject { model: &model, encoded: &encoded, hidden: &hidden, layers: &layers, lanczos: &lanczos };
    let mut report = ModelLipschitzReport::new(&request.model, &origin, &encoded, request.seed);
    let share = 0.8 / (1 + variants.len()) as f64;
    report.layers = subject.layers(request.explain, [0.15, share], watcher)?;
    if request.depth {
        watcher.progress(0.15 + share, "all blocks together");
        report.depth = Some(subject.depth()?);
    }
    for (which, (name, other)) in variants.iter().enumerate() {
        let start = 0.15 + share * (1 + which) as f64;
        let base = (&report.layers[..], report.depth.as_ref());
        let compared = compare::compare(&subject, base, (name, other), [start, share], watcher)?;
        report.variants.push(compared);
    }
    if request.growth {
        watcher.progress(0.95, "growth with the text");
        report.growth = subject.growth()?;
    }
    if let Some(worst) = &request.worst {
        watcher.progress(0.96, "worst cases");
        report.worst = Some(worst::search(&subject, worst, watcher)?);
    }
    Ok(report)
}

impl Subject<'_> {
    /// Constants of the chosen layers and of their heads.
    pub(crate) fn layers(
        &self,
        explain: bool,
        [start, share]: [f64; 2],
        watcher: &mut dyn Watcher,
    ) -> Result<Vec<LayerRow>, LabError> {
        let mut rows = Vec::new();
        for (done, &layer) in self.layers.iter().enumerate() {
            let fraction = start + share * done as f64 / self.layers.len() as f64;
            watcher.progress(fraction, &format!("smoothness of block {layer}"));
            rows.push(self.layer(layer, explain)?);
        }
        Ok(rows)
    }

    fn layer(&self, layer: usize, explain: bool) -> Result<LayerRow, LabError> {
        let constant = |part| self.model.layer_constant(self.hidden, layer, part, self.lanczos);
        let attention = constant(LayerPart::Attention)?;
        let why = match explain {
            true => Some(self.layer_why(layer, &attention)?),
            false => None,
        };
        let [with_norm, with_residual, block] =
            [LayerPart::Composite, LayerPart::Residual, LayerPart::Block].map(constant);
        Ok(LayerRow {
            layer,
            attention: Constant::from(&attention),
            with_norm: Constant::from(&with_norm?),
            with_residual: Constant::from(&with_residual?),
            block: Constant::from(&block?),
            explanation: why,
            heads: self.heads(layer, explain)?,
        })
    }

    fn heads(&self, layer: usize, explain: bool) -> Result<Vec<SmoothHeadRow>, LabError> {
        let heads = self.model.layer_heads(self.hidden, layer)?;
        let constants = heads.constants(self.lanczos)?;
        let rows = constants.iter().enumerate().map(|(head, found)| {
            let explanation = if explain { Some(self.head_why(&heads, head, found)?) } else { None };
            Ok(SmoothHeadRow { head, constant: Constant::from(found), explanation })
        });
        rows.collect()
    }

    fn layer_why(&self, layer: usize, found: &metastable_model::LayerConstant) -> Result<LayerWhy, LabError> {
        let why = self.model.explain_layer(self.hidden, layer, &found.triplet)?;
        let share = |(head, paths): (usize, &metastable_dynamics::smoothness::explain::PathShares)| ShareRow {
            head,
            value: paths.value,
            query: paths.query,
            key: paths.key,
        };
        Ok(LayerWhy {
            heads: why.heads.iter().enumerate().map(share).collect(),
            moved: self.named(&why.moved),
            answering: self.named(&why.answering),
        })
    }

    fn head_why(
        &self,
        heads: &LayerHeads<'_>,
        head: usize,
        found: &metastable_model::smoothness::HeadConstant,
    ) -> Result<HeadWhy, LabError> {
        let why = heads.explain(head, found)?;
        Ok(HeadWhy {
            value: why.paths.value,
            query: why.paths.query,
            key: why.paths.key,
            moved: self.named(&why.moved),
            answering: self.named(&why.answering),
            weights_norm: why.sink.weights_norm,
            sink: self.token(why.sink.token, why.sink.mass),
            sink_ratio: why.sink.sink_ratio,
            value_path_lower: why.value_path_lower,
            column_lower: why.column_lower,
            blind_dimension: why.blind_dimension,
        })
    }

    fn token(&self, index: usize, energy: f64) -> TokenEnergy {
        let token = self.encoded.tokens.get(index).cloned().unwrap_or_default();
        TokenEnergy { index, token, energy }
    }

    /// The tokens with most energy, the most first; of equals the earlier.
    fn named(&self, energies: &[f64]) -> Vec<TokenEnergy> {
        let mut order: Vec<usize> = (0..energies.len()).collect();
        order.sort_by(|a, b| energies[*b].total_cmp(&energies[*a]));
        order.into_iter().take(NAMED_TOKENS).map(|index| self.token(index, energies[index])).collect()
    }

    /// All blocks one after another.
    pub(crate) fn depth(&self) -> Result<DepthRow, LabError> {
        let found = self.model.depth_constant(self.hidden, 0..self.model.config().layers, self.lanczos)?;
        let finite = |value: f64| value.is_finite().then_some(value);
        Ok(DepthRow {
            lower: found.triplet.value,
            upper: finite(found.ln_upper.exp()),
            ln_upper: finite(found.ln_upper),
            steps: found.triplet.steps,
            residual: found.triplet.residual,
            converged: found.triplet.converged,
            moved: self.named(&found.moved),
        })
    }

    /// Constants of prefixes, with fitted power laws: one warm-started sweep for decoders, one forward a prefix for
    /// encoders.
    fn growth(&self) -> Result<Vec<Growth>, LabError> {
        let n = self.hidden.count();
        let lengths: Vec<usize> = lengths(n);
        let mut curves: Vec<Growth> = self.layers.iter().map(|layer| Growth::of_layer(*layer)).collect();
        if matches!(self.model.config().mask, Mask::Full) {
            for &count in &lengths {
                let hidden = self.model.forward(&Input::new(self.encoded.ids[..count].to_vec())?)?;
                for curve in &mut curves {
                    let found = self.model.layer_constant(&hidden, curve.layer, LayerPart::Attention, self.lanczos)?;
                    let (value, steps) = (found.triplet.value, found.triplet.steps);
                    curve.points.push(GrowthPoint { tokens: count, value, steps });
                }
            }
        } else {
            for curve in &mut curves {
                let part = LayerPart::Attention;
                let found = self.model.layer_sweep(self.hidden, curve.layer, part, &lengths, self.lanczos)?;
                curve.points = found
                    .iter()
                    .map(|point| GrowthPoint { tokens: point.count, value: point.value, steps: point.steps })
                    .collect();
            }
        }
        for curve in &mut curves {
            let points: Vec<(f64, f64)> = curve.points.iter().map(|point| (point.tokens as f64, point.value)).collect();
            if let Some(law) = PowerLaw::fit(&points) {
                (curve.exponent, curve.factor) = (Some(law.exponent), Some(law.factor));
                curve.interval = Some(law.interval);
            }
        }
        Ok(curves)
    }
}

/// 4, 6, 8, 12, 16, …, and all n tokens.
fn lengths(n: usize) -> Vec<usize> {
    let mut lengths: Vec<usize> = (2..24).flat_map(|k| [1 << k, 3 << (k - 1)]).filter(|length| *length < n).collect();
    lengths.push(n);
    lengths.sort_unstable();
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_grow_up_to_the_text() {
        assert_eq!(lengths(3), [3]);
        assert_eq!(lengths(16), [4, 6, 8, 12, 16]);
        assert_eq!(lengths(17), [4, 6, 8, 12, 16, 17]);
    }
}
