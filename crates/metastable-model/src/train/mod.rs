//! Training of low-rank adapters: optimizers of factor pairs, and the rules that rival methods add to them.
//!
//! Everything here works on one pair of factors at a time, in f64: A [r, in], B [out, r], W = W0 + s·B A. Masters and
//! moments are therefore exact where bf16 and f32 factors would drift; an adapter has a thousandth of its model's
//! numbers, so this costs nothing.
//!
//! Reading order: [`base`] moves factors along gradients (AdamW, SGD, signs); [`method`] is the closed list of methods
//! and composes each from a change of the gradient, a base step and a change of the factors; each rival has its file.
//! [`schedule`] and [`mod@clip`] are what every loop needs; [`init`] is where pairs start; [`translate`] says which
//! settings are the same.

pub mod balora;
pub mod base;
pub mod clip;
pub mod dora;
pub mod init;
pub mod lora_fa;
pub mod lora_plus;
pub mod lora_pro;
pub mod lora_rite;
pub mod method;
pub mod norm_balance;
pub mod reflora;
pub mod riemannian;
pub mod schedule;
pub mod translate;

mod symmetric;
#[cfg(test)]
mod tests;

pub use balora::{Balora, Form};
pub use base::{Base, Gradient, Rates};
pub use clip::clip;
pub use dora::Magnitude;
pub use init::Init;
pub use lora_rite::LoraRite;
pub use method::{Method, PairOptimizer, Stepped};
pub use schedule::{Schedule, Shape};
pub use translate::{Effective, Setting};
