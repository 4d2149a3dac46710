//! A block as an affine map of a Gaussian: what its linear algebra makes of a mean and a covariance.
//!
//! Every part of a block gets the affine function with the right mean and the right correlation with its input under the
//! Gaussian, so moments go through in one pass \[derived\]; for softmax attention that function is exact
//! (theory: the softmax mean under N(m, Σ) at x is m + Σ Kᵀ Q x). Covariances are kept as factors Σ = Σ_r l_r l_rᵀ, rows
//! l_r [rank, d], so no d × d matrix is ever formed.

use super::Transformer;
use super::activation::activate;
use super::attention::{Attention, Scene};
use super::block::Block;
use super::feed_forward::FeedForward;
use super::norm::Norm;
use crate::config::{Activation, NormKind, NormPlace};
use crate::linear::Linear;
use crate::product::{Destination, Strided, multiply};

/// N(mean, Σ_r l_r l_rᵀ) in f32: the mean \[d\] and the rows l_r [rank, d].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) factor: Vec<f32>,
}

impl Moments {
    /// The empirical moments of tokens [n, d], with min(n, d) rows. O(n d min(n, d)).
    pub(crate) fn of(tokens: &[f32], d: usize) -> Self {
        Self::of_every_token(tokens, d).compressed()
    }

    /// The same, a row a token: l_i = (x_i - mean)/sqrt(n).
    fn of_every_token(tokens: &[f32], d: usize) -> Self {
        let n = tokens.len() / d;
        let mean: Vec<f64> =
            (0..d).map(|j| tokens[j..].iter().step_by(d).map(|x| f64::from(*x)).sum::<f64>() / n as f64).collect();
        let scale = 1.0 / (n as f64).sqrt();
        let factor = tokens.iter().enumerate().map(|(r, x)| (scale * (f64::from(*x) - mean[r % d])) as f32).collect();
        Self { mean: mean.iter().map(|m| *m as f32).collect(), factor }
    }

    /// The same covariance in at most d rows: what becomes of moments depends on Σ alone, not on its factor.
    fn compressed(self) -> Self {
        let d = self.mean.len();
        let rows = self.factor.len() / d;
        if rows <= d {
            return self;
        }
        let wide: Vec<f64> = self.factor.iter().map(|x| f64::from(*x)).collect();
        let mut covariance = vec![0.0; d * d];
        let view = Strided::new(&wide, rows, d, d);
        multiply(1.0, view.transposed(), view, Destination::Overwrite, &mut covariance);
        Self { factor: square_root(&covariance, d).iter().map(|x| *x as f32).collect(), ..self }
    }

    fn through(&self, map: &Linear) -> Self {
        Self { mean: map.map(&self.mean), factor: without_constant(map, &self.factor) }
    }

    fn add(&mut self, other: &Self) {
        self.mean.iter_mut().zip(&other.mean).for_each(|(x, y)| *x += y);
        self.factor.iter_mut().zip(&other.factor).for_each(|(x, y)| *x += y);
    }
}

/// Rows l_r [rank, d] with Σ_r l_r l_rᵀ = `covariance` up to d·2^-52 of its trace, where f32 leaves 2^-24: Cholesky's
/// factor, the largest remaining diagonal entry first, which needs no inverse of a small one. O(d² rank).
fn square_root(covariance: &[f64], d: usize) -> Vec<f64> {
    let mut left: Vec<f64> = covariance.iter().step_by(d + 1).copied().collect();
    let negligible = d as f64 * f64::EPSILON * left.iter().sum::<f64>();
    let mut rows: Vec<f64> = Vec::new();
    for _ in 0..d {
        let pivot = (0..d).fold(0, |best, j| if left[j] > left[best] { j } else { best });
        if left[pivot] <= negligible {
            break;
        }
        let mut row = covariance[pivot * d..(pivot + 1) * d].to_vec();
        for earlier in rows.chunks_exact(d) {
            row.iter_mut().zip(earlier).for_each(|(x, l)| *x -= earlier[pivot] * l);
        }
        let root = left[pivot].sqrt();
        row.iter_mut().for_each(|x| *x /= root);
        left.iter_mut().zip(&row).for_each(|(left, x)| *left -= x * x);
        left[pivot] = 0.0;
        rows.extend(row);
    }
    // A cloud that is one point has no direction, but a matrix has a row.
    if rows.is_empty() { vec![0.0; d] } else { rows }
}

/// W x for rows x, the constant left out.
fn without_constant(map: &Linear, rows: &[f32]) -> Vec<f32> {
    let mut y = map.map(rows);
    if let Some(bias) = map.bias() {
        y.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y -= b));
    }
    y
}

impl Transformer {
    /// The image of a Gaussian under layer `layer` of a text whose positions `scene` describes.
    pub(crate) fn surrogate(&self, moments: &Moments, layer: usize, scene: &Scene<'_>) -> Moments {
        let block = self.block(layer);
        let turn = MeanTurn::of(&block.attention, scene);
        let mut y = moments.clone();
        y.add(&attention(&block.attention, &turn, &entering(block, &block.attention_norm, moments)));
        leaving(block, &block.attention_norm, &mut y);
        let mut z = y.clone();
        z.add(&feed_forward(&block.feed_forward, &entering(block, &block.feed_forward_norm, &y)));
        leaving(block, &block.feed_forward_norm, &mut z);
        z
    }
}

