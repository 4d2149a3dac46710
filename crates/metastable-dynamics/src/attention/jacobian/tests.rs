//! Laws of the Jacobian products, the naive n x n oracle, and golden vectors.

use proptest::prelude::*;

use super::*;
use crate::attention::projections::MAX_GAIN;
use crate::attention::streaming::{attend, attend_relative};
use crate::linalg::{dot, norm};
use crate::random;

const KINDS: [Normalization; 5] = [
    Normalization::Softmax,
    Normalization::Exponential,
    Normalization::Sigmoid { bias: -0.4 },
    Normalization::Linear,
    Normalization::Hardmax,
];

/// One problem: a cloud, the matrices of a head, a kernel, a gain and a frame.
#[derive(Debug, Clone)]
struct Problem {
    kernel: AttentionKernel,
    gain: f64,
    matrices: [Matrix; 3],
    tokens: Vec<f64>,
    frame: Frame,
}

impl Problem {
    /// Gaussian tokens [n, d] and matrices with entries of size `scale`.
    fn random(seed: u64, kernel: AttentionKernel, [n, d, k, m]: [usize; 4], scale: f64) -> Self {
        let matrix = |s: u64, rows: usize| {
            Matrix::new("random", rows, d, random::standard_normal(seed + s, rows, d)).unwrap().scaled(scale)
        };
        let tokens = random::standard_normal(seed, n, d);
        let matrices = [matrix(100, k), matrix(101, k), matrix(102, m)];
        Self { kernel, gain: 1.0, matrices, tokens, frame: Frame::Absolute }
    }

    fn dim(&self) -> usize {
        self.matrices[0].columns()
    }

    fn count(&self) -> usize {
        self.tokens.len() / self.dim()
    }

    fn messages_len(&self) -> usize {
        self.count() * self.matrices[2].rows()
    }

    fn project(&self, tokens: &[f64]) -> Projections {
        let [query, key, value] = &self.matrices;
        let mut projections = Projections::zeros(tokens.len() / self.dim(), query.rows(), value.rows());
        projections.fill(&self.kernel, self.gain, tokens, [query, key, value]);
        projections
    }

