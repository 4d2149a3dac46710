use proptest::prelude::*;

use super::*;
use crate::random;

/// A point and a direction over random numbers, rounded to T.
struct Case<T> {
    /// Queries, keys, values; then their tangents.
    numbers: [Vec<T>; 6],
    cotangent: Vec<T>,
    widths: [usize; 2],
    kernel: AttentionKernel,
}

impl<T: Real> Case<T> {
    fn new(seed: u64, counts: [usize; 2], widths: [usize; 2], kernel: AttentionKernel) -> Self {
        let normal = |offset: u64, count: usize, width: usize| -> Vec<T> {
            random::standard_normal(seed + offset, count, width).into_iter().map(T::from_f64).collect()
        };
        let [k, m] = widths;
        let shapes = [(counts[0], k), (counts[1], k), (counts[1], m)];
        let numbers = std::array::from_fn(|part| {
            let (count, width) = shapes[part % 3];
            normal(1000 * part as u64, count, width)
        });
        Self { numbers, cotangent: normal(9000, counts[0], m), widths, kernel }
    }

    fn rows(&self, first: usize) -> [Rows<'_, T>; 3] {
        let [k, m] = self.widths;
        [(first, k), (first + 1, k), (first + 2, m)].map(|(part, width)| Rows::new(&self.numbers[part], width))
    }

    fn jacobian(&self, level: Level) -> HeadJacobian<T> {
        let [queries, keys, values] = self.rows(0);
        HeadJacobian::at_level(queries, keys, values, &self.kernel, level).unwrap()
    }

    fn jvp(&self, level: Level) -> Vec<T> {
        let [queries, keys, values] = self.rows(3);
        self.jacobian(level).jvp(queries, keys, values)
    }

    fn vjp(&self, level: Level) -> HeadCotangents<T> {
        self.jacobian(level).vjp(Rows::new(&self.cotangent, self.widths[1]))
    }

    /// The formulas term by term in f64.
    fn naive(&self) -> Naive {
        Naive::of(
            self.numbers.each_ref().map(|numbers| numbers.iter().map(|x| x.to_f64()).collect()),
            &self.cotangent.iter().map(|x| x.to_f64()).collect::<Vec<_>>(),
            self.widths,
            &self.kernel,
        )
    }

    /// Both products against the formulas, relative to the sizes of what is summed.
    fn check(&self, epsilon: f64) -> Result<(), TestCaseError> {
        let naive = self.naive();
        for level in Level::available() {
            let found = self.vjp(level);
            let parts = [
                ("jvp", self.jvp(level), &naive.jvp),
                ("queries", found.queries, &naive.queries),
                ("keys", found.keys, &naive.keys),
                ("values", found.values, &naive.values),
            ];
            for (name, found, expected) in parts {
                for (c, (found, (expected, size))) in found.iter().zip(expected).enumerate() {
                    let (error, tolerance) = ((found.to_f64() - expected).abs(), epsilon * naive.factor * size + 1e-30);
                    prop_assert!(
                        error <= tolerance,
                        "{level:?} {:?} {name}[{c}]: {found:?}, expected {expected}, {error:e} > {tolerance:e}",
                        self.kernel
                    );
                }
            }
        }
        Ok(())
    }
}

/// Products with the sum of the absolute values of their terms.
struct Naive {
    jvp: Vec<(f64, f64)>,
    queries: Vec<(f64, f64)>,
    keys: Vec<(f64, f64)>,
    values: Vec<(f64, f64)>,
    /// How many roundings of a term the products may make.
    factor: f64,
}

