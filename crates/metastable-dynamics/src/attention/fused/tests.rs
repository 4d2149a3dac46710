use proptest::prelude::*;

use super::*;
use crate::attention::kernel::{Normalization, Score};
use crate::random;

const KINDS: [Normalization; 5] = [
    Normalization::Softmax,
    Normalization::Exponential,
    Normalization::Sigmoid { bias: -0.4 },
    Normalization::Linear,
    Normalization::Hardmax,
];

/// A problem over random numbers, rounded to T.
struct Case<T> {
    queries: Vec<T>,
    keys: Vec<T>,
    values: Vec<T>,
    width: usize,
    value_width: usize,
    kernel: AttentionKernel,
    frame: Frame,
}

impl<T: Real> Case<T> {
    fn new(seed: u64, counts: [usize; 2], widths: [usize; 2], kernel: AttentionKernel, frame: Frame) -> Self {
        let numbers = |offset: u64, count: usize, width: usize| -> Vec<T> {
            random::standard_normal(seed + offset, count, width).into_iter().map(T::from_f64).collect()
        };
        let [width, value_width] = widths;
        let (queries, keys) = (numbers(0, counts[0], width), numbers(1000, counts[1], width));
        Self { queries, keys, values: numbers(2000, counts[1], value_width), width, value_width, kernel, frame }
    }

    fn problem(&self) -> Problem<'_, T> {
        let queries = Rows::new(&self.queries, self.width);
        let (keys, values) = (Rows::new(&self.keys, self.width), Rows::new(&self.values, self.value_width));
        Problem { frame: self.frame, ..problem(queries, keys, values, &self.kernel) }
    }

    fn answer(&self, level: Level) -> Vec<T> {
        let problem = self.problem();
        let mut out = vec![T::default(); problem.counts[0] * self.value_width];
        answer(&problem, level, &mut out);
        out
    }

    /// S_ij of the visible j, and Σ_c |terms|: what their rounding is relative to.
    fn scores(&self, i: usize) -> Vec<(f64, f64)> {
        let problem = self.problem();
        let score = |j: usize| {
            let pairs = (0..self.width).map(|c| (problem.queries.at(i, c).to_f64(), problem.keys.at(j, c).to_f64()));
            let beta = self.kernel.beta();
            match self.kernel.score() {
                Score::Dot => pairs.fold((0.0, 0.0), |(s, a), (q, k)| (s + beta * q * k, a + (beta * q * k).abs())),
                Score::SquaredDistance => pairs.fold((0.0, 0.0), |(s, a), (q, k)| {
                    (s - beta * (q - k).powi(2), a + (beta * (q - k).powi(2)).abs())
                }),
            }
        };
        (0..problem.visible(i)).map(score).collect()
    }

    /// beta |q_i| max_j |k_j| over all keys, hidden ones too: sums of dot scores start from it, so that it is rounded
    /// with every term (in the first rows of a causal mask it is twice their largest score).
    fn bound(&self, i: usize) -> f64 {
        if self.kernel.score() == Score::SquaredDistance {
            return 0.0;
        }
        let norm = |row: &[T]| row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
        let largest_key = self.keys.chunks(self.width).map(norm).fold(0.0, f64::max);
        self.kernel.beta().abs() * norm(&self.queries[i * self.width..(i + 1) * self.width]) * largest_key
    }

    /// The formulas of the kernel, term by term in f64: the field of query i, and the error that T may make.
    fn naive(&self, i: usize, epsilon: f64) -> Vec<(f64, f64)> {
        let (problem, scores) = (self.problem(), self.scores(i));
        let visible = scores.len() as f64;
        let top = scores.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s.0 - top).exp()).sum();
        let ties = scores.iter().filter(|s| s.0 == top).count() as f64;
        let weight = |s: f64| match self.kernel.normalization() {
            Normalization::Softmax => (s - top).exp() / total,
            Normalization::Exponential => s.exp() / visible,
            Normalization::Sigmoid { bias } => 1.0 / (1.0 + (-s - bias).exp()) / visible,
            Normalization::Linear => s / visible,
            Normalization::Hardmax => f64::from(u8::from(s == top)) / ties,
            Normalization::Sinkhorn(_) => unreachable!("no problem of these tests has Sinkhorn's weights"),
        };
        // Scores are sums of a few rounded products of size `terms`, multiplied by rounded factors; weights carry
        // twice that (row sums), a few roundings of their own, and sums of n terms in blocks.
        let largest = scores.iter().map(|s| s.1).fold(self.bound(i), f64::max);
        let relative = epsilon * (12.0 + 0.1 * visible.sqrt() + 8.0 * largest);
        let component = |c: usize| {
            let origin = if self.frame == Frame::Relative { problem.values.at(i, c).to_f64() } else { 0.0 };
            let term = |(j, &(s, terms)): (usize, &(f64, f64))| {
                let value = problem.values.at(j, c).to_f64() - origin;
                let size = match self.kernel.normalization() {
                    Normalization::Linear => terms / visible,
                    _ => weight(s),
                };
                (weight(s) * value, size * (value.abs() + epsilon * origin.abs()))
            };
            let (sum, size) = scores.iter().enumerate().map(term).fold((0.0, 0.0), |(a, b), (t, s)| (a + t, b + s));
            // The last: the least weight of a sigmoid in single precision, 2^-100, times a value.
            (sum, relative * size + 4e-30)
        };
        (0..self.value_width).map(component).collect()
    }

    fn check(&self, epsilon: f64) -> Result<(), TestCaseError> {
        for level in Level::available() {
            let found = self.answer(level);
            for (i, found) in found.chunks(self.value_width).enumerate() {
                for (c, (expected, tolerance)) in self.naive(i, epsilon).into_iter().enumerate() {
                    let error = (found[c].to_f64() - expected).abs();
                    prop_assert!(
                        error <= tolerance,
                        "{level:?} {:?} {:?} query {i} component {c}: {:?}, expected {expected}, {error:e} > {tolerance:e}",
                        self.kernel,
                        self.frame,
                        found[c]
                    );
                }
            }
        }
        Ok(())
    }
}

