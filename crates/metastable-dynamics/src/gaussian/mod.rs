//! What becomes of a Gaussian under attention: exact flows, closed forms, and verdicts with their grounds.
//!
//! The equations are [`crate::field::GaussianFlow`]'s; here they are followed ([`evolve`], [`evolve_covariance`] for
//! long times, [`through_layers`]), solved where they can be ([`closed_form`]), bounded ([`bounds`]) and judged ([`judge`]: collapse to a rank, bounded,
//! growth, blow-up within a bracket, isospectral). Every verdict names what it rests on: a theorem with its mark, or
//! the run alone.
//!
//! Marks: \[code\] read in the authors' program, \[checked\] derived by us and checked numerically, \[derived\] derived by
//! us; no statement here is claimed to be the paper's own (arXiv 2501.18322, whose theorems we could not read).
//!
//! Reading order: `evolve`, [`closed_form`], [`bounds`], `certificate` (what is proven beforehand), `clock` (the time in
//! which every regime takes few steps), `stiff` (implicit steps), `run`, `regime` (the verdict), `still` (ranks as published
//! scripts count them).

pub mod bounds;
mod certificate;
mod clock;
pub mod closed_form;
pub mod energy;
mod evolve;
mod invariant;
mod regime;
mod run;
mod stiff;
mod still;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, Claim, certify};
pub use evolve::{evolve, evolve_covariance, through_layers};
pub use invariant::Invariants;
pub use regime::{BlowUp, Regime, Verdict, judge, judge_while};
pub use run::JudgeOptions;
pub use still::{StillEnd, StillRule, Stopped, clipped_euler_until_still, exact_until_still};
