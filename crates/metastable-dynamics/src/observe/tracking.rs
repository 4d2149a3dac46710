//! Cluster identities that persist through time, and the merges and splits between them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clusters::Clusters;

/// What happened to some clusters between two successive observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Several clusters became one.
    Merge,
    /// One cluster became several.
    Split,
    /// Several clusters became several others, with tokens changing sides.
    Exchange,
}

/// A change of the set of clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterEvent {
    /// The time of the observation that showed the change; it happened since the observation before.
    pub time: f64,
    /// Which change.
    pub kind: EventKind,
    /// Identities before, ascending.
    pub from: Vec<u64>,
    /// Identities after, ascending.
    pub into: Vec<u64>,
}

/// Gives clusters identities that last: feed it the clusters of the same tokens at successive times.
///
/// Old and new clusters that share tokens form a bipartite graph; each of its components is one story.
/// One to one: the identity stays. Many to one (merge): the identity of the largest old cluster stays, on a tie the
/// oldest (smallest). One to many (split): the largest new cluster keeps the identity, on a tie the one with the first
/// token; the others get fresh identities. Many to many (exchange): pairs are matched greedily by the number of shared
/// tokens. Fresh identities count up and are never used again. O(n log n) an observation.
///
/// The whole state serialises, so that a resumed run continues the same identities.
///
/// # Example
/// ```
/// use metastable_dynamics::{Tokens, observe::{clusters::single_linkage, tracking::{EventKind, Tracker}}};
/// let mut tracker = Tracker::default();
/// for (t, x) in [(0.0, [[0.0], [4.0], [5.0]]), (1.0, [[0.0], [4.5], [4.51]])] {
///     tracker.observe(t, &single_linkage(Tokens::from_rows(&x).unwrap().view(), 0.1));
/// }
/// assert_eq!(tracker.labels(), [0, 1, 1]);
/// assert_eq!(tracker.events()[0].kind, EventKind::Merge);
/// assert_eq!((&tracker.events()[0].from[..], &tracker.events()[0].into[..]), (&[1, 2][..], &[1][..]));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    labels: Vec<u64>,
    next: u64,
    events: Vec<ClusterEvent>,
}

/// Old and new clusters of one story.
#[derive(Default)]
struct Story {
    parents: Vec<u64>,
    children: Vec<usize>,
}

impl Tracker {
    /// The identity of each token's cluster at the last observation, \[n\]; empty before the first.
    pub fn labels(&self) -> &[u64] {
        &self.labels
    }

    /// All changes so far, in order of time.
    pub fn events(&self) -> &[ClusterEvent] {
        &self.events
    }

