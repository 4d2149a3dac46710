//! Losses and their cotangents. Scores of a vocabulary are made and used 32 tokens at a time, never kept.

use rayon::prelude::*;

use super::map::Map;
use super::real::Real;
use crate::product::{Destination, Strided, multiply};

/// A sum of negative log-likelihoods in f64.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Likelihood {
    /// Σ -ln p(label).
    pub(crate) sum: f64,
    /// How many of the labels had the highest score.
    pub(crate) correct: usize,
}

/// Labelled tokens per task.
const BLOCK: usize = 32;

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
    let blocks: Vec<(Likelihood, Vec<T>)> =
        labels.par_chunks(BLOCK).map(|labels| block(map, x, labels, weight, wanted)).collect();
    let mut total = Likelihood::default();
    for ((likelihood, d), labels) in blocks.iter().zip(labels.chunks(BLOCK)) {
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
) -> (Likelihood, Vec<T>) {
    let (hidden, n) = (map.inputs, labels.len());
    let rows: Vec<T> = labels.iter().flat_map(|(token, _)| &x[token * hidden..(token + 1) * hidden]).copied().collect();
    let matrix = Strided::new(&map.weight, map.outputs, hidden, hidden);
    let mut scores = vec![T::default(); n * map.outputs];
    multiply(T::ONE, Strided::new(&rows, n, hidden, hidden), matrix.transposed(), Destination::Overwrite, &mut scores);
    let mut likelihood = Likelihood::default();
    for ((_, label), scores) in labels.iter().zip(scores.chunks_exact_mut(map.outputs)) {
        if let Some(bias) = &map.bias {
            scores.iter_mut().zip(bias.iter()).for_each(|(score, bias)| *score += *bias);
        }
        let (loss, is_best) = softmax_loss(scores, *label as usize, T::from_f64(weight));
        likelihood.sum += loss;
        likelihood.correct += usize::from(is_best);
    }
    let mut d = Vec::new();
    if wanted {
        d = vec![T::default(); n * hidden];
        let scores = Strided::new(&scores, n, map.outputs, map.outputs);
        multiply(T::ONE, scores, matrix, Destination::Overwrite, &mut d);
    }
    (likelihood, d)
}

/// -ln softmax(scores)_label, and whether the label wins; scores become weight·(softmax - e_label).
pub(super) fn softmax_loss<T: Real>(scores: &mut [T], label: usize, weight: T) -> (f64, bool) {
    let largest = scores.iter().fold(scores[0], |m, s| if *s > m { *s } else { m });
    let own = (scores[label] - largest).to_f64();
    let mut sums = [T::default(); 16];
    for chunk in scores.chunks_mut(16) {
        for (score, sum) in chunk.iter_mut().zip(&mut sums) {
            *score = (*score - largest).exp();
            *sum += *score;
        }
    }
    let total: f64 = sums.iter().map(|sum| sum.to_f64()).sum();
    let scale = weight * T::from_f64(1.0 / total);
    scores.iter_mut().for_each(|score| *score *= scale);
    scores[label] -= weight;
    (total.ln() - own, own == 0.0)
}
