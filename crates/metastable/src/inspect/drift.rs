//! How far an adapter moved the tokens of a level, and what became of their clusters: for `inspect --adapter`, and for the
//! probe text of a training run.

use metastable_dynamics::observe::{Clusters, single_linkage};
use metastable_dynamics::{Tokens, TokensRef};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::observables::directions;

/// One level of both runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerDrift {
    /// The level.
    pub index: usize,
    /// ‖X̃ - X‖_F/‖X‖_F.
    pub shift_relative: f64,
    /// Mean over tokens of the cosine between a token and its twin.
    pub cosine: f64,
    /// Tokens that must change their cluster to turn one partition into the other.
    pub clusters_changed: usize,
    /// Clusters of the adapted run without a partner in the base run.
    pub clusters_born: usize,
    /// Clusters of the base run without a partner in the adapted run.
    pub clusters_died: usize,
    /// Clusters of the adapted run.
    pub n_clusters: usize,
}

/// Levels of both runs compared, and the first level with a token in another cluster. O(L n² d).
pub(crate) fn drift(
    base: &[Tokens],
    adapted: &[Tokens],
    radius: f64,
) -> Result<(Vec<LayerDrift>, Option<usize>), LabError> {
    let row = |(index, (x, y)): (usize, (&Tokens, &Tokens))| Ok(Level::of(index, x.view(), y.view(), radius)?.drift);
    let rows: Vec<LayerDrift> = base.par_iter().zip(adapted).enumerate().map(row).collect::<Result<_, LabError>>()?;
    let departure = rows.iter().find(|row| row.clusters_changed > 0).map(|row| row.index);
    Ok((rows, departure))
}

/// One level of both runs, with its tokens normalised to the unit sphere.
pub(super) struct Level {
    pub(super) base: Tokens,
    pub(super) adapted: Tokens,
    pub(super) drift: LayerDrift,
}

impl Level {
    /// O(n² d).
    pub(super) fn of(index: usize, x: TokensRef<'_>, y: TokensRef<'_>, radius: f64) -> Result<Self, LabError> {
        let units = |tokens: TokensRef<'_>| Tokens::new(tokens.dim(), directions(tokens));
        let (base, adapted) = (units(x)?, units(y)?);
        let (before, after) = (single_linkage(base.view(), radius), single_linkage(adapted.view(), radius));
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let moved = squares(&mut x.as_slice().iter().zip(y.as_slice()).map(|(x, y)| y - x));
        let size = squares(&mut x.as_slice().iter().copied());
        let cosines = base.view().iter().zip(adapted.view().iter());
        let cosine: f64 = cosines.map(|(u, v)| u.iter().zip(v).map(|(u, v)| u * v).sum::<f64>()).sum();
        let matched = matching(&before, &after);
        let drift = LayerDrift {
            index,
            shift_relative: if size > 0.0 { (moved / size).sqrt() } else { 0.0 },
            cosine: (cosine / x.count() as f64).min(1.0),
            clusters_changed: x.count() - matched.tokens,
            clusters_born: after.count() - matched.clusters,
            clusters_died: before.count() - matched.clusters,
            n_clusters: after.count(),
        };
        Ok(Self { base, adapted, drift })
    }
}

/// How many clusters of two partitions are partners, and how many tokens they share.
struct Matched {
    clusters: usize,
    tokens: usize,
}

/// Partners by largest overlap first; of equal overlaps, the earlier clusters.
fn matching(before: &Clusters, after: &Clusters) -> Matched {
    let mut overlaps = std::collections::BTreeMap::new();
    for pair in before.labels.iter().copied().zip(after.labels.iter().copied()) {
        *overlaps.entry(pair).or_insert(0_usize) += 1;
    }
    let mut ordered: Vec<((usize, usize), usize)> = overlaps.into_iter().collect();
    // A stable sort: equal overlaps stay in the order of their labels.
    ordered.sort_by_key(|(_, shared)| std::cmp::Reverse(*shared));
    let (mut left, mut right) = (vec![false; before.count()], vec![false; after.count()]);
    let mut matched = Matched { clusters: 0, tokens: 0 };
    for ((i, j), shared) in ordered {
        if !left[i] && !right[j] {
            (left[i], right[j]) = (true, true);
            matched.clusters += 1;
            matched.tokens += shared;
        }
    }
    matched
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(labels: &[usize]) -> Clusters {
        // Points on a line, tokens of a label at one place.
        let points: Vec<f64> = labels.iter().map(|label| 10.0 * *label as f64).collect();
        single_linkage(TokensRef::new(1, &points), 0.1)
    }

    #[test]
    fn partitions_are_matched_whatever_their_labels() {
        let count = |x: &[usize], y: &[usize]| {
            let matched = matching(&clusters(x), &clusters(y));
            (x.len() - matched.tokens, matched.clusters)
        };
        assert_eq!(count(&[0, 0, 1, 1, 2], &[5, 5, 3, 3, 1]), (0, 3));
        // One token changes sides.
        assert_eq!(count(&[0, 0, 1, 1, 1], &[0, 0, 0, 1, 1]), (1, 2));
        // Two clusters merge: the smaller one's tokens moved.
        assert_eq!(count(&[0, 0, 1, 1, 1], &[0, 0, 0, 0, 0]), (2, 1));
    }
}
