//! The map of a whole checkpoint from one level of the stream to another, and its constant.

use std::ops::Range;

use metastable_dynamics::smoothness::{LanczosOptions, LinearMap, SingularTriplet, top_singular_triplet};

use super::heads::energies;
use super::{LayerJacobian, Precision};
use crate::error::ModelError;
use crate::model::Model;
use crate::probe::Hidden;
use crate::transformer::reverse::real::Real;
use crate::transformer::reverse::single::{lowered, raise};
use crate::transformer::reverse::{Layer, LayerPart, part_upper};

/// The constant of the composition of several blocks at a text.
#[derive(Debug, Clone, PartialEq)]
pub struct DepthConstant {
    /// The largest singular value found, with its vectors; a lower value.
    pub triplet: SingularTriplet,
    /// |v_i|² of every token: whom to move. Sums to 1.
    pub moved: Vec<f64>,
    /// ln of a proven upper bound: the product of the bounds of the blocks. Far above for many blocks.
    pub ln_upper: f64,
    /// ln of the bound of each block, in order.
    pub ln_block_uppers: Vec<f64>,
}

/// J = J_b ⋯ J_a of blocks a..=b, each at its own level.
struct Composed<'a, T: Real> {
    layers: Vec<Layer<'a, T>>,
    size: usize,
}

impl<'a, T: Real> Composed<'a, T> {
    fn at(model: &'a Model, hidden: &Hidden, layers: Range<usize>) -> Self {
        let layers = layers.map(|layer| Layer::at(model.transformer(), layer, hidden.level(layer))).collect();
        Self { layers, size: hidden.count() * hidden.dim() }
    }
}

impl<T: Real> LinearMap for Composed<'_, T> {
    fn inputs(&self) -> usize {
        self.size
    }

    fn outputs(&self) -> usize {
        self.size
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        let moved = self.layers.iter().fold(lowered::<T>(x), |x, layer| layer.tangent(LayerPart::Block, &x));
        raise(&moved, out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        let pulled = self.layers.iter().rev().fold(lowered::<T>(y), |y, layer| layer.cotangent(LayerPart::Block, &y));
        raise(&pulled, out);
    }
}

impl Model {
    /// The Jacobian of blocks `layers` one after another: how the stream at level `layers.end` answers a change of the
    /// stream at level `layers.start`, before the final norm. Forward mode and reverse mode through all blocks; for an
    /// adapted model with the adapter. Memory O(layers·n·(hidden + intermediate)).
    ///
    /// # Errors
    /// [`ModelError::Input`] if the range is empty or leaves the model, the states are not of this model, or the text
    /// has padding.
    pub fn depth_jacobian(
        &self,
        hidden: &Hidden,
        layers: Range<usize>,
        precision: Precision,
    ) -> Result<LayerJacobian<'_>, ModelError> {
        self.require_depth(hidden, &layers)?;
        Ok(LayerJacobian {
            map: match precision {
                Precision::F32 => Box::new(Composed::<f32>::at(self, hidden, layers)),
                Precision::F64 => Box::new(Composed::<f64>::at(self, hidden, layers)),
            },
        })
    }

    /// Encloses the constant of [`Model::depth_jacobian`], in f32: below by Lanczos, above by the product of the bounds
    /// of the blocks, as a logarithm.
    ///
    /// # Errors
    /// As [`Model::depth_jacobian`]; [`ModelError::Mathematics`] if Lanczos refuses its options or a product overflows.
    pub fn depth_constant(
        &self,
        hidden: &Hidden,
        layers: Range<usize>,
        options: &LanczosOptions,
    ) -> Result<DepthConstant, ModelError> {
        self.require_depth(hidden, &layers)?;
        let map = Composed::<f32>::at(self, hidden, layers);
        let triplet = top_singular_triplet(&map, options)?;
        let bounds = map.layers.iter().map(|layer| Ok(part_upper(layer, LayerPart::Block)?.ln()));
        let ln_block_uppers = bounds.collect::<Result<Vec<f64>, ModelError>>()?;
        let ln_upper = ln_block_uppers.iter().sum::<f64>().max(triplet.value.ln());
        let moved = energies(&triplet.right, hidden.count());
        Ok(DepthConstant { triplet, moved, ln_upper, ln_block_uppers })
    }

    fn require_depth(&self, hidden: &Hidden, layers: &Range<usize>) -> Result<(), ModelError> {
        if layers.is_empty() || layers.end > self.config().layers {
            let expected = format!("a range of blocks below {}", self.config().layers);
            return Err(ModelError::input("layers", expected, format!("{layers:?}")));
        }
        self.prefix(hidden, layers.start, hidden.count()).map(|_| ())
    }
}

#[cfg(test)]
mod tests;
