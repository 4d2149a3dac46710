//! Figures of a Gaussian run: eigenvalues over time, ellipses in the plane, paths in the cone of covariances.

use crate::render::Display;
use crate::render::palette::{self, Colours, TWIN};
use crate::render::read::{self, short};
use crate::render::svg::{Drawing, INK, Panel, SOFT, Scale, Stroke, legend, time_mark};
use serde_json::Value;

const PLOT: (f64, f64) = (66.0, 544.0);
const TOP: f64 = 52.0;
const BOTTOM: f64 = 292.0;
const SIDE: f64 = 420.0;
/// Yaw and pitch from which the cone is seen, in radians; those of the page.
const VIEW: (f64, f64) = (0.6, 0.35);

/// Draws `eigenvalues.svg`: the spectrum of the covariance against time, on a logarithmic axis.
pub(super) fn eigenvalues(report: &Value) -> Option<String> {
    let base = spectrum(report, "");
    let twin = spectrum(report, "/twin");
    let points = || base.iter().chain(&twin).flatten();
    let positive = || points().filter_map(|(_, y)| y.filter(|y| *y > 0.0));
    let high = positive().fold(0.0, f64::max);
    let low = positive().fold(f64::INFINITY, f64::min).max(1e-16 * high);
    if high == 0.0 {
        return None;
    }
    let last = points().map(|(t, _)| *t).fold(0.0, f64::max);
    let panel = Panel { x: Scale::linear((0.0, last), PLOT), y: Scale::log((low / 2.0, high * 2.0), (BOTTOM, TOP)) };
    let mut drawing = Drawing::new(560.0, BOTTOM + 92.0, "Eigenvalues of the covariance");
    drawing.axes(&panel, "time $t$", "eigenvalues of $\u{3a3}$");
    let strokes = [("base", Stroke::solid(INK, 1.6)), ("with LoRA", twin_stroke())];
    for (lines, (_, stroke)) in [&base, &twin].into_iter().zip(strokes) {
        lines.iter().for_each(|line| drawing.curve(&panel, line, stroke));
    }
    if let Some(time) = read::number(report, "/gaussian/blow_up_time").filter(|t| *t <= 1.001 * last) {
        time_mark(&mut drawing, &panel, time.min(last), "t_*");
    }
    let shown = if twin.is_empty() { 1 } else { 2 };
    legend(&mut drawing, (PLOT.0, 18.0), &strokes[..shown]);
    drawing.caption(BOTTOM + 54.0, PLOT.0, &format!("{}. {}", read::caption(report), verdict(report)));
    Some(drawing.finish())
}

fn twin_stroke() -> Stroke<'static> {
    Stroke { colour: TWIN, width: 1.6, dash: "6 2.5", opacity: 1.0 }
}

/// One line an eigenvalue.
fn spectrum(report: &Value, of: &str) -> Vec<Vec<(f64, Option<f64>)>> {
    let times = read::column(report, &format!("{of}/series/t"));
    let rows: Vec<Vec<Option<f64>>> =
        read::array(report, &format!("{of}/series/eigenvalues")).iter().map(|row| read::column(row, "")).collect();
    let width = rows.first().map_or(0, Vec::len);
    let line = |k: usize| {
        let values = times.iter().zip(&rows).filter_map(|(t, row)| Some((*t.as_ref()?, row.get(k).copied().flatten())));
        values.collect()
    };
    (0..width).map(line).collect()
}

/// The sentences about what becomes of the covariance.
fn verdict(report: &Value) -> String {
    let mut words = match read::text(report, "/gaussian/regime") {
        "" => return String::new(),
        regime => format!("Regime: {}", regime.replace('_', " ")),
    };
    if let Some(rank) = read::number(report, "/gaussian/limit_rank") {
        words.push_str(&format!(", rank {rank} in the limit"));
    }
    if let Some(time) = read::number(report, "/gaussian/blow_up_time") {
        words.push_str(&format!(", at t* = {time:.9}"));
    }
    format!("{words}.")
}

