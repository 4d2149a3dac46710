//! The `metastable` command: parse, call the lab, show. Nothing is computed here.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod commands;
mod exit;
mod progress;
mod signals;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use metastable::threads::use_threads;

use crate::args::{Cli, Command};
use crate::progress::Progress;
use crate::signals::Signals;

fn main() -> ExitCode {
    exit::install_panic_hook();
    // Caught rather than aborted, so that a run folder is tidied up on the way.
    match catch_unwind(AssertUnwindSafe(|| run(Cli::parse()))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => exit::report(&error),
        Err(_panic) => ExitCode::FAILURE,
    }
}

/// The table of contents.
fn run(cli: Cli) -> Result<()> {
    let Cli { command, global } = cli;
    if let Some(count) = global.threads {
        use_threads(count)?;
    }
    let mut progress = Progress::new(&global, Signals::listen()?)?;
    match command {
        Command::Simulate(args) => commands::simulate::run(&args, global.format, &mut progress),
        Command::Sweep(args) => commands::sweep::run(&args, global.format, &mut progress),
        Command::Field(args) => commands::field::run(args),
        Command::Lipschitz(args) => commands::lipschitz::run(args, &global, &mut progress),
        Command::Inspect(args) => commands::inspect::run(args, &global, &mut progress),
        Command::Adapter(args) => commands::adapter::run(args, &global, &mut progress),
        Command::Finetune(args) => commands::finetune::run(&args, &global, &mut progress),
        Command::Logits(args) => commands::inspect::logits(&args, &global, &mut progress),
        Command::Render(args) => commands::render::run(&args),
        Command::Schema(args) => commands::schema::run(&args),
        Command::Selftest => commands::selftest::run(global.format, &mut progress),
    }
}
