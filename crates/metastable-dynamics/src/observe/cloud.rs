//! The shape of one cloud: cosines, extent, anisotropy, effective rank.

use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::hull::hull_vertices;
use super::pairs::{Columns, extremes};
use crate::error::DynamicsError;
use crate::linalg::{Matrix, dot, norm};
use crate::tokens::TokensRef;

/// All shape observables of one cloud; what is not defined for it is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudShape {
    /// See [`mean_cosine`].
    pub mean_cosine: Option<f64>,
    /// See [`extreme_cosines`].
    pub min_cosine: Option<f64>,
    /// See [`extreme_cosines`].
    pub max_cosine: Option<f64>,
    /// See [`diameter`].
    pub diameter: f64,
    /// See [`mean_radius`].
    pub mean_radius: f64,
    /// See [`TokensRef::mean`].
    pub mean: Vec<f64>,
    /// See [`anisotropy`].
    pub anisotropy: Option<f64>,
    /// See [`effective_rank`].
    pub effective_rank: Option<f64>,
    /// See [`hull_vertices`].
    pub hull_vertices: Option<usize>,
}

impl CloudShape {
    /// Measures everything. O(n² d + n d min(n, d)), and the hull for d <= 3.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`] if an eigenvalue iteration does not converge.
    pub fn of(tokens: TokensRef<'_>) -> Result<Self, DynamicsError> {
        let cosines = extreme_cosines(tokens);
        Ok(Self {
            mean_cosine: mean_cosine(tokens),
            min_cosine: cosines.map(|(low, _)| low),
            max_cosine: cosines.map(|(_, high)| high),
            diameter: diameter(tokens),
            mean_radius: mean_radius(tokens),
            mean: tokens.mean(),
            anisotropy: anisotropy(tokens)?,
            effective_rank: effective_rank(tokens)?,
            hull_vertices: hull_vertices(tokens),
        })
    }
}

/// The mean of <x_i, x_j> / (|x_i| |x_j|) over all ordered pairs i != j.
///
/// Computed as (|sum_i u_i|² - sum_i |u_i|²) / (n (n - 1)) with u_i = x_i / |x_i|. O(n d).
/// `None` for fewer than two tokens, a zero token, or a token that is not finite.
///
/// # Example
/// ```
/// use metastable_dynamics::{Tokens, observe::cloud::mean_cosine};
/// let tokens = Tokens::from_rows(&[[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]).unwrap();
/// assert!((mean_cosine(tokens.view()).unwrap() - 1.0 / 3.0).abs() < 1e-15);
/// assert_eq!(mean_cosine(Tokens::from_rows(&[[1.0, 0.0]]).unwrap().view()), None);
/// ```
pub fn mean_cosine(tokens: TokensRef<'_>) -> Option<f64> {
    let units = unit_tokens(tokens)?;
    let units = TokensRef::new(tokens.dim(), &units);
    let mut sum = vec![0.0; tokens.dim()];
    let mut squares = 0.0;
    for unit in units.iter() {
        sum.iter_mut().zip(unit).for_each(|(s, u)| *s += u);
        squares += dot(unit, unit);
    }
    let n = tokens.count() as f64;
    Some((dot(&sum, &sum) - squares) / (n * (n - 1.0)))
}

/// The smallest and the largest <x_i, x_j> / (|x_i| |x_j|) over the pairs i != j, clamped to [-1, 1].
///
/// O(n² d), rows in parallel. `None` as for [`mean_cosine`].
pub fn extreme_cosines(tokens: TokensRef<'_>) -> Option<(f64, f64)> {
    let units = unit_tokens(tokens)?;
    let units = TokensRef::new(tokens.dim(), &units);
    let columns = Columns::new(units);
    let row = |i: usize| {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        columns.products(units.token(i), i + 1, |_, tile| {
            let (least, largest) = extremes(tile);
            (low, high) = (low.min(least), high.max(largest));
            ControlFlow::Continue(())
        });
        (low, high)
    };
    // Extremes do not depend on the order in which they are combined, unlike sums.
    let nothing = || (f64::INFINITY, f64::NEG_INFINITY);
    let widest = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.max(b.1));
    let (low, high) = (0..tokens.count()).into_par_iter().map(row).reduce(nothing, widest);
    Some((low.clamp(-1.0, 1.0), high.clamp(-1.0, 1.0)))
}

