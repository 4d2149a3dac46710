//! LayerNorm and RMSNorm.

use crate::checkpoint::Tensors;
use crate::config::NormKind;
use crate::error::ModelError;
use crate::names::{Parameter, Part};

/// x ↦ gain·(x - mean)/sqrt(variance + ε) + bias, or gain·x/sqrt(mean of squares + ε); entry-wise, one token at a time.
///
/// # References
/// J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016, equations 3-4 \[2nd\]. B. Zhang, R. Sennrich,
/// "Root mean square layer normalization", 2019, equation 4 \[2nd\]; ε stands as in `transformers` \[code\].
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    kind: NormKind,
    gain: Vec<f32>,
    /// Zeros where the kind has none.
    bias: Vec<f32>,
    epsilon: f64,
}

impl Norm {
    /// Loads gain and, for a LayerNorm, bias, both [width], by what names them.
    ///
    /// # Errors
    /// [`ModelError::Tensor`].
    pub(crate) fn load(
        tensors: &Tensors<'_>,
        parameter: impl Fn(Part) -> Parameter,
        width: usize,
        (kind, epsilon): (NormKind, f64),
    ) -> Result<Self, ModelError> {
        let gain = tensors.take(parameter(Part::Weight), &[width])?;
        let bias = match kind {
            NormKind::LayerNorm => tensors.take(parameter(Part::Bias), &[width])?,
            NormKind::RmsNorm => vec![0.0; width],
        };
        Ok(Self { kind, gain, bias, epsilon })
    }

    /// A norm of its numbers.
    #[cfg(test)]
    pub(crate) fn from_parts(kind: NormKind, gain: Vec<f32>, bias: Vec<f32>, epsilon: f64) -> Self {
        Self { kind, gain, bias, epsilon }
    }

    /// The factors of the normalised entries.
    pub(crate) fn gain(&self) -> &[f32] {
        &self.gain
    }

    /// Takes another gain or bias, of the same width.
    pub(crate) fn replace(&mut self, part: Part, values: Vec<f32>) {
        debug_assert_eq!(values.len(), self.gain.len());
        match part {
            Part::Weight => self.gain = values,
            Part::Bias => self.bias = values,
        }
    }

    /// LayerNorm or RMSNorm.
    pub(crate) fn kind(&self) -> NormKind {
        self.kind
    }

    /// What is added at the end; zeros where the kind has none.
    pub(crate) fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// What is added below the root.
    pub(crate) fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// The normalised tokens of `tokens` [n, width].
    pub(crate) fn map(&self, tokens: &[f32]) -> Vec<f32> {
        let mut normed = tokens.to_vec();
        self.apply(&mut normed);
        normed
    }

    /// Normalises every token of `tokens` [n, width]; moments in f64.
    pub(crate) fn apply(&self, tokens: &mut [f32]) {
        tokens.chunks_exact_mut(self.gain.len()).for_each(|token| self.apply_token(token));
    }

    /// The mean that is taken away (0 for RMSNorm) and the factor that follows it.
    pub(crate) fn moments(&self, token: &[f32]) -> (f64, f64) {
        let n = token.len() as f64;
        let mean = match self.kind {
            NormKind::LayerNorm => sum(token, |x| x) / n,
            NormKind::RmsNorm => 0.0,
        };
        let variance = sum(token, |x| (x - mean) * (x - mean)) / n;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }

    fn apply_token(&self, token: &mut [f32]) {
        let (mean, scale) = self.moments(token);
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

    fn norm(kind: NormKind, gain: f32, bias: f32, width: usize) -> Norm {
        Norm { kind, gain: vec![gain; width], bias: vec![bias; width], epsilon: 1e-12 }
    }

    #[test]
    fn normalised_tokens_have_the_bias_as_mean_and_the_gain_as_deviation() {
        let mut token: Vec<f32> = (0..7).map(|i| 1e3 + (i * i) as f32).collect();
        norm(NormKind::LayerNorm, 2.0, 0.5, 7).apply(&mut token);
        let mean = token.iter().sum::<f32>() / 7.0;
        let variance = token.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / 7.0;
        assert!((mean - 0.5).abs() < 1e-6 && (variance.sqrt() - 2.0).abs() < 1e-6, "{mean} {variance}");
    }

    #[test]
    fn a_constant_token_becomes_the_bias() {
        let mut token = vec![7.0; 5];
        norm(NormKind::LayerNorm, 3.0, -1.0, 5).apply(&mut token);
        assert_eq!(token, [-1.0; 5]);
    }

    #[test]
    fn rms_normalised_tokens_have_the_gain_as_root_mean_square_and_keep_their_direction() {
        let token = [3.0, -4.0, 12.0, 0.5];
        let normed = norm(NormKind::RmsNorm, 2.0, 0.0, 4).map(&token);
        let mean_square = normed.iter().map(|x| x * x).sum::<f32>() / 4.0;
        assert!((mean_square.sqrt() - 2.0).abs() < 1e-6, "{mean_square}");
        for (normed, x) in normed.iter().zip(token) {
            // One rounding each of the quotient and of the product.
            assert!((normed / normed_scale(&token) - x).abs() < 4e-6, "{normed} {x}");
        }
    }

    fn normed_scale(token: &[f32]) -> f32 {
        2.0 / (token.iter().map(|x| x * x).sum::<f32>() / token.len() as f32).sqrt()
    }
}
