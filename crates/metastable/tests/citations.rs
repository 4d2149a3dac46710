//! Every function, test and example that papers/ names exists.
#![allow(clippy::unwrap_used)]

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// (page, name) for everything in backticks.
fn citations() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("papers")).unwrap() {
        let path = entry.unwrap().path();
        let (page, text) = (path.file_name().unwrap().to_string_lossy().into_owned(), read_to_string(&path).unwrap());
        let names = text.split('`').skip(1).step_by(2).map(|name| (page.clone(), name.to_string()));
        found.extend(names);
    }
    found
}

/// All Rust text below a file or folder.
fn source(path: &Path) -> String {
    if path.is_file() {
        return read_to_string(path).unwrap();
    }
    std::fs::read_dir(path).unwrap().map(|entry| source(&entry.unwrap().path())).collect()
}

/// Whether `name` is declared, as a whole word.
fn declares(text: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "trait"].iter().any(|kind| {
        let declaration = format!("{kind} {name}");
        text.match_indices(&declaration).any(|(at, _)| {
            let after = text[at + declaration.len()..].chars().next();
            after.is_none_or(|c| !c.is_alphanumeric() && c != '_')
        })
    })
}

/// Follows `crate::module::…::Item` as far as there are files (a module may have both `m.rs` and `m/`); the rest must
/// be declared there.
fn item_exists(name: &str) -> bool {
    let mut parts = name.split("::").peekable();
    let crate_name = parts.next().unwrap_or_default().replace('_', "-");
    let mut module = root().join("crates").join(crate_name).join("src");
    while let Some(part) = parts.peek() {
        let inner = module.join(part);
        if !inner.is_dir() && !inner.with_extension("rs").is_file() {
            break;
        }
        module = inner;
        parts.next();
    }
    let items: Vec<&str> = parts.collect();
    let places = [module.clone(), module.with_extension("rs")];
    let text: String = places.iter().filter(|place| place.exists()).map(|place| source(place)).collect();
    !items.is_empty() && items.iter().all(|item| declares(&text, item))
}

/// `laws::name` is the test `name` in tests/laws.rs, of the lab or of the mathematics.
fn test_exists(file: &str, name: &str) -> bool {
    let paths = ["metastable", "metastable-dynamics"].map(|of| root().join(format!("crates/{of}/tests/{file}.rs")));
    let Some(text) = paths.iter().find_map(|path| read_to_string(path).ok()) else { return false };
    if file == "laws" { text.lines().any(|line| line.trim() == format!("{name},")) } else { declares(&text, name) }
}

fn exists(name: &str) -> bool {
    match name.split_once("::") {
        Some(("laws" | "seed_42" | "examples", "…")) => true,
        Some((
            file @ ("laws" | "seed_42" | "examples" | "gaussian" | "kernels" | "placements" | "references" | "sweep"
            | "adapter_theory"),
            test,
        )) => test_exists(file, test),
        Some(_) => item_exists(name),
        None => !name.starts_with("examples/") || root().join(name).is_file(),
    }
}

#[test]
fn everything_that_papers_cite_exists() {
    let missing: Vec<_> = citations().into_iter().filter(|(_, name)| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn a_citation_of_nothing_is_noticed() {
    for wrong in [
        "metastable_dynamics::closed_form::circle::no_such_function",
        "metastable_dynamics::closed_form::circle",
        "metastable_dynamics::no_such_module::mode_growth",
        "laws::no_such_law",
        "seed_42::no_such_test",
        "kernels::no_such_test",
        "examples/no-such-example.toml",
    ] {
        assert!(!exists(wrong), "{wrong}");
    }
}

#[test]
fn every_law_and_every_example_is_cited() {
    let cited: Vec<String> = citations().into_iter().map(|(_, name)| name).collect();
    for law in metastable::selftest::laws() {
        let name = format!("laws::{}", law.name);
        assert!(cited.contains(&name), "{name}");
    }
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let file = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(!file.ends_with(".toml") || cited.contains(&format!("examples/{file}")), "{file}");
    }
}
