//! LoRA-RITE: matrix Adam in the bases of the factors, so that the update of W does not depend on the gauge.

use metastable_dynamics::balance::{LowRankPair, jacobi::jacobi};
use metastable_dynamics::{DynamicsError, Matrix};
use serde::{Deserialize, Serialize};

use crate::train::base::{Gradient, Rates};
use crate::train::symmetric::Symmetric;

/// The settings of LoRA-RITE.
///
/// For B = Q_B R_B and Aᵀ = Q_A R_A the *unmagnified* gradients g_Aᵀ R_B⁻¹ and g_B R_A⁻¹ do not depend on the gauge.
/// Each keeps a first moment [side, r] and a second moment [r, r] in the basis Q of the other factor, which are carried
/// to the new basis by P = Q_newᵀ Q_old; the step in the factor is m R⁻ᵀ. Clipping acts on the pair, before the moments.
///
/// # References
/// J. Yen et al., "LoRA-RITE", arXiv 2410.20625, 2024 \[code, as vendored by the authors of BaLoRA\].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoraRite {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// The norm that unmagnified gradients of a pair are clipped to.
    pub max_norm: f64,
}

impl Default for LoraRite {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-6, max_norm: 1.0 }
    }
}

/// What LoRA-RITE remembers of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RiteMemory {
    steps: u64,
    /// Of A, in the basis of B.
    of_a: Side,
    /// Of B, in the basis of A.
    of_b: Side,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Side {
    basis: Option<Matrix>,
    first: Matrix,
    second: Matrix,
}

impl RiteMemory {
    /// Nothing yet.
    pub fn of(pair: &LowRankPair) -> Self {
        let r = pair.rank();
        let side = |rows| Side {
            basis: None,
            first: Matrix::from_fn(rows, r, |_, _| 0.0),
            second: Matrix::from_fn(r, r, |_, _| 0.0),
        };
        Self { steps: 0, of_a: side(pair.a().columns()), of_b: side(pair.b().rows()) }
    }
}

impl LoraRite {
    pub(super) fn step(
        &self,
        pair: &LowRankPair,
        gradient: &Gradient,
        rates: Rates,
        memory: &mut RiteMemory,
    ) -> Result<LowRankPair, DynamicsError> {
        let a_t = pair.a().transpose();
        let ((q_a, r_a), (q_b, r_b)) = (a_t.thin_qr(), pair.b().thin_qr());
        let (inverse_a, inverse_b) = (pseudo_inverse(&r_a)?, pseudo_inverse(&r_b)?);
        let left = gradient.a.transpose().multiply(&inverse_b);
        let right = gradient.b.multiply(&inverse_a);
        let (left, right) = self.clipped(left, right);
        memory.steps += 1;
        let step_a = self.advance(&mut memory.of_a, q_b, &left, memory.steps)?.multiply(&inverse_b.transpose());
        let step_b = self.advance(&mut memory.of_b, q_a, &right, memory.steps)?.multiply(&inverse_a.transpose());
        let (kept_a, kept_b) = (1.0 - rates.a * rates.decay, 1.0 - rates.b * rates.decay);
        let a = a_t.scaled(kept_a).add_scaled(-rates.a, &step_a).transpose();
        LowRankPair::new(a, pair.b().scaled(kept_b).add_scaled(-rates.b, &step_b))
    }

    /// Nothing if the root mean square exceeds 1, else at most `max_norm` together.
    fn clipped(&self, left: Matrix, right: Matrix) -> (Matrix, Matrix) {
        let square = left.frobenius_norm().powi(2) + right.frobenius_norm().powi(2);
        let entries = (left.as_slice().len() + right.as_slice().len()) as f64;
        if square > entries {
            return (left.scaled(0.0), right.scaled(0.0));
        }
        let factor = (self.max_norm / square.sqrt().max(f64::MIN_POSITIVE)).min(1.0);
        (left.scaled(factor), right.scaled(factor))
    }

    /// Moments to the new basis, then a step of matrix Adam; the averaged direction, [side, r].
    fn advance(&self, side: &mut Side, basis: Matrix, g: &Matrix, steps: u64) -> Result<Matrix, DynamicsError> {
        if let Some(old) = &side.basis {
            let change = basis.transpose().multiply(old);
            side.second = change.multiply(&side.second).multiply(&change.transpose());
            side.first = side.first.multiply(&change.transpose());
        }
        side.basis = Some(basis);
        // β'_t = β (1 - β^{t-1}) / (1 - β^t) makes the averages unbiased without a division at the end.
        let unbiased = |beta: f64| {
            let power = |t: u64| 1.0 - beta.powi(i32::try_from(t).unwrap_or(i32::MAX));
            beta * power(steps - 1) / power(steps)
        };
        let (beta1, beta2) = (unbiased(self.beta1), unbiased(self.beta2));
        let gram = g.transpose().multiply(g).scaled(1.0 / g.rows() as f64);
        side.second = side.second.scaled(beta2).add_scaled(1.0 - beta2, &gram);
        let root = Symmetric::of(&side.second)?.map(|value| 1.0 / (value.max(0.0).sqrt() + self.epsilon));
        side.first = side.first.scaled(beta1).add_scaled(1.0 - beta1, &g.multiply(&root));
        Ok(side.first.clone())
    }
}

/// Singular values of R below this share of the largest count as zero.
const CUTOFF: f64 = 1e-12;

/// R⁺ of a square triangular factor; 0 for the zero matrix, so that B = 0 is an ordinary start.
fn pseudo_inverse(r: &Matrix) -> Result<Matrix, DynamicsError> {
    let found = jacobi(r)?;
    let smallest = CUTOFF * found.values[0];
    let weight = |k: usize| if found.values[k] > smallest { found.values[k].powi(-2) } else { 0.0 };
    // V Σ⁻¹ Uᵀ with rows σ_k u_k.
    let scaled = Matrix::from_fn(found.values.len(), r.rows(), |k, j| weight(k) * found.scaled_left.at(k, j));
    Ok(found.right.transpose().multiply(&scaled))
}