    fn messages(&self, tokens: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.messages_len()];
        match self.frame {
            Frame::Absolute => attend(&self.project(tokens), &self.kernel, &mut out),
            Frame::Relative => attend_relative(&self.project(tokens), &self.kernel, &mut out),
        }
        out
    }

    fn jvp(&self, direction: &[f64]) -> Vec<f64> {
        let mut out = vec![f64::NAN; self.messages_len()];
        let (projections, tangents) = (self.project(&self.tokens), self.project(direction));
        match self.frame {
            Frame::Absolute => attend_jvp(&projections, &tangents, &self.kernel, &mut out),
            Frame::Relative => attend_relative_jvp(&projections, &tangents, &self.kernel, &mut out),
        }
        out
    }

    fn vjp(&self, cotangent: &[f64]) -> Vec<f64> {
        let projections = self.project(&self.tokens);
        let bars = match self.frame {
            Frame::Absolute => attend_vjp(&projections, &self.kernel, cotangent),
            Frame::Relative => attend_relative_vjp(&projections, &self.kernel, cotangent),
        };
        let mut out = vec![0.0; self.tokens.len()];
        bars.pull_back(self.matrices.each_ref(), &mut out);
        out
    }

    /// The Jacobian [n m, n d], one row a VJP of a unit vector.
    fn dense_by_vjp(&self) -> Matrix {
        let rows: Vec<Vec<f64>> = (0..self.messages_len()).map(|r| self.vjp(&unit(self.messages_len(), r))).collect();
        Matrix::from_rows("jacobian", &rows).unwrap()
    }

    /// The Jacobian [n m, n d], one column a JVP of a unit vector.
    fn dense_by_jvp(&self) -> Matrix {
        let columns: Vec<Vec<f64>> = (0..self.tokens.len()).map(|c| self.jvp(&unit(self.tokens.len(), c))).collect();
        Matrix::from_rows("jacobian", &columns).unwrap().transpose()
    }

    /// J E by the formulas of dossier section 3 (dP from the dense P), term by term, and beside every entry the sum
    /// of the absolute values of its terms: what rounding errors are relative to.
    fn naive_jvp(&self, direction: &[f64]) -> Vec<(f64, f64)> {
        let (n, m) = (self.count(), self.matrices[2].rows());
        let image = |matrix: &Matrix, cloud: &[f64], i: usize| -> Vec<f64> {
            (0..matrix.rows()).map(|r| dot(matrix.row(r), &cloud[i * self.dim()..(i + 1) * self.dim()])).collect()
        };
        let [query, key, value] = &self.matrices;
        let beta = self.kernel.beta() * self.gain;
        let row = |i: usize| -> Vec<(f64, f64)> {
            let seen = if self.kernel.mask() == Mask::Causal { i + 1 } else { n };
            let (q, dq) = (image(query, &self.tokens, i), image(query, direction, i));
            // Score, its tangent, and the size of the tangent's terms.
            let pair = |j: usize| {
                let (k, dk) = (image(key, &self.tokens, j), image(key, direction, j));
                let components = q.iter().zip(&dq).zip(k.iter().zip(&dk));
                components.fold((0.0, 0.0, 0.0), |(s, ds, size), ((q, dq), (k, dk))| match self.kernel.score() {
                    Score::Dot => {
                        let terms = [beta * dq * k, beta * q * dk];
                        (s + beta * q * k, ds + terms[0] + terms[1], size + terms[0].abs() + terms[1].abs())
                    }
                    Score::SquaredDistance => {
                        let term = -2.0 * beta * (q - k) * (dq - dk);
                        let bound = (2.0 * beta * (q.abs() + k.abs()) * (dq.abs() + dk.abs())).abs();
                        (s - beta * (q - k) * (q - k), ds + term, size + bound)
                    }
                })
            };
            let pairs: Vec<(f64, f64, f64)> = (0..seen).map(pair).collect();
            let top = pairs.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = pairs.iter().map(|p| (p.0 - top).exp()).sum();
            let ties = pairs.iter().filter(|p| p.0 == top).count() as f64;
            let weight_and_slope = |s: f64| match self.kernel.normalization() {
                Normalization::Softmax => ((s - top).exp() / total, (s - top).exp() / total),
                Normalization::Exponential => (s.exp() / seen as f64, s.exp() / seen as f64),
                Normalization::Sigmoid { bias } => {
                    let sigma = 1.0 / (1.0 + (-s - bias).exp());
                    (sigma / seen as f64, sigma * (1.0 - sigma) / seen as f64)
                }
                Normalization::Linear => (s / seen as f64, 1.0 / seen as f64),
                Normalization::Hardmax => (if s == top { 1.0 / ties } else { 0.0 }, 0.0),
                Normalization::Sinkhorn(_) => unreachable!("not a function of one row: it has tests of its own"),
            };
            let softmax = self.kernel.normalization() == Normalization::Softmax;
            let mean: f64 = pairs.iter().map(|p| weight_and_slope(p.0).1 * p.1).sum();
            let mean_size: f64 = pairs.iter().map(|p| weight_and_slope(p.0).1 * p.2).sum();
            let own = |cloud: &[f64], c: usize| match self.frame {
                Frame::Absolute => 0.0,
                Frame::Relative => image(value, cloud, i)[c],
            };
            let entry = |c: usize| {
                pairs.iter().enumerate().fold((0.0, 0.0), |(sum, size), (j, &(s, ds, ds_size))| {
                    let (weight, slope) = weight_and_slope(s);
                    let (v, dv) = (image(value, &self.tokens, j)[c], image(value, direction, j)[c]);
                    let (shift, shift_rate) = (own(&self.tokens, c), own(direction, c));
                    let (mean, mean_size) = if softmax { (mean, mean_size) } else { (0.0, 0.0) };
                    let term = slope * (ds - mean) * (v - shift) + weight * (dv - shift_rate);
                    let bound = slope * (ds_size + mean_size) * (v.abs() + shift.abs())
                        + weight.abs() * (dv.abs() + shift_rate.abs());
                    (sum + term, size + bound)
                })
            };
            (0..m).map(entry).collect()
        };
        (0..n).flat_map(row).collect()
    }
}

