//! Rows of e^{S_ij + g_j}: what Sinkhorn iterations and partition functions ask of the same kernels.
//!
//! [`super::coupled`] asks the same of plans, whose rows have potentials too.

use super::super::kernel::{AttentionKernel, Mask, Score};
use super::problem::{Answer, Frame, Problem, Streamed, View};
use super::{Rows, answer};
use crate::lanes::{Level, Real};

/// Writes ln Σ_j e^{S_ij + g_j} over the visible keys into `out` \[queries\], S_ij = beta·score(q_i, k_j) of the kernel
/// (its normalisation does not matter).
///
/// `queries` \[n_q, k\], `keys` \[n, k\], `potentials` g \[n\], finite. O(n_q n k) time, O((n_q + n) k) memory. Squared
/// distances are expanded around the mean key, so that S errs by the type's epsilon times beta·(|q|² + |k|²) of the
/// centred vectors; the sum itself neither overflows nor underflows.
///
/// # Example
/// ```
/// use metastable_dynamics::attention::AttentionKernel;
/// use metastable_dynamics::attention::fused::{Rows, log_sum_exp};
///
/// let (queries, keys) = ([2.0, 3.0], [1.0, 1.0]);
/// let mut sums = [0.0; 2];
/// let kernel = AttentionKernel::softmax(1.0)?;
/// log_sum_exp(Rows::new(&queries, 1), Rows::new(&keys, 1), &[0.0, 3.0_f64.ln()], &kernel, &mut sums);
/// // e² (1 + 3) and e³ (1 + 3).
/// assert!((sums[0] - (2.0 + 4.0_f64.ln())).abs() < 1e-14);
/// assert!((sums[1] - (3.0 + 4.0_f64.ln())).abs() < 1e-14);
/// # Ok::<(), metastable_dynamics::DynamicsError>(())
/// ```
///
/// # Panics
/// If shapes do not fit, there is no key, or a causal mask meets other numbers of queries and keys.
pub fn log_sum_exp<T: Real>(
    queries: Rows<'_, T>,
    keys: Rows<'_, T>,
    potentials: &[T],
    kernel: &AttentionKernel,
    out: &mut [T],
) {
    let extended = Extended::new(queries, keys, potentials, kernel);
    extended.log_sums(kernel.mask(), out);
}

/// Writes Σ_j P_ij v_j with P_ij = e^{S_ij + g_j} / Σ_l e^{S_il + g_l} into `out` \[queries, m\] and the logarithms of
/// the denominators into `log_sums` \[queries\]. Shapes, cost and errors as [`log_sum_exp`] and
/// [`attend`](super::attend).
///
/// Sinkhorn's field Σ_j e^{S_ij + f_i + g_j} v_j is e^{f_i + log_sums_i} times this.
///
/// # Panics
/// As [`log_sum_exp`], and if there is not one value a key.
pub fn attend_with_potentials<T: Real>(
    queries: Rows<'_, T>,
    keys: Rows<'_, T>,
    values: Rows<'_, T>,
    potentials: &[T],
    kernel: &AttentionKernel,
    (out, log_sums): (&mut [T], &mut [T]),
) {
    let width = values.width;
    assert_eq!(values.count(), keys.count(), "a value for each key");
    assert_eq!([out.len(), log_sums.len()], [queries.count() * width, queries.count()], "one answer a query");
    let extended = Extended::new(queries, keys, potentials, kernel);
    extended.attend(View::of_part(values.numbers, values.stride), width, kernel.mask(), (out, log_sums));
}

/// Queries and keys with one coordinate more, whose products are S_ij + g_j up to an offset of the query.
pub(super) struct Extended<T> {
    /// \[n_q, k + 1\], the last one 1.
    queries: Vec<T>,
    /// \[n, k + 1\], the last one g_j and what belongs to the key alone.
    keys: Vec<T>,
    width: usize,
    /// What belongs to the query alone; none for dot scores.
    offsets: Vec<f64>,
}

