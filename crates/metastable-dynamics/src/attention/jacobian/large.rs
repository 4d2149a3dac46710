//! Products of large clouds, through the fused kernels.

use super::super::fused::{HeadCotangents, HeadJacobian, Rows};
use super::super::kernel::{AttentionKernel, Score};
use super::super::projections::Projections;
use super::super::streaming::is_large;
use super::Cotangents;

/// Writes ẏ into `out` where the fused kernels have the weights and packing pays; false if they do not.
pub(super) fn jvp(
    projections: &Projections,
    direction: &Projections,
    kernel: &AttentionKernel,
    out: &mut [f64],
) -> bool {
    let Some(jacobian) = jacobian(projections, kernel) else { return false };
    let [queries, keys, values] = by_token(direction);
    let tangents = [(&queries, direction.width()), (&keys, direction.width()), (&values, direction.value_width())];
    let [queries, keys, values] = tangents.map(|(numbers, width)| Rows::new(numbers, width));
    out.copy_from_slice(&jacobian.jvp(queries, keys, values));
    true
}

/// The gradients, where the fused kernels have the weights and packing pays.
pub(super) fn vjp(projections: &Projections, kernel: &AttentionKernel, cotangent: &[f64]) -> Option<Cotangents> {
    let jacobian = jacobian(projections, kernel)?;
    let HeadCotangents { mut queries, keys, values } = jacobian.vjp(Rows::new(cotangent, projections.value_width()));
    if projections.score() == Score::Dot {
        // The point's queries carry beta, the gradient is with respect to those without.
        queries.iter_mut().for_each(|q| *q *= projections.beta());
    }
    Some(Cotangents { queries, keys, values })
}

fn jacobian(projections: &Projections, kernel: &AttentionKernel) -> Option<HeadJacobian<f64>> {
    // A gain belongs to rescaled flows, where nothing may be rounded away.
    if !is_large(projections) || projections.gain() != 1.0 {
        return None;
    }
    let beta = match projections.score() {
        Score::Dot => 1.0,
        Score::SquaredDistance => projections.beta(),
    };
    let kernel = AttentionKernel::new(projections.score(), kernel.normalization(), kernel.mask(), beta).ok()?;
    let [queries, keys, values] = by_token(projections);
    let rows = [(&queries, projections.width()), (&keys, projections.width()), (&values, projections.value_width())];
    let [queries, keys, values] = rows.map(|(numbers, width)| Rows::new(numbers, width));
    HeadJacobian::new(queries, keys, values, &kernel)
}

/// Queries, keys and values, one token after the other.
fn by_token(projections: &Projections) -> [Vec<f64>; 3] {
    let n = projections.count();
    let transposed = |numbers: &[f64], width: usize| -> Vec<f64> {
        (0..n).flat_map(|i| (0..width).map(move |c| numbers[c * n + i])).collect()
    };
    [
        projections.queries().to_vec(),
        transposed(projections.keys(), projections.width()),
        transposed(projections.values(), projections.value_width()),
    ]
}
