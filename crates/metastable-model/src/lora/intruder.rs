//! Intruder directions: leading directions of an adapted weight that the base weight does not have.

use metastable_dynamics::linalg::dot;
use metastable_dynamics::{DynamicsError, Matrix};
use nalgebra::{DMatrix, DVector};

use super::adapter::{LoraModule, ModuleKind};
use super::attach::module_name;
use crate::error::ModelError;
use crate::names::{LayerParameter, Parameter, Part, Storage, spellings};
use crate::weights::Weights;

/// What counts as an intruder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IntruderRule {
    /// How many leading left singular vectors of the adapted weight are judged.
    pub leading: usize,
    /// Those with |cos| below this to every left singular vector of the base weight are intruders.
    pub threshold: f64,
}

impl Default for IntruderRule {
    /// The ten leading directions at 0.5, as PEFT 0.19 \[2nd\].
    fn default() -> Self {
        Self { leading: 10, threshold: 0.5 }
    }
}

/// A leading left singular vector of the adapted weight.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LeadingDirection {
    /// Its singular value.
    pub singular_value: f64,
    /// The largest |cos| to a left singular vector of the base weight.
    pub largest_cosine: f64,
    /// Whether that is below the threshold.
    pub intruder: bool,
}

/// The maps of a block that adapters change.
const MAPS: [LayerParameter; 7] = [
    LayerParameter::Query,
    LayerParameter::Key,
    LayerParameter::Value,
    LayerParameter::AttentionOutput,
    LayerParameter::FeedForwardIn,
    LayerParameter::FeedForwardGate,
    LayerParameter::FeedForwardOut,
];

impl Weights {
    /// The leading left singular vectors of W + scale·B A (rows rescaled to DoRA's magnitudes where there are any)
    /// against all left singular vectors of W, largest singular value first; none where the module is no map of a block
    /// of this model. Singular vectors of W are those of its thin decomposition: a direction outside its column space
    /// has cosine 0 to all.
    ///
    /// Reads the module's weight and nothing else. Two dense decompositions in f64, one after the other:
    /// O(out·in·min(out, in)) time, memory for four matrices of the weight's size, see [`LoraModule::judging_bytes`].
    ///
    /// # Errors
    /// [`ModelError::AdapterMismatch`] for an update of another shape; [`ModelError::Tensor`];
    /// [`ModelError::Mathematics`] if a decomposition does not converge.
    ///
    /// # References
    /// R. Shuttleworth et al., "LoRA vs full fine-tuning: an illusion of equivalence", arXiv 2410.21228, 2024 \[2nd\].
    pub fn leading_directions(
        &self,
        module: &LoraModule,
        rule: IntruderRule,
    ) -> Result<Option<Vec<LeadingDirection>>, ModelError> {
        match self.weight_of(module)? {
            Some(base) => leading_directions(base, module, rule).map(Some),
            None => Ok(None),
        }
    }

    /// The weight [out, in] that a module changes: the maps of one tensor joined, in the order of their family.
    fn weight_of(&self, module: &LoraModule) -> Result<Option<Matrix>, ModelError> {
        let mut parts = self.maps_named(module);
        if parts.is_empty() || module.kind != ModuleKind::Linear {
            return Ok(None);
        }
        parts.sort_by_key(|(index, ..)| *index);
        let config = self.config();
        let inputs = parts[0].2.shape(config)[1];
        let outputs = parts.iter().map(|(_, _, of)| of.shape(config)[0]).sum();
        if module.shape() != [outputs, inputs] {
            return Err(ModelError::AdapterMismatch {
                module: module.name.clone(),
                expected: format!("an update of shape {:?}", [outputs, inputs]),
                found: format!("{:?}", module.shape()),
            });
        }
        let mut values = Vec::with_capacity(outputs * inputs);
        for (_, layer, of) in parts {
            let taken =
                self.checkpoint().tensors().take(Parameter::Layer(layer, of, Part::Weight), &of.shape(config))?;
            values.extend(taken.into_iter().map(f64::from));
        }
        Ok(Some(Matrix::new(&module.name, outputs, inputs, values)?))
    }

