//! The model floor from outside: synthetic encoders against a naive forward, hostile files, and real weights.
#![allow(missing_docs, clippy::unwrap_used)]

mod albert_from_minilm;
mod families;
mod forward;
mod golden;
mod heads;
mod hostile;
mod minilm;
mod text;
mod world;
