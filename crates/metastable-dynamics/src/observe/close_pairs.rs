//! How many pairs of tokens point the same way: the statistic of published phase diagrams.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::cloud::unit_tokens;
use super::pairs::Columns;
use crate::tokens::TokensRef;

/// The share of the pairs i != j with <x_i, x_j> / (|x_i| |x_j|) > `cosine`.
///
/// O(n² d), rows in parallel. `None` for fewer than two tokens, a zero token, or a token that is not finite.
///
/// # Example
/// ```
/// use metastable_dynamics::{Tokens, observe::close_pairs};
/// let tokens = Tokens::from_rows(&[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]).unwrap();
/// assert_eq!(close_pairs(tokens.view(), 0.999), Some(1.0 / 3.0));
/// ```
///
/// # References
/// Geshkovski et al. 2312.10794: phase diagrams over (t, beta) with cosines above .999 \[code\].
pub fn close_pairs(tokens: TokensRef<'_>, cosine: f64) -> Option<f64> {
    let units = unit_tokens(tokens)?;
    let units = TokensRef::new(tokens.dim(), &units);
    let (columns, n) = (Columns::new(units), tokens.count());
    let row = |i: usize| {
        let mut close = 0;
        columns.products(units.token(i), i + 1, |_, tile| {
            close += tile.iter().filter(|product| **product > cosine).count();
            ControlFlow::Continue(())
        });
        close
    };
    // Whole numbers add up the same in any order.
    let close: usize = (0..n).into_par_iter().map(row).sum();
    Some(close as f64 / (n * (n - 1) / 2) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    #[test]
    fn it_is_the_share_of_ordered_pairs() {
        for (n, d) in [(2, 3), (17, 2), (300, 4)] {
            let values = random::standard_normal(5, n, d);
            let tokens = TokensRef::new(d, &values);
            let norm = |x: &[f64]| x.iter().map(|c| c * c).sum::<f64>().sqrt();
            let cosine = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>() / (norm(x) * norm(y));
            for level in [-0.5, 0.2, 0.9] {
                let ordered = (0..n).flat_map(|i| (0..n).filter(move |j| *j != i).map(move |j| (i, j)));
                let close = ordered.filter(|(i, j)| cosine(tokens.token(*i), tokens.token(*j)) > level).count();
                let expected = close as f64 / (n * (n - 1)) as f64;
                // No cosine of these draws is within rounding of a level; two roundings of the quotient.
                assert!((close_pairs(tokens, level).unwrap() - expected).abs() < 1e-15, "{n} {d} {level}");
            }
        }
    }

    #[test]
    fn it_does_not_exist_without_pairs_or_directions() {
        assert_eq!(close_pairs(TokensRef::new(2, &[1.0, 0.0]), 0.9), None);
        assert_eq!(close_pairs(TokensRef::new(2, &[1.0, 0.0, 0.0, 0.0]), 0.9), None);
        assert_eq!(close_pairs(TokensRef::new(1, &[1.0, f64::NAN]), 0.9), None);
    }
}
