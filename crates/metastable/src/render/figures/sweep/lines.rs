//! A column over one axis: means with their intervals, or shares of words with theirs; one line a case.

use std::fmt::Write;

use super::data::{Column, Sweep, caption};
use crate::render::palette;
use crate::render::read;
use crate::render::svg::{Drawing, Panel, Scale, Stroke, legend};
use serde_json::Value;

const PLOT: (f64, f64) = (66.0, 544.0);
const TOP: f64 = 52.0;
const BOTTOM: f64 = 312.0;

/// A line with its band.
struct Line {
    words: String,
    points: Vec<Point>,
}

struct Point {
    x: f64,
    y: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
}

/// Draws a column over axis `x`.
pub(super) fn draw(report: &Value, sweep: &Sweep, column: &Column, x: usize) -> Option<String> {
    let is_mean = !column.mean.is_empty();
    let lines = if is_mean { means(sweep, column, x) } else { shares(sweep, column, x) };
    let axis = &sweep.axes[x];
    let y_label = if is_mean { column.name.clone() } else { format!("share of {}", column.name) };
    let ends = |point: &Point| [point.y, point.low, point.high];
    let values = || lines.iter().flat_map(|line| line.points.iter().flat_map(ends)).flatten();
    let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    if low > high {
        return None;
    }
    // Times over a logarithmic axis span decades themselves.
    let y_is_log = axis.is_log && low > 0.0 && high / low > 20.0;
    let margin = 0.06 * (high - low);
    let y = if y_is_log {
        Scale::exact_log((low / 1.15, high * 1.15), (BOTTOM, TOP))
    } else {
        Scale::linear((low - margin, high + margin), (BOTTOM, TOP))
    };
    let numbers = axis.numbers.as_ref()?;
    let (first, last) = numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), n| (a.min(*n), b.max(*n)));
    let panel = Panel {
        x: if axis.is_log { Scale::exact_log((first, last), PLOT) } else { Scale::linear((first, last), PLOT) },
        y,
    };
    let mut drawing = Drawing::new(560.0, BOTTOM + 106.0, &format!("{y_label} over {}", axis.name));
    drawing.axes(&panel, &axis.name, &y_label);
    for (k, line) in lines.iter().enumerate() {
        draw_line(&mut drawing, &panel, line, palette::colour(k));
    }
    let entries: Vec<(&str, Stroke)> = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.words.is_empty())
        .map(|(k, line)| (line.words.as_str(), Stroke::solid(palette::colour(k), 1.8)))
        .collect();
    for (row, entries) in entries.chunks(4).enumerate() {
        legend(&mut drawing, (PLOT.0, 16.0 + 14.0 * row as f64), entries);
    }
    let words = format!("{}. Bands: {}.", caption(report), read::text(report, "/intervals"));
    drawing.caption(BOTTOM + 54.0, PLOT.0, &words);
    Some(drawing.finish())
}

fn means(sweep: &Sweep, column: &Column, x: usize) -> Vec<Line> {
    let line = |slice: super::data::Slice| {
        let point = |(k, number): (usize, &f64)| {
            let mut at = slice.at.clone();
            at[x] = k;
            let cell = sweep.cell(&at);
            let entry = |list: &[Option<f64>]| list.get(cell).copied().flatten();
            Point { x: *number, y: entry(&column.mean), low: entry(&column.low), high: entry(&column.high) }
        };
        let numbers = sweep.axes[x].numbers.as_deref().unwrap_or_default();
        Line { points: numbers.iter().enumerate().map(point).collect(), words: slice.words }
    };
    sweep.slices(&[x]).into_iter().map(line).collect()
}

/// One line for every word of every slice.
fn shares(sweep: &Sweep, column: &Column, x: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for slice in sweep.slices(&[x]) {
        for share in &column.shares {
            let point = |(k, number): (usize, &f64)| {
                let mut at = slice.at.clone();
                at[x] = k;
                let cell = sweep.cell(&at);
                let count = column.count.get(cell).copied().unwrap_or(0);
                let y = (count > 0).then(|| share.hits.get(cell).copied().unwrap_or(0) as f64 / count as f64);
                let entry = |list: &[Option<f64>]| list.get(cell).copied().flatten();
                Point { x: *number, y, low: entry(&share.low), high: entry(&share.high) }
            };
            let numbers = sweep.axes[x].numbers.as_deref().unwrap_or_default();
            let between = if slice.words.is_empty() { "" } else { ", " };
            let words = format!("{}{between}{}", slice.words, share.label);
            lines.push(Line { points: numbers.iter().enumerate().map(point).collect(), words });
        }
    }
    lines
}

fn draw_line(drawing: &mut Drawing, panel: &Panel, line: &Line, colour: &str) {
    let place = |x: f64, y: Option<f64>| Some((panel.x.at(x)?, panel.y.at(y?)?));
    let band: Vec<((f64, f64), (f64, f64))> =
        line.points.iter().filter_map(|p| Some((place(p.x, p.low)?, place(p.x, p.high)?))).collect();
    if band.len() >= 2 {
        let corners = band.iter().map(|(low, _)| low).chain(band.iter().rev().map(|(_, high)| high));
        let mut path = String::new();
        for (k, (x, y)) in corners.enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(path, "{}{x:.2} {y:.2}", if k == 0 { "M" } else { "L" });
        }
        drawing.fill(&format!("{path}Z"), colour, 0.2);
    }
    let points: Vec<(f64, Option<f64>)> = line.points.iter().map(|point| (point.x, point.y)).collect();
    drawing.curve(panel, &points, Stroke::solid(colour, 1.6));
    if points.len() <= 40 {
        for at in points.iter().filter_map(|(x, y)| place(*x, *y)) {
            drawing.marker(at, 2.4, "circle", colour, true);
        }
    }
}
