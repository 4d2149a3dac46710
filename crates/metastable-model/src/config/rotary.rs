//! Rotary positions and the ways to stretch them to longer texts.

use super::Keys;
use crate::error::ModelError;

/// Rotations of pairs of a query's or key's coordinates: at position p, pair k turns by p·ω_k.
///
/// # References
/// J. Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, section 3.2.2 \[2nd\].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Rotary {
    /// The base θ of the unscaled frequencies ω_k = θ^(-2k/head_dim).
    pub theta: f64,
    /// How frequencies are changed for texts longer than those of the first training.
    pub scaling: RotaryScaling,
}

/// How the frequencies of rotary positions are changed. Formulas as `modeling_rope_utils` of `transformers` 5.23 has
/// them \[code\]; golden values in the tests.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RotaryScaling {
    /// Not at all.
    None,
    /// ω / factor: positions are interpolated.
    Linear {
        /// How much longer.
        factor: f64,
    },
    /// θ grows with a text of n > original tokens: θ·(factor·n/original - (factor - 1))^(head_dim/(head_dim - 2)).
    Dynamic {
        /// How much longer.
        factor: f64,
        /// The longest text that needs no change.
        original: usize,
    },
    /// Wavelengths below original/high stay, those above original/low are stretched by `factor`, between smoothly.
    Llama3 {
        /// How much longer.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// The longest text of the first training.
        original: usize,
    },
    /// Frequencies that turn more than `fast` times over the original text stay, those below `slow` are interpolated,
    /// with a linear ramp between; cosines and sines are multiplied by `attention`.
    ///
    /// B. Peng et al., "YaRN", 2023 \[2nd\].
    Yarn {
        /// How much longer.
        factor: f64,
        /// `beta_fast`.
        fast: f64,
        /// `beta_slow`.
        slow: f64,
        /// Factor of cosines and sines.
        attention: f64,
        /// The longest text of the first training.
        original: usize,
        /// Whether the ends of the ramp are rounded to whole pairs.
        truncate: bool,
    },
}

/// Largest accepted factor, frequency or base: beyond, positions have no meaning in f32.
const LARGEST: f64 = 1e15;

impl Rotary {
    /// Reads `rope_theta` and `rope_scaling`, or `rope_parameters` (their newer place), and gives the longest text.
    pub(super) fn read(keys: &Keys<'_>, positions: usize) -> Result<(Self, usize), ModelError> {
        let newer = keys.object("rope_parameters")?;
        let older = keys.object("rope_scaling")?;
        let theta = keys.number("rope_theta", (0.0, LARGEST), Some(10_000.0))?;
        let theta = match &newer {
            Some(newer) => newer.number("rope_theta", (0.0, LARGEST), Some(theta))?,
            None => theta,
        };
        for place in [Some(keys), newer.as_ref(), older.as_ref()].into_iter().flatten() {
            let partial = place.number("partial_rotary_factor", (0.0, 1.0), Some(1.0))?;
            if partial != 1.0 {
                return Err(keys.refuse("partial_rotary_factor", "1: all pairs rotate", partial));
            }
        }
        let Some(written) = newer.or(older) else {
            return Ok((Self { theta, scaling: RotaryScaling::None }, positions));
        };
        let (scaling, positions) = RotaryScaling::read(&written, positions)?;
        Ok((Self { theta, scaling }, positions))
    }
}

impl RotaryScaling {
    fn read(keys: &Keys<'_>, positions: usize) -> Result<(Self, usize), ModelError> {
        let kind = match keys.get("rope_type") {
            Some(_) => keys.text("rope_type", "default")?,
            None => keys.text("type", "default")?,
        };
        let positive = |name, default| keys.number(name, (0.0, LARGEST), default);
        let original = || keys.side_or("original_max_position_embeddings", positions);
        let stretched = |from: usize, factor: f64| positions.max((from as f64 * factor) as usize).min(1 << 24);
        match kind.as_str() {
            "default" => Ok((Self::None, positions)),
            "linear" => {
                let factor = positive("factor", None)?;
                Ok((Self::Linear { factor }, stretched(positions, factor)))
            }
            "dynamic" => {
                let factor = positive("factor", None)?;
                Ok((Self::Dynamic { factor, original: positions }, stretched(positions, factor)))
            }
            "llama3" => {
                let (low, high) = (positive("low_freq_factor", None)?, positive("high_freq_factor", None)?);
                if high <= low {
                    return Err(keys.refuse("high_freq_factor", format!("more than low_freq_factor = {low}"), high));
                }
                let factor = positive("factor", None)?;
                Ok((Self::Llama3 { factor, low, high, original: original()? }, positions))
            }
            "yarn" => {
                let original = original()?;
                let factor = positive("factor", Some(positions as f64 / original as f64))?;
                let scaling = Self::Yarn {
                    factor,
                    fast: positive("beta_fast", Some(32.0))?,
                    slow: positive("beta_slow", Some(1.0))?,
                    attention: yarn_attention(keys, factor)?,
                    original,
                    truncate: keys.flag("truncate", true)?,
                };
                Ok((scaling, stretched(original, factor)))
            }
            other => Err(keys.refuse("rope_type", "default, linear, dynamic, llama3 or yarn", other)),
        }
    }
}

/// `attention_factor`, or what `transformers` computes where it is absent: 1 + log(factor)/10, or a quotient of two
/// such numbers with weights.
fn yarn_attention(keys: &Keys<'_>, factor: f64) -> Result<f64, ModelError> {
    let grown = |weight: f64| if factor <= 1.0 { 1.0 } else { 1.0 + 0.1 * weight * factor.ln() };
    let weight = |name| match keys.get(name).map(|value| value.as_f64() == Some(0.0)) {
        None | Some(true) => Ok(None),
        Some(false) => keys.number(name, (0.0, LARGEST), None).map(Some),
    };
    let default = match (weight("mscale")?, weight("mscale_all_dim")?) {
        (Some(one), Some(all)) => grown(one) / grown(all),
        _ => grown(1.0),
    };
    keys.number("attention_factor", (0.0, LARGEST), Some(default))
}
