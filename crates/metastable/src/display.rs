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

/// Of larger clouds this many tokens are drawn, evenly spaced in their order.
const MOST_DRAWN: usize = 2000;
/// Positions of one cloud take at most about this many bytes on the page; frames are left out evenly to keep it.
const MOST_POSITION_BYTES: usize = 8 << 20;
/// Attention maps of one cloud take at most this many bytes on the page, or there are none.
const MOST_MAP_BYTES: usize = 4 << 20;

/// Which tokens and which saved times are drawn.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The drawn tokens; all if absent.
    pub tokens: Option<Vec<usize>>,
    stride: usize,
    frames: usize,
}

impl Selection {
    /// For `count` tokens drawn in `dim` dimensions at `saved` times.
    pub fn new(count: usize, dim: usize, saved: usize) -> Self {
        let drawn = count.min(MOST_DRAWN);
        let tokens = (drawn < count).then(|| (0..drawn).map(|k| k * count / drawn).collect());
        let bytes = saved * drawn * dim * size_of::<f32>();
        let stride = bytes.div_ceil(MOST_POSITION_BYTES).max(1);
        Self { tokens, stride, frames: saved }
    }

    /// Whether saved time s is drawn: every stride-th and the last.
    pub fn draws(&self, s: usize) -> bool {
        s.is_multiple_of(self.stride) || s + 1 == self.frames
    }

    /// The drawn entries of a list with one entry a token.
    pub fn of<T: Clone>(&self, list: &[T]) -> Vec<T> {
        match &self.tokens {
            None => list.to_vec(),
            Some(tokens) => tokens.iter().map(|&i| list[i].clone()).collect(),
        }
    }

    /// The drawn tokens of a state.
    fn state(&self, d: usize, state: &[f64]) -> Vec<f64> {
        match &self.tokens {
            None => state.to_vec(),
            Some(tokens) => tokens.iter().flat_map(|&i| state[i * d..(i + 1) * d].iter().copied()).collect(),
        }
    }
}

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

    /// The drawn positions of the selected tokens of a state.
    pub fn apply(&self, d: usize, state: &[f64], selection: &Selection) -> Vec<f32> {
        let state = selection.state(d, state);
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
    count: usize,
    cloud: Cloud,
    maps: Option<AttentionMaps>,
}

impl CloudBuilder {
    /// For a cloud of `count` tokens, of which the selected ones are drawn in `dim` dimensions.
    pub fn new(count: usize, dim: usize, selection: &Selection) -> Self {
        let side = count.min(MOST_ROWS);
        let label = |g: usize| {
            let group = group(g, count, side);
            if group.len() == 1 { format!("{}", group.start) } else { format!("{}–{}", group.start, group.end - 1) }
        };
        let maps = (has_maps(count, selection.frames)).then(|| AttentionMaps {
            side,
            levels: Vec::new(),
            rows: (0..side).map(label).collect(),
        });
        let drawn = selection.tokens.as_ref().map_or(count, Vec::len);
        Self { count, cloud: Cloud { count: drawn, dim, positions: Vec::new(), attention: None }, maps }
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
            let (n, side) = (self.count, maps.side);
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
    pub fn note(count: usize, heads: usize, saved: usize) -> Option<String> {
        let head = if heads > 1 { "head 0" } else { "the head" };
        has_maps(count, saved).then(|| match count > MOST_ROWS {
            true => format!(
                "Weights of {head}; {count} tokens in {MOST_ROWS} groups of neighbours: what a group gives to a group, \
                 averaged over the giving tokens."
            ),
            false => format!("Weights of {head}."),
        })
    }
}

fn has_maps(count: usize, saved: usize) -> bool {
    let side = count.min(MOST_ROWS);
    count <= MOST_TOKENS && saved * side * side <= MOST_MAP_BYTES
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