fn entering(block: &Block, norm: &Norm, moments: &Moments) -> Moments {
    match block.norm_place {
        NormPlace::Before => normed(norm, moments),
        NormPlace::After => moments.clone(),
    }
}

fn leaving(block: &Block, norm: &Norm, moments: &mut Moments) {
    if block.norm_place == NormPlace::After {
        *moments = normed(norm, moments);
    }
}

/// gain ⊙ C x/s + bias with one s for all tokens, s² the mean of |C x|²/d under the Gaussian plus ε; C takes the mean away
/// in a LayerNorm.
fn normed(norm: &Norm, moments: &Moments) -> Moments {
    let d = moments.mean.len();
    let mut found = moments.clone();
    if norm.kind() == NormKind::LayerNorm {
        for row in found.factor.chunks_exact_mut(d).chain([found.mean.as_mut_slice()]) {
            let mean = (row.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64) as f32;
            row.iter_mut().for_each(|x| *x -= mean);
        }
    }
    let square: f64 = found.factor.iter().chain(&found.mean).map(|x| f64::from(*x) * f64::from(*x)).sum();
    let scale = (1.0 / (square / d as f64 + norm.epsilon()).sqrt()) as f32;
    for row in found.factor.chunks_exact_mut(d).chain([found.mean.as_mut_slice()]) {
        row.iter_mut().zip(norm.gain()).for_each(|(x, gain)| *x *= gain * scale);
    }
    found.mean.iter_mut().zip(norm.bias()).for_each(|(x, bias)| *x += bias);
    found
}

/// The mean of R_{j-i} over all pairs that see each other: a factor and a turn of every pair of coordinates.
struct MeanTurn {
    /// Mean of the cosine and of the sine of the angle by which keys lag behind queries; none without rotations.
    pairs: Option<Vec<(f32, f32)>>,
}

impl MeanTurn {
    /// The angles of the keys that a query sees are those of a range, so running sums are enough. O(n·head_dim).
    fn of(attention: &Attention, scene: &Scene<'_>) -> Self {
        let Some(rotation) = scene.rotation else { return Self { pairs: None } };
        let (n, pairs) = (scene.keep.len(), attention.head_dim / 2);
        let kept = |position: usize| if scene.keep[position] { 1.0 } else { 0.0 };
        let at = |position: usize, pair: usize| {
            let place = position * pairs + pair;
            (f64::from(rotation.cosines()[place]), f64::from(rotation.sines()[place]))
        };
        let mean = |pair: usize| {
            let mut before = vec![[0.0_f64; 3]];
            for j in 0..n {
                let ((c, s), weight) = (at(j, pair), kept(j));
                let [count, cosines, sines] = before[j];
                before.push([count + weight, cosines + weight * c, sines + weight * s]);
            }
            let [mut count, mut cosine, mut sine] = [0.0; 3];
            for i in (0..n).filter(|i| scene.keep[*i]) {
                let seen = scene.visible(i);
                let [m, c, s] = [0, 1, 2].map(|k| before[seen.end][k] - before[seen.start][k]);
                let (a, b) = at(i, pair);
                count += m;
                cosine += a * c + b * s;
                sine += a * s - b * c;
            }
            ((cosine / count) as f32, (sine / count) as f32)
        };
        Self { pairs: Some((0..pairs).map(mean).collect()) }
    }

