//! The figures of fine-tuning runs, one or several, and their summary in Markdown, from reports alone.

mod plot;

use serde_json::Value;

use super::read;
use super::svg::{INK, SOFT};
use plot::{Figure, Quantity, Run, draw, layers};

const fn quantity(key: &'static str, words: &'static str, colour: &'static str, dash: &'static str) -> Quantity {
    Quantity { key, words, colour, dash }
}

const FIGURES: [Figure; 8] = [
    Figure {
        file: "loss.svg",
        title: "Loss",
        label: "loss (nats)",
        is_log: false,
        quantities: &[
            quantity("loss", "training batch", SOFT, "2 2"),
            quantity("eval_loss", "held out", "#0072b2", ""),
        ],
    },
    Figure {
        file: "condition.svg",
        title: "Condition number of the factors (median over modules)",
        label: "condition number",
        is_log: true,
        quantities: &[
            quantity("kappa", "of the factors", "#d55e00", ""),
            quantity("kappa_balanced", "in balance", INK, "6 2.5"),
        ],
    },
    Figure {
        file: "gap.svg",
        title: "Distance from balance: largest |BᵀB − AAᵀ| / (|A|² + |B|²)",
        label: "gap",
        is_log: true,
        quantities: &[quantity("gap", "largest of all modules", "#d55e00", "")],
    },
    Figure {
        file: "rank.svg",
        title: "Used rank (median number of singular values above 1 % of the largest)",
        label: "rank",
        is_log: false,
        quantities: &[quantity("used_rank", "used rank", "#009e73", "")],
    },
    Figure {
        file: "change.svg",
        title: "How far the adapted weights moved",
        label: "|ΔW| / |W|",
        is_log: false,
        quantities: &[quantity("relative_change", "all modules", "#009e73", "")],
    },
    Figure {
        file: "gradient.svg",
        title: "Gradient norm, before clipping",
        label: "norm",
        is_log: true,
        quantities: &[quantity("grad_norm", "all trained numbers", "#cc79a7", "")],
    },
    Figure {
        file: "skipped.svg",
        title: "Projections that were due and not made",
        label: "modules",
        is_log: false,
        quantities: &[quantity("skipped", "skipped", "#e69f00", "")],
    },
    Figure {
        file: "speed.svg",
        title: "Speed",
        label: "tokens a second",
        is_log: false,
        quantities: &[quantity("tokens_per_second", "tokens a second", INK, "")],
    },
];

/// Numbers of the probe text that become a map, layers by steps.
const MAPS: [(&str, &str, &str); 3] = [
    ("probe-shift.svg", "shift_relative", "Probe text: how far tokens moved, |X̃ − X| / |X|"),
    ("probe-cosine.svg", "cosine", "Probe text: mean cosine between a token and its twin"),
    ("probe-clusters.svg", "clusters_changed", "Probe text: tokens in another cluster"),
];

/// The figures of a report of `finetune`, or of several in comparison, as (file name, SVG); none for other jobs.
pub(super) fn figures(report: &Value) -> Vec<(String, String)> {
    let rows = |of: &'static str, report| read::array(report, of);
    let (runs, one): (Vec<Run<'_>>, _) = match read::text(report, "/job") {
        "finetune" => (vec![Run { name: read::text(report, "/title"), rows: rows("/series", report) }], true),
        "comparison" => {
            let runs = read::array(report, "/runs").iter();
            (runs.map(|run| Run { name: read::text(run, "/name"), rows: rows("/series", run) }).collect(), false)
        }
        _ => return Vec::new(),
    };
    let drawn = FIGURES.iter().filter_map(|figure| Some((figure.file.to_owned(), draw(figure, &runs)?)));
    let mut drawn: Vec<(String, String)> = drawn.collect();
    for (file, key, title) in MAPS {
        for (place, run) in runs.iter().enumerate() {
            let (name, title) = match one {
                true => (file.to_owned(), title.to_owned()),
                false => (file.replace(".svg", &format!("-{}.svg", place + 1)), format!("{}: {title}", run.name)),
            };
            drawn.extend(layers(run.rows, key, &title).map(|svg| (name, svg)));
        }
    }
    drawn
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
    ("level of the first cluster change on the probe text", "/probe/departure"),
];

/// What Markdown says of a fine-tuning run, as list entries; empty for other jobs.
pub(super) fn run_lines(report: &Value) -> Vec<String> {
    if report["job"] != "finetune" {
        return Vec::new();
    }
    let line = |(name, pointer): &(&str, &str)| {
        let value = report.pointer(pointer).filter(|value| !value.is_null())?;
        let words = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(format!("- {name}: {words}"))
    };
    ROWS.iter().filter_map(line).collect()
}

/// The columns of a comparison: heading and key of a run.
const COLUMNS: [(&str, &str); 9] = [
    ("method", "method"),
    ("learning rate", "learning_rate"),
    ("rank", "rank"),
    ("seed", "seed"),
    ("steps", "steps"),
    ("training loss", "final_loss"),
    ("held-out loss", "eval_loss"),
    ("accuracy", "eval_accuracy"),
    ("tokens/s", "tokens_per_second"),
];

/// The table of a comparison in Markdown; empty for other jobs.
pub(super) fn comparison_table(report: &Value, plain: impl Fn(&str) -> String) -> Vec<String> {
    if report["job"] != "comparison" {
        return Vec::new();
    }
    let headings: Vec<&str> = COLUMNS.iter().map(|(heading, _)| *heading).collect();
    let mut lines =
        vec![format!("| run | {} |", headings.join(" | ")), format!("|{}", "---|".repeat(COLUMNS.len() + 1))];
    for run in read::array(report, "/runs") {
        let cell = |(_, key): &(&str, &str)| match &run[*key] {
            Value::Null => "–".to_owned(),
            Value::Number(number) => number.as_f64().map_or_else(String::new, read::short),
            other => plain(other.as_str().unwrap_or_default()),
        };
        let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
        lines.push(format!("| {} | {} |", plain(read::text(run, "/name")), cells.join(" | ")));
    }
    lines
}
