//! All points, on all cores: one thread a point, every finished point in the journal at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::keep::{self, Misfit, Row};
use super::meant::Sweep;
use crate::error::LabError;
use crate::run_dir::RunDir;
use crate::simulate::{self, engine::Unfinished};
use crate::watch::{Interruption, Watcher};

/// How a point ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// What was kept of its report.
    Rows(Vec<Row>),
    /// The error that ended it.
    Failed(String),
}

/// A point and its outcome, as the journal holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    point: u64,
    outcome: Outcome,
}

/// How often the outside is looked at while points run.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the points that the journal does not have yet; answers the outcomes of all, in order.
///
/// # Errors
/// [`Unfinished::Stopped`] after the outside asked to stop, with the finished points in the journal; errors of the
/// journal; [`LabError::WrongValue`] for a kept path that no report has.
pub(super) fn run(sweep: &Sweep, folder: &mut RunDir, watcher: &mut dyn Watcher) -> Result<Vec<Outcome>, Unfinished> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; sweep.points()];
    for record in folder.open_journal()? {
        // A record with a good digest was written by this version for this config.
        if let Ok(Entry { point, outcome }) = postcard::from_bytes(&record)
            && let Some(slot) = usize::try_from(point).ok().and_then(|point| outcomes.get_mut(point))
        {
            *slot = Some(outcome);
        }
    }
    let pending: Vec<usize> = (0..outcomes.len()).filter(|point| outcomes[*point].is_none()).collect();
    let mut ledger = Ledger::new(outcomes, pending.len(), folder);
    let shared = Shared { sweep, pending: &pending, next: AtomicUsize::new(0), stop: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(1024);
        for _ in 0..rayon::current_num_threads().min(pending.len()) {
            let (sender, shared) = (sender.clone(), &shared);
            scope.spawn(move || shared.work(&sender));
        }
        drop(sender);
        let mut ended = Ok(());
        loop {
            let received = receiver.recv_timeout(LOOK);
            let is_over = matches!(received, Err(RecvTimeoutError::Disconnected));
            if ended.is_ok() {
                ended = match received {
                    Ok(done) => ledger.note(sweep, done, watcher),
                    Err(_) => Ok(()),
                }
                .and_then(|()| ledger.look(watcher));
                // Workers leave the points they are at; what they still send is let go.
                shared.stop.store(ended.is_err(), Ordering::Relaxed);
            }
            if is_over {
                break ended;
            }
        }
    })?;
    Ok(ledger.outcomes.into_iter().map(|outcome| outcome.expect("every point is done")).collect())
}

type Done = (usize, Result<Outcome, Trouble>);

/// What ends the whole sweep.
#[derive(Debug)]
enum Trouble {
    Misfit(Misfit),
    Threads(LabError),
}

/// What the workers share.
struct Shared<'a> {
    sweep: &'a Sweep,
    pending: &'a [usize],
    next: AtomicUsize,
    stop: AtomicBool,
}

impl Shared<'_> {
    /// Runs points until none is left, in a pool of one thread: whatever a point would share out stays with it.
    fn work(&self, sender: &mpsc::SyncSender<Done>) {
        let pool = match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
            Ok(pool) => pool,
            Err(source) => {
                // Nobody listens only if the sweep is over already.
                let _ = sender.send((0, Err(Trouble::Threads(LabError::Threads { count: 1, source }))));
                return;
            }
        };
        pool.install(|| {
            while let Some(&point) = self.pending.get(self.next.fetch_add(1, Ordering::Relaxed)) {
                let Some(outcome) = self.outcome(point) else { return };
                if self.stop.load(Ordering::Relaxed) || sender.send((point, outcome)).is_err() {
                    return;
                }
            }
        });
    }

    /// The outcome of a point; none if it was stopped.
    fn outcome(&self, point: usize) -> Option<Result<Outcome, Trouble>> {
        let mut watcher = PointWatcher { stop: &self.stop };
        let measured = catch_unwind(AssertUnwindSafe(|| {
            let config = self.sweep.simulation(point).map_err(Unfinished::Failed)?;
            simulate::measure(config, self.sweep.base_file(), &mut watcher)
        }));
        match measured {
            Ok(Ok(report)) => match keep::rows(&self.sweep.kept, self.sweep.config.rows, &report) {
                Ok(rows) => Some(Ok(Outcome::Rows(rows))),
                Err(misfit) => Some(Err(Trouble::Misfit(misfit))),
            },
            Ok(Err(Unfinished::Failed(error))) => Some(Ok(Outcome::Failed(error.to_string()))),
            Ok(Err(Unfinished::Stopped(_))) => None,
            Err(_panic) => Some(Ok(Outcome::Failed("internal error, see the words on stderr".into()))),
        }
    }
}

