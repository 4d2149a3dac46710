//! Rotary positions of a ragged batch, forward and back.

use rayon::prelude::*;

use super::real::Real;
use crate::transformer::rotation::Rotation;

/// Cosines and sines of all tokens of a batch, [n, head_dim/2]; every sequence starts at position 0.
pub(crate) struct Turns<T> {
    cosines: Vec<T>,
    sines: Vec<T>,
    pairs: usize,
}

/// Tokens per task.
const BLOCK: usize = 64;

impl<T: Real> Turns<T> {
    /// From the rotations of each sequence, in order.
    pub(crate) fn of(rotations: &[Rotation]) -> Self {
        let collect = |table: fn(&Rotation) -> &[f32]| {
            rotations.iter().flat_map(|rotation| table(rotation).iter().map(|x| T::from_f64(f64::from(*x)))).collect()
        };
        let pairs = rotations.first().map_or(1, Rotation::pairs);
        Self { cosines: collect(Rotation::cosines), sines: collect(Rotation::sines), pairs }
    }

    /// Turns every head of every token of `x` [n, heads·head_dim].
    pub(crate) fn forward(&self, x: &mut [T]) {
        self.turn(x, |a, b, cosine, sine| (a * cosine - b * sine, b * cosine + a * sine));
    }

    /// The transpose: a cotangent of turned heads becomes one of heads.
    pub(crate) fn backward(&self, d: &mut [T]) {
        self.turn(d, |a, b, cosine, sine| (a * cosine + b * sine, b * cosine - a * sine));
    }

    fn turn(&self, x: &mut [T], f: impl Fn(T, T, T, T) -> (T, T) + Sync) {
        let n = self.cosines.len() / self.pairs;
        let width = x.len() / n;
        x.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, x)| {
            for (i, token) in x.chunks_exact_mut(width).enumerate() {
                let at = (block * BLOCK + i) * self.pairs;
                let (cosines, sines) = (&self.cosines[at..at + self.pairs], &self.sines[at..at + self.pairs]);
                for head in token.chunks_exact_mut(2 * self.pairs) {
                    let (first, second) = head.split_at_mut(self.pairs);
                    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                        (*a, *b) = f(*a, *b, *cosine, *sine);
                    }
                }
            }
        });
    }
}