/// x_i / |x_i| for at least two tokens, all finite and not zero.
pub(super) fn unit_tokens(tokens: TokensRef<'_>) -> Option<Vec<f64>> {
    if tokens.count() < 2 {
        return None;
    }
    let mut units = Vec::with_capacity(tokens.as_slice().len());
    for token in tokens.iter() {
        // Dividing by the largest entry first keeps |x|² from over- and underflowing.
        let scale = token.iter().fold(0.0_f64, |m, c| m.max(c.abs()));
        if scale == 0.0 || !token.iter().all(|c| c.is_finite()) {
            return None;
        }
        let start = units.len();
        units.extend(token.iter().map(|c| c / scale));
        let length = norm(&units[start..]);
        units[start..].iter_mut().for_each(|c| *c /= length);
    }
    Some(units)
}

/// The largest distance max |x_i - x_j|; 0 for one token, infinite if a token is not finite.
///
/// O(n² d), rows in parallel.
pub fn diameter(tokens: TokensRef<'_>) -> f64 {
    if !tokens.as_slice().iter().all(|c| c.is_finite()) {
        return f64::INFINITY;
    }
    let columns = Columns::new(tokens);
    let row = |i: usize| {
        let mut largest = 0.0_f64;
        columns.squared_distances(tokens.token(i), i + 1, |_, tile| {
            largest = largest.max(extremes(tile).1);
            ControlFlow::Continue(())
        });
        largest
    };
    (0..tokens.count()).into_par_iter().map(row).reduce(|| 0.0, f64::max).sqrt()
}

/// The mean distance from the origin (1/n) sum_i |x_i|. O(n d).
pub fn mean_radius(tokens: TokensRef<'_>) -> f64 {
    tokens.iter().map(norm).sum::<f64>() / tokens.count() as f64
}

/// The share of the leading principal component, lambda_1 / sum_k lambda_k, of the uncentred second moment
/// (1/n) sum_i x_i x_iᵀ; between 1/min(n, d) and 1 (all tokens on one line through the origin).
///
/// O(n d min(n, d)). `None` if all tokens are zero or one is not finite.
///
/// # Errors
/// [`DynamicsError::Decomposition`].
///
/// # References
/// K. Ethayarajh, "How contextual are contextualized word representations?", 2019, section 3.3, calls the share of the
/// leading component of a word's occurrences its maximum explainable variance. Here: all tokens, without centring, so
/// that a common direction counts (our definition, \[derived\]).
pub fn anisotropy(tokens: TokensRef<'_>) -> Result<Option<f64>, DynamicsError> {
    let Some(spectrum) = moment_spectrum(tokens, &vec![0.0; tokens.dim()])? else { return Ok(None) };
    let total: f64 = spectrum.iter().sum();
    Ok((total > 0.0).then(|| spectrum[0] / total))
}

/// The effective rank exp(-sum_k p_k ln p_k), p_k = lambda_k / sum lambda, lambda the eigenvalues of the centred
/// covariance; between 1 and min(n - 1, d).
///
/// O(n d min(n, d)). `None` if the tokens coincide up to rounding (variance below (n eps max|x|)²), or one is not finite.
///
/// # Errors
/// [`DynamicsError::Decomposition`].
///
/// # References
/// O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007, definition 1, on singular values; here on the eigenvalues
/// of the covariance (squared singular values of the centred cloud).
pub fn effective_rank(tokens: TokensRef<'_>) -> Result<Option<f64>, DynamicsError> {
    let Some(spectrum) = moment_spectrum(tokens, &tokens.mean())? else { return Ok(None) };
    let n = tokens.count() as f64;
    let largest = tokens.iter().map(norm).fold(0.0, f64::max);
    let total: f64 = spectrum.iter().sum();
    if total <= n * (n * f64::EPSILON * largest).powi(2) {
        return Ok(None);
    }
    let shares = spectrum.iter().map(|value| value / total);
    let entropy: f64 = shares.filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum();
    Ok(Some(entropy.exp()))
}

