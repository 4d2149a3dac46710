//! A model beside another one: under an adapter, with coarser weights, with stretched positions, from other files.

use std::path::{Path, PathBuf};

use metastable_model::config::RotaryScaling;
use metastable_model::lora::{Adapter, Strictness};
use metastable_model::smoothness::Quantization;
use metastable_model::{Input, Model};
use serde::Serialize;

use super::Subject;
use super::rows::{Constant, DepthRow, LayerRow};
use crate::error::LabError;
use crate::hub::{HubCache, Role, cached};
use crate::inspect::setting;
use crate::report::shown;
use crate::watch::Watcher;

/// What a model is compared with.
#[derive(Debug, Clone)]
pub enum VariantRequest {
    /// Under a LoRA adapter.
    Adapter(PathBuf, Strictness),
    /// With the weights of its blocks rounded: "q8_0" or "q4_0".
    Quantized(String),
    /// Another checkpoint of the same shape, such as a quantised file.
    Against(PathBuf),
    /// With stretched rotary positions: "linear=2", "dynamic=2" or "yarn=2".
    RotaryScaling(String),
}

impl VariantRequest {
    /// The model to compare with, and what it is called.
    ///
    /// # Errors
    /// [`LabError`] naming the flag or file.
    pub(super) fn model(&self, base: &Model) -> Result<(String, Model), LabError> {
        match self {
            Self::Adapter(folder, strictness) => {
                let adapted =
                    base.with_adapter(&Adapter::open(&cached(folder, Role::Adapter)?, *strictness)?, *strictness)?;
                Ok((format!("adapter {}", folder.display()), adapted.model))
            }
            Self::Quantized(name) => {
                let names = Quantization::ALL.map(|(name, _)| name).join(" or ");
                let scheme = Quantization::ALL.into_iter().find(|(known, _)| known == name);
                let (name, scheme) = scheme.ok_or_else(|| setting("--quantize", names, name))?;
                Ok((format!("weights rounded to {name}"), base.quantized(scheme)))
            }
            Self::Against(path) => {
                let other = Model::open(&HubCache::of_environment().resolve(path)?)?;
                same_shape(base, &other, path)?;
                Ok((path.display().to_string(), other))
            }
            Self::RotaryScaling(text) => {
                let scaling = scaling(text, base.config().positions)?;
                Ok((format!("rotary positions stretched by {text}"), base.with_rotary_scaling(scaling)?))
            }
        }
    }
}

fn same_shape(base: &Model, other: &Model, path: &Path) -> Result<(), LabError> {
    let sides = |model: &Model| {
        let config = model.config();
        let sides = (config.layers, config.hidden, config.heads, config.vocab);
        format!("{} layers of width {}, {} heads, {} tokens", sides.0, sides.1, sides.2, sides.3)
    };
    if sides(base) == sides(other) {
        return Ok(());
    }
    Err(setting(&format!("--against {}", path.display()), sides(base), sides(other)))
}

/// "linear=2" and its like.
fn scaling(text: &str, original: usize) -> Result<RotaryScaling, LabError> {
    let refusal = || setting("--rope-scaling", "linear=FACTOR, dynamic=FACTOR or yarn=FACTOR", text);
    let (kind, factor) = text.split_once('=').ok_or_else(refusal)?;
    let factor: f64 = factor.parse().map_err(|_| refusal())?;
    if !(factor > 0.0 && factor.is_finite()) {
        return Err(refusal());
    }
    match kind {
        "linear" => Ok(RotaryScaling::Linear { factor }),
        "dynamic" => Ok(RotaryScaling::Dynamic { factor, original }),
        // The settings of YaRN where a file says nothing else: 32 and 1 turns, cosines times 1 + ln(factor)/10.
        "yarn" => Ok(RotaryScaling::Yarn {
            factor,
            fast: 32.0,
            slow: 1.0,
            attention: 1.0 + 0.1 * factor.max(1.0).ln(),
            original,
            truncate: true,
        }),
        _ => Err(refusal()),
    }
}

