//! Sign changes of sums of exponentials, found exactly: no grid, so no root is missed.
//!
//! The quadratic forms that decide when a cluster leaves ([`super::cascade`]) are sums f(s) = sum_i c_i e^{r_i s}.
//! Descartes' rule holds for them: with r_i ascending, f has at most as many roots as the c_i have sign changes. Its
//! proof is the algorithm. Let the sign change between r_k and r_{k+1} and let r be between the two. Then
//! (f e^{-r s})' has the coefficients c_i (r_i - r), with one sign change fewer. Its roots, found by recursion, cut the
//! line into pieces on which f e^{-r s} is monotone, so each piece has at most one root, and bisection finds it.

/// f(s) = sum_i c_i e^{r_i s}, rates ascending, no coefficient zero.
#[derive(Debug, Clone, PartialEq)]
pub struct ExponentialSum {
    rates: Vec<f64>,
    coefficients: Vec<f64>,
}

/// Rates closer than this share of the largest |rate| are one rate: eigenvalues that are equal come out of a
/// decomposition with a relative error of some dozen eps.
const SAME_RATE: f64 = 1e-12;

/// Coefficients below this share of sum |c_i| (before merging) are rounding noise of cancelled products.
const NOISE: f64 = 1e-14;

impl ExponentialSum {
    /// Adds up terms (rate, coefficient): equal rates merge (1e-12 relative), coefficients that cancel to rounding
    /// (1e-14 of sum |c_i|) vanish.
    pub fn new(mut terms: Vec<(f64, f64)>) -> Self {
        let largest = terms.iter().fold(0.0_f64, |m, (rate, _)| m.max(rate.abs()));
        let total: f64 = terms.iter().map(|(_, c)| c.abs()).sum();
        terms.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = Self { rates: Vec::new(), coefficients: Vec::new() };
        for group in terms.chunk_by(|a, b| b.0 - a.0 <= SAME_RATE * largest) {
            let coefficient: f64 = group.iter().map(|(_, c)| c).sum();
            if coefficient.abs() > NOISE * total {
                sum.rates.push(group[0].0);
                sum.coefficients.push(coefficient);
            }
        }
        sum
    }

    /// f(s) e^{-r_max s} for s >= 0: the sign of f(s), without overflow.
    pub fn scaled(&self, s: f64) -> f64 {
        let Some(fastest) = self.rates.last() else { return 0.0 };
        self.rates.iter().zip(&self.coefficients).map(|(r, c)| c * ((r - fastest) * s).exp()).sum()
    }

    /// All s > 0 where f changes sign, ascending. O(v² m) evaluations' worth of work for v sign changes among m terms.
    pub fn sign_changes(&self) -> Vec<f64> {
        let flip = self.coefficients.windows(2).position(|pair| (pair[0] > 0.0) != (pair[1] > 0.0));
        let Some(k) = flip else { return Vec::new() };
        let middle = 0.5 * (self.rates[k] + self.rates[k + 1]);
        let factor = |(rate, c): (&f64, &f64)| c * (rate - middle);
        let slope = Self {
            rates: self.rates.clone(),
            coefficients: self.rates.iter().zip(&self.coefficients).map(factor).collect(),
        };
        let mut ends = slope.sign_changes();
        ends.push(self.settled_after(ends.last().copied().unwrap_or(0.0)));
        let starts = std::iter::once(0.0).chain(ends.iter().copied());
        starts.zip(&ends).filter_map(|(low, &high)| self.bisect(low, high)).collect()
    }

    /// The infimum of the s >= `from` at which f(s) > 0, if there is one; `changes` are the [`Self::sign_changes`].
    pub fn first_positive(&self, from: f64, changes: &[f64]) -> Option<f64> {
        if self.scaled(from) > 0.0 {
            return Some(from);
        }
        let later = changes.iter().copied().filter(|s| *s > from);
        let starts: Vec<f64> = std::iter::once(from).chain(later).collect();
        (0..starts.len()).map(|k| (starts[k], starts.get(k + 1))).find_map(|(start, end)| {
            let positive = match end {
                Some(end) => self.scaled(0.5 * (start + end)) > 0.0,
                None => self.coefficients.last().is_some_and(|c| *c > 0.0),
            };
            positive.then_some(start)
        })
    }

