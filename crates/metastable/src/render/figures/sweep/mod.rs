//! The figures of a sweep: a heat map over two axes, curves over one, histograms over none, one figure a column.

mod data;
mod heat_map;
mod histogram;
mod lines;

use data::{Column, Sweep};
use serde_json::Value;

/// At most so many figures; the table has everything.
const MOST_FIGURES: usize = 24;

/// Draws the figures of a sweep's report, as pairs (file name, SVG text).
pub(super) fn draw(report: &Value) -> Vec<(String, String)> {
    if report["job"] != "sweep" {
        return Vec::new();
    }
    let sweep = Sweep::of(report);
    let mut figures = Vec::new();
    for column in &sweep.columns {
        figures.extend(of_column(report, &sweep, column));
    }
    figures.truncate(MOST_FIGURES);
    figures
}

fn of_column(report: &Value, sweep: &Sweep, column: &Column) -> Vec<(String, String)> {
    let name = |kind: &str, rest: &str| format!("{kind}-{}{rest}.svg", file_name(&column.name));
    let mut drawn = Vec::new();
    if let Some(svg) = histogram::draw(report, sweep, column) {
        drawn.push((name("histogram", ""), svg));
    }
    match sweep.numeric_axes()[..] {
        [] => {}
        [x] => drawn.extend(lines::draw(report, sweep, column, x).map(|svg| (name("curve", ""), svg))),
        [y, x] => {
            for slice in sweep.slices(&[y, x]) {
                let rest = if slice.words.is_empty() { String::new() } else { format!("-{}", file_name(&slice.words)) };
                if let Some(svg) = heat_map::draw(report, sweep, column, (x, y), &slice) {
                    drawn.push((name("map", &rest), svg));
                }
            }
        }
        _ => {}
    }
    drawn
}

/// Letters, digits and dashes.
fn file_name(words: &str) -> String {
    let plain: String = words.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
