//! Everything one wants to know of a pair, from one triangular factor each.

use crate::balance::condition::Condition;
use crate::balance::jacobi::jacobi;
use crate::balance::pair::LowRankPair;
use crate::balance::triangle::triangle;
use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// The spectrum of a pair's product, and how its factors share it.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// The r largest singular values of B A, largest first.
    pub spectrum: Vec<f64>,
    /// ‖BᵀB - A Aᵀ‖ in the Frobenius norm.
    pub gap: f64,
    /// κ of the pair and of its balanced twin.
    pub condition: Condition,
}

impl LowRankPair {
    /// [`LowRankPair::spectrum`], [`LowRankPair::gap`] and [`LowRankPair::condition`] at the price of one.
    /// O((in + out)·r² + r³).
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`].
    pub fn analysis(&self) -> Result<Analysis, DynamicsError> {
        let (r_a, r_b) = (triangle(self.a()), triangle(&self.b().transpose()));
        let mut spectrum = jacobi(&r_b.multiply(&r_a.transpose()))?.values;
        spectrum.resize(self.rank(), 0.0);
        let gram = |triangle: &Matrix| triangle.transpose().multiply(triangle);
        let gap = gram(&r_b).add_scaled(-1.0, &gram(&r_a)).frobenius_norm();
        let condition = Condition::of(self, &jacobi(&r_a)?.values, &jacobi(&r_b)?.values, &spectrum);
        Ok(Analysis { spectrum, gap, condition })
    }

    /// ‖B A - B' A'‖ in the Frobenius norm, without forming either product. O((in + out)·r²).
    ///
    /// The difference is [B, -B'] [A; A'], and an orthogonal basis of each side leaves a small core; Gram matrices
    /// would lose everything below 1e-8 of the products.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] unless the products have one shape.
    pub fn product_distance(&self, other: &Self) -> Result<f64, DynamicsError> {
        let shape = |pair: &Self| format!("[{}, {}]", pair.b().rows(), pair.a().columns());
        if shape(self) != shape(other) {
            return Err(DynamicsError::shape("other product", shape(self), shape(other)));
        }
        let (r, inputs) = (self.rank(), self.a().columns());
        let b = Matrix::from_fn(r + other.rank(), self.b().rows(), |i, j| {
            if i < r { self.b().at(j, i) } else { -other.b().at(j, i - r) }
        });
        let a =
            Matrix::from_fn(
                r + other.rank(),
                inputs,
                |i, j| {
                    if i < r { self.a().at(i, j) } else { other.a().at(i - r, j) }
                },
            );
        Ok(triangle(&b).multiply(&triangle(&a).transpose()).frobenius_norm())
    }
}