impl<T: Real> Extended<T> {
    fn new(queries: Rows<'_, T>, keys: Rows<'_, T>, potentials: &[T], kernel: &AttentionKernel) -> Self {
        assert!(kernel.mask() == Mask::Full || queries.count() == keys.count(), "a causal mask: a query for each key");
        Self::of_scores(queries, keys, potentials, (kernel.score(), kernel.beta()))
    }

    /// S_ij = beta·score.
    pub(super) fn of_scores(
        queries: Rows<'_, T>,
        keys: Rows<'_, T>,
        potentials: &[T],
        (score, beta): (Score, f64),
    ) -> Self {
        assert_eq!(queries.width, keys.width, "queries and keys of one width");
        assert_eq!(potentials.len(), keys.count(), "a potential for each key");
        assert!(keys.count() > 0, "at least one key");
        let width = keys.width;
        let (centre, scale) = match score {
            Score::Dot => (vec![0.0; width], beta),
            Score::SquaredDistance => (mean(keys), 2.0 * beta),
        };
        let centred = |row: &[T]| -> Vec<f64> { row.iter().zip(&centre).map(|(x, c)| x.to_f64() - c).collect() };
        let of_itself = |row: &[f64]| match score {
            Score::Dot => 0.0,
            Score::SquaredDistance => -beta * row.iter().map(|x| x * x).sum::<f64>(),
        };
        let (mut offsets, mut long_queries, mut long_keys) = (Vec::new(), Vec::new(), Vec::new());
        for row in queries.iter().map(centred) {
            long_queries.extend(row.iter().map(|x| T::from_f64(scale * x)));
            long_queries.push(T::from_f64(1.0));
            offsets.push(of_itself(&row));
        }
        for (row, potential) in keys.iter().map(centred).zip(potentials) {
            long_keys.extend(row.iter().map(|x| T::from_f64(*x)));
            long_keys.push(T::from_f64(of_itself(&row) + potential.to_f64()));
        }
        Self { queries: long_queries, keys: long_keys, width: width + 1, offsets }
    }

    /// ln Σ_j e^{S_ij + g_j}, \[n_q\].
    pub(super) fn log_sums(&self, mask: Mask, out: &mut [T]) {
        let problem = self.problem(View::of_rows(&[], 0), 0, mask);
        answer(&problem, Level::best(), out);
        self.add_offsets(out.iter_mut());
    }

    /// The averages of `width` numbers a key, \[n_q, width\], and the log-sums, \[n_q\].
    pub(super) fn attend(&self, values: View<'_, T>, width: usize, mask: Mask, (out, log_sums): (&mut [T], &mut [T])) {
        let problem = self.problem(values, width, mask);
        let mut answers = vec![T::default(); log_sums.len() * (width + 1)];
        answer(&problem, Level::best(), &mut answers);
        let rows = answers.chunks_exact(width + 1).zip(out.chunks_exact_mut(width));
        for ((answer, out), log_sum) in rows.zip(log_sums.iter_mut()) {
            out.copy_from_slice(&answer[..width]);
            *log_sum = answer[width];
        }
        self.add_offsets(log_sums.iter_mut());
    }

    fn problem<'a>(&'a self, values: View<'a, T>, value_width: usize, mask: Mask) -> Problem<'a, T> {
        Problem {
            queries: View::of_rows(&self.queries, self.width),
            keys: View::of_rows(&self.keys, self.width),
            values,
            counts: [self.queries.len() / self.width, self.keys.len() / self.width],
            width: self.width,
            value_width,
            score: Score::Dot,
            normalization: Streamed::Softmax,
            mask,
            frame: Frame::Absolute,
            answer: Answer::MessageAndLogSum,
            factor: 1.0,
            negative: false,
            symmetric: false,
        }
    }

    fn add_offsets<'o>(&self, log_sums: impl Iterator<Item = &'o mut T>)
    where
        T: 'o,
    {
        for (log_sum, offset) in log_sums.zip(&self.offsets) {
            *log_sum = T::from_f64(log_sum.to_f64() + offset);
        }
    }
}

