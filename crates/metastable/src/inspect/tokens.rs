//! Observables of a level without the tokens that are no words: special ones, and the first one where attention is
//! causal and makes it a sink.

use metastable_dynamics::attention::{AttentionKernel, Projections, statistics};
use metastable_dynamics::linalg::{dot, norm};
use metastable_dynamics::observe::{CloudShape, close_pairs, single_linkage};
use metastable_dynamics::{Matrix, TokensRef};
use metastable_model::config::Mask;

use super::report::{ContentRow, FirstToken, NormRow};
use crate::error::LabError;
use crate::observables::CLOSE_COSINE;

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
    let clusters = single_linkage(TokensRef::new(tokens.dim(), &directions), radius);
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    Ok(Some(ContentRow {
        count: content.count(),
        mean_cosine: shape.mean_cosine,
        min_cosine: shape.min_cosine,
        max_cosine: shape.max_cosine,
        close_pairs: close_pairs(content, CLOSE_COSINE),
        n_clusters: clusters.count(),
        max_mass: clusters.max_mass(),
        effective_rank: shape.effective_rank,
        anisotropy: shape.anisotropy,
        energy: direction_energy(content)?.map(f64::exp).and_then(finite),
        diameter: finite(shape.diameter),
        radius_mean: shape.mean_radius,
    }))
}

/// ln E of the normalised tokens at beta = 1, Q = K = I.
pub(super) fn direction_energy(tokens: TokensRef<'_>) -> Result<Option<f64>, LabError> {
    let directions = crate::observables::directions(tokens);
    let identity = Matrix::scaled_identity(tokens.dim(), 1.0);
    let kernel = AttentionKernel::softmax(1.0)?;
    let mut projections = Projections::zeros(tokens.count(), tokens.dim(), tokens.dim());
    projections.fill(&kernel, 1.0, &directions, [&identity; 3]);
    Ok(statistics::log_energy(&projections))
}

/// The first token beside the others; `weights` are the mean attention weights of the block that made the level. None for
/// a text of one token.
pub(super) fn first_token(tokens: TokensRef<'_>, weights: Option<&Matrix>) -> Option<FirstToken> {
    let others = tokens.count().checked_sub(1).filter(|others| *others > 0)? as f64;
    let mut tokens_in_order = tokens.iter();
    let first = tokens_in_order.next()?;
    let length = norm(first);
    let (mut lengths, mut cosines) = (0.0, 0.0);
    for token in tokens_in_order {
        let other = norm(token);
        lengths += other;
        cosines += dot(first, token) / (length * other);
    }
    let looks = |weights: &Matrix| (1..weights.rows()).map(|i| weights.at(i, 0)).sum::<f64>() / others;
    Some(FirstToken {
        radius: length,
        radius_ratio: Some(length * others / lengths).filter(|ratio| ratio.is_finite()),
        mean_cosine: Some(cosines / others).filter(|cosine| cosine.is_finite()),
        attention: weights.map(looks),
    })
}
