//! One adapted module in training: its factors in f64, its optimizer, and what can be said of it.

use metastable_dynamics::balance::{LowRankPair, Skip};
use metastable_dynamics::linalg::norm;
use metastable_dynamics::{DynamicsError, Matrix};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::lora::{Factor, LoraModule};
use crate::train::base::{Base, Gradient, MatrixMoments};
use crate::train::dora::Magnitude;
use crate::train::method::PairOptimizer;
use crate::train::session::SessionSettings;
use crate::train::targets::Candidate;
use crate::transformer::Transformer;
use crate::transformer::reverse::ModuleValues;

/// What is trained of one module.
#[derive(Debug, Clone)]
pub(crate) struct Adapted {
    pub(crate) candidate: Candidate,
    pub(crate) scale: f64,
    /// What was subtracted from the base weight.
    start: Option<LowRankPair>,
    weight_norm: f64,
    pub(crate) trained: Trained,
}

/// The part of a module that changes, and that a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trained {
    a: Matrix,
    b: Matrix,
    optimizer: PairOptimizer,
    /// DoRA's m [1, out].
    magnitude: Option<(Matrix, MatrixMoments)>,
}

/// What training does to the modules, at one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// The largest ‖BᵀB - A Aᵀ‖ of a module, relative to ‖A‖² + ‖B‖².
    pub gap: f64,
    /// The median condition number of the modules; none while it is infinite, as at B = 0.
    pub kappa: Option<f64>,
    /// The median of what it would be after balancing.
    pub kappa_balanced: Option<f64>,
    /// The median number of singular values above 1 % of the largest.
    pub used_rank: f64,
    /// sqrt(Σ‖s·B A‖² / Σ‖W‖²) over the adapted weights.
    pub relative_change: f64,
}

impl Adapted {
    /// Starts a module, subtracting its start from the base weight where the method asks for it.
    pub(crate) fn start(
        transformer: &mut Transformer,
        candidate: Candidate,
        index: usize,
        settings: &SessionSettings,
    ) -> Result<Self, ModelError> {
        let scale = settings.scale();
        let weight = weight(transformer, &candidate)?;
        let start = settings.init.pair(&weight, settings.rank, scale, settings.seed, index as u64);
        let start = start.map_err(|error| rank_of(&candidate, error))?;
        if start.changes_base {
            subtract(transformer, &candidate, &start.pair, scale);
        }
        let magnitude = settings.dora.then(|| {
            let lengths = Magnitude::initial(&weight);
            let m = Matrix::from_fn(1, lengths.len(), |_, i| lengths[i]);
            let moments = MatrixMoments::zero(&m);
            (m, moments)
        });
        let optimizer = PairOptimizer::new(settings.method, settings.base, &start.pair, scale);
        let kept = start.changes_base.then(|| start.pair.clone());
        let (a, b) = start.pair.into_parts();
        let trained = Trained { a, b, optimizer, magnitude };
        Ok(Self { candidate, scale, start: kept, weight_norm: weight.frobenius_norm(), trained })
    }

    #[cfg(test)]
    pub(crate) fn set_a(&mut self, values: Vec<f64>) {
        let (rows, columns) = (self.trained.a.rows(), self.trained.a.columns());
        self.trained.a = Matrix::new("a", rows, columns, values).unwrap();
    }

    pub(crate) fn pair(&self) -> Result<LowRankPair, DynamicsError> {
        LowRankPair::new(self.trained.a.clone(), self.trained.b.clone())
    }

    /// The factors in the numbers of the pass.
    pub(crate) fn values(&self, transformer: &Transformer) -> Result<ModuleValues<f32>, ModelError> {
        let row_factors = match &self.trained.magnitude {
            None => None,
            Some((m, _)) => {
                let norms = Magnitude::row_norms(&weight(transformer, &self.candidate)?, &self.pair()?, self.scale);
                Some(m.as_slice().iter().zip(norms).map(|(m, norm)| (m / norm.max(f64::MIN_POSITIVE)) as f32).collect())
            }
        };
        Ok(ModuleValues {
            a: narrow(&self.trained.a),
            b: narrow(&self.trained.b),
            rank: self.trained.a.rows(),
            scale: self.scale as f32,
            row_factors,
        })
    }

    /// Turns the gradient of DoRA's row factors c = m/‖row‖ into that of m.
    pub(crate) fn finish_gradient(
        &self,
        transformer: &Transformer,
        gradient: &mut ModuleValues<f32>,
    ) -> Result<(), ModelError> {
        if let Some(dc) = &mut gradient.row_factors {
            let norms = Magnitude::row_norms(&weight(transformer, &self.candidate)?, &self.pair()?, self.scale);
            dc.iter_mut().zip(norms).for_each(|(dc, norm)| *dc = (f64::from(*dc) / norm.max(f64::MIN_POSITIVE)) as f32);
        }
        Ok(())
    }

