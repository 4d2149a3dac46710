//! The kernel of a config as it is meant, and whether it has a field at the initial tokens.

use metastable_dynamics::attention::{AttentionKernel, Normalization, Sinkhorn, SinkhornStop};
use metastable_dynamics::field::{AttentionFlow, VectorField};
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

/// Refuses kernels that have no finite field at the initial tokens, before anything is computed or written.
///
/// # Errors
/// What did not converge; or `kernel.beta` where weights overflow.
pub(super) fn require_a_field(flow: &AttentionFlow, tokens: &[f64], inputs: &Inputs) -> Result<(), LabError> {
    if matches!(flow.kernel().normalization(), Normalization::Softmax | Normalization::Hardmax) {
        return Ok(());
    }
    let mut velocity = vec![0.0; tokens.len()];
    flow.evaluate(0.0, tokens, &mut velocity);
    if let Some(failure) = flow.failure() {
        return Err(LabError::Dynamics(failure));
    }
    if velocity.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let expected = "scores whose weights are finite at the initial tokens";
    Err(inputs.wrong("kernel.beta", expected, format!("{:?}, which overflows", flow.kernel().beta())))
}
