//! What a few runs say about many: means and shares with their confidence intervals.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// A mean over runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// How many runs have a finite number.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (n - 1); none for one run.
    pub deviation: Option<f64>,
    /// Student's confidence interval of the mean; none for one run.
    pub interval: Option<[f64; 2]>,
}

impl Mean {
    /// The mean of numbers and its interval mean ± t_{n-1} s/√n: exact for normal numbers, approximate for many. None for
    /// no number. O(n), two passes in the order given.
    ///
    /// # Example
    /// ```
    /// use metastable::sweep::statistics::Mean;
    /// let mean = Mean::of(&[1.0, 2.0, 3.0], 0.95).unwrap();
    /// // t_{0.975} with 2 degrees of freedom is 4.302652729911275.
    /// let half = 4.302652729911275 / 3.0_f64.sqrt();
    /// assert!((mean.interval.unwrap()[1] - (2.0 + half)).abs() < 1e-9);
    /// ```
    pub fn of(numbers: &[f64], confidence: f64) -> Option<Self> {
        if numbers.is_empty() {
            return None;
        }
        let n = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / n;
        if numbers.len() == 1 {
            return Some(Self { count: 1, mean, deviation: None, interval: None });
        }
        let deviation = (numbers.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0)).sqrt();
        let student = StudentsT::new(0.0, 1.0, n - 1.0).expect("one degree of freedom or more");
        let half = student.inverse_cdf(0.5 + 0.5 * confidence) * deviation / n.sqrt();
        let interval = Some([mean - half, mean + half]);
        Some(Self { count: numbers.len(), mean, deviation: Some(deviation), interval })
    }
}

/// Wilson's interval of a share: `hits` of `count` trials, `count` > 0.
///
/// (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), z the normal quantile. Unlike p ± z √(p(1-p)/n) it is not empty at
/// 0 and 1, and keeps its level for small n.
///
/// # Example
/// ```
/// use metastable::sweep::statistics::wilson;
/// let [low, high] = wilson(0, 10, 0.95);
/// assert!(low == 0.0 && (high - 0.2775).abs() < 1e-4);
/// ```
///
/// # References
/// Wilson 1927; Brown, Cai and DasGupta 2001, who recommend it for n <= 40.
pub fn wilson(hits: usize, count: usize, confidence: f64) -> [f64; 2] {
    let (n, p) = (count as f64, hits as f64 / count as f64);
    let z = Normal::standard().inverse_cdf(0.5 + 0.5 * confidence);
    let (shrink, centre) = (1.0 / (1.0 + z * z / n), p + z * z / (2.0 * n));
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    // The ends are exactly 0 and 1 there; rounding is not.
    let low = if hits == 0 { 0.0 } else { shrink * (centre - half) };
    let high = if hits == count { 1.0 } else { shrink * (centre + half) };
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy 1.17: `binomtest(k, n).proportion_ci(0.95, "wilson")`.
    #[test]
    fn wilson_intervals_are_those_of_scipy() {
        let cases =
            [(68, 100, [0.583373813895476, 0.763308526750009]), (1, 8, [0.02241749145005667, 0.4708881822128535])];
        for (hits, count, expected) in cases {
            for (found, expected) in wilson(hits, count, 0.95).into_iter().zip(expected) {
                // The quantile of the library is good to some 1e-11.
                assert!((found - expected).abs() < 1e-9, "{hits} of {count}: {found} {expected}");
            }
        }
    }

    #[test]
    fn wilson_intervals_hold_their_share_and_mirror() {
        for count in [1, 3, 50] {
            for hits in 0..=count {
                let [low, high] = wilson(hits, count, 0.9);
                let p = hits as f64 / count as f64;
                assert!((0.0..=p).contains(&low) && (p..=1.0).contains(&high), "{hits} of {count}");
                let [mirrored, _] = wilson(count - hits, count, 0.9);
                assert!((high - (1.0 - mirrored)).abs() < 1e-14, "{hits} of {count}");
            }
        }
    }

    #[test]
    fn one_run_has_a_mean_and_no_interval() {
        assert_eq!(Mean::of(&[], 0.95), None);
        let one = Mean::of(&[2.0], 0.95).unwrap();
        assert_eq!((one.mean, one.interval, one.deviation), (2.0, None, None));
        assert_eq!(Mean::of(&[5.0; 4], 0.95).unwrap().interval, Some([5.0, 5.0]));
    }

    /// scipy 1.17: `t.interval(0.95, 9, loc=mean, scale=sem)` of 0, 1, 4, ..., 81.
    #[test]
    fn student_intervals_are_those_of_scipy() {
        let squares: Vec<f64> = (0..10).map(|k| f64::from(k * k)).collect();
        let [low, high] = Mean::of(&squares, 0.95).unwrap().interval.unwrap();
        assert!((low - STUDENT[0]).abs() < 1e-8 && (high - STUDENT[1]).abs() < 1e-8, "{low} {high}");
    }

    const STUDENT: [f64; 2] = [8.251903124260185, 48.74809687573982];
}
