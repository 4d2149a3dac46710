//! Two adapters side by side: how much their updates point the same way.

use std::collections::BTreeMap;
use std::path::Path;

use metastable_dynamics::Matrix;
use metastable_dynamics::balance::LowRankPair;
use metastable_model::lora::{Adapter, LoraModule, Strictness};
use rayon::prelude::*;
use serde::Serialize;

use crate::error::LabError;
use crate::hub::{Role, cached};
use crate::table::{Column, Table};

/// The overlap of two adapters.
#[derive(Debug, Clone, Serialize)]
pub struct CompareReport {
    /// The first adapter as given.
    pub first: String,
    /// The second.
    pub second: String,
    /// What the numbers mean.
    pub definitions: Vec<&'static str>,
    /// Modules of both.
    pub modules: Vec<ModuleOverlap>,
    /// Modules of the first alone.
    pub only_first: Vec<String>,
    /// Modules of the second alone.
    pub only_second: Vec<String>,
    /// <ΔW₁, ΔW₂>/(‖ΔW₁‖ ‖ΔW₂‖) over all common modules together; null if one of them is 0.
    pub cosine: Option<f64>,
}

/// The overlap of one module's updates.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleOverlap {
    /// The path in the base model.
    pub name: String,
    /// <ΔW₁, ΔW₂>/(‖ΔW₁‖ ‖ΔW₂‖), Frobenius; null if one of them is 0.
    pub cosine: Option<f64>,
    /// ‖ΔW₁ - ΔW₂‖/‖ΔW₁‖; null if ΔW₁ = 0.
    pub distance: Option<f64>,
    /// How many leading directions were compared.
    pub k: usize,
    /// ‖U₁ᵀU₂‖²/k of the leading output directions, 0 (orthogonal) to 1 (the same space).
    pub output_overlap: f64,
    /// k/out, what random directions give.
    pub output_chance: f64,
    /// The same of the input directions.
    pub input_overlap: f64,
    /// k/in.
    pub input_chance: f64,
    /// Cosines of the principal angles between the output spaces, largest first.
    pub output_cosines: Vec<f64>,
    /// Between the input spaces.
    pub input_cosines: Vec<f64>,
}

const DEFINITIONS: [&str; 3] = [
    "ΔW includes the scale. k is the smaller number of singular values above 1e-6 of the largest.",
    "Overlap of spaces: ‖U₁ᵀU₂‖_F²/k of the k leading singular vectors, the mean squared cosine of the principal \
     angles (E. Hu et al., \"LoRA\", 2021, section 7.2); chance is k/d.",
    "Factors are never compared with factors: they depend on the gauge, products and their spaces do not.",
];

/// Compares the modules that two adapters, paths or names in the Hub's local cache, have in common.
///
/// # Errors
/// [`LabError::Model`] for unreadable adapters; [`LabError::Setting`] if they have no module in common.
pub fn compare(first: &Path, second: &Path) -> Result<CompareReport, LabError> {
    let open = |name: &Path| Ok::<_, LabError>(Adapter::open(&cached(name, Role::Adapter)?, Strictness::Partial)?);
    let (left, right) = (open(first)?, open(second)?);
    let others: BTreeMap<&str, &LoraModule> = right.modules().iter().map(|m| (m.name.as_str(), m)).collect();
    let common: Vec<(&LoraModule, &LoraModule)> =
        left.modules().iter().filter_map(|module| Some((module, *others.get(module.name.as_str())?))).collect();
    if common.is_empty() {
        return Err(LabError::Setting {
            name: "adapters".into(),
            expected: "a module of both".into(),
            found: format!("none of {} and {} modules", left.modules().len(), right.modules().len()),
        });
    }
    let compared: Vec<(ModuleOverlap, [f64; 3])> =
        common.par_iter().map(|(left, right)| overlap(left, right)).collect::<Result<_, LabError>>()?;
    let sums = compared.iter().fold([0.0; 3], |sums, (_, part)| [0, 1, 2].map(|i| sums[i] + part[i]));
    let missing = |of: &Adapter, other: &Adapter| {
        let absent = |m: &&LoraModule| !other.modules().iter().any(|o| o.name == m.name);
        of.modules().iter().filter(absent).map(|module| module.name.clone()).collect()
    };
    Ok(CompareReport {
        first: first.display().to_string(),
        second: second.display().to_string(),
        definitions: DEFINITIONS.into(),
        only_first: missing(&left, &right),
        only_second: missing(&right, &left),
        cosine: cosine(sums),
        modules: compared.into_iter().map(|(row, _)| row).collect(),
    })
}

/// <x, y>/(‖x‖ ‖y‖) from [<x, y>, ‖x‖², ‖y‖²].
fn cosine([product, x, y]: [f64; 3]) -> Option<f64> {
    (x > 0.0 && y > 0.0).then(|| (product / (x.sqrt() * y.sqrt())).clamp(-1.0, 1.0))
}

