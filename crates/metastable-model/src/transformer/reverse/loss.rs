//! Losses and their cotangents. Scores of a vocabulary are made and used 256 tokens at a time, never kept.

use rayon::prelude::*;

use super::map::Map;
use super::real::Real;
use crate::product::{Destination, Strided, multiply_on_all};
use crate::transformer::widest::widest;

/// A sum of negative log-likelihoods in f64.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Likelihood {
    /// Σ -ln p(label).
    pub(crate) sum: f64,
    /// How many of the labels had the highest score.
    pub(crate) correct: usize,
}

/// Labelled tokens at a time: the output map is packed once for each such block.
const BLOCK: usize = 256;

/// Cross-entropy of `labels` (token, id) under the scores `map` x of hidden states x [n, hidden], and, if `cotangent` is
/// given, weight·∂/∂x added to it.
pub(super) fn cross_entropy<T: Real>(
    map: &Map<'_, T>,
    x: &[T],
    labels: &[(usize, u32)],
    weight: f64,
    mut cotangent: Option<&mut [T]>,
) -> Likelihood {
    let hidden = map.inputs;
    let wanted = cotangent.is_some();
    let mut total = Likelihood::default();
    let mut scratch = Vec::new();
    for labels in labels.chunks(BLOCK) {
        let (likelihood, d) = block(map, x, labels, weight, wanted, &mut scratch);
        total.sum += likelihood.sum;
        total.correct += likelihood.correct;
        if let Some(cotangent) = cotangent.as_deref_mut() {
            for ((token, _), d) in labels.iter().zip(d.chunks_exact(hidden)) {
                let row = &mut cotangent[token * hidden..(token + 1) * hidden];
                row.iter_mut().zip(d).for_each(|(sum, d)| *sum += *d);
            }
        }
    }
    total
}

fn block<T: Real>(
    map: &Map<'_, T>,
    x: &[T],
    labels: &[(usize, u32)],
    weight: f64,
    wanted: bool,
    scratch: &mut Vec<T>,
) -> (Likelihood, Vec<T>) {
    let (hidden, n) = (map.inputs, labels.len());
    let rows: Vec<T> = labels.iter().flat_map(|(token, _)| &x[token * hidden..(token + 1) * hidden]).copied().collect();
    let matrix = map.weight.matrix();
    scratch.resize(n * map.outputs, T::default());
    let rows = Strided::new(&rows, n, hidden, hidden);
    multiply_on_all(T::ONE, rows, matrix.transposed(), Destination::Overwrite, scratch);
    let one = |((_, label), scores): (&(usize, u32), &mut [T])| {
        if let Some(bias) = &map.bias {
            for (score, bias) in scores.iter_mut().zip(bias.iter()) {
                *score += *bias;
            }
        }
        softmax_loss(scores, *label as usize, T::from_f64(weight))
    };
    let found: Vec<(f64, bool)> = labels.par_iter().zip(scratch.par_chunks_exact_mut(map.outputs)).map(one).collect();
    let mut likelihood = Likelihood::default();
    for (loss, is_best) in found {
        likelihood.sum += loss;
        likelihood.correct += usize::from(is_best);
    }
    let mut d = Vec::new();
    if wanted {
        d = vec![T::default(); n * hidden];
        let scores = Strided::new(scratch, n, map.outputs, map.outputs);
        multiply_on_all(T::ONE, scores, matrix, Destination::Overwrite, &mut d);
    }
    (likelihood, d)
}

/// -ln softmax(scores)_label, and whether the label wins; scores become weight·(softmax - e_label).
pub(super) fn softmax_loss<T: Real>(scores: &mut [T], label: usize, weight: T) -> (f64, bool) {
    let largest = largest(scores);
    let own = (scores[label] - largest).to_f64();
    let mut sums = [T::default(); LANES];
    widest(
        #[inline(always)]
        || exponentials(scores, largest, &mut sums),
    );
    let total: f64 = sums.iter().map(|sum| sum.to_f64()).sum();
    let scale = weight * T::from_f64(1.0 / total);
    widest(
        #[inline(always)]
        || {
            for score in &mut *scores {
                *score *= scale;
            }
        },
    );
    scores[label] -= weight;
    (total.ln() - own, own == 0.0)
}

/// Sums have so many lanes.
pub(super) const LANES: usize = 16;

/// The largest of some numbers, of which there is at least one.
pub(super) fn largest<T: Real>(values: &[T]) -> T {
    let mut lanes = [values[0]; LANES];
    widest(
        #[inline(always)]
        || {
            for chunk in values.chunks(LANES) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane = if *x > *lane { *x } else { *lane };
                }
            }
        },
    );
    lanes.into_iter().fold(values[0], |m, x| if x > m { x } else { m })
}

/// x ← e^{x - shift}, summed in lanes whose order is fixed.
#[inline(always)]
pub(super) fn exponentials<T: Real>(values: &mut [T], shift: T, sums: &mut [T; LANES]) {
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (x, sum) in chunk.iter_mut().zip(&mut *sums) {
            *x = (*x - shift).exp();
            *sum += *x;
        }
    }
    for (x, sum) in chunks.into_remainder().iter_mut().zip(sums) {
        *x = (*x - shift).exp();
        *sum += *x;
    }
}
