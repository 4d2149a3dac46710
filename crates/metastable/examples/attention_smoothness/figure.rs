//! Constants against n, both axes logarithmic, beside lines of slope 1/4 and 1/2.

use std::fmt::Write;

use crate::Curve;

/// Left, right, top, bottom of the plot in a page of 720 x 480.
const FRAME: [f64; 4] = [70.0, 470.0, 30.0, 420.0];
/// Okabe and Ito's colours, distinguishable by everybody.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// The ends of both axes, powers of two and of ten around the points.
struct Axes {
    n: [f64; 2],
    constant: [f64; 2],
}

impl Axes {
    fn of(curves: &[Curve]) -> Self {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let ends = |pick: fn(&(f64, f64)) -> f64, base: f64| {
            let low = points().map(pick).fold(f64::INFINITY, f64::min).log(base).floor();
            let high = points().map(pick).fold(0.0, f64::max).log(base).ceil();
            [base.powf(low), base.powf(high.max(low + 1.0))]
        };
        Self { n: ends(|point| point.0, 2.0), constant: ends(|point| point.1, 10.0) }
    }

    fn place(&self, (n, constant): (f64, f64)) -> (f64, f64) {
        let share = |value: f64, [low, high]: [f64; 2]| (value / low).ln() / (high / low).ln();
        let [left, right, top, bottom] = FRAME;
        (left + (right - left) * share(n, self.n), bottom - (bottom - top) * share(constant, self.constant))
    }
}

/// The figure.
pub(crate) fn svg(curves: &[Curve]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 480\" font-family=\"sans-serif\" font-size=\"12\" \
         role=\"img\">\n<title>Local Lipschitz constants of attention against the number of tokens</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
    );
    if curves.iter().all(|curve| curve.points.is_empty()) {
        return svg + "</svg>\n";
    }
    let axes = Axes::of(curves);
    frame(&mut svg, &axes);
    for (slope, dashes) in [(0.25, "2 4"), (0.5, "6 4")] {
        let middle = (axes.constant[0] * axes.constant[1]).sqrt();
        let at = |n: f64| middle * (n / axes.n[0]).powf(slope);
        let inside = axes.n.map(|n| (n, at(n).min(axes.constant[1])));
        path(&mut svg, &axes, &inside, "#999", dashes);
    }
    for (c, curve) in curves.iter().enumerate() {
        let colour = COLOURS[c % COLOURS.len()];
        path(&mut svg, &axes, &curve.points, colour, "none");
        legend(&mut svg, c, colour, "none", &curve.name);
    }
    legend(&mut svg, curves.len(), "#999", "2 4", "slope 1/4");
    legend(&mut svg, curves.len() + 1, "#999", "6 4", "slope 1/2");
    svg + "</svg>\n"
}

fn frame(svg: &mut String, axes: &Axes) {
    let [left, right, top, bottom] = FRAME;
    let (width, height) = (right - left, bottom - top);
    line(
        svg,
        &format!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#333\"/>"
        ),
    );
    let mut n = axes.n[0];
    while n <= axes.n[1] * 1.01 {
        let (x, _) = axes.place((n, axes.constant[0]));
        line(svg, &format!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>", bottom + 18.0));
        n *= 2.0;
    }
    let mut constant = axes.constant[0];
    while constant <= axes.constant[1] * 1.01 {
        let (_, y) = axes.place((axes.n[0], constant));
        line(svg, &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{constant}</text>", left - 6.0, y + 4.0));
        constant *= 10.0;
    }
    let middle = (left + right) / 2.0;
    line(
        svg,
        &format!("<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">number of tokens n</text>", bottom + 42.0),
    );
    line(
        svg,
        "<text transform=\"translate(16 225) rotate(-90)\" text-anchor=\"middle\">local Lipschitz constant</text>",
    );
}

fn path(svg: &mut String, axes: &Axes, points: &[(f64, f64)], colour: &str, dashes: &str) {
    let places = points.iter().map(|point| axes.place(*point));
    let commands: Vec<String> = places.map(|(x, y)| format!("{x:.2} {y:.2}")).collect();
    let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"{dashes}\"");
    line(svg, &format!("<path d=\"M{}\" {style}/>", commands.join("L")));
}

fn legend(svg: &mut String, row: usize, colour: &str, dashes: &str, label: &str) {
    let (x, y) = (FRAME[1] + 14.0, FRAME[2] + 10.0 + 20.0 * row as f64);
    line(
        svg,
        &format!("<path d=\"M{x} {y}h22\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"{dashes}\"/>"),
    );
    line(svg, &format!("<text x=\"{}\" y=\"{}\">{label}</text>", x + 28.0, y + 4.0));
}

fn line(svg: &mut String, element: &str) {
    writeln!(svg, "{element}").expect("a String never refuses text");
}
