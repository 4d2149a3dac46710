//! What a forward pass leaves behind: the tokens of every level, as clouds of the mathematics.

use metastable_dynamics::Tokens;

use crate::error::ModelError;

/// The hidden states of one text: level 0 are the embeddings, level l the output of block l.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    dim: usize,
    keep: Vec<bool>,
    levels: Vec<Vec<f32>>,
}

impl Hidden {
    /// Checks that every number is finite: weights may be finite and still overflow.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] naming the first level and token.
    pub(crate) fn new(dim: usize, keep: Vec<bool>, levels: Vec<Vec<f32>>) -> Result<Self, ModelError> {
        for (level, values) in levels.iter().enumerate() {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(ModelError::NotFinite { level, token: index / dim });
            }
        }
        Ok(Self { dim, keep, levels })
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

    /// All numbers of a level, [n, d] row-major, padding included.
    ///
    /// # Panics
    /// If `level >= levels()`.
    pub fn level(&self, level: usize) -> &[f32] {
        &self.levels[level]
    }

    /// The cloud of a level, padding left out, in f64.
    ///
    /// # Panics
    /// If `level >= levels()`.
    ///
    /// # Errors
    /// None that a forward pass can cause; shapes are those of the model.
    pub fn tokens(&self, level: usize) -> Result<Tokens, ModelError> {
        let kept = self.kept(level).flatten().map(|x| f64::from(*x)).collect();
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
        for token in self.kept(self.levels() - 1) {
            for (sum, x) in mean.iter_mut().zip(token) {
                *sum += f64::from(*x);
            }
        }
        let norm = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        mean.iter_mut().for_each(|x| *x /= if norm > 0.0 { norm } else { 1.0 });
        mean
    }

    fn kept(&self, level: usize) -> impl Iterator<Item = &[f32]> {
        self.levels[level].chunks_exact(self.dim).zip(&self.keep).filter(|(_, keep)| **keep).map(|(token, _)| token)
    }
}
