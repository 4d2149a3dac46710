//! LayerNorm and RMSNorm, forward and back; gain and bias are frozen.

mod tangent;

use std::borrow::Cow;

use rayon::prelude::*;

use super::real::Real;
use crate::config::NormKind;
use crate::transformer::norm::Norm;
use crate::transformer::widest::widest;

/// A frozen norm of tokens of one width.
pub(crate) struct FrozenNorm<'a, T: Real> {
    kind: NormKind,
    gain: Cow<'a, [T]>,
    bias: Cow<'a, [T]>,
    epsilon: f64,
}

/// Tokens per task.
const BLOCK: usize = 64;

impl<'a, T: Real> FrozenNorm<'a, T> {
    pub(crate) fn of(norm: &'a Norm) -> Self {
        Self { kind: norm.kind(), gain: T::share(norm.gain()), bias: T::share(norm.bias()), epsilon: norm.epsilon() }
    }

    /// The width of a token.
    pub(crate) fn width(&self) -> usize {
        self.gain.len()
    }

    /// The normalised tokens of `x` [n, width].
    pub(crate) fn forward(&self, x: &[T]) -> Vec<T> {
        let width = self.gain.len();
        let mut y = vec![T::default(); x.len()];
        y.par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).for_each(|(y, x)| {
            widest(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        let (mean, scale) = self.moments(x);
                        for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(self.gain.iter()).zip(self.bias.iter()) {
                            *y = (*x - mean) * scale * *gain + *bias;
                        }
                    }
                },
            );
        });
        y
    }

    /// The cotangent of x for a cotangent `dy` of the normalised tokens, in place of `dy`.
    ///
    /// With h = (x - mean)·scale and g = gain ⊙ dy: dx = scale·(g - mean(g) - h·mean(h ⊙ g)); RMSNorm has no mean(g).
    pub(crate) fn backward(&self, x: &[T], dy: &mut [T]) {
        let width = self.gain.len();
        let n = T::from_f64(width as f64);
        dy.par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).for_each(|(dy, x)| {
            widest(
                #[inline(always)]
                || {
                    for (dy, x) in dy.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        self.token_backward(dy, x, n);
                    }
                },
            );
        });
    }

    #[inline(always)]
    fn token_backward(&self, dy: &mut [T], x: &[T], n: T) {
        let (mean, scale) = self.moments(x);
        let (mut sum, mut product) = ([T::default(); LANES], [T::default(); LANES]);
        let triples = dy.chunks_mut(LANES).zip(x.chunks(LANES)).zip(self.gain.chunks(LANES));
        for ((dy, x), gain) in triples {
            for ((((dy, x), gain), sum), product) in dy.iter_mut().zip(x).zip(gain).zip(&mut sum).zip(&mut product) {
                *dy *= *gain;
                *sum += *dy;
                *product += *dy * (*x - mean) * scale;
            }
        }
        let sum = match self.kind {
            NormKind::LayerNorm => total(sum) / n,
            NormKind::RmsNorm => T::default(),
        };
        let product = total(product) / n;
        for (dy, x) in dy.iter_mut().zip(x) {
            *dy = scale * (*dy - sum - (*x - mean) * scale * product);
        }
    }

    /// The mean that is taken away (0 for RMSNorm) and the factor that follows it.
    #[inline(always)]
    fn moments(&self, x: &[T]) -> (T, T) {
        let n = x.len() as f64;
        let mean = match self.kind {
            NormKind::LayerNorm => sum(x, |x| x) / n,
            NormKind::RmsNorm => 0.0,
        };
        let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
        (T::from_f64(mean), T::from_f64(1.0 / (variance + self.epsilon).sqrt()))
    }
}

/// Interleaved sums, so that additions need not wait for each other; the order is fixed.
const LANES: usize = 8;

#[inline(always)]
fn total<T: Real>(lanes: [T; LANES]) -> T {
    lanes.into_iter().fold(T::default(), |sum, lane| sum + lane)
}

#[inline(always)]
fn sum<T: Real>(values: &[T], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|x| f(x.to_f64())).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += f(x.to_f64()));
    }
    lanes.iter().sum::<f64>() + rest
}
