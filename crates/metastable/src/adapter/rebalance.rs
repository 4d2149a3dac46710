//! Other factors for the same update: balanced, and back.

use std::path::Path;

use metastable_dynamics::balance::Skip;
use metastable_model::lora::{Adapter, PeftFiles, RebalancedModule, Strictness, UNDO_FILE};
use serde::Serialize;

use super::write::{write_folder, write_into};
use crate::error::LabError;
use crate::hub::{Role, cached};
use crate::table::{Column, Table};

/// What rebalancing did.
#[derive(Debug, Clone, Serialize)]
pub struct RebalanceReport {
    /// The adapter as given.
    pub adapter: String,
    /// The folder written.
    pub output: String,
    /// The largest relative error of a product B A, Frobenius, with factors as stored.
    pub max_product_error: f64,
    /// The largest ‖BᵀB - A Aᵀ‖_F of a rebalanced module as stored.
    pub max_gap: f64,
    /// The modules.
    pub modules: Vec<RebalanceRow>,
}

/// One module.
#[derive(Debug, Clone, Serialize)]
pub struct RebalanceRow {
    /// The path in the base model.
    pub name: String,
    /// ‖BᵀB - A Aᵀ‖_F before.
    pub gap_before: f64,
    /// And after, as stored.
    pub gap_after: f64,
    /// Condition number before; null if infinite.
    pub kappa_before: f64,
    /// And after.
    pub kappa_after: f64,
    /// 2σ_1/σ_r.
    pub kappa_balanced: f64,
    /// ‖B⁺A⁺ - B A‖/‖B A‖.
    pub product_error: f64,
    /// Why it was left alone, if it was.
    pub skipped: Option<String>,
}

/// The largest error of a product that is accepted: issue 4's bound for f32 files.
const LARGEST_ERROR: f64 = 1e-6;

/// Rebalances every module of `adapter` into the folder `output`, in PEFT's layout, with the undo file beside.
///
/// # Errors
/// [`LabError::Model`] for an adapter that is refused; [`LabError::CheckFailed`] if a product would change by more than
/// 1e-6; nothing is written then.
pub fn rebalance(adapter: &Path, output: &Path, strictness: Strictness) -> Result<RebalanceReport, LabError> {
    let read = Adapter::open(&cached(adapter, Role::Adapter)?, strictness)?;
    let rebalanced = read.rebalanced()?;
    let files = rebalanced.adapter.to_peft()?;
    let modules: Vec<RebalanceRow> = rebalanced.modules.iter().map(row).collect();
    let done = || modules.iter().filter(|row| row.skipped.is_none());
    let report = RebalanceReport {
        adapter: adapter.display().to_string(),
        output: output.display().to_string(),
        max_product_error: done().map(|row| row.product_error).fold(0.0, f64::max),
        max_gap: done().map(|row| row.gap_after).fold(0.0, f64::max),
        modules: modules.clone(),
    };
    if report.max_product_error > LARGEST_ERROR {
        return Err(LabError::CheckFailed {
            check: "product error of the rebalanced adapter".into(),
            expected: format!("at most {LARGEST_ERROR:e}"),
            found: format!("{:e}", report.max_product_error),
        });
    }
    write_folder(output, |folder| {
        write_peft(folder, &files)?;
        write_into(folder, UNDO_FILE, &rebalanced.undo)
    })?;
    Ok(report)
}

/// Restores the factors before [`rebalance`] from the undo file in `adapter`, to rounding, into the folder `output`.
///
/// # Errors
/// [`LabError::Model`]; nothing is written then.
pub fn undo(adapter: &Path, output: &Path) -> Result<(), LabError> {
    let read = Adapter::open(adapter, Strictness::Partial)?;
    let files = read.unbalanced(&read.folder().join(UNDO_FILE))?.to_peft()?;
    write_folder(output, |folder| write_peft(folder, &files))
}

/// The two files of PEFT.
pub(super) fn write_peft(folder: &Path, files: &PeftFiles) -> Result<(), LabError> {
    write_into(folder, PeftFiles::CONFIG, &files.config)?;
    write_into(folder, PeftFiles::WEIGHTS, &files.tensors)
}

fn row(module: &RebalancedModule) -> RebalanceRow {
    RebalanceRow {
        name: module.name.clone(),
        gap_before: module.gap_before,
        gap_after: module.gap_after,
        kappa_before: module.kappa_before,
        kappa_after: module.kappa_after,
        kappa_balanced: module.kappa_balanced,
        product_error: module.product_error,
        skipped: module.skipped.as_ref().map(|skip| match skip {
            Skip::ZeroFactor => "a factor is 0".into(),
            Skip::RankDeficient { ratio } => format!("rank deficient: σ_r/σ_1 = {ratio:.1e}"),
        }),
    }
}

impl RebalanceReport {
    /// The modules as a table.
    ///
    /// # Errors
    /// [`LabError::Column`] never, in practice.
    pub fn table(&self) -> Result<Table, LabError> {
        let rows = &self.modules;
        let mut table = Table::new("modules");
        let numbers = |pick: fn(&RebalanceRow) -> f64| {
            Column::Float(rows.iter().map(|row| Some(pick(row)).filter(|value| value.is_finite())).collect())
        };
        table.push("name", Column::Text(rows.iter().map(|row| row.name.clone()).collect()))?;
        table.push("gap_before", numbers(|row| row.gap_before))?;
        table.push("gap_after", numbers(|row| row.gap_after))?;
        table.push("kappa_before", numbers(|row| row.kappa_before))?;
        table.push("kappa_after", numbers(|row| row.kappa_after))?;
        table.push("kappa_balanced", numbers(|row| row.kappa_balanced))?;
        table.push("product_error", numbers(|row| row.product_error))?;
        if rows.iter().any(|row| row.skipped.is_some()) {
            let skipped = rows.iter().map(|row| row.skipped.clone().unwrap_or_default()).collect();
            table.push("skipped", Column::Text(skipped))?;
        }
        Ok(table)
    }
}
