//! The attention field Σ_j P_ij v_j, one row of scores at a time: memory O(n d) plus one row a thread, never n x n.
//!
//! This is how small clouds move, and how weights are shown; from 128 tokens on fields go through [`fused`].
//!
//! Parallel over output tokens; each row is summed in a fixed order, so results are equal to the bit on any number
//! of threads.

use rayon::prelude::*;

use super::exponential::exp_below_zero;
use super::fused::{self, Frame, Problem, Rounded, SERIAL_PAIRS};
use super::kernel::{AttentionKernel, Normalization};
use super::lanes::{LANES, lane_dot, lane_dot_shifted, lane_sum, max};
use super::projections::Projections;
use super::sinkhorn;
use crate::lanes::Level;
use crate::simd::{Loop, widest};

/// Rows that one task of the pool computes: enough to make up for the task.
const ROWS_A_TASK: usize = 16;

/// What is made of one row of weights.
trait OfRow: Sync {
    /// Writes the result for token i, whose visible weights are P_i1, …
    fn write(&self, i: usize, weights: &[f64], out: &mut [f64]);
}

/// Calls `visit(i, weights, out_i)` for every token i with its row of visible weights P_ij; `out` is cut into n
/// equal parts. O(n² k) time, O(n) memory a thread.
pub fn for_each_row(
    projections: &Projections,
    kernel: &AttentionKernel,
    out: &mut [f64],
    visit: impl Fn(usize, &[f64], &mut [f64]) + Sync,
) {
    struct Visit<F>(F);
    impl<F: Fn(usize, &[f64], &mut [f64]) + Sync> OfRow for Visit<F> {
        #[inline(always)]
        fn write(&self, i: usize, weights: &[f64], out: &mut [f64]) {
            (self.0)(i, weights, out);
        }
    }
    rows(projections, kernel, out, &Visit(visit));
}

/// Writes Σ_j P_ij v_j into `out` [n, m]. O(n² (k + m)) time. Large clouds go through [`fused`].
pub fn attend(projections: &Projections, kernel: &AttentionKernel, out: &mut [f64]) {
    if let Some(problem) = large_problem(projections, kernel, Frame::Absolute) {
        return fused::answer(&problem, Level::best(), out);
    }
    struct Sums<'a>(&'a Projections);
    impl OfRow for Sums<'_> {
        #[inline(always)]
        fn write(&self, _: usize, weights: &[f64], out: &mut [f64]) {
            for (c, out) in out.iter_mut().enumerate() {
                *out = lane_dot(weights, self.0.value_row(c));
            }
        }
    }
    rows(projections, kernel, out, &Sums(projections));
}

/// Writes Σ_j P_ij v_j into `out` [n, m], computed in `f32`: queries, keys and values are rounded to it, and scores,
/// weights and sums are formed in it. O(n² (k + m)) time, less than half of that of [`attend`].
///
/// The weights err by about 1e-7 max |S|, the messages by that times the spread of the values, plus 2e-7 of their size.
/// Sinkhorn's weights stay in `f64`: their potentials are a fixed point that single precision cannot reach.
pub fn attend_in_single_precision(projections: &Projections, kernel: &AttentionKernel, out: &mut [f64]) {
    let rounded = Rounded::new(projections);
    let Some(problem) = rounded.problem(kernel, Frame::Absolute) else {
        return attend(projections, kernel, out);
    };
    let mut messages = vec![0.0_f32; out.len()];
    fused::answer(&problem, Level::best(), &mut messages);
    out.iter_mut().zip(messages).for_each(|(out, message)| *out = f64::from(message));
}

/// Writes Σ_j P_ij (v_j - v_i) into `out` [n, m]: the rescaled flows' form, exactly zero at consensus. Large clouds go
/// through [`fused`].
pub fn attend_relative(projections: &Projections, kernel: &AttentionKernel, out: &mut [f64]) {
    if let Some(problem) = large_problem(projections, kernel, Frame::Relative) {
        return fused::answer(&problem, Level::best(), out);
    }
    struct RelativeSums<'a>(&'a Projections);
    impl OfRow for RelativeSums<'_> {
        #[inline(always)]
        fn write(&self, i: usize, weights: &[f64], out: &mut [f64]) {
            for (c, out) in out.iter_mut().enumerate() {
                let values = self.0.value_row(c);
                *out = lane_dot_shifted(weights, values, values[i]);
            }
        }
    }
    rows(projections, kernel, out, &RelativeSums(projections));
}

