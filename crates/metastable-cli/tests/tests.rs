//! Tests of the program as scripts see it: arguments in; streams, files and exit codes out.
#![allow(clippy::unwrap_used)]

mod usage;
mod util;
