//! Observables of a level without the tokens that are no words: special ones, and the first one where attention is
//! causal and makes it a sink.

use metastable_dynamics::TokensRef;
use metastable_dynamics::observe::{CloudShape, single_linkage};
use metastable_model::config::Mask;

use super::report::{ContentRow, NormRow};
use crate::error::LabError;

/// Which tokens are left out.
pub(super) struct Ignored<'a> {
    special: &'a [bool],
    /// As `special`, and the first token; none where attention is full.
    or_first: Option<Vec<bool>>,
}

/// The rows of one level.
pub(super) struct ContentRows {
    pub(super) without_special: Option<ContentRow>,
    pub(super) without_first: Option<ContentRow>,
}

impl<'a> Ignored<'a> {
    pub(super) fn new(special: &'a [bool], mask: Mask) -> Self {
        let first = || special.iter().enumerate().map(|(i, special)| *special || i == 0).collect();
        Self { special, or_first: (mask != Mask::Full).then(first) }
    }

    /// The rows of one level; `radius` links clusters.
    pub(super) fn rows(&self, tokens: TokensRef<'_>, radius: f64) -> Result<ContentRows, LabError> {
        let without_first = self.or_first.as_ref().map(|ignored| row_without(tokens, ignored, radius));
        Ok(ContentRows {
            without_special: row_without(tokens, self.special, radius)?,
            without_first: without_first.transpose()?.flatten(),
        })
    }

    /// The same for the last level before the final norm, with all tokens beside it.
    pub(super) fn norm_row(&self, tokens: TokensRef<'_>, radius: f64) -> Result<NormRow, LabError> {
        let ContentRows { without_special, without_first } = self.rows(tokens, radius)?;
        let all = row_without(tokens, &vec![false; tokens.count()], radius)?;
        Ok(NormRow { all, without_special, without_first })
    }
}

/// A level without the ignored tokens; none if nothing is left.
fn row_without(tokens: TokensRef<'_>, ignored: &[bool], radius: f64) -> Result<Option<ContentRow>, LabError> {
    let kept = tokens.iter().zip(ignored).filter(|(_, ignored)| !**ignored);
    let values: Vec<f64> = kept.flat_map(|(token, _)| token.to_vec()).collect();
    if values.is_empty() {
        return Ok(None);
    }
    let content = TokensRef::new(tokens.dim(), &values);
    let shape = CloudShape::of(content)?;
    let directions = crate::observables::directions(content);
    Ok(Some(ContentRow {
        count: content.count(),
        mean_cosine: shape.mean_cosine,
        n_clusters: single_linkage(TokensRef::new(tokens.dim(), &directions), radius).count(),
        effective_rank: shape.effective_rank,
        anisotropy: shape.anisotropy,
        radius_mean: shape.mean_radius,
    }))
}
