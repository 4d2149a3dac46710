//! The heads of a block as maps of directions, and the directions they move: what makes a real block an idealised flow.

use metastable_dynamics::{Head, Matrix, Tokens};

use crate::config::{NormKind, NormPlace};
use crate::error::ModelError;
use crate::heads::heads;
use crate::model::Model;
use crate::probe::Hidden;

/// A block of a real model without biases, rotations and feed-forward, as attention between unit vectors.
///
/// Norms put tokens near a sphere. Where they stand after a block (BERT, ALBERT), tokens are the stream's own directions
/// u_i = x_i/|x_i| and `beta` is the mean of |x_i|². Where they stand before it, attention sees sqrt(d)·gain ⊙ u_i, so the
/// gain is a factor of the columns of Q, K and V, `beta` is d, and u_i = x_i/|x_i| for an RMSNorm, C x_i/|C x_i| for a
/// LayerNorm with C = I - 11ᵀ/d. In all cases W is C W for a LayerNorm, for the next norm takes the mean away.
///
/// The flow u_i' = Proj_{u_i} Σ_h Σ_j P^h_ij W_h V_h u_j with scores beta <Q u_i, K u_j> then moves directions as
/// attention of this block does to first order, a block in `time_per_layer`: messages have the length of what attention
/// sees, and turn a token the less the longer the stream is \[derived\].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SphereHeads {
    /// All heads of the block, query scaled by 1/sqrt(head_dim).
    pub heads: Vec<Head>,
    /// u_i [n, d] of the level that enters the block, padding left out.
    pub tokens: Tokens,
    /// The factor of the scores.
    pub beta: f64,
    /// How much time one block is: 1 where norms stand after blocks, sqrt(d)/(root mean square of |x_i|) otherwise.
    pub time_per_layer: f64,
}

impl Model {
    /// Block `layer` (from 0) at the states of a text, as attention on the unit sphere. O(n·d + d²).
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such layer, or the states are not of this model.
    pub fn sphere_heads(&self, hidden: &Hidden, layer: usize) -> Result<SphereHeads, ModelError> {
        self.config().require_layer(layer)?;
        self.require_states(hidden)?;
        let block = self.transformer().block(layer);
        let placed = placed(self, hidden, layer)?;
        let d = self.config().hidden;
        let square = placed.square / placed.tokens.count() as f64;
        let (beta, time_per_layer) = match block.norm_place {
            NormPlace::After => (square, 1.0),
            NormPlace::Before => (d as f64, (d as f64 / square).sqrt()),
        };
        let gain = |j: usize| match block.norm_place {
            NormPlace::After => 1.0,
            NormPlace::Before => f64::from(block.attention_norm.gain()[j]),
        };
        let is_centred = block.attention_norm.kind() == NormKind::LayerNorm;
        let folded = |head: Head| {
            let columns = |m: &Matrix| Matrix::from_fn(m.rows(), d, |i, j| m.at(i, j) * gain(j));
            let output = head.output().cloned().unwrap_or_else(|| Matrix::scaled_identity(d, 1.0));
            let output = if is_centred { centred(&output) } else { output };
            Ok(Head::new(columns(head.query()), columns(head.key()), columns(head.value()), Some(output))?)
        };
        let heads = heads(&block.attention)?.into_iter().map(folded).collect::<Result<_, ModelError>>()?;
        Ok(SphereHeads { heads, tokens: placed.tokens, beta, time_per_layer })
    }

    /// The directions u_i [n, d] of a level of the stream (before the final norm), placed as [`Model::sphere_heads`]
    /// places those that enter a block; a zero token stays zero. O(n·d).
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such level, or the states are not of this model.
    pub fn sphere_tokens(&self, hidden: &Hidden, level: usize) -> Result<Tokens, ModelError> {
        self.require_states(hidden)?;
        if level > self.config().layers {
            return Err(ModelError::input("level", format!("at most {}", self.config().layers), level));
        }
        Ok(placed(self, hidden, level)?.tokens)
    }
}

struct Placed {
    tokens: Tokens,
    /// Σ|x_i|², means taken away where the norm does.
    square: f64,
}

fn placed(model: &Model, hidden: &Hidden, level: usize) -> Result<Placed, ModelError> {
    let d = hidden.dim();
    let norm = &model.transformer().blocks[0].attention_norm;
    let takes_mean = model.config().norm_place == NormPlace::Before && norm.kind() == NormKind::LayerNorm;
    let mut square = 0.0;
    let mut values = Vec::new();
    for (token, _) in hidden.level(level).chunks_exact(d).zip(hidden.keep()).filter(|(_, keep)| **keep) {
        let mean = if takes_mean { token.iter().map(|x| f64::from(*x)).sum::<f64>() / d as f64 } else { 0.0 };
        let moved: Vec<f64> = token.iter().map(|x| f64::from(*x) - mean).collect();
        let length = metastable_dynamics::linalg::norm(&moved);
        square += length * length;
        values.extend(moved.iter().map(|x| if length > 0.0 { x / length } else { 0.0 }));
    }
    Ok(Placed { tokens: Tokens::new(d, values)?, square })
}

/// C m: every column without its mean.
fn centred(m: &Matrix) -> Matrix {
    let rows = m.rows() as f64;
    let means: Vec<f64> = (0..m.columns()).map(|j| (0..m.rows()).map(|i| m.at(i, j)).sum::<f64>() / rows).collect();
    Matrix::from_fn(m.rows(), m.columns(), |i, j| m.at(i, j) - means[j])
}
