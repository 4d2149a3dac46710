//! Requests to stop, as flags that the lab looks at between steps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metastable::Interruption;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code of a second Ctrl-C, which does not wait for a checkpoint.
const KILLED: i32 = 130;

/// The requests that have arrived so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    terminate: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
}

impl Signals {
    /// Listens from now on: SIGTERM and SIGUSR1 ask to save and leave, so does the first SIGINT; the second kills.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub(crate) fn listen() -> io::Result<Self> {
        let signals = Self::default();
        // Registered before the flag is: the first SIGINT finds it down, the second finds it up and ends the process.
        flag::register_conditional_shutdown(SIGINT, KILLED, Arc::clone(&signals.interrupt))?;
        flag::register(SIGINT, Arc::clone(&signals.interrupt))?;
        flag::register(SIGTERM, Arc::clone(&signals.terminate))?;
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&signals.terminate))?;
        Ok(signals)
    }

    /// The request to obey, if there is one; the user's goes before the scheduler's.
    pub(crate) fn received(&self) -> Option<Interruption> {
        if self.interrupt.load(Ordering::Relaxed) {
            Some(Interruption::Interrupt)
        } else if self.terminate.load(Ordering::Relaxed) {
            Some(Interruption::Terminate)
        } else {
            None
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use signal_hook::consts::SIGUSR1;
    use signal_hook::low_level::raise;

    use super::*;

    #[test]
    fn schedulers_and_users_are_told_apart() {
        // One test for all: signals are the process's, and tests share it. Each listener has flags of its own.
        for signal in [SIGTERM, SIGUSR1] {
            let signals = Signals::listen().unwrap();
            assert_eq!(signals.received(), None);
            raise(signal).unwrap();
            assert_eq!(signals.received(), Some(Interruption::Terminate));
        }
        let signals = Signals::listen().unwrap();
        raise(SIGINT).unwrap();
        assert_eq!(signals.received(), Some(Interruption::Interrupt));
    }
}
