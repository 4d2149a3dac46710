//! The Gaussian surrogate of a real model: a mean and a covariance evolved by the layers' own linear algebra, against the
//! moments of the actual tokens.

use metastable_dynamics::Matrix;
use rayon::prelude::*;

use crate::error::ModelError;
use crate::model::Model;
use crate::probe::Hidden;
use crate::product::{Destination, Strided, multiply};
use crate::transformer::surrogate::Moments;

/// How far a level's tokens are from what a Gaussian of the same moments would have become; W_2 between Gaussians, of the
/// stream before the final norm.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SurrogateLevel {
    /// sqrt(tr Σ) of the actual tokens: the scale of the distances.
    pub spread: f64,
    /// W_2 to the image of the previous level's moments under the block between; none at level 0.
    pub one_block: Option<f64>,
    /// The Bures part of it, that of the covariances alone.
    pub one_block_covariance: Option<f64>,
    /// W_2 to the image of level 0's moments under all blocks before; 0 at level 0.
    pub composed: f64,
    /// W_2 to the previous level's moments: how far the block really moved them; none at level 0.
    pub moved: Option<f64>,
}

impl Model {
    /// The Gaussian surrogate of every level of a text; none where queries and keys are normalised, for which attention
    /// is no softmax of a bilinear form.
    ///
    /// N(m, Σ) enters a block with the empirical mean and covariance of its tokens. Attention is exact for a Gaussian and
    /// full masks, m ↦ W V (m + Σ Kᵀ(Q m + b_q)/sqrt(k)) + b and Σ' = G Σ Gᵀ, G = I + Σ_h W_h V_h Σ K_hᵀ Q_h/sqrt(k)
    /// \[code, checked\]; rotations are averaged over the pairs that see each other, masks enter through that average
    /// alone. A norm divides by one scale for all tokens, and the feed-forward layer is the affine map with its mean and
    /// its mean derivative \[derived\]. O(a few forward passes) and O(min(n, d)³) a level for the distances: a covariance
    /// of more tokens than dimensions is kept as d rows.
    ///
    /// # Errors
    /// [`ModelError::Input`] if the states are not of this model; [`ModelError::Mathematics`] if a decomposition fails or
    /// the surrogate overflows.
    ///
    /// # References
    /// Softmax attention keeps Gaussians Gaussian: V. Castin et al. 2501.18322 \[code\]; the surrogate of a real layer is
    /// ours, after the closeness that 2606.07600 reports in its abstract \[2nd\].
    pub fn gaussian_surrogate(&self, hidden: &Hidden) -> Result<Option<Vec<SurrogateLevel>>, ModelError> {
        self.require_states(hidden)?;
        if self.config().query_key_norm {
            return Ok(None);
        }
        let transformer = self.transformer();
        let rotation = transformer.rotation(hidden.count());
        let actual: Vec<Moments> = (0..hidden.levels()).map(|level| moments(hidden, level)).collect();
        let image = |from: &Moments, layer: usize| {
            transformer.surrogate(from, layer, &transformer.scene(layer, hidden.keep(), rotation.as_ref()))
        };
        let mut composed = vec![actual[0].clone()];
        for layer in 0..hidden.levels() - 1 {
            composed.push(image(&composed[layer], layer));
        }
        let levels = (0..hidden.levels()).into_par_iter().map(|level| {
            let here = &actual[level];
            let before = level.checked_sub(1);
            let one = before.map(|before| distance(here, &image(&actual[before], before))).transpose()?;
            Ok(SurrogateLevel {
                spread: square(&here.factor).sqrt(),
                one_block: one.map(|(mean, covariance)| mean.hypot(covariance)),
                one_block_covariance: one.map(|(_, covariance)| covariance),
                composed: match before {
                    Some(_) => distance(here, &composed[level]).map(|(mean, covariance)| mean.hypot(covariance))?,
                    None => 0.0,
                },
                moved: before.map(|before| distance(here, &actual[before])).transpose()?.map(|(m, c)| m.hypot(c)),
            })
        });
        levels.collect::<Vec<_>>().into_iter().collect::<Result<_, ModelError>>().map(Some)
    }
}

fn moments(hidden: &Hidden, level: usize) -> Moments {
    let d = hidden.dim();
    let tokens = hidden.level(level).chunks_exact(d).zip(hidden.keep()).filter(|(_, keep)| **keep);
    Moments::of(&tokens.flat_map(|(token, _)| token).copied().collect::<Vec<f32>>(), d)
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()
}

/// |m_1 - m_2| and the Bures distance: its square is tr Σ_1 + tr Σ_2 - 2 Σσ of the factors' product L_1 L_2ᵀ, which
/// cancellation leaves with an error of some sqrt(2^-52) of sqrt(tr Σ).
///
/// R. Bhatia, T. Jain, Y. Lim (2019), "On the Bures-Wasserstein distance between positive definite matrices", theorem 1.
fn distance(a: &Moments, b: &Moments) -> Result<(f64, f64), ModelError> {
    let (d, wide) = (a.mean.len(), |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
    let (left, right) = (wide(&a.factor), wide(&b.factor));
    let (rows, columns) = (left.len() / d, right.len() / d);
    let mut product = vec![0.0; rows * columns];
    let right = Strided::new(&right, columns, d, d).transposed();
    multiply(1.0, Strided::new(&left, rows, d, d), right, Destination::Overwrite, &mut product);
    let common: f64 = Matrix::new("surrogate", rows, columns, product)?.singular_values()?.iter().sum();
    let bures = (square(&a.factor) + square(&b.factor) - 2.0 * common).max(0.0).sqrt();
    let means: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    Ok((means.sqrt(), bures))
}

#[cfg(test)]
mod tests {
    use metastable_dynamics::measure::gaussian::{Gaussian, wasserstein2};

    use super::*;

    fn tokens(seed: usize) -> Vec<f32> {
        (0..7 * 4).map(|r| ((r * r * 37 + seed * 11) % 101) as f32 * 0.02).collect()
    }

    #[test]
    fn the_distance_is_that_of_the_mathematics() {
        let (a, b) = (Moments::of(&tokens(1), 4), Moments::of(&tokens(2), 4));
        let gaussian = |moments: &Moments| {
            let factor = Matrix::from_fn(4, moments.factor.len() / 4, |i, r| f64::from(moments.factor[r * 4 + i]));
            Gaussian::from_factor(moments.mean.iter().map(|m| f64::from(*m)).collect(), factor).unwrap()
        };
        let exact = wasserstein2(&gaussian(&a), &gaussian(&b)).unwrap();
        let (mean, covariance) = distance(&a, &b).unwrap();
        assert!((mean.hypot(covariance) - exact).abs() < 1e-8 * exact, "{exact}");
        let (mean, covariance) = distance(&a, &a).unwrap();
        // The square root of some roundings of a trace of order one.
        assert!(mean == 0.0 && covariance < 5e-7, "{covariance:e}");
    }
}
