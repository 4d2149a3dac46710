//! Seeded randomness: a counter-based generator with one stream per token, so that token i is the same
//! for every number of tokens and threads. [`numpy`] is the generator of published figures, for their seeds.

pub mod numpy;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// The generator of stream `stream` under `seed`.
pub fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    generator
}

/// n points uniform in the box [low, high]^d, [n, d] token after token.
pub fn uniform(seed: u64, n: usize, d: usize, low: f64, high: f64) -> Vec<f64> {
    per_token(seed, n, d, |generator| low + (high - low) * generator.random::<f64>())
}

/// n standard normal points of R^d, [n, d] token after token.
pub fn standard_normal(seed: u64, n: usize, d: usize) -> Vec<f64> {
    per_token(seed, n, d, |generator| generator.sample(StandardNormal))
}

/// The first `count` numbers uniform in [0, 1) of one stream.
pub fn uniforms(seed: u64, of_stream: u64, count: usize) -> Vec<f64> {
    let mut generator = stream(seed, of_stream);
    (0..count).map(|_| generator.random::<f64>()).collect()
}

/// The first `count` standard normal numbers of one stream.
pub fn normals(seed: u64, of_stream: u64, count: usize) -> Vec<f64> {
    let mut generator = stream(seed, of_stream);
    (0..count).map(|_| generator.sample(StandardNormal)).collect()
}

/// n points uniform on the unit sphere of R^d: normalised Gaussian vectors.
pub fn sphere(seed: u64, n: usize, d: usize) -> Vec<f64> {
    let mut values = standard_normal(seed, n, d);
    for token in values.chunks_exact_mut(d) {
        let norm = crate::linalg::norm(token);
        token.iter_mut().for_each(|c| *c /= norm);
    }
    values
}

fn per_token(seed: u64, n: usize, d: usize, mut draw: impl FnMut(&mut ChaCha8Rng) -> f64) -> Vec<f64> {
    let mut values = Vec::with_capacity(n * d);
    for i in 0..n {
        let mut generator = stream(seed, i as u64);
        values.extend((0..d).map(|_| draw(&mut generator)));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_depend_on_the_number_of_tokens() {
        assert_eq!(standard_normal(7, 3, 4), standard_normal(7, 50, 4)[..12]);
    }

    #[test]
    fn normal_draws_have_unit_variance() {
        let values = standard_normal(1, 20_000, 2);
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        // Standard deviation of the mean of v² over 40 000 draws is sqrt(2/40000) = 0.007; five of them.
        assert!((variance - 1.0).abs() < 0.036, "{variance}");
    }
}
