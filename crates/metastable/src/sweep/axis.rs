//! What varies: names, values, and what each value sets.

use std::path::Path;

use serde::Serialize;
use toml::Value;

use super::written::{CaseConfig, RangeConfig, SpacingConfig, VaryConfig};
use crate::error::LabError;

/// An axis has at most so many values.
const MOST_VALUES: usize = 1_000_000;

/// Something that varies.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The name of its column.
    pub name: String,
    /// Its values in order.
    pub values: Vec<AxisValue>,
    /// How it is drawn.
    pub kind: AxisKind,
    /// Whether its values are averaged over like seeds.
    pub is_ensemble: bool,
}

/// One value of an axis.
#[derive(Debug, Clone)]
pub struct AxisValue {
    /// Its entry in the column.
    pub label: Label,
    /// The keys it sets.
    pub set: Vec<(String, Value)>,
}

/// The entry of a value in its column.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Label {
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

/// How an axis is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AxisKind {
    /// Along a linear scale.
    Linear,
    /// Along a logarithmic scale.
    Logarithmic,
    /// Side by side.
    Cases,
}

impl Label {
    /// The number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(integer) => Some(*integer as f64),
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }

    /// As it stands in a sentence.
    pub fn text(&self) -> String {
        match self {
            Self::Integer(integer) => integer.to_string(),
            Self::Number(number) => format!("{number}"),
            Self::Text(text) => text.clone(),
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::Integer(integer) => Self::Integer(*integer),
            Value::Float(number) => Self::Number(*number),
            Value::String(text) => Self::Text(text.clone()),
            other => Self::Text(other.to_string()),
        }
    }
}

/// The axes of a config.
pub(super) fn axes(written: &[VaryConfig], file: &Path) -> Result<Vec<Axis>, LabError> {
    let mut axes: Vec<Axis> = Vec::new();
    for (v, vary) in written.iter().enumerate() {
        let here = Here { file, key: format!("vary[{v}]") };
        let axis = here.axis(vary)?;
        if ["point", "seed", "t", "error"].contains(&axis.name.as_str()) {
            return Err(here.wrong("name", "another name than point, seed, t and error", &axis.name));
        }
        if axes.iter().any(|other| other.name == axis.name) {
            return Err(here.wrong("name", "a name of its own for every entry of vary", &axis.name));
        }
        axes.push(axis);
    }
    Ok(axes)
}

/// One entry of `vary`, for messages.
struct Here<'a> {
    file: &'a Path,
    key: String,
}