/// The eigenvalues, largest first and not below 0, of sum_i (x_i - c)(x_i - c)ᵀ, from the smaller of the two Gram
/// matrices; `None` for tokens that are not finite (or whose squares are not).
fn moment_spectrum(tokens: TokensRef<'_>, center: &[f64]) -> Result<Option<Vec<f64>>, DynamicsError> {
    let (n, d) = (tokens.count(), tokens.dim());
    let mut rows = vec![0.0; n * d];
    for (row, token) in rows.chunks_exact_mut(d).zip(tokens.iter()) {
        row.iter_mut().zip(token.iter().zip(center)).for_each(|(out, (x, c))| *out = x - c);
    }
    let vectors = if n <= d { rows } else { transposed(&rows, d) };
    let (side, length) = (n.min(d), n.max(d));
    let mut gram = vec![0.0; side * side];
    gram.par_chunks_exact_mut(side).enumerate().for_each(|(i, row)| {
        let x = &vectors[i * length..][..length];
        row.iter_mut().zip(vectors.chunks_exact(length)).for_each(|(out, y)| *out = dot(x, y));
    });
    if !gram.iter().all(|value| value.is_finite()) {
        return Ok(None);
    }
    let (mut values, _) = Matrix::new("gram", side, side, gram)?.symmetric_eigen()?;
    values.reverse();
    values.iter_mut().for_each(|value| *value = value.max(0.0));
    Ok(Some(values))
}

