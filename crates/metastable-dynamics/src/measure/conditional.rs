//! Conditional Wasserstein distances, for causal attention: a token is compared only with the token at its position.
//!
//! A causal state is a law μ on positions times R^d whose positions never move. Two of them are compared position by
//! position, d_p(μ, ν) = (mean over s of W_p(μ(·|s), ν(·|s))^p)^{1/p}; the plain W_p would let tokens trade places,
//! which the mask does not. With one token a position d_2 is the root mean square of paired distances and d_∞ their
//! maximum: the columns `paired_rms` and `paired_max` of a twin run.
//!
//! # References
//! Castin, Ablin, Peyré 2312.14820 and the abstract of 2501.18322, where the formulas are not readable \[recalled\];
//! what depends on p \[derived\].

use super::transport::wasserstein2;
use crate::error::DynamicsError;
use crate::linalg::squared_distance;
use crate::tokens::TokensRef;

/// d_p of two clouds with one token a position: ((1/n) Σ_i |x_i - y_i|^p)^{1/p}, the maximum for p = ∞. O(n d).
///
/// # Errors
/// [`DynamicsError::Shape`] unless both clouds have the same n and d; [`DynamicsError::Domain`] for p < 1.
///
/// # Example
/// ```
/// use metastable_dynamics::{Tokens, measure::conditional::distance};
/// let x = Tokens::from_rows(&[[0.0], [1.0]]).unwrap();
/// let y = Tokens::from_rows(&[[1.0], [0.0]]).unwrap();
/// // Trading places costs nothing in W_p, and one everywhere in d_p.
/// assert_eq!(distance(x.view(), y.view(), 2.0).unwrap(), 1.0);
/// assert_eq!(distance(x.view(), y.view(), f64::INFINITY).unwrap(), 1.0);
/// ```
pub fn distance(x: TokensRef<'_>, y: TokensRef<'_>, p: f64) -> Result<f64, DynamicsError> {
    let shape = |tokens: TokensRef<'_>| format!("[{}, {}]", tokens.count(), tokens.dim());
    if shape(x) != shape(y) {
        return Err(DynamicsError::shape("second cloud", shape(x), shape(y)));
    }
    let distances = x.iter().zip(y.iter()).map(|(a, b)| squared_distance(a, b).sqrt());
    mean_power(distances.collect(), p)
}

/// d_2 of two ensembles: at every position a cloud of samples, `x[i]` and `y[i]` \[m, d\]. Exact, O(m³) a position.
///
/// # Errors
/// [`DynamicsError::Shape`] unless the ensembles fit each other; [`DynamicsError::NotFinite`].
pub fn ensemble_distance2(x: &[TokensRef<'_>], y: &[TokensRef<'_>]) -> Result<f64, DynamicsError> {
    if x.len() != y.len() || x.is_empty() {
        return Err(DynamicsError::shape("second ensemble", format!("{} positions", x.len()), y.len()));
    }
    let distances = x.iter().zip(y).map(|(x, y)| Ok(wasserstein2(*x, *y)?.distance));
    mean_power(distances.collect::<Result<_, DynamicsError>>()?, 2.0)
}

/// The norm p/(p - 1) of Hardy's operator, the average over prefixes, on L^p; 1 for p = ∞. It is the factor by which
/// the mask enlarges a field's Lipschitz constant in d_p.
///
/// # Errors
/// [`DynamicsError::Domain`] for p <= 1, where prefixes near the first position make the operator unbounded.
///
/// # References
/// Hardy's inequality (1920), sharp constant.
pub fn hardy_constant(p: f64) -> Result<f64, DynamicsError> {
    match p {
        _ if p == f64::INFINITY => Ok(1.0),
        _ if p > 1.0 => Ok(p / (p - 1.0)),
        _ => Err(DynamicsError::domain("p", "a number > 1 (Hardy's operator is unbounded on L^1)", p)),
    }
}