    /// Takes the clusters at time `t` and returns the changes since the last observation.
    ///
    /// # Panics
    /// If the number of tokens changes.
    pub fn observe(&mut self, t: f64, clusters: &Clusters) -> &[ClusterEvent] {
        let known = self.events.len();
        if self.labels.is_empty() {
            self.labels = clusters.labels.iter().map(|&l| l as u64).collect();
            self.next = clusters.count() as u64;
            return &self.events[known..];
        }
        assert_eq!(self.labels.len(), clusters.labels.len(), "the same tokens at every observation");
        let mut overlaps: BTreeMap<(u64, usize), usize> = BTreeMap::new();
        for pair in self.labels.iter().copied().zip(clusters.labels.iter().copied()) {
            *overlaps.entry(pair).or_default() += 1;
        }
        let mut identities: Vec<Option<u64>> = vec![None; clusters.count()];
        let stories = stories(&overlaps, clusters.count());
        for story in &stories {
            self.inherit(story, &overlaps, clusters, &mut identities);
        }
        let identities: Vec<u64> = identities.into_iter().map(|kept| kept.unwrap_or_else(|| self.fresh())).collect();
        self.events.extend(stories.iter().filter_map(|story| event(t, story, &identities)));
        self.labels = clusters.labels.iter().map(|&l| identities[l]).collect();
        &self.events[known..]
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Decides which children of a story keep which parent's identity.
    fn inherit(
        &self,
        story: &Story,
        overlaps: &BTreeMap<(u64, usize), usize>,
        clusters: &Clusters,
        identities: &mut [Option<u64>],
    ) {
        // In a merge the shared tokens of a pair are the parent's size, in a split the child's: one rule serves all.
        let mut pairs: Vec<(usize, u64, usize)> = Vec::new();
        for &child in &story.children {
            let shared = |parent: u64| overlaps.get(&(parent, child)).map(|&shared| (shared, parent, child));
            pairs.extend(story.parents.iter().filter_map(|&parent| shared(parent)));
        }
        pairs.sort_by_key(|&(shared, parent, child)| (usize::MAX - shared, parent, child));
        debug_assert!(story.children.iter().all(|&c| c < clusters.count()));
        let mut taken: Vec<u64> = Vec::new();
        for (_, parent, child) in pairs {
            if identities[child].is_none() && !taken.contains(&parent) {
                identities[child] = Some(parent);
                taken.push(parent);
            }
        }
    }
}

/// The components of the graph of shared tokens, each with sorted members, ordered by first child.
fn stories(overlaps: &BTreeMap<(u64, usize), usize>, children: usize) -> Vec<Story> {
    let mut story_of_child: Vec<usize> = (0..children).collect();
    let mut first_child: BTreeMap<u64, usize> = BTreeMap::new();
    for &(parent, child) in overlaps.keys() {
        let first = *first_child.entry(parent).or_insert(child);
        let (a, b) = (story_of_child[first], story_of_child[child]);
        story_of_child.iter_mut().filter(|s| **s == a.max(b)).for_each(|s| *s = a.min(b));
    }
    let mut stories: BTreeMap<usize, Story> = BTreeMap::new();
    for (child, &story) in story_of_child.iter().enumerate() {
        stories.entry(story).or_default().children.push(child);
    }
    for (&parent, &child) in &first_child {
        stories.entry(story_of_child[child]).or_default().parents.push(parent);
    }
    stories.into_values().collect()
}

fn event(time: f64, story: &Story, identities: &[u64]) -> Option<ClusterEvent> {
    let kind = match (story.parents.len(), story.children.len()) {
        (1, 1) => return None,
        (_, 1) => EventKind::Merge,
        (1, _) => EventKind::Split,
        _ => EventKind::Exchange,
    };
    let mut into: Vec<u64> = story.children.iter().map(|&child| identities[child]).collect();
    into.sort_unstable();
    Some(ClusterEvent { time, kind, from: story.parents.clone(), into })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clusters(labels: &[usize]) -> Clusters {
        let mut sizes = vec![0; labels.iter().max().unwrap() + 1];
        labels.iter().for_each(|&l| sizes[l] += 1);
        Clusters { radius: 0.1, labels: labels.to_vec(), centers: vec![vec![0.0]; sizes.len()], sizes }
    }

    fn numbered_by_first_token(raw: &[usize]) -> Vec<usize> {
        let mut seen: Vec<usize> = Vec::new();
        let mut number = |label: &usize| {
            seen.iter().position(|s| s == label).unwrap_or_else(|| {
                seen.push(*label);
                seen.len() - 1
            })
        };
        raw.iter().map(&mut number).collect()
    }

    fn track(history: &[&[usize]]) -> Tracker {
        let mut tracker = Tracker::default();
        for (t, labels) in history.iter().enumerate() {
            tracker.observe(t as f64, &clusters(labels));
        }
        tracker
    }

    proptest! {
        #[test]
        fn identities_always_describe_the_current_partition(
            history in prop::collection::vec(prop::collection::vec(0_usize..5, 12), 1..8),
        ) {
            let mut tracker = Tracker::default();
            let mut ever: Vec<u64> = Vec::new();
            for (t, raw) in history.iter().enumerate() {
                let before = tracker.labels().to_vec();
                let labels = numbered_by_first_token(raw);
                let events = tracker.observe(t as f64, &clusters(&labels)).to_vec();
                let now = tracker.labels();
                for a in 0..12 {
                    for b in 0..12 {
                        prop_assert_eq!(now[a] == now[b], labels[a] == labels[b]);
                    }
                }
                // An identity that is new at this time has never been used before.
                for id in now {
                    prop_assert!(t == 0 || before.contains(id) || !ever.contains(id));
                }
                prop_assert_eq!(events.is_empty(), t == 0 || numbered_by_first_token(
                    &before.iter().map(|&l| l as usize).collect::<Vec<_>>()) == labels);
                ever.extend(now);
            }
        }
    }

    #[test]
    fn the_largest_parent_survives_a_merge_and_the_oldest_on_a_tie() {
        let tracker = track(&[&[0, 1, 1, 2], &[0, 0, 0, 1]]);
        assert_eq!(tracker.labels(), [1, 1, 1, 2]);
        assert_eq!(tracker.events()[0].from, [0, 1]);
        assert_eq!(tracker.events()[0].into, [1]);
        assert_eq!(track(&[&[0, 1], &[0, 0]]).labels(), [0, 0]);
    }

    #[test]
    fn the_largest_child_keeps_the_identity_and_others_are_fresh() {
        let tracker = track(&[&[0, 0, 0], &[0, 1, 1], &[0, 0, 0], &[0, 1, 2]]);
        assert_eq!(tracker.labels(), [0, 2, 3]);
        let kinds: Vec<_> = tracker.events().iter().map(|e| e.kind).collect();
        assert_eq!(kinds, [EventKind::Split, EventKind::Merge, EventKind::Split]);
        assert_eq!((tracker.events()[0].time, &tracker.events()[0].into[..]), (1.0, &[0, 1][..]));
    }

    #[test]
    fn tokens_that_change_sides_are_an_exchange() {
        let tracker = track(&[&[0, 0, 0, 1, 1, 1], &[0, 0, 1, 1, 1, 1]]);
        assert_eq!(tracker.events()[0].kind, EventKind::Exchange);
        assert_eq!(tracker.labels(), [0, 0, 1, 1, 1, 1]);
    }
}
