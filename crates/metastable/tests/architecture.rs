//! The walls of ARCHITECTURE.md, checked: who may know whom, what may not occur, how long a file may be.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Every arrow between our crates. A new one needs its reason in ARCHITECTURE.md, in the same commit.
const EDGES: [(&str, &str); 4] = [
    ("metastable", "metastable-dynamics"),
    ("metastable", "metastable-model"),
    ("metastable-cli", "metastable"),
    ("metastable-model", "metastable-dynamics"),
];

/// Libraries of the terminal: only the face may know them.
const TERMINAL: [&str; 5] = ["anyhow", "clap", "comfy-table", "indicatif", "signal-hook"];

/// The libraries that the mathematics may use.
const OF_DYNAMICS: [&str; 9] =
    ["nalgebra", "pulp", "rand", "rand_chacha", "rand_distr", "rand_mt", "rayon", "serde", "thiserror"];

/// The most lines a file may have.
const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// (crate, kind, dependency) for every dependency written down in the workspace; kind is "normal", "dev" or "build".
fn dependencies() -> Vec<(String, String, String)> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            found.push((text(&package["name"]), kind.to_owned(), text(&dependency["name"])));
        }
    }
    found
}

/// Files below `folder` with one of the extensions, without build products and hidden folders.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            if !name.starts_with('.') && !["target", "runs"].contains(&name.as_str()) {
                found.extend(files(&path, extensions));
            }
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|e| extension == *e)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn our_crates_know_each_other_along_the_listed_edges_only() {
    let found: BTreeSet<(String, String)> = dependencies()
        .into_iter()
        .filter(|(_, kind, name)| kind != "dev" && name.starts_with("metastable"))
        .map(|(from, _, to)| (from, to))
        .collect();
    assert_eq!(found, EDGES.map(|(from, to)| (from.to_owned(), to.to_owned())).into());
}

#[test]
fn only_the_face_knows_a_terminal() {
    let found: BTreeSet<String> = dependencies()
        .into_iter()
        .filter(|(_, _, name)| TERMINAL.contains(&name.as_str()))
        .map(|(from, _, name)| format!("{from} -> {name}"))
        .collect();
    assert_eq!(found, TERMINAL.map(|name| format!("metastable-cli -> {name}")).into());
}

#[test]
fn the_mathematics_uses_the_listed_libraries_only() {
    let found: BTreeSet<String> = dependencies()
        .into_iter()
        .filter(|(from, kind, _)| from == "metastable-dynamics" && kind != "dev")
        .map(|(_, _, name)| name)
        .collect();
    assert_eq!(found, OF_DYNAMICS.map(str::to_owned).into());
}

#[test]
fn no_unsafe_code_in_the_mathematics_the_lab_and_the_face() {
    for file in ["metastable-dynamics/src/lib.rs", "metastable/src/lib.rs", "metastable-cli/src/main.rs"] {
        let text = std::fs::read_to_string(root().join("crates").join(file)).unwrap();
        assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{file}");
    }
}

#[test]
fn no_file_is_too_long() {
    let folders = ["crates", "scripts", "benches"].map(|folder| root().join(folder));
    let mut seen = 0;
    for file in folders.iter().flat_map(|folder| files(folder, &["rs", "js", "css", "html", "py"])) {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= LONGEST_FILE, "{}: {lines} lines, at most {LONGEST_FILE}", file.display());
        seen += 1;
    }
    // The walk found the project.
    assert!(seen > 100, "{seen}");
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_for_later() {
    // Written in two parts, so that this file does not contain them.
    let forbidden = [("#[ig", "nore"), ("todo", "!("), ("unimpl", "emented!("), ("TO", "DO"), ("FIX", "ME")];
    for file in files(&root().join("crates"), &["rs", "js", "html"]) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (start, end) in forbidden {
            let word = format!("{start}{end}");
            assert!(!text.contains(&word), "{}: {word}", file.display());
        }
    }
}
