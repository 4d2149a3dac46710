//! From the maps of a layer to attention heads, and what their weights alone say of them.
//!
//! Biases are not part of a [`Head`]: scores and messages of the real model are affine in each token, and the bilinear
//! form QᵀK and the linear map W V leave their constant and linear terms out. [`HeadSpectrum`] measures both circuits of a
//! head, [`distance`] follows the query-key circuit over relative positions.

pub mod distance;
mod spectrum;

use metastable_dynamics::{Head, Matrix};

use crate::config::{Config, Position};
use crate::error::ModelError;
use crate::linear::Linear;
use crate::transformer::Attention;
use crate::transformer::norm::Norm;
use crate::transformer::rotation::frequencies;
pub use distance::DistancePoint;
use distance::Turns;
pub use spectrum::{HeadSpectrum, Regime};

/// The heads of a layer in f64: query (scaled by 1/sqrt(head_dim)), key and value [head_dim, d], output [d, head_dim].
///
/// Query heads of one group come with the same key and value. Gains of norms of queries and keys (Qwen 3) are factors of
/// their rows; the normalisation itself depends on the token and is left out. Rotations (RoPE) are left out: the circuit
/// is that of two tokens at the same place.
pub(crate) fn heads(attention: &Attention) -> Result<Vec<Head>, ModelError> {
    let head_dim = attention.head_dim;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let rows = |map: &Linear, first: usize, norm: Option<&Norm>, scale: f64| {
        let factor = |i: usize| scale * norm.map_or(1.0, |norm| f64::from(norm.gain()[i]));
        Matrix::from_fn(head_dim, map.inputs(), |i, j| factor(i) * f64::from(map.entry(first + i, j)))
    };
    let head = |head: usize| {
        let (first, shared) = (head * head_dim, attention.group(head) * head_dim);
        let output = Matrix::from_fn(attention.output.outputs(), head_dim, |i, j| {
            f64::from(attention.output.entry(i, first + j))
        });
        let query = rows(&attention.query, first, attention.query_norm.as_ref(), scale);
        let key = rows(&attention.key, shared, attention.key_norm.as_ref(), 1.0);
        Ok(Head::new(query, key, rows(&attention.value, shared, None, 1.0), Some(output))?)
    };
    (0..attention.heads).map(head).collect()
}

/// How queries and keys of a model turn over a text long enough for `distances`; `divisors` as in the rotation.
///
/// # Errors
/// [`ModelError::Input`] for a model without rotary positions, and for distances that no text of the model has.
pub(crate) fn turns(config: &Config, divisors: Option<&[f32]>, distances: &[usize]) -> Result<Turns, ModelError> {
    let Position::Rotary(rotary) = &config.position else {
        let found = format!("{}, whose positions are learned", config.family.name());
        return Err(ModelError::input("distances", "a model with rotary positions", found));
    };
    let longest = distances.iter().copied().max().unwrap_or(0);
    if longest >= config.positions {
        return Err(ModelError::input("distances", format!("numbers below {} positions", config.positions), longest));
    }
    let (frequencies, factor) = frequencies(rotary, config.head_dim, longest + 1);
    let divided = |(pair, w): (usize, &f32)| f64::from(w / divisors.map_or(1.0, |divisors| divisors[pair]));
    let frequencies = frequencies.iter().enumerate().map(divided).collect();
    // Queries and keys carry the factor of the cosines once each.
    Ok(Turns { frequencies, factor: factor * factor })
}

/// The head of that number.
///
/// # Errors
/// [`ModelError::Input`] if there is none.
pub(crate) fn chosen(mut heads: Vec<Head>, head: usize) -> Result<Head, ModelError> {
    match head < heads.len() {
        true => Ok(heads.swap_remove(head)),
        false => Err(ModelError::input("head", format!("a number below {}", heads.len()), head)),
    }
}
