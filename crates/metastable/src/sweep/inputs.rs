//! Files that the points of a sweep read: found in the tree, hashed once, and named so that the sweep runs from anywhere.

use std::path::{Path, PathBuf};

use toml::Value;

use super::axis::Axis;
use super::written::SweepConfig;
use crate::document::to_toml;
use crate::error::LabError;

/// Texts with these endings name arrays, everywhere in a simulation.
fn is_file(text: &str) -> bool {
    text.ends_with(".npy") || text.ends_with(".safetensors")
}

/// The files named by the base and by what varies: as written, and where they are.
pub(super) fn files(base: &toml::Table, axes: &[Axis], base_file: &Path) -> Vec<(String, PathBuf)> {
    let mut names = Vec::new();
    base.values().for_each(|value| collect(value, &mut names));
    let values = axes.iter().flat_map(|axis| &axis.values).flat_map(|value| &value.set);
    values.for_each(|(_, value)| collect(value, &mut names));
    names.sort_unstable();
    names.dedup();
    let folder = base_file.parent().unwrap_or(Path::new(""));
    names.into_iter().map(|name| (name.to_owned(), folder.join(name))).collect()
}

fn collect<'a>(value: &'a Value, names: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if is_file(text) => names.push(text),
        Value::Array(list) => list.iter().for_each(|entry| collect(entry, names)),
        Value::Table(table) => table.values().for_each(|entry| collect(entry, names)),
        _ => {}
    }
}

/// The TOML text of a config whose files are named by absolute paths.
pub(super) fn resolved(config: &SweepConfig, base_file: &Path) -> Result<String, LabError> {
    let absolute =
        std::path::absolute(base_file).map_err(|source| LabError::Read { file: base_file.to_owned(), source })?;
    let folder = absolute.parent().map_or_else(PathBuf::new, Path::to_owned);
    let mut config = config.clone();
    name_absolutely(&mut config.base, &folder);
    for vary in &mut config.vary {
        vary.values.iter_mut().flatten().for_each(|value| name_absolutely(value, &folder));
        for case in &mut vary.case {
            case.set.iter_mut().for_each(|(_, value)| name_absolutely(value, &folder));
        }
    }
    to_toml(&config)
}

fn name_absolutely(value: &mut Value, folder: &Path) {
    match value {
        // A folder whose name is no text cannot stand in TOML: the file then keeps the name it was given.
        Value::String(text) if is_file(text) => {
            if let Some(path) = folder.join(&*text).to_str() {
                *text = path.to_owned();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|entry| name_absolutely(entry, folder)),
        Value::Table(table) => table.iter_mut().for_each(|(_, entry)| name_absolutely(entry, folder)),
        _ => {}
    }
}
