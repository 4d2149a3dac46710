//! Distances between clouds as measures.

pub mod transport;