/// (mean of a^p)^{1/p}, scaled by the maximum so that no power overflows.
fn mean_power(values: Vec<f64>, p: f64) -> Result<f64, DynamicsError> {
    if p.is_nan() || p < 1.0 {
        return Err(DynamicsError::domain("p", "a number >= 1", p));
    }
    let largest = values.iter().fold(0.0_f64, |m, v| if v.is_nan() { f64::INFINITY } else { m.max(*v) });
    if largest == 0.0 || largest.is_infinite() || p.is_infinite() {
        return Ok(largest);
    }
    let mean = values.iter().map(|v| (v / largest).powf(p)).sum::<f64>() / values.len() as f64;
    Ok(largest * mean.powf(1.0 / p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;
    use proptest::prelude::*;

    /// (1/n) Σ_i (prefix average of a)^p, to the 1/p, over the same of a.
    fn hardy_ratio(a: &[f64], p: f64) -> f64 {
        let mut sum = 0.0;
        let averages: Vec<f64> = (a.iter().enumerate())
            .map(|(i, a)| {
                sum += a;
                sum / (i + 1) as f64
            })
            .collect();
        mean_power(averages, p).unwrap() / mean_power(a.to_vec(), p).unwrap()
    }

    proptest! {
        #[test]
        fn it_bounds_the_plain_distance_and_grows_with_p(seed in 0_u64..500, n in 1_usize..20, p in 1.0_f64..6.0) {
            let (x, y) = (random::standard_normal(seed, n, 2), random::standard_normal(seed + 1000, n, 2));
            let (x, y) = (TokensRef::new(2, &x), TokensRef::new(2, &y));
            let of = |p: f64| distance(x, y, p).unwrap();
            // A few roundings of numbers of order one.
            prop_assert!(wasserstein2(x, y).unwrap().distance <= of(2.0) + 1e-14);
            prop_assert!(of(p) <= of(p + 0.5) + 1e-14 && of(p) <= of(f64::INFINITY) + 1e-14);
            let single: Vec<TokensRef<'_>> = (0..n).map(|i| TokensRef::new(2, x.token(i))).collect();
            let other: Vec<TokensRef<'_>> = (0..n).map(|i| TokensRef::new(2, y.token(i))).collect();
            prop_assert!((ensemble_distance2(&single, &other).unwrap() - of(2.0)).abs() <= 1e-14);
        }

        #[test]
        fn prefix_averages_obey_hardys_inequality(seed in 0_u64..500, n in 1_usize..200, p in 1.1_f64..6.0) {
            let a: Vec<f64> = random::standard_normal(seed, n, 1).iter().map(|v| v.abs()).collect();
            prop_assert!(hardy_ratio(&a, p) <= hardy_constant(p).unwrap() + 1e-12);
        }
    }

    /// a_i = i^{-1/2} comes near the constant 2 of p = 2 as n grows; for p = 1 a pulse at the first position has the
    /// ratio Σ 1/i, which grows for ever.
    #[test]
    fn hardys_constant_is_sharp_and_there_is_none_for_p_one() {
        let slow: Vec<f64> = (1..=1_000_000).map(|i| f64::from(i).powf(-0.5)).collect();
        let ratio = hardy_ratio(&slow, 2.0);
        assert!(ratio > 1.75 && ratio < 2.0, "{ratio}");
        let mut pulse = vec![0.0; 1000];
        pulse[0] = 1.0;
        assert!(hardy_ratio(&pulse, 1.0) > 7.0);
        assert!(hardy_constant(1.0).is_err());
    }

    #[test]
    fn clouds_that_do_not_fit_are_refused() {
        let (x, y) = ([0.0; 4], [0.0; 6]);
        assert!(distance(TokensRef::new(2, &x), TokensRef::new(2, &y), 2.0).is_err());
        assert!(distance(TokensRef::new(2, &x), TokensRef::new(2, &x), 0.5).is_err());
    }
}
