//! Curves over the steps of one run or of several, and what a probe found, layers by steps.

use serde_json::Value;

use crate::render::heat::{colour, colour_bar};
use crate::render::svg::{Drawing, INK, Panel, Scale, Stroke};
use crate::render::{palette, read};

/// A run as figures take it: its name and its rows.
pub(super) struct Run<'a> {
    pub(super) name: &'a str,
    pub(super) rows: &'a [Value],
}

/// A quantity of rows: its key, words, colour where there is one run, and dashes.
pub(super) struct Quantity {
    pub(super) key: &'static str,
    pub(super) words: &'static str,
    pub(super) colour: &'static str,
    pub(super) dash: &'static str,
}

/// One figure of quantities that share an axis.
pub(super) struct Figure {
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    pub(super) label: &'static str,
    pub(super) is_log: bool,
    pub(super) quantities: &'static [Quantity],
}

const WIDTH: f64 = 640.0;
const PLOT: (f64, f64) = (74.0, 620.0);
const TOP: f64 = 34.0;
const BOTTOM: f64 = 290.0;
/// Between lines of the legend.
const LEAD: f64 = 15.0;

/// A curve with its words.
struct Line<'a> {
    words: String,
    points: Vec<(f64, Option<f64>)>,
    stroke: Stroke<'a>,
}

/// Draws a figure, or nothing where no run has its quantities.
pub(super) fn draw(figure: &Figure, runs: &[Run<'_>]) -> Option<String> {
    let lines = lines(figure, runs);
    let values = || lines.iter().flat_map(|line| &line.points).filter_map(|(x, y)| Some((*x, (*y)?)));
    let spread = |pick: fn((f64, f64)) -> f64| {
        values().map(pick).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)))
    };
    let ((first, last), (low, high)) = (spread(|point| point.0), spread(|point| point.1));
    if !(low.is_finite() && high.is_finite()) {
        return None;
    }
    let positive = values().map(|point| point.1).filter(|y| *y > 0.0).fold(f64::INFINITY, f64::min);
    let x = Scale::linear((first, last.max(first + 1.0)), PLOT);
    let y = if figure.is_log && positive.is_finite() {
        Scale::log((positive, high.max(positive * 1.5)), (BOTTOM, TOP))
    } else {
        let margin = 0.04 * (high - low).max(1e-12);
        Scale::linear((low - margin, high + margin), (BOTTOM, TOP))
    };
    let panel = Panel { x, y };
    let height = BOTTOM + 50.0 + LEAD * lines.len() as f64;
    let mut drawing = Drawing::new(WIDTH, height, figure.title);
    drawing.text((PLOT.0, 20.0), "start", "font-size=\"12\" font-weight=\"600\"", figure.title);
    drawing.axes(&panel, "step", figure.label);
    for line in &lines {
        drawing.curve(&panel, &line.points, line.stroke);
    }
    for (i, line) in lines.iter().enumerate() {
        let at = BOTTOM + 52.0 + LEAD * i as f64;
        drawing.line((PLOT.0, at - 3.5), (PLOT.0 + 22.0, at - 3.5), line.stroke);
        drawing.text((PLOT.0 + 28.0, at), "start", "", &line.words);
    }
    Some(drawing.finish())
}

fn lines<'a>(figure: &'a Figure, runs: &[Run<'_>]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (place, run) in runs.iter().enumerate() {
        for quantity in figure.quantities {
            let value = |row: &Value| Some((row["step"].as_f64()?, row[quantity.key].as_f64()));
            let mut points: Vec<(f64, Option<f64>)> = run.rows.iter().filter_map(value).collect();
            // What is measured now and then is joined; an infinite condition number is a gap.
            if quantity.key.starts_with("eval") {
                points.retain(|(_, y)| y.is_some());
            }
            if points.iter().all(|(_, y)| y.is_none()) {
                continue;
            }
            let (words, colour) = match runs.len() {
                1 => (quantity.words.to_owned(), quantity.colour),
                _ => (format!("{}: {}", run.name, quantity.words), palette::colour(place)),
            };
            lines.push(Line {
                words,
                points,
                stroke: Stroke { colour, width: 1.6, dash: quantity.dash, opacity: 1.0 },
            });
        }
    }
    lines
}

