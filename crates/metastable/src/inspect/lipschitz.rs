//! How steep the attention of every block is at the text: two-sided local Lipschitz constants.

use metastable_dynamics::smoothness::LanczosOptions;
use metastable_model::smoothness::single_precision_lanczos;
use metastable_model::{Hidden, LayerPart, Model};

use super::report::{HeadConstantRow, LipschitzRow};
use super::twin::{ConstantBounds, LipschitzChange};
use crate::error::LabError;
use crate::watch::Watcher;

/// Longer texts get no constants: one takes some twenty passes through the attention of a block.
pub(super) const MOST_TOKENS: usize = 512;
/// Longer texts get no constants with the norm and with the residual, and none of single heads.
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
        upper: Some(attention.upper),
        steps: Some(attention.triplet.steps),
        converged: Some(attention.triplet.converged),
        ..LipschitzRow::default()
    };
    if hidden.count() <= MOST_TOKENS_OF_PARTS {
        let found = |part| model.layer_constant(hidden, layer, part, options);
        let (with_norm, with_residual) = (found(LayerPart::Composite)?, found(LayerPart::Residual)?);
        (row.with_norm, row.with_norm_upper) = (Some(with_norm.triplet.value), Some(with_norm.upper));
        (row.with_residual, row.with_residual_upper) = (Some(with_residual.triplet.value), Some(with_residual.upper));
    }
    Ok(row)
}

/// One entry a head of the chosen layers, in the order of their spectra; none for long texts.
///
/// # Errors
/// As [`rows`].
pub(super) fn heads(
    model: &Model,
    hidden: &Hidden,
    layers: &[usize],
    watcher: &mut dyn Watcher,
) -> Result<Vec<Option<HeadConstantRow>>, LabError> {
    if hidden.count() > MOST_TOKENS_OF_PARTS {
        return Ok(vec![None; layers.len() * model.config().heads]);
    }
    let mut rows = Vec::new();
    for &layer in layers {
        watcher.progress(0.95, &format!("smoothness of the heads of block {layer}"));
        let found = model.layer_heads(hidden, layer)?.constants(&single_precision_lanczos())?;
        rows.extend(found.iter().map(|found| {
            let (lower, upper) = (found.triplet.value, found.upper);
            Some(HeadConstantRow { lower, upper, probable_upper: found.probable_upper })
        }));
    }
    Ok(rows)
}

/// The constants of the heads of both models; `base` is what [`heads`] found.
///
/// # Errors
/// As [`rows`].
pub(super) fn head_changes(
    base: &[Option<HeadConstantRow>],
    adapted: &Model,
    hidden: &Hidden,
    layers: &[usize],
    watcher: &mut dyn Watcher,
) -> Result<Vec<Option<LipschitzChange>>, LabError> {
    let bounds = |row: &HeadConstantRow| ConstantBounds { lower: row.lower, upper: Some(row.upper) };
    let after = heads(adapted, hidden, layers, watcher)?;
    let change = |(base, after): (&Option<HeadConstantRow>, &Option<HeadConstantRow>)| {
        base.as_ref().zip(after.as_ref()).map(|(base, after)| LipschitzChange::between(bounds(base), bounds(after)))
    };
    Ok(base.iter().zip(&after).map(change).collect())
}

/// The constants of the attention of both models, one entry a level; null where the base has none. `base` is what [`rows`]
/// found.
///
/// # Errors
/// As [`rows`].
pub(super) fn changes(
    base: &[LipschitzRow],
    adapted: &Model,
    hidden: &Hidden,
    layers: &[usize],
    watcher: &mut dyn Watcher,
) -> Result<Vec<Option<LipschitzChange>>, LabError> {
    let mut changes = vec![None; base.len()];
    for &layer in layers {
        let Some(lower) = base[layer + 1].lower else { continue };
        watcher.progress(0.95, &format!("smoothness of adapted block {layer}"));
        let found = adapted.layer_constant(hidden, layer, LayerPart::Attention, &single_precision_lanczos())?;
        let before = ConstantBounds { lower, upper: base[layer + 1].upper };
        let after = ConstantBounds { lower: found.triplet.value, upper: Some(found.upper) };
        changes[layer + 1] = Some(LipschitzChange::between(before, after));
    }
    Ok(changes)
}

/// What the numbers are.
pub(super) fn definition(n: usize) -> String {
    let limits = match n {
        n if n > MOST_TOKENS => format!(" Left out: the text has more than {MOST_TOKENS} tokens."),
        n if n > MOST_TOKENS_OF_PARTS => {
            format!(" With norm and residual, and of single heads: only up to {MOST_TOKENS_OF_PARTS} tokens.")
        }
        _ => String::new(),
    };
    format!(
        "Lipschitz: the local constant of the attention (all heads and the output map) of the block that made the level, \
         at what attention is applied to, residual not included: `lower` by Lanczos in f32 to a residual of 1e-3, \
         `upper` proven; `with_norm` includes the norm before attention, `with_residual` also x + A.{limits}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_separated_only_where_one_ends_before_the_other_begins() {
        let bounds = |lower, upper| ConstantBounds { lower, upper };
        let separated = |base, adapted| LipschitzChange::between(base, adapted).separated;
        assert!(separated(bounds(1.0, Some(2.0)), bounds(2.5, Some(3.0))));
        assert!(separated(bounds(2.5, Some(3.0)), bounds(1.0, Some(2.0))));
        // They touch, overlap, or one contains the other.
        assert!(!separated(bounds(1.0, Some(2.0)), bounds(2.0, Some(3.0))));
        assert!(!separated(bounds(1.0, Some(2.5)), bounds(2.0, Some(3.0))));
        assert!(!separated(bounds(1.0, Some(9.0)), bounds(2.0, Some(3.0))));
        // Without an upper bound an interval has no end; the other may still lie below it.
        assert!(!separated(bounds(1.0, None), bounds(5.0, Some(6.0))));
        assert!(separated(bounds(1.0, Some(2.0)), bounds(5.0, None)));
        assert!(!separated(bounds(1.0, None), bounds(5.0, None)));
    }

    #[test]
    fn the_ratio_is_of_lower_values_and_absent_over_zero() {
        let bounds = |lower| ConstantBounds { lower, upper: None };
        let ratio = |base, adapted| LipschitzChange::between(bounds(base), bounds(adapted)).ratio;
        assert_eq!(ratio(2.0, 3.0), Some(1.5));
        assert_eq!(ratio(0.0, 3.0), None);
    }
}
