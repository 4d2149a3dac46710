//! The job `adapter`: what a LoRA adapter's files hold, whether they can be trusted, and other files for the same update.
//!
//! `info` measures modules, `check` judges files, `compare` sets two adapters side by side, `rebalance`, `merge` and
//! `convert` write new files; nothing that is read is ever changed.
//!
//! *Balanced* means BᵀB = A Aᵀ and nothing else.

pub mod check;
pub mod compare;
pub mod convert;
pub mod info;
pub mod merge;
pub mod page;
pub mod rebalance;
mod write;

pub use check::{CheckReport, FindingRow, check};
pub use compare::{CompareReport, ModuleOverlap, compare};
pub use convert::{ConvertReport, convert};
pub use info::{InfoReport, IntruderRow, ModuleRow, info};
pub use merge::{MergeReport, merge};
pub use metastable_model::lora::Strictness;
pub use page::{PageRequest, page};
pub use rebalance::{RebalanceReport, RebalanceRow, rebalance, undo};
