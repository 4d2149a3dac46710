//! The loop: batches in order, steps, evaluations, checkpoints.

use std::time::{Duration, Instant};

use metastable_model::ModelError;
use metastable_model::train::{Evaluation, Example, Schedule, Session};

use super::examples::{Masking, Order};
use super::probe::Probe;
use super::progress::{Metrics, Progress};
use super::tensorboard::Events;
use super::written::FinetuneConfig;
use crate::error::LabError;
use crate::run_dir::RunDir;
use crate::watch::{Interruption, Watcher};

/// What a run works on.
pub(super) struct Work<'a> {
    pub(super) config: &'a FinetuneConfig,
    pub(super) schedule: Schedule,
    pub(super) train: &'a [Example],
    pub(super) held_out: &'a [Example],
    /// How tokens are hidden, in a masked language model, and which never are.
    pub(super) masking: Option<(Masking, &'a dyn Fn(u32) -> bool)>,
    /// The text on which tokens are followed.
    pub(super) probe: Option<Probe>,
}

/// Why a loop ended before its last step.
pub(super) enum Ended {
    /// Asked to; the state is saved.
    Stopped(Interruption),
    /// A loss, a gradient or a factor is not finite.
    Diverged(ModelError),
    /// Anything else.
    Failed(LabError),
}

impl From<LabError> for Ended {
    fn from(error: LabError) -> Self {
        Self::Failed(error)
    }
}

/// Trains to the last step, or to what ends the run before.
///
/// # Errors
/// [`Ended`].
pub(super) fn train(
    work: &Work<'_>,
    session: &mut Session,
    progress: &mut Progress,
    folder: &mut RunDir,
    watcher: &mut dyn Watcher,
) -> Result<(), Ended> {
    let optimizer = &work.config.optimizer;
    let mut order = Order::new(work.train.len(), work.config.seed);
    let mut saved = Instant::now();
    if progress.base.is_none() && !work.held_out.is_empty() {
        watcher.progress(0.0, "evaluating the model as it is");
        progress.base = Some(evaluate(work, session).map_err(failed)?);
    }
    let mut events = Events::open(folder, progress.step)?;
    while progress.step < optimizer.max_steps && !progress.stopped_early {
        if let Some(interruption) = watcher.interrupted() {
            save(session, progress, folder)?;
            return Err(Ended::Stopped(interruption));
        }
        let started = Instant::now();
        let batches = batches(work, progress.step, &mut order);
        let rate = work.schedule.rate(progress.step);
        let borrowed: Vec<Vec<&Example>> = batches.iter().map(|batch| batch.iter().collect()).collect();
        let report = match session.step(&borrowed, rate) {
            Ok(report) => report,
            Err(error @ ModelError::Diverged { .. }) => {
                save(session, progress, folder)?;
                return Err(Ended::Diverged(error));
            }
            Err(error) => return Err(failed(error)),
        };
        let seconds = started.elapsed().as_secs_f64();
        progress.step += 1;
        progress.tokens += report.tokens as u64;
        progress.seconds += seconds;
        let diagnostics = session.diagnostics().map_err(failed)?;
        progress.metrics.push(Metrics::new(progress.step, &report, &diagnostics, rate, seconds));
        evaluate_if_due(work, session, progress)?;
        probe_if_due(work, session, progress)?;
        if let Some(metrics) = progress.metrics.last() {
            events.append(metrics)?;
        }
        tell(progress, optimizer.max_steps, watcher);
        if saved.elapsed() >= watcher.checkpoint_interval().max(Duration::from_millis(1)) {
            save(session, progress, folder)?;
            watcher.detail(&format!("saved the state of step {}", progress.step));
            saved = Instant::now();
        }
    }
    Ok(())
}

/// The micro-batches of a step.
fn batches(work: &Work<'_>, step: u64, order: &mut Order) -> Vec<Vec<Example>> {
    let (size, count) = (work.config.optimizer.batch_size as u64, work.config.optimizer.gradient_accumulation_steps);
    let first = step * size * count as u64;
    let mut example = |position: u64| {
        let example = &work.train[order.at(position)];
        match &work.masking {
            Some((masking, is_special)) => masking.apply(example, position, *is_special),
            None => example.clone(),
        }
    };
    (0..count as u64).map(|batch| (0..size).map(|i| example(first + batch * size + i)).collect()).collect()
}

fn evaluate_if_due(work: &Work<'_>, session: &Session, progress: &mut Progress) -> Result<(), Ended> {
    let evaluation = &work.config.evaluation;
    let last = progress.step == work.config.optimizer.max_steps;
    if work.held_out.is_empty() || !(progress.step.is_multiple_of(evaluation.every) || last) {
        return Ok(());
    }
    let found = evaluate(work, session).map_err(failed)?;
    if let Some(metrics) = progress.metrics.last_mut() {
        (metrics.eval_loss, metrics.eval_accuracy) = (Some(found.loss), Some(found.accuracy));
    }
    progress.note(found, || session.state());
    progress.stopped_early = evaluation.patience.is_some_and(|patience| progress.stale >= patience) && !last;
    Ok(())
}

fn probe_if_due(work: &Work<'_>, session: &Session, progress: &mut Progress) -> Result<(), Ended> {
    let last = progress.step == work.config.optimizer.max_steps || progress.stopped_early;
    let Some(probe) = work.probe.as_ref().filter(|probe| probe.is_due(progress.step, last)) else { return Ok(()) };
    let row = probe.measure(session, &work.config.model)?;
    if let Some(metrics) = progress.metrics.last_mut() {
        metrics.probe = Some(row);
    }
    Ok(())
}

/// Masks of held-out examples are the same in every evaluation: their positions lie beyond any training run's.
const HELD_OUT: u64 = 1 << 60;

fn evaluate(work: &Work<'_>, session: &Session) -> Result<Evaluation, ModelError> {
    let size = work.config.optimizer.batch_size;
    let Some((masking, is_special)) = &work.masking else { return session.evaluate(work.held_out, size) };
    let masked = |(i, example)| masking.apply(example, HELD_OUT + i as u64, *is_special);
    let hidden: Vec<Example> = work.held_out.iter().enumerate().map(masked).collect();
    session.evaluate(&hidden, size)
}

fn save(session: &Session, progress: &mut Progress, folder: &mut RunDir) -> Result<(), LabError> {
    folder.write("metrics.jsonl", &progress.lines())?;
    progress.session = Some(session.state());
    let state = postcard::to_stdvec(progress).expect("numbers, lists and enums always serialise");
    progress.session = None;
    folder.save_checkpoint(&state)
}

fn tell(progress: &Progress, steps: u64, watcher: &mut dyn Watcher) {
    let Some(last) = progress.metrics.last() else { return };
    let mut message = format!("step {}: loss {:.4}", last.step, last.loss);
    if let Some(best) = &progress.best {
        message += &format!(", best held-out {:.4}", best.evaluation.loss);
    }
    watcher.progress(progress.step as f64 / steps as f64, &message);
}

fn failed(error: ModelError) -> Ended {
    match error {
        error @ ModelError::Diverged { .. } => Ended::Diverged(error),
        other => Ended::Failed(other.into()),
    }
}
