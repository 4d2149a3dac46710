//! An affine map under an adapter, forward and back: the frozen matrix gets no gradient, the factors get theirs.

use std::borrow::Cow;

use rayon::prelude::*;

use super::real::Real;
use crate::linear::{Linear, Stored};
use crate::product::{Destination, Strided, multiply, multiply_on_all};
use crate::transformer::widest::widest;

/// y = W x + b with W [outputs, inputs].
pub(crate) struct Map<'a, T: Real> {
    pub(crate) weight: Stored<'a, T>,
    pub(crate) bias: Option<Cow<'a, [T]>>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// The factors that W meets at one map: W' = c ⊙ (W + s·B A), c = 1 unless DoRA says otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a, T> {
    /// A [r, inputs].
    pub(crate) a: &'a [T],
    /// B [outputs, r]: where a module joins several maps, its rows of this map.
    pub(crate) b: &'a [T],
    pub(crate) rank: usize,
    pub(crate) scale: T,
    /// c [outputs] of DoRA: magnitudes over row norms.
    pub(crate) row_factors: Option<&'a [T]>,
}

/// Where the gradients of one map's factors are added.
pub(crate) struct FactorGradients<'a, T> {
    /// [r, inputs].
    pub(crate) a: &'a mut [T],
    /// [outputs, r].
    pub(crate) b: &'a mut [T],
    /// ∂L/∂c [outputs], for DoRA.
    pub(crate) row_factors: Option<&'a mut [T]>,
}

/// Tokens per task, independent of the number of threads.
const BLOCK: usize = 128;

impl<'a, T: Real> Map<'a, T> {
    /// A map of the forward pass.
    pub(crate) fn of(linear: &'a Linear) -> Self {
        Self {
            weight: linear.stored(T::share),
            bias: linear.bias().map(T::share),
            inputs: linear.inputs(),
            outputs: linear.outputs(),
        }
    }

    /// Maps tokens `x` [n, inputs] to [n, outputs]. O(n·inputs·outputs), parallel over outputs.
    pub(crate) fn forward(&self, factors: Option<Factors<'_, T>>, x: &[T]) -> Vec<T> {
        let mut y = self.product(x);
        let c = factors.and_then(|factors| factors.row_factors);
        if factors.is_none() && self.bias.is_none() {
            return y;
        }
        y.par_chunks_mut(BLOCK * self.outputs).zip(x.par_chunks(BLOCK * self.inputs)).for_each(|(y, x)| {
            self.add_update(factors, x, y);
            for row in y.chunks_exact_mut(self.outputs) {
                rescale_and_shift(row, c, self.bias.as_deref());
            }
        });
        y
    }

    /// W x of all tokens.
    fn product(&self, x: &[T]) -> Vec<T> {
        let n = x.len() / self.inputs;
        let mut y = vec![T::default(); n * self.outputs];
        let rows = Strided::new(x, n, self.inputs, self.inputs);
        multiply_on_all(T::ONE, rows, self.weight.matrix().transposed(), Destination::Overwrite, &mut y);
        y
    }

    /// y += s·B A x for one block of tokens.
    fn add_update(&self, factors: Option<Factors<'_, T>>, x: &[T], y: &mut [T]) {
        let Some(factors) = factors else { return };
        let inner = factors.inner(x, self.inputs);
        let inner = Strided::new(&inner, x.len() / self.inputs, factors.rank, factors.rank);
        let b = Strided::new(factors.b, self.outputs, factors.rank, factors.rank);
        multiply(factors.scale, inner, b.transposed(), Destination::Add, y);
    }

    /// Adds the pulled-back cotangent W'ᵀ dy to `dx`, and the factors' gradients to `gradients`. `x` is what the map was
    /// applied to. O(n·inputs·outputs) with `dx`, O(n·(inputs + outputs)·r) without.
    pub(crate) fn backward(
        &self,
        factors: Option<Factors<'_, T>>,
        x: &[T],
        dy: &[T],
        dx: Option<&mut [T]>,
        gradients: Option<FactorGradients<'_, T>>,
    ) {
        let mut rescaled = Cow::Borrowed(dy);
        if let Some(c) = factors.and_then(|factors| factors.row_factors) {
            let rows = rescaled.to_mut().chunks_exact_mut(self.outputs);
            rows.for_each(|row| row.iter_mut().zip(c).for_each(|(dy, c)| *dy *= *c));
        }
        let Some(factors) = factors else {
            if let Some(dx) = dx {
                self.pull(&rescaled, dx);
            }
            return;
        };
        let back = factors.back(&rescaled, self.outputs);
        if let Some(dx) = dx {
            self.pull(&rescaled, dx);
            let a = Strided::new(factors.a, factors.rank, self.inputs, self.inputs);
            dx.par_chunks_mut(BLOCK * self.inputs).zip(back.par_chunks(BLOCK * factors.rank)).for_each(|(dx, back)| {
                let back = Strided::new(back, back.len() / factors.rank, factors.rank, factors.rank);
                multiply(T::ONE, back, a, Destination::Add, dx);
            });
        }
        if let Some(mut gradients) = gradients {
            if let Some(dc) = gradients.row_factors.take() {
                self.row_factor_gradient(factors, x, dy, dc);
            }
            self.factor_gradients(factors, x, &rescaled, &back, gradients);
        }
    }

