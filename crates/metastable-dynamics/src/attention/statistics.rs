//! What attention weights say: the matrix itself, interaction energy, leaders.

use rayon::prelude::*;

use super::fused;
use super::kernel::{AttentionKernel, Mask};
use super::projections::Projections;
use super::streaming::{for_each_row, is_large};
use crate::linalg::Matrix;

/// The n x n matrix P of attention weights; entries under the mask are zero. Memory O(n²): ask only for small n.
pub fn weights(projections: &Projections, kernel: &AttentionKernel) -> Matrix {
    let n = projections.count();
    let mut dense = vec![0.0; n * n];
    for_each_row(projections, kernel, &mut dense, |_, row, out| out[..row.len()].copy_from_slice(row));
    Matrix::from_fn(n, n, |i, j| dense[i * n + j])
}

/// ln Σ_ij e^{S_ij} over the visible pairs; `None` if it is not a finite number (gain·s beyond f64). O(n² k).
pub fn log_partition(projections: &Projections, mask: Mask) -> Option<f64> {
    let n = projections.count();
    let rows: Vec<f64> = if is_large(projections) {
        fused::log_sums(projections, mask)
    } else {
        let of_row = |scratch: &mut Vec<f64>, i| {
            let row = projections.scores(i, mask, scratch);
            log_sum_exp(row.iter().map(|s| projections.gain() * s))
        };
        (0..n).into_par_iter().map_init(|| vec![0.0; n], of_row).collect()
    };
    Some(log_sum_exp(rows.iter().copied())).filter(|value| value.is_finite())
}

/// ln E of the interaction energy E = (1 / (2 beta n²)) Σ_ij e^{S_ij}; `None` for beta <= 0 or beyond f64.
///
/// # References
/// Geshkovski et al. 2312.10794, E_beta of section 3; normalisation of theory item 5 \[lean\].
pub fn log_energy(projections: &Projections) -> Option<f64> {
    let n = projections.count() as f64;
    let beta = projections.beta();
    (beta > 0.0).then(|| log_partition(projections, Mask::Full)).flatten().map(|z| z - (2.0 * beta * n * n).ln())
}

/// The token that each token scores highest, \[n\] (the first of equals): whom it follows as scores grow.
///
/// O(n² k), no n x n memory.
pub fn followed(projections: &Projections, mask: Mask) -> Vec<usize> {
    let n = projections.count();
    (0..n)
        .into_par_iter()
        .map_init(
            || vec![0.0; n],
            |scratch, i| {
                let row = projections.scores(i, mask, scratch);
                let first_best = |best: usize, j: usize| if row[j] > row[best] { j } else { best };
                (0..row.len()).fold(0, first_best)
            },
        )
        .collect()
}

/// The leader of each cluster: its member that most tokens follow (the first of equals); none if nobody follows any.
///
/// `labels` \[n\] in 0..count, `followed` \[n\] as of [`followed`]. O(n).
///
/// # Example
/// ```
/// use metastable_dynamics::attention::statistics::leaders;
/// assert_eq!(leaders(&[0, 0, 1, 2], 3, &[1, 1, 1, 3]), [Some(1), None, Some(3)]);
/// ```
///
/// # Panics
/// If a label or a followed token is out of range.
pub fn leaders(labels: &[usize], count: usize, followed: &[usize]) -> Vec<Option<usize>> {
    let mut followers = vec![0_usize; labels.len()];
    followed.iter().for_each(|&j| followers[j] += 1);
    let mut leaders: Vec<Option<usize>> = vec![None; count];
    for (i, &label) in labels.iter().enumerate().filter(|(i, _)| followers[*i] > 0) {
        if leaders[label].is_none_or(|leader| followers[i] > followers[leader]) {
            leaders[label] = Some(i);
        }
    }
    leaders
}

fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return top;
    }
    top + terms.map(|s| (s - top).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Score;
    use crate::linalg::{dot, squared_distance};
    use crate::random;
    use proptest::prelude::*;

    proptest! {
        /// Small clouds go row by row, large ones through the fused kernels.
        #[test]
        fn log_partitions_equal_the_sum_over_pairs(
            seed in 0_u64..100, n in 1_usize..170, d in 1_usize..12, causal: bool, distance: bool, beta in -2.0_f64..3.0,
        ) {
            let (score, mask) = (
                if distance { Score::SquaredDistance } else { Score::Dot },
                if causal { Mask::Causal } else { Mask::Full },
            );
            let kernel = AttentionKernel::new(score, crate::attention::Normalization::Linear, mask, beta).unwrap();
            let tokens = random::standard_normal(seed, n, d);
            let identity = Matrix::scaled_identity(d, 1.0);
            let mut projections = Projections::zeros(n, d, d);
            projections.fill(&kernel, 1.0, &tokens, [&identity; 3]);
            let rows: Vec<&[f64]> = tokens.chunks_exact(d).collect();
            let pair = |i: usize, j: usize| beta * match score {
                Score::Dot => dot(rows[i], rows[j]),
                Score::SquaredDistance => -squared_distance(rows[i], rows[j]),
            };
            let scores: Vec<f64> =
                (0..n).flat_map(|i| (0..mask.visible(i, n)).map(move |j| (i, j))).map(|(i, j)| pair(i, j)).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let expected = top + scores.iter().map(|s| (s - top).exp()).sum::<f64>().ln();
            let found = log_partition(&projections, mask).unwrap();
            // Scores are below 500 here, and each is rounded a few times.
            prop_assert!((found - expected).abs() <= 1e-12 * (1.0 + expected.abs()), "{} {}", found, expected);
        }
    }
}
