//! The weights of one head in the few coordinates that it can see and reach.
//!
//! A head sees tokens through the rows of S = [Q; K; V] \[3k, d\] and writes through the columns of W \[d, k\]. With
//! thin QR factors Sᵀ = U R and W = U' R' everything that it does happens in the r = min(3k, d) coordinates Uᵀ x and
//! the k coordinates of U': singular values of its Jacobian are those of the small problem, and singular vectors keep
//! their length token by token.

use metastable_dynamics::{DynamicsError, Head, Matrix};

use crate::linear::Linear;
use crate::transformer::attention::Attention;

/// Q, K, V and W of one head, reduced.
#[derive(Debug, Clone)]
pub(crate) struct Circuits {
    /// U [d, r].
    pub(crate) basis: Matrix,
    /// Q U, K U, V U, each [k, r].
    pub(crate) query: Matrix,
    pub(crate) key: Matrix,
    pub(crate) value: Matrix,
    /// R' [min(d, k), k].
    pub(crate) output: Matrix,
}

impl Circuits {
    /// Of head `head`. O(d k²).
    pub(crate) fn of(attention: &Attention, head: usize) -> Self {
        let k = attention.head_dim;
        let (own, shared) = (head * k, attention.group(head) * k);
        let column = |map: &Linear, row: usize, i: usize| f64::from(map.row(row)[i]);
        let stacked = Matrix::from_fn(attention.query.inputs(), 3 * k, |i, c| match c / k {
            0 => column(&attention.query, own + c, i),
            1 => column(&attention.key, shared + c - k, i),
            _ => column(&attention.value, shared + c - 2 * k, i),
        });
        let (basis, factor) = stacked.thin_qr();
        let part = |first: usize| Matrix::from_fn(k, factor.rows(), |a, c| factor.at(c, first + a));
        let output = Matrix::from_fn(attention.output.outputs(), k, |i, a| column(&attention.output, i, own + a));
        Self { query: part(0), key: part(k), value: part(2 * k), output: output.thin_qr().1, basis }
    }

    /// k.
    pub(crate) fn head_dim(&self) -> usize {
        self.query.rows()
    }

    /// At least so many directions are in the kernels of both Q and K.
    pub(crate) fn blind_dimension(&self) -> usize {
        self.basis.rows().saturating_sub(2 * self.head_dim())
    }

    /// ‖W V Π‖_2 for the projector Π on directions that neither Q nor K sees, from below: what Sᵀ's factor leaves of V
    /// behind the first 2k coordinates, which hold the rows of Q and K.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub(crate) fn blind_value_norm(&self) -> Result<f64, DynamicsError> {
        let (seen, r) = (2 * self.head_dim(), self.value.columns());
        if seen >= r {
            return Ok(0.0);
        }
        let rest = Matrix::from_fn(self.head_dim(), r - seen, |a, c| self.value.at(a, seen + c));
        self.output.multiply(&rest).operator_norm()
    }

    /// The head in R^r without biases and rotations, its query scaled by 1/√k.
    ///
    /// # Errors
    /// [`DynamicsError`] never happens: the sides fit.
    pub(crate) fn head(&self) -> Result<Head, DynamicsError> {
        let (r, k) = (self.value.columns(), self.head_dim());
        let output = Matrix::from_fn(r, k, |i, a| if i < self.output.rows() { self.output.at(i, a) } else { 0.0 });
        let query = self.query.scaled(1.0 / (k as f64).sqrt());
        Head::new(query, self.key.clone(), self.value.clone(), Some(output))
    }

    /// Tokens of R^r in R^d: X Uᵀ.
    pub(crate) fn raised(&self, tokens: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; tokens.len() / self.basis.columns() * self.basis.rows()];
        let pairs = tokens.chunks_exact(self.basis.columns()).zip(out.chunks_exact_mut(self.basis.rows()));
        pairs.for_each(|(token, out)| self.basis.apply(token, out));
        out
    }
}
