//! Clusters: single linkage at a stated radius.
//!
//! Not here: how clusters persist in time, see [`super::tracking`].

use std::collections::HashMap;
use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::pairs::{Columns, extremes};
use crate::linalg::squared_distance;
use crate::tokens::TokensRef;

/// The clusters of one cloud at one radius.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clusters {
    /// The linkage radius.
    pub radius: f64,
    /// The cluster of each token, \[n\]; clusters are numbered by their first token.
    pub labels: Vec<usize>,
    /// The mean of each cluster's tokens, [k, d].
    pub centers: Vec<Vec<f64>>,
    /// How many tokens each cluster holds, \[k\].
    pub sizes: Vec<usize>,
}

impl Clusters {
    /// The number k of clusters.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// The share of the tokens in the largest cluster, in (0, 1]; 0 without tokens.
    pub fn max_mass(&self) -> f64 {
        let largest = self.sizes.iter().copied().max().unwrap_or(0);
        largest as f64 / self.labels.len().max(1) as f64
    }
}

/// The connected components of the graph that joins i and j when |x_i - x_j| <= radius.
///
/// `tokens`: n points of R^d. A token with an entry that is not finite is a cluster of its own.
/// Distances compare as sum_k (x_ik - x_jk)² <= radius². A negative or NaN radius joins nothing; radius 0 joins equal
/// tokens. Costs about O(n) for d <= 3 (cells whose tokens are all within the radius of each other) and O(n² d) above.
/// The result does not depend on the number of threads.
///
/// # Example
/// ```
/// use metastable_dynamics::{Tokens, observe::clusters::single_linkage};
/// let tokens = Tokens::from_rows(&[[0.0], [1.0], [0.09], [0.18]]).unwrap();
/// let clusters = single_linkage(tokens.view(), 0.1);
/// assert_eq!(clusters.labels, [0, 1, 0, 0]);
/// assert_eq!(clusters.sizes, [3, 1]);
/// ```
///
/// # References
/// P. Sneath, "The application of computers to taxonomy", 1957 (single linkage, cut at a height).
pub fn single_linkage(tokens: TokensRef<'_>, radius: f64) -> Clusters {
    let mut forest = Forest::new(tokens.count());
    if radius >= 0.0 {
        let finite: Vec<usize> =
            (0..tokens.count()).filter(|&i| tokens.token(i).iter().all(|v| v.is_finite())).collect();
        match cell_side(tokens, &finite, radius) {
            Some(grid) => link_by_cells(tokens, &finite, radius, &grid, &mut forest),
            None => link_by_pairs(tokens, &finite, radius, &mut forest),
        }
    }
    summarize(tokens, radius, &mut forest)
}

fn summarize(tokens: TokensRef<'_>, radius: f64, forest: &mut Forest) -> Clusters {
    let mut label_of_root: HashMap<usize, usize> = HashMap::new();
    let (mut labels, mut centers, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for (i, token) in tokens.iter().enumerate() {
        let root = forest.root(i);
        let label = *label_of_root.entry(root).or_insert(sizes.len());
        if label == sizes.len() {
            sizes.push(0);
            centers.push(vec![0.0; tokens.dim()]);
        }
        labels.push(label);
        sizes[label] += 1;
        centers[label].iter_mut().zip(token).for_each(|(sum, c)| *sum += c);
    }
    for (center, size) in centers.iter_mut().zip(&sizes) {
        center.iter_mut().for_each(|c| *c /= *size as f64);
    }
    Clusters { radius, labels, centers, sizes }
}

/// A disjoint-set forest with path halving; the smaller root wins.
struct Forest {
    parent: Vec<usize>,
}

impl Forest {
    fn new(count: usize) -> Self {
        Self { parent: (0..count).collect() }
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.parent[i] != i {
            self.parent[i] = self.parent[self.parent[i]];
            i = self.parent[i];
        }
        i
    }

    fn join(&mut self, i: usize, j: usize) {
        let (a, b) = (self.root(i), self.root(j));
        self.parent[a.max(b)] = a.min(b);
    }
}

/// A grid whose cells have a diagonal just below the radius.
struct Grid {
    origin: [f64; 3],
    side: f64,
}

type Cell = [i64; 3];

impl Grid {
    fn cell(&self, token: &[f64]) -> Cell {
        let mut cell = [0; 3];
        for (k, c) in token.iter().enumerate() {
            cell[k] = ((c - self.origin[k]) / self.side).floor() as i64;
        }
        cell
    }
}

/// Cells are smaller than radius/sqrt(d) by this share; it covers the rounding of cell numbers below 2^31,
/// whose error is at most 2^31 · 4 eps = 2e-6 cells.
const CELL_SLACK: f64 = 1e-5;

/// The grid for d <= 3; none where cell numbers would exceed 2^31 (then every pair is looked at).
fn cell_side(tokens: TokensRef<'_>, finite: &[usize], radius: f64) -> Option<Grid> {
    let side = radius / (tokens.dim() as f64).sqrt() * (1.0 - CELL_SLACK);
    if tokens.dim() > 3 || side <= 0.0 || !side.is_finite() {
        return None;
    }
    let mut origin = [0.0; 3];
    for (k, corner) in origin.iter_mut().enumerate().take(tokens.dim()) {
        let along = finite.iter().map(|&i| tokens.token(i)[k]);
        let (low, high) = along.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), c| (l.min(c), h.max(c)));
        if (high - low) / side >= f64::from(1_u32 << 31) {
            return None;
        }
        *corner = low;
    }
    Some(Grid { origin, side })
}

