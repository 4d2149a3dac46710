//! How many tokens span the convex hull, for d <= 3.
//!
//! A token counts as a vertex if it is farther than a tolerance from the hull of the others, so rounding noise on an
//! edge or a face does not create vertices, and clouds that are a point, a segment or a polygon in space need no care.
//! The method needs no facets (Clarkson 1994): keep a set E of vertices; a token is either inside conv(E), or Wolfe's
//! nearest-point method gives a direction in which it sticks out, and the farthest token in that direction is a new
//! vertex. A last pass removes from E what lies in the hull of the rest. Tokens that are strictly farthest in their own
//! direction from the mean or the origin are vertices without further search; on spheres these are all.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::pairs::Columns;
use crate::linalg::{dot, norm, squared_distance};
use crate::tokens::TokensRef;

/// The tolerance of [`hull_vertices`], relative to the distance of the farthest token from the first.
pub const HULL_TOLERANCE: f64 = 1e-9;

/// The number of vertices of the convex hull of the tokens, for d = 1, 2, 3.
///
/// A vertex is farther than [`HULL_TOLERANCE`]·max_i |x_i - x_1| from the hull of the other vertices; equal tokens count
/// once, so all equal: 1, collinear: 2. O(n h) with h vertices, times the few steps of the nearest-point search, after
/// a scan of at worst O(n²).
/// `None` for d > 3 or tokens that are not finite.
///
/// # Example
/// ```
/// use metastable_dynamics::{Tokens, observe::hull::hull_vertices};
/// let square = Tokens::from_rows(&[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.0]]).unwrap();
/// assert_eq!(hull_vertices(square.view()), Some(4));
/// ```
///
/// # References
/// K. Clarkson, "More output-sensitive geometric algorithms", FOCS 1994, section 3;
/// P. Wolfe, "Finding the nearest point in a polytope", 1976.
pub fn hull_vertices(tokens: TokensRef<'_>) -> Option<usize> {
    if tokens.dim() > 3 || !tokens.as_slice().iter().all(|c| c.is_finite()) {
        return None;
    }
    let first = tokens.token(0);
    let extent = tokens.iter().map(|x| squared_distance(x, first)).fold(0.0, f64::max).sqrt();
    if extent == 0.0 {
        return Some(1);
    }
    let tolerance = HULL_TOLERANCE * extent;
    let certain = farthest_in_own_direction(tokens, tolerance);
    let mut vertices: Vec<usize> = (0..tokens.count()).filter(|&i| certain[i]).collect();
    if vertices.is_empty() {
        vertices.push(farthest(tokens, |x| squared_distance(x, first)));
    }
    for i in (0..tokens.count()).filter(|&i| !certain[i]) {
        while let Some(direction) = separation(tokens, &vertices, tokens.token(i), tolerance) {
            let found = farthest(tokens, |x| dot(&direction, x));
            let new = if vertices.contains(&found) { i } else { found };
            vertices.push(new);
            if new == i {
                break;
            }
        }
    }
    Some(prune(tokens, vertices, &certain, tolerance))
}