/// The field for the fused kernels, where they know the weights and packing keys and values for them pays.
fn large_problem<'a>(projections: &'a Projections, kernel: &AttentionKernel, frame: Frame) -> Option<Problem<'a, f64>> {
    if is_large(projections) { Problem::of(projections, kernel, frame) } else { None }
}

/// Whether a cloud is large enough for the fused kernels.
pub(super) fn is_large(projections: &Projections) -> bool {
    projections.count() * projections.count() >= SERIAL_PAIRS
}

/// All rows, in blocks over the pool, or at once where n is small.
fn rows(projections: &Projections, kernel: &AttentionKernel, out: &mut [f64], of_row: &impl OfRow) {
    if let Normalization::Sinkhorn(options) = kernel.normalization() {
        return sinkhorn::for_each_row(projections, options, out, |i, weights, out| of_row.write(i, weights, out));
    }
    let n = projections.count();
    let part = out.len() / n;
    let block = |first: usize, out: &mut [f64]| {
        let mut scratch = vec![0.0; n];
        widest(Block { projections, kernel, first, part, scratch: &mut scratch, out, of_row });
    };
    if n * n < SERIAL_PAIRS {
        block(0, out);
    } else {
        let blocks = out.par_chunks_mut(part * ROWS_A_TASK).enumerate();
        blocks.for_each(|(b, out)| block(b * ROWS_A_TASK, out));
    }
}

/// Consecutive rows, from token `first` on.
struct Block<'a, R> {
    projections: &'a Projections,
    kernel: &'a AttentionKernel,
    first: usize,
    part: usize,
    scratch: &'a mut [f64],
    out: &'a mut [f64],
    of_row: &'a R,
}

impl<R: OfRow> Loop for Block<'_, R> {
    #[inline(always)]
    fn run(self) {
        for (r, out) in self.out.chunks_exact_mut(self.part).enumerate() {
            let weights = self.projections.scores(self.first + r, self.kernel.mask(), self.scratch);
            normalize(self.kernel.normalization(), self.projections.gain(), weights);
            self.of_row.write(self.first + r, weights, out);
        }
    }
}

/// Turns a row of scores s_j into weights, with S_j = gain·s_j.
#[inline(always)]
fn normalize(normalization: Normalization, gain: f64, row: &mut [f64]) {
    let visible = row.len() as f64;
    match normalization {
        Normalization::Softmax => {
            let top = max(row);
            for_each_entry(row, |s| exp_below_zero(gain * (s - top)));
            let share = lane_sum(row).recip();
            for_each_entry(row, |w| w * share);
        }
        Normalization::Exponential => row.iter_mut().for_each(|s| *s = (gain * *s).exp() / visible),
        Normalization::Sigmoid { bias } => {
            row.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-(gain * *s + bias)).exp()) / visible);
        }
        Normalization::Linear => row.iter_mut().for_each(|s| *s = gain * *s / visible),
        Normalization::Hardmax => {
            let top = max(row);
            let ties = row.iter().filter(|s| **s == top).count() as f64;
            row.iter_mut().for_each(|s| *s = if *s == top { 1.0 / ties } else { 0.0 });
        }
        // Not a function of one row; `rows` never brings it here.
        Normalization::Sinkhorn(_) => row.fill(f64::NAN),
    }
}

