//! The largest singular value of a linear map from its products: Golub-Kahan-Lanczos bidiagonalisation.
//!
//! From a start vector the method builds orthonormal bases U_k, V_k and an upper bidiagonal B_k = U_kᵀ J V_k
//! (diagonal α, superdiagonal β). The largest singular value θ of B_k is never above ‖J‖_2, because B_k is a
//! compression of J, and never falls as k grows. With y its left singular vector the pair u = U_k y, v = V_k x obeys
//! J v = θ u exactly and ‖Jᵀ u - θ v‖ = β_k |y_k|: the residual costs nothing.
//!
//! Both bases are orthogonalised against all earlier vectors, twice: at a few dozen steps that is cheaper than one
//! product, and copies of found values (the disease of the plain recurrence) do not appear.
//!
//! # References
//! G. Golub, W. Kahan, "Calculating the singular values and pseudo-inverse of a matrix", 1965; H. Simon, H. Zha,
//! "Low-rank matrix approximation using the Lanczos bidiagonalization process", 2000.

use super::linear_map::LinearMap;
use crate::error::DynamicsError;
use crate::linalg::Matrix;
use crate::random;

/// When Lanczos stops, and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct LanczosOptions {
    /// Stops when ‖Jᵀ u - θ v‖ ≤ tolerance·θ; some singular value is then within
    /// tolerance·θ of θ, and if it is the largest and far from the others, the error is about the square of that.
    pub tolerance: f64,
    /// Stops after this many steps in any case; two products a step.
    pub max_steps: usize,
    /// Seed of the standard normal start vector.
    pub seed: u64,
    /// Starts here instead, for instance at the singular vector of a neighbouring problem; then no statement about
    /// probabilities holds.
    pub start: Option<Vec<f64>>,
}

impl Default for LanczosOptions {
    fn default() -> Self {
        Self { tolerance: 1e-10, max_steps: 200, seed: 0, start: None }
    }
}

/// The largest singular value of a map as far as it is known, with its vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct SingularTriplet {
    /// θ ≤ ‖J‖_2, up to rounding.
    pub value: f64,
    /// u of length 1 (0 if θ = 0), the response.
    pub left: Vec<f64>,
    /// v of length 1, the direction that is stretched most.
    pub right: Vec<f64>,
    /// Steps k; products with J and with Jᵀ are each k.
    pub steps: usize,
    /// ‖Jᵀ u - θ v‖ / θ, 0 if θ = 0.
    pub residual: f64,
    /// Whether the residual is within the tolerance (or nothing is left to look at).
    pub converged: bool,
    /// Whether the start was random, so that [`probable_upper`](super::probable_upper) speaks of this run.
    pub random_start: bool,
    /// θ after each step.
    pub history: Vec<f64>,
}

/// Below this fraction of ‖B_k‖ a new basis vector is rounding noise: the Krylov space is exhausted.
const EXHAUSTED: f64 = 1e-14;

/// Runs Lanczos. Memory O(steps·(inputs + outputs)).
///
/// # Errors
/// [`DynamicsError::Domain`] if `tolerance` is negative or no number, `max_steps` is 0, the start has another length,
/// is zero or not finite, or a product is not finite.
///
/// # Example
/// ```
/// use metastable_dynamics::Matrix;
/// use metastable_dynamics::smoothness::{LanczosOptions, top_singular_triplet};
/// let map = Matrix::from_rows("J", &[[3.0, 0.0], [4.0, 5.0]]).unwrap();
/// let top = top_singular_triplet(&map, &LanczosOptions::default()).unwrap();
/// assert!((top.value - 45.0_f64.sqrt()).abs() < 1e-14 && top.converged);
/// ```
pub fn top_singular_triplet(map: &dyn LinearMap, options: &LanczosOptions) -> Result<SingularTriplet, DynamicsError> {
    if options.tolerance.is_nan() || options.tolerance < 0.0 {
        return Err(DynamicsError::domain("tolerance", "a number >= 0", options.tolerance));
    }
    if options.max_steps == 0 {
        return Err(DynamicsError::domain("max_steps", "at least one step", 0));
    }
    let mut bases = Bases::begin(map, start(map, options)?)?;
    let mut history = Vec::new();
    loop {
        let ritz = bases.ritz()?;
        history.push(ritz.value);
        let next = bases.next_right(map)?;
        let residual = next * ritz.last;
        let exhausted = next <= EXHAUSTED * ritz.value || bases.rights.len() > bases.inputs;
        let converged = exhausted || residual <= options.tolerance * ritz.value;
        if converged || history.len() >= options.max_steps {
            let residual = if exhausted || ritz.value == 0.0 { 0.0 } else { residual / ritz.value };
            let (left, right) = bases.vectors(&ritz);
            let (steps, random_start) = (history.len(), options.start.is_none());
            let value = ritz.value;
            return Ok(SingularTriplet { value, left, right, steps, residual, converged, random_start, history });
        }
        bases.next_left(map)?;
    }
}

fn start(map: &dyn LinearMap, options: &LanczosOptions) -> Result<Vec<f64>, DynamicsError> {
    let inputs = map.inputs();
    let mut start = match &options.start {
        None => random::standard_normal(options.seed, 1, inputs),
        Some(start) if start.len() == inputs => start.clone(),
        Some(start) => return Err(DynamicsError::shape("start", format!("[{inputs}]"), format!("[{}]", start.len()))),
    };
    let size = norm(&start);
    if !(size > 0.0 && size.is_finite()) {
        return Err(DynamicsError::domain("start", "a finite vector other than 0", format!("norm {size}")));
    }
    start.iter_mut().for_each(|x| *x /= size);
    Ok(start)
}

