//! One head's field on a Gaussian, in the r coordinates of the factor L: inverse-free, at any rank.
//!
//! With N = LᵀAL [r, r] the affine field c + B(x - α) of theory §2.1 becomes B L = U L G, U = V / ε, where
//!
//! - softmax: G = N, c = U (α + L Lᵀ A α);
//! - L2: G = 2 H N, c = U (α + 2 L H Lᵀ (A - M) α), H = (I + 2 LᵀML)^{-1}, from (I + 2ΣM)^{-1} L = L H;
//! - Sinkhorn: G = Y diag(2s / (1 + √(1 + 4s²))) Zᵀ for N / ε = Y diag(s) Zᵀ, c = U α, from C = L Gᵀ Lᵀ;
//! - linear: B L = V (L N + α αᵀAL), c = V (L Lᵀ A α + α αᵀAα).
//!
//! The table of B and c is [code][checked] (linear: [derived]); these forms are [derived] and tested against it.

use nalgebra::DMatrix;

use super::GaussianKernel;
use crate::linalg::{Matrix, dot, norm};

/// The affine field of one head before its value matrix: c = U `mean`, B L = U `factor`.
pub(super) struct Reduced {
    /// [d].
    pub(super) mean: Vec<f64>,
    /// [d, r], row-major.
    pub(super) factor: Vec<f64>,
}

/// Writes X Y of row-major X [m, k], Y [k, n] into `out` [m, n].
pub(super) fn product(x: &[f64], y: &[f64], k: usize, n: usize, out: &mut [f64]) {
    out.fill(0.0);
    add_product(x, y, k, n, out);
}

/// out += X Y.
pub(super) fn add_product(x: &[f64], y: &[f64], k: usize, n: usize, out: &mut [f64]) {
    for (x_row, out_row) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (x, y_row) in x_row.iter().zip(y.chunks_exact(n)) {
            out_row.iter_mut().zip(y_row).for_each(|(out, y)| *out += x * y);
        }
    }
}

/// scale Xᵀ Y of X [k, m], Y [k, n], as [m, n].
pub(super) fn gram(x: &[f64], y: &[f64], (m, n): (usize, usize), scale: f64) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for (x_row, y_row) in x.chunks_exact(m).zip(y.chunks_exact(n)) {
        for (x, out_row) in x_row.iter().zip(out.chunks_exact_mut(n)) {
            out_row.iter_mut().zip(y_row).for_each(|(out, y)| *out += scale * x * y);
        }
    }
    out
}

/// The head's queries and keys of the mean and of the columns of the factor.
pub(super) struct Image {
    mean: Vec<f64>,
    /// [k, r].
    pub(super) factor: Vec<f64>,
}

impl Image {
    pub(super) fn of(matrix: &Matrix, mean: &[f64], factor: &[f64], rank: usize) -> Self {
        let mut image = Self { mean: vec![0.0; matrix.rows()], factor: vec![0.0; matrix.rows() * rank] };
        matrix.apply(mean, &mut image.mean);
        product(matrix.as_slice(), factor, mean.len(), rank, &mut image.factor);
        image
    }
}

impl Reduced {
    /// The field of the head with `query`, `key` on N(mean, L Lᵀ), L = `factor` [d, rank]; `None` if a decomposition
    /// fails, which happens to states that are not finite. O(k d r + r³).
    pub(super) fn new(
        kernel: &GaussianKernel,
        [query, key]: [&Matrix; 2],
        mean: &[f64],
        factor: &[f64],
        rank: usize,
    ) -> Option<Self> {
        let q = Image::of(query, mean, factor, rank);
        let k = Image::of(key, mean, factor, rank);
        let beta = kernel.beta();
        let logits = gram(&k.factor, &q.factor, (rank, rank), beta / kernel.epsilon());
        let pull = || gram(&k.factor, &q.mean, (rank, 1), beta);
        let mut field = Self { mean: mean.to_vec(), factor: vec![0.0; factor.len()] };
        match kernel {
            GaussianKernel::Softmax { .. } => field.add(factor, &logits, &pull(), rank),
            GaussianKernel::SquaredDistance { .. } => {
                let keys = gram(&k.factor, &k.factor, (rank, rank), 2.0 * beta);
                let own = gram(&k.factor, &k.mean, (rank, 1), beta);
                let difference: Vec<f64> = pull().iter().zip(&own).map(|(a, b)| a - b).collect();
                let (gain, shift) = resolvent(&keys, &logits, &difference, rank)?;
                field.add(factor, &gain, &shift, rank);
            }
            GaussianKernel::Sinkhorn { .. } => field.add(factor, &contraction(&logits, rank)?, &vec![0.0; rank], rank),
            GaussianKernel::Linear { .. } => {
                let own = beta * dot(&k.mean, &q.mean);
                field.mean.iter_mut().for_each(|entry| *entry *= own);
                field.add(factor, &logits, &pull(), rank);
                let row = gram(&k.mean, &q.factor, (1, rank), beta);
                add_product(mean, &row, 1, rank, &mut field.factor);
            }
        }
        Some(field)
    }

    /// mean += L m, factor += L G.
    fn add(&mut self, factor: &[f64], gain: &[f64], shift: &[f64], rank: usize) {
        add_product(factor, gain, rank, rank, &mut self.factor);
        add_product(factor, shift, rank, 1, &mut self.mean);
    }
}

