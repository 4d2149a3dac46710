//! The diagram as CSV and as a log-log figure in SVG.

use std::fmt::Write;

use metastable_dynamics::observe::BracketedTime;

use crate::diagram::{Diagram, Point, Scheme};
use crate::published::{CLUSTERINGS, DEPARTURES, note};

/// One row a scheme and point; times that never come are empty.
pub(crate) fn csv(diagrams: &[(Scheme, Diagram)]) -> String {
    let mut text = String::from(
        "scheme,epsilon,cluster_time,cluster_low,cluster_high,departure_time,departure_low,departure_high,\
         authors_cluster_time,authors_departure_time,note\n",
    );
    for (scheme, diagram) in diagrams {
        for (i, point) in diagram.points.iter().enumerate() {
            let (cluster, departure) = (fields(point.cluster), fields(point.departure));
            let (epsilon, c, d) = (point.epsilon, CLUSTERINGS[i], DEPARTURES[i]);
            text.push_str(&format!("{},{epsilon},{cluster},{departure},{c},{d},{}\n", scheme.name(), note(i)));
        }
    }
    text
}

fn fields(time: BracketedTime) -> String {
    match (time.value, time.bracket) {
        (Some(value), Some([low, high])) => format!("{value},{low},{high}"),
        _ => ",,".into(),
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 480.0;
/// Left, right, top, bottom of the plot.
const FRAME: [f64; 4] = [80.0, 690.0, 50.0, 410.0];
/// eps and T at the ends of the axes.
const EPSILON: [f64; 2] = [8e-4, 0.1];
const TIME: [f64; 2] = [2.0, 1000.0];

fn x(epsilon: f64) -> f64 {
    FRAME[0] + (FRAME[1] - FRAME[0]) * (epsilon / EPSILON[0]).ln() / (EPSILON[1] / EPSILON[0]).ln()
}

fn y(time: f64) -> f64 {
    FRAME[3] - (FRAME[3] - FRAME[2]) * (time / TIME[0]).ln() / (TIME[1] / TIME[0]).ln()
}

/// A log-log figure: departure and cluster times of every scheme, the authors' values, and the line C / eps.
pub(crate) fn svg(diagrams: &[(Scheme, Diagram)]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\" role=\"img\">\n<title>Cluster and departure times of LoRA twins</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    axes(&mut svg);
    // Okabe and Ito's colours, distinguishable by everybody.
    for ((scheme, diagram), colour) in diagrams.iter().zip(["#0072b2", "#d55e00"]) {
        let constant = scheme.constant();
        let ends = [EPSILON[0], EPSILON[1]].map(|e| (e, constant / e));
        path(&mut svg, &ends, colour, "2 3");
        curve(&mut svg, diagram, colour, |point| point.departure);
        curve(&mut svg, diagram, colour, |point| point.cluster);
    }
    for (i, &epsilon) in crate::published::EPSILONS.iter().enumerate() {
        for time in [DEPARTURES[i], CLUSTERINGS[i]] {
            ring(&mut svg, x(epsilon), y(time));
        }
    }
    legend(&mut svg, diagrams);
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String) {
    let [left, right, top, bottom] = FRAME;
    let (w, h) = (right - left, bottom - top);
    line(
        svg,
        format_args!("<rect x=\"{left}\" y=\"{top}\" width=\"{w}\" height=\"{h}\" fill=\"none\" stroke=\"#333\"/>"),
    );
    for epsilon in [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1] {
        let (at, below) = (x(epsilon), bottom + 18.0);
        line(svg, format_args!("<path d=\"M{at:.1} {bottom}v5\" stroke=\"#333\"/>"));
        line(svg, format_args!("<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{epsilon}</text>"));
    }
    for time in [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0] {
        let (at, beside) = (y(time), left - 9.0);
        line(svg, format_args!("<path d=\"M{left} {at:.1}h-5\" stroke=\"#333\"/>"));
        line(svg, format_args!("<text x=\"{beside}\" y=\"{:.1}\" text-anchor=\"end\">{time}</text>", at + 4.0));
    }
    let (middle, foot) = ((left + right) / 2.0, bottom + 42.0);
    line(
        svg,
        format_args!("<text x=\"{middle}\" y=\"{foot}\" text-anchor=\"middle\">eps, V = diag(1, 1 - eps)</text>"),
    );
    line(
        svg,
        format_args!(
            "<text transform=\"translate(24 {}) rotate(-90)\" text-anchor=\"middle\">time</text>",
            (top + bottom) / 2.0
        ),
    );
    line(
        svg,
        format_args!(
            "<text x=\"{left}\" y=\"28\" font-size=\"15\">Twenty tokens (seed 42), radius 0.1: below, they gather; above, the first one leaves</text>"
        ),
    );
}

fn curve(svg: &mut String, diagram: &Diagram, colour: &str, time: impl Fn(&Point) -> BracketedTime) {
    let seen = diagram.points.iter().filter_map(|point| Some((point.epsilon, time(point).value?)));
    path(svg, &seen.collect::<Vec<_>>(), colour, "none");
}

fn path(svg: &mut String, points: &[(f64, f64)], colour: &str, dashes: &str) {
    let commands: Vec<String> = points.iter().map(|&(e, t)| format!("{:.2} {:.2}", x(e), y(t))).collect();
    let commands = commands.join("L");
    line(
        svg,
        format_args!(
            "<path d=\"M{commands}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"{dashes}\"/>"
        ),
    );
}

fn ring(svg: &mut String, x: f64, y: f64) {
    line(svg, format_args!("<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"3\" fill=\"none\" stroke=\"#333\"/>"));
}

fn legend(svg: &mut String, diagrams: &[(Scheme, Diagram)]) {
    let (at, mut height) = (430.0, 78.0);
    for ((scheme, _), colour) in diagrams.iter().zip(["#0072b2", "#d55e00"]) {
        let (label, baseline) = (scheme.title(), height + 4.0);
        line(svg, format_args!("<path d=\"M{at} {height}h24\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"));
        line(svg, format_args!("<text x=\"{}\" y=\"{baseline}\">{label}</text>", at + 32.0));
        height += 20.0;
    }
    line(svg, format_args!("<path d=\"M{at} {height}h24\" stroke=\"#333\" stroke-dasharray=\"2 3\"/>"));
    line(svg, format_args!("<text x=\"{}\" y=\"{}\">C / eps, closed form</text>", at + 32.0, height + 4.0));
    ring(svg, at + 12.0, height + 20.0);
    line(svg, format_args!("<text x=\"{}\" y=\"{}\">the authors' table</text>", at + 32.0, height + 24.0));
}

fn line(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a String never refuses text");
}
