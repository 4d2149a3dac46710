//! Forward, loss and back through a whole model.

use std::ops::Range;

use super::adapters::{Adapters, Gradients, ModuleValues, Places};
use super::block::{FrozenBlock, Saved, Scene};
use super::loss::{self, Likelihood};
use super::map::Map;
use super::masked::Masked;
use super::norm::FrozenNorm;
use super::real::Real;
use super::turns::Turns;
use crate::transformer::Transformer;
use crate::transformer::attention::lookback;

/// A model whose weights are frozen, ready for batches.
pub(crate) struct Pass<'a, T: Real> {
    transformer: &'a Transformer,
    blocks: Vec<FrozenBlock<'a, T>>,
    final_norm: Option<FrozenNorm<'a, T>>,
    output: Option<Map<'a, T>>,
    pooler: Option<Map<'a, T>>,
    masked: Option<Masked<'a, T>>,
    keeps: Keeps,
}

/// What is kept of a layer for the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// All that is expensive to make again.
    Activations,
    /// The stream that enters; the layer's forward is made a second time. A third less memory for a third more time.
    Streams,
}

/// Sequences of different lengths, one after another.
pub(crate) struct Ragged<'a> {
    pub(crate) sequences: Vec<&'a [u32]>,
}

impl Ragged<'_> {
    fn ranges(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let range = |sequence: &&[u32]| {
            start += sequence.len();
            start - sequence.len()..start
        };
        self.sequences.iter().map(range).collect()
    }
}

/// What the loss asks of the hidden states.
pub(crate) enum Goal<'a, T> {
    /// These (token of the batch, id): next tokens or masked ones.
    Tokens(&'a [(usize, u32)]),
    /// One class a sequence, by a trained head.
    Classes { labels: &'a [u32], head: &'a HeadValues<T> },
}

/// How a sequence becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadKind {
    /// tanh(W_p h_first + b_p) with the checkpoint's frozen pooler.
    Pooler,
    /// The hidden state of the last token.
    Last,
}

impl HeadKind {
    /// The token of each sequence that it looks at.
    fn tokens(self, sequences: &[Range<usize>]) -> Vec<usize> {
        let token = |sequence: &Range<usize>| match self {
            Self::Pooler => sequence.start,
            Self::Last => sequence.end - 1,
        };
        sequences.iter().map(token).collect()
    }
}

/// A trained classifier: scores = W v + b.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeadValues<T> {
    pub(crate) kind: HeadKind,
    /// [classes, hidden].
    pub(crate) weight: Vec<T>,
    /// [classes], or empty.
    pub(crate) bias: Vec<T>,
}

/// Where gradients are added.
pub(crate) struct Sums<'a, T> {
    pub(crate) modules: &'a mut [ModuleValues<T>],
    pub(crate) head: Option<&'a mut HeadValues<T>>,
}

enum Kept<T> {
    Activations(Box<Saved<T>>),
    Stream(Vec<T>),
}

impl<'a, T: Real> Pass<'a, T> {
    pub(crate) fn of(transformer: &'a Transformer, keeps: Keeps) -> Self {
        Self {
            transformer,
            blocks: transformer.blocks.iter().map(FrozenBlock::of).collect(),
            final_norm: transformer.final_norm.as_ref().map(FrozenNorm::of),
            output: transformer.output_map().map(Map::of),
            pooler: transformer.heads.pooler.as_ref().map(Map::of),
            masked: transformer.heads.masked.as_ref().map(|head| Masked::of(head, &transformer.embedding.token)),
            keeps,
        }
    }

    /// As [`run`](Self::run), of all sequences together.
    pub(super) fn run_whole(
        &self,
        batch: &Ragged<'_>,
        places: &Places,
        modules: &[ModuleValues<T>],
        goal: &Goal<'_, T>,
        weight: f64,
        sums: Option<Sums<'_, T>>,
    ) -> Likelihood {
        let adapters = Adapters { places, modules };
        let (config, sequences) = (&self.transformer.config, batch.ranges());
        let turns = self.turns(batch);
        // A classifier looks at one token a sequence: the last layer makes no other.
        let wanted = match goal {
            Goal::Classes { head, .. } => Some(head.kind.tokens(&sequences)),
            Goal::Tokens(_) => None,
        };
        let scene = |layer| Scene {
            sequences: &sequences,
            turns: turns.as_ref(),
            lookback: lookback(config.mask, layer),
            products: None,
            wanted: wanted.as_deref().filter(|_| layer + 1 == config.layers),
        };
        let first = self.first_adapted(places);
        let mut kept = Vec::new();
        let mut x = self.embedded(batch);
        for layer in 0..config.layers {
            let (index, keep) = (config.block_of(layer), sums.is_some() && layer >= first);
            let stream = (keep && self.keeps == Keeps::Streams).then(|| x.clone());
            let (next, saved) = self.blocks[index].forward(index, x, &adapters, &scene(layer));
            x = next;
            if keep {
                kept.push(stream.map_or_else(|| Kept::Activations(Box::new(saved)), Kept::Stream));
            }
        }
        let hidden = self.final_norm.as_ref().map(|norm| norm.forward(&x));
        let last = hidden.as_deref().unwrap_or(&x);
        let Some(Sums { modules: into, head }) = sums else {
            return self.loss(last, goal, weight, None, None);
        };
        let mut d = vec![T::default(); last.len()];
        let likelihood = self.loss(last, goal, weight, Some(&mut d), head);
        if let Some(norm) = &self.final_norm {
            norm.backward(&x, &mut d);
        }
        drop((hidden, x));
        let mut gradients = Gradients { places, modules: into };
        for layer in (first..config.layers).rev() {
            let (index, scene) = (config.block_of(layer), scene(layer));
            let saved = match kept.pop() {
                Some(Kept::Activations(saved)) => *saved,
                Some(Kept::Stream(x)) => self.blocks[index].forward(index, x, &adapters, &scene).1,
                None => break,
            };
            match self.blocks[index].backward(index, &saved, d, layer > first, &adapters, &mut gradients, &scene) {
                Some(next) => d = next,
                None => break,
            }
        }
        likelihood
    }

