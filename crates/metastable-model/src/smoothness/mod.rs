//! How smooth the layers of a checkpoint are at a text: their Jacobians as products, and two-sided constants.
//!
//! The products are those of the transformer's reverse pass and of a forward mode beside it, in f32 (the
//! numbers of the model) or f64 (to compare with).
//!
//! Reading order: here layers and their parts; [`heads`] single heads and why they are steep; [`depth`] all blocks one
//! after another; [`variants`] what they are compared with; [`worst`] clouds and tokens that are worse than the text.

pub mod depth;
pub mod heads;
pub mod variants;
pub mod worst;

pub use depth::DepthConstant;
pub use heads::{HeadConstant, HeadExplanation, LayerHeads};
use metastable_dynamics::smoothness::explain::PathShares;
use metastable_dynamics::smoothness::probable_upper;
use metastable_dynamics::smoothness::scaling::{PrefixConstant, sweep};
use metastable_dynamics::smoothness::{LanczosOptions, LinearMap, SingularTriplet, top_singular_triplet};
pub use variants::Quantization;
pub use worst::{HeadWorst, TokenSearch, WorstCloud, WorstOptions, WorstToken};

use crate::error::ModelError;
use crate::model::Model;
use crate::probe::Hidden;
pub use crate::transformer::reverse::LayerPart;
use crate::transformer::reverse::{Layer, PartJacobian, part_upper};

/// The numbers that products are made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Those of the model; products are good to about 1e-6.
    #[default]
    F32,
    /// Twice the time and memory; products are good to about 1e-14.
    F64,
}

/// The Jacobian of one part of a layer at one text: a linear map of streams [n, d] to streams [n, d].
///
/// Time of a product: about two forwards of the part; memory O(n·(d + intermediate)), never n². Identical to the bit on
/// any number of threads of one machine.
pub struct LayerJacobian<'a> {
    map: Box<dyn LinearMap + 'a>,
}

impl std::fmt::Debug for LayerJacobian<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerJacobian").field("inputs", &self.inputs()).finish_non_exhaustive()
    }
}

impl LinearMap for LayerJacobian<'_> {
    fn inputs(&self) -> usize {
        self.map.inputs()
    }

    fn outputs(&self) -> usize {
        self.map.outputs()
    }

    fn apply(&self, x: &[f64], out: &mut [f64]) {
        self.map.apply(x, out);
    }

    fn apply_transposed(&self, y: &[f64], out: &mut [f64]) {
        self.map.apply_transposed(y, out);
    }
}

/// The local Lipschitz constant of a part of a layer at a text.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConstant {
    /// The largest singular value found, with its vectors; a lower value.
    pub triplet: SingularTriplet,
    /// A proven upper bound, up to the rounding of f32.
    pub upper: f64,
    /// An estimate: above the constant but for [`FAILURE_PROBABILITY`] over the random start; none while Lanczos has
    /// made too few steps to say so.
    pub probable_upper: Option<f64>,
}

/// Why the attention of a layer is as steep as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerExplanation {
    /// Shares of every head's value, query and key path in the constant; all together they add up to it.
    pub heads: Vec<PathShares>,
    /// |v_i|² of every token: whom to move. Sums to 1.
    pub moved: Vec<f64>,
    /// |u_i|² of every token: who answers. Sums to 1.
    pub answering: Vec<f64>,
}

/// The probability that `probable_upper` is below the constant, over the random start of Lanczos.
pub const FAILURE_PROBABILITY: f64 = 1e-6;

/// Lanczos as products in f32 allow it: their rounding stands for anything finer.
pub fn single_precision_lanczos() -> LanczosOptions {
    LanczosOptions { tolerance: 1e-3, max_steps: 60, seed: 0, start: None }
}

