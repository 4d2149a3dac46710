//! The lab of metastable: jobs, run folders and their renderings.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod render;
