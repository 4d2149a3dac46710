//! The summary of a run as Markdown, one sentence per line.

use super::finetune;
use super::read::{self, TWIN_TIMES, short};
use serde_json::Value;

/// Writes a readable summary: what was run, when it stopped, the clusters, the twin times, the warnings, the origin.
///
/// Text that comes from outside (titles, token strings) is escaped: it shows as text and opens no HTML, link or table cell.
pub fn markdown(report: &Value) -> String {
    let title = match read::text(report, "/title") {
        "" => "Untitled run",
        title => title,
    };
    let mut lines = vec![format!("# {}", plain(title)), String::new()];
    lines.extend(read::strings(report, "/summary").into_iter().map(plain));
    let warnings = read::strings(report, "/warnings");
    section(&mut lines, "Warnings", warnings.into_iter().map(|warning| format!("- {}", plain(warning))).collect());
    section(&mut lines, "Points that failed", failures(report));
    section(&mut lines, "Run", run(report));
    section(&mut lines, "Runs", finetune::comparison_table(report, plain));
    section(&mut lines, "Clusters at the end", clusters(report));
    section(&mut lines, "Verdict", gaussian(&report["gaussian"]));
    section(&mut lines, "Verdict with LoRA", gaussian(&report["twin"]["gaussian"]));
    section(&mut lines, "Base against LoRA", twin(report));
    section(&mut lines, "Cascade", cascade(report));
    section(&mut lines, "Model", model(report));
    section(&mut lines, "Provenance", provenance(report));
    lines.push(String::new());
    lines.join("\n")
}

fn section(lines: &mut Vec<String>, heading: &str, body: Vec<String>) {
    if !body.is_empty() {
        lines.extend([String::new(), format!("## {heading}"), String::new()]);
        lines.extend(body);
    }
}

/// Escapes what Markdown or HTML would read as markup.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn run(report: &Value) -> Vec<String> {
    let mut lines = finetune::run_lines(report);
    if let (Some(n), Some(d)) = (read::number(report, "/tokens/count"), read::number(report, "/tokens/dim")) {
        let is_gaussian = report["gaussian"].is_object();
        lines.push(if is_gaussian {
            format!("- a Gaussian in {d} dimensions")
        } else {
            format!("- {n} tokens in {d} dimensions")
        });
    }
    let reason = read::text(report, "/stop/reason");
    if !reason.is_empty() {
        let time = read::number(report, "/stop/time")
            .map_or(String::new(), |t| format!(" at {} = {}", read::axis_symbol(report), short(t)));
        lines.push(format!("- stopped: {}{time}", plain(reason)));
    }
    if report["solver"].is_object() {
        let count = |key: &str| read::number(report, &format!("/solver/{key}")).unwrap_or(0.0);
        lines.push(format!(
            "- solver {}: {} steps, {} rejected, {} evaluations",
            plain(read::text(report, "/solver/method")),
            count("steps"),
            count("rejected"),
            count("evaluations")
        ));
    }
    let projection = read::text(report, "/projection");
    if !projection.is_empty() {
        lines.push(format!("- drawn through a projection: {}", plain(projection)));
    }
    lines
}

fn clusters(report: &Value) -> Vec<String> {
    let sizes = read::column(report, "/clusters/sizes");
    if sizes.is_empty() {
        return Vec::new();
    }
    let radius = read::number(report, "/clusters/radius").map_or(String::new(), |r| format!(" at radius {}", short(r)));
    let count = read::number(report, "/clusters/count").unwrap_or(sizes.len() as f64);
    let mut lines = vec![format!("{count} clusters by single linkage{radius}."), String::new()];
    lines.extend(["| cluster | tokens | leader | centre |".to_owned(), "|---|---|---|---|".to_owned()]);
    // A table longer than this is for report.json.
    const MOST: usize = 12;
    for (k, size) in sizes.iter().enumerate().take(MOST) {
        let leader =
            read::number(report, &format!("/clusters/leaders/{k}")).map_or("–".to_owned(), |i| i.to_string());
        let centre = point(&read::column(report, &format!("/clusters/centers/{k}")));
        lines.push(format!("| {k} | {} | {leader} | {centre} |", size.unwrap_or(0.0)));
    }
    if sizes.len() > MOST {
        lines.push(format!("\n… and {} more in `report.json`.", sizes.len() - MOST));
    }
    lines
}