/// Draws `ellipses.svg`: one standard deviation in the first two coordinates at some of the saved times.
pub(super) fn ellipses(report: &Value) -> Option<String> {
    let ellipses = |of: &str| -> Vec<Vec<(f64, f64)>> {
        let means = read::array(report, &format!("{of}/series/drawn_mean"));
        let covariances = read::array(report, &format!("{of}/series/drawn_covariance"));
        let last = means.len().saturating_sub(1);
        let frames: std::collections::BTreeSet<usize> = (0..=FRAMES).map(|k| k * last / FRAMES).collect();
        frames.into_iter().filter_map(|s| ellipse(means.get(s)?, covariances.get(s)?)).collect()
    };
    let (base, twin) = (ellipses(""), ellipses("/twin"));
    let reach = base.iter().chain(&twin).flatten().map(|(x, y)| x.abs().max(y.abs())).fold(0.0, f64::max);
    if !(reach > 0.0 && reach.is_finite()) {
        return None;
    }
    let side = |range| Scale::linear((-1.08 * reach, 1.08 * reach), range);
    let panel = Panel { x: side((62.0, 62.0 + SIDE)), y: side((34.0 + SIDE, 34.0)) };
    let mut drawing = Drawing::new(SIDE + 90.0, SIDE + 126.0, "Ellipses of the covariance");
    drawing.axes(&panel, "$x_1$", "$x_2$");
    for (paths, colour, dash) in [(&base, INK, ""), (&twin, TWIN, "6 2.5")] {
        for (k, path) in paths.iter().enumerate() {
            let opacity = 0.2 + 0.8 * (k + 1) as f64 / paths.len() as f64;
            closed(&mut drawing, &panel, path, Stroke { colour, width: 1.3, dash, opacity });
        }
    }
    let words = format!(
        "{}. One standard deviation, from faint (start) to full (end). {}",
        read::caption(report),
        verdict(report)
    );
    drawing.caption(SIDE + 88.0, 62.0, &words);
    Some(drawing.finish())
}

/// Ellipses in a figure, less one.
const FRAMES: usize = 8;

fn ellipse(mean: &Value, covariance: &Value) -> Option<Vec<(f64, f64)>> {
    let [Some(m1), Some(m2)] = read::column(mean, "")[..] else { return None };
    let [Some(a), Some(b), Some(c)] = read::column(covariance, "")[..] else { return None };
    let (half, gap) = (0.5 * (a + c), (0.5 * (a - c)).hypot(b));
    let (long, short) = ((half + gap).max(0.0).sqrt(), (half - gap).max(0.0).sqrt());
    let (sin, cos) = (0.5 * (2.0 * b).atan2(a - c)).sin_cos();
    let point = |k: u32| {
        let angle = std::f64::consts::TAU * f64::from(k) / 96.0;
        let (u, v) = (long * angle.cos(), short * angle.sin());
        (m1 + u * cos - v * sin, m2 + u * sin + v * cos)
    };
    Some((0..=96).map(point).collect())
}

fn closed(drawing: &mut Drawing, panel: &Panel, points: &[(f64, f64)], stroke: Stroke) {
    let mut commands = String::new();
    for (x, y) in points {
        if let (Some(x), Some(y)) = (panel.x.at(*x), panel.y.at(*y)) {
            commands.push_str(&format!("{}{x:.2} {y:.2}", if commands.is_empty() { 'M' } else { 'L' }));
        }
    }
    drawing.open_path(&commands, stroke);
}