/// 2 H N and 2 H m, H = (I + X)^{-1} for positive semidefinite X.
pub(super) fn resolvent(keys: &[f64], logits: &[f64], shift: &[f64], rank: usize) -> Option<(Vec<f64>, Vec<f64>)> {
    let cholesky = (DMatrix::identity(rank, rank) + DMatrix::from_row_slice(rank, rank, keys)).cholesky()?;
    let right = DMatrix::from_fn(rank, rank + 1, |i, j| 2.0 * if j < rank { logits[i * rank + j] } else { shift[i] });
    let solved = cholesky.solve(&right);
    let gain = (0..rank * rank).map(|at| solved[(at / rank, at % rank)]).collect();
    Some((gain, (0..rank).map(|i| solved[(i, rank)]).collect()))
}

/// Y diag(2s / (1 + √(1 + 4s²))) Zᵀ for N = Y diag(s) Zᵀ: every singular value is mapped below 1.
///
/// One-sided Jacobi: columns of N are rotated in pairs until N Z has orthogonal columns, of lengths s. The result is
/// (N Z) diag(2 / (1 + √(1 + 4s²))) Zᵀ, so that nothing is divided by a small s, and each s keeps its relative accuracy
/// \[derived\] (Demmel, Veselić 1992, for the accuracy).
fn contraction(logits: &[f64], rank: usize) -> Option<Vec<f64>> {
    if !logits.iter().all(|entry| entry.is_finite()) {
        return None;
    }
    // Rows of `images` are the columns of N Z, rows of `turned` those of Z.
    // Fourth powers of entries beyond 1e77 overflow, so such N are followed over a unit.
    let largest = logits.iter().fold(0.0_f64, |most, entry| most.max(entry.abs()));
    let unit = if largest > LARGE { largest } else { 1.0 };
    let entry = |at: usize| logits[(at % rank) * rank + at / rank] / unit;
    let mut images: Vec<f64> = (0..rank * rank).map(entry).collect();
    let mut turned: Vec<f64> = (0..rank * rank).map(|at| if at % rank == at / rank { 1.0 } else { 0.0 }).collect();
    orthogonalise(&mut images, &mut turned, rank)?;
    for image in images.chunks_exact_mut(rank) {
        let s = norm(image);
        image.iter_mut().for_each(|entry| *entry *= 2.0 / (unit.recip() + unit.recip().hypot(2.0 * s)));
    }
    Some(gram(&images, &turned, (rank, rank), 1.0))
}

/// Rotates pairs of rows of `images`, and those of `turned` alike, until the former are orthogonal to rounding.
fn orthogonalise(images: &mut [f64], turned: &mut [f64], rank: usize) -> Option<()> {
    for _ in 0..MAX_SWEEPS {
        let mut is_done = true;
        for (p, q) in (1..rank).flat_map(|q| (0..q).map(move |p| (p, q))) {
            let row = |i: usize| i * rank..(i + 1) * rank;
            let (a, b) = (&images[row(p)], &images[row(q)]);
            let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
            if ab.abs() <= ORTHOGONAL * (aa * bb).sqrt() {
                continue;
            }
            is_done = false;
            // The tangent of the smaller angle that makes the two rows orthogonal.
            let zeta = (bb - aa) / (2.0 * ab);
            let tangent = 1.0_f64.copysign(zeta) / (zeta.abs() + 1.0_f64.hypot(zeta));
            let cosine = 1.0 / 1.0_f64.hypot(tangent);
            for rows in [&mut *images, &mut *turned] {
                for j in 0..rank {
                    let (x, y) = (rows[p * rank + j], rows[q * rank + j]);
                    rows[p * rank + j] = cosine * (x - tangent * y);
                    rows[q * rank + j] = cosine * (tangent * x + y);
                }
            }
        }
        if is_done {
            return Some(());
        }
    }
    None
}

/// Entries whose fourth powers, which the test of orthogonality takes, are far from overflow.
const LARGE: f64 = 1e60;
/// Cosines below this are rounding of the scalar products.
const ORTHOGONAL: f64 = 4.0 * f64::EPSILON;
/// Sweeps over all pairs; Jacobi's method converges quadratically after five or so.
const MAX_SWEEPS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    /// 2s / (1 + √(1 + 4s²)) → 1: what is left of N = Y diag(s) Zᵀ is the orthogonal matrix Y Zᵀ, however large s is.
    #[test]
    fn huge_scores_couple_by_the_orthogonal_factor() {
        let rotation_times_stretch = [1.0, -2.0, 3.0, 0.5];
        let at = |scale: f64| contraction(&rotation_times_stretch.map(|entry| scale * entry), 2).unwrap();
        let limit = at(1e50);
        let product = gram(&limit, &limit, (2, 2), 1.0);
        // One-sided rotations leave rounding.
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-14);
        assert!(near(&product, &[1.0, 0.0, 0.0, 1.0]), "{product:?}");
        for scale in [1e59, 1e61, 1e80, 1e155, 1e300] {
            assert!(near(&at(scale), &limit), "{scale:e}: {:?} beside {limit:?}", at(scale));
        }
    }
}