fn unit(len: usize, at: usize) -> Vec<f64> {
    (0..len).map(|i| f64::from(u8::from(i == at))).collect()
}

fn all_kernels(beta: f64) -> impl Iterator<Item = AttentionKernel> {
    let scores = [Score::Dot, Score::SquaredDistance];
    let masks = [Mask::Full, Mask::Causal];
    let pairs = scores.into_iter().flat_map(move |score| masks.map(|mask| (score, mask)));
    pairs.flat_map(move |(score, mask)| KINDS.map(|kind| AttentionKernel::new(score, kind, mask, beta).unwrap()))
}

proptest! {
    #[test]
    fn products_are_the_naive_formulas_and_each_others_transpose(
        seed in 0_u64..1000, n in 1_usize..30, d in 1_usize..5, k in 1_usize..8, m in 1_usize..5,
        kind in 0_usize..5, causal: bool, distance: bool, relative: bool, beta in 0.1_f64..2.0, gain in 0.0_f64..2.0,
    ) {
        let score = if distance { Score::SquaredDistance } else { Score::Dot };
        let mask = if causal { Mask::Causal } else { Mask::Full };
        let kernel = AttentionKernel::new(score, KINDS[kind], mask, beta).unwrap();
        let frame = if relative { Frame::Relative } else { Frame::Absolute };
        let problem = Problem { gain, frame, ..Problem::random(seed, kernel, [n, d, k, m], 0.7) };
        let direction = random::standard_normal(seed + 200, n, d);
        let cotangent = random::standard_normal(seed + 201, n, m);
        let (fast, slow) = (problem.jvp(&direction), problem.naive_jvp(&direction));
        for (fast, (slow, size)) in fast.iter().zip(&slow) {
            // Weights e^S / Σ of |S| up to a few hundred are wrong by |S| eps, the sums by n eps, of their terms.
            prop_assert!((fast - slow).abs() <= 1e-12 * size, "{fast} {slow} {size}");
        }
        let backward = problem.vjp(&cotangent);
        let forward_sum = dot(&cotangent, &fast);
        let backward_sum = dot(&backward, &direction);
        // Both sides use the same bits of P; what is left are sums of up to n (k + m + d) terms. The backward side
        // meets the terms in another order, before the direction is contracted: two more digits for that.
        let size: f64 = cotangent.iter().zip(&slow).map(|(g, (_, size))| g.abs() * size).sum();
        prop_assert!((forward_sum - backward_sum).abs() <= 1e-12 * size, "{forward_sum} {backward_sum} {size}");
    }
}

/// Richardson: (4 D(h/2) - D(h)) / 3 of central differences has error O(h⁴).
#[test]
fn jvp_is_the_derivative_of_the_messages() {
    for (kernel, frame) in all_kernels(0.8).flat_map(|k| [(k, Frame::Absolute), (k, Frame::Relative)]) {
        let problem = Problem { gain: 1.3, frame, ..Problem::random(11, kernel, [7, 3, 2, 4], 0.4) };
        let direction = random::standard_normal(12, 7, 3);
        let central = |h: f64| -> Vec<f64> {
            let moved = |h: f64| -> Vec<f64> {
                problem.messages(&problem.tokens.iter().zip(&direction).map(|(x, e)| x + h * e).collect::<Vec<_>>())
            };
            moved(h).iter().zip(moved(-h)).map(|(a, b)| (a - b) / (2.0 * h)).collect()
        };
        let exact = problem.jvp(&direction);
        for ((fine, coarse), exact) in central(1e-3).iter().zip(central(2e-3)).zip(&exact) {
            let found = (4.0 * fine - coarse) / 3.0;
            // h⁴ = 2e-11 times fifth derivatives / 120 of order 100, plus rounding 1e-16 / h of messages of order 1.
            assert!((found - exact).abs() < 1e-10 * (1.0 + exact.abs()), "{kernel:?} {frame:?}: {found} {exact}");
        }
    }
}

