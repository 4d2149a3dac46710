//! `--set key.path=value`: changes a tree before it becomes a configuration.

use toml::{Table, Value};

use crate::error::LabError;

/// Applies one `key.path=value`. Parts of the path are keys of tables or, for lists, numbers from 0; the next free
/// number appends. The value is TOML where it can be (`2.5`, `[[1, 0], [0, 1]]`, `"text"`), otherwise a text.
pub(super) fn apply(table: &mut Table, argument: &str) -> Result<(), LabError> {
    let fail = |expected: &str, found: String| {
        Err(LabError::Override { argument: argument.to_owned(), expected: expected.to_owned(), found })
    };
    let Some((path, text)) = argument.split_once('=') else {
        return fail("key=value", "no `=`".into());
    };
    if text.trim().is_empty() {
        return fail("a value after the `=`", "nothing".into());
    }
    put(table, path, value_of(text)).or_else(|(expected, found)| fail(&expected, found))
}

/// Puts a value under a dotted path; else what was expected and what was found.
pub(super) fn put(table: &mut Table, path: &str, value: Value) -> Result<(), (String, String)> {
    let parts: Vec<&str> = path.split('.').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(("a key before the `=`, with parts between the dots".into(), format!("`{path}`")));
    }
    let (first, rest) = (parts[0], &parts[1..]);
    match table.get_mut(first) {
        Some(entry) => set(entry, first, rest, value),
        None => {
            table.insert(first.to_owned(), nested(rest, value));
            Ok(())
        }
    }
}

/// Replaces what stands under `parts` of `value`, which itself stands at `place`.
fn set(value: &mut Value, place: &str, parts: &[&str], new: Value) -> Result<(), (String, String)> {
    let Some((part, rest)) = parts.split_first() else {
        *value = new;
        return Ok(());
    };
    let deeper = format!("{place}.{part}");
    match value {
        Value::Table(table) => match table.get_mut(*part) {
            Some(entry) => set(entry, &deeper, rest, new),
            None => {
                table.insert((*part).to_owned(), nested(rest, new));
                Ok(())
            }
        },
        Value::Array(list) => {
            let length = list.len();
            match part.parse::<usize>() {
                Ok(index) if index < length => set(&mut list[index], &deeper, rest, new),
                Ok(index) if index == length => {
                    list.push(nested(rest, new));
                    Ok(())
                }
                _ => Err((format!("a number from 0 to {length} after `{place}.`"), format!("`{part}`"))),
            }
        }
        other => Err((format!("a table or a list at `{place}`"), other.type_str().to_owned())),
    }
}

/// The value under tables that do not exist yet.
fn nested(parts: &[&str], value: Value) -> Value {
    parts.iter().rev().fold(value, |inner, part| Value::Table(Table::from_iter([((*part).to_owned(), inner)])))
}

fn value_of(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    // A text with a line break could smuggle in further keys: then it is a text.
    match parsed.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value")) {
        Some(Value::Datetime(_)) | None => Value::String(text.to_owned()),
        Some(value) => value,
    }
}
