//! Attention kernels: Score x Normalization x Mask, evaluated by streaming over tokens.
//!
//! [`kernel`] names the choices; [`projections`] holds queries and keys of a cloud; [`streaming`] turns them into
//! fields without ever holding n x n weights; [`statistics`] reads energies, leaders and, on demand, weights from them;
//! [`jacobian`] differentiates the fields, exactly and in the same memory.

mod exponential;
pub mod fused;
pub mod jacobian;
pub mod kernel;
pub mod projections;
pub mod statistics;
pub mod streaming;

pub use kernel::{AttentionKernel, Mask, Normalization, Score};
pub use projections::Projections;
