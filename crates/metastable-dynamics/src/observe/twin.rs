//! Distances of a LoRA twin from assigned clusters, and the twin times they define.
//!
//! Times go by *assignment*: token i is compared with the cluster that token i itself joined in the base run. The
//! distance to the *set* of centres would not notice a twin whose tokens all sit in one of two clusters (\[derived\]:
//! the authors' script measures that way and misses such changes).

use serde::{Deserialize, Serialize};

use super::clusters::Clusters;
use crate::error::DynamicsError;
use crate::linalg::squared_distance;
use crate::tokens::TokensRef;

/// max_i |x_i - c_label(i)|; infinite if an entry is not finite. O(n d).
///
/// `tokens` [n, d]; `labels` \[n\]; `centers` [k, d].
///
/// # Panics
/// If there are not n labels, or a label has no centre.
pub fn distance_to_assigned(tokens: TokensRef<'_>, labels: &[usize], centers: &[Vec<f64>]) -> f64 {
    assert_eq!(tokens.count(), labels.len(), "one label a token");
    let squared = tokens.iter().zip(labels).map(|(x, &label)| squared_distance(x, &centers[label]));
    squared.fold(0.0, |worst: f64, s| if s.is_nan() { f64::INFINITY } else { worst.max(s) }).sqrt()
}

/// The clusters that tokens are assigned to, as an event function of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    labels: Vec<usize>,
    centers: Vec<Vec<f64>>,
    radius: f64,
}

impl Assignment {
    /// Assigns every token to its own cluster in `clusters`; `radius` is how near counts as arrived.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] unless the radius is positive and finite.
    pub fn new(clusters: &Clusters, radius: f64) -> Result<Self, DynamicsError> {
        if !(radius > 0.0 && radius.is_finite()) {
            return Err(DynamicsError::domain("cluster radius", "a positive number", radius));
        }
        Ok(Self { labels: clusters.labels.clone(), centers: clusters.centers.clone(), radius })
    }

    /// How near counts as arrived.
    pub fn radius(&self) -> f64 {
        self.radius
    }

    /// max_i |x_i - c_label(i)|, see [`distance_to_assigned`].
    pub fn distance(&self, tokens: TokensRef<'_>) -> f64 {
        distance_to_assigned(tokens, &self.labels, &self.centers)
    }

    /// distance - radius: negative or zero while all tokens are within the radius, positive once one is farther.
    pub fn excess(&self, tokens: TokensRef<'_>) -> f64 {
        self.distance(tokens) - self.radius
    }
}

/// A time known to lie in a bracket, or that did not come within the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct BracketedTime {
    /// The time; none if it never came.
    pub value: Option<f64>,
    /// [lo, hi] around it; none if it never came.
    pub bracket: Option<[f64; 2]>,
}

impl BracketedTime {
    /// A time between `low` and `high`, reported as `high`: the first time at which it is known to have come.
    pub fn between(low: f64, high: f64) -> Self {
        Self { value: Some(high), bracket: Some([low, high]) }
    }
}

/// The three times of a twin.
///
/// With c_l and label(i) the clusters of the base run at its end: `cluster_time` is the first time all twin tokens are
/// within the radius of c_label(i); `departure_time` the first later time one is farther; `second_cluster_time` the
/// first time after departure from which all stay within the radius of their own final clusters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TwinTimes {
    /// When the twin has formed the base clusters.
    pub cluster_time: BracketedTime,
    /// When it leaves them.
    pub departure_time: BracketedTime,
    /// When it has formed its own.
    pub second_cluster_time: BracketedTime,
}

/// The distances of one twin state from both assignments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TwinSample {
    /// The time of the state.
    pub time: f64,
    /// max_i distance of twin token i from its cluster in the base run's final state.
    pub to_base: f64,
    /// max_i distance of twin token i from its cluster in the twin's own final state.
    pub to_own: f64,
}

impl TwinTimes {
    /// The times as far as samples (in order of time) show them: brackets are the gaps between samples. O(samples).
    ///
    /// A crossing back and forth between two samples goes unseen; events located by a solver see it.
    pub fn from_samples(samples: &[TwinSample], radius: f64) -> Self {
        let crossing = |k: usize| BracketedTime::between(samples[k.saturating_sub(1)].time, samples[k].time);
        let mut times = Self::default();
        let Some(arrival) = samples.iter().position(|s| s.to_base <= radius) else { return times };
        times.cluster_time = crossing(arrival);
        let left = samples[arrival..].iter().position(|s| s.to_base > radius || s.to_base.is_nan());
        let Some(departure) = left.map(|k| arrival + k) else { return times };
        times.departure_time = crossing(departure);
        let settled = samples.iter().rev().take_while(|s| s.to_own <= radius).count();
        let settled = samples.len() - settled;
        if settled < samples.len() {
            times.second_cluster_time = crossing(settled.max(departure));
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::clusters::single_linkage;

    fn samples(rows: &[(f64, f64)]) -> Vec<TwinSample> {
        let sample = |(k, &(to_base, to_own)): (usize, &(f64, f64))| TwinSample { time: k as f64, to_base, to_own };
        rows.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn assignment_notices_what_the_set_of_centers_does_not() {
        let base = single_linkage(TokensRef::new(1, &[0.0, 0.0, 3.0]), 0.1);
        let assignment = Assignment::new(&base, 0.1).unwrap();
        assert_eq!(assignment.excess(TokensRef::new(1, &[0.0, 0.05, 3.0])), 0.05 - 0.1);
        // All tokens sit exactly on centres, but one on another token's.
        assert_eq!(assignment.distance(TokensRef::new(1, &[0.0, 3.0, 3.0])), 3.0);
        assert_eq!(assignment.distance(TokensRef::new(1, &[f64::NAN, 0.0, 3.0])), f64::INFINITY);
        assert!(Assignment::new(&base, 0.0).is_err());
    }

    #[test]
    fn times_come_in_the_order_arrival_departure_settlement() {
        let rows = [(1.0, 2.0), (0.05, 2.0), (0.05, 2.0), (0.5, 0.05), (2.0, 0.5), (2.0, 0.1), (2.0, 0.0)];
        let times = TwinTimes::from_samples(&samples(&rows), 0.1);
        assert_eq!(times.cluster_time, BracketedTime::between(0.0, 1.0));
        assert_eq!(times.departure_time, BracketedTime::between(2.0, 3.0));
        assert_eq!(times.second_cluster_time, BracketedTime::between(4.0, 5.0));
    }

    #[test]
    fn times_that_do_not_come_are_none() {
        let never = BracketedTime::default();
        let stays = TwinTimes::from_samples(&samples(&[(1.0, 1.0), (0.0, 0.0)]), 0.1);
        assert_eq!((stays.departure_time, stays.second_cluster_time), (never, never));
        assert_eq!(TwinTimes::from_samples(&samples(&[(1.0, 0.0)]), 0.1), TwinTimes::default());
        let lost = TwinTimes::from_samples(&samples(&[(0.0, 1.0), (f64::NAN, f64::NAN)]), 0.1);
        assert_eq!(lost.cluster_time, BracketedTime::between(0.0, 0.0));
        assert_eq!((lost.departure_time.value, lost.second_cluster_time), (Some(1.0), never));
    }
}
