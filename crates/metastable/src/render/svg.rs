//! The drawing board of the static figures: scales, ticks, axes and marks as SVG text.
//!
//! Coordinates are written with two decimals, so a figure is the same text on every machine.

use super::palette;
use std::fmt::Write;

/// The colour of axes and of the base run.
pub(super) const INK: &str = "#1f2328";
/// The colour of grid lines.
const RULE: &str = "#e3e5e8";
/// The colour of secondary text.
pub(super) const SOFT: &str = "#5b626c";

/// Maps numbers to the drawing, linearly or by their logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    domain: (f64, f64),
    range: (f64, f64),
    log: bool,
}

/// A labelled place on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// The value marked.
    pub(super) value: f64,
    /// Its label.
    pub(super) label: String,
}

impl Scale {
    /// A linear scale; an empty domain is widened so that the scale stays invertible.
    pub(super) fn linear(domain: (f64, f64), range: (f64, f64)) -> Self {
        let (low, high) = domain;
        let spread = if high > low { 0.0 } else { low.abs().max(1.0) * 0.5 };
        Self { domain: (low - spread, high.max(low) + spread), range, log: false }
    }

    /// A logarithmic scale over whole decades; the domain must be positive.
    pub(super) fn log(domain: (f64, f64), range: (f64, f64)) -> Self {
        let low = domain.0.max(f64::MIN_POSITIVE).log10().floor();
        let high = domain.1.max(f64::MIN_POSITIVE).log10().ceil().max(low + 1.0);
        Self { domain: (low, high), range, log: true }
    }

    /// A logarithmic scale over exactly this domain, which must be positive.
    pub(super) fn exact_log(domain: (f64, f64), range: (f64, f64)) -> Self {
        let (low, high) = (domain.0.max(f64::MIN_POSITIVE).log10(), domain.1.max(f64::MIN_POSITIVE).log10());
        Self { domain: (low, high.max(low + 1e-9)), range, log: true }
    }

    /// Returns the place of a number, or `None` where a logarithm does not exist.
    pub(super) fn at(&self, x: f64) -> Option<f64> {
        let x = if self.log { if x > 0.0 { x.log10() } else { return None } } else { x };
        let share = (x - self.domain.0) / (self.domain.1 - self.domain.0);
        Some(self.range.0 + share * (self.range.1 - self.range.0))
    }

    /// Returns the same scale drawn further to the right.
    pub(super) fn moved(&self, by: f64) -> Self {
        Self { range: (self.range.0 + by, self.range.1 + by), ..*self }
    }

    /// Returns where the domain begins in the drawing.
    pub(super) fn start(&self) -> f64 {
        self.range.0
    }

    /// Returns where the domain ends in the drawing.
    pub(super) fn end(&self) -> f64 {
        self.range.1
    }

    /// Returns the ticks: multiples of 1, 2 or 5 times a power of ten, or whole decades.
    pub(super) fn ticks(&self, about: usize) -> Vec<Tick> {
        if self.log { self.decades(about) } else { self.rounds(about) }
    }

    fn decades(&self, about: usize) -> Vec<Tick> {
        // Decades of f64 lie within +-324, so the casts keep their values.
        let (low, high) = ((self.domain.0 - 1e-9).ceil() as i32, (self.domain.1 + 1e-9).floor() as i32);
        if high <= low {
            return self.parts_of_decades();
        }
        let step = (((high - low) as f64 / about.max(1) as f64).ceil() as i32).max(1);
        let first = low.div_euclid(step) * step;
        let powers = (0..).map(|k| first + k * step).skip_while(|p| *p < low).take_while(|p| *p <= high);
        powers.map(|p| Tick { value: 10f64.powi(p), label: power_of_ten(p) }).collect()
    }

