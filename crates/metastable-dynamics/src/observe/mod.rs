//! Questions asked of clouds: pure functions of states, never of solvers or runs.
//!
//! Reading order: [`clusters`] and [`tracking`] (who is together, and since when); [`cloud`], [`mod@close_pairs`], [`hull`] and
//! [`rank`] (shape); [`twin`] (a base run against its LoRA twin), [`stability`] (how far the twin may be), [`dobrushin`]
//! (how far two solutions of one flow) and [`cascade`]
//! (when its clusters change).

pub mod cascade;
pub mod close_pairs;
pub mod cloud;
pub mod clusters;
pub mod dobrushin;
pub mod exponential_sum;
pub mod hull;
pub mod leading;
mod pairs;
mod quadrature;
pub mod rank;
pub mod stability;
pub mod tracking;
pub mod twin;

pub use close_pairs::close_pairs;
pub use cloud::CloudShape;
pub use clusters::{Clusters, single_linkage};
pub use leading::{LeadingDirection, leading_direction};
pub use rank::numerical_rank;
pub use tracking::{ClusterEvent, Tracker};
pub use twin::{Assignment, BracketedTime};
