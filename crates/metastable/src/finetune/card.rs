//! The model card of an adapter: README.md beside PEFT's two files.

use super::report::FinetuneReport;
use super::written::TaskName;

/// The card, with the front matter that model hubs read.
pub(super) fn card(report: &FinetuneReport) -> String {
    let (config, data) = (&report.config, &report.data);
    let task = match config.data.task {
        TaskName::CausalLm => "causal language modelling",
        TaskName::MaskedLm => "masked language modelling",
        TaskName::Classification => "text classification",
    };
    let number = |value: Option<f64>| value.map_or("not measured".to_owned(), |value| format!("{value:.4}"));
    let mut text = format!(
        "---\nbase_model: {}\nlibrary_name: peft\ntags:\n- lora\n- metastable\n---\n\n# {}\n\nA LoRA adapter for {task}, trained with \
         metastable {}.\nIt loads unchanged in PEFT: `PeftModel.from_pretrained(base, folder)`.\n\n",
        quoted(&config.model),
        report.title,
        report.provenance.version,
    );
    let rows = [
        ("base model", config.model.clone()),
        ("method", serde_name(&config.optimizer.method)),
        ("rank, alpha", format!("{}, {}", config.lora.rank, config.lora.alpha)),
        ("adapted modules", report.adapter.modules.len().to_string()),
        ("trained numbers", report.adapter.parameters.to_string()),
        ("examples (training, held out)", format!("{}, {}", data.train, data.held_out)),
        ("steps, of which saved", format!("{}, {}", report.steps, report.saved_step)),
        ("held-out loss before training", number(report.base_eval_loss)),
        ("held-out loss of this adapter", number(report.eval_loss)),
        ("held-out accuracy of this adapter", number(report.eval_accuracy)),
        ("seed", config.seed.to_string()),
    ];
    text += "| | |\n|---|---|\n";
    for (name, value) in rows {
        text += &format!("| {name} | {} |\n", value.replace('|', "\\|").replace('\n', " "));
    }
    if !data.labels.is_empty() {
        text += "\nClasses, in the order of the scores:\n\n";
        data.labels.iter().for_each(|label| text += &format!("- {}\n", label.replace('\n', " ")));
    }
    text
}

/// As YAML wants strings.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// The name that configs use.
pub(super) fn serde_name<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