/// Σ_i x_i / n.
pub(super) fn mean<T: Real>(rows: Rows<'_, T>) -> Vec<f64> {
    let mut sum = vec![0.0; rows.width];
    for row in rows.iter() {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f64());
    }
    sum.iter().map(|s| s / rows.count() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::kernel::Normalization;
    use crate::random;
    use proptest::prelude::*;

    fn check<T: Real>(seed: u64, counts: [usize; 2], widths: [usize; 2], kernel: &AttentionKernel, size: f64) {
        let numbers = |offset: u64, count: usize, width: usize, size: f64| -> Vec<T> {
            let numbers = random::standard_normal(seed + offset, count, width);
            numbers.into_iter().map(|x| T::from_f64(x * size)).collect()
        };
        let [k, m] = widths;
        let (queries, keys) = (numbers(0, counts[0], k, 1.0), numbers(1, counts[1], k, 1.0));
        let (values, potentials) = (numbers(2, counts[1], m, 1.0), numbers(3, counts[1], 1, size));
        let (query_rows, key_rows) = (Rows::new(&queries, k), Rows::new(&keys, k));
        let (mut sums, mut log_sums) = (vec![T::default(); counts[0]], vec![T::default(); counts[0]]);
        let mut out = vec![T::default(); counts[0] * m];
        log_sum_exp(query_rows, key_rows, &potentials, kernel, &mut sums);
        let value_rows = Rows::new(&values, m);
        attend_with_potentials(query_rows, key_rows, value_rows, &potentials, kernel, (&mut out, &mut log_sums));
        let epsilon = if size_of::<T>() == 4 { f64::from(f32::EPSILON) } else { f64::EPSILON };
        for (i, query) in queries.chunks(k).enumerate() {
            let score = |j: usize| {
                let pairs = query.iter().zip(&keys[j * k..(j + 1) * k]).map(|(q, k)| (q.to_f64(), k.to_f64()));
                let score = match kernel.score() {
                    Score::Dot => pairs.map(|(q, k)| q * k).sum::<f64>(),
                    Score::SquaredDistance => -pairs.map(|(q, k)| (q - k).powi(2)).sum::<f64>(),
                };
                kernel.beta() * score + potentials[j].to_f64()
            };
            let scores: Vec<f64> = (0..kernel.mask().visible(i, counts[1])).map(score).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            // Terms of the scores are below 40 and the potentials below 5 sizes; each is rounded a few times.
            let tolerance = epsilon * (20.0 * (k as f64 + 1.0) * (10.0 + kernel.beta() * 10.0) + 20.0 * size);
            for sum in [sums[i], log_sums[i]] {
                assert!((sum.to_f64() - top - total.ln()).abs() <= tolerance, "{sum:?} {}", top + total.ln());
            }
            for c in 0..m {
                let terms =
                    scores.iter().enumerate().map(|(j, s)| (s - top).exp() / total * values[j * m + c].to_f64());
                // Values are below 5.
                assert!((out[i * m + c].to_f64() - terms.sum::<f64>()).abs() <= 10.0 * tolerance);
            }
        }
    }

    proptest! {
        #[test]
        fn log_sums_and_messages_equal_the_formulas(
            seed in 0_u64..1000, n in 1_usize..80, more in 0_usize..80, k in 1_usize..14, m in 1_usize..5,
            distance: bool, causal: bool, beta in 0.0_f64..3.0, exponent in -1.0_f64..4.0,
        ) {
            let (score, mask) = (
                if distance { Score::SquaredDistance } else { Score::Dot },
                if causal { Mask::Causal } else { Mask::Full },
            );
            let kernel = AttentionKernel::new(score, Normalization::Linear, mask, beta).unwrap();
            let keys = if causal { n } else { n + more };
            check::<f64>(seed, [n, keys], [k, m], &kernel, 10_f64.powf(exponent));
            check::<f32>(seed, [n, keys], [k, m], &kernel, 10_f64.powf(exponent));
        }
    }
}
