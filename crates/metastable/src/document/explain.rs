//! serde's messages in the words of the user.

use std::path::Path;

use super::key_path::Failure;
use crate::error::{LabError, Location};

/// Turns a failure into an error that names file, place, key, what was expected and what was found.
pub(super) fn explain(file: &Path, location: Location, failure: Failure) -> LabError {
    let Failure { path: key, message } = failure;
    let file = file.to_owned();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return unknown_name(file, location, key, "key", rest);
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        return unknown_name(file, location, key, "value", rest);
    }
    if let Some(missing) = message.strip_prefix("missing field ") {
        return LabError::MissingKey { file, location, key, missing: missing.trim_matches('`').to_owned() };
    }
    let key = if key.is_empty() { "the configuration".into() } else { key };
    let stripped = ["invalid type: ", "invalid value: "].iter().find_map(|prefix| message.strip_prefix(prefix));
    match stripped.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            LabError::WrongValue { file, location, key, expected: plain_words(expected), found: plain_words(found) }
        }
        None => match message.rsplit_once(", expected ") {
            Some((found, expected)) => {
                LabError::WrongValue { file, location, key, expected: expected.to_owned(), found: found.to_owned() }
            }
            // A message of the type's own, from `TryFrom` or an untagged choice.
            None => LabError::ConfigSyntax { file, location, message: format!("`{key}`: {message}") },
        },
    }
}

/// Reads "`bet`, expected one of `beta`, `mask`".
fn unknown_name(file: std::path::PathBuf, location: Location, key: String, what: &'static str, rest: &str) -> LabError {
    let mut names = quoted(rest);
    let found = if names.is_empty() { rest.to_owned() } else { names.remove(0) };
    LabError::UnknownName { file, location, key, what, found, expected: names.into() }
}

/// The words between backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Rust's names of types in the words of the field.
fn plain_words(text: &str) -> String {
    match text {
        "f64" | "f32" => "a number".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "a nonzero u64" | "a nonzero usize" | "a nonzero u32" => "a whole number above 0".into(),
        "a boolean" => "true or false".into(),
        "a sequence" | "sequence" => "a list".into(),
        "map" => "a table".into(),
        "a string" => "a text".into(),
        _ => match text.strip_prefix("struct ") {
            Some(_) => "a table".into(),
            None => match text.strip_prefix("string ") {
                Some(content) => format!("the text {content}"),
                None => text.to_owned(),
            },
        },
    }
}