impl Model {
    /// The Jacobian of a part of layer `layer` (from 0) at the tokens of level `layer`.
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such layer, the states are not of this model, or the text has padding.
    pub fn layer_jacobian(
        &self,
        hidden: &Hidden,
        layer: usize,
        part: LayerPart,
        precision: Precision,
    ) -> Result<LayerJacobian<'_>, ModelError> {
        self.layer_jacobian_of_prefix(hidden, layer, part, precision, hidden.count())
    }

    /// [`Model::layer_jacobian`] at the first `count` tokens of the level. For decoders these are what the model makes
    /// of the first `count` tokens of the text.
    ///
    /// # Errors
    /// As [`Model::layer_jacobian`]; also if there are fewer tokens, or none is asked for.
    pub fn layer_jacobian_of_prefix(
        &self,
        hidden: &Hidden,
        layer: usize,
        part: LayerPart,
        precision: Precision,
        count: usize,
    ) -> Result<LayerJacobian<'_>, ModelError> {
        let stream = self.prefix(hidden, layer, count)?;
        let transformer = self.transformer();
        Ok(LayerJacobian {
            map: match precision {
                Precision::F32 => Box::new(PartJacobian { layer: Layer::<f32>::at(transformer, layer, stream), part }),
                Precision::F64 => Box::new(PartJacobian { layer: Layer::<f64>::at(transformer, layer, stream), part }),
            },
        })
    }

    /// Encloses the local Lipschitz constant of a part of layer `layer` at the tokens of level `layer`, in f32.
    ///
    /// # Errors
    /// As [`Model::layer_jacobian`]; [`ModelError::Mathematics`] if Lanczos refuses its options or a product overflows.
    pub fn layer_constant(
        &self,
        hidden: &Hidden,
        layer: usize,
        part: LayerPart,
        options: &LanczosOptions,
    ) -> Result<LayerConstant, ModelError> {
        let stream = self.prefix(hidden, layer, hidden.count())?;
        let map = PartJacobian { layer: Layer::<f32>::at(self.transformer(), layer, stream), part };
        let triplet = top_singular_triplet(&map, options)?;
        // Products in f32 may put the lower value above a sharp bound by their rounding.
        let upper = part_upper(&map.layer, part)?.max(triplet.value);
        let probable = triplet
            .random_start
            .then(|| probable_upper(triplet.value, map.inputs(), triplet.steps, FAILURE_PROBABILITY))
            .flatten();
        Ok(LayerConstant { triplet, upper, probable_upper: probable })
    }

    /// Splits the constant of the attention of a layer, as [`Model::layer_constant`] found it for
    /// [`LayerPart::Attention`], over heads, paths and tokens. Three forward products.
    ///
    /// # Errors
    /// As [`Model::layer_jacobian`]; [`ModelError::Input`] for singular vectors of another text.
    pub fn explain_layer(
        &self,
        hidden: &Hidden,
        layer: usize,
        pair: &SingularTriplet,
    ) -> Result<LayerExplanation, ModelError> {
        let stream = self.prefix(hidden, layer, hidden.count())?;
        if [pair.left.len(), pair.right.len()] != [stream.len(); 2] {
            let found = format!("{} and {}", pair.left.len(), pair.right.len());
            return Err(ModelError::input("singular vectors", format!("{} numbers each", stream.len()), found));
        }
        let single = |vector: &[f64]| -> Vec<f32> { vector.iter().map(|x| *x as f32).collect() };
        let shares = Layer::<f32>::at(self.transformer(), layer, stream)
            .path_shares(&single(&pair.right), &single(&pair.left))
            .into_iter()
            .map(|[value, query, key]| PathShares { value, query, key });
        let n = hidden.count();
        let (moved, answering) = (heads::energies(&pair.right, n), heads::energies(&pair.left, n));
        Ok(LayerExplanation { heads: shares.collect(), moved, answering })
    }

    /// The constants of growing prefixes of a decoder's text at one layer, each started at the one before.
    ///
    /// # Errors
    /// As [`Model::layer_jacobian_of_prefix`]; [`ModelError::Mathematics`] if the lengths do not increase.
    pub fn layer_sweep(
        &self,
        hidden: &Hidden,
        layer: usize,
        part: LayerPart,
        lengths: &[usize],
        options: &LanczosOptions,
    ) -> Result<Vec<PrefixConstant>, ModelError> {
        self.prefix(hidden, layer, lengths.last().copied().unwrap_or(1))?;
        let map_of = |count: usize| {
            let stream = &hidden.level(layer)[..count * self.config().hidden];
            Ok(PartJacobian { layer: Layer::<f32>::at(self.transformer(), layer, stream), part })
        };
        Ok(sweep(lengths, self.config().hidden, map_of, options)?)
    }

    /// The first `count` tokens of a level.
    fn prefix<'h>(&self, hidden: &'h Hidden, layer: usize, count: usize) -> Result<&'h [f32], ModelError> {
        self.config().require_layer(layer)?;
        self.require_states(hidden)?;
        if count == 0 || count > hidden.count() {
            return Err(ModelError::input("tokens", format!("between 1 and {}", hidden.count()), count));
        }
        if hidden.keep().contains(&false) {
            return Err(ModelError::input("text", "no padding for Jacobian products", "padding"));
        }
        Ok(&hidden.level(layer)[..count * self.config().hidden])
    }
}
