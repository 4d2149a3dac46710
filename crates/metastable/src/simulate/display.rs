//! What the page draws: positions in at most three dimensions, attention maps of at most 64 rows.

use metastable_dynamics::attention::{AttentionKernel, Projections, streaming};
use metastable_dynamics::{DynamicsError, Matrix};

use crate::render::{AttentionMaps, Cloud};

/// Attention maps have at most this many rows.
const MOST_ROWS: usize = 64;
/// Attention maps are made for clouds up to this size: each costs O(n²) per saved time.
const MOST_TOKENS: usize = 2048;
/// A level is round(255·weight^GAMMA), so that small weights can be told from none.
pub const GAMMA: f64 = 0.5;

/// A linear map from R^d to the drawn space.
#[derive(Debug, Clone)]
pub struct Projection {
    /// [k, d], k <= 3; none if tokens are drawn as they are.
    axes: Option<Matrix>,
    dim: usize,
    /// The sentence for the report.
    pub statement: Option<String>,
}

impl Projection {
    /// Tokens as they are for d <= 3; else the three leading principal axes of all given states together.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn of(d: usize, states: &[&[f64]]) -> Result<Self, DynamicsError> {
        if d <= 3 {
            return Ok(Self { axes: None, dim: d, statement: None });
        }
        let tokens = || states.iter().flat_map(|state| state.chunks_exact(d));
        let count = tokens().count() as f64;
        let mut mean = vec![0.0; d];
        tokens().for_each(|x| mean.iter_mut().zip(x).for_each(|(m, x)| *m += x / count));
        let mut covariance = vec![0.0; d * d];
        for x in tokens() {
            for i in 0..d {
                for j in 0..=i {
                    covariance[i * d + j] += (x[i] - mean[i]) * (x[j] - mean[j]) / count;
                }
            }
        }
        let covariance = Matrix::from_fn(d, d, |i, j| covariance[i.max(j) * d + i.min(j)]);
        let (values, vectors) = covariance.symmetric_eigen()?;
        let axes = Matrix::from_fn(3, d, |k, i| oriented(&vectors, d - 1 - k, i));
        let total: f64 = values.iter().sum();
        let share = if total > 0.0 { values[d - 3..].iter().sum::<f64>() / total } else { 1.0 };
        let statement = format!(
            "Positions are orthogonal projections from d = {d} to the three leading principal axes of all saved states \
             together; they carry {:.1} % of the variance.",
            100.0 * share
        );
        Ok(Self { axes: Some(axes), dim: 3, statement: Some(statement) })
    }

    /// The number of drawn dimensions.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The drawn positions of a state.
    pub fn apply(&self, d: usize, state: &[f64]) -> Vec<f32> {
        match &self.axes {
            None => state.iter().map(|x| *x as f32).collect(),
            Some(axes) => {
                let mut drawn = vec![0.0; 3];
                let mut positions = Vec::with_capacity(state.len() / d * 3);
                for token in state.chunks_exact(d) {
                    axes.apply(token, &mut drawn);
                    positions.extend(drawn.iter().map(|x| *x as f32));
                }
                positions
            }
        }
    }
}

/// Eigenvectors have no sign of their own: the entry of largest modulus is made positive.
fn oriented(vectors: &Matrix, column: usize, row: usize) -> f64 {
    let largest =
        (0..vectors.rows()).map(|i| vectors.at(i, column)).fold(0.0_f64, |m, v| if v.abs() > m.abs() { v } else { m });
    vectors.at(row, column) * largest.signum()
}

/// Collects positions and attention maps, saved time after saved time.
#[derive(Debug)]
pub struct CloudBuilder {
    cloud: Cloud,
    maps: Option<AttentionMaps>,
}

impl CloudBuilder {
    /// For `count` tokens drawn in `dim` dimensions.
    pub fn new(count: usize, dim: usize) -> Self {
        let side = count.min(MOST_ROWS);
        let label = |g: usize| {
            let group = group(g, count, side);
            if group.len() == 1 { format!("{}", group.start) } else { format!("{}–{}", group.start, group.end - 1) }
        };
        let maps = (count <= MOST_TOKENS).then(|| AttentionMaps {
            side,
            levels: Vec::new(),
            rows: (0..side).map(label).collect(),
        });
        Self { cloud: Cloud { count, dim, positions: Vec::new(), attention: None }, maps }
    }

    /// Adds the state at the next saved time.
    pub fn push(&mut self, positions: &[f32], projections: &Projections, kernel: &AttentionKernel) {
        self.cloud.positions.extend_from_slice(positions);
        if let Some(maps) = &mut self.maps {
            maps.levels.extend(levels(projections, kernel, maps.side));
        }
    }

    /// Adds a state with given dense weights; no weights are drawn as an empty map.
    pub fn push_weights(&mut self, positions: &[f32], weights: Option<&Matrix>) {
        self.cloud.positions.extend_from_slice(positions);
        if let Some(maps) = &mut self.maps {
            let (n, side) = (self.cloud.count, maps.side);
            let Some(weights) = weights else {
                maps.levels.resize(maps.levels.len() + side * side, 0);
                return;
            };
            let rows: Vec<f64> = (0..n).flat_map(|i| group_sums(weights.row(i), n, side)).collect();
            maps.levels.extend(group_levels(&rows, n, side));
        }
    }

    /// The finished cloud.
    pub fn finish(mut self) -> Cloud {
        self.cloud.attention = self.maps;
        self.cloud
    }

    /// What the report says about the maps.
    pub fn note(count: usize, heads: usize) -> Option<String> {
        let head = if heads > 1 { "head 0" } else { "the head" };
        (count <= MOST_TOKENS).then(|| match count > MOST_ROWS {
            true => format!(
                "Weights of {head}; {count} tokens in {MOST_ROWS} groups of neighbours: what a group gives to a group, \
                 averaged over the giving tokens."
            ),
            false => format!("Weights of {head}; row: the token that attends, column: the token attended to."),
        })
    }
}

/// The tokens of group g of `side` groups of neighbours.
fn group(g: usize, count: usize, side: usize) -> std::ops::Range<usize> {
    g * count / side..(g + 1) * count / side
}

/// One map: group means over rows of group sums over columns, as levels.
fn levels(projections: &Projections, kernel: &AttentionKernel, side: usize) -> Vec<u8> {
    let n = projections.count();
    let mut rows = vec![0.0; n * side];
    streaming::for_each_row(projections, kernel, &mut rows, |_, weights, out| {
        out.iter_mut().zip(group_sums(weights, n, side)).for_each(|(out, sum)| *out = sum);
    });
    group_levels(&rows, n, side).collect()
}

/// What a token gives to each group; tokens under the mask get nothing.
fn group_sums(weights: &[f64], n: usize, side: usize) -> impl Iterator<Item = f64> {
    (0..side).map(move |g| group(g, n, side).filter_map(|j| weights.get(j)).sum())
}

/// Means over the giving tokens of each group, as levels; `rows` is [n, side].
fn group_levels(rows: &[f64], n: usize, side: usize) -> impl Iterator<Item = u8> {
    let mean = move |g: usize, c: usize| {
        let group = group(g, n, side);
        let size = group.len() as f64;
        group.map(|i| rows[i * side + c]).sum::<f64>() / size
    };
    let level = |w: f64| (255.0 * w.clamp(0.0, 1.0).powf(GAMMA)).round() as u8;
    (0..side * side).map(move |k| level(mean(k / side, k % side)))
}
