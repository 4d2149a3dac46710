//! Watching for the merges that the cascade predicts.

use metastable_dynamics::TokensRef;
use metastable_dynamics::linalg::squared_distance;
use metastable_dynamics::observe::Clusters;
use metastable_dynamics::solver::{DenseStep, Direction, EventLocator};
use serde::{Deserialize, Serialize};

use super::cascade::{Setting, predict};
use crate::error::LabError;

/// When each predicted merge was seen; in the order of the prediction, none while it was not.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Merges {
    /// Times.
    pub times: Vec<Option<f64>>,
}

/// One predicted merge: these tokens reach that point.
#[derive(Debug, Clone)]
struct Target {
    tokens: Vec<usize>,
    point: Vec<f64>,
}

/// The merges to watch for.
#[derive(Debug, Clone, Default)]
pub struct MergeTargets {
    targets: Vec<Target>,
    radius: f64,
    dim: usize,
}

impl MergeTargets {
    /// The prediction from the base run's final clusters; empty if the theorem does not apply.
    ///
    /// # Errors
    /// [`LabError`] from the cascade.
    pub fn new(setting: Option<&Setting>, base: &Clusters, dim: usize) -> Result<Self, LabError> {
        let Some(setting) = setting else { return Ok(Self::default()) };
        let cascade = predict(setting, base)?;
        let targets = cascade
            .events
            .iter()
            .map(|event| Target { tokens: event.tokens.clone(), point: base.centers[event.into].clone() });
        Ok(Self { targets: targets.collect(), radius: base.radius, dim })
    }

    /// Notes the merges that happen in a step: the first time all tokens of a group are within the radius.
    pub fn observe(&self, step: &DenseStep, locator: &mut EventLocator, merges: &mut Merges) {
        merges.times.resize(self.targets.len(), None);
        for (target, seen) in self.targets.iter().zip(&mut merges.times) {
            if seen.is_some() {
                continue;
            }
            let mut excess = |_: f64, state: &[f64]| {
                let tokens = TokensRef::new(self.dim, state);
                let squared = target.tokens.iter().map(|&i| squared_distance(tokens.token(i), &target.point));
                squared.fold(0.0, f64::max).sqrt() - self.radius
            };
            let crossings = locator.crossings(step, &mut excess);
            *seen = crossings.iter().find(|c| c.direction == Direction::Falling).map(|c| c.time);
        }
    }
}