    /// The maps that the family stores under the module's name: (place in the tensor, block, map).
    fn maps_named(&self, module: &LoraModule) -> Vec<(usize, usize, LayerParameter)> {
        let config = self.config();
        let mut found = Vec::new();
        for (layer, of) in (0..config.distinct_layers).flat_map(|layer| MAPS.map(|of| (layer, of))) {
            for spelling in spellings(config.family, Parameter::Layer(layer, of, Part::Weight)) {
                if module_name(&spelling.name) == module.name {
                    let index = if let Storage::JoinedColumns { index, .. } = spelling.storage { index } else { 0 };
                    found.push((index, layer, of));
                }
            }
        }
        found
    }
}

impl LoraModule {
    /// About how much memory [`Weights::leading_directions`] takes for this module: the weight and its decomposition, before
    /// and after, in f64.
    pub fn judging_bytes(&self) -> usize {
        let [out, inputs] = self.shape();
        4 * size_of::<f64>() * out * inputs
    }
}

fn leading_directions(
    base: Matrix,
    module: &LoraModule,
    rule: IntruderRule,
) -> Result<Vec<LeadingDirection>, ModelError> {
    let before = LeftVectors::of(base.clone())?;
    let after = LeftVectors::of(changed(base, module)?)?;
    let row = |(singular_value, k): (f64, usize)| {
        let largest_cosine = (&before.rows * after.rows.row(k).transpose()).amax();
        LeadingDirection { singular_value, largest_cosine, intruder: largest_cosine < rule.threshold }
    };
    Ok(after.leading(rule.leading).into_iter().map(row).collect())
}

/// W + scale·B A, rows rescaled to DoRA's magnitudes.
fn changed(base: Matrix, module: &LoraModule) -> Result<Matrix, ModelError> {
    let a = Matrix::new("lora_A", module.a.rows, module.a.columns, module.a.to_f64())?;
    let b = Matrix::new("lora_B", module.b.rows, module.b.columns, module.b.to_f64())?;
    // Columns of A side by side: B A is never a matrix of its own.
    let a = a.transpose();
    let update = |i: usize, j: usize| module.scale * dot(b.row(i), a.row(j));
    let sum = Matrix::from_fn(base.rows(), base.columns(), |i, j| base.at(i, j) + update(i, j));
    drop(base);
    let Some(magnitude) = &module.magnitude else { return Ok(sum) };
    let factors: Vec<f64> = (0..sum.rows())
        .map(|i| {
            let length = sum.row(i).iter().map(|w| w * w).sum::<f64>().sqrt();
            f64::from(magnitude[i]) / length.max(f64::MIN_POSITIVE)
        })
        .collect();
    Ok(Matrix::from_fn(sum.rows(), sum.columns(), |i, j| factors[i] * sum.at(i, j)))
}

/// Singular values and left singular vectors of a thin decomposition, in the library's order.
struct LeftVectors {
    values: DVector<f64>,
    /// A vector a row.
    rows: DMatrix<f64>,
}

impl LeftVectors {
    fn of(matrix: Matrix) -> Result<Self, ModelError> {
        // Row-major values read column by column are the transpose V Σ Uᵀ: the rows of its last factor are wanted.
        let transposed = DMatrix::from_column_slice(matrix.columns(), matrix.rows(), matrix.as_slice());
        drop(matrix);
        let svd = transposed.try_svd(false, true, f64::EPSILON, MOST_SWEEPS);
        let failed = || DynamicsError::Decomposition { name: "weight".into(), what: "singular value decomposition" };
        let (values, rows) = svd.and_then(|svd| Some((svd.singular_values, svd.v_t?))).ok_or_else(failed)?;
        Ok(Self { values, rows })
    }

    /// The largest singular values and the rows of their vectors.
    fn leading(&self, count: usize) -> Vec<(f64, usize)> {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by(|x, y| self.values[*y].total_cmp(&self.values[*x]));
        order.into_iter().take(count).map(|k| (self.values[k], k)).collect()
    }
}

