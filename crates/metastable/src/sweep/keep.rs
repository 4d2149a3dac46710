//! What is kept of a report: paths into `report.json`, and how a value is taken from what stands there.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use toml::Table;

use super::written::{KeepConfig, KeepDetails, Rows};
use crate::error::LabError;

/// A column of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Where it stands in the report, as the config says it.
    pub path: String,
    /// Which entry of `keep` asked for it, as a key; none for a default.
    pub key: Option<String>,
    pointer: String,
    take: Take,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Take {
    /// The value; of a series the last entry.
    Last,
    /// The entry of a series at a saved time.
    At(f64),
    /// The entry of a series at every saved time; any other value again and again.
    EveryTime,
    /// How many entries of a list are above.
    CountAbove(f64),
}

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Cell {
    /// None: null in the report, or a time that was not reached.
    Missing,
    /// A number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// A word.
    Text(String),
}

/// A row of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The saved time, where rows are saved times.
    pub t: Option<f64>,
    /// One entry a column.
    pub cells: Vec<Cell>,
}

/// A kept path that a report does not have, or whose value fits no column.
#[derive(Debug, Clone, PartialEq)]
pub struct Misfit {
    /// The entry of `keep`.
    pub key: String,
    /// What fits.
    pub expected: String,
    /// What the report has there.
    pub found: String,
}

const OF_PARTICLES: [&str; 5] = ["stop.reason", "stop.time", "clusters.count", "series.energy", "series.mean_cosine"];
const OF_GAUSSIANS: [&str; 5] =
    ["stop.reason", "stop.time", "gaussian.regime", "gaussian.limit_rank", "gaussian.blow_up_time"];
const OF_TWINS: [&str; 5] = [
    "twin.cluster_time",
    "twin.departure_time",
    "twin.second_cluster_time",
    "twin.clusters.count",
    "twin.max_distance",
];

/// The columns of a config; by default what a simulation of that kind is asked for most.
pub(super) fn kept(written: &[KeepConfig], rows: Rows, base: &Table, file: &Path) -> Result<Vec<Kept>, LabError> {
    let mut all: Vec<Kept> = Vec::new();
    for (k, keep) in written.iter().enumerate() {
        let wrong = |key: &str, expected: &str, found: String| {
            Err(LabError::wrong_value(file, &format!("keep[{k}]{key}"), expected.to_owned(), found))
        };
        let details = match keep {
            KeepConfig::Path(path) => KeepDetails { path: path.clone(), ..KeepDetails::default() },
            KeepConfig::Detailed(details) => details.clone(),
        };
        if details.path.split('.').any(str::is_empty) {
            return wrong("", "a path of the report, as \"clusters.count\"", format!("\"{}\"", details.path));
        }
        if details.count_above.is_some() && !details.at.is_empty() {
            return wrong(".at", "either at or count_above", "both".into());
        }
        if rows == Rows::Time && !details.at.is_empty() {
            return wrong(".at", "no times beside rows = \"time\", which keeps all", format!("{:?}", details.at.0));
        }
        if let Some(number) = details.at.0.iter().chain(&details.count_above).find(|number| !number.is_finite()) {
            return wrong("", "finite numbers", number.to_string());
        }
        for column in columns(&details, rows, Some(format!("keep[{k}]"))) {
            if ["point", "seed", "t", "error"].contains(&column.name.as_str()) {
                return wrong(".name", "another name than point, seed, t and error", column.name);
            }
            if all.iter().any(|other| other.name == column.name) {
                return wrong(".name", "a name of its own for every column", format!("`{}` twice", column.name));
            }
            all.push(column);
        }
    }
    Ok(if written.is_empty() { defaults(rows, base) } else { all })
}

fn defaults(rows: Rows, base: &Table) -> Vec<Kept> {
    let mut paths = if base.contains_key("gaussian") { OF_GAUSSIANS.to_vec() } else { OF_PARTICLES.to_vec() };
    if base.contains_key("lora") && !base.contains_key("gaussian") {
        paths.extend(OF_TWINS);
    }
    let details = |path: &str| KeepDetails { path: path.into(), ..KeepDetails::default() };
    paths.into_iter().flat_map(|path| columns(&details(path), rows, None)).collect()
}

