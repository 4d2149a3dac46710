//! The clouds with their trails: start hollow, end filled, base and twin side by side.

use crate::render::palette::{self, Colours};
use crate::render::read;
use crate::render::svg::{Drawing, INK, Panel, SOFT, Scale, Stroke};
use crate::render::{Cloud, Display};
use serde_json::Value;
use std::collections::BTreeMap;

const SIDE: f64 = 320.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 34.0;
/// Yaw and pitch from which clouds of three dimensions are seen, in radians.
const VIEW: (f64, f64) = (0.6, 0.35);

/// Draws `trajectories.svg`, or nothing where no position can be drawn.
pub(super) fn draw(report: &Value, display: &Display) -> Option<String> {
    let clouds: Vec<(&str, &str, &Cloud)> = std::iter::once(("base", "", &display.base))
        .chain(display.twin.as_ref().map(|twin| ("with LoRA", "/twin", twin)))
        .filter(|(_, _, cloud)| cloud.count > 0)
        .collect();
    let scene = Scene { display, dim: display.base.dim, panel: shared_panel(&clouds, display)? };
    let colours = Colours::of(report);
    let width = LEFT + 20.0 + clouds.len() as f64 * (SIDE + 30.0);
    let mut drawing = Drawing::new(width.max(470.0), TOP + SIDE + 92.0, "Token trajectories");
    for (place, (name, path, cloud)) in clouds.iter().enumerate() {
        let places = if path.is_empty() { &colours.base } else { &colours.twin };
        let panel = scene.panel.moved(place as f64 * (SIDE + 30.0));
        draw_panel(&mut drawing, report, &Run { name, path, cloud, places, first: place == 0 }, &scene, &panel);
    }
    let projection = read::text(report, "/projection");
    let words = format!(
        "{}. Hollow: start. Filled: end, coloured by the cluster at the end; grey: a cluster of one token.{} {projection}",
        read::caption(report),
        if clouds.len() > 1 { " Dashed rings: the clusters of the base run, radius as in the report." } else { "" },
    );
    drawing.caption(TOP + SIDE + 54.0, LEFT, &words);
    Some(drawing.finish())
}

struct Scene<'a> {
    display: &'a Display,
    dim: usize,
    panel: Panel,
}

struct Run<'a> {
    name: &'a str,
    path: &'a str,
    cloud: &'a Cloud,
    places: &'a BTreeMap<i64, usize>,
    first: bool,
}

impl Panel {
    fn moved(&self, by: f64) -> Self {
        Self { x: self.x.moved(by), y: self.y }
    }
}

/// One panel wide enough for both clouds, with equal units on both axes where both are space.
fn shared_panel(clouds: &[(&str, &str, &Cloud)], display: &Display) -> Option<Panel> {
    let mut low = [f64::INFINITY; 2];
    let mut high = [f64::NEG_INFINITY; 2];
    for (_, _, cloud) in clouds {
        for time in 0..display.times.len() {
            for token in 0..cloud.count {
                let Some((x, y)) = place(cloud, display, time, token) else { continue };
                for (k, value) in [x, y].into_iter().enumerate() {
                    (low[k], high[k]) = (low[k].min(value), high[k].max(value));
                }
            }
        }
    }
    if low[0] > high[0] {
        return None;
    }
    let (x_range, y_range) = ((LEFT, LEFT + SIDE), (TOP + SIDE, TOP));
    if display.base.dim == 1 {
        let margin = 0.06 * (high[0] - low[0]).max(1e-9);
        let x = Scale::linear((low[0] - margin, high[0] + margin), x_range);
        return Some(Panel { x, y: Scale::linear((low[1], high[1]), y_range) });
    }
    let half = 0.54 * (high[0] - low[0]).max(high[1] - low[1]).max(1e-9);
    let middle = [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0];
    let square = |k: usize, range| Scale::linear((middle[k] - half, middle[k] + half), range);
    Some(Panel { x: square(0, x_range), y: square(1, y_range) })
}