/// Draws `cone.svg`: paths of covariances of dimension 2 in the cone z >= √(x² + y²), seen in orthographic projection.
pub(super) fn cone(report: &Value, display: &Display) -> Option<String> {
    let cloud = &display.base;
    let words = read::text(report, "/gaussian/cone");
    if words.is_empty() || cloud.dim != 3 {
        return None;
    }
    let top =
        f64::from(cloud.positions.iter().skip(2).step_by(3).copied().filter(|z| z.is_finite()).fold(0.0, f32::max));
    if top == 0.0 {
        return None;
    }
    // Eyes at this pitch see the rim's near side and the tip within 1.1 of the height to all sides of the middle.
    let reach = 1.12 * top;
    let side = |range| Scale::linear((-reach, reach), range);
    let panel = Panel { x: side((20.0, 20.0 + SIDE)), y: side((20.0 + SIDE, 20.0)) };
    let mut drawing = Drawing::new(SIDE + 40.0, SIDE + 110.0, "Paths in the cone of covariances");
    wires(&mut drawing, &panel, top);
    let labels = read::labels(report, "").into_iter().next().unwrap_or_default();
    let colours = Colours::of(report);
    for token in 0..cloud.count {
        let place = labels.get(token).and_then(|label| colours.base.get(label)).copied();
        let (colour, shape) = place.map_or((INK, "circle"), |place| (palette::colour(place), palette::marker(place)));
        let path: Vec<(f64, f64)> = (0..display.times.len())
            .filter_map(|s| cloud.at(s, token))
            .map(|p| seen([p[0], p[1], p[2]].map(f64::from), top))
            .collect();
        closed(&mut drawing, &panel, &path, Stroke { colour, width: 0.8, dash: "", opacity: 0.6 });
        if let Some((x, y)) = path.last().and_then(|(x, y)| Some((panel.x.at(*x)?, panel.y.at(*y)?))) {
            drawing.marker((x, y), 2.6, shape, colour, true);
        }
    }
    let family = tally(report);
    drawing.caption(SIDE + 52.0, 24.0, &format!("{}. {words}. Top at {}. {family}", read::caption(report), short(top)));
    Some(drawing.finish())
}

/// How many starts end how, most first; colours come in the same order.
fn tally(report: &Value) -> String {
    let regimes = read::array(report, "/gaussian/family/regimes");
    let words = |regime: &Value| {
        let rank = read::number(regime, "/limit_rank").map_or(String::new(), |rank| format!(" (rank {rank})"));
        format!("{} {}{rank}", regime["count"], read::text(regime, "/regime").replace('_', " "))
    };
    if regimes.is_empty() {
        return String::new();
    }
    format!("Starts of the grid: {}.", regimes.iter().map(words).collect::<Vec<_>>().join(", "))
}

/// The picture's coordinates of a point, the middle of the cone's axis in the middle.
fn seen([x, y, z]: [f64; 3], top: f64) -> (f64, f64) {
    let ((sin_yaw, cos_yaw), (sin_pitch, cos_pitch)) = (VIEW.0.sin_cos(), VIEW.1.sin_cos());
    let depth = sin_yaw * x + cos_yaw * y;
    (cos_yaw * x - sin_yaw * y, cos_pitch * (z - 0.5 * top) - sin_pitch * depth)
}

/// Circles of equal trace, and lines of rank one.
fn wires(drawing: &mut Drawing, panel: &Panel, top: f64) {
    let rim = |height: f64, k: u32| {
        let (sin, cos) = (std::f64::consts::TAU * f64::from(k) / 72.0).sin_cos();
        seen([height * cos, height * sin, height], top)
    };
    for share in [0.25, 0.5, 0.75, 1.0] {
        let circle: Vec<_> = (0..=72).map(|k| rim(share * top, k)).collect();
        closed(drawing, panel, &circle, Stroke { colour: SOFT, width: 0.7, dash: "", opacity: 0.35 + 0.3 * share });
    }
    for k in 0..12 {
        closed(
            drawing,
            panel,
            &[seen([0.0; 3], top), rim(top, 6 * k)],
            Stroke { colour: SOFT, width: 0.6, dash: "", opacity: 0.35 },
        );
    }
}