/// Iterations that a decomposition may take.
const MOST_SWEEPS: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::super::adapter::Factor;
    use super::*;

    fn module(out: usize, inputs: usize, b: Vec<f32>, a: Vec<f32>) -> LoraModule {
        let rank = a.len() / inputs;
        let (a, b) = (Factor::new(rank, inputs, a).unwrap(), Factor::new(out, rank, b).unwrap());
        LoraModule::linear("map", a, b, rank as f64, false).unwrap()
    }

    fn diagonal(out: usize, inputs: usize) -> Matrix {
        Matrix::from_fn(out, inputs, |i, j| if i == j { 5.0 - i as f64 } else { 0.0 })
    }

    #[test]
    fn a_direction_spread_over_the_base_intrudes_and_one_of_the_base_does_not() {
        let rule = IntruderRule { leading: 2, threshold: 0.5 };
        // Left singular vectors of the base are the axes. 1000 (1, 1, 1, 1, 1) e_1ᵀ dwarfs it: |cos| = 1/sqrt(5).
        let spread = module(5, 5, vec![1000.0; 5], vec![1.0, 0.0, 0.0, 0.0, 0.0]);
        let found = leading_directions(diagonal(5, 5), &spread, rule).unwrap();
        // Of relative size 5/1000, the base turns the vector by as much.
        assert!((found[0].largest_cosine - 0.2_f64.sqrt()).abs() < 5e-3 && found[0].intruder, "{found:?}");
        // The second direction is the base's again: orthogonal to (1, 1, 1, 1, 1), near the second axis.
        assert!(found[1].largest_cosine > 0.5 && !found[1].intruder, "{found:?}");
        let axis = module(5, 5, vec![0.0, 0.0, 1000.0, 0.0, 0.0], vec![0.0, 0.0, 1.0, 0.0, 0.0]);
        let found = leading_directions(diagonal(5, 5), &axis, rule).unwrap();
        assert!((found[0].singular_value - 1003.0).abs() < 1e-9 && (found[0].largest_cosine - 1.0).abs() < 1e-12);
        assert_eq!(found.iter().filter(|direction| direction.intruder).count(), 0);
    }

    #[test]
    fn a_direction_outside_the_column_space_has_cosine_zero() {
        let outside = module(6, 3, vec![0.0, 0.0, 0.0, 0.0, 0.0, 9.0], vec![1.0, 0.0, 0.0]);
        let found = leading_directions(diagonal(6, 3), &outside, IntruderRule::default()).unwrap();
        assert_eq!(found.len(), 3, "no more than a thin decomposition has");
        // Columns 5 e_1 + 9 e_6, 4 e_2, 3 e_3: the leading vector is (5 e_1 + 9 e_6)/sqrt(106).
        assert!((found[0].largest_cosine - 5.0 / 106.0_f64.sqrt()).abs() < 1e-12, "{found:?}");
        assert!(found[0].intruder && !found[1].intruder && !found[2].intruder, "{found:?}");
    }

    #[test]
    fn nothing_intrudes_where_nothing_changes() {
        let nothing = module(4, 6, vec![0.0; 4], vec![1.0; 6]);
        let base = Matrix::from_fn(4, 6, |i, j| ((7 * i + 3 * j) as f64).sin());
        let found = leading_directions(base, &nothing, IntruderRule::default()).unwrap();
        assert!(found.iter().all(|direction| (direction.largest_cosine - 1.0).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn directions_are_those_of_the_dense_gram_matrices() {
        let (out, inputs) = (7, 9);
        let noise = |seed: f64, k: usize| ((12.9898 * (k as f64 + seed)).sin() * 43_758.545 % 1.0) as f32;
        let factor = |seed, count| (0..count).map(|k| noise(seed, k)).collect::<Vec<_>>();
        let update = module(out, inputs, factor(1.0, out * 2), factor(2.0, inputs * 2));
        let base = Matrix::from_fn(out, inputs, |i, j| f64::from(noise(3.0, i * inputs + j)));
        let found = leading_directions(base.clone(), &update, IntruderRule { leading: 4, threshold: 0.8 }).unwrap();
        // Another way to the same: eigenvectors of W Wᵀ, columns in increasing order.
        let gram = |m: &Matrix| {
            let product = m.multiply(&m.transpose());
            Matrix::from_fn(out, out, |i, j| 0.5 * (product.at(i, j) + product.at(j, i))).symmetric_eigen().unwrap()
        };
        let (_, before) = gram(&base);
        let (values, after) = gram(&changed(base, &update).unwrap());
        for (rank, direction) in found.iter().enumerate() {
            let column = out - 1 - rank;
            let cosine = |k: usize| (0..out).map(|i| before.at(i, k) * after.at(i, column)).sum::<f64>().abs();
            let largest = (0..out).map(cosine).fold(0.0, f64::max);
            // Squared spectra separate vectors to eps·|W|²/gap, some 1e-13 here.
            assert!((direction.largest_cosine - largest).abs() < 1e-10, "{direction:?} {largest}");
            assert!((direction.singular_value - values[column].sqrt()).abs() < 1e-10, "{direction:?}");
            assert_eq!(direction.intruder, largest < 0.8);
        }
    }
}
