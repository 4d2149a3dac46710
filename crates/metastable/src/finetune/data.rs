//! Data files: lines of JSON, or text. Every complaint names the line.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::written::{DataConfig, TaskName};
use crate::error::LabError;

/// One text and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// What comes before the text and is not learned.
    pub(super) prompt: Option<String>,
    pub(super) text: String,
    /// The class by name.
    pub(super) label: Option<String>,
    /// The line it stands on, from 1.
    pub(super) line: usize,
}

/// Reads a data file: `.txt` is one record, `.jsonl` one a line (empty lines are skipped).
///
/// # Errors
/// [`LabError::Read`]; [`LabError::Content`] with the line that is no JSON object, or lacks a field.
pub(super) fn read(file: &Path, config: &DataConfig) -> Result<Vec<Record>, LabError> {
    let bytes = std::fs::read(file).map_err(|source| LabError::Read { file: file.to_owned(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        content(file, line, "text in UTF-8", "other bytes")
    })?;
    let records = match file.extension().and_then(|ending| ending.to_str()) {
        Some("txt") if config.task != TaskName::Classification => {
            vec![Record { prompt: None, text, label: None, line: 1 }]
        }
        Some("jsonl" | "json" | "ndjson") => lines(file, &text, config)?,
        _ => {
            let expected = match config.task {
                TaskName::Classification => "a .jsonl file",
                _ => "a .jsonl or .txt file",
            };
            return Err(LabError::Content {
                file: file.to_owned(),
                expected: expected.into(),
                found: "another".into(),
            });
        }
    };
    if records.iter().all(|record| record.text.trim().is_empty()) {
        let expected = "at least one text".into();
        return Err(LabError::Content { file: file.to_owned(), expected, found: "none".into() });
    }
    Ok(records)
}

fn lines(file: &Path, text: &str, config: &DataConfig) -> Result<Vec<Record>, LabError> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| record(file, number, line, config))
        .collect()
}

fn record(file: &Path, number: usize, line: &str, config: &DataConfig) -> Result<Record, LabError> {
    let refuse = |expected: String, found: String| content(file, number, &expected, &found);
    let value: Value =
        serde_json::from_str(line).map_err(|error| refuse("a JSON object".into(), format!("{error}")))?;
    let object = value.as_object().ok_or_else(|| refuse("a JSON object".into(), kind(&value).into()))?;
    let field = |name: &str| {
        object.get(name).ok_or_else(|| {
            let known: Vec<String> = object.keys().take(20).map(|key| format!("`{key}`")).collect();
            let found = if known.is_empty() { "an empty object".into() } else { format!("only {}", known.join(", ")) };
            refuse(format!("a field `{name}`"), found)
        })
    };
    let string = |name: &str| {
        let value = field(name)?;
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| refuse(format!("a string in `{name}`"), kind(value).into()))
    };
    let label = match config.task {
        TaskName::Classification => match field(&config.label_field)? {
            Value::String(label) => Some(label.clone()),
            Value::Number(label) => Some(label.to_string()),
            Value::Bool(label) => Some(label.to_string()),
            other => {
                let expected = format!("a string, a number or a boolean in `{}`", config.label_field);
                return Err(refuse(expected, kind(other).into()));
            }
        },
        _ => None,
    };
    let (prompt, text) = match (&config.prompt_field, &config.completion_field) {
        (Some(prompt), Some(completion)) => (Some(string(prompt)?), string(completion)?),
        _ => (None, string(&config.text_field)?),
    };
    Ok(Record { prompt, text, label, line: number })
}

/// The classes: those of the config, or all that occur; integers in the order of numbers.
///
/// # Errors
/// [`LabError::Content`] with the line of a label that is not among the config's.
pub(super) fn classes(file: &Path, records: &[Record], config: &DataConfig) -> Result<Vec<String>, LabError> {
    let names: Vec<String> = match &config.labels {
        Some(names) => names.clone(),
        None => {
            let mut names: Vec<String> = records.iter().filter_map(|record| record.label.clone()).collect();
            names.sort_by_key(|name| (name.parse::<i64>().unwrap_or(i64::MAX), name.clone()));
            names.dedup();
            names
        }
    };
    require_known(file, records, &names)?;
    Ok(names)
}

/// Refuses a label that is none of the classes.
///
/// # Errors
/// [`LabError::Content`] with its line.
pub(super) fn require_known(file: &Path, records: &[Record], names: &[String]) -> Result<(), LabError> {
    let unknown = |record: &&Record| record.label.as_ref().is_some_and(|label| !names.contains(label));
    match records.iter().find(unknown) {
        None => Ok(()),
        Some(record) => {
            let found = format!("`{}`", record.label.as_deref().unwrap_or_default());
            Err(content(file, record.line, &format!("one of the labels {}", names.join(", ")), &found))
        }
    }
}

fn content(file: &Path, line: usize, expected: &str, found: &str) -> LabError {
    let place = PathBuf::from(format!("{}:{line}", file.display()));
    LabError::Content { file: place, expected: expected.into(), found: found.into() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
