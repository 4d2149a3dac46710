//! Tests of the program as scripts see it: arguments in; streams, files and exit codes out.
#![allow(clippy::unwrap_used)]

mod adapter;
mod bad_config;
mod bad_files;
mod bert;
mod edges;
mod families;
mod field;
mod finetune;
mod folders;
mod gaussian;
mod hub;
mod idealised;
mod inspect;
mod inspect_adapter;
#[cfg(unix)]
mod interrupted;
mod lipschitz;
mod lipschitz_model;
mod main_job;
mod peft;
mod regimes;
#[cfg(unix)]
mod sweep;
mod threads;
mod usage;
mod util;
