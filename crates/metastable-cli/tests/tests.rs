//! Tests of the program as scripts see it: arguments in; streams, files and exit codes out.
#![allow(clippy::unwrap_used)]

mod bad_config;
mod bad_files;
mod bert;
mod edges;
mod field;
mod folders;
mod gaussian;
mod inspect;
#[cfg(unix)]
mod interrupted;
mod main_job;
mod regimes;
mod threads;
mod usage;
mod util;