#[test]
fn rows_by_vjp_and_columns_by_jvp_are_one_matrix() {
    for (kernel, frame) in all_kernels(0.9).flat_map(|k| [(k, Frame::Absolute), (k, Frame::Relative)]) {
        let problem = Problem { gain: 0.7, frame, ..Problem::random(21, kernel, [6, 3, 2, 4], 0.6) };
        let (rows, columns) = (problem.dense_by_vjp(), problem.dense_by_jvp());
        let size = columns.max_abs();
        // Entries of one matrix computed in two orders; sums of a few dozen terms not much larger than the largest.
        assert!(size > 0.0 && rows.add_scaled(-1.0, &columns).max_abs() < 1e-13 * (1.0 + size), "{kernel:?}");
    }
}

#[test]
fn output_i_does_not_depend_on_tokens_after_i_under_the_causal_mask() {
    let (n, d, prefix) = (9, 3, 4);
    for kernel in all_kernels(0.8).filter(|kernel| kernel.mask() == Mask::Causal) {
        let problem = Problem::random(31, kernel, [n, d, 2, 2], 0.6);
        let mut later = random::standard_normal(32, n, d);
        later[..prefix * d].fill(0.0);
        let product = problem.jvp(&later);
        assert!(product[..prefix * 2].iter().all(|y| *y == 0.0) && norm(&product[prefix * 2..]) > 0.0, "{kernel:?}");
        let mut earlier = random::standard_normal(33, n, 2);
        earlier[prefix * 2..].fill(0.0);
        let product = problem.vjp(&earlier);
        assert!(product[prefix * d..].iter().all(|x| *x == 0.0) && norm(&product[..prefix * d]) > 0.0, "{kernel:?}");
        // The Jacobian of the first tokens alone is the leading block, to the bit: rows see the same numbers.
        let alone = Problem { tokens: problem.tokens[..prefix * d].to_vec(), ..problem.clone() };
        let direction = random::standard_normal(34, n, d);
        assert_eq!(alone.jvp(&direction[..prefix * d]), problem.jvp(&direction)[..prefix * 2]);
    }
}

#[test]
fn products_are_equal_to_the_bit_on_any_number_of_threads() {
    for kernel in all_kernels(0.5) {
        let problem = Problem::random(41, kernel, [300, 3, 2, 4], 0.5);
        let (direction, cotangent) = (random::standard_normal(42, 300, 3), random::standard_normal(43, 300, 4));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (problem.jvp(&direction), problem.vjp(&cotangent)))
        };
        assert_eq!(run(1), run(3), "{kernel:?}");
    }
}

/// At the largest gain softmax is an exact arg-max and its derivative is that of hardmax, to the bit.
#[test]
fn softmax_products_at_the_largest_gain_are_those_of_hardmax() {
    for score in [Score::Dot, Score::SquaredDistance] {
        for mask in [Mask::Full, Mask::Causal] {
            let kernel = |kind| AttentionKernel::new(score, kind, mask, 1.0).unwrap();
            let soft = Problem::random(51, kernel(Normalization::Softmax), [30, 3, 6, 3], 1.0);
            let soft = Problem { gain: MAX_GAIN, ..soft };
            let hard = Problem { kernel: kernel(Normalization::Hardmax), ..soft.clone() };
            let (direction, cotangent) = (random::standard_normal(52, 30, 3), random::standard_normal(53, 30, 3));
            assert_eq!(soft.jvp(&direction), hard.jvp(&direction));
            assert_eq!(soft.vjp(&cotangent), hard.vjp(&cotangent));
        }
    }
}

