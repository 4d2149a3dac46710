//! What an adapter did, in a sentence; and thresholds that turn numbers into an exit code.

use metastable_dynamics::observe::BracketedTime;

use super::drift::LayerDrift;
use super::twin::{AdapterReport, SweepRow};
use crate::error::LabError;

/// The verdict in words with numbers.
pub(super) fn sentence(report: &AdapterReport, tokens: usize) -> String {
    let AdapterReport { departure, heads, scale_sweep, bifurcation, .. } = report;
    let layers: Vec<&LayerDrift> = report.layers.iter().map(|layer| &layer.drift).collect();
    let Some(last) = layers.last().copied() else { return "There are no layers.".into() };
    if layers.iter().all(|layer| layer.shift_relative == 0.0) {
        return "The adapter changes no hidden state of this text at all.".into();
    }
    let most = layers.iter().copied().max_by(|x, y| x.shift_relative.total_cmp(&y.shift_relative)).unwrap_or(last);
    let mut verdict = format!(
        "The adapter moves the last level by {:.2} % (cosine to the base {:.4}), most at level {} ({:.2} %)",
        100.0 * last.shift_relative,
        last.cosine,
        most.index,
        100.0 * most.shift_relative
    );
    match (departure.value, departure.bracket) {
        (Some(level), Some([below, _])) => {
            let first = layers.iter().copied().find(|layer| layer.index as f64 == level).unwrap_or(last);
            verdict += &format!(
                "; the clouds part between levels {below} and {level}, where {} of {tokens} tokens change their \
                 cluster, and {} at the last level ({} clusters born, {} died)",
                first.clusters_changed, last.clusters_changed, last.clusters_born, last.clusters_died
            );
        }
        _ => verdict += &format!("; all {tokens} tokens keep their clusters at every level"),
    }
    let judged = heads.iter().filter(|head| head.stable.is_some()).count();
    let unstable = heads.iter().filter(|head| head.stable == Some(false)).count();
    if judged > 0 {
        verdict += &format!("; gap + a > 2|b| + ‖E‖ fails in {unstable} of {judged} heads");
    }
    verdict + &bifurcated(scale_sweep, bifurcation) + "."
}

/// Where the clusters of the last level first change as the scale grows.
fn bifurcated(sweep: &[SweepRow], bifurcation: &BracketedTime) -> String {
    let largest = sweep.iter().map(|row| row.factor).fold(0.0, f64::max);
    match bifurcation.bracket {
        Some([below, above]) => {
            format!("; clusters of the last level first change between {below} and {above} times its scale")
        }
        None if largest > 0.0 => {
            format!("; all tokens of the last level keep their clusters up to {largest} times its scale")
        }
        None => String::new(),
    }
}

/// A condition such as `shift_relative>0.5` that makes a run fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    text: String,
    quantity: Quantity,
    comparison: Comparison,
    value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Quantity {
    ShiftRelative,
    MaxShiftRelative,
    Cosine,
    MinCosine,
    ClustersChanged,
    Wasserstein2,
    EnergyChange,
    Departure,
    UnstableHeads,
}

/// Names of quantities, for messages.
const QUANTITIES: [(&str, Quantity); 9] = [
    ("shift_relative", Quantity::ShiftRelative),
    ("max_shift_relative", Quantity::MaxShiftRelative),
    ("cosine", Quantity::Cosine),
    ("min_cosine", Quantity::MinCosine),
    ("clusters_changed", Quantity::ClustersChanged),
    ("wasserstein2", Quantity::Wasserstein2),
    ("energy_change", Quantity::EnergyChange),
    ("departure", Quantity::Departure),
    ("unstable_heads", Quantity::UnstableHeads),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Longer signs first, so that `>=` is not read as `>`.
const COMPARISONS: [(&str, Comparison); 4] =
    [(">=", Comparison::AtLeast), ("<=", Comparison::AtMost), (">", Comparison::Above), ("<", Comparison::Below)];

impl Threshold {
    /// Parses `NAME > NUMBER`, also with `>=`, `<` and `<=`.
    ///
    /// # Errors
    /// [`LabError::Setting`] for `--fail-if`.
    ///
    /// # Example
    /// ```
    /// use metastable::inspect::Threshold;
    /// assert!(Threshold::parse("shift_relative > 0.5").is_ok());
    /// let error = Threshold::parse("shift > 0.5").unwrap_err().to_string();
    /// assert!(error.contains("expected one of shift_relative"), "{error}");
    /// ```
    pub fn parse(text: &str) -> Result<Self, LabError> {
        let refuse = |expected: String, found: &str| LabError::Setting {
            name: "--fail-if".into(),
            expected,
            found: format!("`{found}`"),
        };
        let split = COMPARISONS.iter().find_map(|(sign, comparison)| {
            let (name, value) = text.split_once(sign)?;
            Some((name.trim(), *comparison, value.trim()))
        });
        let (name, comparison, value) = split.ok_or_else(|| refuse("NAME>NUMBER, with >, >=, < or <=".into(), text))?;
        let quantity = QUANTITIES.iter().find(|(known, _)| *known == name).map(|(_, quantity)| *quantity);
        let names: Vec<&str> = QUANTITIES.iter().map(|(name, _)| *name).collect();
        let quantity = quantity.ok_or_else(|| refuse(format!("one of {}", names.join(", ")), name))?;
        let value = value.parse().ok().filter(|value: &f64| value.is_finite());
        let value = value.ok_or_else(|| refuse(format!("a number after {name}"), text))?;
        Ok(Self { text: text.into(), quantity, comparison, value })
    }

    /// The failed check, if the report meets the condition. A departure that never came meets none.
    pub fn failure(&self, report: &AdapterReport) -> Option<LabError> {
        let found = self.quantity.of(report)?;
        let met = match self.comparison {
            Comparison::Above => found > self.value,
            Comparison::AtLeast => found >= self.value,
            Comparison::Below => found < self.value,
            Comparison::AtMost => found <= self.value,
        };
        met.then(|| LabError::CheckFailed {
            check: "--fail-if".into(),
            expected: format!("not {}", self.text),
            found: found.to_string(),
        })
    }
}

impl Quantity {
    fn of(self, report: &AdapterReport) -> Option<f64> {
        let row = report.layers.last()?;
        let last = &row.drift;
        let drifts = || report.layers.iter().map(|layer| &layer.drift);
        let over = |pick: fn(&LayerDrift) -> f64, fold: fn(f64, f64) -> f64| drifts().map(pick).reduce(fold);
        match self {
            Self::ShiftRelative => Some(last.shift_relative),
            Self::MaxShiftRelative => over(|layer| layer.shift_relative, f64::max),
            Self::Cosine => Some(last.cosine),
            Self::MinCosine => over(|layer| layer.cosine, f64::min),
            Self::ClustersChanged => Some(last.clusters_changed as f64),
            Self::Wasserstein2 => row.wasserstein2,
            Self::EnergyChange => row.energy_change,
            Self::Departure => report.departure.value,
            Self::UnstableHeads => Some(report.heads.iter().filter(|head| head.stable == Some(false)).count() as f64),
        }
    }
}
