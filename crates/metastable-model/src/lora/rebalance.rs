//! Rebalancing an adapter: other factors for the same product, on the balanced manifold, and the way back.

use std::path::Path;

use metastable_dynamics::Matrix;
use metastable_dynamics::balance::{Attempt, LowRankPair, Skip};
use rayon::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::json;

use super::adapter::{Adapter, Factor, LoraModule};
use super::tensor_file::{NewTensor, TensorFile, write};
use crate::error::ModelError;

/// What became of one module.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RebalancedModule {
    /// Its path.
    pub name: String,
    /// ‖BᵀB - A Aᵀ‖ of the factors as read.
    pub gap_before: f64,
    /// The same of the factors as stored, f32.
    pub gap_after: f64,
    /// κ of the factors as read; infinite for a deficient factor.
    pub kappa_before: f64,
    /// κ of the factors as stored.
    pub kappa_after: f64,
    /// 2σ_1/σ_r, the least possible.
    pub kappa_balanced: f64,
    /// ‖B⁺A⁺ - B A‖/‖B A‖ in the Frobenius norm, with the factors as stored.
    pub product_error: f64,
    /// Why the module was left as it was.
    pub skipped: Option<Skip>,
}

/// A rebalanced adapter and how to undo it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rebalanced {
    /// The adapter with balanced factors.
    pub adapter: Adapter,
    /// A row a module.
    pub modules: Vec<RebalancedModule>,
    /// A safetensors file with `<module>.gauge` and `<module>.gauge_inverse` [r, r] in f64: B⁺ = B M, A⁺ = M⁻¹ A.
    pub undo: Vec<u8>,
}

/// Name of the file that [`Rebalanced::undo`] is meant for.
pub const UNDO_FILE: &str = "rebalance.safetensors";

impl Adapter {
    /// Moves every pair to the balanced manifold, BᵀB = A Aᵀ, and keeps its product B A to rounding.
    ///
    /// The decomposition is made in f64 and the factors are rounded to f32 once. Pairs with a zero factor or with
    /// σ_r < 1e-6 σ_1 are left alone and say so. O(parameters·r), parallel over modules.
    ///
    /// # Errors
    /// [`ModelError::Mathematics`] if a decomposition does not converge.
    ///
    /// # References
    /// Castin et al., "Balanced LoRA", 2026: the manifold \[2nd\]; that any trained adapter can be moved there without
    /// changing what it computes is a use of it \[derived\].
    pub fn rebalanced(&self) -> Result<Rebalanced, ModelError> {
        let done: Vec<Done> = self.modules.par_iter().map(rebalance).collect::<Result<_, ModelError>>()?;
        let undo = undo_file(&done);
        let (mut modules, mut rows) = (Vec::new(), Vec::new());
        for (module, row, _) in done {
            modules.push(module);
            rows.push(row);
        }
        Ok(Rebalanced { adapter: Self { modules, ..self.clone() }, modules: rows, undo })
    }

    /// The adapter before [`Adapter::rebalanced`], from the undo file: A = M A⁺, B = B⁺ M⁻¹, to rounding.
    ///
    /// # Errors
    /// As for any safetensors file; [`ModelError::Tensor`] if a gauge does not fit its module.
    pub fn unbalanced(&self, undo: &Path) -> Result<Self, ModelError> {
        let file = TensorFile::read(undo)?;
        let mut restored = self.clone();
        for module in &mut restored.modules {
            let Some(m) = gauge(&file, &format!("{}.gauge", module.name), module.rank())? else { continue };
            let inverse = gauge(&file, &format!("{}.gauge_inverse", module.name), module.rank())?;
            let inverse = inverse.ok_or_else(|| ModelError::Tensor {
                path: undo.into(),
                tensor: format!("{}.gauge_inverse", module.name),
                expected: "the inverse of the gauge".into(),
                found: "no such tensor".into(),
            })?;
            module.a = rounded(&m.multiply(&matrix(&module.a)?));
            module.b = rounded(&matrix(&module.b)?.multiply(&inverse));
        }
        Ok(restored)
    }
}

/// A module, its row, and its gauge (M, M⁻¹) if it was moved.
type Done = (LoraModule, RebalancedModule, Option<(Matrix, Matrix)>);

fn rebalance(module: &LoraModule) -> Result<Done, ModelError> {
    let old = pair(module)?;
    let analysis = old.analysis()?;
    let mut row = RebalancedModule {
        name: module.name.clone(),
        gap_before: analysis.gap,
        gap_after: analysis.gap,
        kappa_before: analysis.condition.kappa,
        kappa_after: analysis.condition.kappa,
        kappa_balanced: analysis.condition.balanced,
        product_error: 0.0,
        skipped: None,
    };
    let balanced = match old.try_project()? {
        Attempt::Skipped(skip) => {
            row.skipped = Some(skip);
            return Ok((module.clone(), row, None));
        }
        Attempt::Projected(balanced) => balanced,
    };
    let mut new = module.clone();
    (new.a, new.b) = (rounded(balanced.pair.a()), rounded(balanced.pair.b()));
    let stored = pair(&new)?;
    let after = stored.analysis()?;
    row.gap_after = after.gap;
    row.kappa_after = after.condition.kappa;
    row.product_error = old.product_distance(&stored)? / norm(&analysis.spectrum);
    let gauge = balanced.gauge.map(|gauge| (gauge.m().clone(), gauge.inverse().clone()));
    Ok((new, row, gauge))
}

fn undo_file(done: &[Done]) -> Vec<u8> {
    let mut tensors: Vec<(String, [usize; 2], Vec<u8>)> = Vec::new();
    for (module, _, gauge) in done {
        let Some((m, inverse)) = gauge else { continue };
        for (ending, matrix) in [("gauge", m), ("gauge_inverse", inverse)] {
            let bytes = matrix.as_slice().iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push((format!("{}.{ending}", module.name), [matrix.rows(), matrix.columns()], bytes));
        }
    }
    let views: Vec<NewTensor<'_>> =
        tensors.iter().map(|(name, shape, bytes)| NewTensor { name, dtype: Dtype::F64, shape, bytes }).collect();
    write(&[("content".into(), json!("B_balanced = B M, A_balanced = M^-1 A"))], &views)
}

fn gauge(file: &TensorFile, name: &str, rank: usize) -> Result<Option<Matrix>, ModelError> {
    let Some(entry) = file.entries().iter().find(|entry| entry.name == name) else { return Ok(None) };
    if entry.dtype != Dtype::F64 || entry.shape != [rank, rank] {
        return Err(ModelError::Tensor {
            path: file.path().into(),
            tensor: name.into(),
            expected: format!("F64 of shape [{rank}, {rank}]"),
            found: format!("{} of shape {:?}", entry.dtype, entry.shape),
        });
    }
    let numbers = file.data(entry).as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    Ok(Some(Matrix::new(name, rank, rank, numbers)?))
}

/// The factors of a module in f64.
pub(super) fn pair(module: &LoraModule) -> Result<LowRankPair, ModelError> {
    Ok(LowRankPair::new(matrix(&module.a)?, matrix(&module.b)?)?)
}

fn matrix(factor: &Factor) -> Result<Matrix, ModelError> {
    Ok(Matrix::new("factor", factor.rows, factor.columns, factor.to_f64())?)
}

fn rounded(matrix: &Matrix) -> Factor {
    let values = matrix.as_slice().iter().map(|value| *value as f32).collect();
    Factor { rows: matrix.rows(), columns: matrix.columns(), values }
}

fn norm(spectrum: &[f64]) -> f64 {
    spectrum.iter().map(|s| s * s).sum::<f64>().sqrt()
}
