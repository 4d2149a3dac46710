//! DoRA: the rows of the adapted weight keep a trained length.

use metastable_dynamics::Matrix;
use metastable_dynamics::balance::LowRankPair;
use metastable_dynamics::linalg::{dot, norm};

/// W' = m ⊙ (W0 + s·B A)/‖·‖, row by row; m (out numbers) is trained and starts as the rows' norms of W0, and the norm in the
/// denominator counts as a constant in the reverse pass.
///
/// # References
/// S. Liu et al., "DoRA", arXiv 2402.09353, 2024, equation 5 and section 4.3 \[code, as in PEFT\].
#[derive(Debug, Clone, PartialEq)]
pub struct Magnitude;

impl Magnitude {
    /// ‖row_i(W0)‖, the start of m.
    pub fn initial(weight: &Matrix) -> Vec<f64> {
        (0..weight.rows()).map(|i| norm(weight.row(i))).collect()
    }

    /// ‖row_i(W0 + s·B A)‖. O(out·in·r), without forming the sum as a whole.
    pub fn row_norms(weight: &Matrix, pair: &LowRankPair, scale: f64) -> Vec<f64> {
        let gram = pair.a().multiply(&pair.a().transpose());
        let cross = weight.multiply(&pair.a().transpose());
        let square = |i: usize| {
            let b = pair.b().row(i);
            let quadratic: f64 = (0..b.len()).map(|k| b[k] * dot(gram.row(k), b)).sum();
            dot(weight.row(i), weight.row(i)) + 2.0 * scale * dot(cross.row(i), b) + scale * scale * quadratic
        };
        (0..weight.rows()).map(|i| square(i).max(0.0).sqrt()).collect()
    }
}