/// For each token whether it beats all others by more than the tolerance in its direction from the mean or from the
/// origin. O(n²) at worst; a scan ends with the first rival, for inner tokens within the first tile or two.
fn farthest_in_own_direction(tokens: TokensRef<'_>, tolerance: f64) -> Vec<bool> {
    // Offsets from a token keep the digits of small clouds far from the origin.
    let first = tokens.token(0);
    let offsets: Vec<f64> = tokens.iter().flat_map(|x| x.iter().zip(first).map(|(x, f)| x - f)).collect();
    let offsets = TokensRef::new(tokens.dim(), &offsets);
    let columns = Columns::new(offsets);
    let centers = [offsets.mean(), first.iter().map(|f| -f).collect()];
    let beats_all = |i: usize, center: &[f64]| {
        let direction: Vec<f64> = offsets.token(i).iter().zip(center).map(|(x, c)| x - c).collect();
        let limit = dot(&direction, offsets.token(i)) - tolerance * norm(&direction);
        let mut reached = 0;
        columns.products(&direction, 0, |_, tile| {
            reached += tile.iter().filter(|value| **value >= limit).count();
            if reached > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        reached == 1
    };
    let is_farthest = |i: usize| centers.iter().any(|center| beats_all(i, center));
    (0..tokens.count()).into_par_iter().map(is_farthest).collect()
}

/// The first token with the largest value.
fn farthest(tokens: TokensRef<'_>, value: impl Fn(&[f64]) -> f64) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, token) in tokens.iter().enumerate() {
        let value = value(token);
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

/// Removes, in order, the uncertain points within the tolerance of the hull of the rest, and counts what stays.
fn prune(tokens: TokensRef<'_>, mut vertices: Vec<usize>, certain: &[bool], tolerance: f64) -> usize {
    let mut k = 0;
    while k < vertices.len() && vertices.len() > 1 {
        if certain[vertices[k]] {
            k += 1;
            continue;
        }
        let candidate = vertices.remove(k);
        if separation(tokens, &vertices, tokens.token(candidate), tolerance).is_some() {
            vertices.insert(k, candidate);
            k += 1;
        }
    }
    vertices.len()
}

/// Steps of Wolfe's method; it is finite, and in d <= 3 takes a handful.
const MAX_STEPS: usize = 200;

/// A direction in which `point` sticks out of the hull of the vertices by more than the tolerance, if it does.
fn separation(tokens: TokensRef<'_>, vertices: &[usize], point: &[f64], tolerance: f64) -> Option<Vec<f64>> {
    let offset = |k: usize| -> [f64; 3] {
        let mut offset = [0.0; 3];
        offset.iter_mut().zip(tokens.token(vertices[k]).iter().zip(point)).for_each(|(o, (a, b))| *o = a - b);
        offset
    };
    let lowest = |x: &[f64; 3]| -> (usize, f64) {
        let values = vertices.iter().map(|&v| {
            let token = tokens.token(v);
            token.iter().zip(point).zip(x).map(|((a, b), x)| (a - b) * x).sum::<f64>()
        });
        values.enumerate().fold((0, f64::INFINITY), |best, (k, v)| if v < best.1 { (k, v) } else { best })
    };
    let mut corral = Corral { points: vec![offset(0)], weights: vec![1.0] };
    let mut nearest = corral.points[0];
    for _ in 0..MAX_STEPS {
        let distance = norm(&nearest);
        if distance <= tolerance {
            return None;
        }
        let (k, support) = lowest(&nearest);
        // Every vertex lies at least support/distance away along `nearest`: decided before the minimum is exact.
        let new = offset(k);
        if support > tolerance * distance || corral.points.contains(&new) {
            break;
        }
        corral.points.push(new);
        corral.weights.push(0.0);
        nearest = corral.shrink();
    }
    Some(nearest.iter().take(point.len()).map(|c| -c).collect())
}

/// Wolfe's corral: affinely independent points with convex weights.
struct Corral {
    points: Vec<[f64; 3]>,
    weights: Vec<f64>,
}

impl Corral {
    /// Moves to the point of the hull of the corral nearest to the origin, dropping points that leave it.
    fn shrink(&mut self) -> [f64; 3] {
        loop {
            let target = affine_minimizer(&self.points);
            if target.iter().all(|w| *w > 0.0) {
                self.weights = target;
                return self.combine();
            }
            let steps = self.weights.iter().zip(&target).map(|(w, t)| if *t <= 0.0 { w / (w - t) } else { 1.0 });
            let step = steps.filter(|s| !s.is_nan()).fold(1.0, f64::min);
            let moved: Vec<f64> = self.weights.iter().zip(&target).map(|(w, t)| w + step * (t - w)).collect();
            let least =
                moved.iter().zip(&target).filter(|(_, t)| **t <= 0.0).fold(f64::INFINITY, |m, (w, _)| m.min(*w));
            let keep: Vec<bool> = moved.iter().zip(&target).map(|(w, t)| *t > 0.0 || *w > least).collect();
            let kept = |k: &usize| keep[*k];
            self.points = (0..moved.len()).filter(kept).map(|k| self.points[k]).collect();
            self.weights = (0..moved.len()).filter(kept).map(|k| moved[k].max(0.0)).collect();
        }
    }

    fn combine(&self) -> [f64; 3] {
        let mut sum = [0.0; 3];
        for (point, weight) in self.points.iter().zip(&self.weights) {
            sum.iter_mut().zip(point).for_each(|(s, c)| *s += weight * c);
        }
        sum
    }
}

/// The affine weights of the point of the flat through `points` nearest to the origin, by Gram-Schmidt on the edges from
/// the first point; an edge that depends on earlier ones gets weight 0.
fn affine_minimizer(points: &[[f64; 3]]) -> Vec<f64> {
    let base = points[0];
    // Each basis vector remembers how it is made of edges, so that the projection turns back into weights.
    let mut basis: Vec<([f64; 3], Vec<f64>)> = Vec::new();
    for k in 1..points.len() {
        let mut edge = [0.0; 3];
        edge.iter_mut().zip(points[k].iter().zip(&base)).for_each(|(e, (p, b))| *e = p - b);
        let length = norm(&edge);
        let mut made = vec![0.0; points.len()];
        made[k] = 1.0;
        // Twice is enough for orthogonality to rounding (Kahan's rule).
        for _ in 0..2 {
            for (vector, recipe) in &basis {
                let along = dot(&edge, vector);
                edge.iter_mut().zip(vector).for_each(|(e, v)| *e -= along * v);
                made.iter_mut().zip(recipe).for_each(|(m, r)| *m -= along * r);
            }
        }
        let rest = norm(&edge);
        if rest > 1e-13 * length {
            basis.push((edge.map(|e| e / rest), made.iter().map(|m| m / rest).collect()));
        }
    }
    let mut weights = vec![0.0; points.len()];
    for (vector, recipe) in &basis {
        let along = -dot(&base, vector);
        weights.iter_mut().zip(recipe).for_each(|(w, r)| *w += along * r);
    }
    weights[0] = 1.0 - weights[1..].iter().sum::<f64>();
    weights
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random;

    /// Vertices of a planar hull by Andrew's monotone chain, strict turns only.
    fn monotone_chain(tokens: TokensRef<'_>) -> usize {
        let mut points: Vec<(f64, f64)> = tokens.iter().map(|x| (x[0], x[1])).collect();
        points.sort_by(|a, b| a.partial_cmp(b).unwrap());
        points.dedup();
        let half = |points: &[(f64, f64)]| {
            let mut chain: Vec<(f64, f64)> = Vec::new();
            for &p in points {
                while let [.., a, b] = chain[..] {
                    if (b.0 - a.0) * (p.1 - a.1) - (b.1 - a.1) * (p.0 - a.0) > 0.0 {
                        break;
                    }
                    chain.pop();
                }
                chain.push(p);
            }
            chain.len() - 1
        };
        let lower = half(&points);
        points.reverse();
        lower + half(&points)
    }

    proptest! {
        #[test]
        fn planar_hulls_agree_with_the_monotone_chain(n in 3_usize..80, seed in 0_u64..500) {
            let values = random::standard_normal(seed, n, 2);
            let tokens = TokensRef::new(2, &values);
            prop_assert_eq!(hull_vertices(tokens), Some(monotone_chain(tokens)));
        }

        #[test]
        fn an_affine_map_moves_the_vertices_along(n in 1_usize..60, d in 1_usize..4, seed in 0_u64..500) {
            // Lattice points have many collinear and coplanar triples, which the map keeps only up to rounding.
            let values: Vec<f64> = random::uniform(seed, n, d, -2.0, 2.0).iter().map(|v| v.round()).collect();
            let map = random::uniform(seed + 7, d, d, -0.3, 0.3);
            let moved: Vec<f64> = TokensRef::new(d, &values)
                .iter()
                .flat_map(|x| {
                    let row = |i: usize| 5.0 + x[i] + dot(&map[i * d..(i + 1) * d], x);
                    (0..d).map(row).collect::<Vec<_>>()
                })
                .collect();
            let here = hull_vertices(TokensRef::new(d, &values));
            prop_assert_eq!(hull_vertices(TokensRef::new(d, &moved)), here);
        }

        #[test]
        fn points_of_a_sphere_are_all_vertices(n in 1_usize..60, d in 2_usize..4, seed in 0_u64..500) {
            let values = random::sphere(seed, n, d);
            prop_assert_eq!(hull_vertices(TokensRef::new(d, &values)), Some(n));
        }
    }

    #[test]
    fn a_small_cloud_far_away_keeps_its_vertices() {
        // A lattice of 3 x 3 x 3 points of step 2^-20 at distance 1e5, all exact in f64: a cube.
        let at = |k: usize| 1e5 + (k % 3) as f64 * 2.0_f64.powi(-20);
        let cube: Vec<f64> = (0..27).flat_map(|k| [at(k), at(k / 3), at(k / 9)]).collect();
        assert_eq!(hull_vertices(TokensRef::new(3, &cube)), Some(8));
    }

    #[test]
    fn flat_clouds_in_space_keep_their_vertices() {
        // A unit lattice of 4 x 4 points in a tilted plane, three times over: a square.
        let mut square = Vec::new();
        for k in 0..48 {
            let (a, b) = (f64::from(k % 4) / 3.0, f64::from(k / 4 % 4) / 3.0);
            square.extend([a + 0.1 * b, 0.7 * b - a, 0.3 * a + 0.9 * b]);
        }
        assert_eq!(hull_vertices(TokensRef::new(3, &square)), Some(4));
        let line: Vec<f64> = (0..9).flat_map(|k| [0.1, 0.2, 0.3].map(|c| c * f64::from(k))).collect();
        assert_eq!(hull_vertices(TokensRef::new(3, &line)), Some(2));
        assert_eq!(hull_vertices(TokensRef::new(3, &[0.3; 12])), Some(1));
        assert_eq!(hull_vertices(TokensRef::new(1, &[2.0, 1.0, 5.0, 5.0])), Some(2));
        assert_eq!(hull_vertices(TokensRef::new(4, &[0.3; 12])), None);
    }
}