/// Where a token is drawn: (x, t) for one dimension, (x_1, x_2) for two, an orthographic view for three.
fn place(cloud: &Cloud, display: &Display, time: usize, token: usize) -> Option<(f64, f64)> {
    let position = cloud.at(time, token)?;
    match *position {
        [x] => Some((f64::from(x), *display.times.get(time)?)),
        [x, y] => Some((f64::from(x), f64::from(y))),
        [x, y, z, ..] => {
            let (x, y, z) = (f64::from(x), f64::from(y), f64::from(z));
            let ((sin_yaw, cos_yaw), (sin_pitch, cos_pitch)) = (VIEW.0.sin_cos(), VIEW.1.sin_cos());
            let depth = sin_yaw * x + cos_yaw * y;
            Some((cos_yaw * x - sin_yaw * y, cos_pitch * z - sin_pitch * depth))
        }
        [] => None,
    }
}

fn draw_panel(drawing: &mut Drawing, report: &Value, run: &Run, scene: &Scene, panel: &Panel) {
    let letter = read::token_symbol(report);
    let (x_label, y_label) = match scene.dim {
        1 => (format!("${letter}$"), format!("${}$", read::axis_symbol(report))),
        2 => (format!("${letter}_1$"), format!("${letter}_2$")),
        _ => ("orthographic view".to_owned(), String::new()),
    };
    drawing.axes(panel, &x_label, if run.first { &y_label } else { "" });
    drawing.text((panel.x.start() + 4.0, TOP - 8.0), "start", "font-weight=\"bold\"", run.name);
    if scene.dim == 3 && read::text(report, "/config/space/geometry") == "sphere" {
        unit_sphere(drawing, panel);
    }
    rings(drawing, report, run, scene, panel);
    let rows = read::labels(report, run.path);
    let last_labels = rows.last().cloned().unwrap_or_default();
    let sizes = palette::sizes(&last_labels);
    for token in 0..run.cloud.count {
        let label = last_labels.get(token).copied();
        let place =
            label.filter(|l| sizes.get(l).is_some_and(|size| *size > 1)).and_then(|l| run.places.get(&l)).copied();
        trail(drawing, run.cloud, scene, panel, token, place);
    }
}

fn unit_sphere(drawing: &mut Drawing, panel: &Panel) {
    if let (Some(x), Some(y), Some(edge)) = (panel.x.at(0.0), panel.y.at(0.0), panel.x.at(1.0)) {
        drawing.ring((x, y), (edge - x).abs(), Stroke { colour: SOFT, width: 0.8, dash: "", opacity: 0.6 });
    }
}

/// Rings at the centres of the base clusters, drawn where the panel shows the coordinates themselves.
fn rings(drawing: &mut Drawing, report: &Value, run: &Run, scene: &Scene, panel: &Panel) {
    if scene.dim != 2 || run.path.is_empty() || report["projection"].is_string() {
        return;
    }
    let Some(radius) = read::number(report, "/clusters/radius") else { return };
    for centre in read::array(report, "/clusters/centers") {
        if let [Some(x), Some(y)] = read::column(centre, "").as_slice()
            && let (Some(px), Some(py), Some(edge)) = (panel.x.at(*x), panel.y.at(*y), panel.x.at(x + radius))
        {
            drawing.ring((px, py), edge - px, Stroke { colour: INK, width: 0.9, dash: "3 2.5", opacity: 0.8 });
        }
    }
}

fn trail(drawing: &mut Drawing, cloud: &Cloud, scene: &Scene, panel: &Panel, token: usize, place_of: Option<usize>) {
    let colour = place_of.map_or(palette::ALONE, palette::colour);
    let mut commands = String::new();
    let mut ends: Option<((f64, f64), (f64, f64))> = None;
    for time in 0..scene.display.times.len() {
        let here = place(cloud, scene.display, time, token).and_then(|(x, y)| Some((panel.x.at(x)?, panel.y.at(y)?)));
        let Some((x, y)) = here else { continue };
        let moved = ends.is_none_or(|(_, last)| (last.0 - x).hypot(last.1 - y) > 0.3);
        if moved {
            let pen = if ends.is_none() { 'M' } else { 'L' };
            commands.push_str(&format!("{pen}{x:.2} {y:.2}"));
        }
        ends = Some((ends.map_or((x, y), |(first, _)| first), (x, y)));
    }
    let Some((first, last)) = ends else { return };
    drawing.open_path(&commands, Stroke { colour, width: 0.9, dash: "", opacity: 0.55 });
    drawing.marker(first, 2.6, "circle", colour, false);
    drawing.marker(last, 4.0, place_of.map_or("circle", palette::marker), colour, true);
}
