//! The head of masked language models: a frozen map, a nonlinearity, a norm, then scores.

use super::loss::{Likelihood, cross_entropy};
use super::map::Map;
use super::norm::FrozenNorm;
use super::real::{Real, activation};
use crate::config::Activation;
use crate::linear::Linear;
use crate::transformer::heads::MaskedHead;

/// E·norm(σ(W h + b)) + c for the labelled tokens.
pub(super) struct Masked<'a, T: Real> {
    transform: Map<'a, T>,
    activation: Activation,
    norm: FrozenNorm<'a, T>,
    scores: Map<'a, T>,
}

impl<'a, T: Real> Masked<'a, T> {
    pub(super) fn of(head: &'a MaskedHead, embedding: &'a Linear) -> Self {
        Self {
            transform: Map::of(&head.transform),
            activation: head.activation,
            norm: FrozenNorm::of(&head.norm),
            scores: Map { bias: Some(T::share(&head.constants)), ..Map::of(embedding) },
        }
    }

    /// As [`cross_entropy`], through the head.
    pub(super) fn loss(&self, x: &[T], labels: &[(usize, u32)], weight: f64, d: Option<&mut [T]>) -> Likelihood {
        let hidden = self.transform.inputs;
        let at = |token: usize| token * hidden..(token + 1) * hidden;
        let rows: Vec<T> = labels.iter().flat_map(|(token, _)| &x[at(*token)]).copied().collect();
        let inner = self.transform.forward(None, &rows);
        let active: Vec<T> = inner.iter().map(|x| activation(self.activation, *x).0).collect();
        let normed = self.norm.forward(&active);
        let own: Vec<(usize, u32)> = labels.iter().enumerate().map(|(i, (_, label))| (i, *label)).collect();
        let Some(d) = d else { return cross_entropy(&self.scores, &normed, &own, weight, None) };
        let mut back = vec![T::default(); normed.len()];
        let likelihood = cross_entropy(&self.scores, &normed, &own, weight, Some(&mut back));
        self.norm.backward(&active, &mut back);
        back.iter_mut().zip(&inner).for_each(|(d, x)| *d *= activation(self.activation, *x).1);
        let mut d_rows = vec![T::default(); rows.len()];
        self.transform.backward(None, &[], &back, Some(&mut d_rows), None);
        for ((token, _), back) in labels.iter().zip(d_rows.chunks_exact(hidden)) {
            d[at(*token)].iter_mut().zip(back).for_each(|(sum, d)| *sum += *d);
        }
        likelihood
    }
}
