//! The r x r core of a pair: B A = Q_B (R_B R_Aᵀ) Q_Aᵀ.

use crate::balance::jacobi::{Jacobi, jacobi};
use crate::balance::pair::LowRankPair;
use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// Thin QR factors of Aᵀ and B and the decomposition of what stands between them. No Gram matrix is formed: that would
/// square the condition number of a badly scaled pair.
pub(crate) struct Core {
    /// Q_A [in, min(in, r)].
    pub(crate) q_a: Matrix,
    /// R_A [min(in, r), r].
    pub(crate) r_a: Matrix,
    /// Q_B [out, min(out, r)].
    pub(crate) q_b: Matrix,
    /// R_B [min(out, r), r].
    pub(crate) r_b: Matrix,
    /// U Σ Vᵀ of R_B R_Aᵀ.
    pub(crate) decomposition: Jacobi,
}

impl Core {
    pub(crate) fn of(pair: &LowRankPair) -> Result<Self, DynamicsError> {
        let (q_a, r_a) = pair.a().transpose().thin_qr();
        let (q_b, r_b) = pair.b().thin_qr();
        let decomposition = jacobi(&r_b.multiply(&r_a.transpose()))?;
        Ok(Self { q_a, r_a, q_b, r_b, decomposition })
    }

    /// r singular values, largest first, padded with zeros where a side is shorter than r.
    pub(crate) fn singular_values(&self, r: usize) -> Vec<f64> {
        let mut values = self.decomposition.values.clone();
        values.resize(r, 0.0);
        values
    }
}
