//! All pairs of a cloud, a tile at a time: the quadratic kernel that several observables share.

use std::ops::ControlFlow;

use crate::tokens::TokensRef;

/// Columns per tile; one tile of results (2 KiB) stays in the first-level cache.
const TILE: usize = 256;

/// A cloud stored coordinate after coordinate, so that tiles of pairs vectorise for every d.
pub(crate) struct Columns {
    count: usize,
    dim: usize,
    values: Vec<f64>,
}

impl Columns {
    /// Transposes a cloud. O(n d).
    pub(crate) fn new(tokens: TokensRef<'_>) -> Self {
        let (count, dim) = (tokens.count(), tokens.dim());
        let mut values = vec![0.0; count * dim];
        for (i, token) in tokens.iter().enumerate() {
            for (k, coordinate) in token.iter().enumerate() {
                values[k * count + i] = *coordinate;
            }
        }
        Self { count, dim, values }
    }

    /// Calls `visit(j, [|x - x_j|², |x - x_{j+1}|², ...])` for tiles of all j >= `start`, in order, until it breaks.
    /// O((n - start) d).
    pub(crate) fn squared_distances(
        &self,
        x: &[f64],
        start: usize,
        visit: impl FnMut(usize, &[f64]) -> ControlFlow<()>,
    ) {
        self.scan(x, start, |a, b| (a - b) * (a - b), visit);
    }

    /// Calls `visit(j, [<x, x_j>, <x, x_{j+1}>, ...])` for tiles of all j >= `start`, in order, until it breaks.
    /// O((n - start) d).
    pub(crate) fn products(&self, x: &[f64], start: usize, visit: impl FnMut(usize, &[f64]) -> ControlFlow<()>) {
        self.scan(x, start, |a, b| a * b, visit);
    }

    fn scan(
        &self,
        x: &[f64],
        start: usize,
        term: impl Fn(f64, f64) -> f64,
        mut visit: impl FnMut(usize, &[f64]) -> ControlFlow<()>,
    ) {
        let mut tile = [0.0; TILE];
        for low in (start..self.count).step_by(TILE) {
            let width = TILE.min(self.count - low);
            let tile = &mut tile[..width];
            tile.fill(0.0);
            for (k, a) in x.iter().enumerate().take(self.dim) {
                let column = &self.values[k * self.count + low..][..width];
                for (sum, b) in tile.iter_mut().zip(column) {
                    *sum += term(*a, *b);
                }
            }
            if visit(low, tile).is_break() {
                return;
            }
        }
    }
}

/// The smallest and the largest of some numbers; (inf, -inf) of none. Lanes keep comparisons independent of each other.
pub(crate) fn extremes(values: &[f64]) -> (f64, f64) {
    const LANES: usize = 8;
    let (mut low, mut high) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    let mut take = |k: usize, value: f64| {
        low[k] = if value < low[k] { value } else { low[k] };
        high[k] = if value > high[k] { value } else { high[k] };
    };
    for chunk in chunks {
        chunk.iter().enumerate().for_each(|(k, value)| take(k, *value));
    }
    rest.iter().enumerate().for_each(|(k, value)| take(k, *value));
    (low.into_iter().fold(f64::INFINITY, f64::min), high.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::{dot, squared_distance};
    use crate::random;

    #[test]
    fn extremes_are_the_smallest_and_the_largest() {
        for n in [1, 7, 8, 9, 40] {
            let values = random::standard_normal(n as u64, n, 1);
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(extremes(&values), (low, high));
        }
        assert_eq!(extremes(&[]), (f64::INFINITY, f64::NEG_INFINITY));
    }

    #[test]
    fn tiles_give_the_plain_sums_to_the_bit() {
        let (n, d) = (600, 5);
        let values = random::standard_normal(3, n, d);
        let tokens = TokensRef::new(d, &values);
        let columns = Columns::new(tokens);
        for i in [0, 255, 256, 599] {
            let x = tokens.token(i);
            let mut seen = Vec::new();
            columns.squared_distances(x, i, |j, tile| {
                for (j, value) in (j..).zip(tile) {
                    assert_eq!(*value, squared_distance(x, tokens.token(j)));
                    seen.push(j);
                }
                ControlFlow::Continue(())
            });
            assert_eq!(seen, (i..n).collect::<Vec<_>>());
            columns.products(x, 0, |j, tile| {
                (j..).zip(tile).for_each(|(j, value)| assert_eq!(*value, dot(x, tokens.token(j))));
                ControlFlow::Continue(())
            });
        }
    }
}
