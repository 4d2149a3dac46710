//! How steep the attention of every block is at the text: two-sided local Lipschitz constants.

use metastable_dynamics::smoothness::LanczosOptions;
use metastable_model::smoothness::single_precision_lanczos;
use metastable_model::{Hidden, LayerPart, Model};

use super::report::LipschitzRow;
use crate::error::LabError;
use crate::watch::Watcher;

/// Longer texts get no constants: one takes some twenty passes through the attention of a block.
pub(super) const MOST_TOKENS: usize = 512;
/// Longer texts get no constants with the norm and with the residual.
pub(super) const MOST_TOKENS_OF_PARTS: usize = 256;

/// One row a level; those of levels that no chosen block made are empty.
///
/// # Errors
/// [`LabError`] if a product overflows.
pub(super) fn rows(
    model: &Model,
    hidden: &Hidden,
    layers: &[usize],
    watcher: &mut dyn Watcher,
) -> Result<Vec<LipschitzRow>, LabError> {
    let mut rows = vec![LipschitzRow::default(); hidden.levels()];
    if hidden.count() > MOST_TOKENS {
        return Ok(rows);
    }
    for (done, &layer) in layers.iter().enumerate() {
        watcher.progress(0.8 + 0.15 * done as f64 / layers.len() as f64, &format!("smoothness of block {layer}"));
        rows[layer + 1] = row(model, hidden, layer, &single_precision_lanczos())?;
    }
    Ok(rows)
}

fn row(model: &Model, hidden: &Hidden, layer: usize, options: &LanczosOptions) -> Result<LipschitzRow, LabError> {
    let attention = model.layer_constant(hidden, layer, LayerPart::Attention, options)?;
    let mut row = LipschitzRow {
        lower: Some(attention.triplet.value),
        upper: attention.upper,
        steps: Some(attention.triplet.steps),
        converged: Some(attention.triplet.converged),
        ..LipschitzRow::default()
    };
    if hidden.count() <= MOST_TOKENS_OF_PARTS {
        let lower = |part| model.layer_constant(hidden, layer, part, options).map(|found| Some(found.triplet.value));
        row.with_norm = lower(LayerPart::Composite)?;
        row.with_residual = lower(LayerPart::Residual)?;
    }
    Ok(row)
}

/// What the numbers are.
pub(super) fn definition(n: usize) -> String {
    let limits = match n {
        n if n > MOST_TOKENS => format!(" Left out: the text has more than {MOST_TOKENS} tokens."),
        n if n > MOST_TOKENS_OF_PARTS => {
            format!(" With norm and residual: only up to {MOST_TOKENS_OF_PARTS} tokens.")
        }
        _ => String::new(),
    };
    format!(
        "Lipschitz: the local constant of the attention (all heads and the output map) of the block that made the level, \
         at what attention is applied to, residual not included: `lower` by Lanczos in f32 to a residual of 1e-3, \
         `upper` proven; `with_norm` includes the norm before attention, `with_residual` also x + A.{limits}"
    )
}
