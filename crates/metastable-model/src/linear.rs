//! An affine map of tokens; the only place where a base weight will meet an adapter.

use rayon::prelude::*;

use crate::checkpoint::Tensors;
use crate::error::ModelError;
use crate::names::{LayerParameter, Parameter, Part};
use crate::product::{Destination, Strided, multiply};

/// y = W x + b. W [outputs, inputs], row-major.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
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
        Ok(Self { weight, bias, inputs, outputs })
    }

    /// The width of an input token.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The width of an output token.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Row i of W.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.weight[i * self.inputs..(i + 1) * self.inputs]
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
        let weight = Strided::new(&self.weight, self.outputs, self.inputs, self.inputs).transposed();
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
