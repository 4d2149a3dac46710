//! How often each word, or each of a few whole numbers, was found; how numbers of a sweep without axes are spread.

use super::data::{Column, Slice, Sweep, caption};
use crate::render::palette;
use crate::render::read;
use crate::render::svg::{Drawing, INK, Panel, Scale, Stroke};
use serde_json::Value;

const PANEL: (f64, f64) = (170.0, 150.0);
const GAP: (f64, f64) = (44.0, 58.0);
const LEFT: f64 = 66.0;
const TOP: f64 = 56.0;
/// More cells than this are for curves and maps.
const MOST_PANELS: usize = 12;

/// Draws one panel a cell, the last axis from left to right; none where there are too many cells, or nothing to count.
pub(super) fn draw(report: &Value, sweep: &Sweep, column: &Column) -> Option<String> {
    if sweep.cells() > MOST_PANELS {
        return None;
    }
    if column.shares.is_empty() {
        return spread(report, column);
    }
    let slices = sweep.slices(&[]);
    let across = sweep.axes.last().map_or(1, |axis| axis.labels.len()).min(6);
    let rows = slices.len().div_ceil(across);
    let bottom = TOP + rows as f64 * (PANEL.1 + GAP.1);
    let width = (LEFT + across as f64 * (PANEL.0 + GAP.0)).max(470.0);
    let mut drawing = Drawing::new(width, bottom + 62.0, &format!("Histogram of {}", column.name));
    drawing.text((LEFT, 22.0), "start", "font-size=\"13\"", &column.name);
    let highest = (0..sweep.cells()).filter(|cell| column.count[*cell] > 0).flat_map(|cell| {
        let whisker = move |high: f64| high * column.count[cell] as f64;
        column.shares.iter().filter_map(move |share| share.high.get(cell).copied().flatten().map(whisker))
    });
    let highest = highest.fold(1.0, f64::max);
    for (k, slice) in slices.iter().enumerate() {
        let corner = (LEFT + (k % across) as f64 * (PANEL.0 + GAP.0), TOP + (k / across) as f64 * (PANEL.1 + GAP.1));
        draw_panel(&mut drawing, sweep, column, slice, corner, highest);
    }
    let words = format!("{}. Bars: numbers of runs. Whiskers: {}.", caption(report), read::text(report, "/intervals"));
    drawing.caption(bottom + 8.0, LEFT, &words);
    Some(drawing.finish())
}

fn draw_panel(drawing: &mut Drawing, sweep: &Sweep, column: &Column, slice: &Slice, corner: (f64, f64), highest: f64) {
    let cell = sweep.cell(&slice.at);
    let (left, top) = corner;
    let (right, bottom) = (left + PANEL.0, top + PANEL.1);
    let y = Scale::linear((0.0, highest * 1.16), (bottom, top));
    let panel = Panel { x: Scale::linear((0.0, column.shares.len() as f64), (left, right)), y };
    for tick in y.ticks(4) {
        if let Some(at) = y.at(tick.value) {
            drawing.line((left, at), (right, at), Stroke::solid("#e3e5e8", 0.7));
            drawing.text((left - 5.0, at + 3.8), "end", "", &tick.label);
        }
    }
    let count = column.count[cell] as f64;
    let step = PANEL.0 / column.shares.len() as f64;
    for (k, share) in column.shares.iter().enumerate() {
        let hits = share.hits.get(cell).copied().unwrap_or(0);
        let middle = left + (k as f64 + 0.5) * step;
        let half = (0.36 * step).min(26.0);
        if let Some(height) = y.at(hits as f64) {
            let path =
                format!("M{:.2} {bottom:.2}H{:.2}V{height:.2}H{:.2}Z", middle - half, middle + half, middle - half);
            drawing.fill(&path, palette::colour(0), 0.8);
        }
        let ends = (share.low.get(cell).copied().flatten(), share.high.get(cell).copied().flatten());
        if let (Some(low), Some(high)) = (ends.0.and_then(|p| y.at(p * count)), ends.1.and_then(|p| y.at(p * count))) {
            drawing.line((middle, low), (middle, high), Stroke::solid(INK, 1.0));
            drawing.text((middle, high - 3.0), "middle", "font-size=\"10\"", &hits.to_string());
        }
        drawing.text((middle, bottom + 14.0), "middle", "", &share.label);
    }
    drawing.outline(&panel, INK);
    let words = if slice.words.is_empty() { format!("{count} runs") } else { format!("{} ({count})", slice.words) };
    drawing.text((left, top - 6.0), "start", "font-size=\"10.5\"", &words);
}

/// Numbers of one cell in equal bins.
fn spread(report: &Value, column: &Column) -> Option<String> {
    let (edges, counts) = column.bins.as_ref()?;
    let highest = counts.iter().copied().max().filter(|most| *most > 0)? as f64;
    let (low, high) = (edges[0], edges[edges.len() - 1]);
    let panel = Panel {
        x: Scale::linear((low, high), (LEFT, 544.0)),
        y: Scale::linear((0.0, 1.06 * highest), (TOP + 240.0, TOP)),
    };
    let mut drawing = Drawing::new(560.0, TOP + 240.0 + 92.0, &format!("Histogram of {}", column.name));
    drawing.axes(&panel, &column.name, "number of runs");
    for (pair, count) in edges.windows(2).zip(counts) {
        let corners = (panel.x.at(pair[0]), panel.x.at(pair[1]), panel.y.at(0.0), panel.y.at(*count as f64));
        if let (Some(left), Some(right), Some(bottom), Some(top)) = corners {
            let path = format!("M{left:.2} {bottom:.2}V{top:.2}H{right:.2}V{bottom:.2}Z");
            drawing.fill(&path, palette::colour(0), 0.8);
        }
    }
    drawing.caption(TOP + 240.0 + 54.0, LEFT, &format!("{}.", caption(report)));
    Some(drawing.finish())
}
