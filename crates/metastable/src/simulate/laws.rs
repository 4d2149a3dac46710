//! What theory says must be constant or monotone along *this* run, measured at the saved times: free monitors of the
//! integration. Each law stands with its hypotheses, which were checked, and its largest violation.

use metastable_dynamics::TokensRef;
use metastable_dynamics::attention::Normalization;
use metastable_dynamics::attention::energy::{Monotone, direction, energy};
use metastable_dynamics::field::{AttentionFlow, ParticleFlow};
use metastable_dynamics::linalg::norm;
use serde::Serialize;

use super::meant::Simulation;
use crate::error::LabError;

/// How a quantity behaves in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// It is zero, up to the tolerances of the run.
    Zero,
    /// It never falls.
    Increasing,
    /// It never rises.
    Decreasing,
}

/// A law, measured along a run.
#[derive(Debug, Clone, Serialize)]
pub struct LawSeries {
    /// Also its column in `metrics.parquet`, after `law_`.
    pub name: &'static str,
    /// The sentence.
    pub statement: &'static str,
    /// Paper or derivation, with its mark.
    pub source: &'static str,
    /// What was checked before claiming it for this run.
    pub hypotheses: &'static str,
    /// How the values behave.
    pub behaviour: Behaviour,
    /// At the saved times; none beyond f64.
    pub values: Vec<Option<f64>>,
    /// The largest value (zero), fall (increasing) or rise (decreasing), relative to the largest |value| for the
    /// latter two.
    pub largest_violation: Option<f64>,
}

/// The laws that hold for a run with these `states` at `times`.
///
/// # Errors
/// [`LabError::Dynamics`] if a decomposition fails or Sinkhorn does not converge.
pub fn laws(
    simulation: &Simulation,
    flow: &AttentionFlow,
    times: &[f64],
    states: &[&[f64]],
) -> Result<Vec<LawSeries>, LabError> {
    let AttentionFlow::Particle(particle) = flow else { return Ok(Vec::new()) };
    if !simulation.has_constant_pure_attention() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    found.extend(sinkhorn_mean(simulation, particle, times, states)?);
    found.extend(attention_energy(simulation, particle, states)?);
    Ok(found)
}

/// |mean(t) - e^{Vt/ε} mean(0)| for one Sinkhorn head in R^d.
fn sinkhorn_mean(
    simulation: &Simulation,
    flow: &ParticleFlow,
    times: &[f64],
    states: &[&[f64]],
) -> Result<Option<LawSeries>, LabError> {
    let (Normalization::Sinkhorn(options), [head], false) =
        (flow.kernel().normalization(), flow.heads(), flow.placement().is_tangent())
    else {
        return Ok(None);
    };
    if simulation.config.time.layers.is_some() || (options.counts_half_steps() && !ends_with_columns(options)) {
        return Ok(None);
    }
    let d = head.dim();
    let value = head.output_value();
    let start = TokensRef::new(d, simulation.tokens.as_slice()).mean();
    let mut values = Vec::with_capacity(times.len());
    for (t, state) in times.iter().zip(states) {
        let mut expected = vec![0.0; d];
        value.scaled(t / options.epsilon).exp()?.apply(&start, &mut expected);
        let mean = TokensRef::new(d, state).mean();
        let difference: Vec<f64> = mean.iter().zip(&expected).map(|(a, b)| a - b).collect();
        values.push(Some(norm(&difference)).filter(|v| v.is_finite()));
    }
    let largest_violation = values.iter().flatten().copied().reduce(f64::max);
    Ok(Some(LawSeries {
        name: "sinkhorn_mean",
        statement: "|mean(t) - exp(t V / epsilon) mean(0)| = 0",
        source: "2501.18322: column sums of Sinkhorn are one, for every measure and every n [derived, checked]",
        hypotheses: "one Sinkhorn head with exact columns, R^d, continuous time, no noise and no feed-forward",
        behaviour: Behaviour::Zero,
        values,
        largest_violation,
    }))
}

fn ends_with_columns(options: metastable_dynamics::attention::Sinkhorn) -> bool {
    use metastable_dynamics::attention::SinkhornStop;
    matches!(options.stop, SinkhornStop::HalfSteps(count) if count % 2 == 0)
}

/// The energy of attention whose value matrix is a multiple of Qᵀ K.
fn attention_energy(
    simulation: &Simulation,
    flow: &ParticleFlow,
    states: &[&[f64]],
) -> Result<Option<LawSeries>, LabError> {
    let [head] = flow.heads() else { return Ok(None) };
    let Ok(monotone) = direction(head, flow.kernel()) else { return Ok(None) };
    if simulation.config.time.layers.is_some() {
        return Ok(None);
    }
    let is_sinkhorn = matches!(flow.kernel().normalization(), Normalization::Sinkhorn(_));
    if is_sinkhorn && flow.placement().is_tangent() {
        return Ok(None);
    }
    let mut values = Vec::with_capacity(states.len());
    for state in states {
        values.push(energy(&flow.projections(0, state), flow.kernel())?.filter(|e| e.is_finite()));
    }
    let behaviour = match monotone {
        Monotone::Increasing => Behaviour::Increasing,
        Monotone::Decreasing => Behaviour::Decreasing,
    };
    let sign = if behaviour == Behaviour::Increasing { 1.0 } else { -1.0 };
    let finite: Vec<f64> = values.iter().flatten().copied().collect();
    let scale = finite.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let fall = finite.windows(2).map(|pair| sign * (pair[0] - pair[1]) / scale).fold(0.0, f64::max);
    Ok(Some(LawSeries {
        name: if is_sinkhorn { "sinkhorn_cost" } else { "attention_energy" },
        statement: if is_sinkhorn {
            "the entropic transport cost W_epsilon / epsilon of the cloud to itself falls (rises for negative V)"
        } else {
            "E = sum_ij Phi(S_ij) / (2 n^2), Phi' the weight, rises (falls for negative V)"
        },
        source: if is_sinkhorn {
            "2501.18322, 2110.11773: Wasserstein gradient flow of W_epsilon / (2 epsilon) [via citation, checked]"
        } else {
            "2312.10794 section 3; twisted Wasserstein gradient flow of 2501.18322 [text, lean, via citation]"
        },
        hypotheses: "one head, scalar products, full mask, beta > 0, symmetric QᵀK and V a multiple of it, no noise and \
                     no feed-forward, continuous time",
        behaviour,
        values,
        largest_violation: (!finite.is_empty()).then_some(fall),
    }))
}