/// The columns of one entry: one, or one a time.
fn columns(details: &KeepDetails, rows: Rows, key: Option<String>) -> Vec<Kept> {
    let short = details.path.strip_prefix("series.").unwrap_or(&details.path).replace('.', "_");
    let name = details.name.clone().unwrap_or(short);
    let pointer: String = details.path.split('.').map(|part| format!("/{}", part.replace('~', "~0"))).collect();
    let column = |name: String, take| Kept {
        name,
        path: details.path.clone(),
        key: key.clone(),
        pointer: pointer.clone(),
        take,
    };
    match (details.count_above, rows) {
        (Some(threshold), _) => vec![column(name, Take::CountAbove(threshold))],
        (None, Rows::Time) => vec![column(name, Take::EveryTime)],
        (None, Rows::Point) if details.at.is_empty() => vec![column(name, Take::Last)],
        (None, Rows::Point) => details.at.0.iter().map(|t| column(format!("{name}_t{t}"), Take::At(*t))).collect(),
    }
}

/// The rows of a report: one, or one a saved time.
///
/// # Errors
/// [`Misfit`] for a path that the report does not have.
pub(super) fn rows(kept: &[Kept], rows: Rows, report: &Value) -> Result<Vec<Row>, Misfit> {
    if rows == Rows::Point {
        let cells = kept.iter().map(|column| column.cell(report, None)).collect::<Result<_, _>>()?;
        return Ok(vec![Row { t: None, cells }]);
    }
    let times = report.pointer("/series/t").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let row = |(s, t): (usize, &Value)| {
        let cells = kept.iter().map(|column| column.cell(report, Some(s))).collect::<Result<_, _>>()?;
        Ok(Row { t: t.as_f64(), cells })
    };
    times.iter().enumerate().map(row).collect()
}

impl Kept {
    /// Whether it is asked for by the config, and not a default.
    pub fn is_asked_for(&self) -> bool {
        self.key.is_some()
    }

    fn cell(&self, report: &Value, s: Option<usize>) -> Result<Cell, Misfit> {
        let misfit = |expected: String, found: String| Misfit {
            key: self.key.clone().unwrap_or_else(|| "keep".into()),
            expected,
            found,
        };
        let Some(value) = report.pointer(&self.pointer) else {
            return Err(misfit(self.neighbours(report), format!("\"{}\"", self.path)));
        };
        // A bracketed time is its value.
        let value = value.get("value").unwrap_or(value);
        if let (Value::Array(list), Take::CountAbove(threshold)) = (value, self.take) {
            // Of a series of lists, the list at the end.
            let list = list.last().and_then(Value::as_array).unwrap_or(list);
            let above = list.iter().filter(|entry| entry.as_f64().is_some_and(|number| number > threshold));
            return Ok(Cell::Number(above.count() as f64));
        }
        let value = match value {
            Value::Array(list) => self.entry(list, report, s).unwrap_or(&Value::Null),
            other => other,
        };
        match value {
            Value::Null => Ok(Cell::Missing),
            Value::Number(number) => Ok(number.as_f64().map_or(Cell::Missing, Cell::Number)),
            Value::Bool(flag) => Ok(Cell::Flag(*flag)),
            Value::String(text) => Ok(Cell::Text(text.clone())),
            Value::Array(_) => Err(misfit("a number, a text or a truth value".into(), "a list of lists".into())),
            Value::Object(_) => Err(misfit(self.neighbours(report), format!("the table \"{}\"", self.path))),
        }
    }

