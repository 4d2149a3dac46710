//! The rows of the report: one constant, one layer, one head, all blocks, one curve.

use metastable_dynamics::smoothness::SingularTriplet;
use metastable_model::LayerConstant;
use metastable_model::smoothness::HeadConstant;
use serde::Serialize;

/// One constant from both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Constant {
    /// A lower value.
    pub lower: f64,
    /// A proven upper bound; null beyond f64.
    pub upper: Option<f64>,
    /// Its logarithm.
    pub ln_upper: Option<f64>,
    /// An estimate from above; null while too few steps were made.
    pub probable_upper: Option<f64>,
    /// Steps of Lanczos.
    pub steps: usize,
    /// ‖Jᵀu - lower·v‖ / lower.
    pub residual: f64,
    /// Whether that is within the tolerance.
    pub converged: bool,
}

impl Constant {
    fn new(triplet: &SingularTriplet, upper: f64, probable_upper: Option<f64>) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        Self {
            lower: triplet.value,
            upper: finite(upper),
            ln_upper: finite(upper.ln()),
            probable_upper,
            steps: triplet.steps,
            residual: triplet.residual,
            converged: triplet.converged,
        }
    }
}

impl From<&LayerConstant> for Constant {
    fn from(found: &LayerConstant) -> Self {
        Self::new(&found.triplet, found.upper, found.probable_upper)
    }
}

impl From<&HeadConstant> for Constant {
    fn from(found: &HeadConstant) -> Self {
        Self::new(&found.triplet, found.upper, found.probable_upper)
    }
}

/// One layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerRow {
    /// The layer, from 0.
    pub layer: usize,
    /// Attention alone.
    pub attention: Constant,
    /// With the norm before it.
    pub with_norm: Constant,
    /// With the residual connection.
    pub with_residual: Constant,
    /// The whole block.
    pub block: Constant,
    /// Why `attention` is what it is, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<LayerWhy>,
    /// A row a head.
    pub heads: Vec<SmoothHeadRow>,
}

/// Shares of a layer's heads and tokens in its constant.
#[derive(Debug, Clone, Serialize)]
pub struct LayerWhy {
    /// A row a head.
    pub heads: Vec<ShareRow>,
    /// Whom to move.
    pub moved: Vec<TokenEnergy>,
    /// Who answers.
    pub answering: Vec<TokenEnergy>,
}

/// Shares of one head.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ShareRow {
    /// The head, from 0.
    pub head: usize,
    /// Through its values.
    pub value: f64,
    /// Through its queries.
    pub query: f64,
    /// Through its keys.
    pub key: f64,
}

/// One token of the text with a number.
#[derive(Debug, Clone, Serialize)]
pub struct TokenEnergy {
    /// Its place, from 0.
    pub index: usize,
    /// As the tokenizer writes it.
    pub token: String,
    /// The number.
    pub energy: f64,
}

/// One head.
#[derive(Debug, Clone, Serialize)]
pub struct SmoothHeadRow {
    /// The head, from 0.
    pub head: usize,
    /// Its constant.
    #[serde(flatten)]
    pub constant: Constant,
    /// Why, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<HeadWhy>,
}

/// Why a head is as steep as it is.
#[derive(Debug, Clone, Serialize)]
pub struct HeadWhy {
    /// Share of the values.
    pub value: f64,
    /// Share of the queries.
    pub query: f64,
    /// Share of the keys.
    pub key: f64,
    /// Whom to move.
    pub moved: Vec<TokenEnergy>,
    /// Who answers.
    pub answering: Vec<TokenEnergy>,
    /// ‖P‖_2.
    pub weights_norm: f64,
    /// The token that gathers most weight, and how much.
    pub sink: TokenEnergy,
    /// ‖P‖_2 over the root of that.
    pub sink_ratio: f64,
    /// A lower value from values alone.
    pub value_path_lower: f64,
    /// The same from the most watched token.
    pub column_lower: f64,
    /// Directions that neither queries nor keys see, at least.
    pub blind_dimension: usize,
}

/// All blocks one after another.
#[derive(Debug, Clone, Serialize)]
pub struct DepthRow {
    /// A lower value.
    pub lower: f64,
    /// The product of the bounds of the blocks; null beyond f64.
    pub upper: Option<f64>,
    /// Its logarithm.
    pub ln_upper: Option<f64>,
    /// Steps of Lanczos.
    pub steps: usize,
    /// ‖Jᵀu - lower·v‖ / lower.
    pub residual: f64,
    /// Whether that is within the tolerance.
    pub converged: bool,
    /// Whom to move.
    pub moved: Vec<TokenEnergy>,
}

/// How the constant of a layer's attention grows with the text.
#[derive(Debug, Clone, Serialize)]
pub struct Growth {
    /// The layer, from 0.
    pub layer: usize,
    /// Constants of prefixes.
    pub points: Vec<GrowthPoint>,
    /// Of factor·n^exponent; null for fewer than three prefixes.
    pub exponent: Option<f64>,
    /// See `exponent`.
    pub factor: Option<f64>,
    /// The 95 % interval of the exponent, points taken as independent.
    pub interval: Option<[f64; 2]>,
}

impl Growth {
    pub(super) fn of_layer(layer: usize) -> Self {
        Self { layer, points: Vec::new(), exponent: None, factor: None, interval: None }
    }
}

/// One prefix.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct GrowthPoint {
    /// Its tokens.
    pub tokens: usize,
    /// A lower value of its constant.
    pub value: f64,
    /// Steps of Lanczos.
    pub steps: usize,
}