fn transposed(rows: &[f64], d: usize) -> Vec<f64> {
    (0..d).flat_map(|k| rows.iter().skip(k).step_by(d).copied()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::linalg::squared_distance;
    use crate::random;

    /// Mean, least and largest cosine by the double loop of the definition.
    fn naive_cosines(tokens: TokensRef<'_>) -> (f64, f64, f64) {
        let n = tokens.count();
        let (mut sum, mut low, mut high) = (0.0, f64::INFINITY, f64::NEG_INFINITY);
        for i in 0..n {
            for j in (0..n).filter(|&j| j != i) {
                let (x, y) = (tokens.token(i), tokens.token(j));
                let cosine = dot(x, y) / (norm(x) * norm(y));
                sum += cosine;
                low = low.min(cosine);
                high = high.max(cosine);
            }
        }
        (sum / (n * (n - 1)) as f64, low, high)
    }

    fn cloud() -> impl Strategy<Value = (usize, Vec<f64>)> {
        (1_usize..9, 2_usize..60, 0_u64..1000).prop_map(|(d, n, seed)| (d, random::standard_normal(seed, n, d)))
    }

    proptest! {
        #[test]
        fn cosines_equal_the_double_loop_over_distinct_pairs((d, values) in cloud()) {
            let tokens = TokensRef::new(d, &values);
            let (mean, low, high) = naive_cosines(tokens);
            // Sums of up to 60² terms of size at most 1, each rounded a few times.
            prop_assert!((mean_cosine(tokens).unwrap() - mean).abs() < 1e-13);
            let (least, largest) = extreme_cosines(tokens).unwrap();
            prop_assert!((least - low).abs() < 1e-14 && (largest - high).abs() < 1e-14);
        }

        #[test]
        fn diameter_equals_the_double_loop((d, values) in cloud()) {
            let tokens = TokensRef::new(d, &values);
            let pairs = tokens.iter().flat_map(|x| tokens.iter().map(move |y| squared_distance(x, y)));
            prop_assert_eq!(diameter(tokens), pairs.fold(0.0, f64::max).sqrt());
        }

        #[test]
        fn spectral_shapes_keep_their_ranges_and_ignore_scale((d, values) in cloud(), scale in 0.01..100.0_f64) {
            let tokens = TokensRef::new(d, &values);
            let side = d.min(tokens.count()) as f64;
            let share = anisotropy(tokens).unwrap().unwrap();
            let rank = effective_rank(tokens).unwrap().unwrap();
            // Eigenvalues carry a relative error of a few eps of the largest, the entropy a few dozen.
            prop_assert!(share > 1.0 / side - 1e-12 && share <= 1.0 + 1e-12);
            prop_assert!(rank > 1.0 - 1e-12 && rank <= side.min(tokens.count() as f64 - 1.0) + 1e-9);
            let scaled: Vec<f64> = values.iter().map(|v| v * scale).collect();
            let scaled = TokensRef::new(d, &scaled);
            prop_assert!((anisotropy(scaled).unwrap().unwrap() - share).abs() < 1e-12);
            prop_assert!((effective_rank(scaled).unwrap().unwrap() - rank).abs() < 1e-9);
        }
    }

    #[test]
    fn orthonormal_tokens_have_full_effective_rank() {
        let d = 6;
        let mut values = vec![0.0; 2 * d * d];
        for k in 0..d {
            values[2 * k * d + k] = 1.0;
            values[(2 * k + 1) * d + k] = -1.0;
        }
        let tokens = TokensRef::new(d, &values);
        // The covariance is exactly I/6, so only the entropy rounds.
        assert!((effective_rank(tokens).unwrap().unwrap() - 6.0).abs() < 1e-13);
        assert!((anisotropy(tokens).unwrap().unwrap() - 1.0 / 6.0).abs() < 1e-15);
        assert_eq!(extreme_cosines(tokens), Some((-1.0, 0.0)));
    }

    #[test]
    fn both_gram_sides_give_the_same_rank() {
        // Six points in a plane of R^9: the covariance has two eigenvalues in ratio 4 (lengths 2 and 1).
        let (a, b) = (random::sphere(5, 1, 9), {
            let mut b = random::standard_normal(6, 1, 9);
            let a = random::sphere(5, 1, 9);
            let along = dot(&a, &b);
            b.iter_mut().zip(&a).for_each(|(b, a)| *b -= along * a);
            let length = norm(&b);
            b.iter().map(|c| c / length).collect::<Vec<f64>>()
        });
        let row = |p: f64, q: f64| a.iter().zip(&b).map(move |(a, b)| p * a + q * b).collect::<Vec<f64>>();
        let wide = [row(2.0, 0.0), row(-2.0, 0.0), row(0.0, 1.0), row(0.0, -1.0)].concat();
        let tall = [2.0, 0.0, -2.0, 0.0, 0.0, 1.0, 0.0, -1.0];
        let exact = (-(0.8_f64 * 0.8_f64.ln() + 0.2 * 0.2_f64.ln())).exp();
        for tokens in [TokensRef::new(9, &wide), TokensRef::new(2, &tall)] {
            assert!((effective_rank(tokens).unwrap().unwrap() - exact).abs() < 1e-13);
        }
    }

    #[test]
    fn clouds_without_a_shape_say_so() {
        let one = TokensRef::new(2, &[3.0, 4.0]);
        let shape = CloudShape::of(one).unwrap();
        assert_eq!((shape.mean_cosine, shape.min_cosine, shape.effective_rank), (None, None, None));
        assert_eq!((shape.diameter, shape.mean_radius, shape.anisotropy), (0.0, 5.0, Some(1.0)));
        let equal = [0.1, 0.7, 0.1, 0.7, 0.1, 0.7];
        assert_eq!(effective_rank(TokensRef::new(2, &equal)).unwrap(), None);
        let with_zero = TokensRef::new(1, &[0.0, 1.0]);
        assert_eq!((mean_cosine(with_zero), extreme_cosines(with_zero)), (None, None));
        let escaped = CloudShape::of(TokensRef::new(1, &[f64::NAN, 1.0])).unwrap();
        assert_eq!((escaped.diameter, escaped.anisotropy, escaped.hull_vertices), (f64::INFINITY, None, None));
    }
}