/// The model beside another.
#[derive(Debug, Clone, Serialize)]
pub struct VariantReport {
    /// What it is compared with.
    pub variant: String,
    /// A row a layer.
    pub layers: Vec<VariantLayer>,
    /// All blocks together, where the base has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<DepthChange>,
}

/// One layer of both.
#[derive(Debug, Clone, Serialize)]
pub struct VariantLayer {
    /// The layer, from 0.
    pub layer: usize,
    /// Attention alone.
    pub attention: Change,
    /// With the norm before it.
    pub with_norm: Change,
    /// With the residual connection.
    pub with_residual: Change,
    /// The whole block.
    pub block: Change,
    /// A row a head.
    pub heads: Vec<HeadChange>,
}

/// One head of both.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct HeadChange {
    /// The head, from 0.
    pub head: usize,
    /// Its constants.
    #[serde(flatten)]
    pub change: Change,
}

/// One constant of both, each at its own model's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Of the model.
    pub base: Interval,
    /// Of the other.
    pub other: Interval,
    /// other.lower - base.lower.
    pub difference: f64,
    /// other.lower / base.lower; null over 0.
    pub ratio: Option<f64>,
    /// Whether \[lower, upper\] do not overlap: the constant itself changed, proven.
    pub separated: bool,
    /// Whether \[lower, probable_upper\] do not overlap; null where one of them has no such end.
    pub probably_separated: Option<bool>,
}

/// A constant from both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// A lower value.
    pub lower: f64,
    /// A proven upper bound; null beyond f64.
    pub upper: Option<f64>,
    /// An estimate from above.
    pub probable_upper: Option<f64>,
}

impl From<Constant> for Interval {
    fn from(constant: Constant) -> Self {
        Self { lower: constant.lower, upper: constant.upper, probable_upper: constant.probable_upper }
    }
}

impl Change {
    /// Compares two constants.
    pub(crate) fn between(base: Interval, other: Interval) -> Self {
        let below = |end: Option<f64>, lower: f64| end.is_some_and(|end| end < lower);
        let probable = base.probable_upper.zip(other.probable_upper);
        Self {
            difference: other.lower - base.lower,
            ratio: (base.lower > 0.0).then(|| other.lower / base.lower),
            separated: below(base.upper, other.lower) || below(other.upper, base.lower),
            probably_separated: probable.map(|(first, second)| first < other.lower || second < base.lower),
            base,
            other,
        }
    }
}

/// All blocks together, of both.
#[derive(Debug, Clone, Serialize)]
pub struct DepthChange {
    /// Of the model.
    pub base_lower: f64,
    /// Of the other.
    pub other: DepthRow,
    /// other.lower / base_lower; null over 0.
    pub ratio: Option<f64>,
}

/// Runs the text through the other model and compares every constant of the base: its layers, and all blocks together
/// where they were looked at.
///
/// # Errors
/// [`LabError`] if the other model overflows.
pub(super) fn compare(
    subject: &Subject<'_>,
    (base, base_depth): (&[LayerRow], Option<&DepthRow>),
    (name, other): (&str, &Model),
    span: [f64; 2],
    watcher: &mut dyn Watcher,
) -> Result<VariantReport, LabError> {
    let hidden = other.forward(&Input::from(subject.encoded))?;
    let changed = Subject { model: other, hidden: &hidden, ..*subject };
    let rows = changed.layers(false, span, watcher)?;
    let change = |before: Constant, after: Constant| Change::between(before.into(), after.into());
    let layers = base.iter().zip(&rows).map(|(before, after)| VariantLayer {
        layer: before.layer,
        attention: change(before.attention, after.attention),
        with_norm: change(before.with_norm, after.with_norm),
        with_residual: change(before.with_residual, after.with_residual),
        block: change(before.block, after.block),
        heads: before
            .heads
            .iter()
            .zip(&after.heads)
            .map(|(before, after)| HeadChange { head: before.head, change: change(before.constant, after.constant) })
            .collect(),
    });
    let depth = match base_depth {
        Some(before) => {
            let other = changed.depth()?;
            let ratio = (before.lower > 0.0).then(|| other.lower / before.lower);
            Some(DepthChange { base_lower: before.lower, other, ratio })
        }
        None => None,
    };
    Ok(VariantReport { variant: name.to_owned(), layers: layers.collect(), depth })
}