/// Lets a point run until the sweep stops.
struct PointWatcher<'a> {
    stop: &'a AtomicBool,
}

impl Watcher for PointWatcher<'_> {
    fn progress(&mut self, _fraction: f64, _message: &str) {}

    fn notice(&mut self, _message: &str) {}

    fn checkpoint_interval(&self) -> Duration {
        Duration::MAX
    }

    fn interrupted(&self) -> Option<Interruption> {
        self.stop.load(Ordering::Relaxed).then_some(Interruption::Terminate)
    }
}

/// The outcomes so far, and the journal that holds them.
struct Ledger<'a> {
    outcomes: Vec<Option<Outcome>>,
    folder: &'a mut RunDir,
    done: usize,
    failed: usize,
    last_sync: Instant,
    last_word: Instant,
}

impl<'a> Ledger<'a> {
    fn new(outcomes: Vec<Option<Outcome>>, pending: usize, folder: &'a mut RunDir) -> Self {
        let now = Instant::now();
        let done = outcomes.len() - pending;
        let failed = outcomes.iter().filter(|outcome| matches!(outcome, Some(Outcome::Failed(_)))).count();
        Self { outcomes, folder, done, failed, last_sync: now, last_word: now }
    }

    /// Writes a finished point down.
    fn note(&mut self, sweep: &Sweep, done: Done, watcher: &mut dyn Watcher) -> Result<(), Unfinished> {
        let (point, outcome) = done;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Trouble::Threads(error)) => return Err(error.into()),
            Err(Trouble::Misfit(Misfit { key, expected, found })) => {
                return Err(LabError::wrong_value(sweep.file(), &key, expected, found).into());
            }
        };
        self.failed += usize::from(matches!(outcome, Outcome::Failed(_)));
        self.done += 1;
        let entry = Entry { point: point as u64, outcome };
        self.folder.append(&postcard::to_stdvec(&entry).expect("numbers, lists and texts always serialise"))?;
        self.outcomes[point] = Some(entry.outcome);
        if self.last_sync.elapsed() >= watcher.checkpoint_interval() {
            self.folder.sync_journal()?;
            self.last_sync = Instant::now();
            watcher.detail(&format!("state saved: {}", self.words()));
        }
        Ok(())
    }

    /// Tells the outside, and asks whether to stop.
    fn look(&mut self, watcher: &mut dyn Watcher) -> Result<(), Unfinished> {
        if self.last_word.elapsed() >= Duration::from_millis(100) {
            self.last_word = Instant::now();
            watcher.progress(self.done as f64 / self.outcomes.len() as f64, &self.words());
        }
        match watcher.interrupted() {
            Some(interruption) if self.done < self.outcomes.len() => {
                self.folder.sync_journal()?;
                watcher.detail(&format!("state saved: {}", self.words()));
                Err(Unfinished::Stopped(interruption))
            }
            _ => Ok(()),
        }
    }

    fn words(&self) -> String {
        let failed = if self.failed > 0 { format!(", {} failed", self.failed) } else { String::new() };
        format!("{} of {} points{failed}", self.done, self.outcomes.len())
    }
}
