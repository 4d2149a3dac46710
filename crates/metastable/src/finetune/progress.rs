//! How far a run is: all that a checkpoint holds.

use metastable_model::train::{Diagnostics, Evaluation, SessionState, StepReport};
use serde::{Deserialize, Serialize};

use super::probe::ProbeRow;

/// The state of an unfinished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps made.
    pub(super) step: u64,
    /// What the session holds; only while a checkpoint is written or read.
    pub(super) session: Option<SessionState>,
    /// Before the first step.
    pub(super) base: Option<Evaluation>,
    pub(super) best: Option<Best>,
    /// Evaluations since the best.
    pub(super) stale: u64,
    pub(super) metrics: Vec<Metrics>,
    /// Tokens trained on, and the seconds it took.
    pub(super) tokens: u64,
    pub(super) seconds: f64,
    /// Why the run ended before its last step.
    pub(super) stopped_early: bool,
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) step: u64,
    pub(super) evaluation: Evaluation,
    pub(super) session: SessionState,
}

/// One line of metrics.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Steps made, from 1.
    pub step: u64,
    /// The mean loss of the batch, before the step.
    pub loss: f64,
    /// The loss on held-out examples after the step, where it was measured.
    pub eval_loss: Option<f64>,
    /// The share of held-out labels with the highest score.
    pub eval_accuracy: Option<f64>,
    /// Tokens a second of this step.
    pub tokens_per_second: f64,
    /// The largest ‖BᵀB - A Aᵀ‖ of a module after the step, relative to ‖A‖² + ‖B‖².
    pub gap: f64,
    /// The median condition number; null while it is infinite.
    pub kappa: Option<f64>,
    /// What it would be in balance.
    pub kappa_balanced: Option<f64>,
    /// The median number of singular values above 1 % of the largest.
    pub used_rank: f64,
    /// ‖ΔW‖/‖W‖ over the adapted weights.
    pub relative_change: f64,
    /// The global gradient norm, before clipping.
    pub grad_norm: f64,
    /// Whether it was clipped.
    pub clipped: bool,
    /// Modules whose projection was due and not made.
    pub skipped: usize,
    /// The rate of the step.
    pub learning_rate: f64,
    /// What the adapter of this step does to the probe text, where it was asked.
    pub probe: Option<ProbeRow>,
}

impl Metrics {
    pub(super) fn new(step: u64, report: &StepReport, now: &Diagnostics, learning_rate: f64, seconds: f64) -> Self {
        Self {
            step,
            loss: report.loss,
            eval_loss: None,
            eval_accuracy: None,
            tokens_per_second: report.tokens as f64 / seconds.max(1e-9),
            gap: now.gap,
            kappa: now.kappa,
            kappa_balanced: now.kappa_balanced,
            used_rank: now.used_rank,
            relative_change: now.relative_change,
            grad_norm: report.grad_norm,
            clipped: report.clipped,
            skipped: report.skipped,
            learning_rate,
            probe: None,
        }
    }
}

impl Progress {
    pub(super) fn start() -> Self {
        Self {
            step: 0,
            session: None,
            base: None,
            best: None,
            stale: 0,
            metrics: Vec::new(),
            tokens: 0,
            seconds: 0.0,
            stopped_early: false,
        }
    }

    /// Takes note of an evaluation at the present step; answers whether it is the best.
    pub(super) fn note(&mut self, evaluation: Evaluation, session: impl FnOnce() -> SessionState) -> bool {
        let better = self.best.as_ref().is_none_or(|best| evaluation.loss < best.evaluation.loss);
        if better {
            self.best = Some(Best { step: self.step, evaluation, session: session() });
            self.stale = 0;
        } else {
            self.stale += 1;
        }
        better
    }

    /// metrics.jsonl.
    pub(super) fn lines(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for metrics in &self.metrics {
            text.extend(serde_json::to_vec(metrics).expect("numbers always serialise"));
            text.push(b'\n');
        }
        text
    }
}
