//! What a folder holds before a run begins, and which of its files are ours to remove.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic::{self, is_temporary};
use super::lock::LOCK_FILE;

pub(super) const CONFIG: &str = "config.resolved.toml";
pub(super) const REPORT: &str = "report.json";
pub(super) const DONE: &str = "DONE";
/// Where the state of an unfinished run is.
pub(super) const CHECKPOINT_FOLDER: &str = "checkpoint";
/// The same of runs whose checkpoints are also products, and stay.
pub(super) const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// Files of an unfinished run in one of these folders.
pub(super) const FINGERPRINT: &str = "fingerprint";
pub(super) const STATE: &str = "state.bin";
pub(super) const JOURNAL: &str = "journal.bin";

/// Folders of a run, with the endings of the files we put there.
const FOLDERS: [(&str, &[&str]); 5] = [
    ("figures", &["svg", "png", "csv"]),
    ("idealised", &["toml", "safetensors"]),
    ("adapter", &["json", "safetensors", "md"]),
    ("tensorboard", &["metastable"]),
    (CHECKPOINT_FOLDER, &["", "bin"]),
    (CHECKPOINTS_FOLDER, &["", "bin", "json", "safetensors"]),
];
/// Files of a run, beside [`CONFIG`] and [`DONE`].
const FILES: [&str; 17] = [
    REPORT,
    "report.html",
    "report.md",
    "metrics.jsonl",
    "metrics.parquet",
    "metrics.csv",
    "layers.parquet",
    "layers.csv",
    "heads.parquet",
    "heads.csv",
    "heads.safetensors",
    "modules.parquet",
    "points.parquet",
    "points.csv",
    "display.safetensors",
    "trajectory.safetensors",
    "hidden.safetensors",
];

/// The content of DONE: what marks a folder as ours and complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Always "metastable": other programs also write files called DONE.
    pub program: String,
    /// The schema number of the report.
    pub schema: u32,
    /// The SHA-256 of report.json, in hexadecimal.
    pub report_sha256: String,
}

/// What is in a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Survey {
    /// Nothing, or no folder yet.
    Empty,
    /// A complete run.
    Finished,
    /// An interrupted run with the fingerprint of its configuration.
    Unfinished(String),
    /// Something else, with one of its names.
    Foreign(String),
}

pub(super) fn survey(folder: &Path) -> io::Result<Survey> {
    let Some(name) = first_name(folder)? else { return Ok(Survey::Empty) };
    if done(folder)?.is_some() {
        return Ok(Survey::Finished);
    }
    let mut fingerprint = read_if_present(&folder.join(CHECKPOINT_FOLDER).join(FINGERPRINT))?;
    if fingerprint.is_none() {
        fingerprint = read_if_present(&folder.join(CHECKPOINTS_FOLDER).join(FINGERPRINT))?;
    }
    match fingerprint {
        Some(fingerprint) => Ok(Survey::Unfinished(String::from_utf8_lossy(&fingerprint).trim().to_owned())),
        None if is_plain_file(&folder.join(CONFIG)) => Ok(Survey::Unfinished("unknown".into())),
        None => Ok(Survey::Foreign(name)),
    }
}

/// The content of DONE, if the file exists and is ours.
pub(super) fn done(folder: &Path) -> io::Result<Option<Done>> {
    let content = read_if_present(&folder.join(DONE))?;
    Ok(content
        .and_then(|bytes| serde_json::from_slice::<Done>(&bytes).ok())
        .filter(|done| done.program == "metastable"))
}

/// The first name in a folder, in alphabetical order, that is no leftover of a killed process.
fn first_name(folder: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names.into_iter().filter(|name| name != LOCK_FILE && !is_temporary(name)).min())
}

/// Whether a name inside a run folder is one that [`remove_run`] would remove again.
pub(super) fn is_ours(name: &str) -> bool {
    let in_folder = |(folder, endings): &(&str, &[&str])| {
        name.split_once('/').is_some_and(|(parent, file)| {
            parent == *folder && !file.contains('/') && endings.contains(&ending(Path::new(file)).as_str())
        })
    };
    name == CONFIG || FILES.contains(&name) || FOLDERS.iter().any(in_folder)
}

fn ending(path: &Path) -> String {
    path.extension().map_or(String::new(), |ending| ending.to_string_lossy().into_owned())
}

fn read_if_present(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // A folder called DONE, or a path through a file, is simply not the file we mean.
    if is_plain_file(path) { fs::read(path).map(Some) } else { Ok(None) }
}

fn is_plain_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Removes the unfinished files that a killed process left in a run folder and its folders.
pub(super) fn remove_leftovers(folder: &Path) -> io::Result<()> {
    atomic::remove_leftovers(folder)?;
    FOLDERS
        .iter()
        .map(|(name, _)| folder.join(name))
        .filter(|path| path.is_dir())
        .try_for_each(|path| atomic::remove_leftovers(&path))
}

/// Removes the files of a run that we know as ours; others stay. The file that proves the folder ours goes last,
/// so that an interrupted removal can be repeated.
pub(super) fn remove_run(folder: &Path) -> io::Result<()> {
    // DONE goes at once where the configuration also proves the folder ours: half a run must not look complete.
    if is_plain_file(&folder.join(CONFIG)) {
        remove_plain(&folder.join(DONE))?;
    }
    for name in FILES {
        remove_plain(&folder.join(name))?;
    }
    for (name, endings) in FOLDERS {
        remove_files_of(&folder.join(name), endings)?;
    }
    remove_plain(&folder.join(DONE))?;
    remove_plain(&folder.join(CONFIG))
}

fn remove_plain(path: &Path) -> io::Result<()> {
    if is_plain_file(path) { fs::remove_file(path) } else { Ok(()) }
}

/// Removes the files with our endings from a folder, then the folder if nothing else is in it.
/// A symbolic link to a folder elsewhere is left alone.
fn remove_files_of(folder: &Path, endings: &[&str]) -> io::Result<()> {
    if !fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    let mut others = false;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
        if is_plain_file(&path) && (endings.contains(&ending(&path).as_str()) || is_temporary(&name)) {
            fs::remove_file(&path)?;
        } else {
            others = true;
        }
    }
    if others { Ok(()) } else { fs::remove_dir(folder) }
}
