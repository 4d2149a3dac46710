//! An affine map of tokens; the only place where a base weight meets an adapter.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use crate::checkpoint::Tensors;
use crate::error::ModelError;
use crate::names::{LayerParameter, Parameter, Part};
use crate::product::{Destination, Strided, multiply};
use crate::transpose::transposed;

/// y = W x + b. W [outputs, inputs].
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Arc<[f32]>,
    order: Order,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

/// What an adapter adds to a map: A [r, inputs], B [outputs, r].
#[derive(Debug)]
pub(crate) struct Update<'a> {
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    pub(crate) scale: f64,
    /// DoRA's, \[outputs\].
    pub(crate) magnitude: Option<&'a [f32]>,
    /// A constant beside B, \[outputs\]; scaled as the product is.
    pub(crate) bias: Option<&'a [f32]>,
}

/// Whether a map has a constant term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Constant {
    With,
    Without,
}

impl Constant {
    /// [`Constant::With`] if `biased`.
    pub(crate) fn from_flag(biased: bool) -> Self {
        if biased { Self::With } else { Self::Without }
    }
}

/// How the numbers of W stand in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Row after row.
    Rows,
    /// Column after column.
    Columns,
}

impl Order {
    /// The order in which products are fast: of W and Wᵀ the library packs the one whose inner side is contiguous
    /// number by number, so the longer inner side should not be. Columns, where both sides are equal, for the sake of
    /// the forward: at 128 tokens 3072 -> 768 ran at 90 instead of 46 GFLOP/s a thread, 768 -> 768 at 89 instead of 74
    /// (Zen 4).
    fn of(outputs: usize, inputs: usize) -> Self {
        if inputs >= outputs { Self::Columns } else { Self::Rows }
    }
}

/// A map's numbers as they stand in memory.
#[derive(Debug, Clone)]
pub(crate) struct Stored<'a, T: Clone> {
    pub(crate) values: Cow<'a, [T]>,
    order: Order,
    outputs: usize,
    inputs: usize,
}

impl<T: Clone> Stored<'_, T> {
    /// W [outputs, inputs] as a matrix.
    pub(crate) fn matrix(&self) -> Strided<'_, T> {
        let [rows, columns] = self.sides();
        let kept = Strided::new(&self.values, rows, columns, columns);
        match self.order {
            Order::Rows => kept,
            Order::Columns => kept.transposed(),
        }
    }

    /// Rows and columns of the row-major matrix that the numbers are: W, or its transpose.
    pub(crate) fn sides(&self) -> [usize; 2] {
        match self.order {
            Order::Rows => [self.outputs, self.inputs],
            Order::Columns => [self.inputs, self.outputs],
        }
    }

    /// The same map, borrowed.
    pub(crate) fn borrowed(&self) -> Stored<'_, T> {
        Stored { values: Cow::Borrowed(&self.values), ..*self }
    }
}

/// Tokens per task, independent of the number of threads. The library packs W anew for every task: 128 instead of 64
/// saved 12 % of the processor time of a 256-token forward of MiniLM.
const BLOCK: usize = 128;