impl VariantReport {
    /// What changed most, in words.
    pub(super) fn sentences(&self) -> Vec<String> {
        let heads = || self.layers.iter().flat_map(|row| row.heads.iter().map(move |head| (row.layer, head)));
        let size = |change: &Change| change.ratio.map_or(0.0, |ratio| ratio.ln().abs());
        let (all, proven) = (heads().count(), heads().filter(|(_, head)| head.change.separated).count());
        let probable = heads().filter(|(_, head)| head.change.probably_separated == Some(true)).count();
        let mut sentences = vec![format!(
            "{}: {proven} of {all} heads changed by proof (intervals do not overlap), {probable} with near certainty.",
            self.variant
        )];
        if let Some((layer, head)) = heads().max_by(|a, b| size(&a.1.change).total_cmp(&size(&b.1.change))) {
            let change = head.change;
            let marked = if change.separated { ", intervals do not overlap" } else { "" };
            sentences.push(format!(
                "  most: layer {layer} head {}, from {} to {}{marked}.",
                head.head,
                shown(change.base.lower, 5),
                shown(change.other.lower, 5)
            ));
        }
        for row in &self.layers {
            let change = row.attention;
            let sign = if change.difference < 0.0 { "" } else { "+" };
            let marked = if change.separated { ", intervals do not overlap" } else { "" };
            sentences.push(format!(
                "  layer {}: attention from {} to {} ({sign}{}){marked}.",
                row.layer,
                shown(change.base.lower, 5),
                shown(change.other.lower, 5),
                shown(change.difference, 5)
            ));
        }
        sentences.extend(self.depth.iter().map(|depth| {
            format!("  all blocks: from {} to {}.", shown(depth.base_lower, 5), shown(depth.other.lower, 5))
        }));
        sentences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_that_do_not_overlap_are_marked() {
        let interval = |lower, upper, probable_upper| Interval { lower, upper, probable_upper };
        let change = Change::between(interval(1.0, Some(2.0), Some(1.1)), interval(2.5, None, Some(2.6)));
        assert_eq!((change.separated, change.probably_separated, change.ratio), (true, Some(true), Some(2.5)));
        let change = Change::between(interval(1.0, Some(3.0), Some(1.1)), interval(1.5, Some(4.0), Some(1.7)));
        assert_eq!((change.separated, change.probably_separated, change.difference), (false, Some(true), 0.5));
        let change = Change::between(interval(0.0, None, None), interval(1.5, Some(4.0), Some(1.7)));
        assert_eq!((change.separated, change.probably_separated, change.ratio), (false, None, None));
        let change = Change::between(interval(3.0, None, None), interval(1.5, Some(2.0), None));
        assert!(change.separated);
    }

    #[test]
    fn scalings_are_read_or_refused() {
        assert_eq!(scaling("linear=2", 64).unwrap(), RotaryScaling::Linear { factor: 2.0 });
        assert_eq!(scaling("dynamic=4", 64).unwrap(), RotaryScaling::Dynamic { factor: 4.0, original: 64 });
        assert!(matches!(scaling("yarn=4", 64).unwrap(), RotaryScaling::Yarn { original: 64, .. }));
        for wrong in ["linear", "linear=x", "linear=-1", "linear=inf", "cubic=2"] {
            let error = scaling(wrong, 64).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("--rope-scaling: expected linear=FACTOR, dynamic=FACTOR or yarn=FACTOR, found {wrong}")
            );
        }
    }
}