/// Singular triples of ΔW: rows are vectors.
struct Directions {
    values: Vec<f64>,
    output: Matrix,
    input: Matrix,
}

fn overlap(left: &LoraModule, right: &LoraModule) -> Result<(ModuleOverlap, [f64; 3]), LabError> {
    if left.shape() != right.shape() {
        return Err(LabError::Setting {
            name: left.name.clone(),
            expected: format!("an update of shape {:?}, as the first adapter has", left.shape()),
            found: format!("{:?}", right.shape()),
        });
    }
    let (x, y) = (directions(left)?, directions(right)?);
    let (outputs, inputs) = (x.output.multiply(&y.output.transpose()), x.input.multiply(&y.input.transpose()));
    // <U₁S₁V₁ᵀ, U₂S₂V₂ᵀ> = Σ_ij s_i t_j (U₁ᵀU₂)_ij (V₁ᵀV₂)_ij.
    let mut product = 0.0;
    for (i, s) in x.values.iter().enumerate() {
        for (j, t) in y.values.iter().enumerate() {
            product += s * t * outputs.at(i, j) * inputs.at(i, j);
        }
    }
    let squares = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
    let sums = [product, squares(&x.values), squares(&y.values)];
    let k = leading(&x.values).min(leading(&y.values));
    let cosines = |gram: &Matrix| -> Result<Vec<f64>, LabError> {
        if k == 0 {
            return Ok(Vec::new());
        }
        let values = Matrix::from_fn(k, k, |i, j| gram.at(i, j)).singular_values()?;
        Ok(values.into_iter().map(|value| value.min(1.0)).collect())
    };
    let (output_cosines, input_cosines) = (cosines(&outputs)?, cosines(&inputs)?);
    let mean = |cosines: &[f64]| if k == 0 { 0.0 } else { squares(cosines) / k as f64 };
    let distance = (sums[1] - 2.0 * sums[0] + sums[2]).max(0.0).sqrt();
    let row = ModuleOverlap {
        name: left.name.clone(),
        cosine: cosine(sums),
        distance: (sums[1] > 0.0).then(|| distance / sums[1].sqrt()),
        k,
        output_overlap: mean(&output_cosines),
        output_chance: k as f64 / left.shape()[0] as f64,
        input_overlap: mean(&input_cosines),
        input_chance: k as f64 / left.shape()[1] as f64,
        output_cosines,
        input_cosines,
    };
    Ok((row, sums))
}

/// How many singular values exceed 1e-6 of the largest.
fn leading(values: &[f64]) -> usize {
    let largest = values.first().copied().unwrap_or(0.0);
    values.iter().filter(|value| **value > 1e-6 * largest && **value > 0.0).count()
}

/// The singular vectors of ΔW out of its balanced factors, (Σ^½ Vᵀ, U Σ^½).
fn directions(module: &LoraModule) -> Result<Directions, LabError> {
    let matrix =
        |factor: &metastable_model::lora::Factor| Matrix::new("factor", factor.rows, factor.columns, factor.to_f64());
    let balanced = LowRankPair::new(matrix(&module.a)?, matrix(&module.b)?)?.project()?;
    let spectrum = balanced.spectrum;
    let unit = |rows: &Matrix, sign: f64| {
        Matrix::from_fn(rows.rows(), rows.columns(), |i, j| {
            let root = spectrum[i].sqrt();
            if root > 0.0 { sign * rows.at(i, j) / root } else { 0.0 }
        })
    };
    Ok(Directions {
        values: spectrum.iter().map(|value| value * module.scale.abs()).collect(),
        output: unit(&balanced.pair.b().transpose(), module.scale.signum()),
        input: unit(balanced.pair.a(), 1.0),
    })
}

impl CompareReport {
    /// The common modules as a table.
    ///
    /// # Errors
    /// [`LabError::Column`] never, in practice.
    pub fn table(&self) -> Result<Table, LabError> {
        let rows = &self.modules;
        let mut table = Table::new("modules");
        let numbers = |pick: fn(&ModuleOverlap) -> Option<f64>| Column::Float(rows.iter().map(pick).collect());
        table.push("name", Column::Text(rows.iter().map(|row| row.name.clone()).collect()))?;
        table.push("cosine", numbers(|row| row.cosine))?;
        table.push("distance", numbers(|row| row.distance))?;
        table.push("k", Column::Integer(rows.iter().map(|row| i64::try_from(row.k).unwrap_or(i64::MAX)).collect()))?;
        table.push("output_overlap", numbers(|row| Some(row.output_overlap)))?;
        table.push("output_chance", numbers(|row| Some(row.output_chance)))?;
        table.push("input_overlap", numbers(|row| Some(row.input_overlap)))?;
        table.push("input_chance", numbers(|row| Some(row.input_chance)))?;
        Ok(table)
    }
}
