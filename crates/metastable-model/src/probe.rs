//! What a forward pass leaves behind: the tokens of every level, as clouds of the mathematics.

use metastable_dynamics::Tokens;

use crate::error::ModelError;
use crate::transformer::Levels;

/// The hidden states of one text: level 0 are the embeddings, level l the output of block l.
///
/// Families that normalise before their blocks normalise once more behind the last one. [`Hidden::level`] is the stream
/// before that norm at every level; [`Hidden::last`], [`Hidden::tokens`] and [`Hidden::trajectory`] give the last level
/// after it, as `transformers` does.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    dim: usize,
    keep: Vec<bool>,
    levels: Vec<Vec<f32>>,
    normed: Option<Vec<f32>>,
}

impl Hidden {
    /// Checks that every number is finite: weights may be finite and still overflow.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] naming the first level and token.
    pub(crate) fn new(dim: usize, keep: Vec<bool>, levels: Levels) -> Result<Self, ModelError> {
        let Levels { stream, normed } = levels;
        let last = normed.iter().map(|normed| (stream.len() - 1, normed));
        for (level, values) in stream.iter().enumerate().chain(last) {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(ModelError::NotFinite { level, token: index / dim });
            }
        }
        Ok(Self { dim, keep, levels: stream, normed })
    }

    /// The number of positions n, padding included.
    pub fn count(&self) -> usize {
        self.keep.len()
    }

    /// The width d of a token.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The number of levels, one more than there are blocks.
    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Which positions hold tokens of the text, not padding.
    pub fn keep(&self) -> &[bool] {
        &self.keep
    }

    /// All numbers of a level of the stream, before the final norm, [n, d] row-major, padding included.
    ///
    /// # Panics
    /// If `level >= levels()`.
    pub fn level(&self, level: usize) -> &[f32] {
        &self.levels[level]
    }

    /// The last level after the final norm, [n, d]; none in families that have no such norm.
    pub fn normed(&self) -> Option<&[f32]> {
        self.normed.as_deref()
    }

    /// What the model hands on: the last level, after the final norm where there is one; [n, d].
    pub fn last(&self) -> &[f32] {
        self.shown(self.levels() - 1)
    }

    /// The numbers of a level as `transformers` lists them.
    fn shown(&self, level: usize) -> &[f32] {
        match &self.normed {
            Some(normed) if level + 1 == self.levels() => normed,
            _ => &self.levels[level],
        }
    }

    /// The cloud of the last level before the final norm, padding left out; none in families that have no such norm.
    ///
    /// # Errors
    /// As [`Hidden::tokens`].
    pub fn before_final_norm(&self) -> Result<Option<Tokens>, ModelError> {
        match &self.normed {
            Some(_) => self.cloud(&self.levels[self.levels() - 1]).map(Some),
            None => Ok(None),
        }
    }

    /// The cloud of a level, padding left out, in f64; the last one after the final norm.
    ///
    /// # Panics
    /// If `level >= levels()`.
    ///
    /// # Errors
    /// None that a forward pass can cause; shapes are those of the model.
    pub fn tokens(&self, level: usize) -> Result<Tokens, ModelError> {
        self.cloud(self.shown(level))
    }

    fn cloud(&self, values: &[f32]) -> Result<Tokens, ModelError> {
        let kept = self.kept(values).flatten().map(|x| f64::from(*x)).collect();
        Ok(Tokens::new(self.dim, kept)?)
    }

    /// The clouds of all levels: the trajectory of the tokens, layers as time.
    ///
    /// # Errors
    /// As [`Hidden::tokens`].
    pub fn trajectory(&self) -> Result<Vec<Tokens>, ModelError> {
        (0..self.levels()).map(|level| self.tokens(level)).collect()
    }

    /// The sentence embedding: the mean of the last level over the text's tokens, divided by its norm; d numbers.
    /// A mean of norm 0 stays 0.
    pub fn pooled(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.dim];
        for token in self.kept(self.last()) {
            for (sum, x) in mean.iter_mut().zip(token) {
                *sum += f64::from(*x);
            }
        }
        let norm = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        mean.iter_mut().for_each(|x| *x /= if norm > 0.0 { norm } else { 1.0 });
        mean
    }

    fn kept<'a>(&'a self, values: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        values.chunks_exact(self.dim).zip(&self.keep).filter(|(_, keep)| **keep).map(|(token, _)| token)
    }
}