impl Here<'_> {
    fn wrong(&self, key: &str, expected: &str, found: impl ToString) -> LabError {
        let key = if key.is_empty() { self.key.clone() } else { format!("{}.{key}", self.key) };
        LabError::wrong_value(self.file, &key, expected.to_owned(), found.to_string())
    }

    fn axis(&self, vary: &VaryConfig) -> Result<Axis, LabError> {
        let forms = [
            vary.values.is_some(),
            vary.linspace.is_some(),
            vary.logspace.is_some(),
            vary.range.is_some(),
            !vary.case.is_empty(),
        ];
        let count = forms.iter().filter(|given| **given).count();
        if count != 1 {
            let found = if count == 0 { "none" } else { "several of them" };
            return Err(self.wrong("", "one of values, linspace, logspace, range and case", found));
        }
        if vary.case.is_empty() { self.of_keys(vary) } else { self.of_cases(vary) }
    }

    fn of_cases(&self, vary: &VaryConfig) -> Result<Axis, LabError> {
        if !vary.key.is_empty() {
            return Err(self.wrong("key", "no key beside `case`, whose tables name their own", "one"));
        }
        let Some(name) = vary.name.clone() else {
            return Err(self.wrong("name", "a name of the column beside `case`", "none"));
        };
        let value = |case: &CaseConfig| AxisValue {
            label: Label::of(&case.label),
            set: case.set.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        let values: Vec<AxisValue> = vary.case.iter().map(value).collect();
        self.once_each(&values)?;
        Ok(Axis { name, values, kind: AxisKind::Cases, is_ensemble: vary.ensemble })
    }

    fn of_keys(&self, vary: &VaryConfig) -> Result<Axis, LabError> {
        let keys = &vary.key.0;
        let Some(first) = keys.first() else {
            return Err(self.wrong("key", "the key that varies, as \"kernel.beta\"", "none"));
        };
        if let Some(seed) = keys.iter().find(|key| *key == "seed") {
            return Err(self.wrong("key", "`seeds` for what varies the seed", seed));
        }
        let (values, kind) = self.values(vary)?;
        let set = |value: &Value| keys.iter().map(|key| (key.clone(), value.clone())).collect();
        let values: Vec<AxisValue> =
            values.iter().map(|value| AxisValue { label: Label::of(value), set: set(value) }).collect();
        self.once_each(&values)?;
        let name = vary.name.clone().unwrap_or_else(|| first.clone());
        Ok(Axis { name, values, kind, is_ensemble: vary.ensemble })
    }

    fn values(&self, vary: &VaryConfig) -> Result<(Vec<Value>, AxisKind), LabError> {
        if let Some(spacing) = vary.linspace {
            return Ok((self.linspace(spacing)?, AxisKind::Linear));
        }
        if let Some(spacing) = vary.logspace {
            return Ok((self.logspace(spacing)?, AxisKind::Logarithmic));
        }
        if let Some(range) = vary.range {
            return Ok((self.range(range)?, AxisKind::Linear));
        }
        let values = vary.values.clone().unwrap_or_default();
        if values.is_empty() {
            return Err(self.wrong("values", "at least one value", "an empty list"));
        }
        let is_number = |value: &Value| matches!(value, Value::Integer(_) | Value::Float(_));
        let kind = if values.iter().all(is_number) { AxisKind::Linear } else { AxisKind::Cases };
        Ok((values, kind))
    }

    fn linspace(&self, spacing: SpacingConfig) -> Result<Vec<Value>, LabError> {
        let SpacingConfig { from, to, count } = self.spacing("linspace", spacing)?;
        let at = |k: usize| if k + 1 == count { to } else { from + (to - from) * (k as f64 / (count - 1) as f64) };
        Ok((0..count).map(|k| Value::Float(at(k))).collect())
    }

    fn logspace(&self, spacing: SpacingConfig) -> Result<Vec<Value>, LabError> {
        let SpacingConfig { from, to, count } = self.spacing("logspace", spacing)?;
        if !(from > 0.0 && to > 0.0) {
            return Err(self.wrong("logspace", "positive ends", format!("from = {from}, to = {to}")));
        }
        let at = |k: usize| match k {
            0 => from,
            k if k + 1 == count => to,
            k => from * (to / from).powf(k as f64 / (count - 1) as f64),
        };
        Ok((0..count).map(|k| Value::Float(at(k))).collect())
    }

    fn spacing(&self, key: &str, spacing: SpacingConfig) -> Result<SpacingConfig, LabError> {
        let SpacingConfig { from, to, count } = spacing;
        if !(from.is_finite() && to.is_finite() && from != to) {
            return Err(self.wrong(key, "two different finite ends", format!("from = {from}, to = {to}")));
        }
        if !(2..=MOST_VALUES).contains(&count) {
            return Err(self.wrong(&format!("{key}.count"), &format!("between 2 and {MOST_VALUES}"), count));
        }
        Ok(spacing)
    }

    fn range(&self, range: RangeConfig) -> Result<Vec<Value>, LabError> {
        let RangeConfig { from, to, step } = range;
        let span = i128::from(to) - i128::from(from);
        let count =
            if step == 0 { 0 } else { (span + i128::from(step) - i128::from(step.signum())) / i128::from(step) };
        if count < 1 || count > MOST_VALUES as i128 {
            let expected = format!("between 1 and {MOST_VALUES} whole numbers");
            return Err(self.wrong("range", &expected, format!("from = {from}, to = {to}, step = {step}")));
        }
        // At most `MOST_VALUES` of them, all between from and to.
        Ok((0..count as i64).map(|k| Value::Integer(from + k * step)).collect())
    }

    fn once_each(&self, values: &[AxisValue]) -> Result<(), LabError> {
        let mut seen = std::collections::BTreeSet::new();
        match values.iter().find(|value| !seen.insert(value.label.text())) {
            Some(twice) => Err(self.wrong("", "every value once", format!("{} twice", twice.label.text()))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> Result<Axis, LabError> {
        let vary: VaryConfig = toml::from_str(text).unwrap();
        axes(&[vary], "sweep.toml".as_ref()).map(|mut axes| axes.remove(0))
    }

    fn numbers(text: &str) -> Vec<f64> {
        axis(text).unwrap().values.iter().map(|value| value.label.number().unwrap()).collect()
    }

    #[test]
    fn spacings_hold_both_ends_exactly() {
        assert_eq!(numbers("key = \"a\"\nlinspace = {from = 0.1, to = 0.7, count = 3}"), [0.1, 0.4, 0.7]);
        let decades = numbers("key = \"a\"\nlogspace = {from = 1e-3, to = 10.0, count = 5}");
        assert_eq!((decades[0], decades[4]), (1e-3, 10.0));
        // A rounding or two of a power.
        assert!(decades.iter().zip([1e-3, 1e-2, 1e-1, 1.0, 10.0]).all(|(a, b)| (a / b - 1.0).abs() < 1e-14));
    }

    #[test]
    fn ranges_leave_their_end_out() {
        assert_eq!(numbers("key = \"a\"\nrange = {to = 3}"), [0.0, 1.0, 2.0]);
        assert_eq!(numbers("key = \"a\"\nrange = {from = 2, to = 9, step = 3}"), [2.0, 5.0, 8.0]);
        assert_eq!(numbers("key = \"a\"\nrange = {from = 5, to = 0, step = -2}"), [5.0, 3.0, 1.0]);
    }

    #[test]
    fn several_keys_take_one_value_and_cases_set_many() {
        let both = axis("key = [\"a.b\", \"c\"]\nname = \"x\"\nvalues = [1, 2]").unwrap();
        assert_eq!(both.values[1].set, [("a.b".into(), Value::Integer(2)), ("c".into(), Value::Integer(2))]);
        let cases = axis("name = \"d\"\ncase = [{label = 3, set = {\"a.b\" = 1}}, {label = \"x\", set = {}}]").unwrap();
        assert_eq!((cases.kind, cases.values[1].label.text()), (AxisKind::Cases, "x".to_string()));
        assert_eq!(cases.values[0].set, [("a.b".into(), Value::Integer(1))]);
    }

    #[test]
    fn what_varies_nothing_is_refused_with_its_key() {
        let cases = [
            ("key = \"a\"", "`vary[0]`: expected one of values, linspace, logspace, range and case, found none"),
            ("key = \"a\"\nvalues = [1]\nrange = {to = 2}", "found several of them"),
            ("values = [1]", "`vary[0].key`"),
            ("key = \"seed\"\nvalues = [1]", "expected `seeds` for what varies the seed"),
            ("key = \"a\"\nvalues = []", "`vary[0].values`: expected at least one value"),
            ("key = \"a\"\nvalues = [1, 1]", "every value once, found 1 twice"),
            ("key = \"a\"\nname = \"t\"\nvalues = [1]", "`vary[0].name`"),
            ("key = \"a\"\nlinspace = {from = 0, to = 0, count = 3}", "two different finite ends"),
            ("key = \"a\"\nlogspace = {from = 0, to = 1, count = 3}", "positive ends"),
            ("key = \"a\"\nlinspace = {from = 0, to = 1, count = 1}", "`vary[0].linspace.count`"),
            ("key = \"a\"\nrange = {to = 0}", "`vary[0].range`"),
            ("key = \"a\"\nrange = {to = 3, step = 0}", "`vary[0].range`"),
            ("case = [{label = 1, set = {}}]", "`vary[0].name`"),
        ];
        for (text, expected) in cases {
            let message = axis(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