/// The places of a layer map and its colour bar.
const MAP: (f64, f64) = (60.0, 540.0);
const BAR: (f64, f64) = (556.0, 570.0);

/// A number of every layer of the probe text at every step where it was asked, as colours.
pub(super) fn layers(rows: &[Value], key: &str, title: &str) -> Option<String> {
    let asked: Vec<(f64, &[Value])> = rows
        .iter()
        .filter_map(|row| Some((row["step"].as_f64()?, row["probe"]["layers"].as_array()?.as_slice())))
        .collect();
    let levels = asked.iter().map(|(_, layers)| layers.len()).max()?;
    let all = || asked.iter().flat_map(|(_, layers)| layers.iter().filter_map(|layer| layer[key].as_f64()));
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    if low > high {
        return None;
    }
    let panel = Panel {
        x: Scale::linear((0.0, asked.len() as f64), MAP),
        y: Scale::linear((-0.5, levels as f64 - 0.5), (BOTTOM, TOP)),
    };
    let mut drawing = Drawing::new(WIDTH, BOTTOM + 60.0, title);
    drawing.text((MAP.0, 20.0), "start", "font-size=\"12\" font-weight=\"600\"", title);
    for (i, (_, layers)) in asked.iter().enumerate() {
        for (level, layer) in layers.iter().enumerate() {
            let Some(value) = layer[key].as_f64() else { continue };
            let share = if high > low { (value - low) / (high - low) } else { 0.5 };
            cell(&mut drawing, &panel, (i as f64, level as f64), &colour(share));
        }
    }
    drawing.outline(&panel, INK);
    names(&mut drawing, &panel, &asked, levels);
    colour_bar(&mut drawing, (low, high), BAR, (BOTTOM, TOP));
    Some(drawing.finish())
}

fn cell(drawing: &mut Drawing, panel: &Panel, (i, level): (f64, f64), colour: &str) {
    let corners = (panel.x.at(i), panel.x.at(i + 1.0), panel.y.at(level - 0.5), panel.y.at(level + 0.5));
    if let (Some(left), Some(right), Some(bottom), Some(top)) = corners {
        // Wider than the cell, so that no seam shows; its neighbours are drawn later.
        let path = format!("M{left:.2} {bottom:.2}H{:.2}V{:.2}H{left:.2}Z", right + 0.5, top - 0.5);
        drawing.fill(&path, colour, 1.0);
    }
}

/// The steps below the columns and the layers beside the rows, as many as there is room for.
fn names(drawing: &mut Drawing, panel: &Panel, asked: &[(f64, &[Value])], levels: usize) {
    let every = asked.len().div_ceil(10);
    for (i, (step, _)) in asked.iter().enumerate().filter(|(i, _)| i % every == 0) {
        if let Some(x) = panel.x.at(i as f64 + 0.5) {
            drawing.text((x, BOTTOM + 15.0), "middle", "", &read::short(*step));
        }
    }
    let every = levels.div_ceil(16);
    for level in (0..levels).step_by(every) {
        if let Some(y) = panel.y.at(level as f64) {
            drawing.text((MAP.0 - 6.0, y + 3.8), "end", "", &level.to_string());
        }
    }
    drawing.text((0.5 * (MAP.0 + MAP.1), BOTTOM + 36.0), "middle", "", "step");
    let middle = 0.5 * (TOP + BOTTOM);
    let turned = format!("transform=\"rotate(-90 22 {middle:.2})\"");
    drawing.text((22.0, middle), "middle", &turned, "layer (0: the embedding)");
}