    /// dx += dy W.
    fn pull(&self, dy: &[T], dx: &mut [T]) {
        let rows = Strided::new(dy, dy.len() / self.outputs, self.outputs, self.outputs);
        multiply_on_all(T::ONE, rows, self.weight.matrix(), Destination::Add, dx);
    }

    /// g_B += s·dyᵀ (x Aᵀ), g_A += (s·dy B)ᵀ x: parallel over rows of g_B and columns of g_A, whole sums in each.
    fn factor_gradients(
        &self,
        factors: Factors<'_, T>,
        x: &[T],
        dy: &[T],
        back: &[T],
        gradients: FactorGradients<'_, T>,
    ) {
        let (n, r) = (x.len() / self.inputs, factors.rank);
        let inner = factors.inner_all(x, self.inputs);
        let inner = Strided::new(&inner, n, r, r);
        gradients.b.par_chunks_mut(BLOCK * r).enumerate().for_each(|(block, g)| {
            let dy = Strided::new(&dy[block * BLOCK..], n, g.len() / r, self.outputs);
            multiply(factors.scale, dy.transposed(), inner, Destination::Add, g);
        });
        // [inputs, r], so that blocks of inputs are contiguous.
        let mut g_a = vec![T::default(); self.inputs * r];
        let back = Strided::new(back, n, r, r);
        g_a.par_chunks_mut(BLOCK * r).enumerate().for_each(|(block, g)| {
            let x = Strided::new(&x[block * BLOCK..], n, g.len() / r, self.inputs);
            multiply(T::ONE, x.transposed(), back, Destination::Overwrite, g);
        });
        for (k, row) in gradients.a.chunks_exact_mut(self.inputs).enumerate() {
            row.iter_mut().zip(g_a[k..].iter().step_by(r)).for_each(|(sum, g)| *sum += *g);
        }
    }

    /// ∂L/∂c_o += Σ_t dy_to ((W + s·B A) x_t)_o; the product is made again rather than kept.
    fn row_factor_gradient(&self, factors: Factors<'_, T>, x: &[T], dy: &[T], dc: &mut [T]) {
        let mut y = self.product(x);
        let blocks: Vec<Vec<T>> = x
            .par_chunks(BLOCK * self.inputs)
            .zip(dy.par_chunks(BLOCK * self.outputs).zip(y.par_chunks_mut(BLOCK * self.outputs)))
            .map(|(x, (dy, y))| {
                self.add_update(Some(factors), x, y);
                let mut sum = vec![T::default(); self.outputs];
                for (y, dy) in y.chunks_exact(self.outputs).zip(dy.chunks_exact(self.outputs)) {
                    sum.iter_mut().zip(y).zip(dy).for_each(|((sum, y), dy)| *sum += *y * *dy);
                }
                sum
            })
            .collect();
        for block in blocks {
            dc.iter_mut().zip(&block).for_each(|(dc, sum)| *dc += *sum);
        }
    }
}

/// y ← c ⊙ y + b, where there are c and b.
fn rescale_and_shift<T: Real>(y: &mut [T], c: Option<&[T]>, bias: Option<&[T]>) {
    widest(
        #[inline(always)]
        || {
            if let Some(c) = c {
                for (y, c) in y.iter_mut().zip(c) {
                    *y *= *c;
                }
            }
            if let Some(bias) = bias {
                for (y, bias) in y.iter_mut().zip(bias) {
                    *y += *bias;
                }
            }
        },
    );
}

impl<T: Real> Factors<'_, T> {
    /// x Aᵀ for one block of tokens.
    fn inner(&self, x: &[T], inputs: usize) -> Vec<T> {
        let n = x.len() / inputs;
        let mut inner = vec![T::default(); n * self.rank];
        let a = Strided::new(self.a, self.rank, inputs, inputs).transposed();
        multiply(T::ONE, Strided::new(x, n, inputs, inputs), a, Destination::Overwrite, &mut inner);
        inner
    }

    /// x Aᵀ, parallel over tokens.
    fn inner_all(&self, x: &[T], inputs: usize) -> Vec<T> {
        x.par_chunks(BLOCK * inputs).flat_map_iter(|x| self.inner(x, inputs)).collect()
    }

    /// s·dy B, parallel over tokens.
    fn back(&self, dy: &[T], outputs: usize) -> Vec<T> {
        let b = Strided::new(self.b, outputs, self.rank, self.rank);
        let block = |dy: &[T]| {
            let n = dy.len() / outputs;
            let mut back = vec![T::default(); n * self.rank];
            multiply(self.scale, Strided::new(dy, n, outputs, outputs), b, Destination::Overwrite, &mut back);
            back
        };
        dy.par_chunks(BLOCK * outputs).flat_map_iter(block).collect()
    }
}
