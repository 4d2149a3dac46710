//! The derivative of L ↦ BL + WL, for implicit steps.

use super::reduced::{Image, gram, product, resolvent};
use super::{GaussianFlow, GaussianKernel};

impl GaussianFlow {
    /// The Jacobian matrix of L ↦ B(L) L + W L at a factor [d, rank], row-major \[d r, d r\] with L row by row; none for
    /// kernels whose derivative is not written down here (Sinkhorn, linear), with noise, or where a decomposition fails.
    ///
    /// Every head gives δL ↦ X δL G + Y δLᵀ Z + T δL \[derived\]; with N = beta (KL)ᵀQL:
    ///
    /// ```text
    /// softmax   X = U,       G = N,    Y = UL,      Z = beta Kᵀ Q L,          T = B
    /// L2        X = U - 2S,  G = 2HN,  Y = 2ULH,    Z = beta Kᵀ(QL - KLG),    T = B,    S = beta ULH (KL)ᵀ K
    /// ```
    ///
    /// with H = (I + 2 beta (KL)ᵀKL)⁻¹. O(H d² r²).
    pub(crate) fn factor_jacobian(&self, factor: &[f64], rank: usize) -> Option<Vec<f64>> {
        if self.noise > 0.0 {
            return None;
        }
        let d = self.dim;
        let n = d * rank;
        let mut jacobian = vec![0.0; n * n];
        for h in 0..self.heads.len() {
            self.head_term(h, factor, rank)?.add_to(&mut jacobian, d, rank);
        }
        if let Some((weight, _)) = &self.feed_forward {
            add_left(weight.as_slice(), &mut jacobian, d, rank);
        }
        jacobian.iter().all(|entry| entry.is_finite()).then_some(jacobian)
    }

    fn head_term(&self, h: usize, factor: &[f64], rank: usize) -> Option<Term> {
        let (d, head, value) = (self.dim, &self.heads[h], self.values[h].as_slice());
        let nowhere = vec![0.0; d];
        let q = Image::of(head.query(), &nowhere, factor, rank).factor;
        let k = Image::of(head.key(), &nowhere, factor, rank).factor;
        let (beta, width) = (self.kernel.beta(), head.key().rows());
        let logits = gram(&k, &q, (rank, rank), beta);
        let mut moved = vec![0.0; d * rank];
        product(value, factor, d, rank, &mut moved);
        match self.kernel {
            GaussianKernel::Softmax { .. } => {
                let from_right = gram(head.key().as_slice(), &q, (d, rank), beta);
                let left = self.left(&moved, &k, head.query().as_slice(), rank);
                Some(Term { outer: value.to_vec(), gain: logits, moved, from_right, left })
            }
            GaussianKernel::SquaredDistance { .. } => {
                let keys = gram(&k, &k, (rank, rank), 2.0 * beta);
                let (gain, _) = resolvent(&keys, &logits, &vec![0.0; rank], rank)?;
                // 2H: the resolvent of the identity.
                let one: Vec<f64> =
                    (0..rank * rank).map(|at| f64::from(u8::from(at.is_multiple_of(rank + 1)))).collect();
                let (twice, _) = resolvent(&keys, &one, &vec![0.0; rank], rank)?;
                let mut damped = vec![0.0; d * rank];
                product(&moved, &twice, rank, rank, &mut damped);
                let mut pulled = q;
                let mut pushed = vec![0.0; width * rank];
                product(&k, &gain, rank, rank, &mut pushed);
                pulled.iter_mut().zip(&pushed).for_each(|(q, k)| *q -= k);
                let from_right = gram(head.key().as_slice(), &pulled, (d, rank), beta);
                let left = self.left(&damped, &k, head.query().as_slice(), rank);
                let squares = self.left(&damped, &k, head.key().as_slice(), rank);
                let outer = value.iter().zip(&squares).map(|(u, s)| u - s).collect();
                Some(Term { outer, gain, moved: damped, from_right, left })
            }
            GaussianKernel::Sinkhorn { .. } | GaussianKernel::Linear { .. } => None,
        }
    }

