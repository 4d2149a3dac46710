//! The reverse pass: gradients of adapters, and of nothing else.
//!
//! Generic over f32 (training) and f64 (checks against central differences). A batch is ragged: the tokens of all
//! sequences one after another, without padding. No gradient of a frozen matrix is formed, and below the first adapted
//! layer nothing is kept and nothing goes back. [`FrozenBlock::backward`] is the vector-Jacobian product of one block
//! with respect to its input; the forward-mode products in the `tangent` files stand beside it, and a `layer` at a text
//! is both, as a linear map.
//!
//! Reading order: `map` (a matrix meets factors), `attention`, `norm`, `turns`, `block`, `loss`, then [`Pass`].

pub(crate) mod adapters;
mod attention;
mod block;
pub(crate) mod circuits;
mod halves;
mod head_products;
mod layer;
mod layer_bound;
mod loss;
pub(crate) mod map;
mod masked;
mod norm;
mod pass;
pub(crate) mod real;
pub(crate) mod single;
mod spectral;
#[cfg(test)]
pub(crate) mod tests;
mod turns;

pub(crate) use adapters::{ModuleValues, Place, Places, Slot};
#[cfg(doc)]
use block::FrozenBlock;
pub use block::LayerPart;
pub(crate) use layer::{Layer, PartJacobian};
pub(crate) use layer_bound::{head_upper, part_upper};
pub(crate) use loss::Likelihood;
pub(crate) use pass::{Goal, HeadKind, HeadValues, Keeps, Pass, Ragged, Sums};