/// Equal tokens: D = (1/n) 1 1ᵀ ⊗ V whatever the scores (dossier section 5, oracle 2), also where a rounding error
/// of one part in 1e16 would be multiplied by 1e260.
#[test]
fn consensus_has_the_mean_as_its_derivative_at_any_gain() {
    for (score, gain) in [Score::Dot, Score::SquaredDistance].into_iter().flat_map(|s| [(s, 1.0), (s, MAX_GAIN)]) {
        let kernel = AttentionKernel::new(score, Normalization::Softmax, Mask::Full, 1.0).unwrap();
        let mut problem = Problem { gain, ..Problem::random(61, kernel, [7, 3, 3, 2], 1.0) };
        problem.tokens = problem.tokens[..3].repeat(7);
        let value = &problem.matrices[2];
        let expected = Matrix::from_fn(14, 21, |r, c| value.at(r % 2, c % 3) / 7.0);
        for jacobian in [problem.dense_by_vjp(), problem.dense_by_jvp()] {
            // One division by 7 and a sum of 7 equal terms.
            assert!(jacobian.add_scaled(-1.0, &expected).max_abs() < 1e-15 * value.max_abs(), "{score:?} {gain}");
        }
    }
}

#[test]
fn large_scores_give_finite_products() {
    for kernel in all_kernels(1e9) {
        // e^S of huge positive S is beyond f64, and so is its derivative; distances only make it vanish.
        if kernel.normalization() == Normalization::Exponential && kernel.score() == Score::Dot {
            continue;
        }
        let mut problem = Problem { gain: 1e12, ..Problem::random(71, kernel, [12, 3, 2, 3], 1.0) };
        // Three tokens coincide, so that there are ties.
        problem.tokens.copy_within(0..3, 3);
        problem.tokens.copy_within(0..3, 30);
        let products =
            [problem.jvp(&random::standard_normal(72, 12, 3)), problem.vjp(&random::standard_normal(73, 12, 3))];
        assert!(products.iter().flatten().all(|x| x.is_finite()), "{kernel:?} {products:?}");
    }
}

/// Dossier section 5: det(rows, columns, k, s)[r] = s sin(k + 1.7 r).
fn det(rows: usize, columns: usize, k: f64, s: f64) -> Matrix {
    Matrix::from_fn(rows, columns, |i, j| s * (k + 1.7 * (i * columns + j) as f64).sin())
}

fn golden_problem(kernel: AttentionKernel) -> Problem {
    let matrices = [det(3, 3, 1.1, 0.8), Matrix::scaled_identity(3, 1.0), det(3, 3, 2.2, 0.9)];
    Problem { kernel, gain: 1.0, matrices, tokens: det(5, 3, 0.3, 1.0).as_slice().to_vec(), frame: Frame::Absolute }
}

