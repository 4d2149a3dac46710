//! The slow-time cascade of a twin: when it applies, what it predicts, what the simulation did.

use metastable_dynamics::attention::{AttentionKernel, Mask, Normalization, Score};
use metastable_dynamics::observe::Clusters;
use metastable_dynamics::observe::cascade::{Cascade, CascadeSetting};
use metastable_dynamics::{Head, Matrix};

use super::inputs::Inputs;
use super::report::{CascadeEventReport, CascadeReport};
use super::written::{Coordinates, SimulateConfig};
use crate::error::LabError;

/// What the cascade is computed from, beside the clusters of the base run.
#[derive(Debug, Clone)]
pub struct Setting {
    /// beta Qᵀ K.
    logits: Matrix,
    /// c of V = c I.
    base_value: f64,
    /// M of ΔV = eps M, of operator norm 1.
    direction: Matrix,
    /// eps.
    epsilon: f64,
}

/// The predicted schedule, in terms of the base run's clusters and tokens.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Releases in order of time.
    pub events: Vec<Event>,
    /// Clusters that nobody makes leave.
    pub survivors: Vec<usize>,
    epsilon: f64,
}

/// One predicted release and merge.
#[derive(Debug, Clone)]
pub struct Event {
    /// s.
    pub slow_time: f64,
    /// s / eps.
    pub time: f64,
    /// The cluster that leaves.
    pub from: usize,
    /// The cluster it joins.
    pub into: usize,
    /// Tokens that are in it by then.
    pub tokens: Vec<usize>,
    /// When it is within the cluster radius.
    pub merge_time: f64,
}

/// The cascade's data if its theorem applies to this twin; nothing if it does not.
///
/// # Errors
/// A config error if `observe.cascade = true` and the theorem does not apply: it says which hypothesis fails.
pub fn setting(
    config: &SimulateConfig,
    kernel: &AttentionKernel,
    heads: &[Head],
    adapted: Option<&[Head]>,
    inputs: &Inputs,
) -> Result<Option<Setting>, LabError> {
    let wanted = config.observe.cascade;
    if wanted == Some(false) {
        return Ok(None);
    }
    match hypotheses(config, kernel, heads, adapted) {
        Ok(setting) => Ok(Some(setting)),
        Err((expected, found)) if wanted == Some(true) => Err(inputs.wrong("observe.cascade", expected, found)),
        Err(_) => Ok(None),
    }
}

/// Checks one hypothesis after the other; the first that fails is (what is required, what was found).
fn hypotheses(
    config: &SimulateConfig,
    kernel: &AttentionKernel,
    heads: &[Head],
    adapted: Option<&[Head]>,
) -> Result<Setting, (String, String)> {
    let require = |holds: bool, expected: &str, found: &str| {
        if holds { Ok(()) } else { Err((expected.to_string(), found.to_string())) }
    };
    let [base] = heads else { return Err(("one head".into(), "several".into())) };
    let Some([adapted]) = adapted else { return Err(("a [lora] update".into(), "none".into())) };
    require(config.space.coordinates == Coordinates::Rescaled, "rescaled coordinates", "plain ones")?;
    require(config.time.layers.is_none(), "continuous time", "layers")?;
    let standard = kernel.score() == Score::Dot && kernel.normalization() == Normalization::Softmax;
    require(standard && kernel.mask() == Mask::Full, "full softmax attention of scalar products", "another kernel")?;
    require(kernel.beta() > 0.0, "beta > 0", &kernel.beta().to_string())?;
    let unchanged = |a: &Head, b: &Head| a.query() == b.query() && a.key() == b.key();
    require(unchanged(base, adapted), "an update of the value alone", "an update of query or key")?;
    let base_value = scalar_of(base.value()).unwrap_or(0.0);
    require(base_value > 0.0, "a base value c·I with c > 0", "another value")?;
    let delta = adapted.value().add_scaled(-1.0, base.value());
    require(delta.max_abs() > 0.0, "an update that changes something", "a zero update")?;
    let asymmetry = delta.asymmetry();
    require(asymmetry <= 1e-12 * delta.max_abs(), "a symmetric update", &format!("an asymmetry of {asymmetry:e}"))?;
    let logits = base.query_key().scaled(kernel.beta());
    let asymmetry = logits.asymmetry();
    require(asymmetry <= 1e-12 * logits.max_abs(), "a symmetric QᵀK", &format!("an asymmetry of {asymmetry:e}"))?;
    let smallest = logits.symmetric_eigen().map_or(f64::NAN, |(values, _)| values[0]);
    let found = format!("an eigenvalue of {smallest:e}");
    require(smallest >= -1e-12 * logits.max_abs(), "a positive semidefinite QᵀK", &found)?;
    let smallest = adapted.value().symmetric_eigen().map_or(f64::NAN, |(values, _)| values[0]);
    require(smallest > 0.0, "an adapted value with positive eigenvalues", &format!("{smallest:e}"))?;
    let epsilon = delta.operator_norm().map_err(|error| ("a decomposable update".into(), error.to_string()))?;
    Ok(Setting { logits, base_value, direction: delta.scaled(1.0 / epsilon), epsilon })
}

/// The schedule from the base run's final clusters.
///
/// # Errors
/// [`LabError::Dynamics`] if a decomposition fails.
pub fn predict(setting: &Setting, base: &Clusters) -> Result<Prediction, LabError> {
    let cascade = Cascade::predict(&CascadeSetting {
        clusters: base,
        logits: &setting.logits,
        base_value: setting.base_value,
        direction: &setting.direction,
        epsilon: setting.epsilon,
    })?;
    let mut home: Vec<usize> = (0..base.count()).collect();
    let mut events = Vec::new();
    for release in cascade.releases() {
        let joined = |i: &usize| home[base.labels[*i]] == release.from;
        let tokens = (0..base.labels.len()).filter(joined).collect();
        home.iter_mut().filter(|at| **at == release.from).for_each(|at| *at = release.into);
        events.push(Event {
            slow_time: release.slow_time,
            time: release.time,
            from: release.from,
            into: release.into,
            tokens,
            merge_time: cascade.merge_time(release, base.radius),
        });
    }
    Ok(Prediction { events, survivors: cascade.survivors(), epsilon: setting.epsilon })
}

/// The prediction beside the merges that were seen, in its order.
pub fn report(prediction: &Prediction, radius: f64, seen: &[Option<f64>]) -> CascadeReport {
    let events = prediction.events.iter().enumerate().map(|(k, event)| CascadeEventReport {
        slow_time: event.slow_time,
        release_time: event.time,
        from: event.from,
        into: event.into,
        tokens: event.tokens.clone(),
        merge_time: event.merge_time,
        simulated_merge_time: seen.get(k).copied().flatten(),
    });
    CascadeReport {
        radius,
        slow_scale: prediction.epsilon,
        events: events.collect(),
        final_clusters: prediction.survivors.clone(),
        source: "slow-time cascade, exact as eps -> 0 [derived]; stands in for Theorem 1 of 2402.15415v1, unseen",
    }
}

/// c if the matrix is c·I.
fn scalar_of(matrix: &Matrix) -> Option<f64> {
    let c = matrix.at(0, 0);
    (*matrix == Matrix::scaled_identity(matrix.rows(), c)).then_some(c)
}