/// U_k, V_{k+1} and B_k.
struct Bases {
    lefts: Vec<Vec<f64>>,
    rights: Vec<Vec<f64>>,
    /// α_1 … α_k.
    diagonal: Vec<f64>,
    /// β_1 … β_k; the last one belongs to v_{k+1}.
    above: Vec<f64>,
    /// The length of the right vectors: no more of them are orthogonal.
    inputs: usize,
}

/// The largest singular value of B_k with its vectors in the bases.
struct Ritz {
    value: f64,
    left: Vec<f64>,
    right: Vec<f64>,
    /// |y_k|.
    last: f64,
}

impl Bases {
    fn begin(map: &dyn LinearMap, start: Vec<f64>) -> Result<Self, DynamicsError> {
        let mut bases =
            Self { lefts: vec![], rights: vec![start], diagonal: vec![], above: vec![], inputs: map.inputs() };
        bases.next_left(map)?;
        Ok(bases)
    }

    /// α_k u_k = J v_k - β_{k-1} u_{k-1}.
    fn next_left(&mut self, map: &dyn LinearMap) -> Result<(), DynamicsError> {
        let mut left = vec![0.0; map.outputs()];
        map.apply(self.rights.last().expect("there is a start vector"), &mut left);
        let alpha = orthonormalize(&mut left, &self.lefts)?;
        self.diagonal.push(alpha);
        self.lefts.push(left);
        Ok(())
    }

    /// β_k v_{k+1} = Jᵀ u_k - α_k v_k; gives β_k.
    fn next_right(&mut self, map: &dyn LinearMap) -> Result<f64, DynamicsError> {
        let mut right = vec![0.0; map.inputs()];
        map.apply_transposed(self.lefts.last().expect("there is a left vector"), &mut right);
        let beta = orthonormalize(&mut right, &self.rights)?;
        self.above.push(beta);
        self.rights.push(right);
        Ok(beta)
    }

    /// The top of the small problem, by the symmetric B Bᵀ: its value to eps, which is all that is asked.
    fn ritz(&self) -> Result<Ritz, DynamicsError> {
        let k = self.diagonal.len();
        let scale = self.diagonal.iter().chain(&self.above).fold(0.0_f64, |m, x| m.max(x.abs()));
        if scale == 0.0 {
            let first = |length: usize| (0..length).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect();
            return Ok(Ritz { value: 0.0, left: vec![0.0; k], right: first(k), last: 0.0 });
        }
        let (a, b) = (|i: usize| self.diagonal[i] / scale, |i: usize| self.above[i] / scale);
        let gram = Matrix::from_fn(k, k, |i, j| match i.abs_diff(j) {
            0 => a(i) * a(i) + if i + 1 < k { b(i) * b(i) } else { 0.0 },
            1 => a(i.max(j)) * b(i.min(j)),
            _ => 0.0,
        });
        let (values, vectors) = gram.symmetric_eigen()?;
        let left: Vec<f64> = (0..k).map(|i| vectors.at(i, k - 1)).collect();
        let size = values[k - 1].max(0.0).sqrt();
        // x = Bᵀ y / θ.
        let along = |j: usize| a(j) * left[j] + if j > 0 { b(j - 1) * left[j - 1] } else { 0.0 };
        let right = (0..k).map(|j| along(j) / size).collect();
        let last = left[k - 1].abs();
        Ok(Ritz { value: size * scale, left, right, last })
    }

    fn vectors(&self, ritz: &Ritz) -> (Vec<f64>, Vec<f64>) {
        let combine = |basis: &[Vec<f64>], weights: &[f64]| {
            let mut sum = vec![0.0; basis[0].len()];
            for (vector, weight) in basis.iter().zip(weights) {
                sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += weight * x);
            }
            sum
        };
        (combine(&self.lefts, &ritz.left), combine(&self.rights, &ritz.right))
    }
}

/// Removes the components along `basis` from `vector`, twice, and gives the length of what remains, scaled to 1.
fn orthonormalize(vector: &mut [f64], basis: &[Vec<f64>]) -> Result<f64, DynamicsError> {
    let before = norm(vector);
    if !before.is_finite() {
        return Err(DynamicsError::domain("jacobian product", "finite numbers", "a number beyond f64"));
    }
    for _ in 0..2 {
        for earlier in basis {
            let along = dot(vector, earlier);
            vector.iter_mut().zip(earlier).for_each(|(x, e)| *x -= along * e);
        }
    }
    let length = norm(vector);
    if length <= f64::EPSILON * before {
        // What is left of a vector inside the span is rounding noise.
        vector.fill(0.0);
        return Ok(0.0);
    }
    vector.iter_mut().for_each(|x| *x /= length);
    Ok(length)
}

/// <a, b> in eight partial sums: the order is fixed, and the compiler may use vector registers.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        (0..8).for_each(|lane| lanes[lane] += a[lane] * b[lane]);
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// |a|, also where squares overflow or underflow.
pub(super) fn norm(a: &[f64]) -> f64 {
    let largest = a.iter().fold(0.0_f64, |m, x| if x.is_nan() { f64::NAN } else { m.max(x.abs()) });
    if !(largest > 0.0 && largest.is_finite()) {
        return if a.iter().any(|x| x.is_nan()) { f64::NAN } else { largest };
    }
    if (1e-140..1e140).contains(&largest) {
        return dot(a, a).sqrt();
    }
    largest * a.iter().map(|x| (x / largest) * (x / largest)).sum::<f64>().sqrt()
}