    /// Some s > `start` from which on the fastest exponential decides, given that f e^{-r s} is monotone there.
    fn settled_after(&self, start: f64) -> f64 {
        let (Some(first), Some(last)) = (self.rates.first(), self.rates.last()) else { return start };
        let positive = self.coefficients.last().is_some_and(|c| *c > 0.0);
        let mut step = start.max(1.0 / (last - first));
        // Doubling reaches any finite time; beyond f64's range the last exponential is all that is left.
        while (self.scaled(start + step) > 0.0) != positive && step < f64::MAX / 4.0 {
            step *= 2.0;
        }
        start + step
    }

    fn bisect(&self, mut low: f64, mut high: f64) -> Option<f64> {
        let (a, b) = (self.scaled(low), self.scaled(high));
        if a == 0.0 || b == 0.0 || (a > 0.0) == (b > 0.0) {
            return None;
        }
        loop {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high {
                return Some(high);
            }
            if (self.scaled(middle) > 0.0) == (a > 0.0) {
                low = middle;
            } else {
                high = middle;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// prod_k (e^s - e^{root_k}) expanded: rates 0..m, roots known.
    fn from_roots(roots: &[f64]) -> ExponentialSum {
        let mut coefficients = vec![1.0];
        for root in roots {
            let mut next = vec![0.0; coefficients.len() + 1];
            for (k, c) in coefficients.iter().enumerate() {
                next[k + 1] += c;
                next[k] -= c * root.exp();
            }
            coefficients = next;
        }
        ExponentialSum::new(coefficients.into_iter().enumerate().map(|(k, c)| (k as f64, c)).collect())
    }

    proptest! {
        #[test]
        fn all_known_roots_are_found(steps in prop::collection::vec(0.3..1.0_f64, 1..5)) {
            let roots: Vec<f64> = steps.iter().scan(0.0, |s, step| { *s += step; Some(*s) }).collect();
            let found = from_roots(&roots).sign_changes();
            prop_assert_eq!(found.len(), roots.len());
            for (f, r) in found.iter().zip(&roots) {
                // The expanded coefficients are rounded; Wilkinson's amplification for four roots at distance 0.3.
                prop_assert!((f - r).abs() < 1e-9, "{} {}", f, r);
            }
        }

        #[test]
        fn no_sign_change_of_a_fine_sample_is_missed(
            terms in prop::collection::vec((-2.0..2.0_f64, -1.0..1.0_f64), 1..8),
        ) {
            let sum = ExponentialSum::new(terms);
            let changes = sum.sign_changes();
            let sign = |s: f64| sum.scaled(s) > 0.0;
            let mut cut = vec![0.0];
            cut.extend(&changes);
            cut.push(changes.last().copied().unwrap_or(0.0) + 50.0);
            for pair in cut.windows(2) {
                let at = |k: i32| pair[0] + (pair[1] - pair[0]) * (f64::from(k) + 0.5) / 200.0;
                prop_assert!((0..200).all(|k| sign(at(k)) == sign(at(0))));
            }
            for pair in cut.windows(3) {
                prop_assert!(sign(0.5 * (pair[0] + pair[1])) != sign(0.5 * (pair[1] + pair[2])));
            }
        }
    }

    #[test]
    fn the_first_positive_time_is_the_next_upward_crossing() {
        // (e^s - e)(e^s - e²): positive before 1, negative between 1 and 2, positive after.
        let sum = from_roots(&[1.0, 2.0]);
        let changes = sum.sign_changes();
        assert_eq!(sum.first_positive(0.0, &changes), Some(0.0));
        let after = sum.first_positive(1.5, &changes).unwrap();
        assert!((after - 2.0).abs() < 1e-14, "{after}");
        assert_eq!(ExponentialSum::new(vec![(1.0, -1.0)]).first_positive(0.0, &[]), None);
        assert_eq!(ExponentialSum::new(vec![]).first_positive(0.0, &[]), None);
        // -1 + e^{-s} is 0 at 0 and negative after; 1 - e^{-s} is positive right after 0.
        assert_eq!(ExponentialSum::new(vec![(0.0, -1.0), (-1.0, 1.0)]).first_positive(0.0, &[]), None);
        assert_eq!(ExponentialSum::new(vec![(0.0, 1.0), (-1.0, -1.0)]).first_positive(0.0, &[]), Some(0.0));
    }
}
