//! What a fine-tuning run says.

use serde::Serialize;

use super::probe::ProbeRow;
use super::progress::Metrics;
use super::written::FinetuneConfig;
use crate::provenance::Provenance;

/// The content of report.json.
#[derive(Debug, Clone, Serialize)]
pub struct FinetuneReport {
    /// The version of this layout.
    pub schema: u32,
    /// "finetune".
    pub job: &'static str,
    /// The config's title, or its file name.
    pub title: String,
    /// What happened, in sentences.
    pub summary: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Program, seed, machine and inputs.
    pub provenance: Provenance,
    /// The training loss of the last step.
    pub final_loss: f64,
    /// The loss on held-out examples of the adapter that is saved; null without held-out examples.
    pub eval_loss: Option<f64>,
    /// The share of held-out labels that get the highest score from the adapter that is saved.
    pub eval_accuracy: Option<f64>,
    /// The loss on held-out examples before training.
    pub base_eval_loss: Option<f64>,
    /// Trained tokens a second, over the whole run.
    pub tokens_per_second: f64,
    /// The most memory the process had; null where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Steps made.
    pub steps: u64,
    /// The step whose adapter is saved.
    pub saved_step: u64,
    /// Why the run ended: `max_steps` or `early_stop`.
    pub stop: &'static str,
    /// Projections that were due and not made.
    pub skipped_projections: usize,
    /// Steps whose gradient was clipped.
    pub clipped_steps: usize,
    /// Counts of the data.
    pub data: DataSummary,
    /// The adapter.
    pub adapter: AdapterSummary,
    /// The equivalent setting at scale 1 under Adam: lr·σ and σ.
    pub effective: EffectiveSummary,
    /// What the adapter of the last step does to the probe text; the numbers of `inspect --adapter`.
    pub probe: Option<ProbeRow>,
    /// One entry a step, as in metrics.jsonl.
    pub series: Vec<Metrics>,
    /// The configuration.
    pub config: FinetuneConfig,
}

/// Counts of the data.
#[derive(Debug, Clone, Serialize)]
pub struct DataSummary {
    /// Examples to learn from.
    pub train: usize,
    /// Held-out examples.
    pub held_out: usize,
    /// Names of the classes, of a classification.
    pub labels: Vec<String>,
    /// Texts that were cut to `max_seq_length`.
    pub cut: usize,
}

/// The adapter that was trained.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterSummary {
    /// Trained numbers, the head included.
    pub parameters: usize,
    /// The adapted modules.
    pub modules: Vec<String>,
    /// alpha/r, or alpha/sqrt(r).
    pub scale: f64,
}

/// The two numbers that matter under Adam.
#[derive(Debug, Clone, Serialize)]
pub struct EffectiveSummary {
    /// lr·σ.
    pub learning_rate: f64,
    /// σ.
    pub sigma: f64,
}