    /// The first layer with an adapter; below it nothing has to be kept.
    fn first_adapted(&self, places: &Places) -> usize {
        let config = &self.transformer.config;
        (0..config.layers).find(|layer| places.is_adapted(config.block_of(*layer))).unwrap_or(config.layers)
    }

    fn embedded(&self, batch: &Ragged<'_>) -> Vec<T> {
        let embed = |ids: &&[u32]| self.transformer.embedding.apply(ids);
        batch.sequences.iter().flat_map(embed).map(|x| T::from_f64(f64::from(x))).collect()
    }

    fn turns(&self, batch: &Ragged<'_>) -> Option<Turns<T>> {
        let rotations: Option<Vec<_>> =
            batch.sequences.iter().map(|ids| self.transformer.rotation(ids.len())).collect();
        rotations.map(|rotations| Turns::of(&rotations))
    }

    fn loss(
        &self,
        x: &[T],
        goal: &Goal<'_, T>,
        weight: f64,
        d: Option<&mut [T]>,
        head_sums: Option<&mut HeadValues<T>>,
    ) -> Likelihood {
        match goal {
            Goal::Tokens(labels) => {
                if let Some(masked) = &self.masked {
                    return masked.loss(x, labels, weight, d);
                }
                let map = self.output.as_ref().expect("a goal of tokens is refused for models without an output map");
                loss::cross_entropy(map, x, labels, weight, d)
            }
            Goal::Classes { labels, head } => self.class_loss(x, labels, head, weight, d, head_sums),
        }
    }

    /// `x` holds the token of each sequence that the head looks at.
    fn class_loss(
        &self,
        x: &[T],
        labels: &[u32],
        head: &HeadValues<T>,
        weight: f64,
        mut d: Option<&mut [T]>,
        mut sums: Option<&mut HeadValues<T>>,
    ) -> Likelihood {
        let hidden = self.transformer.config.hidden;
        let mut likelihood = Likelihood::default();
        for (token, label) in labels.iter().enumerate() {
            let state = &x[token * hidden..(token + 1) * hidden];
            let pooled = self.pooled(head.kind, state);
            let mut scores = head.scores(&pooled);
            let (loss, is_best) = loss::softmax_loss(&mut scores, *label as usize, T::from_f64(weight));
            likelihood.sum += loss;
            likelihood.correct += usize::from(is_best);
            if let Some(sums) = sums.as_deref_mut() {
                sums.add_outer(&scores, &pooled);
            }
            if let Some(d) = d.as_deref_mut() {
                let mut back = head.pull(&scores);
                self.pooled_backward(head.kind, &pooled, &mut back);
                let row = &mut d[token * hidden..(token + 1) * hidden];
                row.iter_mut().zip(&back).for_each(|(d, back)| *d += *back);
            }
        }
        likelihood
    }

    fn pooled(&self, kind: HeadKind, state: &[T]) -> Vec<T> {
        match (kind, &self.pooler) {
            (HeadKind::Pooler, Some(pooler)) => {
                pooler.forward(None, state).into_iter().map(|x| T::from_f64(x.to_f64().tanh())).collect()
            }
            _ => state.to_vec(),
        }
    }

    fn pooled_backward(&self, kind: HeadKind, pooled: &[T], d: &mut Vec<T>) {
        if let (HeadKind::Pooler, Some(pooler)) = (kind, &self.pooler) {
            d.iter_mut().zip(pooled).for_each(|(d, tanh)| *d *= T::ONE - *tanh * *tanh);
            let mut back = vec![T::default(); pooler.inputs];
            pooler.backward(None, &[], d, Some(&mut back), None);
            *d = back;
        }
    }
}

impl<T: Real> HeadValues<T> {
    pub(super) fn zeros_like(&self) -> Self {
        let zeros = |values: &[T]| vec![T::default(); values.len()];
        Self { kind: self.kind, weight: zeros(&self.weight), bias: zeros(&self.bias) }
    }

    fn scores(&self, pooled: &[T]) -> Vec<T> {
        let mut scores: Vec<T> = self.weight.chunks_exact(pooled.len()).map(|row| dot(row, pooled)).collect();
        scores.iter_mut().zip(&self.bias).for_each(|(score, bias)| *score += *bias);
        scores
    }

    fn pull(&self, d: &[T]) -> Vec<T> {
        let mut back = vec![T::default(); self.weight.len() / d.len()];
        for (row, d) in self.weight.chunks_exact(back.len()).zip(d) {
            back.iter_mut().zip(row).for_each(|(back, w)| *back += *w * *d);
        }
        back
    }

    fn add_outer(&mut self, d: &[T], pooled: &[T]) {
        for (row, d) in self.weight.chunks_exact_mut(pooled.len()).zip(d) {
            row.iter_mut().zip(pooled).for_each(|(sum, x)| *sum += *d * *x);
        }
        self.bias.iter_mut().zip(d).for_each(|(sum, d)| *sum += *d);
    }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).fold(T::default(), |sum, (a, b)| sum + *a * *b)
}
