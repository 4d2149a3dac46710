//! The rank of a matrix (attention weights, adapters), always with the tolerance it was counted at.

use serde::{Deserialize, Serialize};

use crate::error::DynamicsError;
use crate::linalg::Matrix;

/// How many singular values exceed a tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NumericalRank {
    /// The number of singular values above `tolerance`.
    pub rank: usize,
    /// The absolute tolerance.
    pub tolerance: f64,
}

/// The number of singular values above max(rows, columns)·eps·s_1. O(rows·columns·min).
///
/// # Errors
/// [`DynamicsError::Decomposition`].
///
/// # Example
/// ```
/// use metastable_dynamics::{Matrix, observe::rank::numerical_rank};
/// let boolean = Matrix::from_rows("weights", &[[1.0, 0.0], [1.0, 0.0]]).unwrap();
/// assert_eq!(numerical_rank(&boolean).unwrap().rank, 1);
/// ```
///
/// # References
/// The default of NumPy's `matrix_rank`; W. Press et al., "Numerical Recipes", 2007, section 2.6.
pub fn numerical_rank(matrix: &Matrix) -> Result<NumericalRank, DynamicsError> {
    let singular_values = matrix.singular_values()?;
    let largest = singular_values.first().copied().unwrap_or(0.0);
    let tolerance = matrix.rows().max(matrix.columns()) as f64 * f64::EPSILON * largest;
    Ok(count(&singular_values, tolerance))
}

/// The number of singular values above an absolute `tolerance`. O(rows·columns·min).
///
/// # Errors
/// [`DynamicsError::Domain`] for a negative or NaN tolerance; [`DynamicsError::Decomposition`].
pub fn rank_above(matrix: &Matrix, tolerance: f64) -> Result<NumericalRank, DynamicsError> {
    if tolerance.is_nan() || tolerance < 0.0 {
        return Err(DynamicsError::domain("rank tolerance", "a number >= 0", tolerance));
    }
    Ok(count(&matrix.singular_values()?, tolerance))
}

fn count(singular_values: &[f64], tolerance: f64) -> NumericalRank {
    NumericalRank { rank: singular_values.iter().filter(|s| **s > tolerance).count(), tolerance }
}

/// The stable rank |M|_F² / |M|²; between 1 and the rank, `None` for the zero matrix. O(rows·columns·min).
///
/// # Errors
/// [`DynamicsError::Decomposition`].
///
/// # References
/// M. Rudelson and R. Vershynin, "Sampling from large matrices", 2007 (numerical rank |A|_F²/|A|_2²).
pub fn stable_rank(matrix: &Matrix) -> Result<Option<f64>, DynamicsError> {
    let singular_values = matrix.singular_values()?;
    let largest = singular_values.first().copied().unwrap_or(0.0);
    Ok((largest > 0.0).then(|| singular_values.iter().map(|s| (s / largest).powi(2)).sum()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random;

    proptest! {
        #[test]
        fn a_product_through_r_dimensions_has_rank_r(
            n in 1_usize..12, m in 1_usize..12, r in 1_usize..12, seed in 0_u64..200,
        ) {
            let left = Matrix::new("left", n, r, random::standard_normal(seed, n, r)).unwrap();
            let right = Matrix::new("right", r, m, random::standard_normal(seed + 1000, r, m)).unwrap();
            let product = left.multiply(&right);
            let rank = numerical_rank(&product).unwrap();
            prop_assert_eq!(rank.rank, r.min(n).min(m));
            let stable = stable_rank(&product).unwrap().unwrap();
            prop_assert!(stable > 1.0 - 1e-12 && stable <= rank.rank as f64 + 1e-12);
        }
    }

    #[test]
    fn the_tolerance_decides() {
        let diagonal = Matrix::from_fn(3, 3, |i, j| if i == j { 10.0_f64.powi(-(4 * i as i32)) } else { 0.0 });
        assert_eq!(rank_above(&diagonal, 1e-5).unwrap(), NumericalRank { rank: 2, tolerance: 1e-5 });
        assert_eq!(numerical_rank(&diagonal).unwrap().rank, 3);
        assert!(rank_above(&diagonal, -1.0).is_err());
        assert!((stable_rank(&Matrix::scaled_identity(5, 2.0)).unwrap().unwrap() - 5.0).abs() < 1e-14);
        let zero = Matrix::scaled_identity(2, 0.0);
        assert_eq!((numerical_rank(&zero).unwrap().rank, stable_rank(&zero).unwrap()), (0, None));
    }
}
