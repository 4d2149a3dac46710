//! The balanced manifold: among all pairs of factors of one low-rank update, the one whose factors share its singular
//! values.
//!
//! PEFT's letters: an adapter adds s·B A to a weight, A [r, in], B [out, r]. For every invertible M the pair
//! (B M, M⁻¹ A) adds the same: that freedom is the *gauge*. A pair is **balanced** when BᵀB = A Aᵀ. (The paper writes
//! the product A B, with A tall: its A is our B, and its condition AᵀA = B Bᵀ is ours.)
//!
//! Reading order: [`pair`] holds two factors and measures their gap; [`projection`] moves them to the balanced manifold
//! without changing the product; [`condition`] says what that is worth, [`hessian`] measures it for any loss, [`rate`] turns it
//! into steps of descent; [`gauge`] carries an optimizer's moments along;
//! [`alternatives`] are gentler moves; [`jacobi`] is the decomposition whose signs do not jump.
//!
//! # References
//! V. Castin, K. Nadjahi, P. Ablin, G. Peyré, "Balanced LoRA", arXiv 2605.31484, 2026. Of the paper we had the abstract,
//! part of the introduction and reading notes (marks `\[text\]` and `\[2nd\]`), and the authors' code (`\[code\]`);
//! what is marked `\[derived\]` was derived here and confirmed numerically.

pub mod alternatives;
pub mod analysis;
pub mod condition;
mod core;
pub mod gauge;
pub mod hessian;
pub mod jacobi;
pub mod pair;
pub mod projection;
pub mod rate;
#[cfg(test)]
mod tests;
mod triangle;

pub use alternatives::{nearest_balanced, norm_balanced};
pub use analysis::Analysis;
pub use condition::Condition;
pub use gauge::Gauge;
pub use pair::LowRankPair;
pub use projection::{Attempt, Balanced, SMALLEST_RATIO, Skip};
