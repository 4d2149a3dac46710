//! What `metastable lipschitz MODEL` says, as it stands in its JSON.

use std::collections::BTreeMap;
use std::path::Path;

use metastable_model::Encoded;
use metastable_model::smoothness::FAILURE_PROBABILITY;
use serde::Serialize;

use super::compare::VariantReport;
use super::rows::{Constant, DepthRow, Growth, LayerRow, SmoothHeadRow};
use super::worst::WorstReport;
use crate::error::LabError;
use crate::report::shown;
use crate::table::{Column, Table};

/// Constants of a checkpoint at a text.
#[derive(Debug, Clone, Serialize)]
pub struct ModelLipschitzReport {
    /// The model as given.
    pub model: String,
    /// Where the text came from: a file, or "prompt".
    pub text: String,
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens that a limit cut off.
    pub dropped_tokens: usize,
    /// How lower values were found.
    pub method: &'static str,
    /// Starts Lanczos.
    pub seed: u64,
    /// A row a chosen layer.
    pub layers: Vec<LayerRow>,
    /// All blocks one after another, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<DepthRow>,
    /// Growth with the text, a row a layer, if asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub growth: Vec<Growth>,
    /// The model beside others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantReport>,
    /// Worst cases, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<WorstReport>,
    /// Which number is proven and which an estimate.
    pub status: BTreeMap<&'static str, &'static str>,
    /// What the numbers mean.
    pub definitions: Vec<&'static str>,
    /// Probability over the random start that a `probable_upper` is below the constant.
    pub failure_probability: f64,
}

const DEFINITIONS: [&str; 7] = [
    "Layers and heads count from 0. Constants are largest singular values of the Jacobian with respect to all tokens at \
     once, at the tokens of the text, in the Euclidean norm.",
    "attention: all heads and the output map, at what attention is applied to; with_norm: also the norm before it; \
     with_residual: also x + A; block: the feed-forward part, too. heads: one head with its part of the output map.",
    "lower: by Golub-Kahan-Lanczos in f32 to a residual of 1e-3. upper: proven, up to rounding. probable_upper: an \
     estimate, too small with the stated probability.",
    "value, query, key: shares of the three paths in `lower`; all together they add up to it. moved, answering: tokens \
     with most energy of the right and left singular vector.",
    "sink: the token that gathers most weight, `energy` its column mass; sink_ratio: |P|_2 over its root, 1 where \
     everybody looks at one token.",
    "value_path_lower: |P|_2 |W V Π|_2 with Π on the directions that neither Q nor K sees; column_lower: the same from the \
     most watched token alone. Both are below the constant.",
    "separated: the intervals [lower, upper] do not overlap; probably_separated: those to probable_upper do not.",
];

const STATUS: [(&str, &str); 7] = [
    ("lower", "proven"),
    ("upper", "proven"),
    ("probable_upper", "estimate"),
    ("value_path_lower", "proven"),
    ("column_lower", "proven"),
    ("exponent", "estimate"),
    ("ascent", "proven"),
];

impl ModelLipschitzReport {
    pub(super) fn new(model: &Path, text: &str, encoded: &Encoded, seed: u64) -> Self {
        Self {
            model: model.display().to_string(),
            text: text.to_owned(),
            tokens: encoded.ids.len(),
            dropped_tokens: encoded.dropped,
            method: "golub_kahan_lanczos",
            seed,
            layers: Vec::new(),
            depth: None,
            growth: Vec::new(),
            variants: Vec::new(),
            worst: None,
            status: STATUS.into_iter().collect(),
            definitions: DEFINITIONS.into(),
            failure_probability: FAILURE_PROBABILITY,
        }
    }

    /// A row a constant: layer, what it is of, lower, upper, probable_upper.
    ///
    /// # Errors
    /// [`LabError::Column`] never happens: all columns have one entry a row.
    pub fn table(&self) -> Result<Table, LabError> {
        let mut rows: Vec<(i64, String, Constant)> = Vec::new();
        for row in &self.layers {
            let layer = i64::try_from(row.layer).unwrap_or(i64::MAX);
            let parts = [
                ("attention", row.attention),
                ("with_norm", row.with_norm),
                ("with_residual", row.with_residual),
                ("block", row.block),
            ];
            rows.extend(parts.map(|(name, constant)| (layer, name.to_owned(), constant)));
            rows.extend(row.heads.iter().map(|head| (layer, format!("head {}", head.head), head.constant)));
        }
        let mut table = Table::new("lipschitz");
        table.push("layer", Column::Integer(rows.iter().map(|row| row.0).collect()))?;
        table.push("of", Column::Text(rows.iter().map(|row| row.1.clone()).collect()))?;
        table.push("lower", Column::Float(rows.iter().map(|row| Some(row.2.lower)).collect()))?;
        table.push("upper", Column::Float(rows.iter().map(|row| row.2.upper).collect()))?;
        table.push("probable_upper", Column::Float(rows.iter().map(|row| row.2.probable_upper).collect()))?;
        table.push("steps", Column::Integer(rows.iter().map(|row| row.2.steps as i64).collect()))?;
        Ok(table)
    }

    /// Sentences about what was asked for beside the constants.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.dropped_tokens > 0 {
            sentences.push(format!("The text was cut: {} tokens were dropped.", self.dropped_tokens));
        }
        for row in &self.layers {
            sentences.extend(row.heads.iter().filter_map(|head| head.sentence(row.layer)));
        }
        if let Some(depth) = &self.depth {
            let ln = depth.ln_upper.map_or_else(|| "unknown".into(), |ln| format!("e^{}", shown(ln, 2)));
            sentences.push(format!("All blocks together: at least {}, at most {ln}.", shown(depth.lower, 6)));
        }
        for growth in &self.growth {
            if let (Some(exponent), Some([low, high])) = (growth.exponent, growth.interval) {
                sentences.push(format!(
                    "Layer {}: grows like n^{exponent:.3} [{low:.3}, {high:.3}]; compare n^0.25 and n^0.5.",
                    growth.layer
                ));
            }
        }
        sentences.extend(self.variants.iter().flat_map(VariantReport::sentences));
        sentences.extend(self.worst.iter().flat_map(WorstReport::sentences));
        sentences
    }
}

impl SmoothHeadRow {
    fn sentence(&self, layer: usize) -> Option<String> {
        let why = self.explanation.as_ref()?;
        let percent = |share: f64| 100.0 * share / self.constant.lower.max(f64::MIN_POSITIVE);
        let mover = why.moved.first().map_or_else(String::new, |token| format!("{} {:?}", token.index, token.token));
        Some(format!(
            "Layer {layer} head {}: {:.0} % values, {:.0} % queries, {:.0} % keys; move token {mover}; sink {} {:?} gathers \
             {:.1}, |P| / √mass = {:.2}; values alone: {}.",
            self.head,
            percent(why.value),
            percent(why.query),
            percent(why.key),
            why.sink.index,
            why.sink.token,
            why.sink.energy,
            why.sink_ratio,
            shown(why.value_path_lower, 4),
        ))
    }
}
