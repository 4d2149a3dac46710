//! Attention dynamics on clouds of tokens: pure mathematics, no files, no clocks, no printing.
//!
//! A transformer is a dynamical system: tokens are particles that interact through attention, layers are time.
//! Reading order: [`tokens`] and [`head`] are the waist of the house; [`attention`] turns both into forces;
//! [`field`] makes flows of them; [`solver`] follows a flow; [`observe`] and [`measure`] ask questions of clouds;
//! [`gaussian`] says what becomes of a Gaussian, and on what grounds; [`closed_form`] is what flows must do where
//! mathematics knows the answer.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods, clippy::disallowed_types)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod attention;
pub mod balance;
pub mod closed_form;
pub mod error;
pub mod field;
pub mod gaussian;
pub mod geometry;
pub mod head;
pub mod linalg;
pub mod measure;
pub mod observe;
pub mod random;
mod simd;
pub mod solver;
pub mod tokens;

pub use error::DynamicsError;
pub use head::{Head, LowRankUpdate};
pub use linalg::Matrix;
pub use tokens::{Tokens, TokensRef};