impl Naive {
    fn of(numbers: [Vec<f64>; 6], cotangent: &[f64], [k, m]: [usize; 2], kernel: &AttentionKernel) -> Self {
        let [queries, keys, values, moved_queries, moved_keys, moved_values] = &numbers;
        let (rows, count, beta) = (queries.len() / k, keys.len() / k, kernel.beta());
        let row = |numbers: &[f64], i: usize, width: usize| numbers[i * width..(i + 1) * width].to_vec();
        // What is rounded is measured from token 0 where it may be: |q| + |k| bounds both.
        let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let largest = |numbers: &[f64], width: usize| numbers.chunks(width).map(norm).fold(0.0, f64::max);
        let span = 2.0 * largest(queries, k).max(largest(keys, k));
        let value_span = 2.0 * largest(values, m);
        let moved_span = 2.0 * largest(moved_queries, k).max(largest(moved_keys, k));
        let mut found = Self {
            jvp: vec![(0.0, 0.0); rows * m],
            queries: vec![(0.0, 0.0); rows * k],
            keys: vec![(0.0, 0.0); count * k],
            values: vec![(0.0, 0.0); count * m],
            // Twice the rounding of a score (row and sum), which counts terms of size beta·span², and sums of n terms
            // in blocks; widths of at most 80 give 4.
            factor: 16.0 + 8.0 * beta.abs() * span * span + 0.1 * (count as f64).sqrt(),
        };
        for i in 0..rows {
            let (q, moved_q, bar) = (row(queries, i, k), row(moved_queries, i, k), row(cotangent, i, m));
            let visible = kernel.mask().visible(i, count);
            let score = |j: usize| {
                let key = row(keys, j, k);
                match kernel.score() {
                    Score::Dot => beta * q.iter().zip(&key).map(|(q, k)| q * k).sum::<f64>(),
                    Score::SquaredDistance => -beta * q.iter().zip(&key).map(|(q, k)| (q - k).powi(2)).sum::<f64>(),
                }
            };
            // ∂S/∂q and ∂S/∂k.
            let gradients = |j: usize| -> [Vec<f64>; 2] {
                let key = row(keys, j, k);
                match kernel.score() {
                    Score::Dot => [key.iter().map(|x| beta * x).collect(), q.iter().map(|x| beta * x).collect()],
                    Score::SquaredDistance => {
                        let towards: Vec<f64> = q.iter().zip(&key).map(|(q, k)| 2.0 * beta * (k - q)).collect();
                        [towards.clone(), towards.iter().map(|x| -x).collect()]
                    }
                }
            };
            let scores: Vec<f64> = (0..visible).map(score).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let share = visible as f64;
            let (weights, slopes): (Vec<f64>, Vec<f64>) = scores
                .iter()
                .map(|s| match kernel.normalization() {
                    Normalization::Softmax => ((s - top).exp() / total, (s - top).exp() / total),
                    Normalization::Sigmoid { bias } => {
                        // Not p (1 - p), which has lost its digits where p is near 1.
                        let (x, tail) = (s + bias, (-(s + bias).abs()).exp());
                        (1.0 / (1.0 + (-x).exp()) / share, tail / ((1.0 + tail) * (1.0 + tail)) / share)
                    }
                    Normalization::Linear => (s / share, 1.0 / share),
                    _ => (f64::NAN, f64::NAN),
                })
                .unzip();
            let softmax = kernel.normalization() == Normalization::Softmax;
            let mean: Vec<f64> = (0..m)
                .map(|c| (0..visible).map(|j| if softmax { weights[j] * values[j * m + c] } else { 0.0 }).sum())
                .collect();
            // A linear weight is as wrong as its terms are large.
            let weight_size = |j: usize| match kernel.normalization() {
                Normalization::Linear => beta.abs() * span * span / share,
                _ => weights[j].abs(),
            };
            for j in 0..visible {
                let (value, moved_value) = (row(values, j, m), row(moved_values, j, m));
                let [by_query, by_key] = gradients(j);
                let moved_key = row(moved_keys, j, k);
                let tangent: f64 =
                    by_query.iter().zip(&moved_q).chain(by_key.iter().zip(&moved_key)).map(|(g, x)| g * x).sum();
                let tangent_size = beta.abs() * span * moved_span * 2.0;
                let pull: f64 = (0..m).map(|c| bar[c] * (value[c] - mean[c])).sum();
                let pull_size = norm(&bar) * value_span;
                for c in 0..m {
                    let term = weights[j] * moved_value[c] + slopes[j] * tangent * (value[c] - mean[c]);
                    let size = weight_size(j) * moved_value[c].abs() + slopes[j] * tangent_size * value_span;
                    add(&mut found.jvp[i * m + c], term, size);
                    add(&mut found.values[j * m + c], weights[j] * bar[c], weight_size(j) * bar[c].abs());
                }
                for c in 0..k {
                    let size = slopes[j] * pull_size * beta.abs() * span;
                    add(&mut found.queries[i * k + c], slopes[j] * pull * by_query[c], size);
                    add(&mut found.keys[j * k + c], slopes[j] * pull * by_key[c], size);
                }
            }
        }
        found
    }
}

fn add(entry: &mut (f64, f64), term: f64, size: f64) {
    entry.0 += term;
    entry.1 += size;
}

const KINDS: [Normalization; 3] =
    [Normalization::Softmax, Normalization::Sigmoid { bias: -0.4 }, Normalization::Linear];

fn kernel(kind: usize, distance: bool, causal: bool, beta: f64) -> AttentionKernel {
    let score = if distance { Score::SquaredDistance } else { Score::Dot };
    let mask = if causal { Mask::Causal } else { Mask::Full };
    AttentionKernel::new(score, KINDS[kind], mask, beta).unwrap()
}