fn point(coordinates: &[Option<f64>]) -> String {
    let shown: Vec<String> =
        coordinates.iter().take(4).map(|x| x.map_or("–".to_owned(), |x| format!("{x:.6}"))).collect();
    let more = if coordinates.len() > 4 { ", …" } else { "" };
    format!("({}{more})", shown.join(", "))
}

fn gaussian(verdict: &Value) -> Vec<String> {
    if !verdict.is_object() {
        return Vec::new();
    }
    let mut lines = vec![format!("- regime: {}", plain(read::text(verdict, "/regime")))];
    if let Some(rank) = read::number(verdict, "/limit_rank") {
        lines.push(format!("- rank of the limit: {rank}"));
    }
    if let (Some(fit), Some(lower), Some(upper)) = (
        read::number(verdict, "/blow_up/fit"),
        read::number(verdict, "/blow_up/lower"),
        read::number(verdict, "/blow_up/upper"),
    ) {
        lines.push(format!("- blow-up at t = {fit:.12}, in [{lower:.12}, {upper:.12}]"));
    }
    let proven = if verdict["certificate"]["is_proven"] == true {
        "proves the regime"
    } else {
        "does not prove the regime alone"
    };
    lines.push(format!("- certificate, which {proven}: {}", plain(read::text(verdict, "/certificate/statement"))));
    lines
}

fn twin(report: &Value) -> Vec<String> {
    if !report["twin"].is_object() || report["gaussian"].is_object() {
        return Vec::new();
    }
    let horizon = read::horizon(report)
        .map_or(String::new(), |t| format!(" within {} = {}", read::axis_symbol(report), short(t)));
    let mut lines = vec!["| event | time | bracket |".to_owned(), "|---|---|---|".to_owned()];
    for (key, words, _) in TWIN_TIMES {
        let Some(found) = read::twin_time(report, key) else { continue };
        let value = found.value.map_or(format!("never{horizon}"), |t| format!("{t:.6}"));
        let bracket = found.bracket.map_or(String::new(), |(low, high)| format!("[{low:.6}, {high:.6}]"));
        lines.push(format!("| {words} | {value} | {bracket} |"));
    }
    lines.push(String::new());
    if let Some(most) = read::number(report, "/twin/max_distance") {
        lines.push(format!("Largest distance between a token and its twin: {}.", short(most)));
    }
    for key in ["/twin/bound_source", "/twin/bound_reason"] {
        let sentence = read::text(report, key);
        if !sentence.is_empty() {
            lines.push(format!("Envelope: {}", plain(sentence)));
        }
    }
    lines
}

fn cascade(report: &Value) -> Vec<String> {
    let events = read::array(report, "/twin/cascade/events");
    if events.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![
        "| slow time s | release | from → into | predicted merge | simulated merge |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    for event in events {
        let show = |key: &str| read::number(event, key).map_or("–".to_owned(), short);
        lines.push(format!(
            "| {} | {} | {} → {} | {} | {} |",
            show("/slow_time"),
            show("/release_time"),
            plain(&event["from"].to_string()),
            plain(&event["into"].to_string()),
            show("/merge_time"),
            show("/simulated_merge_time")
        ));
    }
    let source = read::text(report, "/twin/cascade/source");
    if !source.is_empty() {
        lines.extend([String::new(), plain(source)]);
    }
    lines
}

fn failures(report: &Value) -> Vec<String> {
    let line = |failure: &Value| {
        format!("- {}: {}", plain(read::text(failure, "/place")), plain(read::text(failure, "/error")))
    };
    read::array(report, "/failures").iter().map(line).collect()
}

fn model(report: &Value) -> Vec<String> {
    let Some(model) = report["model"].as_object() else { return Vec::new() };
    let value = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    model
        .iter()
        .filter(|(_, v)| !v.is_null())
        .map(|(key, v)| format!("- {}: {}", plain(key), plain(&value(v))))
        .collect()
}

fn provenance(report: &Value) -> Vec<String> {
    let Some(provenance) = report["provenance"].as_object() else { return Vec::new() };
    let mut lines = Vec::new();
    for (key, value) in provenance.iter().filter(|(key, value)| *key != "inputs" && !value.is_null()) {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        lines.push(format!("- {}: {}", plain(key), plain(&shown)));
    }
    for input in read::array(report, "/provenance/inputs") {
        lines.push(format!(
            "- input {}: sha256 {}",
            plain(read::text(input, "/path")),
            plain(read::text(input, "/sha256"))
        ));
    }
    lines
}
