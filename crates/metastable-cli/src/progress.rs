//! Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing when not wanted.

use std::env;
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use metastable::watch::CHECKPOINT_INTERVAL;
use metastable::{Interruption, LabError, Watcher};

use crate::args::Global;
use crate::signals::Signals;

/// The bar counts in these parts of the whole.
const PARTS: u64 = 10_000;
/// How often a log that is not a terminal gets a line.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Seconds between two checkpoints of a long run, for slow disks and for tests; 0 saves after every step. Results do
/// not depend on it.
const CHECKPOINT_SECONDS: &str = "METASTABLE_CHECKPOINT_SECONDS";

/// Shows a job's progress and passes on requests to stop.
#[derive(Debug)]
pub(crate) struct Progress {
    display: Display,
    notices: bool,
    details: bool,
    checkpoint_interval: Duration,
    signals: Signals,
    clock: Clock,
}

#[derive(Debug)]
enum Display {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Progress {
    /// Progress as the flags, the terminal and METASTABLE_CHECKPOINT_SECONDS ask for.
    ///
    /// # Errors
    /// [`LabError::Setting`] if that variable is no number of seconds.
    pub(crate) fn new(global: &Global, signals: Signals) -> Result<Self, LabError> {
        let checkpoint_interval = checkpoint_interval(env::var_os(CHECKPOINT_SECONDS).as_deref())?;
        let display = if global.quiet || global.no_progress {
            Display::Silent
        } else if std::io::stderr().is_terminal() {
            Display::Bar(bar())
        } else {
            Display::Lines
        };
        let (notices, details) = (!global.quiet, global.verbose > 0);
        let clock = Clock::start(Instant::now());
        Ok(Self { display, notices, details, checkpoint_interval, signals, clock })
    }

    /// Takes the bar away, before other words on the terminal.
    pub(crate) fn clear(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

impl Watcher for Progress {
    fn progress(&mut self, fraction: f64, message: &str) {
        let line = self.clock.line(Instant::now(), fraction, message);
        match (&self.display, line) {
            (Display::Bar(bar), _) => {
                bar.set_position((fraction.clamp(0.0, 1.0) * PARTS as f64) as u64);
                bar.set_message(message.to_owned());
            }
            (Display::Lines, Some(line)) => eprintln!("{line}"),
            _ => {}
        }
    }

    fn notice(&mut self, message: &str) {
        match &self.display {
            _ if !self.notices => {}
            Display::Bar(bar) => bar.suspend(|| eprintln!("note: {message}")),
            _ => eprintln!("note: {message}"),
        }
    }

    fn detail(&mut self, message: &str) {
        if self.details {
            self.notice(message);
        }
    }

    fn checkpoint_interval(&self) -> Duration {
        self.checkpoint_interval
    }

    fn interrupted(&self) -> Option<Interruption> {
        self.signals.received()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The time between two checkpoints that the environment asks for, or the lab's own.
fn checkpoint_interval(seconds: Option<&OsStr>) -> Result<Duration, LabError> {
    let Some(text) = seconds.filter(|text| !text.is_empty()) else { return Ok(CHECKPOINT_INTERVAL) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| LabError::Setting {
        name: CHECKPOINT_SECONDS.into(),
        expected: "a number of seconds, 0 or more".into(),
        found: text.to_string_lossy().into_owned(),
    })
}

fn bar() -> ProgressBar {
    let template = "{percent:>3}% {bar:30} {elapsed} elapsed, {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).expect("the template above is well-formed");
    ProgressBar::new(PARTS).with_style(style.progress_chars("=> "))
}

/// Rate and remaining time, from when the job began to report (a resumed job begins at its checkpoint).
#[derive(Debug)]
struct Clock {
    start: Instant,
    first: Option<f64>,
    last_line: Instant,
}

impl Clock {
    fn start(now: Instant) -> Self {
        Self { start: now, first: None, last_line: now }
    }

    /// A line for the log, if the last one is long enough ago.
    fn line(&mut self, now: Instant, fraction: f64, message: &str) -> Option<String> {
        let first = *self.first.get_or_insert(fraction);
        if now.duration_since(self.last_line) < LINE_EVERY {
            return None;
        }
        self.last_line = now;
        let rate = (fraction - first) / now.duration_since(self.start).as_secs_f64();
        let left = if rate > 0.0 {
            format!(", {:.2} %/s, about {} left", 100.0 * rate, duration((1.0 - fraction) / rate))
        } else {
            String::new()
        };
        Some(format!("{:5.1} %{left}  {message}", 100.0 * fraction))
    }
}

/// Seconds in the largest sensible units, as "2 h 05 min".
fn duration(seconds: f64) -> String {
    // Saturates for rates so small that nobody waits for the end.
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_sparse_and_know_rate_and_remaining_time() {
        let start = Instant::now();
        let mut clock = Clock::start(start);
        assert_eq!(clock.line(start, 0.5, "t = 5"), None);
        assert_eq!(clock.line(start + Duration::from_secs(9), 0.55, "t = 5.5"), None);
        let line = clock.line(start + Duration::from_secs(20), 0.6, "t = 6").unwrap();
        assert_eq!(line, " 60.0 %, 0.50 %/s, about 1 min 20 s left  t = 6");
        assert_eq!(clock.line(start + Duration::from_secs(21), 0.61, "t = 6.1"), None);
    }

    #[test]
    fn no_progress_promises_no_end() {
        let start = Instant::now();
        let mut clock = Clock::start(start);
        assert_eq!(clock.line(start + LINE_EVERY, 0.0, "t = 0").unwrap(), "  0.0 %  t = 0");
    }

    #[test]
    fn durations_read_naturally() {
        let texts = [(7.4, "7 s"), (80.0, "1 min 20 s"), (7500.0, "2 h 05 min")];
        for (seconds, text) in texts {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn the_environment_may_set_the_time_between_checkpoints() {
        let interval = |text: &str| checkpoint_interval(Some(OsStr::new(text)));
        assert_eq!(checkpoint_interval(None).unwrap(), CHECKPOINT_INTERVAL);
        assert_eq!(interval("").unwrap(), CHECKPOINT_INTERVAL);
        assert_eq!(interval("0.25").unwrap(), Duration::from_millis(250));
        for wrong in ["soon", "-1", "nan", "inf"] {
            assert!(interval(wrong).unwrap_err().to_string().starts_with(CHECKPOINT_SECONDS), "{wrong}");
        }
    }

    #[test]
    fn the_bar_is_well_formed() {
        bar();
    }
}
