//! Closed forms: what the flows must do where mathematics knows the answer.
//!
//! Everything here is independent of the flows and the solver, so that each can be held against the other; the lab's
//! `selftest` does so in every build. Reading order: [`equiangular`] (tokens with equal mutual cosines),
//! [`tokens`] (flows that can be solved for every token), [`circle`] (growth of modes on the circle, Bessel
//! functions), [`uniform`] (laws of uniform tokens on spheres), [`noisy_sphere`] (when noise keeps them uniform), [`metastability`] (how long clusters stay),
//! [`drift`] (where a LoRA update takes a collapsed cloud). The release time of a cluster under a rank-one update
//! stands beside the cascade, [`crate::observe::cascade::rank_one_release_time`].
//!
//! What this is not: bounds on a twin, which are in [`crate::observe::stability`].

pub mod circle;
pub mod drift;
pub mod equiangular;
pub mod metastability;
pub mod noisy_sphere;
mod romberg;
pub mod tokens;
pub mod uniform;