fn kernel(kind: usize, distance: bool, causal: bool, beta: f64) -> AttentionKernel {
    let score = if distance { Score::SquaredDistance } else { Score::Dot };
    let mask = if causal { Mask::Causal } else { Mask::Full };
    AttentionKernel::new(score, KINDS[kind], mask, beta).unwrap()
}

fn frame(relative: bool) -> Frame {
    if relative { Frame::Relative } else { Frame::Absolute }
}

proptest! {
    #[test]
    fn every_path_equals_the_formulas_in_few_dimensions(
        seed in 0_u64..1000, n in 1_usize..90, k in 1_usize..10, m in 1_usize..10, kind in 0_usize..4,
        distance: bool, causal: bool, relative: bool, beta in -1.0_f64..3.0,
    ) {
        let kernel = kernel(kind, distance, causal, beta);
        Case::<f64>::new(seed, [n; 2], [k, m], kernel, frame(relative)).check(f64::EPSILON)?;
        Case::<f32>::new(seed, [n; 2], [k, m], kernel, frame(relative)).check(f64::from(f32::EPSILON))?;
    }

    #[test]
    fn every_path_equals_the_formulas_in_many_dimensions(
        seed in 0_u64..1000, n in 1_usize..200, k in 9_usize..70, m in 1_usize..70, kind in 0_usize..4,
        distance: bool, causal: bool, relative: bool, beta in 0.0_f64..0.3,
    ) {
        let kernel = kernel(kind, distance, causal, beta);
        Case::<f64>::new(seed, [n; 2], [k, m], kernel, frame(relative)).check(f64::EPSILON)?;
        Case::<f32>::new(seed, [n; 2], [k, m], kernel, frame(relative)).check(f64::from(f32::EPSILON))?;
    }

    #[test]
    fn queries_may_be_others_than_keys(
        seed in 0_u64..1000, queries in 1_usize..70, keys in 1_usize..150, k in 1_usize..20, m in 1_usize..20,
        distance: bool,
    ) {
        let kernel = kernel(0, distance, false, 0.7);
        Case::<f64>::new(seed, [queries, keys], [k, m], kernel, Frame::Absolute).check(f64::EPSILON)?;
        Case::<f32>::new(seed, [queries, keys], [k, m], kernel, Frame::Absolute).check(f64::from(f32::EPSILON))?;
    }

    #[test]
    fn hardmax_is_the_value_of_the_best_key(seed in 0_u64..1000, n in 1_usize..150, k in 1_usize..20, causal: bool) {
        let case = Case::<f64>::new(seed, [n; 2], [k, 2], kernel(4, false, causal, 1.0), Frame::Absolute);
        for level in Level::available() {
            for (i, found) in case.answer(level).chunks(2).enumerate() {
                // Scores of random keys differ by far more than their rounding.
                let scores = case.scores(i);
                let best = (0..scores.len()).max_by(|&a, &b| scores[a].0.total_cmp(&scores[b].0)).unwrap();
                prop_assert_eq!(found, &case.values[2 * best..2 * best + 2]);
            }
        }
    }

    /// Huge beta, tokens on the unit sphere: no overflow, no lost row, and an arg-max in the end.
    #[test]
    fn softmax_survives_any_beta(seed in 0_u64..1000, exponent in 0.0_f64..30.0, k in 1_usize..12, causal: bool) {
        let kernel = kernel(0, false, causal, 10_f64.powf(exponent));
        let case = Case::<f32>::new(seed, [70; 2], [k, 3], kernel, Frame::Absolute);
        for level in Level::available() {
            for (i, found) in case.answer(level).chunks(3).enumerate() {
                let scores = case.scores(i);
                for (c, found) in found.iter().enumerate() {
                    let values = (0..scores.len()).map(|j| case.values[3 * j + c]);
                    let (low, high) = values.fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(v), h.max(v)));
                    let margin = 1e-6 * (1.0 + low.abs().max(high.abs()));
                    prop_assert!((low - margin..=high + margin).contains(found), "{level:?}: {found} not in {low}..{high}");
                }
            }
        }
    }
}

