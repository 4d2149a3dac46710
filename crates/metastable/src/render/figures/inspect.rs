//! Figures of a real checkpoint: observables per layer, and the spectra of its heads.

use crate::render::read;
use crate::render::svg::{Drawing, INK, Panel, SOFT, Scale, Stroke};
use serde_json::Value;

/// A curve over layers with gaps.
type Points = Vec<(f64, Option<f64>)>;

const COLUMNS: usize = 3;
const CELL: (f64, f64) = (250.0, 190.0);
/// Columns of `layers[]` in the order in which they are drawn, with the words on their axis.
const KNOWN: [(&str, &str); 7] = [
    ("mean_cosine", "mean cosine"),
    ("n_clusters", "number of clusters"),
    ("effective_rank", "effective rank"),
    ("anisotropy", "anisotropy"),
    ("energy", "energy $E$"),
    ("radius_mean", "mean radius"),
    ("diameter", "diameter"),
];

/// Draws `layers.svg`: small multiples of every known column of `layers[]`.
pub(super) fn layers(report: &Value) -> Option<String> {
    let columns: Vec<(&str, Points)> = KNOWN
        .iter()
        .map(|(key, words)| (*words, layer_column(report, key)))
        .filter(|(_, points)| points.iter().any(|(_, y)| y.is_some()))
        .collect();
    if columns.is_empty() {
        return None;
    }
    let rows = columns.len().div_ceil(COLUMNS);
    let mut drawing =
        Drawing::new(20.0 + COLUMNS as f64 * CELL.0, rows as f64 * CELL.1 + 44.0, "Observables per layer");
    for (place, (words, points)) in columns.iter().enumerate() {
        let corner = ((place % COLUMNS) as f64 * CELL.0, (place / COLUMNS) as f64 * CELL.1);
        small_multiple(&mut drawing, corner, words, points);
    }
    let words = format!("{}. {}", read::caption(report), model_words(report));
    drawing.caption(rows as f64 * CELL.1 + 24.0, 30.0, &words);
    Some(drawing.finish())
}

fn layer_column(report: &Value, key: &str) -> Points {
    let place = |(k, layer): (usize, &Value)| {
        (read::number(layer, "/index").unwrap_or(k as f64), read::number(layer, &format!("/{key}")))
    };
    read::array(report, "/layers").iter().enumerate().map(place).collect()
}

fn small_multiple(drawing: &mut Drawing, corner: (f64, f64), words: &str, points: &[(f64, Option<f64>)]) {
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)))
    };
    let (low, high) = bounds(&mut points.iter().filter_map(|(_, y)| *y));
    let across = bounds(&mut points.iter().map(|(x, _)| *x));
    let margin = 0.08 * (high - low);
    let panel = Panel {
        x: Scale::linear(across, (corner.0 + 62.0, corner.0 + CELL.0 - 8.0)),
        y: Scale::linear((low - margin, high + margin), (corner.1 + CELL.1 - 42.0, corner.1 + 16.0)),
    };
    drawing.axes(&panel, "layer", words);
    drawing.curve(&panel, points, Stroke::solid(INK, 1.4));
    for (x, y) in points {
        if let Some((x, y)) = y.and_then(|y| Some((panel.x.at(*x)?, panel.y.at(y)?))) {
            drawing.marker((x, y), 2.6, "circle", INK, true);
        }
    }
}

fn model_words(report: &Value) -> String {
    let family = read::text(report, "/model/family");
    match (read::number(report, "/model/layers"), read::number(report, "/model/heads")) {
        (Some(layers), Some(heads)) => format!("{family}, {layers} layers, {heads} heads."),
        _ => family.to_owned(),
    }
}

/// Draws `spectra.svg`: the leading eigenvalues of the value-output circuit of every head in the complex plane.
pub(super) fn spectra(report: &Value) -> Option<String> {
    let heads = read::array(report, "/heads");
    let values: Vec<(f64, f64, f64)> = heads.iter().flat_map(eigenvalues).collect();
    let reach = values.iter().fold(0.0f64, |reach, (_, re, im)| reach.max(re.abs()).max(im.abs()));
    if values.is_empty() || reach == 0.0 {
        return None;
    }
    let side = (70.0, 430.0);
    let panel = Panel {
        x: Scale::linear((-1.1 * reach, 1.1 * reach), side),
        y: Scale::linear((-1.1 * reach, 1.1 * reach), (384.0, 24.0)),
    };
    let mut drawing = Drawing::new(540.0, 470.0, "Spectra of the value-output circuits");
    drawing.axes(&panel, "Re $\u{3bb}$", "Im $\u{3bb}$");
    if let (Some(x), Some(y), Some(edge)) = (panel.x.at(0.0), panel.y.at(0.0), panel.x.at(1.0))
        && reach > 1.0
    {
        drawing.ring((x, y), edge - x, Stroke { colour: SOFT, width: 0.9, dash: "4 3", opacity: 1.0 });
    }
    let last = values.iter().fold(0.0f64, |last, (layer, _, _)| last.max(*layer));
    for (layer, re, im) in &values {
        if let (Some(x), Some(y)) = (panel.x.at(*re), panel.y.at(*im)) {
            drawing.marker((x, y), 2.8, "circle", &layer_colour(*layer, last), true);
        }
    }
    drawing.text((450.0, 34.0), "start", "", "layer");
    for layer in 0..=last.min(24.0) as usize {
        let y = 52.0 + 14.0 * layer as f64;
        drawing.marker(
            (456.0, y - 4.0),
            3.4,
            "circle",
            &layer_colour(layer as f64 * (last / last.clamp(1.0, 24.0)), last),
            true,
        );
        drawing.text((466.0, y), "start", "", &format!("{:.0}", layer as f64 * (last / last.clamp(1.0, 24.0))));
    }
    let words =
        format!("{}. Eigenvalues of largest modulus of every head; dashed: unit circle.", read::caption(report));
    drawing.caption(438.0, 70.0, &words);
    Some(drawing.finish())
}

fn eigenvalues(head: &Value) -> Vec<(f64, f64, f64)> {
    let layer = read::number(head, "/layer").unwrap_or(0.0);
    let pair = |value: &Value| Some((layer, read::number(value, "/0")?, read::number(value, "/1")?));
    read::array(head, "/ov_eigenvalues_top").iter().filter_map(pair).collect()
}

/// A perceptually ordered colour from dark blue (first layer) to orange (last), readable without hue.
fn layer_colour(layer: f64, last: f64) -> String {
    const STOPS: [[f64; 3]; 4] = [[38.0, 30.0, 92.0], [58.0, 110.0, 165.0], [90.0, 170.0, 150.0], [235.0, 170.0, 60.0]];
    let place = if last > 0.0 { 3.0 * (layer / last).clamp(0.0, 1.0) } else { 0.0 };
    let low = (place.floor() as usize).min(2);
    let mix = |k: usize| (STOPS[low][k] + (place - low as f64) * (STOPS[low + 1][k] - STOPS[low][k])).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}
