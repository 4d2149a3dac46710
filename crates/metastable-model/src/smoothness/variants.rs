//! The same model with coarser weights, or with other positions: what a constant is compared with.

use half::f16;
use rayon::prelude::*;

use crate::config::{Position, Rotary, RotaryScaling};
use crate::error::ModelError;
use crate::model::Model;

/// How weights are rounded: blocks of 32 numbers along a row share a scale of 16 bits. Names and rules are ggml's
/// \[code\].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantization {
    /// d·q, q of 8 bits: d = max |x| / 127.
    Q8_0,
    /// d·(q - 8), q of 4 bits: d = -x/8 for the x of largest modulus.
    Q4_0,
}

/// Numbers that share a scale.
const BLOCK: usize = 32;

impl Quantization {
    /// Every scheme with its name.
    pub const ALL: [(&'static str, Self); 2] = [("q8_0", Self::Q8_0), ("q4_0", Self::Q4_0)];

    /// Rounds the numbers of one block.
    fn round(self, block: &mut [f32]) {
        let largest = block.iter().fold(0.0_f32, |m, x| if x.abs() > m.abs() { *x } else { m });
        let scale = match self {
            Self::Q8_0 => largest.abs() / 127.0,
            Self::Q4_0 => largest / -8.0,
        };
        // Numbers are chosen before the scale is rounded to 16 bits, as ggml does it.
        let (inverse, stored) = (if scale == 0.0 { 0.0 } else { 1.0 / scale }, f16::from_f32(scale).to_f32());
        for x in block {
            let steps = match self {
                Self::Q8_0 => (*x * inverse).round(),
                Self::Q4_0 => ((f64::from(*x) * f64::from(inverse) + 8.5).trunc().clamp(0.0, 15.0) - 8.0) as f32,
            };
            *x = stored * steps;
        }
    }
}

impl Model {
    /// The model with the weights of all maps of its blocks rounded, as a GGUF file of that type would hold them; norms,
    /// biases, embeddings and the output map stay. Rows that are no multiple of 32 end with a shorter block.
    ///
    /// # Example
    /// ```no_run
    /// use metastable_model::{Model, smoothness::Quantization};
    /// let model = Model::open("all-MiniLM-L6-v2".as_ref())?;
    /// let coarse = model.quantized(Quantization::Q4_0);
    /// # Ok::<(), metastable_model::ModelError>(())
    /// ```
    #[must_use]
    pub fn quantized(&self, scheme: Quantization) -> Self {
        let mut model = self.clone();
        for (_, _, map) in model.transformer_mut().maps_mut() {
            let (mut weight, inputs) = (map.rows().into_owned(), map.inputs());
            weight.par_chunks_mut(inputs).for_each(|row| row.chunks_mut(BLOCK).for_each(|block| scheme.round(block)));
            map.replace_weight(weight);
        }
        model
    }

    /// The model with its rotary positions stretched by `scaling`, for texts longer than it was trained on.
    ///
    /// # Errors
    /// [`ModelError::Input`] for families without rotary positions, and for a factor that is no positive number.
    pub fn with_rotary_scaling(&self, scaling: RotaryScaling) -> Result<Self, ModelError> {
        let factor = match scaling {
            RotaryScaling::None => 1.0,
            RotaryScaling::Linear { factor }
            | RotaryScaling::Dynamic { factor, .. }
            | RotaryScaling::Llama3 { factor, .. }
            | RotaryScaling::Yarn { factor, .. } => factor,
        };
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(ModelError::input("rope scaling", "a positive factor", factor));
        }
        let Position::Rotary(rotary) = self.config().position else {
            let family = self.config().family.name();
            return Err(ModelError::input("rope scaling", "a family with rotary positions", family));
        };
        let mut model = self.clone();
        model.transformer_mut().config.position = Position::Rotary(Rotary { scaling, ..rotary });
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Input;
    use crate::transformer::reverse::tests::fixture;

    #[test]
    fn rounded_weights_are_within_half_a_step_and_rounding_is_idempotent() {
        for (name, scheme) in Quantization::ALL {
            let mut block: Vec<f32> = (0..32).map(|i| ((i * i * 7 + 3) as f32).sin() * 0.3).collect();
            let before = block.clone();
            scheme.round(&mut block);
            let largest = before.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let steps = if scheme == Quantization::Q8_0 { 127.0 } else { 8.0 };
            for (rounded, x) in block.iter().zip(&before) {
                // Half a step, a whole one at the clamped end of four bits, and the scale's rounding to 11 bits.
                let clamp = if scheme == Quantization::Q4_0 { 1.0 } else { 0.5 };
                assert!((rounded - x).abs() <= largest * (clamp / steps + 1e-3), "{name}: {rounded} {x}");
            }
            let once = block.clone();
            scheme.round(&mut block);
            // The stored scale is its own nearest.
            block.iter().zip(&once).for_each(|(twice, once)| assert!((twice - once).abs() <= 2e-3 * largest, "{name}"));
            let mut zeros = vec![0.0; 5];
            scheme.round(&mut zeros);
            assert!(zeros.iter().all(|x| *x == 0.0));
        }
    }

    /// Made by `quantize` and `dequantize` of the `gguf` package 0.19.0 (NumPy 2.4.6) for 0.8·sin(0.3 + 1.7 i) in f32.
    #[test]
    fn rounding_agrees_with_ggml() {
        let places = [0, 1, 2, 3, 31, 32, 40, 63];
        let golden: [(Quantization, [f64; 8], f64); 2] = [
            (
                Quantization::Q8_0,
                [
                    0.23932647705078125,
                    0.7305755615234375,
                    -0.4219703674316406,
                    -0.6172103881835938,
                    0.31490325927734375,
                    -0.7683639526367188,
                    -0.5794219970703125,
                    0.44086456298828125,
                ],
                32.47282409667969,
            ),
            (
                Quantization::Q4_0,
                [
                    0.199951171875,
                    0.6998291015625,
                    -0.39990234375,
                    -0.599853515625,
                    0.2999267578125,
                    -0.6998291015625,
                    -0.599853515625,
                    0.39990234375,
                ],
                31.8922119140625,
            ),
        ];
        for (scheme, expected, total) in golden {
            let mut x: Vec<f32> = (0..64).map(|i| ((0.3 + 1.7 * f64::from(i)).sin() * 0.8) as f32).collect();
            x.chunks_mut(BLOCK).for_each(|block| scheme.round(block));
            for (place, expected) in places.into_iter().zip(expected) {
                assert_eq!(f64::from(x[place]), expected, "{scheme:?} {place}");
            }
            // Exact in f64: 64 numbers of 18 bits.
            assert_eq!(x.iter().map(|x| f64::from(x.abs())).sum::<f64>(), total, "{scheme:?}");
        }
    }

    #[test]
    fn coarse_weights_and_stretched_positions_make_other_models() {
        let model = fixture("llama-biases");
        let run = |model: &Model| model.forward(&Input::new((5..17).collect()).unwrap()).unwrap();
        let distance = |other: &Model| {
            let (a, b) = (run(&model), run(other));
            a.last().iter().zip(b.last()).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
        };
        let (fine, coarse) =
            (distance(&model.quantized(Quantization::Q8_0)), distance(&model.quantized(Quantization::Q4_0)));
        assert!(fine > 0.0 && coarse > 3.0 * fine, "{fine} {coarse}");
        let stretched = |factor| model.with_rotary_scaling(RotaryScaling::Linear { factor });
        assert_eq!(distance(&stretched(1.0).unwrap()), 0.0);
        assert!(distance(&stretched(4.0).unwrap()) > 1e-3);
        let refused = |model: &Model, factor| {
            model.with_rotary_scaling(RotaryScaling::Linear { factor }).unwrap_err().to_string()
        };
        assert_eq!(refused(&model, f64::NAN), "rope scaling: expected a positive factor, found NaN");
        let encoder = fixture("roberta");
        assert_eq!(refused(&encoder, 2.0), "rope scaling: expected a family with rotary positions, found roberta");
    }
}