/// Tokens of one cell are joined at once. Two cells can only touch if their numbers differ by at most 2 in each
/// coordinate (sqrt(3)·(1 + slack) < 2); one pair within the radius joins them, so the search stops at the first.
fn link_by_cells(tokens: TokensRef<'_>, finite: &[usize], radius: f64, grid: &Grid, forest: &mut Forest) {
    let mut keyed: Vec<(Cell, usize)> = finite.iter().map(|&i| (grid.cell(tokens.token(i)), i)).collect();
    keyed.sort_unstable();
    let cells: Vec<&[(Cell, usize)]> = keyed.chunk_by(|a, b| a.0 == b.0).collect();
    let index: HashMap<Cell, usize> = cells.iter().enumerate().map(|(c, members)| (members[0].0, c)).collect();
    for members in &cells {
        members.iter().for_each(|(_, i)| forest.join(members[0].1, *i));
    }
    let boxes: Vec<Bounds> = cells.iter().map(|members| bounds(tokens, members)).collect();
    let steps = forward_steps(tokens.dim());
    for (c, members) in cells.iter().enumerate() {
        let cell = members[0].0;
        for step in &steps {
            let Some(&other) = index.get(&[cell[0] + step[0], cell[1] + step[1], cell[2] + step[2]]) else { continue };
            let (a, b) = (members[0].1, cells[other][0].1);
            if forest.root(a) != forest.root(b)
                && near(&boxes[c], &boxes[other], radius)
                && touch(tokens, members, cells[other], radius)
            {
                forest.join(a, b);
            }
        }
    }
}

/// Steps to the neighbours of a cell that follow it in lexicographic order, nearest first.
fn forward_steps(d: usize) -> Vec<Cell> {
    let reach = |k: usize| if k < d { -2..=2_i64 } else { 0..=0 };
    let mut steps: Vec<Cell> = reach(0)
        .flat_map(|a| reach(1).flat_map(move |b| reach(2).map(move |c| [a, b, c])))
        .filter(|step| *step > [0, 0, 0])
        .collect();
    steps.sort_by_key(|s| (s[0] * s[0] + s[1] * s[1] + s[2] * s[2], *s));
    steps
}

/// The smallest box around some tokens: (low, high) a coordinate.
type Bounds = [(f64, f64); 3];

fn bounds(tokens: TokensRef<'_>, members: &[(Cell, usize)]) -> Bounds {
    let mut bounds = [(0.0, 0.0); 3];
    for (k, bound) in bounds.iter_mut().enumerate().take(tokens.dim()) {
        let along = members.iter().map(|(_, i)| tokens.token(*i)[k]);
        *bound = along.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), c| (l.min(c), h.max(c)));
    }
    bounds
}

/// Whether two boxes come within the radius of each other, with room for rounding.
fn near(a: &Bounds, b: &Bounds, radius: f64) -> bool {
    let gap = |(l, h): (f64, f64), (m, g): (f64, f64)| (m - h).max(l - g).max(0.0);
    let squared: f64 = a.iter().zip(b).map(|(a, b)| gap(*a, *b) * gap(*a, *b)).sum();
    squared <= radius * radius * (1.0 + CELL_SLACK)
}

fn touch(tokens: TokensRef<'_>, a: &[(Cell, usize)], b: &[(Cell, usize)], radius: f64) -> bool {
    let limit = radius * radius;
    a.iter().any(|(_, i)| {
        let x = tokens.token(*i);
        b.iter().any(|(_, j)| squared_distance(x, tokens.token(*j)) <= limit)
    })
}

/// Rows per round of the pair scan: bounds the memory of a round to this many lists of neighbours.
const ROWS_PER_ROUND: usize = 128;

