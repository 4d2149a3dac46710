//! LayerNorm.

use crate::checkpoint::Tensors;
use crate::error::ModelError;
use crate::names::{Parameter, Part};

/// x ↦ gain·(x - mean)/sqrt(variance + ε) + bias, entry-wise, one token at a time.
///
/// # References
/// J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016, equations 3-4 [2nd].
#[derive(Debug, Clone)]
pub(super) struct LayerNorm {
    gain: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f64,
}

impl LayerNorm {
    /// Loads gain and bias, both [hidden], by what names them.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(super) fn load(
        tensors: &Tensors<'_>,
        parameter: impl Fn(Part) -> Parameter,
        hidden: usize,
        epsilon: f64,
    ) -> Result<Self, ModelError> {
        let gain = tensors.take(parameter(Part::Weight), &[hidden])?;
        let bias = tensors.take(parameter(Part::Bias), &[hidden])?;
        Ok(Self { gain, bias, epsilon })
    }

    /// Normalises every token of `tokens` [n, hidden]; moments in f64.
    pub(super) fn apply(&self, tokens: &mut [f32]) {
        tokens.chunks_exact_mut(self.gain.len()).for_each(|token| self.apply_token(token));
    }

    /// Adds `stream` to `tokens` (both [n, hidden]), then normalises: the residual step of post-norm blocks.
    pub(super) fn add_and_apply(&self, stream: &[f32], tokens: &mut [f32]) {
        for (sum, x) in tokens.iter_mut().zip(stream) {
            *sum += x;
        }
        self.apply(tokens);
    }

    fn apply_token(&self, token: &mut [f32]) {
        let n = token.len() as f64;
        let mean = sum(token, |x| x) / n;
        let variance = sum(token, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, gain), bias) in token.iter_mut().zip(&self.gain).zip(&self.bias) {
            *x = ((f64::from(*x) - mean) * scale) as f32 * gain + bias;
        }
    }
}

/// Σ f(x), in four interleaved sums so that additions need not wait for each other; the order is fixed.
fn sum(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let chunks = values.chunks_exact(4);
    let rest: f64 = chunks.remainder().iter().map(|x| f(f64::from(*x))).sum();
    let mut lanes = [0.0; 4];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(f64::from(*x));
        }
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_tokens_have_the_bias_as_mean_and_the_gain_as_deviation() {
        let norm = LayerNorm { gain: vec![2.0; 7], bias: vec![0.5; 7], epsilon: 1e-12 };
        let mut token: Vec<f32> = (0..7).map(|i| 1e3 + (i * i) as f32).collect();
        norm.apply(&mut token);
        let mean = token.iter().sum::<f32>() / 7.0;
        let variance = token.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / 7.0;
        assert!((mean - 0.5).abs() < 1e-6 && (variance.sqrt() - 2.0).abs() < 1e-6, "{mean} {variance}");
    }

    #[test]
    fn a_constant_token_becomes_the_bias() {
        let norm = LayerNorm { gain: vec![3.0; 5], bias: vec![-1.0; 5], epsilon: 1e-12 };
        let mut token = vec![7.0; 5];
        norm.apply(&mut token);
        assert_eq!(token, [-1.0; 5]);
    }
}
