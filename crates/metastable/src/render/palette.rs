//! The colour and the marker of every persistent cluster, the same on the page and in the figures.
//!
//! Colours are those of Okabe and Ito without black and yellow (black is ink, yellow vanishes on white), followed by
//! dark tones of Paul Tol's muted scheme. Ten colours and seven markers are coprime, so seventy clusters differ in at
//! least one of the two. Clusters of a single token are grey circles.

use super::read;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Fill colours, most frequent cluster first.
pub(super) const COLOURS: [&str; 10] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#882255", "#999933", "#332288", "#44aa99", "#b3541e"];
/// Marker shapes, the second channel.
pub(super) const MARKERS: [&str; 7] = ["circle", "square", "triangle", "diamond", "nabla", "pentagon", "star"];
/// The colour of a token that is alone.
pub(super) const ALONE: &str = "#8a8f98";
/// The colour of everything that belongs to the twin.
pub(super) const TWIN: &str = "#d55e00";

/// Maps persistent labels to places in the palette.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Colours {
    /// Places of the labels of the base run.
    pub(super) base: BTreeMap<i64, usize>,
    /// Places of the labels of the twin; a twin cluster made of the tokens of a base cluster shares its place.
    pub(super) twin: BTreeMap<i64, usize>,
}

/// Returns the colour of a place in the palette.
pub(super) fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

/// Returns the marker of a place in the palette.
pub(super) fn marker(place: usize) -> &'static str {
    MARKERS[place % MARKERS.len()]
}

impl Colours {
    /// Orders the labels by how many tokens they hold for how long, and pairs twin labels with base labels.
    pub(super) fn of(report: &Value) -> Self {
        let base_labels = read::labels(report, "");
        let twin_labels = read::labels(report, "/twin");
        let base: BTreeMap<i64, usize> =
            by_weight(&base_labels).into_iter().enumerate().map(|(place, label)| (label, place)).collect();
        let mut twin = shared_places(&base_labels, &twin_labels, &base);
        let taken: BTreeSet<usize> = twin.values().copied().collect();
        let mut free = (base.len()..).filter(|place| !taken.contains(place));
        for label in by_weight(&twin_labels) {
            if let std::collections::btree_map::Entry::Vacant(entry) = twin.entry(label) {
                entry.insert(free.next().unwrap_or(0));
            }
        }
        Self { base, twin }
    }

    /// Writes the palette for the page.
    pub(super) fn to_json(&self) -> Value {
        json!({"base": self.base, "twin": self.twin, "colours": COLOURS, "markers": MARKERS, "alone": ALONE})
    }
}

/// Labels by the sum over times of the sizes of their clusters, largest first, single tokens counting nothing.
fn by_weight(rows: &[Vec<i64>]) -> Vec<i64> {
    let mut weight: BTreeMap<i64, usize> = BTreeMap::new();
    for row in rows {
        for (label, size) in sizes(row) {
            *weight.entry(label).or_default() += if size > 1 { size } else { 0 };
        }
    }
    let mut order: Vec<(i64, usize)> = weight.into_iter().collect();
    order.sort_by_key(|&(label, weight)| (std::cmp::Reverse(weight), label));
    order.into_iter().map(|(label, _)| label).collect()
}

/// Counts the tokens of every label of one row.
pub(super) fn sizes(row: &[i64]) -> BTreeMap<i64, usize> {
    let mut sizes = BTreeMap::new();
    for &label in row {
        *sizes.entry(label).or_default() += 1;
    }
    sizes
}

/// Gives twin labels the places of the base labels with which they share most tokens, greedily.
fn shared_places(base: &[Vec<i64>], twin: &[Vec<i64>], places: &BTreeMap<i64, usize>) -> BTreeMap<i64, usize> {
    let mut overlap: BTreeMap<(i64, i64), usize> = BTreeMap::new();
    for (base_row, twin_row) in base.iter().zip(twin) {
        let (base_sizes, twin_sizes) = (sizes(base_row), sizes(twin_row));
        for (b, t) in base_row.iter().zip(twin_row) {
            if base_sizes[b] > 1 && twin_sizes[t] > 1 {
                *overlap.entry((*t, *b)).or_default() += 1;
            }
        }
    }
    let mut pairs: Vec<((i64, i64), usize)> = overlap.into_iter().collect();
    pairs.sort_by_key(|&(pair, count)| (std::cmp::Reverse(count), pair));
    let (mut chosen, mut used) = (BTreeMap::new(), BTreeSet::new());
    for ((t, b), _) in pairs {
        if !chosen.contains_key(&t) && used.insert(b) {
            chosen.insert(t, places.get(&b).copied().unwrap_or(0));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_cluster_has_the_first_colour_and_its_twin_shares_it() {
        let report = json!({
            "cluster_history": {"labels": [[0, 1, 2, 3, 4], [7, 7, 3, 3, 3]]},
            "twin": {"cluster_history": {"labels": [[0, 1, 2, 3, 4], [1, 1, 9, 9, 9]]}},
        });
        let colours = Colours::of(&report);
        assert_eq!((colours.base[&3], colours.base[&7]), (0, 1));
        assert_eq!((colours.twin[&9], colours.twin[&1]), (0, 1));
    }

    #[test]
    fn two_clusters_of_one_run_never_share_a_place() {
        let labels: Vec<Vec<i64>> = (0..30).map(|s| (0..40).map(|i| (i * (s + 1)) % 17).collect()).collect();
        let twin: Vec<Vec<i64>> = (0..30).map(|s| (0..40).map(|i| (i * (s + 2)) % 19).collect()).collect();
        let report = json!({"cluster_history": {"labels": labels}, "twin": {"cluster_history": {"labels": twin}}});
        let colours = Colours::of(&report);
        for places in [&colours.base, &colours.twin] {
            assert_eq!(places.values().collect::<BTreeSet<_>>().len(), places.len());
        }
    }
}
