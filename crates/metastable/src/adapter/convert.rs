//! Adapters of other tools as PEFT adapters.

use std::path::Path;

use metastable_model::lora::{Adapter, Layout, Strictness};
use serde::Serialize;

use super::rebalance::write_peft;
use super::write::write_folder;
use crate::error::LabError;
use crate::hub::{Role, cached};

/// What was converted.
#[derive(Debug, Clone, Serialize)]
pub struct ConvertReport {
    /// The adapter as given.
    pub adapter: String,
    /// The layout it had.
    pub from: &'static str,
    /// The folder written.
    pub output: String,
    /// Modules converted.
    pub modules: usize,
}

/// Writes `adapter` as PEFT's two files into the folder `output`; `base` is a model folder that says what kohya's joined
/// names mean.
///
/// # Errors
/// [`LabError::Model`] for an adapter that is refused, or names that nothing explains; nothing is written then.
pub fn convert(
    adapter: &Path,
    base: Option<&Path>,
    output: &Path,
    strictness: Strictness,
) -> Result<ConvertReport, LabError> {
    let mut read = Adapter::open(&cached(adapter, Role::Adapter)?, strictness)?;
    let from = read.layout();
    if let (Layout::Kohya, Some(base)) = (from, base) {
        read = read.named_after(&cached(base, Role::Model)?)?;
    }
    let files = read.to_peft()?;
    write_folder(output, |folder| write_peft(folder, &files))?;
    Ok(ConvertReport {
        adapter: adapter.display().to_string(),
        from: from.name(),
        output: output.display().to_string(),
        modules: read.modules().len(),
    })
}
