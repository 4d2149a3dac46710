use proptest::prelude::*;

use super::*;
use crate::attention::fused::{Rows, answer as answer_any, general_answer, problem};
use crate::attention::kernel::{AttentionKernel, Normalization, Score};
use crate::random;

/// Tokens on the unit sphere that are their own queries and keys, and random values.
struct Case<T> {
    tokens: Vec<T>,
    values: Vec<T>,
    widths: [usize; 2],
    kernel: AttentionKernel,
    frame: Frame,
}

impl<T: Real> Case<T> {
    fn new(seed: u64, count: usize, widths: [usize; 2], kernel: AttentionKernel, frame: Frame) -> Self {
        let mut tokens = random::standard_normal(seed, count, widths[0]);
        for token in tokens.chunks_exact_mut(widths[0]) {
            let norm = token.iter().map(|x| x * x).sum::<f64>().sqrt();
            token.iter_mut().for_each(|x| *x /= norm);
        }
        let values = random::standard_normal(seed + 1, count, widths[1]);
        let [tokens, values] = [tokens, values].map(|numbers| numbers.into_iter().map(T::from_f64).collect());
        Self { tokens, values, widths, kernel, frame }
    }

    fn problem(&self) -> Problem<'_, T> {
        let tokens = Rows::new(&self.tokens, self.widths[0]);
        let problem = problem(tokens, tokens, Rows::new(&self.values, self.widths[1]), &self.kernel);
        Problem { frame: self.frame, ..problem }
    }

    fn room(&self) -> Vec<T> {
        vec![T::default(); self.values.len()]
    }

    /// Compares with the general path, whose own tests compare it with the formulas.
    fn check(&self, tolerance: f64) -> Result<(), TestCaseError> {
        let problem = self.problem();
        for level in Level::available() {
            let (mut expected, mut found) = (self.room(), self.room());
            general_answer(&problem, level, &mut expected);
            let shift = shift(&problem, level);
            prop_assert!(shift.is_some() || !pays(&problem, level), "{level:?}: tokens on a sphere share their bound");
            if let Some(shift) = shift {
                answer(&problem, shift, level, &mut found);
                for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let (found, expected) = (found.to_f64(), expected.to_f64());
                    prop_assert!(
                        (found - expected).abs() <= tolerance,
                        "{level:?} {:?} number {place}: {found}, expected {expected}",
                        self.kernel
                    );
                }
            }
        }
        Ok(())
    }
}

fn kernel(kind: usize, distance: bool, beta: f64) -> AttentionKernel {
    let kinds = [Normalization::Softmax, Normalization::Exponential, Normalization::Sigmoid { bias: -0.4 }];
    let score = if distance { Score::SquaredDistance } else { Score::Dot };
    AttentionKernel::new(score, kinds[kind], Mask::Full, beta).unwrap()
}

/// Messages are means of values below 5 with weights of relative error 4 (1 + 2 beta) epsilon in both paths (exponential
/// ones carry a factor e^beta besides), summed over n tokens in some order: √n more roundings of a running sum.
fn tolerance(epsilon: f64, count: usize, beta: f64, kind: usize) -> f64 {
    let size = if kind == 1 { beta.abs().exp() } else { 1.0 };
    5.0 * size * epsilon * (16.0 * (1.0 + 2.0 * beta.abs()) + 0.2 * (count as f64).sqrt())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn few_dimensions_equal_the_general_path(
        seed in 0_u64..1000, n in 128_usize..700, k in 1_usize..9, m in 1_usize..9, kind in 0_usize..2,
        distance: bool, relative: bool, beta in 0.0_f64..6.0,
    ) {
        let frame = if relative { Frame::Relative } else { Frame::Absolute };
        let kernel = kernel(kind, distance, beta);
        Case::<f64>::new(seed, n, [k, m], kernel, frame).check(tolerance(f64::EPSILON, n, beta, kind))?;
        let epsilon = f64::from(f32::EPSILON);
        Case::<f32>::new(seed, n, [k, m], kernel, frame).check(tolerance(epsilon, n, beta, kind))?;
    }

    #[test]
    fn many_dimensions_equal_the_general_path(
        seed in 0_u64..1000, n in 128_usize..500, k in 1_usize..150, m in 9_usize..150, kind in 0_usize..3,
        distance: bool, beta in 0.0_f64..6.0,
    ) {
        let kernel = kernel(kind, distance, beta);
        let absolute = Frame::Absolute;
        Case::<f64>::new(seed, n, [k, m], kernel, absolute).check(tolerance(f64::EPSILON, n, beta, kind))?;
        let epsilon = f64::from(f32::EPSILON);
        Case::<f32>::new(seed, n, [k, m], kernel, absolute).check(tolerance(epsilon, n, beta, kind))?;
    }
}

