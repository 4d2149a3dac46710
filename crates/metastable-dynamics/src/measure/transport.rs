//! Distances between two clouds of n equal weights: paired, and W2 by optimal assignment.
//!
//! The assignment solver is ours. The crates that exist solve less: `lapjv` returns no potentials (so neither a proof of
//! optimality nor a warm start along a trajectory) and pulls in an array library; `pathfinding` wants totally ordered
//! integer-like weights. The algorithm is short.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::DynamicsError;
use crate::linalg::squared_distance;
use crate::tokens::TokensRef;

/// Distances |x_i - y_i| between tokens of equal index.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedDistance {
    /// max_i |x_i - y_i|.
    pub max: f64,
    /// sqrt((1/n) sum_i |x_i - y_i|²).
    pub rms: f64,
}

/// The paired distances of two clouds [n, d]; infinite if an entry is not finite. O(n d).
///
/// # Errors
/// [`DynamicsError::Shape`] unless both clouds have the same n and d.
pub fn paired(x: TokensRef<'_>, y: TokensRef<'_>) -> Result<PairedDistance, DynamicsError> {
    require_same_shape(x, y)?;
    let (mut largest, mut sum) = (0.0_f64, 0.0);
    for (a, b) in x.iter().zip(y.iter()) {
        let squared = squared_distance(a, b);
        let squared = if squared.is_nan() { f64::INFINITY } else { squared };
        largest = largest.max(squared);
        sum += squared;
    }
    Ok(PairedDistance { max: largest.sqrt(), rms: (sum / x.count() as f64).sqrt() })
}

/// An optimal assignment between two clouds, with the numbers that prove it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transport {
    /// W2(x, y) = sqrt((1/n) sum_i |x_i - y_{assignment(i)}|²).
    pub distance: f64,
    /// What the potentials prove: W2 >= `lower_bound`; equal to `distance` up to rounding.
    pub lower_bound: f64,
    /// The partner in y of each token of x, a permutation of 0..n.
    pub assignment: Vec<usize>,
    /// The dual potentials of the tokens of y; start the next call of a series with them.
    pub potentials: Vec<f64>,
}

/// The exact W2 distance between the empirical measures of two clouds of n tokens.
///
/// W2² = min over permutations s of (1/n) sum_i |x_i - y_{s(i)}|², by shortest augmenting paths with potentials.
/// O(n² d) for the costs, O(n³) at worst for the paths, 8 n² bytes. Deterministic. Rounding: the cost of the assignment
/// exceeds the optimum by at most about n·eps·max|x_i - y_j|², and never the cost of the identity.
///
/// # Errors
/// [`DynamicsError::Shape`] unless both clouds have the same n and d; [`DynamicsError::NotFinite`] if an entry (or the
/// square of a distance) is not finite.
///
/// # Example
/// ```
/// use metastable_dynamics::{Tokens, measure::transport::wasserstein2};
/// let x = Tokens::from_rows(&[[0.0], [1.0]]).unwrap();
/// let y = Tokens::from_rows(&[[1.5], [0.5]]).unwrap();
/// let transport = wasserstein2(x.view(), y.view()).unwrap();
/// assert_eq!((transport.distance, &transport.assignment[..]), (0.5, &[1, 0][..]));
/// ```
///
/// # References
/// J. Edmonds and R. Karp, 1972; R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse
/// linear assignment problems", 1987. That permutations suffice for equal weights is Birkhoff's theorem.
pub fn wasserstein2(x: TokensRef<'_>, y: TokensRef<'_>) -> Result<Transport, DynamicsError> {
    wasserstein2_from(x, y, &vec![0.0; y.count()])
}

/// [`wasserstein2`], started from the potentials of a similar pair of clouds: same distance, less work.
///
/// # Errors
/// As [`wasserstein2`]; also [`DynamicsError::Shape`] unless there are n potentials, and [`DynamicsError::NotFinite`].
pub fn wasserstein2_from(x: TokensRef<'_>, y: TokensRef<'_>, potentials: &[f64]) -> Result<Transport, DynamicsError> {
    require_same_shape(x, y)?;
    let n = x.count();
    if potentials.len() != n {
        return Err(DynamicsError::shape("potentials", format!("[{n}]"), potentials.len()));
    }
    crate::error::require_finite("potentials", potentials)?;
    let mut costs = vec![0.0; n * n];
    costs.par_chunks_exact_mut(n).enumerate().for_each(|(i, row)| {
        row.iter_mut().zip(y.iter()).for_each(|(cost, b)| *cost = squared_distance(x.token(i), b));
    });
    crate::error::require_finite("squared distances", &costs)?;
    let mut matching = Matching::start(&costs, n, potentials);
    for row in 0..n {
        if matching.column_of[row] == FREE {
            matching.augment(row);
        }
    }
    Ok(matching.finish())
}

