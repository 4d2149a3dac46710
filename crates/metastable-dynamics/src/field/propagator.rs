//! e^{tV} for long times: the leading growth e^{λt} is factored out, the rest stays bounded.

use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// e^{tV} = e^{λt} R(t) with λ the largest real part of V's spectrum and R(t) = e^{t(V - λI)}.
///
/// R(t) never overflows (for defective V it may grow like a polynomial).
#[derive(Debug, Clone)]
pub struct Propagator {
    growth: f64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// V = λI: R is the identity.
    Scalar(usize),
    /// V diagonal; entries minus λ.
    Diagonal(Vec<f64>),
    /// V symmetric: eigenvalues minus λ, eigenvectors as columns.
    Symmetric(Vec<f64>, Matrix),
    /// Any other V, minus λI.
    General(Matrix),
}

impl Propagator {
    /// Prepares a square V.
    ///
    /// # Errors
    /// [`DynamicsError::Shape`] if V is not square; [`DynamicsError::Decomposition`].
    pub fn new(value: &Matrix) -> Result<Self, DynamicsError> {
        let growth = value.eigenvalues()?.iter().map(|(re, _)| *re).fold(f64::NEG_INFINITY, f64::max);
        let d = value.rows();
        let diagonal: Vec<f64> = (0..d).map(|i| value.at(i, i)).collect();
        let is_diagonal = (0..d).all(|i| (0..d).all(|j| i == j || value.at(i, j) == 0.0));
        if is_diagonal {
            // The spectrum of a diagonal matrix is known without rounding.
            let growth = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let rest: Vec<f64> = diagonal.iter().map(|v| v - growth).collect();
            let kind = if rest.iter().all(|r| *r == 0.0) { Kind::Scalar(d) } else { Kind::Diagonal(rest) };
            return Ok(Self { growth, kind });
        }
        if value.asymmetry() == 0.0 {
            let (values, vectors) = value.symmetric_eigen()?;
            let growth = values[d - 1];
            return Ok(Self { growth, kind: Kind::Symmetric(values.iter().map(|v| v - growth).collect(), vectors) });
        }
        let rest = value.add_scaled(-growth, &Matrix::scaled_identity(d, 1.0));
        Ok(Self { growth, kind: Kind::General(rest) })
    }

    /// λ, the largest real part of the spectrum of V.
    pub fn growth(&self) -> f64 {
        self.growth
    }

    /// R(t) = e^{t(V - λI)}.
    pub fn bounded_part(&self, t: f64) -> Matrix {
        match &self.kind {
            Kind::Scalar(d) => Matrix::scaled_identity(*d, 1.0),
            Kind::Diagonal(rest) => {
                Matrix::from_fn(rest.len(), rest.len(), |i, j| if i == j { (t * rest[i]).exp() } else { 0.0 })
            }
            Kind::Symmetric(rest, vectors) => {
                let scaled = Matrix::from_fn(rest.len(), rest.len(), |i, j| vectors.at(i, j) * (t * rest[j]).exp());
                scaled.multiply(&vectors.transpose())
            }
            Kind::General(rest) => rest.scaled(t).exp().expect("V is square since `new`"),
        }
    }

    /// e^{tV}, which overflows for large λt.
    pub fn full(&self, t: f64) -> Matrix {
        self.bounded_part(t).scaled((self.growth * t).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_agrees_with_the_matrix_exponential() {
        let matrices = [
            Matrix::from_rows("scalar", &[[0.7, 0.0], [0.0, 0.7]]),
            Matrix::from_rows("diagonal", &[[0.7, 0.0], [0.0, -0.3]]),
            Matrix::from_rows("symmetric", &[[0.7, 0.2], [0.2, -0.3]]),
            Matrix::from_rows("general", &[[0.7, -1.2], [0.4, -0.3]]),
        ];
        for value in matrices {
            let value = value.unwrap();
            let exact = value.scaled(1.7).exp().unwrap();
            let found = Propagator::new(&value).unwrap().full(1.7);
            // Entries of size about 3; a few roundings.
            assert!(found.add_scaled(-1.0, &exact).max_abs() < 1e-14, "{found:?} {exact:?}");
        }
    }

    #[test]
    fn bounded_part_survives_huge_times() {
        let value = Matrix::from_rows("V", &[[1.0, 0.0], [0.0, 0.9]]).unwrap();
        let bounded = Propagator::new(&value).unwrap().bounded_part(1e5);
        assert_eq!(bounded.as_slice(), &[1.0, 0.0, 0.0, 0.0]);
    }
}