/// Looks at every pair; the rows of a round run in parallel and skip what earlier rounds have joined already.
fn link_by_pairs(tokens: TokensRef<'_>, finite: &[usize], radius: f64, forest: &mut Forest) {
    let gathered: Vec<f64> = finite.iter().flat_map(|&i| tokens.token(i).iter().copied()).collect();
    let columns = Columns::new(TokensRef::new(tokens.dim(), &gathered));
    let limit = radius * radius;
    for low in (0..finite.len()).step_by(ROWS_PER_ROUND) {
        let roots: Vec<usize> = finite.iter().map(|&i| forest.root(i)).collect();
        let rows = low..(low + ROWS_PER_ROUND).min(finite.len());
        let joined: Vec<Vec<usize>> = rows
            .clone()
            .into_par_iter()
            .map(|i| {
                let mut neighbours = Vec::new();
                columns.squared_distances(tokens.token(finite[i]), i + 1, |start, tile| {
                    if extremes(tile).0 <= limit {
                        let near =
                            (start..).zip(tile).filter(|(j, squared)| **squared <= limit && roots[*j] != roots[i]);
                        neighbours.extend(near.map(|(j, _)| j));
                    }
                    ControlFlow::Continue(())
                });
                neighbours
            })
            .collect();
        for (i, neighbours) in rows.zip(joined) {
            neighbours.into_iter().for_each(|j| forest.join(finite[i], finite[j]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random;

    /// Single linkage straight from its definition: relax labels over all pairs until nothing changes.
    fn naive_labels(tokens: TokensRef<'_>, radius: f64) -> Vec<usize> {
        let n = tokens.count();
        let mut group: Vec<usize> = (0..n).collect();
        loop {
            let before = group.clone();
            for i in 0..n {
                for j in 0..n {
                    if squared_distance(tokens.token(i), tokens.token(j)) <= radius * radius {
                        let least = group[i].min(group[j]);
                        (group[i], group[j]) = (least, least);
                    }
                }
            }
            if group == before {
                let mut firsts: Vec<usize> = group.clone();
                firsts.sort_unstable();
                firsts.dedup();
                return group.iter().map(|g| firsts.iter().position(|f| f == g).unwrap()).collect();
            }
        }
    }

    fn cloud() -> impl Strategy<Value = (usize, Vec<f64>, f64)> {
        (1_usize..6, 1_usize..40, 0.0..0.6_f64, 0_u64..1000).prop_map(|(d, n, radius, seed)| {
            // Half of the clouds sit on a lattice of step 1/8, so that distances tie with the radius exactly.
            let mut values = random::uniform(seed, n, d, -1.0, 1.0);
            let lattice = seed % 2 == 0;
            if lattice {
                values.iter_mut().for_each(|v| *v = (*v * 8.0).round() / 8.0);
            }
            (d, values, if lattice { (radius * 8.0).round() / 8.0 } else { radius })
        })
    }

    proptest! {
        #[test]
        fn clusters_are_the_components_of_the_distance_graph((d, values, radius) in cloud()) {
            let tokens = TokensRef::new(d, &values);
            let clusters = single_linkage(tokens, radius);
            prop_assert_eq!(&clusters.labels, &naive_labels(tokens, radius));
            prop_assert_eq!(clusters.sizes.iter().sum::<usize>(), tokens.count());
        }

        #[test]
        fn clusters_follow_a_permutation_of_the_tokens((d, values, radius) in cloud(), shift in 0_usize..40) {
            let tokens = TokensRef::new(d, &values);
            let n = tokens.count();
            let order: Vec<usize> = (0..n).map(|i| (n - 1 - i + shift) % n).collect();
            let moved: Vec<f64> = order.iter().flat_map(|&i| tokens.token(i).to_vec()).collect();
            let here = single_linkage(tokens, radius).labels;
            let there = single_linkage(TokensRef::new(d, &moved), radius).labels;
            for a in 0..n {
                for b in 0..n {
                    prop_assert_eq!(there[a] == there[b], here[order[a]] == here[order[b]]);
                }
            }
        }
    }

    #[test]
    fn tokens_that_are_not_finite_are_alone() {
        for d in [2, 5] {
            let mut values = vec![0.0; 6 * d];
            (values[0], values[d], values[2 * d]) = (f64::NAN, f64::INFINITY, f64::INFINITY);
            for radius in [0.1, f64::INFINITY] {
                let clusters = single_linkage(TokensRef::new(d, &values), radius);
                assert_eq!(clusters.labels, [0, 1, 2, 3, 3, 3], "d = {d}, radius = {radius}");
            }
        }
    }

    #[test]
    fn a_radius_far_below_the_extent_still_joins_equal_tokens() {
        let values = [1e30, -1e30, 1e30, 0.0, 1e-3];
        assert_eq!(single_linkage(TokensRef::new(1, &values), 1e-2).labels, [0, 1, 0, 2, 2]);
        assert_eq!(single_linkage(TokensRef::new(1, &values), 0.0).labels, [0, 1, 0, 2, 3]);
        assert_eq!(single_linkage(TokensRef::new(1, &values), f64::NAN).count(), 5);
    }

    #[test]
    fn the_largest_cluster_has_the_largest_mass() {
        let clusters = single_linkage(TokensRef::new(1, &[0.0, 5.0, 5.01, 9.0]), 0.1);
        assert_eq!((clusters.count(), clusters.max_mass()), (3, 0.5));
        assert_eq!(clusters.centers[1], [5.005]);
    }
}