fn require_same_shape(x: TokensRef<'_>, y: TokensRef<'_>) -> Result<(), DynamicsError> {
    let shape = |tokens: TokensRef<'_>| format!("[{}, {}]", tokens.count(), tokens.dim());
    if shape(x) == shape(y) {
        return Ok(());
    }
    Err(DynamicsError::shape("second cloud", shape(x), shape(y)))
}

const FREE: usize = usize::MAX;

/// A partial matching of rows and columns with feasible potentials: cost(i, j) >= u_i + v_j, equal when matched.
struct Matching<'a> {
    n: usize,
    costs: &'a [f64],
    u: Vec<f64>,
    v: Vec<f64>,
    column_of: Vec<usize>,
    row_of: Vec<usize>,
    /// Scratch of one search: tentative path length, predecessor row and state of each column.
    length: Vec<f64>,
    from: Vec<usize>,
    open: Vec<usize>,
}

impl<'a> Matching<'a> {
    /// Takes column potentials, the best row potentials for them, and every tight edge that is still free.
    fn start(costs: &'a [f64], n: usize, potentials: &[f64]) -> Self {
        let mut matching = Self {
            n,
            costs,
            u: vec![0.0; n],
            v: potentials.to_vec(),
            column_of: vec![FREE; n],
            row_of: vec![FREE; n],
            length: vec![0.0; n],
            from: vec![FREE; n],
            open: Vec::with_capacity(n),
        };
        for i in 0..n {
            let reduced = |j: usize| costs[i * n + j] - matching.v[j];
            // The own partner first, so that a cloud and its small displacement match by identity.
            let mut best = i;
            for j in 0..n {
                if reduced(j) < reduced(best) {
                    best = j;
                }
            }
            matching.u[i] = reduced(best);
            if matching.row_of[best] == FREE {
                matching.row_of[best] = i;
                matching.column_of[i] = best;
            }
        }
        matching
    }

    /// Matches `row` along a shortest path of reduced costs to a free column (Dijkstra), then repairs the potentials.
    fn augment(&mut self, row: usize) {
        self.length.fill(f64::INFINITY);
        self.open.clear();
        self.open.extend(0..self.n);
        let mut closed = Vec::new();
        let (mut current, mut reached) = (row, 0.0);
        let end = loop {
            let costs = &self.costs[current * self.n..][..self.n];
            let (mut nearest, mut shortest, mut is_free) = (0, f64::INFINITY, false);
            for (position, &j) in self.open.iter().enumerate() {
                let length = reached + (costs[j] - self.u[current] - self.v[j]).max(0.0);
                if length < self.length[j] {
                    self.length[j] = length;
                    self.from[j] = current;
                }
                let free = self.row_of[j] == FREE;
                // Among equally near columns a free one ends the search.
                if self.length[j] < shortest || (self.length[j] == shortest && free && !is_free) {
                    (nearest, shortest, is_free) = (position, self.length[j], free);
                }
            }
            let column = self.open.swap_remove(nearest);
            reached = shortest;
            if is_free {
                break column;
            }
            closed.push(column);
            current = self.row_of[column];
        };
        self.u[row] += reached;
        for &j in &closed {
            let slack = reached - self.length[j];
            self.v[j] -= slack;
            self.u[self.row_of[j]] += slack;
        }
        self.flip(row, end);
    }

    /// Swaps matched and unmatched edges along the path found, from its free column back to `row`.
    fn flip(&mut self, row: usize, end: usize) {
        let mut column = end;
        loop {
            let i = self.from[column];
            self.row_of[column] = i;
            std::mem::swap(&mut self.column_of[i], &mut column);
            if i == row {
                return;
            }
        }
    }

