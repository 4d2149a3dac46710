//! Why attention is as steep as it is at a cloud: which path, which head, which tokens.
//!
//! With the top singular pair (u, v) of J the constant is σ = <u, J v>, and J = Σ_h (value + query + key path of head
//! h), so that σ = Σ_h Σ_path <u, path v>: exact, signed shares.

use super::head_terms::HeadTerms;
use super::lanczos::{LanczosOptions, SingularTriplet, top_singular_triplet};
use crate::error::DynamicsError;
use crate::head::Head;
use crate::linalg::{Matrix, dot};

/// Shares of one head in σ. They and those of the other heads add up to σ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathShares {
    /// Through the values: Σ_j P_ij M ε_j.
    pub value: f64,
    /// Through the queries: a token looks elsewhere because it moved.
    pub query: f64,
    /// Through the keys: tokens look elsewhere because another moved.
    pub key: f64,
}

impl PathShares {
    /// Their sum.
    pub fn total(self) -> f64 {
        self.value + self.query + self.key
    }
}

/// What the weights of a head say about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SinkDiagnosis {
    /// ‖P‖_2 (from Lanczos, a lower value).
    pub weights_norm: f64,
    /// The token that gathers most weight, and Σ_i P_ij of it.
    pub token: usize,
    /// See `token`.
    pub mass: f64,
    /// ‖P‖_2 / √mass: near 1 where one token is looked at by all, an attention sink.
    pub sink_ratio: f64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// One entry a head.
    pub heads: Vec<PathShares>,
    /// |v_i|² of every token: whom to move. Sums to 1.
    pub moved: Vec<f64>,
    /// |u_i|² of every token: who answers. Sums to 1.
    pub answering: Vec<f64>,
    /// One entry a head.
    pub sinks: Vec<SinkDiagnosis>,
}

/// Splits σ of a singular pair over heads, paths and tokens. O(H (n² d + n d²)).
///
/// # Errors
/// [`DynamicsError::Decomposition`].
///
/// # Panics
/// If the pair is of another cloud.
pub fn explain(heads: &[HeadTerms], pair: &SingularTriplet) -> Result<Explanation, DynamicsError> {
    let share = |head: &HeadTerms| {
        let [value, query, key] = head.paths(&pair.right).map(|path| dot(&pair.left, &path));
        PathShares { value, query, key }
    };
    let dim = heads.first().map_or(1, |head| head.dim);
    let energies = |vector: &[f64]| vector.chunks_exact(dim).map(|token| dot(token, token)).collect();
    Ok(Explanation {
        heads: heads.iter().map(share).collect(),
        moved: energies(&pair.right),
        answering: energies(&pair.left),
        sinks: heads.iter().map(|head| sink(head.weights())).collect::<Result<_, _>>()?,
    })
}

/// Compares ‖P‖_2 with the root of the largest column mass, to which a single sink would make it equal. O(n²) a step.
///
/// # Errors
/// [`DynamicsError::Decomposition`].
///
/// # Example
/// All tokens look at the first.
/// ```
/// use metastable_dynamics::Matrix;
/// use metastable_dynamics::smoothness::explain::sink;
/// let found = sink(&Matrix::from_fn(9, 9, |_, j| if j == 0 { 1.0 } else { 0.0 })).unwrap();
/// assert_eq!((found.token, found.mass), (0, 9.0));
/// assert!((found.weights_norm - 3.0).abs() < 1e-12 && (found.sink_ratio - 1.0).abs() < 1e-12);
/// ```
pub fn sink(weights: &Matrix) -> Result<SinkDiagnosis, DynamicsError> {
    let mut masses = vec![0.0; weights.columns()];
    for i in 0..weights.rows() {
        masses.iter_mut().zip(weights.row(i)).for_each(|(mass, p)| *mass += p);
    }
    let token = (1..masses.len()).fold(0, |best, j| if masses[j] > masses[best] { j } else { best });
    let mass = masses[token];
    let weights_norm = top_singular_triplet(weights, &LanczosOptions::default())?.value;
    let sink_ratio = if mass > 0.0 { weights_norm / mass.sqrt() } else { 0.0 };
    Ok(SinkDiagnosis { weights_norm, token, mass, sink_ratio })
}

/// A lower value of one head's constant from values alone: ‖P‖_2 ‖M Π‖_2, Π the projector on ker Q ∩ ker K.
///
/// Directions whose rows lie in both kernels change no score, so that J E = P E Mᵀ there. The kernels meet in at least
/// d - 2k dimensions; 0 where they do not meet. Holds for every kernel whose scores see tokens through Q and K
/// \[derived\]. O(d³ + n²) a step of Lanczos.
///
/// # Errors
/// [`DynamicsError::Decomposition`].
pub fn value_path_lower(head: &Head, terms: &HeadTerms) -> Result<f64, DynamicsError> {
    let kernel = blind_directions(head)?;
    if kernel.is_empty() {
        return Ok(0.0);
    }
    let d = head.dim();
    let image = head.output_value();
    let basis = Matrix::from_fn(d, kernel.len(), |i, c| kernel[c][i]);
    let options = LanczosOptions::default();
    let stretched = top_singular_triplet(&image.multiply(&basis), &options)?.value;
    Ok(stretched * top_singular_triplet(terms.weights(), &options)?.value)
}

/// An orthonormal basis of ker Q ∩ ker K: eigenvectors of QᵀQ + KᵀK whose eigenvalue is rounding.
fn blind_directions(head: &Head) -> Result<Vec<Vec<f64>>, DynamicsError> {
    let d = head.dim();
    let gram = |m: &Matrix| m.transpose().multiply(m);
    let sum = gram(head.query()).add_scaled(1.0, &gram(head.key()));
    let sum = Matrix::from_fn(d, d, |i, j| 0.5 * (sum.at(i, j) + sum.at(j, i)));
    let (values, vectors) = sum.symmetric_eigen()?;
    let largest = values[d - 1].max(0.0);
    let blind = (0..d).filter(|&c| values[c] <= f64::EPSILON * d as f64 * largest);
    Ok(blind.map(|c| (0..d).map(|i| vectors.at(i, c)).collect()).collect())
}
