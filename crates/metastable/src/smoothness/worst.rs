//! Clouds and tokens at which heads are steeper than at the text.

use metastable_model::smoothness::{HeadWorst, TokenSearch, WorstCloud, WorstOptions};
use metastable_model::{Encoded, Input, Model};
use serde::Serialize;

use super::Subject;
use crate::error::LabError;
use crate::inspect::setting;
use crate::report::shown;
use crate::watch::Watcher;

/// What is searched.
#[derive(Debug, Clone)]
pub struct WorstRequest {
    /// Clouds in the ball for every head of the chosen layers; tokens of the clouds.
    pub cloud_tokens: Option<usize>,
    /// The place of the text whose token is exchanged for every token of the vocabulary, in the first layer.
    pub position: Option<usize>,
    /// Steps of ascent.
    pub ascent_steps: usize,
}

impl WorstRequest {
    /// What can be wrong before anything is computed.
    pub(super) fn check(&self, model: &Model, encoded: &Encoded) -> Result<(), LabError> {
        if let Some(count) = self.cloud_tokens.filter(|count| *count < 3 || *count > model.config().positions) {
            let expected = format!("between 3 and {} tokens", model.config().positions);
            return Err(setting("--worst", expected, count));
        }
        if let Some(position) = self.position.filter(|position| *position >= encoded.ids.len()) {
            let expected = format!("a place below the {} tokens of the text", encoded.ids.len());
            return Err(setting("--worst-token", expected, position));
        }
        Ok(())
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct WorstReport {
    /// A row a head of the chosen layers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<WorstRow>,
    /// A row a head of the first layer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<WorstTokenRow>,
}

/// Worst clouds of one head in the ball.
#[derive(Debug, Clone, Serialize)]
pub struct WorstRow {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// Tokens of the clouds.
    pub tokens: usize,
    /// R: the root mean square of what the head is applied to at the text.
    pub radius: f64,
    /// The two-point cloud; null without a real eigenvalue.
    pub two_points: Option<CloudRow>,
    /// Three clusters; null likewise.
    pub three_clusters: Option<CloudRow>,
    /// Where gradient ascent ended.
    pub ascent: CloudRow,
    /// ln of the bound for all clouds of so many tokens in the ball.
    pub ln_upper: Option<f64>,
    /// ln of the bound for any number of tokens.
    pub ln_mean_field: Option<f64>,
    /// What the constant at t times the text tends to as t → ∞.
    pub large_radius_limit: f64,
}

/// One cloud.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CloudRow {
    /// The eigenvalue of KᵀQ/√k that it stands on; null for ascent.
    pub eigenvalue: Option<f64>,
    /// What theory proves; null for ascent.
    pub proven: Option<f64>,
    /// The constant of the head alone, without biases and rotations.
    pub constant: f64,
    /// The constant of the head as the layer has it.
    pub in_model: f64,
}

/// The worst token of the vocabulary for one head of the first layer.
#[derive(Debug, Clone, Serialize)]
pub struct WorstTokenRow {
    /// The head, from 0.
    pub head: usize,
    /// The place.
    pub position: usize,
    /// The text's own token.
    pub own: String,
    /// The constant with it.
    pub before: f64,
    /// The id of the worst token found.
    pub id: u32,
    /// How the tokenizer writes it.
    pub token: String,
    /// The constant with it: a lower value of the largest.
    pub after: f64,
    /// Tokens that were screened.
    pub screened: usize,
    /// Tokens whose constant was computed.
    pub computed: usize,
}

/// Tokens whose constant is computed after each screening, and screenings.
const CANDIDATES: usize = 32;
const ROUNDS: usize = 3;

/// Searches.
///
/// # Errors
/// [`LabError`] if a product overflows.
pub(super) fn search(
    subject: &Subject<'_>,
    request: &WorstRequest,
    watcher: &mut dyn Watcher,
) -> Result<WorstReport, LabError> {
    let (model, seed) = (subject.model, subject.lanczos.seed);
    let (mut clouds, mut tokens) = (Vec::new(), Vec::new());
    let heads = model.config().heads;
    for &layer in subject.layers.iter().filter(|_| request.cloud_tokens.is_some()) {
        watcher.progress(0.97, &format!("worst clouds of block {layer}"));
        let count = request.cloud_tokens.unwrap_or(3);
        let options = WorstOptions { count, radius: None, ascent_steps: request.ascent_steps, seed };
        for head in 0..heads {
            let found = model.head_worst(subject.hidden, (layer, head), &options)?;
            clouds.push(WorstRow::new(&found, (layer, head), count));
        }
    }
    if let Some(position) = request.position {
        let text = subject.model.text()?;
        let input = Input::from(subject.encoded);
        for head in 0..heads {
            watcher.progress(0.98, &format!("worst token for head {head}"));
            let search = TokenSearch { position, candidates: CANDIDATES, rounds: ROUNDS, seed };
            let found = model.worst_token(&input, head, &search)?;
            tokens.push(WorstTokenRow {
                head,
                position,
                own: subject.encoded.tokens.get(position).cloned().unwrap_or_default(),
                before: found.before,
                id: found.token,
                token: text.decode(&[found.token])?,
                after: found.after,
                screened: found.screened,
                computed: found.computed,
            });
        }
    }
    Ok(WorstReport { clouds, tokens })
}

impl WorstRow {
    fn new(found: &HeadWorst, (layer, head): (usize, usize), tokens: usize) -> Self {
        let row = |cloud: &WorstCloud| CloudRow {
            eigenvalue: cloud.eigenvalue,
            proven: cloud.proven,
            constant: cloud.constant,
            in_model: cloud.in_model,
        };
        let finite = |ln: f64| ln.is_finite().then_some(ln);
        Self {
            layer,
            head,
            tokens,
            radius: found.radius,
            two_points: found.two_points.as_ref().map(row),
            three_clusters: found.three_clusters.as_ref().map(row),
            ascent: row(&found.ascent),
            ln_upper: finite(found.upper.ln),
            ln_mean_field: found.mean_field.and_then(|bound| finite(bound.ln)),
            large_radius_limit: found.large_radius_limit,
        }
    }
}

impl WorstReport {
    /// In words.
    pub(super) fn sentences(&self) -> Vec<String> {
        let cloud = |row: &WorstRow| {
            let constant = |cloud: &Option<CloudRow>| cloud.map_or("none".into(), |cloud| shown(cloud.constant, 4));
            format!(
                "Layer {} head {}, {} tokens of length {:.3}: two points {}, three clusters {}, ascent {} (in the model {}), \
                 large radius {}.",
                row.layer,
                row.head,
                row.tokens,
                row.radius,
                constant(&row.two_points),
                constant(&row.three_clusters),
                shown(row.ascent.constant, 4),
                shown(row.ascent.in_model, 4),
                shown(row.large_radius_limit, 4)
            )
        };
        let token = |row: &WorstTokenRow| {
            format!(
                "Layer 0 head {}: {:?} in place of {:?} at {} raises the constant from {} to {} ({} screened, {} computed).",
                row.head,
                row.token,
                row.own,
                row.position,
                shown(row.before, 4),
                shown(row.after, 4),
                row.screened,
                row.computed
            )
        };
        self.clouds.iter().map(cloud).chain(self.tokens.iter().map(token)).collect()
    }
}
