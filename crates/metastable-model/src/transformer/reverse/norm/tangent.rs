//! Forward-mode products of norms.

use rayon::prelude::*;

use super::{BLOCK, FrozenNorm, LANES, Real, total};
use crate::config::NormKind;

impl<T: Real> FrozenNorm<'_, T> {
    /// The derivative of the normalised tokens along `dx`, in place of `dx`: with h = (x - mean)·scale,
    /// dy = gain ⊙ scale·(dx - mean(dx) - h·mean(h ⊙ dx)); RMSNorm has no mean(dx).
    pub(crate) fn tangent(&self, x: &[T], dx: &mut [T]) {
        let width = self.gain.len();
        let n = T::from_f64(width as f64);
        dx.par_chunks_mut(BLOCK * width).zip(x.par_chunks(BLOCK * width)).for_each(|(dx, x)| {
            for (dx, x) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let (mean, scale) = self.moments(x);
                let (mut sum, mut product) = ([T::default(); LANES], [T::default(); LANES]);
                for (k, (dx, x)) in dx.iter().zip(x).enumerate() {
                    sum[k % LANES] += *dx;
                    product[k % LANES] += *dx * (*x - mean) * scale;
                }
                let sum = match self.kind {
                    NormKind::LayerNorm => total(sum) / n,
                    NormKind::RmsNorm => T::default(),
                };
                let product = total(product) / n;
                for ((dx, x), gain) in dx.iter_mut().zip(x).zip(self.gain.iter()) {
                    *dx = *gain * scale * (*dx - sum - (*x - mean) * scale * product);
                }
            }
        });
    }

    /// max_i ‖J_i‖_2 over the tokens, from above: the largest |gain| times the largest scale.
    pub(crate) fn slope_upper(&self, x: &[T]) -> f64 {
        let gain = self.gain.iter().map(|gain| gain.to_f64().abs()).fold(0.0, f64::max);
        let scales = x.chunks_exact(self.gain.len()).map(|x| self.moments(x).1.to_f64());
        gain * scales.fold(0.0, f64::max)
    }
}
