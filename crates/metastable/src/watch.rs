//! What a long job tells the outside, and how the outside asks it to stop.
//!
//! The lab owns no terminal and no signal handler: a face hands in a [`Watcher`].

use std::time::Duration;

/// How often the state of a long run is saved, unless a face wants it otherwise.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Why a run was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// The scheduler wants the machine back (SIGTERM, SIGUSR1): the same command will be submitted again.
    Terminate,
    /// The user pressed Ctrl-C (SIGINT).
    Interrupt,
}

impl std::fmt::Display for Interruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Terminate => "stopped on request",
            Self::Interrupt => "interrupted",
        })
    }
}

/// Follows a long job from outside; called between steps, never inside one.
pub trait Watcher {
    /// Hears that `fraction` (0 to 1) of the work is done and what is going on, such as "t = 3.2".
    fn progress(&mut self, fraction: f64, message: &str);

    /// Hears something the user should know that is no error, such as a damaged checkpoint.
    fn notice(&mut self, message: &str);

    /// Hears something that only a curious user wants to know, such as that the state was saved.
    fn detail(&mut self, _message: &str) {}

    /// Says how much time may pass until the state is saved again; results do not depend on it.
    fn checkpoint_interval(&self) -> Duration {
        CHECKPOINT_INTERVAL
    }

    /// Says whether the job should save its state and stop.
    fn interrupted(&self) -> Option<Interruption>;
}

/// Nobody watches: for tests and for callers without a terminal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn progress(&mut self, _fraction: f64, _message: &str) {}

    fn notice(&mut self, _message: &str) {}

    fn interrupted(&self) -> Option<Interruption> {
        None
    }
}
