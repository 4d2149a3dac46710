//! NumPy's legacy random numbers: `numpy.random.seed(s)` and `numpy.random.RandomState(s)`, number for number.
//!
//! The figures of several papers were drawn with this generator, and a histogram over a hundred random matrices can
//! only be compared with another one over the *same* matrices. It is not the house's own generator: it has one stream,
//! in which number k costs the k numbers before it.

use rand_mt::Mt;

/// A stream of NumPy's legacy numbers: MT19937, doubles of 53 bits from two words, normals by Marsaglia's polar method.
///
/// ```text
/// u = ((a >> 5) 2^26 + (b >> 6)) / 2^53                       a, b: two words of the twister
/// x1 = 2u - 1, x2 = 2u' - 1, r² = x1² + x2² (again unless 0 < r² < 1), f = √(-2 ln r² / r²)
/// normals: f x2, then f x1
/// ```
///
/// The words and the uniform numbers are NumPy's to the bit; a normal number may differ in its last bit where the
/// system's `log` differs.
///
/// # Example
/// ```
/// use metastable_dynamics::random::numpy::RandomState;
/// // numpy.random.RandomState(42).uniform(-1, 1)
/// assert_eq!(RandomState::new(42).uniform(-1.0, 1.0), -0.250919762305275);
/// ```
///
/// # References
/// Matsumoto and Nishimura 1998 (the twister); Marsaglia and Bray 1964 (the polar method).
#[derive(Debug, Clone)]
pub struct RandomState {
    twister: Mt,
    spare: Option<f64>,
}

impl RandomState {
    /// The stream of `numpy.random.RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        Self { twister: Mt::new(seed), spare: None }
    }

    /// The next number uniform in [0, 1): `random_sample()`, `rand()`.
    pub fn random_sample(&mut self) -> f64 {
        // Two words of 27 and 26 bits.
        let high = f64::from(self.twister.next_u32() >> 5);
        let low = f64::from(self.twister.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// The next number uniform in [low, high): `uniform(low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.random_sample()
    }

    /// The next standard normal number: `randn()`, `standard_normal()`, `normal()`.
    pub fn standard_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let x1 = 2.0 * self.random_sample() - 1.0;
            let x2 = 2.0 * self.random_sample() - 1.0;
            let square = x1 * x1 + x2 * x2;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(factor * x1);
                return factor * x2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of numpy 2.4, see scripts/golden/numpy_legacy.py.
    #[test]
    fn uniform_numbers_are_those_of_numpy_to_the_bit() {
        let mut stream = RandomState::new(42);
        let first: Vec<f64> = (0..5).map(|_| stream.random_sample()).collect();
        assert_eq!(first, UNIFORM_42);
        let far: Vec<f64> = (0..10_000).map(|_| stream.random_sample()).collect();
        // Past several refills of the twister's 624 words.
        assert_eq!(far[9_994], UNIFORM_42_9999);
        assert_eq!(RandomState::new(u32::MAX).random_sample(), UNIFORM_LAST_SEED);
    }

    #[test]
    fn normal_numbers_are_those_of_numpy() {
        let mut stream = RandomState::new(40);
        let found: Vec<f64> = (0..1101).map(|_| stream.standard_normal()).collect();
        let expected = NORMAL_40.iter().copied().enumerate().chain([(1100, NORMAL_40_1100)]);
        for (k, expected) in expected {
            // One unit in the last place of log changes at most the last bits of the square root of it.
            assert!((found[k] - expected).abs() <= 4.0 * f64::EPSILON * expected.abs(), "{k}: {}", found[k]);
        }
    }

    #[test]
    fn uniform_numbers_between_normal_ones_leave_the_spare_one_alone() {
        let mut stream = RandomState::new(7);
        let first = stream.standard_normal();
        let between = stream.random_sample();
        let second = stream.standard_normal();
        for (found, expected) in [first, between, second].into_iter().zip(MIXED_7) {
            assert!((found - expected).abs() <= 4.0 * f64::EPSILON * expected.abs(), "{found} {expected}");
        }
    }

    const UNIFORM_42: [f64; 5] =
        [0.3745401188473625, 0.9507143064099162, 0.7319939418114051, 0.5986584841970366, 0.15601864044243652];
    const UNIFORM_42_9999: f64 = 0.21714040403767187;
    const UNIFORM_LAST_SEED: f64 = 0.0976320289940138;
    const NORMAL_40: [f64; 6] = [
        -0.6075476972112264,
        -0.12613641460642458,
        -0.6846063587046353,
        0.9287147485934539,
        -1.8444010340502783,
        -0.46700242407710885,
    ];
    const NORMAL_40_1100: f64 = -0.11999152211688482;
    const MIXED_7: [f64; 3] = [1.690525703800356, 0.9779895119966027, -0.4659373705408328];
}