    fn finish(self) -> Transport {
        let n = self.n;
        let cost =
            |assignment: &[usize]| -> f64 { assignment.iter().enumerate().map(|(i, &j)| self.costs[i * n + j]).sum() };
        let identity: Vec<usize> = (0..n).collect();
        // Equal up to rounding when both are optimal; then the identity is the plainer answer.
        let assignment = if cost(&identity) <= cost(&self.column_of) { identity } else { self.column_of.clone() };
        // Row minima make the potentials feasible whatever rounding did to them.
        let least = |i: usize| (0..n).map(|j| self.costs[i * n + j] - self.v[j]).fold(f64::INFINITY, f64::min);
        let dual: f64 = (0..n).map(least).sum::<f64>() + self.v.iter().sum::<f64>();
        let root_mean = |sum: f64| (sum.max(0.0) / n as f64).sqrt();
        Transport {
            distance: root_mean(cost(&assignment)),
            lower_bound: root_mean(dual),
            assignment,
            potentials: self.v,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random;

    fn clouds(count: u64) -> impl Strategy<Value = (usize, Vec<Vec<f64>>)> {
        (1_usize..4, 1_usize..40, 0_u64..1000, any::<bool>()).prop_map(move |(d, n, seed, lattice)| {
            // Lattice clouds have many ties and repeated tokens, as after clustering.
            let draw = |k: u64| -> Vec<f64> {
                let values = random::standard_normal(seed * 10 + k, n, d);
                values.into_iter().map(|v| if lattice { v.round() } else { v }).collect()
            };
            (d, (0..count).map(draw).collect())
        })
    }

    fn w2(d: usize, x: &[f64], y: &[f64]) -> Transport {
        wasserstein2(TokensRef::new(d, x), TokensRef::new(d, y)).unwrap()
    }

    /// The squared distances are at most about 100 and n is at most 40: n·eps·100 = 1e-12 for squared distances, and
    /// this much for distances, which are compared as squares.
    const SQUARED_TOLERANCE: f64 = 1e-12;

    proptest! {
        #[test]
        fn the_potentials_prove_the_assignment_optimal((d, c) in clouds(2)) {
            let transport = w2(d, &c[0], &c[1]);
            let gap = transport.distance.powi(2) - transport.lower_bound.powi(2);
            prop_assert!(gap.abs() < SQUARED_TOLERANCE, "{gap}");
            let mut hit = transport.assignment.clone();
            hit.sort_unstable();
            prop_assert_eq!(hit, (0..transport.assignment.len()).collect::<Vec<_>>());
        }

        #[test]
        fn w2_is_a_metric_on_clouds((d, c) in clouds(3)) {
            let (xy, yz, xz) = (w2(d, &c[0], &c[1]), w2(d, &c[1], &c[2]), w2(d, &c[0], &c[2]));
            // A squared error of 1e-12 is an error of 1e-6 only at distance 0, where both sides vanish together.
            prop_assert!(xz.distance <= xy.distance + yz.distance + 1e-12);
            let back = w2(d, &c[1], &c[0]).distance;
            prop_assert!((back.powi(2) - xy.distance.powi(2)).abs() < SQUARED_TOLERANCE);
            prop_assert_eq!(w2(d, &c[0], &c[0]).distance, 0.0);
        }

        #[test]
        fn w2_ignores_the_order_of_tokens_and_pairing_does_not((d, c) in clouds(2), shift in 0_usize..40) {
            let n = c[0].len() / d;
            let mut moved = c[1].clone();
            moved.rotate_left(d * (shift % n));
            let (a, b) = (w2(d, &c[0], &c[1]).distance, w2(d, &c[0], &moved).distance);
            prop_assert!((a * a - b * b).abs() < SQUARED_TOLERANCE);
            let pairs = paired(TokensRef::new(d, &c[0]), TokensRef::new(d, &moved)).unwrap();
            prop_assert!(b <= pairs.rms && pairs.rms <= pairs.max * (1.0 + 1e-15));
        }

        #[test]
        fn on_the_line_sorted_tokens_match((_, c) in clouds(2)) {
            let (mut x, mut y) = (c[0].clone(), c[1].clone());
            let found = w2(1, &x, &y).distance;
            x.sort_by(f64::total_cmp);
            y.sort_by(f64::total_cmp);
            let sorted: f64 = x.iter().zip(&y).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / x.len() as f64;
            prop_assert!((found * found - sorted).abs() < SQUARED_TOLERANCE * c[0].len() as f64);
        }

        #[test]
        fn any_starting_potentials_give_the_same_distance((d, c) in clouds(2), seed in 0_u64..100) {
            let (x, y) = (TokensRef::new(d, &c[0]), TokensRef::new(d, &c[1]));
            let cold = wasserstein2(x, y).unwrap();
            let start = random::standard_normal(seed, y.count(), 1);
            let warm = wasserstein2_from(x, y, &start).unwrap();
            prop_assert!((warm.distance.powi(2) - cold.distance.powi(2)).abs() < SQUARED_TOLERANCE);
        }
    }

    #[test]
    fn small_displacements_match_by_identity_and_keep_their_digits() {
        let x = random::standard_normal(1, 50, 3);
        let y: Vec<f64> = x.iter().map(|v| v + 1e-9).collect();
        let transport = w2(3, &x, &y);
        // The displacement is rounded to eps·|x| = 5e-16 per entry, 5e-7 of itself.
        assert!((transport.distance / (3.0_f64.sqrt() * 1e-9) - 1.0).abs() < 1e-6);
        assert_eq!(transport.assignment, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn clouds_that_do_not_fit_are_refused() {
        let (x, y) = (TokensRef::new(1, &[0.0, 1.0]), TokensRef::new(2, &[0.0, 1.0]));
        assert!(matches!(wasserstein2(x, y), Err(DynamicsError::Shape { .. })));
        assert!(matches!(paired(x, y), Err(DynamicsError::Shape { .. })));
        assert!(matches!(wasserstein2_from(x, x, &[0.0]), Err(DynamicsError::Shape { .. })));
        let escaped = TokensRef::new(1, &[f64::NAN, 1.0]);
        assert!(matches!(wasserstein2(x, escaped), Err(DynamicsError::NotFinite { .. })));
        assert_eq!(paired(x, escaped).unwrap().max, f64::INFINITY);
    }
}
