//! Products of matrices that should become a target: the synthetic figure of the paper.

use metastable_dynamics::{DynamicsError, Matrix};

use super::normal;
use crate::adapted::{Part, Problem};

/// ½‖W_L … W_1 - T‖² minus ½Σ_{i > L·r} σ_i(T - W_L … W_1)², below which L adapters of rank r cannot bring it.
///
/// Target and frozen matrices are 20 x 20 and standard normal \[code\]; every seed has its own, where the authors' eight runs
/// differ only in the start of the adapter.
pub(crate) struct Chain {
    weights: Vec<Matrix>,
    target: Matrix,
    rank: usize,
    floor: f64,
}

/// Side of all matrices \[code\].
const SIDE: usize = 20;

impl Chain {
    pub(crate) fn new(layers: usize, rank: usize, seed: u64) -> Result<Self, DynamicsError> {
        let weights: Vec<Matrix> = (0..layers).map(|k| normal(seed, 10 + k as u64, SIDE, SIDE, 1.0)).collect();
        Self::of(weights, normal(seed, 1, SIDE, SIDE, 1.0), rank)
    }

    pub(crate) fn of(weights: Vec<Matrix>, target: Matrix, rank: usize) -> Result<Self, DynamicsError> {
        let floor = floor(&target, &weights, rank)?;
        Ok(Self { weights, target, rank, floor })
    }
}

/// ½Σ_{i > L·r} σ_i(T - W_L … W_1)².
fn floor(target: &Matrix, weights: &[Matrix], rank: usize) -> Result<f64, DynamicsError> {
    let values = target.add_scaled(-1.0, &product(weights)).singular_values()?;
    Ok(values.iter().skip(weights.len() * rank).map(|s| 0.5 * s * s).sum())
}

/// W_L … W_1 for weights in the order in which they act.
fn product(weights: &[Matrix]) -> Matrix {
    weights[1..].iter().fold(weights[0].clone(), |product, w| w.multiply(&product))
}

impl Problem for Chain {
    fn weights(&self) -> &[Matrix] {
        &self.weights
    }

    fn loss(&self, weights: &[Matrix], _: Part) -> f64 {
        let error = product(weights).add_scaled(-1.0, &self.target);
        0.5 * error.frobenius_norm().powi(2) - self.floor
    }

    fn floor(&self, bases: &[Matrix]) -> Result<f64, DynamicsError> {
        floor(&self.target, bases, self.rank)
    }

    fn gradients(&self, weights: &[Matrix], _: u64) -> Vec<Matrix> {
        let error = product(weights).add_scaled(-1.0, &self.target);
        let of = |k: usize| {
            let left = weights[k + 1..]
                .iter()
                .fold(None, |left: Option<Matrix>, w| Some(left.map_or_else(|| w.clone(), |left| w.multiply(&left))));
            let outer = left.map_or_else(|| error.clone(), |left| left.transpose().multiply(&error));
            if k == 0 { outer } else { outer.multiply(&product(&weights[..k]).transpose()) }
        };
        (0..weights.len()).map(of).collect()
    }
}
