//! How steep single heads of a layer are at a text, and why.

use metastable_dynamics::Matrix;
use metastable_dynamics::smoothness::explain::{PathShares, SinkDiagnosis, sink};
use metastable_dynamics::smoothness::{
    LanczosOptions, LinearMap, SingularTriplet, probable_upper, top_singular_triplet,
};
use rayon::prelude::*;

use super::FAILURE_PROBABILITY;
use crate::error::ModelError;
use crate::model::Model;
use crate::probe::Hidden;
use crate::transformer::reverse::circuits::Circuits;
use crate::transformer::reverse::single::SingleHead;
use crate::transformer::reverse::{Layer, head_upper};

/// The local Lipschitz constant of one head with its part of the output map: X ↦ P(X) X Vᵀ Wᵀ at what attention is
/// applied to, biases, norms of queries and keys, rotations and masks included.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadConstant {
    /// The largest singular value found; a lower value. The vectors are in coordinates of the head's own, [n, r] and
    /// [n, k], in which tokens keep their lengths.
    pub triplet: SingularTriplet,
    /// A proven upper bound, up to the rounding of f32.
    pub upper: f64,
    /// An estimate: above the constant but for [`FAILURE_PROBABILITY`] over the random start; none while Lanczos has
    /// made too few steps to say so.
    pub probable_upper: Option<f64>,
}

/// Why a head is as steep as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadExplanation {
    /// Shares in the constant of its value, query and key path; they add up to it.
    pub paths: PathShares,
    /// |v_i|² of every token: whom to move. Sums to 1.
    pub moved: Vec<f64>,
    /// |u_i|² of every token: who answers. Sums to 1.
    pub answering: Vec<f64>,
    /// ‖P‖_2 beside the root of its largest column mass.
    pub sink: SinkDiagnosis,
    /// ‖P‖_2 ‖W V Π‖_2, Π the projector on the directions that neither Q nor K sees: a lower value of the constant
    /// from values alone.
    pub value_path_lower: f64,
    /// max_j (Σ_i P_ij²)^{1/2} ‖W V Π‖_2: the same from the most watched token alone.
    pub column_lower: f64,
    /// At least so many directions are seen by neither Q nor K: d - 2k.
    pub blind_dimension: usize,
}

/// All heads of one layer at one text. Memory O(n·(hidden + intermediate)).
pub struct LayerHeads<'a> {
    layer: Layer<'a, f32>,
}

impl std::fmt::Debug for LayerHeads<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerHeads").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Model {
    /// The heads of layer `layer` (from 0) at the tokens of level `layer`. One forward of the layer.
    ///
    /// # Errors
    /// As [`Model::layer_jacobian`].
    pub fn layer_heads(&self, hidden: &Hidden, layer: usize) -> Result<LayerHeads<'_>, ModelError> {
        let stream = self.prefix(hidden, layer, hidden.count())?;
        Ok(LayerHeads { layer: Layer::at(self.transformer(), layer, stream) })
    }
}

impl LayerHeads<'_> {
    /// How many query heads there are.
    pub fn count(&self) -> usize {
        self.layer.attention().heads
    }

    /// The constants of all heads, in their order; parallel over heads, and identical to the bit on any number of
    /// threads. O(H steps n² k).
    ///
    /// # Errors
    /// [`ModelError::Mathematics`] if Lanczos refuses its options or a product overflows.
    pub fn constants(&self, options: &LanczosOptions) -> Result<Vec<HeadConstant>, ModelError> {
        let heads: Vec<_> = (0..self.count()).into_par_iter().map(|head| self.constant(head, options)).collect();
        heads.into_iter().collect()
    }

    /// The constant of one head.
    ///
    /// # Errors
    /// As [`LayerHeads::constants`]; [`ModelError::Input`] if there is no such head.
    pub fn constant(&self, head: usize, options: &LanczosOptions) -> Result<HeadConstant, ModelError> {
        let map = self.map(head)?;
        let triplet = top_singular_triplet(&map, options)?;
        let upper = head_upper(&self.layer, head)?.max(triplet.value);
        let probable = triplet
            .random_start
            .then(|| probable_upper(triplet.value, map.inputs(), triplet.steps, FAILURE_PROBABILITY))
            .flatten();
        Ok(HeadConstant { triplet, upper, probable_upper: probable })
    }

    /// Splits the constant of one head. Three products, O(n²) a step of Lanczos for ‖P‖_2.
    ///
    /// # Errors
    /// As [`LayerHeads::constant`].
    pub fn explain(&self, head: usize, constant: &HeadConstant) -> Result<HeadExplanation, ModelError> {
        let (map, circuits) = (self.map(head)?, Circuits::of(self.layer.attention(), head));
        let n = self.layer.count();
        let pair = &constant.triplet;
        let [value, query, key] = map.paths(&pair.right).map(|path| dot(&pair.left, &path));
        let weights = Matrix::new("attention weights", n, n, map.weights())?;
        let column = |j: usize| (0..n).map(|i| weights.at(i, j).powi(2)).sum::<f64>();
        let (sink, blind) = (sink(&weights)?, circuits.blind_value_norm()?);
        Ok(HeadExplanation {
            paths: PathShares { value, query, key },
            moved: energies(&pair.right, n),
            answering: energies(&pair.left, n),
            value_path_lower: sink.weights_norm * blind,
            column_lower: (0..n).map(column).fold(0.0, f64::max).sqrt() * blind,
            blind_dimension: circuits.blind_dimension(),
            sink,
        })
    }

    fn map(&self, head: usize) -> Result<SingleHead<'_, f32>, ModelError> {
        if head >= self.count() {
            return Err(ModelError::input("head", format!("a number below {}", self.count()), head));
        }
        Ok(SingleHead::of_layer(&self.layer, &Circuits::of(self.layer.attention(), head), head))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Squares of the lengths of the n tokens of a vector.
pub(super) fn energies(vector: &[f64], n: usize) -> Vec<f64> {
    vector.chunks_exact((vector.len() / n).max(1)).map(|token| dot(token, token)).collect()
}

#[cfg(test)]
mod tests;
