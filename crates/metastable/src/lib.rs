//! The lab: configurations in, run folders and reports out.
//!
//! Reading order: [`document`] reads configurations and [`arrays`] reads numbers; [`run_dir`] is the only writer;
//! [`table`] and [`provenance`] make what it writes; [`selftest`] evaluates the closed forms in this build;
//! [`watch`] is how a face follows a long job; [`error`] is what
//! can go wrong.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
pub mod arrays;
pub mod display;
pub mod document;
pub mod error;
pub mod finetune;
pub mod hub;
pub mod inspect;
pub mod observables;
pub mod provenance;
pub mod publish;
pub mod render;
pub mod report;
pub mod run_dir;
pub mod schema;
pub mod selftest;
pub mod simulate;
pub mod smoothness;
pub mod sweep;
pub mod table;
pub mod threads;
pub mod watch;

pub use error::{ErrorKind, LabError, Location};
pub use run_dir::{Existing, RunDir};
pub use watch::{Interruption, Unwatched, Watcher};
