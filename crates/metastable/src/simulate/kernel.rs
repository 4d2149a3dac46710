//! The kernel of a config as it is meant, and whether it has a field at the initial tokens.

use metastable_dynamics::attention::{AttentionKernel, Normalization, Sinkhorn, SinkhornStop};
use metastable_dynamics::solver::{SolverOptions, StepSize};

use super::inputs::Inputs;
use super::written::{KernelConfig, NormalizationName};
use crate::error::LabError;

/// Sinkhorn's tolerance in units of the step's relative tolerance: its errors must not be seen by the error estimate.
const TOLERANCE_SHARE: f64 = 0.01;
/// Below this the logarithms of column sums are rounding where scores are large.
const LEAST_TOLERANCE: f64 = 1e-12;
/// Derivatives keep the potentials of every half-step.
const MOST_HALF_STEPS: u32 = 10_000;

/// Score, normalization, mask and beta, with Sinkhorn's tolerance coupled to the solver's.
///
/// # Errors
/// [`LabError`] naming the key.
pub(super) fn kernel(
    written: &KernelConfig,
    solver: &SolverOptions,
    inputs: &Inputs,
) -> Result<AttentionKernel, LabError> {
    if written.bias.is_some() && written.normalization != NormalizationName::Sigmoid {
        return Err(inputs.wrong("kernel.bias", "a sigmoid normalization beside it", "another normalization"));
    }
    let of_sinkhorn = [
        ("epsilon", written.epsilon.is_some()),
        ("tolerance", written.tolerance.is_some()),
        ("max_iterations", written.max_iterations.is_some()),
        ("half_steps", written.half_steps.is_some()),
    ];
    if written.normalization != NormalizationName::Sinkhorn
        && let Some((key, _)) = of_sinkhorn.iter().find(|(_, given)| *given)
    {
        let key = format!("kernel.{key}");
        return Err(inputs.wrong(&key, "normalization = \"sinkhorn\" beside it", "another normalization"));
    }
    let normalization = match written.normalization {
        NormalizationName::Softmax => Normalization::Softmax,
        NormalizationName::Exponential => Normalization::Exponential,
        NormalizationName::Sigmoid => Normalization::Sigmoid { bias: written.bias.unwrap_or(0.0) },
        NormalizationName::Linear => Normalization::Linear,
        NormalizationName::Hardmax => Normalization::Hardmax,
        NormalizationName::Sinkhorn => Normalization::Sinkhorn(sinkhorn(written, solver, inputs)?),
    };
    AttentionKernel::new(written.score, normalization, written.mask, written.beta)
        .map_err(|source| inputs.refused("kernel", source))
}

fn sinkhorn(written: &KernelConfig, solver: &SolverOptions, inputs: &Inputs) -> Result<Sinkhorn, LabError> {
    let epsilon = written.epsilon.unwrap_or(1.0);
    if let Some(count) = written.half_steps {
        if written.tolerance.is_some() || written.max_iterations.is_some() {
            let expected = "either a count of half-steps, or tolerance and max_iterations";
            return Err(inputs.wrong("kernel.half_steps", expected, "both"));
        }
        if !(1..=MOST_HALF_STEPS).contains(&count) {
            return Err(inputs.wrong("kernel.half_steps", format!("1 to {MOST_HALF_STEPS}"), count));
        }
        return Ok(Sinkhorn { epsilon, stop: SinkhornStop::HalfSteps(count) });
    }
    let coupled = match solver.step {
        StepSize::Fixed(_) => Sinkhorn::TOLERANCE,
        StepSize::Adaptive { rtol, .. } => (TOLERANCE_SHARE * rtol).max(LEAST_TOLERANCE),
    };
    let stop = SinkhornStop::Converged {
        tolerance: written.tolerance.unwrap_or(coupled),
        max_iterations: written.max_iterations.unwrap_or(Sinkhorn::MAX_ITERATIONS),
    };
    Ok(Sinkhorn { epsilon, stop })
}

/// Refuses kernels whose `velocity` at the initial tokens, \[n, d\], no solver can follow, before anything is computed
/// or written: one that is not finite, or whose squares are not, so that it has no norm and there is no first step.
///
/// # Errors
/// Those of the velocity; or `kernel.beta` where weights overflow.
pub(super) fn require_a_field(
    kernel: AttentionKernel,
    dim: usize,
    mut velocity: impl FnMut(AttentionKernel) -> Result<Vec<f64>, LabError>,
    inputs: &Inputs,
) -> Result<(), LabError> {
    if matches!(kernel.normalization(), Normalization::Softmax | Normalization::Hardmax)
        || can_be_followed(&velocity(kernel)?, dim)
    {
        return Ok(());
    }
    let largest = largest_beta(kernel.beta(), |beta| {
        AttentionKernel::new(kernel.score(), kernel.normalization(), kernel.mask(), beta)
            .is_ok_and(|kernel| velocity(kernel).is_ok_and(|velocity| can_be_followed(&velocity, dim)))
    });
    let bound = largest.map_or_else(String::new, |largest| format!(" (here up to {largest})"));
    let expected = format!("weights with which the initial tokens have velocities below 1e154{bound}");
    Err(inputs.wrong("kernel.beta", expected, format!("{:?}, with which they overflow", kernel.beta())))
}

/// Whether every token's squared velocity is finite.
fn can_be_followed(velocity: &[f64], dim: usize) -> bool {
    velocity.chunks_exact(dim).all(|v| v.iter().map(|c| c * c).sum::<f64>().is_finite())
}

/// Half of the exponents of f64.
const LARGEST_LEAP: f64 = 1e154;

/// The largest beta of the sign of `refused` that passes, to three digits; none if only zero does, or nothing.
fn largest_beta(refused: f64, mut passes: impl FnMut(f64) -> bool) -> Option<String> {
    let (mut good, mut bad, mut factor) = (refused / 2.0, refused, 2.0_f64);
    while !passes(good) {
        factor = (factor * factor).min(LARGEST_LEAP);
        (good, bad) = (good / factor, good);
        if good.abs() < f64::MIN_POSITIVE {
            return None;
        }
    }
    while bad / good > 1.0005 {
        let middle = good * (bad / good).sqrt();
        if passes(middle) { good = middle } else { bad = middle }
    }
    // Towards zero, where it passes too.
    let digits = 2 - good.abs().log10().floor() as i32;
    let unit = 10.0_f64.powi(-digits);
    let rounded = (good / unit).trunc() * unit;
    let decimals = usize::try_from(digits).unwrap_or(0);
    Some(if (-4..=6).contains(&digits) { format!("{rounded:.decimals$}") } else { format!("{rounded:.2e}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_beta_is_found_to_three_digits() {
        // 9.87 is rounded towards zero, and so is what is negative.
        for (limit, refused, expected) in [
            (354.2, 705.0, "354"),
            (354.2, f64::MAX, "354"),
            (9.876, 10.0, "9.87"),
            (-9.876, -20.0, "-9.87"),
            (0.012_35, 5.0, "0.0123"),
            (1.239e150, 1e308, "1.23e150"),
            (4.564e-3, 1e308, "0.00456"),
        ] {
            let found = largest_beta(refused, |beta| beta.abs() < f64::abs(limit));
            assert_eq!(found.as_deref(), Some(expected), "{limit}");
        }
        assert_eq!(largest_beta(3.0, |_| false), None);
    }
}
