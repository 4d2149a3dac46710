//! The config of `sweep` as a user writes it; [`super::meant`] turns it into points.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use crate::simulate::SimulateConfig;
use crate::simulate::forms::OneOrMany;

/// A sweep: a simulation, what varies in it, and what is kept of every run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Shown on the report; the config's file name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The simulation: its config as a table, or the name of its config file, relative to this one.
    #[schemars(with = "BaseForm")]
    pub base: Value,
    /// Keys of the simulation to change for every point, as `"kernel.beta" = 2.0`.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    #[schemars(with = "std::collections::BTreeMap<String, serde_json::Value>")]
    pub set: Table,
    /// How many seeds, counted up from the simulation's own, or which; the simulation's own alone by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Seeds>,
    /// What varies: every combination is run with every seed.
    #[serde(default)]
    pub vary: Vec<VaryConfig>,
    /// What is kept of a report; regime, times, clusters and energies by default.
    #[serde(default)]
    pub keep: Vec<KeepConfig>,
    /// Whether a row of the table is a point or, with a column `t`, a saved time of a point.
    #[serde(default)]
    pub rows: Rows,
    /// The confidence level of the intervals.
    #[serde(default = "default_confidence")]
    pub confidence: f64,
    /// Curves of theory to draw over the figures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlay: Vec<OverlayConfig>,
}

fn default_confidence() -> f64 {
    0.95
}

/// For the schema: the two forms of `base`.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the form only; the tree itself is kept until a point is read from it")]
enum BaseForm {
    /// The name of a config file of `simulate`.
    File(String),
    /// A config of `simulate`.
    Inline(Box<SimulateConfig>),
}

/// Seeds: how many, or which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seeds {
    /// This many, counted up from the simulation's own.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

/// Something that varies: keys with one of `values`, `linspace`, `logspace`, `range`; or `case` tables.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaryConfig {
    /// The key, or keys that take the same value, as `"kernel.beta"` or `"head.0.query"`.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub key: OneOrMany<String>,
    /// The name of the column; the key by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A list of values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    pub values: Option<Vec<Value>>,
    /// Equally spaced numbers, both ends included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linspace: Option<SpacingConfig>,
    /// Numbers of equal ratios, both ends included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logspace: Option<SpacingConfig>,
    /// Whole numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<RangeConfig>,
    /// Named cases that each set several keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub case: Vec<CaseConfig>,
    /// Whether its values are draws of one ensemble, to be averaged over like seeds.
    #[serde(default)]
    pub ensemble: bool,
}

/// Numbers from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpacingConfig {
    /// The first.
    pub from: f64,
    /// The last.
    pub to: f64,
    /// How many, at least 2.
    pub count: usize,
}

/// Whole numbers from one up to another, which is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RangeConfig {
    /// The first; 0 by default.
    #[serde(default)]
    pub from: i64,
    /// The end, not included.
    pub to: i64,
    /// From one to the next; 1 by default.
    #[serde(default = "one")]
    pub step: i64,
}

fn one() -> i64 {
    1
}

/// A named case.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseConfig {
    /// Its entry in the column: a text or a number.
    #[schemars(with = "serde_json::Value")]
    pub label: Value,
    /// What it sets, as `"head.0.query.shape" = [2, 4]`.
    #[schemars(with = "std::collections::BTreeMap<String, serde_json::Value>")]
    pub set: Table,
}

/// What is kept of a report: a path, or a table with details.
#[derive(Debug, Clone, PartialEq)]
pub enum KeepConfig {
    /// `"clusters.count"`: a number, text or truth value of `report.json`; of a series the last entry.
    Path(String),
    /// With details.
    Detailed(KeepDetails),
}

/// What is kept of a report, with details.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepDetails {
    /// The path in `report.json`, as `"series.mean_cosine"`.
    pub path: String,
    /// The name of the column; the path by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For a series: the saved times to take it at, one column each.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub at: OneOrMany<f64>,
    /// For a list of numbers: how many are above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_above: Option<f64>,
}

/// What a row of the table is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// A point.
    #[default]
    Point,
    /// A saved time of a point, in the column `t`.
    Time,
}

/// A curve of theory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverlayConfig {
    /// Which.
    pub curve: OverlayCurve,
    /// The number of tokens; of the simulation's `tokens.n` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// The cosine that it marks.
    #[serde(default = "default_level")]
    pub level: f64,
}

fn default_level() -> f64 {
    0.999
}

/// Which curve of theory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverlayCurve {
    /// Over (t, beta): when gamma_beta, the common cosine of n orthogonal tokens under softmax, reaches the level.
    Gamma,
    /// The same under unnormalised attention.
    GammaUnnormalised,
}

impl Serialize for Seeds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::List(seeds) => seeds.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SeedsVisitor;
        impl<'de> Visitor<'de> for SeedsVisitor {
            type Value = Seeds;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number of seeds, or a list of seeds")
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Seeds, E> {
                let found = de::Unexpected::Signed(count);
                u64::try_from(count).map(Seeds::Count).map_err(|_| E::invalid_value(found, &self))
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Seeds, E> {
                Ok(Seeds::Count(count))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Seeds, A::Error> {
                let mut seeds = Vec::new();
                while let Some(seed) = sequence.next_element()? {
                    seeds.push(seed);
                }
                Ok(Seeds::List(seeds))
            }
        }
        deserializer.deserialize_any(SeedsVisitor)
    }
}

impl JsonSchema for Seeds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seeds".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
        ]})
    }
}

impl Serialize for KeepConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Path(path) => serializer.serialize_str(path),
            Self::Detailed(details) => details.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeepConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeepVisitor;
        impl<'de> Visitor<'de> for KeepVisitor {
            type Value = KeepConfig;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path of the report, or a table with one")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<KeepConfig, E> {
                Ok(KeepConfig::Path(path.into()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<KeepConfig, A::Error> {
                KeepDetails::deserialize(de::value::MapAccessDeserializer::new(map)).map(KeepConfig::Detailed)
            }
        }
        deserializer.deserialize_any(KeepVisitor)
    }
}

impl JsonSchema for KeepConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Keep".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let details = generator.subschema_for::<KeepDetails>();
        json_schema!({"anyOf": [{"type": "string"}, details]})
    }
}
