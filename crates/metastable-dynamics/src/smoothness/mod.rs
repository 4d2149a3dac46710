//! How smooth attention is: two-sided local Lipschitz constants ‖D_X f‖_2 of f(X) = Σ_h P^h X V_hᵀ W_hᵀ.
//!
//! On clouds X in R^{n x d} with the norm ‖X‖_F = (Σ_i |x_i|²)^{1/2} the local Lipschitz constant of a smooth map is
//! the largest singular value of its Jacobian. Here it is enclosed: from below by Golub-Kahan-Lanczos on exact
//! Jacobian products, from above by bounds that are proven. The residual connection is never included silently.
//!
//! Reading order: [`linear_map`] (Jacobians as products), [`lanczos`] (the lower value), [`power`] (the rule of the
//! paper's code, its counted twin), [`probability`] (what a random start guarantees); [`head_terms`] (the parts of a
//! head's Jacobian), [`block_norm`] and [`nonnegative`] (tools), [`certificates`] (upper bounds at given tokens),
//! [`a_priori`] (upper bounds on a ball, in logarithms); [`two_sided`] puts them together. [`worst_case`] comes
//! near them by construction and [`ascent`] by climbing; [`explain`] says why, [`scaling`] how it grows with n. [`capped`]
//! adds soft caps and biases, as checkpoints have them.
//!
//! # References
//! V. Castin, P. Ablin, G. Peyré, "How Smooth Is Attention?", ICML 2024, 2312.14820. What is marked \[derived\] was
//! proved without the paper's text.

pub mod a_priori;
pub mod ascent;
pub mod block_norm;
pub mod capped;
pub mod certificates;
pub mod explain;
pub mod head_terms;
pub mod lanczos;
pub mod linear_map;
pub mod nonnegative;
pub mod power;
pub mod probability;
pub mod scaling;
pub mod two_sided;
pub mod worst_case;

pub use a_priori::{APriori, LogBound};
pub use certificates::Certificates;
pub use lanczos::{LanczosOptions, SingularTriplet, top_singular_triplet};
pub use linear_map::{FlowJacobian, LinearMap};
pub use power::{PowerOutcome, PowerRule, power_iteration};
pub use probability::probable_upper;
pub use two_sided::{TwoSided, TwoSidedOptions, lipschitz};

#[cfg(test)]
mod tests;
