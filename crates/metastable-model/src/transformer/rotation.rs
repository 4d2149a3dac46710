//! Rotary positions: queries and keys turn with their place in the text, so that scores depend on differences only.

use crate::config::{Rotary, RotaryScaling};

/// Cosines and sines of all positions of a text: coordinates k and k + head_dim/2 of a head are a pair that turns.
///
/// This is the layout of `transformers`; Meta's and ggml's files interleave the pairs instead \[code\].
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// [n, head_dim/2].
    cosines: Vec<f32>,
    sines: Vec<f32>,
    pairs: usize,
}

impl Rotation {
    /// The rotations of a text of n tokens. O(n·head_dim).
    pub(crate) fn new(rotary: &Rotary, head_dim: usize, n: usize) -> Self {
        let (frequencies, factor) = frequencies(rotary, head_dim, n);
        // Angles are rounded to f32 as in the reference, which the models were trained with: at position 8000 that is
        // up to 2.4e-4 rad, more than anything else here rounds.
        let angles = (0..n).flat_map(|position| frequencies.iter().map(move |w| position as f32 * w));
        let (cosines, sines) = angles
            .map(|angle| {
                let (sine, cosine) = f64::from(angle).sin_cos();
                ((factor * cosine) as f32, (factor * sine) as f32)
            })
            .unzip();
        Self { cosines, sines, pairs: head_dim / 2 }
    }

    /// Turns every head of every token of `x` [n, heads·head_dim] by its token's position.
    pub(crate) fn apply(&self, x: &mut [f32], width: usize) {
        let tables = self.cosines.chunks_exact(self.pairs).zip(self.sines.chunks_exact(self.pairs));
        for (token, (cosines, sines)) in x.chunks_exact_mut(width).zip(tables) {
            for head in token.chunks_exact_mut(2 * self.pairs) {
                turn(head, cosines, sines);
            }
        }
    }
}

fn turn(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (first, second) = head.split_at_mut(cosines.len());
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
    }
}

/// The angle per position of each pair, and the factor of cosines and sines.
///
/// # References
/// `modeling_rope_utils` of `transformers` 5.23 \[code\].
pub(crate) fn frequencies(rotary: &Rotary, head_dim: usize, n: usize) -> (Vec<f32>, f64) {
    let d = head_dim as f64;
    let theta = match rotary.scaling {
        RotaryScaling::Dynamic { factor, original } if n > original && head_dim > 2 => {
            let stretch = factor * n as f64 / original as f64 - (factor - 1.0);
            rotary.theta * stretch.powf(d / (d - 2.0))
        }
        _ => rotary.theta,
    };
    let plain = (0..head_dim / 2).map(|k| theta.powf(-2.0 * k as f64 / d));
    let (scaled, attention): (Vec<f64>, f64) = match rotary.scaling {
        RotaryScaling::None | RotaryScaling::Dynamic { .. } => (plain.collect(), 1.0),
        RotaryScaling::Linear { factor } => (plain.map(|w| w / factor).collect(), 1.0),
        RotaryScaling::Llama3 { factor, low, high, original } => {
            (plain.map(|w| llama3(w, factor, (low, high), original as f64)).collect(), 1.0)
        }
        RotaryScaling::Yarn { factor, fast, slow, attention, original, truncate } => {
            // The pair that turns so many times over the original text.
            let pair = |turns: f64| d * (original as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
            let round = |value: f64, to: fn(f64) -> f64| if truncate { to(value) } else { value };
            let start = round(pair(fast), f64::floor).max(0.0);
            let end = round(pair(slow), f64::ceil).min(d - 1.0);
            let width = if end == start { 0.001 } else { end - start };
            let ramp = |k: usize| ((k as f64 - start) / width).clamp(0.0, 1.0);
            (plain.enumerate().map(|(k, w)| w / factor * ramp(k) + w * (1.0 - ramp(k))).collect(), attention)
        }
    };
    (scaled.into_iter().map(|w| w as f32).collect(), attention)
}

fn llama3(frequency: f64, factor: f64, (low, high): (f64, f64), original: f64) -> f64 {
    // Turns over the original text.
    let turns = original * frequency / std::f64::consts::TAU;
    if turns > high {
        frequency
    } else if turns < low {
        frequency / factor
    } else {
        let smooth = (turns - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}