/// "Golden vectors, no RNG" of the Lipschitz dossier, section 5 [derived][checked there against jax in float64]:
/// S = X Aᵀ Xᵀ, that is Q = A, K = I; printed to 12 decimals, hence the tolerance.
#[test]
fn golden_vectors_of_softmax_attention() {
    const PRINTED: f64 = 1e-11;
    let direction = det(5, 3, 0.7, 1.0).as_slice().to_vec();
    let cotangent = det(5, 3, 1.9, 1.0).as_slice().to_vec();
    #[rustfmt::skip]
    let cases = [
        (Mask::Full, [2.747036943185, 2.469067074502, 2.152397481832, 1.961362871832],
         [5.396941191370, 5.015749001620, 3.960918189691, -7.073341315823]),
        (Mask::Causal, [2.258053966333, 2.218878737535, 2.000001401262, 1.626028542698],
         [4.960317758346, 4.339924423181, 4.069494557150, -6.944881625174]),
    ];
    for (mask, singular_values, [frobenius, forward, backward, pairing]) in cases {
        let problem = golden_problem(AttentionKernel::softmax(1.0).unwrap().masked(mask));
        let messages = problem.messages(&problem.tokens);
        assert!((messages[0] - 0.288329329881).abs() < PRINTED || mask == Mask::Causal);
        assert!((messages[14] + 0.271602777146).abs() < PRINTED);
        let (jvp, vjp, dense) = (problem.jvp(&direction), problem.vjp(&cotangent), problem.dense_by_vjp());
        assert!((norm(&jvp) - forward).abs() < PRINTED, "{}", norm(&jvp));
        assert!((norm(&vjp) - backward).abs() < PRINTED, "{}", norm(&vjp));
        assert!((dot(&cotangent, &jvp) - pairing).abs() < PRINTED && (dot(&vjp, &direction) - pairing).abs() < PRINTED);
        assert!((dense.frobenius_norm() - frobenius).abs() < PRINTED, "{}", dense.frobenius_norm());
        for (found, expected) in dense.singular_values().unwrap().iter().zip(singular_values) {
            assert!((found - expected).abs() < PRINTED, "{found} {expected}");
        }
    }
}

/// The same table: distance scores (s = 0.4, Q = K = W) and sigmoid weights, which the dossier does not divide by the
/// number of visible tokens.
#[test]
fn golden_norms_of_distance_and_sigmoid_attention() {
    let w = det(2, 3, 0.4, 0.7);
    let sigmoid = Normalization::Sigmoid { bias: -(5.0_f64.ln()) };
    for (mask, distance, logistic) in
        [(Mask::Full, 1.550786164425, 4.529374417077), (Mask::Causal, 1.655137076734, 3.542459698579)]
    {
        let kernel = AttentionKernel::new(Score::SquaredDistance, Normalization::Softmax, mask, 0.4).unwrap();
        let problem = golden_problem(kernel);
        let problem = Problem { matrices: [w.clone(), w.clone(), problem.matrices[2].clone()], ..problem };
        let found = problem.dense_by_vjp().operator_norm().unwrap();
        assert!((found - distance).abs() < 1e-11, "{found} {distance}");
        let kernel = AttentionKernel::new(Score::Dot, sigmoid, mask, 1.0).unwrap();
        let dense = golden_problem(kernel).dense_by_vjp();
        let undivided = Matrix::from_fn(15, 15, |r, c| dense.at(r, c) * mask.visible(r / 3, 5) as f64);
        let found = undivided.operator_norm().unwrap();
        assert!((found - logistic).abs() < 1e-11, "{found} {logistic}");
    }
}

/// From 128 tokens on products take the fused kernels: rows are the oracle.
#[test]
fn products_of_large_clouds_are_those_of_rows() {
    for kernel in all_kernels(0.3) {
        let problem = Problem::random(40, kernel, [140, 6, 5, 4], 0.5);
        let (projections, tangents) =
            (problem.project(&problem.tokens), problem.project(&random::standard_normal(41, 140, 6)));
        let cotangent = random::standard_normal(42, 140, 4);
        let (found, mut expected) = (problem.jvp(&random::standard_normal(41, 140, 6)), vec![0.0; 140 * 4]);
        jvp_by_rows(Frame::Absolute, &projections, &tangents, &kernel, &mut expected);
        let (back, back_expected) = (
            attend_vjp(&projections, &kernel, &cotangent),
            vjp_by_rows(Frame::Absolute, &projections, &kernel, &cotangent),
        );
        let pairs = [
            (&found, &expected),
            (&back.queries, &back_expected.queries),
            (&back.keys, &back_expected.keys),
            (&back.values, &back_expected.values),
        ];
        for (found, expected) in pairs {
            let largest = norm(expected);
            for (found, expected) in found.iter().zip(expected) {
                // Scores of size 10 and sums of 140 terms, relative to the norm of all.
                assert!((found - expected).abs() <= 1e-13 * largest, "{kernel:?}: {found} {expected}");
            }
        }
    }
}
