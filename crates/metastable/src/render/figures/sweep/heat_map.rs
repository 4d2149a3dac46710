//! A column over two axes, as colours; curves of theory over it.

use std::fmt::Write;

use super::data::{Axis, Column, Slice, Sweep, caption};
use crate::render::heat::{LEVELS, colour, colour_bar};
use crate::render::svg::{Drawing, INK, Panel, Scale, Stroke, legend};
use serde_json::Value;

const PLOT: (f64, f64) = (66.0, 500.0);
const TOP: f64 = 52.0;
const BOTTOM: f64 = 352.0;
const BAR: (f64, f64) = (518.0, 532.0);

/// Draws one slice of a column of numbers, or the share of its most frequent word.
pub(super) fn draw(
    report: &Value,
    sweep: &Sweep,
    column: &Column,
    axes: (usize, usize),
    slice: &Slice,
) -> Option<String> {
    let (x_axis, y_axis) = (&sweep.axes[axes.0], &sweep.axes[axes.1]);
    let (values, what) = values(sweep, column)?;
    let grid = |i: usize, j: usize| {
        let mut at = slice.at.clone();
        (at[axes.0], at[axes.1]) = (i, j);
        values.get(sweep.cell(&at)).copied().flatten()
    };
    let (columns, rows) = (x_axis.labels.len(), y_axis.labels.len());
    let all = (0..rows).flat_map(|j| (0..columns).filter_map(move |i| grid(i, j)));
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return None;
    }
    let (x_edges, y_edges) = (edges(x_axis)?, edges(y_axis)?);
    let panel = Panel { x: scale(x_axis, &x_edges, PLOT), y: scale(y_axis, &y_edges, (BOTTOM, TOP)) };
    let level = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        // A share in [0, 1].
        (share * (LEVELS - 1) as f64).round() as usize
    };
    let title = if slice.words.is_empty() { what.clone() } else { format!("{what}, {}", slice.words) };
    let mut drawing = Drawing::new(590.0, BOTTOM + 106.0, &title);
    drawing.axes(&panel, &x_axis.name, &y_axis.name);
    let mut paths = vec![String::new(); LEVELS];
    for j in 0..rows {
        let mut i = 0;
        while i < columns {
            let here = grid(i, j).map(level);
            let end = (i..columns).find(|k| grid(*k, j).map(level) != here).unwrap_or(columns);
            if let Some(level) = here {
                rectangle(&mut paths[level], &panel, (x_edges[i], x_edges[end]), (y_edges[j], y_edges[j + 1]));
            }
            i = end;
        }
    }
    for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        drawing.fill(path, &colour(level as f64 / (LEVELS - 1) as f64), 1.0);
    }
    drawing.outline(&panel, INK);
    colour_bar(&mut drawing, (low, high), BAR, (BOTTOM, TOP));
    drawing.text((PLOT.0, TOP - 8.0), "start", "font-size=\"12\"", &title);
    overlays(&mut drawing, sweep, (x_axis, y_axis), &panel);
    let words = format!("{}. Colour: {what} ({}).", caption(report), super::data::statistic(report));
    drawing.caption(BOTTOM + 54.0, PLOT.0, &words);
    Some(drawing.finish())
}

/// The numbers to colour, and what they are.
fn values(sweep: &Sweep, column: &Column) -> Option<(Vec<Option<f64>>, String)> {
    if !column.mean.is_empty() {
        return Some((column.mean.clone(), column.name.clone()));
    }
    let most = column.shares.iter().max_by_key(|share| share.hits.iter().sum::<usize>())?;
    let share = |cell: usize| (column.count[cell] > 0).then(|| most.hits[cell] as f64 / column.count[cell] as f64);
    Some(((0..sweep.cells()).map(share).collect(), format!("share of {} = {}", column.name, most.label)))
}

/// The borders between neighbouring values: midpoints, on a logarithmic axis those of the logarithms.
fn edges(axis: &Axis) -> Option<Vec<f64>> {
    let numbers = axis.numbers.as_ref()?;
    let to = |x: f64| if axis.is_log { x.ln() } else { x };
    let from = |x: f64| if axis.is_log { x.exp() } else { x };
    let mut edges = Vec::with_capacity(numbers.len() + 1);
    let middle = |a: f64, b: f64| from(0.5 * (to(a) + to(b)));
    edges.push(from(1.5 * to(numbers[0]) - 0.5 * to(numbers[1])));
    edges.extend(numbers.windows(2).map(|pair| middle(pair[0], pair[1])));
    let last = numbers.len() - 1;
    edges.push(from(1.5 * to(numbers[last]) - 0.5 * to(numbers[last - 1])));
    Some(edges)
}

fn scale(axis: &Axis, edges: &[f64], range: (f64, f64)) -> Scale {
    let (first, last) = (edges[0], edges[edges.len() - 1]);
    let domain = (first.min(last), first.max(last));
    if axis.is_log { Scale::exact_log(domain, range) } else { Scale::linear(domain, range) }
}

fn rectangle(path: &mut String, panel: &Panel, xs: (f64, f64), ys: (f64, f64)) {
    let corners = (panel.x.at(xs.0), panel.x.at(xs.1), panel.y.at(ys.0), panel.y.at(ys.1));
    if let (Some(left), Some(right), Some(bottom), Some(top)) = corners {
        // Writing to a String cannot fail. A hair wider than the cell, so that no seam shows.
        let _ = write!(path, "M{left:.2} {bottom:.2}H{:.2}V{:.2}H{left:.2}Z", right + 0.15, top - 0.15);
    }
}

/// Curves of theory whose axes are these.
fn overlays(drawing: &mut Drawing, sweep: &Sweep, axes: (&Axis, &Axis), panel: &Panel) {
    let stroke = Stroke { colour: "#d55e00", width: 2.0, dash: "", opacity: 1.0 };
    let (left, right) = (panel.x.start(), panel.x.end());
    let mut x = PLOT.0;
    for overlay in &sweep.overlays {
        let turn = |point: &(f64, Option<f64>)| match (&overlay.x, &overlay.y) {
            (x, y) if *x == axes.0.name && *y == axes.1.name => Some(*point),
            (x, y) if *x == axes.1.name && *y == axes.0.name => Some((point.1?, Some(point.0))),
            _ => None,
        };
        let inside = |(t, _): &(f64, Option<f64>)| panel.x.at(*t).is_some_and(|x| (left..=right).contains(&x));
        let points: Vec<(f64, Option<f64>)> = overlay.points.iter().filter_map(turn).filter(inside).collect();
        if points.is_empty() {
            continue;
        }
        drawing.curve(panel, &points, stroke);
        legend(drawing, (x, 22.0), &[(overlay.words.as_str(), stroke)]);
        x += 42.0 + 5.9 * overlay.words.chars().count() as f64;
    }
}
