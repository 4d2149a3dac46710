//! The page and the figures of a fine-tuning run, from its report alone.

use serde_json::Value;

use super::read;
use super::svg::{Drawing, Panel, SOFT, Scale, Stroke, escape, legend};

/// One line of a plot: words, points, stroke.
type Line<'a> = (&'a str, Vec<(f64, Option<f64>)>, Stroke<'a>);

const SIZE: (f64, f64) = (640.0, 340.0);
const PLOT: (f64, f64) = (70.0, 620.0);
const TOP: f64 = 60.0;
const BOTTOM: f64 = 290.0;

/// The figures as (file name, SVG).
pub(crate) fn finetune_figures(report: &Value) -> Vec<(&'static str, String)> {
    let stroke = |colour, width, dash| Stroke { colour, width, dash, opacity: 1.0 };
    let series = |key: &str| -> Vec<(f64, Option<f64>)> {
        let entries = read::array(report, "/series").iter();
        entries.filter_map(|entry| Some((entry["step"].as_f64()?, entry[key].as_f64()))).collect()
    };
    let measured = |points: Vec<(f64, Option<f64>)>| points.into_iter().filter(|(_, y)| y.is_some()).collect();
    let figures = [
        (
            "loss.svg",
            plot(
                "Loss",
                "loss (nats)",
                false,
                vec![
                    ("training batch", series("loss"), stroke(SOFT, 1.2, "")),
                    ("held out", measured(series("eval_loss")), stroke("#0072b2", 2.0, "")),
                ],
            ),
        ),
        (
            "condition.svg",
            plot(
                "Condition number of the factors (median over modules)",
                "condition number",
                true,
                vec![
                    ("of the factors", series("kappa"), stroke("#d55e00", 1.8, "")),
                    ("in balance", series("kappa_balanced"), stroke(SOFT, 1.5, "6 2.5")),
                ],
            ),
        ),
        (
            "change.svg",
            plot(
                "How far the adapted weights moved",
                "|ΔW| / |W|",
                false,
                vec![("all modules", series("relative_change"), stroke("#009e73", 1.8, ""))],
            ),
        ),
    ];
    figures.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()
}

fn plot(title: &str, label: &str, is_log: bool, lines: Vec<Line<'_>>) -> Option<String> {
    let lines: Vec<Line<'_>> = lines.into_iter().filter(|line| line.1.iter().any(|(_, y)| y.is_some())).collect();
    let values = || lines.iter().flat_map(|line| &line.1).filter_map(|(x, y)| Some((*x, (*y)?)));
    let (low, high) =
        values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| (low.min(y), high.max(y)));
    let (first, last) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), (x, _)| (a.min(x), b.max(x)));
    if !(low.is_finite() && high.is_finite()) {
        return None;
    }
    let x = Scale::linear((first, last.max(first + 1.0)), PLOT);
    let y = if is_log && low > 0.0 {
        Scale::log((low, high.max(low * 1.5)), (BOTTOM, TOP))
    } else {
        Scale::linear((low.min(0.0), high.max(low + 1e-12)), (BOTTOM, TOP))
    };
    let panel = Panel { x, y };
    let mut drawing = Drawing::new(SIZE.0, SIZE.1, title);
    drawing.axes(&panel, "step", label);
    for (_, points, stroke) in &lines {
        drawing.curve(&panel, points, *stroke);
    }
    let entries: Vec<(&str, Stroke<'_>)> = lines.iter().map(|(words, _, stroke)| (*words, *stroke)).collect();
    legend(&mut drawing, (PLOT.0 + 10.0, 44.0), &entries);
    Some(drawing.finish())
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
table{border-collapse:collapse}td,th{text-align:left;padding:.15rem .9rem .15rem 0;vertical-align:top}\
figure{margin:1.5rem 0}.warning{color:#9a3412}pre{overflow:auto;background:#f6f6f6;padding:.8rem}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#222}figure{background:#fff;border-radius:4px}}";

/// The page: one self-contained HTML file without scripts.
pub(crate) fn finetune_html(report: &Value) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
        escape(read::text(report, "/title"))
    );
    for sentence in read::strings(report, "/summary") {
        page += &format!("<p>{}</p>\n", escape(sentence));
    }
    for warning in read::strings(report, "/warnings") {
        page += &format!("<p class=\"warning\">{}</p>\n", escape(warning));
    }
    for (name, svg) in finetune_figures(report) {
        page += &format!("<figure id=\"{name}\">{svg}</figure>\n");
    }
    page += "<h2>Run</h2>\n<table>\n";
    for (name, pointer) in ROWS {
        if let Some(value) = report.pointer(pointer).filter(|value| !value.is_null()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            page += &format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(&text));
        }
    }
    let config = serde_json::to_string_pretty(&report["config"]).unwrap_or_default();
    page += &format!("</table>\n<h2>Configuration</h2>\n<pre>{}</pre>\n</body>\n</html>\n", escape(&config));
    page
}

const ROWS: [(&str, &str); 14] = [
    ("final training loss", "/final_loss"),
    ("held-out loss before training", "/base_eval_loss"),
    ("held-out loss of the saved adapter", "/eval_loss"),
    ("held-out accuracy of the saved adapter", "/eval_accuracy"),
    ("steps", "/steps"),
    ("saved step", "/saved_step"),
    ("ended by", "/stop"),
    ("tokens a second", "/tokens_per_second"),
    ("peak memory (bytes)", "/peak_memory_bytes"),
    ("trained numbers", "/adapter/parameters"),
    ("effective learning rate, lr σ", "/effective/learning_rate"),
    ("effective scale, σ", "/effective/sigma"),
    ("skipped projections", "/skipped_projections"),
    ("version", "/provenance/version"),
];

/// The summary for terminals and pull requests.
pub(crate) fn finetune_markdown(report: &Value) -> String {
    let mut text = format!("# {}\n\n", read::text(report, "/title"));
    let sentences = read::strings(report, "/summary");
    let warnings = read::strings(report, "/warnings").into_iter().map(|warning| format!("Warning: {warning}"));
    for line in sentences.into_iter().map(str::to_owned).chain(warnings) {
        text += &line;
        text += "\n";
    }
    text += "\n| | |\n|---|---|\n";
    for (name, pointer) in ROWS {
        if let Some(value) = report.pointer(pointer).filter(|value| !value.is_null()) {
            text += &format!("| {name} | {value} |\n");
        }
    }
    text
}