    /// Turns keys [rows, width].
    fn apply(&self, keys: &mut [f32]) {
        let Some(pairs) = &self.pairs else { return };
        for head in keys.chunks_exact_mut(2 * pairs.len()) {
            let (first, second) = head.split_at_mut(pairs.len());
            for ((a, b), (cosine, sine)) in first.iter_mut().zip(second).zip(pairs) {
                (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
            }
        }
    }
}

/// Σ_h W_h (V_h (m + Σ K_hᵀ Q_h x/sqrt(head_dim)) + b): every direction l_r gets the messages Σ_s <Q l_r, K l_s> V l_s.
fn attention(attention: &Attention, turn: &MeanTurn, x: &Moments) -> Moments {
    let (query, mut key, value) = (x.through(&attention.query), x.through(&attention.key), x.through(&attention.value));
    // The mean of the keys moves all scores of a query alike.
    turn.apply(&mut key.factor);
    let head_dim = attention.head_dim;
    let (wide, narrow) = (attention.heads * head_dim, attention.kv_heads * head_dim);
    let rank = key.factor.len() / narrow;
    let scale = 1.0 / (head_dim as f32).sqrt();
    // The query of the mean goes along as one more row.
    let queries = [query.mean.as_slice(), query.factor.as_slice()].concat();
    let mut messages = vec![0.0; queries.len()];
    let (mut scores, mut message) = (vec![0.0; (rank + 1) * rank], vec![0.0; (rank + 1) * head_dim]);
    for head in 0..attention.heads {
        let (first, shared) = (head * head_dim, attention.group(head) * head_dim);
        let keys = Strided::new(&key.factor[shared..], rank, head_dim, narrow);
        multiply(
            scale,
            Strided::new(&queries[first..], rank + 1, head_dim, wide),
            keys.transposed(),
            Destination::Overwrite,
            &mut scores,
        );
        let values = Strided::new(&value.factor[shared..], rank, head_dim, narrow);
        multiply(1.0, Strided::new(&scores, rank + 1, rank, rank), values, Destination::Overwrite, &mut message);
        for (row, found) in messages.chunks_exact_mut(wide).zip(message.chunks_exact(head_dim)) {
            row[first..first + head_dim].copy_from_slice(found);
        }
        let mean = &value.mean[shared..shared + head_dim];
        messages[first..first + head_dim].iter_mut().zip(mean).for_each(|(x, v)| *x += v);
    }
    let (mean, factor) = messages.split_at(wide);
    Moments { mean: mean.to_vec(), factor: factor.to_vec() }.through(&attention.output)
}

/// W₂ (E σ(u) + E σ'(u) (u - E u)) for u = W₁ x + b₁, and the same for σ(u) w of a gated block.
fn feed_forward(block: &FeedForward, x: &Moments) -> Moments {
    let up = x.through(&block.input);
    let inner = match &block.gate {
        None => bent(block.activation, &up, None),
        Some(gate) => bent(block.activation, &x.through(gate), Some(&up)),
    };
    inner.through(&block.output)
}

/// The affine surrogate of σ(u), or of σ(u) w, entry by entry.
fn bent(activation: Activation, u: &Moments, w: Option<&Moments>) -> Moments {
    let width = u.mean.len();
    let covariance = |x: &Moments, y: &Moments| {
        let mut sums = vec![0.0_f64; width];
        for (a, b) in x.factor.chunks_exact(width).zip(y.factor.chunks_exact(width)) {
            sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += f64::from(*a) * f64::from(*b));
        }
        sums
    };
    let variance = covariance(u, u);
    let shared = w.map(|w| covariance(u, w));
    let mut found = u.clone();
    let mut slopes = Vec::with_capacity(width);
    for k in 0..width {
        let [value, slope, curvature] = gaussian_means(activation, f64::from(u.mean[k]), variance[k].sqrt());
        let (mean, along_u, along_w) = match (w, &shared) {
            (Some(w), Some(shared)) => {
                let mean = f64::from(w.mean[k]);
                (mean * value + shared[k] * slope, mean * slope + shared[k] * curvature, value)
            }
            _ => (value, slope, 0.0),
        };
        found.mean[k] = mean as f32;
        slopes.push((along_u as f32, along_w as f32));
    }
    for (r, row) in found.factor.chunks_exact_mut(width).enumerate() {
        row.iter_mut().zip(&slopes).for_each(|(x, (along_u, _))| *x *= along_u);
        if let Some(w) = w {
            let other = &w.factor[r * width..(r + 1) * width];
            row.iter_mut().zip(other).zip(&slopes).for_each(|((x, w), (_, along_w))| *x += w * along_w);
        }
    }
    found
}

/// E σ(u), E σ'(u), E σ''(u) for u ~ N(mean, deviation²), derivatives by Stein's identities E σ' = E σ(u) z/deviation,
/// E σ'' = E σ(u) (z² - 1)/deviation², z standard; by the trapezoidal rule, which is exact to rounding for analytic σ.
fn gaussian_means(activation: Activation, mean: f64, deviation: f64) -> [f64; 3] {
    // Below this the identities divide rounding by a small number, and σ has no features anyway.
    let deviation = deviation.max(SMALLEST_DEVIATION);
    let mut values: [f32; NODES] = std::array::from_fn(|k| (mean + deviation * node(k)) as f32);
    activate(activation, &mut values);
    // Stein's identities hold for the sum of weights that is used, whatever it rounds to.
    let (mut sums, mut total, at_mean) = ([0.0; 3], 0.0, f64::from(values[NODES / 2]));
    for (k, value) in values.iter().enumerate() {
        let z = node(k);
        let weight = (-0.5 * z * z).exp();
        // Both identities are blind to constants: without σ(mean) nothing large cancels.
        let value = weight * (f64::from(*value) - at_mean);
        total += weight;
        sums[0] += value;
        sums[1] += value * z;
        sums[2] += value * (z * z - 1.0);
    }
    [at_mean + sums[0] / total, sums[1] / (total * deviation), sums[2] / (total * deviation * deviation)]
}

/// Nodes of the trapezoidal rule over [-6, 6] deviations.
const NODES: usize = 49;
const SMALLEST_DEVIATION: f64 = 1e-2;

fn node(k: usize) -> f64 {
    (k as f64 - (NODES / 2) as f64) * 0.25
}

#[cfg(test)]
mod tests;
