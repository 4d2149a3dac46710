//! The weights of one head in the few coordinates that it can see and reach.
//!
//! A head sees tokens through the rows of S = [Q; K; V] \[3k, d\] and writes through the columns of W \[d, k\]. With
//! thin QR factors Sᵀ = U R and W = U' R' everything that it does happens in the r = min(3k, d) coordinates Uᵀ x and
//! the k coordinates of U': singular values of its Jacobian are those of the small problem, and singular vectors keep
//! their length token by token.

use metastable_dynamics::{DynamicsError, Head, Matrix};
use nalgebra::DMatrix;

use crate::linear::Linear;
use crate::transformer::attention::Attention;

/// Q, K, V and W of one head, reduced.
#[derive(Debug, Clone)]
pub(crate) struct Circuits {
    /// d.
    dim: usize,
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
        // The factor alone: its basis costs as much again, and few ask for it.
        let factor = stacked(attention, head).qr().r();
        let part = |first: usize| Matrix::from_fn(k, factor.nrows(), |a, c| factor[(c, first + a)]);
        let output = DMatrix::from_fn(attention.output.outputs(), k, |i, a| entry(&attention.output, i, head * k + a));
        let output = output.qr().r();
        Self {
            dim: attention.query.inputs(),
            query: part(0),
            key: part(k),
            value: part(2 * k),
            output: Matrix::from_fn(output.nrows(), k, |i, a| output[(i, a)]),
        }
    }

    /// U [d, r] of the same head: tokens x of R^d are Uᵀ x here. O(d k²).
    pub(crate) fn basis(attention: &Attention, head: usize) -> Matrix {
        let basis = stacked(attention, head).qr().q();
        Matrix::from_fn(basis.nrows(), basis.ncols(), |i, c| basis[(i, c)])
    }

    /// k.
    pub(crate) fn head_dim(&self) -> usize {
        self.query.rows()
    }

    /// At least so many directions are in the kernels of both Q and K.
    pub(crate) fn blind_dimension(&self) -> usize {
        self.dim.saturating_sub(2 * self.head_dim())
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
}

/// Sᵀ = [Qᵀ, Kᵀ, Vᵀ] of one head, [d, 3k].
fn stacked(attention: &Attention, head: usize) -> DMatrix<f64> {
    let k = attention.head_dim;
    let (own, shared) = (head * k, attention.group(head) * k);
    DMatrix::from_fn(attention.query.inputs(), 3 * k, |i, c| match c / k {
        0 => entry(&attention.query, own + c, i),
        1 => entry(&attention.key, shared + c - k, i),
        _ => entry(&attention.value, shared + c - 2 * k, i),
    })
}

/// Entry (row, column) of a map's matrix.
fn entry(map: &Linear, row: usize, column: usize) -> f64 {
    f64::from(map.entry(row, column))
}
