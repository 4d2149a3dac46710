//! Attention kernels: Score x Normalization x Mask, evaluated by streaming over tokens.
//!
//! [`kernel`] names the choices; [`projections`] holds queries and keys of a cloud; [`streaming`] turns them into
//! fields without ever holding n x n weights, large clouds through the kernels of [`fused`], [`sinkhorn`] where both
//! marginals are normalised; [`energy`] is what they climb or descend; [`statistics`] reads leaders and, on demand,
//! weights from them;
//! [`jacobian`] differentiates the fields, exactly and in the same memory.

pub mod energy;
mod exponential;
pub mod fused;
pub mod jacobian;
pub mod kernel;
mod lanes;
pub mod projections;
pub mod sinkhorn;
pub mod statistics;
pub mod streaming;

pub use kernel::{AttentionKernel, Mask, Normalization, Score, Sinkhorn, SinkhornStop};
pub use projections::Projections;
