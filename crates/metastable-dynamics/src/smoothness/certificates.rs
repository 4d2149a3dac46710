//! Upper bounds of ‖D_X f‖_2 at given tokens: proven, up to rounding.
//!
//! 1. *Three-term* \[derived\]: ‖M‖‖P‖_2 + max_i ‖query block of i‖_2 + min(T3a, T3b),
//!    T3a = (max_j Σ_i s_ij max_j|b_ij|² Σ_l s_il |c_il|²)^{1/2} (Cauchy-Schwarz along each row),
//!    T3b = ‖[s_ij |c_ij| |b_ij|]_ij‖_2.
//! 2. *Block-norm* \[derived\]: ‖D‖_2 ≤ ‖N‖_2 with N_ij ≥ ‖D_ij‖_2, a nonnegative n x n matrix.
//! 3. *Frobenius*: ‖D‖_F.
//!
//! Several heads: three-term bounds and block norms add up, Frobenius norms are of the sum itself.
//! Each result is enlarged by [`ROUNDING`] to cover the rounding of its own evaluation.

use rayon::prelude::*;

use super::block_norm::Block;
use super::head_terms::HeadTerms;
use super::nonnegative::spectral_norm_upper;
use crate::error::DynamicsError;
use crate::linalg::{Matrix, dot};

/// Relative margin on every certificate for the rounding of its evaluation: sums of n·d terms of one sign lose less
/// than n·d·eps, which is below this for n·d ≤ 4000 and in practice far beyond.
pub const ROUNDING: f64 = 1e-12;

/// Above this dimension the norms of diagonal blocks are bounded by Frobenius norms instead of decomposed.
const DECOMPOSED: usize = 128;

/// Upper bounds of ‖D_X f‖_2, all proven.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Certificates {
    /// Value, query and key path bounded apart.
    pub three_term: f64,
    /// The norm of the matrix of block norms.
    pub block_norm: f64,
    /// ‖D‖_F.
    pub frobenius: f64,
}

impl Certificates {
    /// All three for the sum of heads. O(H n² d² + H n d³) time, O(H n²) memory.
    ///
    /// # Errors
    /// [`DynamicsError::Decomposition`]; [`DynamicsError::Domain`] without heads.
    pub fn of(heads: &[HeadTerms]) -> Result<Self, DynamicsError> {
        let first = heads.first().ok_or_else(|| DynamicsError::domain("head", "at least one head", 0))?;
        let queries: Vec<Vec<Matrix>> = heads.iter().map(query_blocks).collect();
        let n = first.count;
        let (mut three_term, mut norms) = (0.0, vec![0.0; n * n]);
        for (head, queries) in heads.iter().zip(&queries) {
            let query_norms = queries.iter().map(norm_upper).collect::<Result<Vec<f64>, _>>()?;
            let largest = query_norms.iter().copied().fold(0.0, f64::max);
            three_term += head.image.operator_norm()? * spectral_norm_upper(&absolute(&head.weights))
                + largest
                + key_path_bound(head);
            add_block_norms(head, queries, &mut norms)?;
        }
        let norms = Matrix::from_fn(n, n, |i, j| norms[i * n + j]);
        let enlarged = |value: f64| value * (1.0 + ROUNDING);
        Ok(Self {
            three_term: enlarged(three_term),
            block_norm: enlarged(spectral_norm_upper(&norms)),
            frobenius: enlarged(frobenius(heads, &queries)),
        })
    }
}

fn query_blocks(head: &HeadTerms) -> Vec<Matrix> {
    (0..head.count).into_par_iter().map(|i| head.query_block(i)).collect()
}

/// ‖M‖_2, or ‖M‖_F where a decomposition would be too slow; also where squares leave f64.
fn norm_upper(matrix: &Matrix) -> Result<f64, DynamicsError> {
    let scale = matrix.max_abs();
    if scale == 0.0 {
        return Ok(0.0);
    }
    let scaled = Matrix::from_fn(matrix.rows(), matrix.columns(), |i, j| matrix.at(i, j) / scale);
    Ok(scale * if matrix.rows() > DECOMPOSED { scaled.frobenius_norm() } else { scaled.operator_norm()? })
}