impl Linear {
    /// Loads one map of the distinct block `layer`.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(crate) fn load(
        tensors: &Tensors<'_>,
        (layer, parameter): (usize, LayerParameter),
        shape: [usize; 2],
        constant: Constant,
    ) -> Result<Self, ModelError> {
        Self::load_as(tensors, |part| Parameter::Layer(layer, parameter, part), shape, constant)
    }

    /// Loads the map whose tensors `parameter` names.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(crate) fn load_as(
        tensors: &Tensors<'_>,
        parameter: impl Fn(Part) -> Parameter,
        [outputs, inputs]: [usize; 2],
        constant: Constant,
    ) -> Result<Self, ModelError> {
        let weight = tensors.take(parameter(Part::Weight), &[outputs, inputs])?;
        let bias = match constant {
            Constant::With => Some(tensors.take(parameter(Part::Bias), &[outputs])?),
            Constant::Without => None,
        };
        Ok(Self::from_parts(weight, bias, outputs, inputs))
    }

    /// A map of W [outputs, inputs], row-major, and b.
    pub(crate) fn from_parts(weight: Vec<f32>, bias: Option<Vec<f32>>, outputs: usize, inputs: usize) -> Self {
        let order = Order::of(outputs, inputs);
        let weight = match order {
            Order::Rows => weight.into(),
            Order::Columns => transposed(&weight, outputs, inputs).into(),
        };
        Self { weight, order, bias, inputs, outputs }
    }

    /// The width of an input token.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The width of an output token.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether the map has a constant term.
    pub(crate) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// Takes another W [outputs, inputs], row-major, of the same shape.
    pub(crate) fn replace_weight(&mut self, weight: Vec<f32>) {
        debug_assert_eq!(weight.len(), self.weight.len());
        *self = Self::from_parts(weight, self.bias.take(), self.outputs, self.inputs);
    }

    /// Takes another b \[outputs\].
    pub(crate) fn replace_bias(&mut self, bias: Vec<f32>) {
        debug_assert_eq!(bias.len(), self.outputs);
        self.bias = Some(bias);
    }

    /// The map with W' = W + scale·B A and b' = b + scale·b_B; with magnitudes m, DoRA's rows
    /// W'_i = m_i (W + scale·B A)_i/‖(W + scale·B A)_i‖. Sums in f64, rounded once. O(outputs·inputs·r).
    ///
    /// # References
    /// E. Hu et al., "LoRA", 2021, equation 3 \[2nd\]; S.-Y. Liu et al., "DoRA", 2024 \[code\].
    pub(crate) fn adapted(&self, update: &Update<'_>) -> Self {
        let mut weight = self.rows().into_owned();
        let r = update.a.len() / self.inputs;
        weight.par_chunks_mut(self.inputs).enumerate().for_each(|(i, row)| {
            let mut sums: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
            for (k, a) in update.a.chunks_exact(self.inputs).enumerate() {
                let share = update.scale * f64::from(update.b[i * r + k]);
                sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += share * f64::from(*a));
            }
            if let Some(magnitude) = update.magnitude {
                let length = sums.iter().map(|w| w * w).sum::<f64>().sqrt();
                let factor = if length > 0.0 { f64::from(magnitude[i]) / length } else { 0.0 };
                sums.iter_mut().for_each(|sum| *sum *= factor);
            }
            row.iter_mut().zip(sums).for_each(|(w, sum)| *w = sum as f32);
        });
        let mut bias = self.bias.clone();
        if let Some(update_bias) = update.bias {
            let bias = bias.get_or_insert_with(|| vec![0.0; self.outputs]);
            let scaled = update_bias.iter().map(|b| (update.scale * f64::from(*b)) as f32);
            bias.iter_mut().zip(scaled).for_each(|(b, update)| *b += update);
        }
        Self::from_parts(weight, bias, self.outputs, self.inputs)
    }

    /// W [outputs, inputs], row-major; a copy where it is kept by columns.
    pub(crate) fn rows(&self) -> Cow<'_, [f32]> {
        match self.order {
            Order::Rows => Cow::Borrowed(&self.weight),
            Order::Columns => Cow::Owned(transposed(&self.weight, self.inputs, self.outputs)),
        }
    }

    /// W as it is kept, its numbers taken by `share`.
    pub(crate) fn stored<'a, T: Clone>(&'a self, share: impl FnOnce(&'a [f32]) -> Cow<'a, [T]>) -> Stored<'a, T> {
        Stored { values: share(&self.weight), order: self.order, outputs: self.outputs, inputs: self.inputs }
    }

    /// b [outputs], where there is one.
    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Entry (i, j) of W.
    pub(crate) fn entry(&self, i: usize, j: usize) -> f32 {
        match self.order {
            Order::Rows => self.weight[i * self.inputs + j],
            Order::Columns => self.weight[j * self.outputs + i],
        }
    }

    /// Row i of W.
    pub(crate) fn row(&self, i: usize) -> Cow<'_, [f32]> {
        match self.order {
            Order::Rows => Cow::Borrowed(&self.weight[i * self.inputs..(i + 1) * self.inputs]),
            Order::Columns => (0..self.inputs).map(|j| self.entry(i, j)).collect(),
        }
    }

    /// Maps n tokens `x` [n, inputs] to [n, outputs]. O(n·inputs·outputs), parallel over tokens.
    pub(crate) fn map(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / self.inputs * self.outputs];
        self.apply(x, &mut y);
        y
    }

    /// As [`Linear::map`], into `y`.
    pub(crate) fn apply(&self, x: &[f32], y: &mut [f32]) {
        self.apply_then(x, y, |_, _| ());
    }

    /// As [`Linear::apply`]; then hands every finished block of tokens to `finish`, with the number of its first token.
    pub(crate) fn apply_then(&self, x: &[f32], y: &mut [f32], finish: impl Fn(usize, &mut [f32]) + Sync) {
        let stored = self.stored(Cow::Borrowed);
        let weight = stored.matrix().transposed();
        y.par_chunks_mut(BLOCK * self.outputs).zip(x.par_chunks(BLOCK * self.inputs)).enumerate().for_each(
            |(block, (y, x))| {
                let x = Strided::new(x, x.len() / self.inputs, self.inputs, self.inputs);
                match &self.bias {
                    Some(bias) => {
                        y.chunks_exact_mut(self.outputs).for_each(|row| row.copy_from_slice(bias));
                        multiply(1.0, x, weight, Destination::Add, y);
                    }
                    None => multiply(1.0, x, weight, Destination::Overwrite, y),
                }
                finish(block * BLOCK, y);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_the_same_in_either_order_of_their_numbers() {
        for (outputs, inputs) in [(5, 3), (4, 4), (3, 70)] {
            let rows: Vec<f32> = (0..outputs * inputs).map(|i| ((i * 7 % 23) as f32) - 11.0).collect();
            let map = Linear::from_parts(rows.clone(), None, outputs, inputs);
            assert_eq!(map.order == Order::Columns, inputs >= outputs);
            assert_eq!(map.rows(), rows);
            let x: Vec<f32> = (0..2 * inputs).map(|i| ((i * 5 % 7) as f32) - 3.0).collect();
            let y = map.map(&x);
            for i in 0..outputs {
                assert_eq!(*map.row(i), rows[i * inputs..(i + 1) * inputs]);
                for (token, x) in x.chunks_exact(inputs).enumerate() {
                    let exact: f32 = x.iter().enumerate().map(|(j, x)| x * map.entry(i, j)).sum();
                    assert_eq!(y[token * outputs + i], exact, "small integers are exact");
                }
            }
            let mut other = map.clone();
            other.replace_weight(rows.iter().map(|w| 2.0 * w).collect());
            assert_eq!(other.map(&x), y.iter().map(|y| 2.0 * y).collect::<Vec<_>>());
            let update =
                Update { a: &vec![1.0; inputs], b: &vec![0.5; outputs], scale: 2.0, magnitude: None, bias: None };
            assert_eq!(*map.adapted(&update).rows(), rows.iter().map(|w| w + 1.0).collect::<Vec<_>>());
        }
    }
}
