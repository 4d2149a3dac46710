//! LoRA-Pro: factor gradients whose joint effect on W is the projection of the full gradient to the tangent space.

use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::{DynamicsError, Matrix};

use crate::train::base::Gradient;
use crate::train::symmetric::Symmetric;

/// ĝ_A = s⁻²(BᵀB)⁻¹g_A + X A, ĝ_B = s⁻²(I - B(BᵀB)⁻¹Bᵀ) g_B (A Aᵀ)⁻¹ - B X, where X solves
/// BᵀB X + X A Aᵀ = -s⁻²(BᵀB)⁻¹ g_A Aᵀ and so makes ĝ nearest to g.
///
/// s·(B ĝ_A + ĝ_B A) = P_B G + (I - P_B) G P_A whatever X is \[derived, checked\]. Inverses are pseudo-inverses, so that
/// B = 0 is an ordinary start.
///
/// # References
/// Z. Wang et al., "LoRA-Pro", arXiv 2407.18242, 2024: the formula from general knowledge \[guess\], its projection
/// property verified numerically.
pub(super) fn precondition(pair: &LowRankPair, gradient: &Gradient, scale: f64) -> Result<Gradient, DynamicsError> {
    let (a, b) = (pair.a(), pair.b());
    let (a_t, b_t) = (a.transpose(), b.transpose());
    let of_b = Symmetric::of(&b_t.multiply(b))?;
    let of_a = Symmetric::of(&a.multiply(&a_t))?;
    let (inverse_b, inverse_a) = (of_b.pseudo_inverse(), of_a.pseudo_inverse());
    let square = 1.0 / (scale * scale);
    let step_a = inverse_b.multiply(&gradient.a).scaled(square);
    let step_b = gradient.b.multiply(&inverse_a).scaled(square);
    let step_b = step_b.add_scaled(-1.0, &b.multiply(&inverse_b).multiply(&b_t.multiply(&step_b)));
    let x = sylvester(&of_b, &of_a, &step_a.multiply(&a_t).scaled(-1.0));
    Ok(Gradient { a: step_a.add_scaled(1.0, &x.multiply(a)), b: step_b.add_scaled(-1.0, &b.multiply(&x)) })
}

/// The X of S X + X T = C for symmetric positive semi-definite S and T: divided in their eigenvectors, 0 where both
/// vanish.
fn sylvester(s: &Symmetric, t: &Symmetric, c: &Matrix) -> Matrix {
    let inner = s.vectors.transpose().multiply(c).multiply(&t.vectors);
    let divided = Matrix::from_fn(inner.rows(), inner.columns(), |i, j| {
        let sum = s.values[i].max(0.0) + t.values[j].max(0.0);
        if sum > 0.0 { inner.at(i, j) / sum } else { 0.0 }
    });
    s.vectors.multiply(&divided).multiply(&t.vectors.transpose())
}
