//! A cloud of tokens: n points of R^d, the state that every flow moves and every observable reads.

use crate::error::{DynamicsError, require_finite};

/// n points of R^d, at least one, all finite; token after token in memory (row-major [n, d]).
///
/// # Example
/// ```
/// use metastable_dynamics::Tokens;
/// let tokens = Tokens::from_rows(&[[1.0, 0.0], [0.0, 2.0]]).unwrap();
/// assert_eq!((tokens.count(), tokens.dim()), (2, 2));
/// assert_eq!(tokens.token(1), &[0.0, 2.0]);
/// assert!(Tokens::new(2, vec![1.0, f64::NAN]).is_err());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    dim: usize,
    values: Vec<f64>,
}

impl Tokens {
    /// Takes n·d values, token after token.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if `dim` is 0, there is no token, or the length is no multiple of `dim`;
    /// [`DynamicsError::NotFinite`] for NaN or infinities.
    pub fn new(dim: usize, values: Vec<f64>) -> Result<Self, DynamicsError> {
        if dim == 0 || values.is_empty() || !values.len().is_multiple_of(dim) {
            return Err(DynamicsError::shape(
                "tokens",
                "[n, d] with n >= 1 and d >= 1",
                format!("{} values for d = {dim}", values.len()),
            ));
        }
        require_finite("tokens", &values)?;
        Ok(Self { dim, values })
    }

    /// Takes one row a token.
    ///
    /// # Errors
    /// As [`Tokens::new`]; also if rows differ in length.
    pub fn from_rows<R: AsRef<[f64]>>(rows: &[R]) -> Result<Self, DynamicsError> {
        let dim = rows.first().map_or(0, |row| row.as_ref().len());
        if let Some((i, row)) = rows.iter().enumerate().find(|(_, row)| row.as_ref().len() != dim) {
            return Err(DynamicsError::shape(
                &format!("tokens, row {i}"),
                format!("{dim} entries"),
                row.as_ref().len(),
            ));
        }
        Self::new(dim, rows.iter().flat_map(|row| row.as_ref().iter().copied()).collect())
    }

    /// The number n of tokens.
    pub fn count(&self) -> usize {
        self.values.len() / self.dim
    }

    /// The dimension d.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Token i, d numbers.
    ///
    /// # Panics
    /// If `i >= count()`.
    pub fn token(&self, i: usize) -> &[f64] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// All values, token after token.
    pub fn as_slice(&self) -> &[f64] {
        &self.values
    }

    /// Gives the values up.
    pub fn into_vec(self) -> Vec<f64> {
        self.values
    }

    /// A view, what observables take.
    pub fn view(&self) -> TokensRef<'_> {
        TokensRef { dim: self.dim, values: &self.values }
    }
}

/// A borrowed cloud; shape trusted, entries may be anything (a flow may have escaped).
#[derive(Debug, Clone, Copy)]
pub struct TokensRef<'a> {
    dim: usize,
    values: &'a [f64],
}

impl<'a> TokensRef<'a> {
    /// Views n·d values, token after token.
    ///
    /// # Panics
    /// If `dim` is 0 or does not divide the length.
    pub fn new(dim: usize, values: &'a [f64]) -> Self {
        assert!(dim > 0 && values.len().is_multiple_of(dim), "a cloud of whole tokens");
        Self { dim, values }
    }

    /// The number n of tokens.
    pub fn count(self) -> usize {
        self.values.len() / self.dim
    }

    /// The dimension d.
    pub fn dim(self) -> usize {
        self.dim
    }

    /// Token i, d numbers.
    ///
    /// # Panics
    /// If `i >= count()`.
    pub fn token(self, i: usize) -> &'a [f64] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// All values, token after token.
    pub fn as_slice(self) -> &'a [f64] {
        self.values
    }

    /// The mean token (1/n) Σ_i x_i, d numbers. O(n d).
    pub fn mean(self) -> Vec<f64> {
        let mut mean = vec![0.0; self.dim];
        for token in self.iter() {
            mean.iter_mut().zip(token).for_each(|(m, x)| *m += x);
        }
        let count = self.count() as f64;
        mean.iter_mut().for_each(|m| *m /= count);
        mean
    }

    /// The tokens in order.
    pub fn iter(self) -> std::slice::ChunksExact<'a, f64> {
        self.values.chunks_exact(self.dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_clouds_are_refused() {
        assert!(Tokens::new(2, vec![]).is_err());
        assert!(Tokens::new(0, vec![]).is_err());
        assert!(Tokens::from_rows::<[f64; 2]>(&[]).is_err());
    }

    #[test]
    fn ragged_rows_are_named() {
        let error = Tokens::from_rows(&[vec![1.0, 2.0], vec![1.0]]).unwrap_err();
        assert!(error.to_string().contains("row 1"), "{error}");
    }
}