    /// For a domain with at most one whole power of ten: 1, 2 and 5 times powers of ten.
    fn parts_of_decades(&self) -> Vec<Tick> {
        let (first, last) = (self.domain.0.floor() as i32, self.domain.1.ceil() as i32);
        let inside = |value: &f64| (self.domain.0 - 1e-9..=self.domain.1 + 1e-9).contains(&value.log10());
        let values = (first..=last).flat_map(|p| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(p)));
        values.filter(inside).map(|value| Tick { value, label: super::read::short(value) }).collect()
    }

    fn rounds(&self, about: usize) -> Vec<Tick> {
        let (low, high) = self.domain;
        let step = round_step((high - low) / about.max(1) as f64);
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
        let label = |value: f64| {
            if value.abs() < step * 1e-6 {
                "0".to_owned()
            } else if value.abs() >= 1e5 {
                super::read::short(value)
            } else {
                format!("{value:.decimals$}").replace('-', "\u{2212}")
            }
        };
        (first..=last).map(|k| k as f64 * step).map(|value| Tick { value, label: label(value) }).collect()
    }
}

fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| raw <= f * power * (1.0 + 1e-9)).unwrap_or(10.0);
    factor * power
}

fn power_of_ten(power: i32) -> String {
    let raise = |c: char| match c {
        '-' => '\u{207b}',
        '1' => '\u{b9}',
        '2' => '\u{b2}',
        '3' => '\u{b3}',
        digit => char::from_u32(0x2070 + digit as u32 - '0' as u32).unwrap_or(digit),
    };
    match power {
        0 => "1".to_owned(),
        1 => "10".to_owned(),
        _ => format!("10{}", power.to_string().chars().map(raise).collect::<String>()),
    }
}

/// Escapes text for XML, dropping the control characters that XML forbids.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A box of the drawing with its two scales.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel {
    /// Horizontal scale; its range is the left and the right side.
    pub(super) x: Scale,
    /// Vertical scale; its range is the bottom and the top.
    pub(super) y: Scale,
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stroke<'a> {
    /// Colour.
    pub(super) colour: &'a str,
    /// Width in points.
    pub(super) width: f64,
    /// Dash pattern, "" for a solid line.
    pub(super) dash: &'a str,
    /// Opacity from 0 to 1.
    pub(super) opacity: f64,
}

impl<'a> Stroke<'a> {
    /// A solid line.
    pub(super) fn solid(colour: &'a str, width: f64) -> Self {
        Self { colour, width, dash: "", opacity: 1.0 }
    }
}

/// An SVG document being written.
#[derive(Debug, Default)]
pub(super) struct Drawing {
    body: String,
    width: f64,
    height: f64,
}