    /// One step along gradients times `factor`; answers why a projection was skipped.
    pub(crate) fn step(
        &mut self,
        gradient: &ModuleValues<f32>,
        factor: f64,
        (rate, decay): (f64, f64),
        base: Base,
    ) -> Result<Option<Skip>, ModelError> {
        let pair = self.pair()?;
        if let (Some((m, moments)), Some(dm)) = (&mut self.trained.magnitude, &gradient.row_factors) {
            let g: Vec<f64> = dm.iter().map(|dm| factor * f64::from(*dm)).collect();
            *m = base.step_matrix(m, &Matrix::new("magnitude gradient", 1, g.len(), g)?, rate, decay, moments);
        }
        let widen = |values: &[f32], like: &Matrix| {
            let values = values.iter().map(|x| factor * f64::from(*x)).collect();
            Matrix::new("gradient", like.rows(), like.columns(), values)
        };
        let gradient = Gradient { a: widen(&gradient.a, pair.a())?, b: widen(&gradient.b, pair.b())? };
        let stepped = self.trained.optimizer.step(&pair, &gradient, rate, decay)?;
        (self.trained.a, self.trained.b) = stepped.pair.into_parts();
        Ok(stepped.skipped)
    }

    /// The module as PEFT stores it. A module that changed its base becomes [A; A0], [B, -B0] of twice the rank, which
    /// adds the same to the unchanged base.
    pub(crate) fn exported(&self, alpha: f64, rslora: bool) -> Result<LoraModule, ModelError> {
        let (a, b) = (&self.trained.a, &self.trained.b);
        let (a, b, alpha) = match &self.start {
            None => (a.clone(), b.clone(), alpha),
            Some(start) => {
                let r = a.rows();
                let (a0, b0) = (start.a(), start.b());
                let a2 = Matrix::from_fn(2 * r, a.columns(), |i, j| if i < r { a.at(i, j) } else { a0.at(i - r, j) });
                let b2 = Matrix::from_fn(b.rows(), 2 * r, |i, j| if j < r { b.at(i, j) } else { -b0.at(i, j - r) });
                (a2, b2, alpha * if rslora { 2.0_f64.sqrt() } else { 2.0 })
            }
        };
        let factor = |m: &Matrix| Factor::new(m.rows(), m.columns(), narrow(m));
        let mut module = LoraModule::linear(&self.candidate.name, factor(&a)?, factor(&b)?, alpha, rslora)?;
        module.magnitude = self.trained.magnitude.as_ref().map(|(m, _)| narrow(m));
        Ok(module)
    }
}

/// What training has done to all modules so far. O(Σ (in + out)·r²).
pub(crate) fn diagnose(modules: &[Adapted]) -> Result<Diagnostics, DynamicsError> {
    use rayon::prelude::*;
    let each = |module: &Adapted| {
        let pair = module.pair()?;
        let (condition, spectrum) = (pair.condition()?, pair.spectrum()?);
        let used = spectrum.iter().filter(|s| **s > 0.01 * spectrum[0]).count();
        let change = module.scale * norm(&spectrum);
        Ok((pair.gap() / pair.squared_norm().max(f64::MIN_POSITIVE), condition, used as f64, change))
    };
    let found: Vec<_> = modules.par_iter().map(each).collect::<Result<_, DynamicsError>>()?;
    let total = |f: &dyn Fn(usize) -> f64| (0..modules.len()).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
    let finite = |value: f64| value.is_finite().then_some(value);
    Ok(Diagnostics {
        gap: found.iter().fold(0.0, |m, found| m.max(found.0)),
        kappa: finite(median(found.iter().map(|found| found.1.kappa).collect())),
        kappa_balanced: finite(median(found.iter().map(|found| found.1.balanced).collect())),
        used_rank: median(found.iter().map(|found| found.2).collect()),
        relative_change: total(&|i| found[i].3) / total(&|i| modules[i].weight_norm),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// W of a module in f64, rows of joined maps one below the other.
fn weight(transformer: &Transformer, candidate: &Candidate) -> Result<Matrix, ModelError> {
    let maps = candidate.slots.iter().filter_map(|slot| transformer.blocks[candidate.block].map(*slot));
    let rows: Vec<_> = maps.map(|map| map.rows()).collect();
    let values = rows.iter().flat_map(|rows| rows.iter().map(|x| f64::from(*x))).collect();
    Ok(Matrix::new("weight", candidate.outputs, candidate.inputs, values)?)
}

/// W ← W - s·B A, in f64 and rounded once.
fn subtract(transformer: &mut Transformer, candidate: &Candidate, pair: &LowRankPair, scale: f64) {
    let product = pair.product();
    let mut rows = 0..product.rows();
    for slot in &candidate.slots {
        let Some(map) = transformer.blocks[candidate.block].map_mut(*slot) else { continue };
        let (inputs, mut weight) = (map.inputs(), map.rows().into_owned());
        for (row, i) in weight.chunks_exact_mut(inputs).zip(rows.by_ref()) {
            row.iter_mut().zip(product.row(i)).for_each(|(w, p)| *w = (f64::from(*w) - scale * p) as f32);
        }
        map.replace_weight(weight);
    }
}

fn narrow(matrix: &Matrix) -> Vec<f32> {
    matrix.as_slice().iter().map(|x| *x as f32).collect()
}

/// A rank that is too large names the module it is too large for.
fn rank_of(candidate: &Candidate, error: DynamicsError) -> ModelError {
    match error {
        DynamicsError::Domain { expected, found, .. } => {
            ModelError::input("rank", format!("{expected} of {}", candidate.name), found)
        }
        other => other.into(),
    }
}