    /// The entry of a series: the last, one at a time, or number s.
    fn entry<'a>(&self, list: &'a [Value], report: &Value, s: Option<usize>) -> Option<&'a Value> {
        match (self.take, s) {
            (Take::At(time), _) => {
                let parent = self.pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
                let times =
                    report.pointer(&format!("{parent}/t")).or_else(|| report.pointer("/series/t"))?.as_array()?;
                // Saved times are computed; a user writes them with a few digits.
                let is_there = |t: &Value| t.as_f64().is_some_and(|t| (t - time).abs() <= 1e-9 * time.abs().max(1.0));
                list.get(times.iter().position(is_there)?)
            }
            (Take::EveryTime, Some(s)) => list.get(s),
            _ => list.last(),
        }
    }

    /// What stands where the path leaves the report.
    fn neighbours(&self, report: &Value) -> String {
        let mut here = report;
        for part in self.path.split('.') {
            match here.get(part).or_else(|| part.parse::<usize>().ok().and_then(|k| here.get(k))) {
                Some(next) => here = next,
                None => break,
            }
        }
        match here.as_object() {
            Some(table) => {
                let names: Vec<String> = table.keys().map(|key| format!("`{key}`")).collect();
                format!("a path of the report, where there is {}", names.join(", "))
            }
            None => "a path of the report".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        json!({
            "stop": {"reason": "end_time", "time": 3.0},
            "clusters": {"count": 2, "sizes": [3, 1]},
            "series": {"t": [0.0, 1.5, 3.0], "energy": [1.0, null, 2.5], "eigenvalues": [[3.0, 0.1], [3.0, 0.2]]},
            "twin": {"departure_time": {"value": null, "bracket": null}, "ok": true},
        })
    }

    fn columns_of(keep: &str, rows: Rows) -> Result<Vec<Kept>, LabError> {
        #[derive(Deserialize)]
        struct Keep {
            keep: Vec<KeepConfig>,
        }
        let written: Keep = toml::from_str(&format!("keep = {keep}")).unwrap();
        kept(&written.keep, rows, &Table::new(), "sweep.toml".as_ref())
    }

    fn cells(keep: &str) -> Vec<Cell> {
        rows(&columns_of(keep, Rows::Point).unwrap(), Rows::Point, &report()).unwrap().remove(0).cells
    }

    #[test]
    fn paths_find_numbers_words_flags_and_gaps() {
        let found = cells(r#"["stop.reason", "clusters.count", "clusters.sizes.0", "twin.departure_time", "twin.ok"]"#);
        let expected =
            [Cell::Text("end_time".into()), Cell::Number(2.0), Cell::Number(3.0), Cell::Missing, Cell::Flag(true)];
        assert_eq!(found, expected);
    }

    #[test]
    fn of_a_series_comes_the_last_entry_or_those_at_times() {
        assert_eq!(cells(r#"["series.energy"]"#), [Cell::Number(2.5)]);
        let found = cells(r#"[{path = "series.energy", at = [0.0, 1.5, 2.0]}]"#);
        assert_eq!(found, [Cell::Number(1.0), Cell::Missing, Cell::Missing]);
        let names: Vec<String> = columns_of(r#"[{path = "series.energy", at = [0.0, 1.5]}]"#, Rows::Point)
            .unwrap()
            .into_iter()
            .map(|column| column.name)
            .collect();
        assert_eq!(names, ["energy_t0", "energy_t1.5"]);
    }

    #[test]
    fn a_list_can_be_counted() {
        assert_eq!(cells(r#"[{path = "clusters.sizes", count_above = 1.0}]"#), [Cell::Number(1.0)]);
        assert_eq!(cells(r#"[{path = "series.eigenvalues", count_above = 0.1}]"#), [Cell::Number(2.0)]);
    }

    #[test]
    fn rows_can_be_saved_times() {
        let columns = columns_of(r#"["series.energy", "clusters.count"]"#, Rows::Time).unwrap();
        let found = rows(&columns, Rows::Time, &report()).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[2], Row { t: Some(3.0), cells: vec![Cell::Number(2.5), Cell::Number(2.0)] });
        assert_eq!(found[1].cells[0], Cell::Missing);
    }

    #[test]
    fn a_path_that_leaves_the_report_says_what_is_there() {
        for (keep, expected) in [
            (r#"["clusters.cuont"]"#, "a path of the report, where there is `count`, `sizes`"),
            (r#"["clusters"]"#, "a path of the report, where there is `count`, `sizes`"),
            (r#"["stop.time.value"]"#, "a path of the report"),
        ] {
            let columns = columns_of(keep, Rows::Point).unwrap();
            let misfit = rows(&columns, Rows::Point, &report()).unwrap_err();
            assert_eq!((misfit.key.as_str(), misfit.expected.as_str()), ("keep[0]", expected));
        }
    }

    #[test]
    fn columns_that_cannot_be_are_refused() {
        for (keep, rows, expected) in [
            (r#"["a..b"]"#, Rows::Point, "`keep[0]`: expected a path"),
            (r#"["a", "a"]"#, Rows::Point, "`keep[1].name`: expected a name of its own"),
            (r#"[{path = "a", name = "seed"}]"#, Rows::Point, "another name than point, seed, t and error"),
            (r#"[{path = "a", at = [1.0]}]"#, Rows::Time, "`keep[0].at`"),
            (r#"[{path = "a", at = [1.0], count_above = 1.0}]"#, Rows::Point, "either at or count_above"),
            (r#"[{path = "a", count_above = nan}]"#, Rows::Point, "finite numbers"),
        ] {
            let message = columns_of(keep, rows).unwrap_err().to_string();
            assert!(message.contains(expected), "{keep}: {message}");
        }
    }
}