    /// beta Y (KL)ᵀ M, [d, d], for Y [d, r], KL [k, r] and M [k, d].
    fn left(&self, moved: &[f64], keys: &[f64], matrix: &[f64], rank: usize) -> Vec<f64> {
        let (d, beta) = (self.dim, self.kernel.beta());
        let inner = gram(keys, matrix, (rank, d), beta);
        let mut out = vec![0.0; d * d];
        product(moved, &inner, rank, d, &mut out);
        out
    }
}

/// δL ↦ X δL G + Y δLᵀ Z + T δL.
struct Term {
    /// X, [d, d].
    outer: Vec<f64>,
    /// G, [r, r].
    gain: Vec<f64>,
    /// Y, [d, r].
    moved: Vec<f64>,
    /// Z, [d, r].
    from_right: Vec<f64>,
    /// T, [d, d].
    left: Vec<f64>,
}

impl Term {
    fn add_to(&self, jacobian: &mut [f64], d: usize, rank: usize) {
        // Row (i, a), column (j, b): X_ij G_ba + Y_ib Z_ja + δ_ab T_ij.
        for (at, row) in jacobian.chunks_exact_mut(d * rank).enumerate() {
            let (i, a) = (at / rank, at % rank);
            let moved = &self.moved[i * rank..(i + 1) * rank];
            for (j, block) in row.chunks_exact_mut(rank).enumerate() {
                let (x, z) = (self.outer[i * d + j], self.from_right[j * rank + a]);
                for (b, entry) in block.iter_mut().enumerate() {
                    *entry += x * self.gain[b * rank + a] + moved[b] * z;
                }
            }
        }
        add_left(&self.left, jacobian, d, rank);
    }
}

/// Adds the matrix of δL ↦ T δL.
fn add_left(left: &[f64], jacobian: &mut [f64], d: usize, rank: usize) {
    for (at, row) in jacobian.chunks_exact_mut(d * rank).enumerate() {
        let (i, a) = (at / rank, at % rank);
        for j in 0..d {
            row[j * rank + a] += left[i * d + j];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::head::Head;
    use crate::linalg::Matrix;
    use crate::measure::Gaussian;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Against central differences of the velocity, for two heads, W x, and factors of less than full rank.
        #[test]
        fn jacobians_of_the_factor_are_those_of_differences(seed in 0_u64..500, rank in 1_usize..=3, l2: bool, ffn: bool) {
            let draw = |stream: u64, rows: usize, columns: usize| {
                Matrix::new("m", rows, columns, crate::random::standard_normal(17 * seed + stream, rows, columns)).unwrap()
            };
            let start = Gaussian::from_factor(vec![0.0; 3], draw(0, 3, rank).scaled(0.5)).unwrap();
            let head = |h: u64| Head::new(draw(3 * h + 1, 2, 3), draw(3 * h + 2, 2, 3), draw(3 * h + 3, 3, 3), None).unwrap();
            let kernel =
                if l2 { GaussianKernel::SquaredDistance { beta: 0.7 } } else { GaussianKernel::Softmax { beta: 0.7 } };
            let mut flow = GaussianFlow::new(vec![head(0), head(1)], kernel, &start).unwrap();
            if ffn {
                flow = flow.with_feed_forward(draw(9, 3, 3), vec![0.0; 3]).unwrap();
            }
            let factor = start.factor().as_slice().to_vec();
            let velocity = |factor: &[f64]| {
                let (mut mean, mut slope) = (vec![0.0; 3], vec![0.0; factor.len()]);
                assert!(flow.transport(&[0.0; 3], factor, rank, [&mut mean, &mut slope]));
                slope
            };
            let jacobian = flow.factor_jacobian(&factor, rank).unwrap();
            let n = factor.len();
            let h = 1e-5;
            for column in 0..n {
                let moved = |by: f64| {
                    let mut factor = factor.clone();
                    factor[column] += by;
                    velocity(&factor)
                };
                for (row, (right, left)) in moved(h).into_iter().zip(moved(-h)).enumerate() {
                    let expected = (right - left) / (2.0 * h);
                    // h² third derivatives of polynomials with coefficients up to a hundred, and eps/h times values.
                    prop_assert!((jacobian[row * n + column] - expected).abs() < 1e-6 * (1.0 + expected.abs()));
                }
            }
        }
    }
}