/// |M_ij|, whose spectral norm is not smaller: only the weights of a linear kernel may be negative.
fn absolute(matrix: &Matrix) -> Matrix {
    Matrix::from_fn(matrix.rows(), matrix.columns(), |i, j| matrix.at(i, j).abs())
}

/// min(T3a, T3b).
fn key_path_bound(head: &HeadTerms) -> f64 {
    let n = head.count;
    let entry = |i: usize, j: usize| head.slope(i, j) * head.spread(i, j) * head.key_size(i, j);
    let mixed = spectral_norm_upper(&filled(n, entry));
    // Exponential weights may be so small or large that their squares leave f64.
    let scale = head.scale();
    let rows: Vec<f64> = (0..n)
        .into_par_iter()
        .map(|i| {
            let variance: f64 = (0..n).map(|j| head.slope(i, j) / scale * head.spread(i, j).powi(2)).sum();
            let reached = (0..n).filter(|&j| head.slope(i, j) != 0.0);
            let key = reached.map(|j| head.key_size(i, j)).fold(0.0, f64::max);
            variance * key * key
        })
        .collect();
    let column = |j: usize| (0..n).map(|i| head.slope(i, j) / scale * rows[i]).sum::<f64>();
    let cauchy = scale * (0..n).map(column).fold(0.0, f64::max).sqrt();
    mixed.min(cauchy)
}

/// An n x n matrix whose rows are computed in parallel.
fn filled(n: usize, entry: impl Fn(usize, usize) -> f64 + Sync) -> Matrix {
    let mut entries = vec![0.0; n * n];
    entries
        .par_chunks_exact_mut(n)
        .enumerate()
        .for_each(|(i, row)| row.iter_mut().enumerate().for_each(|(j, e)| *e = entry(i, j)));
    Matrix::from_fn(n, n, |i, j| entries[i * n + j])
}

/// Adds ‖D_ij‖_2 of one head, from above.
fn add_block_norms(head: &HeadTerms, queries: &[Matrix], norms: &mut [f64]) -> Result<(), DynamicsError> {
    let (n, d) = (head.count, head.dim);
    let rotated = Rotated::new(head)?;
    let diagonal = (0..n)
        .into_par_iter()
        .map(|i| norm_upper(&head.diagonal_block(i, &queries[i])))
        .collect::<Result<Vec<f64>, _>>()?;
    norms.par_chunks_exact_mut(n).enumerate().for_each_init(
        || (vec![0.0; d], vec![0.0; d]),
        |(pulled, along), (i, row)| {
            for (j, norm) in row.iter_mut().enumerate() {
                *norm += if i == j { diagonal[i] } else { rotated.norm(head, i, j, pulled, along) };
            }
        },
    );
    Ok(())
}

/// What block norms need in the right singular basis of M.
struct Rotated {
    squares: Vec<f64>,
    largest: [f64; 2],
    /// Wᵀ Mᵀ M x_j and Wᵀ Mᵀ centre_i, [n, d].
    moved: Vec<f64>,
    centres: Vec<f64>,
    /// Wᵀ key_own_i and Wᵀ key_other_j, [n, d].
    key_own: Vec<f64>,
    key_other: Vec<f64>,
}

impl Rotated {
    fn new(head: &HeadTerms) -> Result<Self, DynamicsError> {
        let transpose = head.image.transpose();
        let gram = transpose.multiply(&head.image);
        // Products of the library may differ in the last bit across the diagonal.
        let gram = Matrix::from_fn(head.dim, head.dim, |i, j| 0.5 * (gram.at(i, j) + gram.at(j, i)));
        let (squares, basis) = gram.symmetric_eigen()?;
        let to_basis = basis.transpose();
        let pull = to_basis.multiply(&transpose);
        let all = |matrix: &Matrix, rows: &[f64]| {
            let mut out = vec![0.0; rows.len()];
            for (row, out) in rows.chunks_exact(head.dim).zip(out.chunks_exact_mut(head.dim)) {
                matrix.apply(row, out);
            }
            out
        };
        // Roots of tiny eigenvalues carry the rounding of the largest: clamp, and take the norm from above.
        let squares: Vec<f64> = squares.iter().map(|square| square.max(0.0)).collect();
        Ok(Self {
            largest: [head.dim, head.dim - 1].map(|l| if l == 0 { 0.0 } else { squares[l - 1] }),
            moved: all(&pull, &head.moved),
            centres: all(&pull, &head.centres),
            key_own: all(&to_basis, &head.key_own),
            key_other: all(&to_basis, &head.key_other),
            squares,
        })
    }