#[test]
fn long_rows_are_exact_in_every_mask_and_path() {
    for (widths, beta) in [([3, 3], 1.0), ([2, 4], 30.0), ([20, 5], 0.3)] {
        for causal in [false, true] {
            for distance in [false, true] {
                let kernel = kernel(0, distance, causal, beta);
                Case::<f64>::new(7, [1100; 2], widths, kernel, Frame::Absolute).check(f64::EPSILON).unwrap();
                Case::<f32>::new(7, [1100; 2], widths, kernel, Frame::Absolute).check(f64::from(f32::EPSILON)).unwrap();
            }
        }
    }
}

/// At consensus Σ_j P_ij (v_j - v_i) is zero, not small: rescaled flows rest there for ever.
#[test]
fn relative_messages_of_equal_tokens_are_exactly_zero() {
    for (distance, kind, widths) in
        [(false, 0, 3), (true, 0, 3), (false, 0, 17), (false, 4, 3), (false, 2, 3), (true, 1, 3)]
    {
        for beta in [1.0, 1e12] {
            let mut case =
                Case::<f64>::new(1, [150; 2], [widths; 2], kernel(kind, distance, true, beta), Frame::Relative);
            for numbers in [&mut case.queries, &mut case.keys, &mut case.values] {
                let first = numbers[..widths].to_vec();
                numbers.chunks_mut(widths).for_each(|row| row.copy_from_slice(&first));
            }
            // e^{1e12} is beyond f64: infinity times zero.
            if kind == 1 && !distance && beta > 1.0 {
                continue;
            }
            for level in Level::available() {
                assert!(case.answer(level).iter().all(|y| *y == 0.0), "{level:?} {:?}", case.kernel);
            }
        }
    }
}

/// A row that sees a number that is none says so; rows well before it do not. (In between its value is multiplied by the
/// weight zero, which gives NaN again.)
#[test]
fn nan_spreads_to_whoever_sees_it_and_not_far_back() {
    for widths in [[3, 3], [17, 3]] {
        for kind in 0..4 {
            let mut case = Case::<f64>::new(5, [150; 2], widths, kernel(kind, false, true, 0.5), Frame::Absolute);
            case.keys[100 * widths[0]] = f64::NAN;
            case.values[100 * widths[1]] = f64::NAN;
            for level in Level::available() {
                for (i, row) in case.answer(level).chunks(widths[1]).enumerate() {
                    assert!(row[0].is_nan() || i < 100, "{level:?} {kind} row {i}: {row:?}");
                    assert!(!row[0].is_nan() || i >= 100 - 48, "{level:?} {kind} row {i}: {row:?}");
                }
            }
        }
    }
}

#[test]
fn answers_are_equal_to_the_bit_on_any_number_of_threads() {
    for widths in [[3, 3], [20, 20]] {
        let case = Case::<f32>::new(3, [700; 2], widths, kernel(0, false, true, 1.0), Frame::Absolute);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| case.answer(Level::best()))
        };
        assert_eq!(run(1), run(3));
    }
}
