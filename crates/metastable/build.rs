//! Tells the provenance which commit the program is built from.

use std::path::Path;
use std::process::Command;

/// What the results are computed by: changes elsewhere do not make a build "dirty".
const SOURCES: [&str; 5] =
    ["Cargo.toml", "Cargo.lock", "crates/metastable", "crates/metastable-dynamics", "crates/metastable-model"];

fn main() {
    let commit = commit().unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=METASTABLE_COMMIT={commit}");
    watch_path("build.rs");
    for source in SOURCES {
        let path = format!("../../{source}");
        watch_path(&if Path::new(&path).is_dir() { format!("{path}/src") } else { path });
    }
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            watch_path(&path);
        }
    }
}

/// The commit, if these sources are a checkout of their own and not a copy inside some other repository.
fn commit() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    let workspace = Path::new("../..").canonicalize().ok()?;
    if Path::new(&root).canonicalize().ok()? != workspace {
        return None;
    }
    let head = git(&["rev-parse", "HEAD"])?;
    let mut status = vec!["-C", "../..", "--no-optional-locks", "status", "--porcelain", "--"];
    status.extend(SOURCES);
    let dirty = !git(&status)?.is_empty();
    Some(if dirty { format!("{head}-dirty") } else { head })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Asks for a new build when a path changes. A path that does not exist would mean a new build every time.
fn watch_path(path: &str) {
    if Path::new(path).exists() {
        println!("cargo:rerun-if-changed={path}");
    }
}