    fn norm(&self, head: &HeadTerms, i: usize, j: usize, pulled: &mut [f64], along: &mut [f64]) -> f64 {
        let (weight, slope) = (head.weights.at(i, j), head.slope(i, j));
        if weight == 0.0 && slope == 0.0 {
            return 0.0;
        }
        let scale = slope.max(weight.abs());
        // A linear kernel's weights may be negative; so may then be the sign of the block.
        let (slope, sign, weight) = (slope / scale, weight.signum(), weight.abs() / scale);
        let own = |rows: &[f64], i: usize, l: usize| rows[i * head.dim + l];
        for (l, (pulled, along)) in pulled.iter_mut().zip(along.iter_mut()).enumerate() {
            *pulled = sign * slope * (own(&self.moved, j, l) - own(&self.centres, i, l));
            *along = own(&self.key_own, i, l) + own(&self.key_other, j, l);
        }
        let size = (slope * head.spread(i, j)).powi(2);
        let block = Block { squares: &self.squares, largest: self.largest, weight, pulled, size, along };
        scale * block.norm_upper()
    }
}

/// ‖Σ_h D^h‖_F: off the diagonal from scalar products of P M + s c bᵀ, on it from the blocks.
fn frobenius(heads: &[HeadTerms], queries: &[Vec<Matrix>]) -> f64 {
    let (n, d) = (heads[0].count, heads[0].dim);
    let scale = heads.iter().map(HeadTerms::scale).fold(0.0, f64::max);
    let squares: Vec<f64> = (0..n)
        .into_par_iter()
        .map_init(
            || Pair::zeros(d),
            |pair, i| {
                let mut diagonal = heads[0].diagonal_block(i, &queries[0][i]);
                for (head, queries) in heads.iter().zip(queries).skip(1) {
                    diagonal = diagonal.add_scaled(1.0, &head.diagonal_block(i, &queries[i]));
                }
                let own = Matrix::from_fn(d, d, |r, c| diagonal.at(r, c) / scale).frobenius_norm().powi(2);
                own + (0..n).filter(|&j| j != i).map(|j| pair.square(heads, scale, i, j)).sum::<f64>()
            },
        )
        .collect();
    scale * squares.iter().sum::<f64>().sqrt()
}

/// Room for one off-diagonal block of all heads.
struct Pair {
    block: Vec<f64>,
    c: Vec<f64>,
    b: Vec<f64>,
}

impl Pair {
    fn zeros(d: usize) -> Self {
        Self { block: vec![0.0; d * d], c: vec![0.0; d], b: vec![0.0; d] }
    }

    /// ‖D_ij / scale‖_F², i ≠ j.
    fn square(&mut self, heads: &[HeadTerms], scale: f64, i: usize, j: usize) -> f64 {
        self.block.fill(0.0);
        let d = self.c.len();
        for head in heads.iter().filter(|head| head.weights.at(i, j) != 0.0 || head.slope(i, j) != 0.0) {
            let (p, s) = (head.weights.at(i, j) / scale, head.slope(i, j) / scale);
            head.difference(i, j, &mut self.c);
            head.key_direction(i, j, &mut self.b);
            for (r, row) in self.block.chunks_exact_mut(d).enumerate() {
                let factor = s * self.c[r];
                let entries = head.image.row(r).iter().zip(&self.b);
                row.iter_mut().zip(entries).for_each(|(out, (m, b))| *out += p * m + factor * b);
            }
        }
        dot(&self.block, &self.block)
    }
}
