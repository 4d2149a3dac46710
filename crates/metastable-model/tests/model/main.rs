//! The model floor from outside: synthetic encoders against a naive forward, hostile files, and real weights.
#![allow(missing_docs, clippy::unwrap_used)]

mod albert_from_minilm;
mod families;
mod forward;
mod gguf;
mod golden;
mod heads;
mod hostile;
mod hostile_gguf;
mod minilm;
mod shards;
mod smollm2;
mod smoothness;
mod spectra;
mod sphere;
mod text;
mod world;
