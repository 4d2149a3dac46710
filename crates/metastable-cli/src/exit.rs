//! How the program ends: one line on stderr and an exit code that scripts can rely on.

use std::any::Any;
use std::panic::{self, PanicHookInfo};
use std::process::ExitCode;

use metastable::{ErrorKind, LabError};

/// The exit code of a kind of trouble (0 is success).
pub(crate) fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Config => 2,
        ErrorKind::Check => 3,
        ErrorKind::Input => 4,
        // EX_TEMPFAIL of sysexits.h: schedulers submit the same command again.
        ErrorKind::Checkpointed => 75,
        // 128 + SIGINT, as shells report it.
        ErrorKind::Interrupted => 130,
        _ => 1,
    }
}

/// Shows an error and its causes on stderr and answers the exit code.
///
/// A reader of stdout that has seen enough (`metastable … | head`) is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", one_line(&message(error)));
    let Some(lab) = error.downcast_ref::<LabError>() else { return ExitCode::FAILURE };
    if let Some(hint) = lab.hint() {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(code(lab.kind()))
}

/// The message with those causes that it does not already contain.
fn message(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |message, cause| {
        if message.contains(&cause) || is_io_detail(error) { message } else { format!("{message}: {cause}") }
    })
}

/// Reading and writing errors name their cause in plain words already.
fn is_io_detail(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LabError::Read { .. } | LabError::Write { .. }))
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Replaces Rust's panic message and backtrace by one line; whoever catches the panic ends with code 1.
pub(crate) fn install_panic_hook() {
    panic::set_hook(Box::new(|info| eprintln!("{}", panic_line(info))));
}

fn panic_line(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or(String::new(), |place| format!(" ({}:{})", place.file(), place.line()));
    internal_error(info.payload(), &place)
}

fn internal_error(payload: &dyn Any, place: &str) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    format!("internal error: {}{place}; please report this with the command and its configuration", one_line(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_contract() {
        let kinds = [
            (ErrorKind::Failure, 1),
            (ErrorKind::Config, 2),
            (ErrorKind::Check, 3),
            (ErrorKind::Input, 4),
            (ErrorKind::Checkpointed, 75),
            (ErrorKind::Interrupted, 130),
        ];
        for (kind, expected) in kinds {
            assert_eq!(code(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_reader_that_stops_reading_is_success() {
        let error = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(report(&error), ExitCode::SUCCESS);
    }

    #[test]
    fn causes_are_named_once() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = anyhow::Error::from(LabError::Read { file: "x.toml".into(), source });
        assert_eq!(message(&error), "x.toml: cannot be read: no such file");
        let wrapped = anyhow::anyhow!("inner\ncause").context("outer");
        assert_eq!(one_line(&message(&wrapped)), "outer: inner; cause");
    }

    #[test]
    fn panics_become_one_line() {
        let line = internal_error(&"index 3\nout of range", " (src/a.rs:7)");
        let expected = "internal error: index 3; out of range (src/a.rs:7); please report this with the command and its configuration";
        assert_eq!(line, expected);
    }
}