proptest! {
    #[test]
    fn products_equal_the_formulas(
        seed in 0_u64..1000, n in 1_usize..150, k in 1_usize..80, m in 1_usize..80, kind in 0_usize..3,
        distance: bool, causal: bool, beta in -0.1_f64..0.3,
    ) {
        let kernel = kernel(kind, distance, causal, beta);
        Case::<f64>::new(seed, [n; 2], [k, m], kernel).check(f64::EPSILON)?;
        Case::<f32>::new(seed, [n; 2], [k, m], kernel).check(f64::from(f32::EPSILON))?;
    }

    #[test]
    fn queries_may_be_others_than_keys(
        seed in 0_u64..1000, queries in 1_usize..70, keys in 1_usize..150, k in 1_usize..20, m in 1_usize..20,
        distance: bool,
    ) {
        Case::<f64>::new(seed, [queries, keys], [k, m], kernel(0, distance, false, 0.4)).check(f64::EPSILON)?;
    }

    /// <ȳ, J δ> = <Jᵀ ȳ, δ>: what Lanczos rests on.
    #[test]
    fn the_two_products_are_adjoint(
        seed in 0_u64..1000, n in 1_usize..200, k in 1_usize..70, m in 1_usize..70, kind in 0_usize..3,
        distance: bool, causal: bool,
    ) {
        let case = Case::<f64>::new(seed, [n; 2], [k, m], kernel(kind, distance, causal, 0.2));
        for level in Level::available() {
            let pair = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let forward = case.jvp(level);
            let back = case.vjp(level);
            let [by_query, by_key, by_value] =
                [(&back.queries, 3), (&back.keys, 4), (&back.values, 5)].map(|(bar, part)| pair(bar, &case.numbers[part]));
            let norm = |a: &[f64]| pair(a, a).sqrt();
            let size = norm(&forward) * norm(&case.cotangent) + by_query.abs() + by_key.abs() + by_value.abs();
            let error = (pair(&forward, &case.cotangent) - by_query - by_key - by_value).abs();
            // Scores up to 100 rounded at 1e-16, in sums of up to 4e4 terms.
            prop_assert!(error <= 1e-12 * size, "{level:?} {:?}: {error:e} of {size:e}", case.kernel);
        }
    }

    #[test]
    fn a_prefix_under_a_causal_mask_has_products_of_its_own(seed in 0_u64..1000, n in 60_usize..150, part in 1_usize..60) {
        let case = Case::<f64>::new(seed, [n; 2], [20, 12], kernel(0, false, true, 0.3));
        let mut short = Case::<f64>::new(seed, [n; 2], [20, 12], case.kernel);
        for (numbers, width) in short.numbers.iter_mut().zip([20, 20, 12, 20, 20, 12]) {
            numbers.truncate(part * width);
        }
        short.cotangent.truncate(part * 12);
        // The log-sums are measured from a bound over all keys, which is another for the prefix: a few roundings of
        // scores of size 30, in sums of a hundred terms of size 10.
        let close = |found: &[f64], expected: &[f64]| {
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= 1e-12 * (1.0 + expected.abs()))
        };
        prop_assert!(close(&case.jvp(Level::best())[..part * 12], &short.jvp(Level::best())));
        // The way back of a cotangent that is zero beyond the prefix.
        let mut silent = case.cotangent.clone();
        silent[part * 12..].fill(0.0);
        let back = case.jacobian(Level::best()).vjp(Rows::new(&silent, 12));
        let expected = short.vjp(Level::best());
        let parts = [(&back.queries, &expected.queries, 20), (&back.keys, &expected.keys, 20), (&back.values, &expected.values, 12)];
        for (found, expected, width) in parts {
            prop_assert!(close(&found[..part * width], expected));
            prop_assert!(found[part * width..].iter().all(|x| *x == 0.0));
        }
    }
}

#[test]
fn products_are_equal_to_the_bit_on_any_number_of_threads() {
    let case = Case::<f32>::new(3, [700; 2], [20, 24], kernel(0, false, true, 0.2));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (case.jvp(Level::best()), case.vjp(Level::best())))
    };
    assert_eq!(run(1), run(3));
}

/// Where all tokens coincide the scores of a row answer alike: softmax passes the mean of the values' tangents alone.
#[test]
fn equal_tokens_leave_nothing_to_round() {
    let mut case = Case::<f64>::new(1, [150; 2], [17; 2], kernel(0, false, true, 1e6));
    for (part, numbers) in case.numbers.iter_mut().enumerate() {
        let first = numbers[..17].to_vec();
        numbers.chunks_mut(17).for_each(|row| row.copy_from_slice(&first));
        if part == 5 {
            numbers.fill(0.0);
        }
    }
    for level in Level::available() {
        assert!(case.jvp(level).iter().all(|y| *y == 0.0), "{level:?}");
        let back = case.vjp(level);
        assert!(back.queries.iter().all(|y| *y == 0.0), "{level:?}");
    }
}

#[test]
fn kernels_without_products_are_none() {
    let numbers = [1.0, 2.0];
    let rows = Rows::new(&numbers, 1);
    for normalization in [Normalization::Exponential, Normalization::Hardmax] {
        let kernel = AttentionKernel::new(Score::Dot, normalization, Mask::Full, 1.0).unwrap();
        assert!(HeadJacobian::new(rows, rows, rows, &kernel).is_none());
    }
}

/// The square of a weight of 2^-76 is no normal number of single precision, its slope is.
#[test]
fn slopes_of_tiny_sigmoids_keep_their_digits() {
    let far = kernel(1, true, true, 0.284_141_668_156_304_4);
    Case::<f32>::new(497, [6; 2], [69, 1], far).check(f64::from(f32::EPSILON)).unwrap();
}