/// Blocks of all sizes, the last one filled up or not.
#[test]
fn long_clouds_equal_the_general_path() {
    for (count, widths) in [(2048, [3, 3]), (8200, [2, 2]), (3072, [16, 64]), (3100, [64, 64])] {
        for distance in [false, true] {
            let case = |epsilon: f64| (kernel(0, distance, 4.0), tolerance(epsilon, count, 4.0, 0));
            let (softmax, error) = case(f64::EPSILON);
            Case::<f64>::new(3, count, widths, softmax, Frame::Absolute).check(error).unwrap();
            let (softmax, error) = case(f64::from(f32::EPSILON));
            Case::<f32>::new(3, count, widths, softmax, Frame::Absolute).check(error).unwrap();
        }
    }
}

/// Whatever fills up the last block has no weight, even where beta = 0 makes all weights equal: the field is the mean.
#[test]
fn without_scores_the_field_is_the_mean() {
    for widths in [[3, 3], [20, 33]] {
        for distance in [false, true] {
            let case = Case::<f64>::new(5, 131, widths, kernel(0, distance, 0.0), Frame::Absolute);
            for level in Level::available() {
                let mut found = case.room();
                let shift = shift(&case.problem(), level).unwrap();
                answer(&case.problem(), shift, level, &mut found);
                for c in 0..widths[1] {
                    let mean = case.values.iter().skip(c).step_by(widths[1]).sum::<f64>() / 131.0;
                    assert!(found.iter().skip(c).step_by(widths[1]).all(|y| (y - mean).abs() < 1e-14), "{level:?}");
                }
            }
        }
    }
}

/// One token far outside would leave nothing of the other rows under a common shift.
#[test]
fn a_token_far_away_takes_the_general_path() {
    for widths in [[3, 3], [40, 40]] {
        let mut case = Case::<f64>::new(9, 150, widths, kernel(0, false, 1.0), Frame::Absolute);
        assert!(shift(&case.problem(), Level::best()).is_some());
        case.tokens[..widths[0]].iter_mut().for_each(|x| *x *= 40.0);
        assert_eq!(shift(&case.problem(), Level::best()), None);
        case.tokens[0] = f64::NAN;
        assert_eq!(shift(&case.problem(), Level::best()), None);
    }
}

#[test]
fn only_equal_queries_and_keys_are_symmetric() {
    let case = Case::<f64>::new(9, 150, [3, 3], kernel(0, false, 1.0), Frame::Absolute);
    let same = case.tokens.clone();
    let mut other = case.tokens.clone();
    other[449] += 1e-3;
    let is_symmetric = |keys: &[f64]| {
        problem(Rows::new(&case.tokens, 3), Rows::new(keys, 3), Rows::new(&case.values, 3), &case.kernel).symmetric
    };
    assert!(is_symmetric(&case.tokens) && is_symmetric(&same));
    assert!(!is_symmetric(&other));
}

/// At consensus Σ_j P_ij (v_j - v_i) is zero, not small.
#[test]
fn relative_messages_of_equal_tokens_are_exactly_zero() {
    for distance in [false, true] {
        let mut case = Case::<f64>::new(1, 150, [3, 3], kernel(0, distance, 1.0), Frame::Relative);
        for numbers in [&mut case.tokens, &mut case.values] {
            let first = numbers[..3].to_vec();
            numbers.chunks_mut(3).for_each(|row| row.copy_from_slice(&first));
        }
        for level in Level::available() {
            let mut found = case.room();
            answer(&case.problem(), shift(&case.problem(), level).unwrap(), level, &mut found);
            assert!(found.iter().all(|y| *y == 0.0), "{level:?}");
        }
    }
}

#[test]
fn answers_are_equal_to_the_bit_on_any_number_of_threads() {
    for widths in [[3, 3], [20, 20]] {
        let case = Case::<f32>::new(3, 1500, widths, kernel(0, false, 1.0), Frame::Absolute);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut found = case.room();
            pool.install(|| answer_any(&case.problem(), Level::best(), &mut found));
            found
        };
        assert_eq!(run(1), run(3));
    }
}