/// Replaces every entry by f of it, in pieces whose lengths the compiler knows: short rows go through vectors too.
#[inline(always)]
fn for_each_entry(row: &mut [f64], f: impl Fn(f64) -> f64) {
    let (whole, rest) = row.as_chunks_mut::<LANES>();
    for chunk in whole {
        chunk.iter_mut().for_each(|s| *s = f(*s));
    }
    let (half, rest) = rest.as_chunks_mut::<{ LANES / 2 }>();
    for chunk in half {
        chunk.iter_mut().for_each(|s| *s = f(*s));
    }
    rest.iter_mut().for_each(|s| *s = f(*s));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::statistics::weights;
    use crate::attention::{Mask, Score};
    use crate::head::Head;
    use crate::linalg::{Matrix, dot, squared_distance};
    use crate::random;
    use proptest::prelude::*;

    const KINDS: [Normalization; 5] = [
        Normalization::Softmax,
        Normalization::Exponential,
        Normalization::Sigmoid { bias: -0.4 },
        Normalization::Linear,
        Normalization::Hardmax,
    ];

    /// The formulas of the contract, term by term, n x n and without care for overflow: the oracle.
    fn naive_weights(kernel: &AttentionKernel, tokens: &[f64], head: &Head) -> Vec<Vec<f64>> {
        let rows: Vec<&[f64]> = tokens.chunks_exact(head.dim()).collect();
        let project = |m: &Matrix, x: &[f64]| -> Vec<f64> { (0..m.rows()).map(|r| dot(m.row(r), x)).collect() };
        let score = |x: &[f64], y: &[f64]| {
            let (q, k) = (project(head.query(), x), project(head.key(), y));
            match kernel.score() {
                Score::Dot => kernel.beta() * dot(&q, &k),
                Score::SquaredDistance => -kernel.beta() * squared_distance(&q, &k),
            }
        };
        let row = |i: usize| -> Vec<f64> {
            let seen = if kernel.mask() == Mask::Causal { i + 1 } else { rows.len() };
            let s: Vec<f64> = (0..seen).map(|j| score(rows[i], rows[j])).collect();
            let (total, top): (f64, f64) =
                (s.iter().map(|s| s.exp()).sum(), s.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            let ties = s.iter().filter(|s| **s == top).count() as f64;
            let weight = |s: f64| match kernel.normalization() {
                Normalization::Softmax => s.exp() / total,
                Normalization::Exponential => s.exp() / seen as f64,
                Normalization::Sigmoid { bias } => 1.0 / (1.0 + (-s - bias).exp()) / seen as f64,
                Normalization::Linear => s / seen as f64,
                Normalization::Hardmax => f64::from(u8::from(s == top)) / ties,
                Normalization::Sinkhorn(_) => unreachable!("not a function of one row: it has tests of its own"),
            };
            (0..rows.len()).map(|j| if j < seen { weight(s[j]) } else { 0.0 }).collect()
        };
        (0..rows.len()).map(row).collect()
    }

    fn random_head(seed: u64, d: usize, k: usize, m: usize) -> Head {
        let matrix = |s: u64, rows: usize, columns: usize| {
            Matrix::new("random", rows, columns, random::standard_normal(seed + s, rows, columns)).unwrap()
        };
        let output = (m != d).then(|| matrix(103, d, m));
        Head::new(matrix(100, k, d), matrix(101, k, d), matrix(102, m, d), output).unwrap()
    }

    fn project(kernel: &AttentionKernel, tokens: &[f64], head: &Head) -> Projections {
        let n = tokens.len() / head.dim();
        let mut projections = Projections::zeros(n, head.query().rows(), head.value().rows());
        projections.fill(kernel, 1.0, tokens, [head.query(), head.key(), head.value()]);
        projections
    }

    proptest! {
        #[test]
        fn streaming_weights_and_fields_equal_the_naive_formulas(
            seed in 0_u64..1000, n in 1_usize..40, d in 1_usize..5, k in 1_usize..8, m in 1_usize..5,
            kind in 0_usize..5, causal: bool, distance: bool, beta in 0.1_f64..2.0,
        ) {
            let score = if distance { Score::SquaredDistance } else { Score::Dot };
            let mask = if causal { Mask::Causal } else { Mask::Full };
            let kernel = AttentionKernel::new(score, KINDS[kind], mask, beta).unwrap();
            let tokens = random::standard_normal(seed, n, d);
            let head = random_head(seed, d, k, m);
            let projections = project(&kernel, &tokens, &head);
            let (fast, slow) = (weights(&projections, &kernel), naive_weights(&kernel, &tokens, &head));
            let mut field = vec![0.0; n * m];
            attend(&projections, &kernel, &mut field);
            for i in 0..n {
                for (j, &slow) in slow[i].iter().enumerate() {
                    // Scores are sums of a few products; a relative error of 1e-13 leaves room for e^{S} of S = 100.
                    prop_assert!((fast.at(i, j) - slow).abs() <= 1e-12 * (1.0 + slow.abs()));
                }
                for c in 0..m {
                    let terms: Vec<f64> = (0..n)
                        .map(|j| slow[i][j] * dot(head.value().row(c), &tokens[j * d..(j + 1) * d]))
                        .collect();
                    let size: f64 = 1.0 + terms.iter().map(|t| t.abs()).sum::<f64>();
                    prop_assert!((field[i * m + c] - terms.iter().sum::<f64>()).abs() <= 1e-12 * size);
                }
            }
        }

        #[test]
        fn stochastic_rows_sum_to_one(seed in 0_u64..1000, n in 1_usize..60, gain in 0.0_f64..1e250) {
            let head = Head::identity(2);
            for normalization in [Normalization::Softmax, Normalization::Hardmax] {
                let kernel = AttentionKernel::new(Score::Dot, normalization, Mask::Full, 1.0).unwrap();
                let tokens = random::standard_normal(seed, n, 2);
                let mut projections = Projections::zeros(n, 2, 2);
                projections.fill(&kernel, gain, &tokens, [head.query(), head.key(), head.value()]);
                let p = weights(&projections, &kernel);
                for i in 0..n {
                    let sum: f64 = p.row(i).iter().sum();
                    prop_assert!((sum - 1.0).abs() <= 1e-15 * n as f64, "{sum}");
                }
            }
        }
    }

    #[test]
    fn softmax_at_the_largest_gain_is_an_exact_arg_max() {
        let head = random_head(3, 3, 2, 3);
        let tokens = random::standard_normal(9, 30, 3);
        let kernel = AttentionKernel::softmax(1.0).unwrap();
        let hard = AttentionKernel::new(Score::Dot, Normalization::Hardmax, Mask::Full, 1.0).unwrap();
        let mut projections = Projections::zeros(30, 2, 3);
        projections.fill(&kernel, f64::INFINITY, &tokens, [head.query(), head.key(), head.value()]);
        assert_eq!(weights(&projections, &kernel), weights(&projections, &hard));
    }

    /// Exact finite-n reference fields of the transformer-PDE dossier, section 5.3 [checked].
    #[test]
    fn reference_fields_of_four_tokens() {
        let rows = [[1.0, 0.0], [0.5, -0.5], [-0.25, 0.75], [-1.0, -0.5]];
        let matrix = |name: &str, rows: &[[f64; 2]]| Matrix::from_rows(name, rows).unwrap();
        let head = Head::new(
            matrix("query", &[[0.6, -0.4], [0.1, 0.5]]),
            matrix("key", &[[0.5, 0.2], [-0.3, 0.4]]),
            matrix("value", &[[0.3, -0.2], [0.4, 0.2]]),
            None,
        )
        .unwrap();
        let dot_score = |normalization, mask| AttentionKernel::new(Score::Dot, normalization, mask, 1.0).unwrap();
        let l2 = AttentionKernel::new(Score::SquaredDistance, Normalization::Softmax, Mask::Full, 1.0).unwrap();
        let sigmoid = Normalization::Sigmoid { bias: 0.0 };
        #[rustfmt::skip]
        let cases = [
            (dot_score(Normalization::Softmax, Mask::Full),
             [0.06764904710295, 0.07999594376174, 0.08158602031911, 0.08240571806573, -0.0254577589282, -0.06244961718918, 0.02409762012309, -0.02460898132366]),
            (l2, [0.09221302774612, 0.13216439126611, 0.1220896941459, 0.13881144320558, -0.07327991102174, -0.11219991990108, 0.02027656882983, -0.04724406148787]),
            (dot_score(sigmoid, Mask::Full),
             [0.02510889352692, 0.02429417606105, 0.02849789121625, 0.02456347419106, 0.00106450013903, -0.01219337137102, 0.01425080187947, -0.00255729999892]),
            (dot_score(Normalization::Linear, Mask::Full),
             [0.038234375, 0.07278125, 0.051828125, 0.07384375, -0.058625, -0.074375, -0.0055234375, -0.035328125]),
            (dot_score(Normalization::Exponential, Mask::Full),
             [0.06976469861936, 0.08249773125135, 0.08535992006472, 0.08621753432088, -0.0256487221728, -0.06291806303926, 0.02451730834076, -0.02503757549428]),
            (dot_score(Normalization::Softmax, Mask::Causal),
             [0.3, 0.4, 0.27705783340751, 0.26234700044507, 0.06311490684011, 0.15958834666139, 0.02409762012309, -0.02460898132366]),
        ];
        for (kernel, expected) in cases {
            let mut field = [0.0; 8];
            attend(&project(&kernel, rows.as_flattened(), &head), &kernel, &mut field);
            for (found, expected) in field.iter().zip(expected) {
                // The references are printed to 14 decimals.
                assert!((found - expected).abs() < 1e-14, "{kernel:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn fields_are_equal_to_the_bit_on_any_number_of_threads() {
        let head = random_head(5, 3, 3, 3);
        let tokens = random::standard_normal(6, 700, 3);
        let kernel = AttentionKernel::softmax(1.0).unwrap();
        let projections = project(&kernel, &tokens, &head);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut field = vec![0.0; tokens.len()];
            pool.install(|| attend(&projections, &kernel, &mut field));
            field
        };
        assert_eq!(run(1), run(3));
    }
}