impl Drawing {
    /// Starts a white page with a title for screen readers.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut drawing = Self { body: String::new(), width, height };
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            drawing.body,
            "<title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n",
            escape(title)
        );
        drawing
    }

    /// Closes the document.
    pub(super) fn finish(self) -> String {
        let (w, h) = (self.width, self.height);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" font-family=\"Helvetica, Arial, 'Liberation Sans', sans-serif\" font-size=\"11\" fill=\"{INK}\">\n{}</svg>\n",
            self.body
        )
    }

    /// Writes text; `anchor` is `start`, `middle` or `end`; `style` holds further attributes.
    pub(super) fn text(&mut self, at: (f64, f64), anchor: &str, style: &str, text: &str) {
        let (x, y) = at;
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\" {style}>{}</text>",
            escape(text)
        );
    }

    /// Writes a mathematical symbol such as `x_1`: italic serif letter, upright subscript.
    pub(super) fn symbol(&mut self, at: (f64, f64), anchor: &str, style: &str, symbol: &str) {
        let (x, y) = at;
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\" {style}>{}</text>",
            symbol_spans(symbol)
        );
    }

    /// Draws a straight line.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke) {
        self.open_path(&format!("M{:.2} {:.2}L{:.2} {:.2}", from.0, from.1, to.0, to.1), stroke);
    }

    /// Draws the outline of a rectangle.
    pub(super) fn outline(&mut self, panel: &Panel, colour: &str) {
        let ((left, right), (bottom, top)) = (panel.x.range, panel.y.range);
        let _ = writeln!(
            self.body,
            "<rect x=\"{left:.2}\" y=\"{top:.2}\" width=\"{:.2}\" height=\"{:.2}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"0.8\"/>",
            right - left,
            bottom - top
        );
    }

    /// Draws an open path given by its SVG commands.
    pub(super) fn open_path(&mut self, commands: &str, stroke: Stroke) {
        let dash =
            if stroke.dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{}\"", stroke.dash) };
        let opacity =
            if stroke.opacity < 1.0 { format!(" stroke-opacity=\"{:.2}\"", stroke.opacity) } else { String::new() };
        let _ = writeln!(
            self.body,
            "<path d=\"{commands}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\" stroke-linecap=\"round\"{dash}{opacity}/>",
            stroke.colour, stroke.width
        );
    }

    /// Fills a closed path given by its SVG commands.
    pub(super) fn fill(&mut self, commands: &str, colour: &str, opacity: f64) {
        let opacity = if opacity < 1.0 { format!(" fill-opacity=\"{opacity:.2}\"") } else { String::new() };
        let _ = writeln!(self.body, "<path d=\"{commands}\" fill=\"{colour}\"{opacity}/>");
    }

    /// Draws a curve inside a panel; gaps stay gaps; what leaves the panel is cut at its edge.
    pub(super) fn curve(&mut self, panel: &Panel, points: &[(f64, Option<f64>)], stroke: Stroke) {
        self.open_path(&clipped(panel, points), stroke);
    }

    /// Draws a circle outline, for rings and the unit sphere.
    pub(super) fn ring(&mut self, at: (f64, f64), radius: f64, stroke: Stroke) {
        let dash =
            if stroke.dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{}\"", stroke.dash) };
        let _ = writeln!(
            self.body,
            "<circle cx=\"{:.2}\" cy=\"{:.2}\" r=\"{radius:.2}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-opacity=\"{:.2}\"{dash}/>",
            at.0, at.1, stroke.colour, stroke.width, stroke.opacity
        );
    }

    /// Draws a marker, filled or hollow.
    pub(super) fn marker(&mut self, at: (f64, f64), radius: f64, shape: &str, colour: &str, filled: bool) {
        let paint = if filled {
            format!("fill=\"{colour}\" stroke=\"#fff\" stroke-width=\"0.6\"")
        } else {
            format!("fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"1\"")
        };
        let _ = match corners(shape) {
            None => writeln!(self.body, "<circle cx=\"{:.2}\" cy=\"{:.2}\" r=\"{radius:.2}\" {paint}/>", at.0, at.1),
            Some(corners) => {
                let points: Vec<String> =
                    corners.iter().map(|(x, y)| format!("{:.2},{:.2}", at.0 + x * radius, at.1 + y * radius)).collect();
                writeln!(self.body, "<polygon points=\"{}\" {paint}/>", points.join(" "))
            }
        };
    }

    /// Draws grid, ticks, frame and axis labels of a panel. Labels are words, a symbol in `$…$`, or both.
    pub(super) fn axes(&mut self, panel: &Panel, x_label: &str, y_label: &str) {
        let ((left, right), (bottom, top)) = (panel.x.range, panel.y.range);
        for tick in panel.x.ticks(((right - left) / 70.0).max(2.0) as usize) {
            let Some(x) = panel.x.at(tick.value) else { continue };
            self.line((x, bottom), (x, top), Stroke::solid(RULE, 0.7));
            self.text((x, bottom + 15.0), "middle", "", &tick.label);
        }
        for tick in panel.y.ticks(((bottom - top) / 38.0).max(2.0) as usize) {
            let Some(y) = panel.y.at(tick.value) else { continue };
            self.line((left, y), (right, y), Stroke::solid(RULE, 0.7));
            self.text((left - 6.0, y + 3.8), "end", "", &tick.label);
        }
        self.outline(panel, INK);
        self.label(((left + right) / 2.0, bottom + 32.0), "middle", "font-size=\"12\"", x_label);
        let (x, y) = (left - 46.0, (top + bottom) / 2.0);
        let turn = format!("font-size=\"12\" transform=\"rotate(-90 {x:.2} {y:.2})\"");
        self.label((x, y), "middle", &turn, y_label);
    }

    /// Writes words with symbols between dollar signs.
    pub(super) fn label(&mut self, at: (f64, f64), anchor: &str, style: &str, text: &str) {
        let spans: String = text
            .split('$')
            .enumerate()
            .map(|(i, part)| if i % 2 == 1 { symbol_spans(part) } else { escape(part) })
            .collect();
        let _ = writeln!(
            self.body,
            "<text x=\"{:.2}\" y=\"{:.2}\" text-anchor=\"{anchor}\" {style}>{spans}</text>",
            at.0, at.1
        );
    }

    /// Writes the caption under a figure, broken into lines.
    pub(super) fn caption(&mut self, top: f64, left: f64, sentences: &str) {
        let most = ((self.width - 2.0 * left) / 5.4) as usize;
        let mut line = String::new();
        let mut y = top;
        for word in sentences.split_whitespace() {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= most {
                self.text((left, y), "start", &format!("font-size=\"10.5\" fill=\"{SOFT}\""), &line);
                line.clear();
                y += 14.0;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.text((left, y), "start", &format!("font-size=\"10.5\" fill=\"{SOFT}\""), &line);
    }
}

fn symbol_spans(symbol: &str) -> String {
    let (letter, index) = symbol.split_once('_').unwrap_or((symbol, ""));
    let letter = format!(
        "<tspan font-family=\"'Times New Roman', 'Liberation Serif', serif\" font-style=\"italic\" font-size=\"1.15em\">{}</tspan>",
        escape(letter)
    );
    if index.is_empty() {
        return letter;
    }
    format!("{letter}<tspan dy=\"3\" font-size=\"0.8em\">{}</tspan><tspan dy=\"-3\">\u{200b}</tspan>", escape(index))
}

/// The corners of a marker of radius 1, or `None` for a circle. Areas are about that of the unit circle.
fn corners(shape: &str) -> Option<Vec<(f64, f64)>> {
    let around = |count: usize, radius: &dyn Fn(usize) -> f64, turn: f64| {
        let angle = |k: usize| turn + std::f64::consts::TAU * k as f64 / count as f64;
        Some((0..count).map(|k| (radius(k) * angle(k).sin(), -radius(k) * angle(k).cos())).collect())
    };
    match shape {
        "square" => around(4, &|_| 1.25, std::f64::consts::FRAC_PI_4),
        "diamond" => around(4, &|_| 1.3, 0.0),
        "triangle" => around(3, &|_| 1.4, 0.0),
        "nabla" => around(3, &|_| 1.4, std::f64::consts::PI),
        "pentagon" => around(5, &|_| 1.15, 0.0),
        "star" => around(10, &|k| if k % 2 == 0 { 1.5 } else { 0.68 }, 0.0),
        _ => None,
    }
}

/// Path commands of a curve cut at the lower and upper edge of its panel.
fn clipped(panel: &Panel, points: &[(f64, Option<f64>)]) -> String {
    let (bottom, top) = panel.y.range;
    let mut commands = String::new();
    let mut last: Option<(f64, f64)> = None;
    let inside = |y: f64| (top - 0.01..=bottom + 0.01).contains(&y);
    let cut = |a: (f64, f64), b: (f64, f64)| {
        let edge = if a.1 < top || b.1 < top { top } else { bottom };
        (a.0 + (b.0 - a.0) * (edge - a.1) / (b.1 - a.1), edge)
    };
    for &(t, y) in points {
        let here = y.and_then(|y| Some((panel.x.at(t)?, panel.y.at(y)?)));
        let (pen, point) = match (last, here) {
            (Some(a), Some(b)) if inside(a.1) && inside(b.1) => ('L', Some(b)),
            (Some(a), Some(b)) if inside(a.1) => ('L', Some(cut(a, b))),
            (Some(a), Some(b)) if inside(b.1) => {
                let enter = cut(a, b);
                let _ = write!(commands, "M{:.2} {:.2}", enter.0, enter.1);
                ('L', Some(b))
            }
            (_, Some(b)) if inside(b.1) => ('M', Some(b)),
            _ => ('M', None),
        };
        if let Some((x, y)) = point {
            let _ = write!(commands, "{pen}{x:.2} {y:.2}");
        }
        last = here;
    }
    commands
}

/// Draws a legend of line samples from a corner to the right.
pub(super) fn legend(drawing: &mut Drawing, at: (f64, f64), entries: &[(&str, Stroke)]) {
    let mut x = at.0;
    for (words, stroke) in entries {
        drawing.line((x, at.1 - 3.5), (x + 22.0, at.1 - 3.5), *stroke);
        drawing.label((x + 27.0, at.1), "start", "", words);
        x += 42.0 + 5.9 * words.chars().filter(|c| *c != '$').count() as f64;
    }
}

/// Draws a vertical time mark with its symbol above the panel.
pub(super) fn time_mark(drawing: &mut Drawing, panel: &Panel, time: f64, symbol: &str) {
    let ((left, right), (bottom, top)) = (panel.x.range, panel.y.range);
    if let Some(x) = panel.x.at(time).filter(|x| (left..=right).contains(x)) {
        let stroke = Stroke { colour: palette::TWIN, width: 0.9, dash: "4 3", opacity: 0.9 };
        drawing.line((x, bottom), (x, top), stroke);
        drawing.symbol((x, top - 5.0), "middle", &format!("fill=\"{}\"", palette::TWIN), symbol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside_the_domain() {
        for domain in [(0.0, 80.0), (-1.03, 0.97), (0.0, 1e-7), (3.0, 3.0), (-5e6, 2e6)] {
            let scale = Scale::linear(domain, (0.0, 100.0));
            let ticks = scale.ticks(5);
            assert!(ticks.len() >= 2 && ticks.len() <= 12, "{domain:?}: {}", ticks.len());
            for tick in ticks {
                let place = scale.at(tick.value).unwrap();
                // one part in a million of the range: ticks are multiples of a step, not sums
                assert!((-1e-4..=100.0 + 1e-4).contains(&place), "{domain:?}: {place}");
            }
        }
    }

    #[test]
    fn logarithms_of_zero_have_no_place() {
        let scale = Scale::log((1e-8, 2.0), (0.0, 90.0));
        assert_eq!(scale.at(0.0), None);
        assert_eq!(scale.at(1e-8), Some(0.0));
        // Every third decade of 1e-8..10, at powers divisible by three.
        let labels: Vec<String> = scale.ticks(4).into_iter().map(|tick| tick.label).collect();
        assert_eq!(labels, ["10\u{207b}\u{2076}", "10\u{207b}\u{b3}", "1"]);
        assert_eq!(power_of_ten(-13), "10\u{207b}\u{b9}\u{b3}");
    }

    #[test]
    fn a_curve_is_cut_where_it_leaves_the_panel() {
        let panel = Panel { x: Scale::linear((0.0, 2.0), (0.0, 20.0)), y: Scale::linear((0.0, 1.0), (10.0, 0.0)) };
        let path = clipped(&panel, &[(0.0, Some(0.5)), (1.0, Some(1.5)), (2.0, None)]);
        assert_eq!(path, "M0.00 5.00L5.00 0.00");
    }

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escape("</text><script>\u{1}"), "&lt;/text&gt;&lt;script&gt;\u{fffd}");
    }
}
