//! Adapters from outside: files of the real `peft`, hostile files, other tools' layouts, rebalancing.
#![allow(missing_docs, clippy::unwrap_used)]

mod foreign;
mod hostile;
mod peft;
mod rebalance;
mod world;
