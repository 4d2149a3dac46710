//! Where pairs of factors start.

use metastable_dynamics::balance::{LowRankPair, jacobi::jacobi};
use metastable_dynamics::{DynamicsError, Matrix, random};
use serde::{Deserialize, Serialize};

/// The starting point of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Init {
    /// A uniform in ±1/sqrt(in) (Kaiming with a = √5), B = 0: the default of PEFT \[code\].
    #[default]
    Kaiming,
    /// A normal with deviation 1/r, B = 0 \[code, as in PEFT\].
    Gaussian,
    /// The r largest singular triplets of W, in balance: A = √(Σ/s) Vᵀ, B = U √(Σ/s).
    Pissa,
    /// The first r columns of Q and rows of R of W = Q R, not divided by s \[code\].
    Olora,
}

/// A pair to start with, and what it must be subtracted from.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The factors.
    pub pair: LowRankPair,
    /// Whether s·B A has to be subtracted from the base weight, so that training starts at the model itself.
    pub changes_base: bool,
}

impl Init {
    /// Whether this start depends on, and is subtracted from, the base weight.
    pub fn changes_base(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora)
    }

    /// A pair for W [out, in], from stream `stream` of `seed`.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] if r is 0 or larger than a side; [`DynamicsError::Decomposition`].
    ///
    /// # References
    /// F. Meng et al., PiSSA, arXiv 2404.02948, 2024; K. Büyükakyüz, OLoRA, arXiv 2406.01775, 2024 \[code, as in PEFT\].
    pub fn pair(
        self,
        weight: &Matrix,
        rank: usize,
        scale: f64,
        seed: u64,
        stream: u64,
    ) -> Result<Start, DynamicsError> {
        let (outputs, inputs) = (weight.rows(), weight.columns());
        if rank == 0 || rank > inputs.min(outputs) {
            let expected = format!("a number from 1 to {}, the smaller side of the matrix", inputs.min(outputs));
            return Err(DynamicsError::Domain { name: "rank".into(), expected, found: rank.to_string() });
        }
        let pair = match self {
            Self::Kaiming => untrained(uniform(rank, inputs, seed, stream), outputs)?,
            Self::Gaussian => untrained(normal(rank, inputs, seed, stream).scaled(1.0 / rank as f64), outputs)?,
            Self::Pissa => leading(weight, rank, seed, stream)?.scaled(scale)?,
            Self::Olora => {
                let (q, r) = weight.thin_qr();
                let a = Matrix::from_fn(rank, inputs, |i, j| r.at(i, j));
                LowRankPair::new(a, Matrix::from_fn(outputs, rank, |i, j| q.at(i, j)))?
            }
        };
        Ok(Start { pair, changes_base: self.changes_base() })
    }
}

fn untrained(a: Matrix, outputs: usize) -> Result<LowRankPair, DynamicsError> {
    let rank = a.rows();
    LowRankPair::new(a, Matrix::from_fn(outputs, rank, |_, _| 0.0))
}

/// A seed of its own for every stream (the finaliser of SplitMix64, a bijection for each seed).
fn mixed(seed: u64, stream: u64) -> u64 {
    let mut z = seed ^ stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uniform(rank: usize, inputs: usize, seed: u64, stream: u64) -> Matrix {
    let bound = 1.0 / (inputs as f64).sqrt();
    let values = random::uniform(mixed(seed, stream), rank, inputs, -bound, bound);
    Matrix::from_fn(rank, inputs, |i, j| values[i * inputs + j])
}

fn normal(rank: usize, inputs: usize, seed: u64, stream: u64) -> Matrix {
    let values = random::standard_normal(mixed(seed, stream), rank, inputs);
    Matrix::from_fn(rank, inputs, |i, j| values[i * inputs + j])
}

/// A pair whose product is the best approximation of rank r.
struct Leading {
    values: Vec<f64>,
    /// Rows u_k.
    left: Matrix,
    /// Rows v_k.
    right: Matrix,
}

impl Leading {
    fn scaled(&self, scale: f64) -> Result<LowRankPair, DynamicsError> {
        let root = |k: usize| (self.values[k] / scale).sqrt();
        let a = Matrix::from_fn(self.right.rows(), self.right.columns(), |k, j| root(k) * self.right.at(k, j));
        let b = Matrix::from_fn(self.left.columns(), self.left.rows(), |i, k| root(k) * self.left.at(k, i));
        LowRankPair::new(a, b)
    }
}

/// Columns beyond r that subspace iteration carries along, and its steps: the product is then within 1e-6 of optimal
/// for spectra that fall by 10 % from σ_r to σ_{r+8}.
const OVERSAMPLING: usize = 8;
const ITERATIONS: usize = 32;

/// The r largest singular triplets by randomised subspace iteration. O(out·in·r) a step.
///
/// # References
/// N. Halko, P. Martinsson, J. Tropp, "Finding structure with randomness", 2011, algorithm 4.4.
fn leading(weight: &Matrix, rank: usize, seed: u64, stream: u64) -> Result<Leading, DynamicsError> {
    let width = (rank + OVERSAMPLING).min(weight.rows()).min(weight.columns());
    let transposed = weight.transpose();
    let mut basis = transposed.multiply(&normal(width, weight.rows(), seed, stream).transpose()).thin_qr().0;
    for _ in 0..ITERATIONS {
        let left = weight.multiply(&basis).thin_qr().0;
        basis = transposed.multiply(&left).thin_qr().0;
    }
    // W ≈ (W basis) basisᵀ = Q (R) basisᵀ.
    let (q, r) = weight.multiply(&basis).thin_qr();
    let found = jacobi(&r)?;
    let take = |m: Matrix| Matrix::from_fn(rank, m.columns(), |i, j| m.at(i, j));
    let left = found.scaled_left.multiply(&q.transpose());
    let inverse = |k: usize| if found.values[k] > 0.0 { 1.0 / found.values[k] } else { 0.0 };
    let left = Matrix::from_fn(rank, left.columns(), |k, j| inverse(k) * left.at(k, j));
    let right = take(found.right.multiply(&basis.transpose()));
    Ok(Leading { values: found.values[..rank].to_vec(), left, right })
}
