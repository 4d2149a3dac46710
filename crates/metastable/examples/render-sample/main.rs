//! Writes the renderings of invented runs into a folder, to look at the page while working on it.
//!
//! `cargo run --release -p metastable --example render-sample -- FOLDER`

#[path = "../../tests/render/sample.rs"]
#[allow(dead_code)]
mod sample;

use metastable::render::{figures, html, markdown};
use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "render-sample".to_owned()));
    let runs = [
        ("twin", sample::seed_42()),
        ("sphere", sample::sphere()),
        ("line", sample::line()),
        ("crowd", sample::crowd()),
        ("inspect", sample::inspect()),
    ];
    for (name, (report, display)) in runs {
        let target = folder.join(name);
        std::fs::create_dir_all(&target)?;
        std::fs::write(target.join("report.html"), html(&report, &display))?;
        std::fs::write(target.join("report.md"), markdown(&report))?;
        for (file, svg) in figures(&report, &display) {
            std::fs::write(target.join(file), svg)?;
        }
    }
    Ok(())
}
