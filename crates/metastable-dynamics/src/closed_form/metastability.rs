//! How long clusters that attract each other stay apart, and how fast each gathers.

use crate::error::DynamicsError;

/// Clusters of n tokens in total, each in a cap {<x, w_q> >= 1 - eps} of the sphere, under SA, or USA with weights
/// e^{beta(<x_i,x_j> - 1)}/n.
///
/// # References
/// Geshkovski et al. 2410.06833, the two-times theorem as transcribed in \[lean\]. The printed form of the first bound
/// on lambda has a wrong sign in front of (1/beta) log; here it is corrected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caps {
    n: f64,
    beta: f64,
    epsilon: f64,
    alpha: f64,
}

impl Caps {
    /// `alpha` is the largest inner product between points of different caps of height 2 eps.
    ///
    /// # Errors
    /// [`DynamicsError::Domain`] unless beta > 1, 0 < eps < 1/16 and
    /// gamma = 1 - alpha - 8 eps - log(2 n²/eps)/beta > 0: the theorem's hypotheses.
    pub fn new(n: usize, beta: f64, epsilon: f64, alpha: f64) -> Result<Self, DynamicsError> {
        if beta.is_nan() || beta <= 1.0 {
            return Err(DynamicsError::domain("beta", "more than 1", beta));
        }
        if !(epsilon > 0.0 && epsilon < 1.0 / 16.0) {
            return Err(DynamicsError::domain("epsilon", "0 < epsilon < 1/16", epsilon));
        }
        let caps = Self { n: n as f64, beta, epsilon, alpha };
        if caps.separation() > 0.0 {
            return Ok(caps);
        }
        Err(DynamicsError::domain("gamma of the caps", "a positive number", caps.separation()))
    }

    /// gamma = 1 - alpha - 8 eps - log(2 n²/eps)/beta.
    pub fn separation(&self) -> f64 {
        1.0 - self.alpha - 8.0 * self.epsilon - (2.0 * self.n * self.n / self.epsilon).ln() / self.beta
    }

    /// The largest lambda the theorem admits: min of
    /// e^{(1-alpha) beta}(beta - 1) eps (1 - e^{-gamma beta})/(beta² n² e) and
    /// 1 - alpha - log(2 n²/(1 - 8 eps))/beta - 8 eps (lambda must be strictly smaller).
    pub fn largest_rate(&self) -> f64 {
        let Self { n, beta, epsilon, alpha } = *self;
        let first = ((1.0 - alpha) * beta).exp() * (beta - 1.0) * epsilon * (1.0 - (-self.separation() * beta).exp())
            / (beta * beta * n * n * 1.0_f64.exp());
        let second = 1.0 - alpha - (2.0 * n * n / (1.0 - 8.0 * epsilon)).ln() / beta - 8.0 * epsilon;
        first.min(second)
    }

    /// An upper bound of T_1, from when on |x_i - x_j|² <= 2 e^{-lambda beta} inside a cap:
    /// 2 n e^{8 eps beta} + e n lambda beta²/(beta - 1).
    pub fn gathering_time(&self, rate: f64) -> f64 {
        let Self { n, beta, epsilon, .. } = *self;
        2.0 * n * (8.0 * epsilon * beta).exp() + 1.0_f64.exp() * n * rate * beta * beta / (beta - 1.0)
    }

    /// 2 e^{-lambda beta}: the squared distance inside a cap on [T_1, T_2].
    pub fn squared_spread(&self, rate: f64) -> f64 {
        2.0 * (-rate * self.beta).exp()
    }

    /// T_2 = (eps/n) e^{(1-alpha) beta}: until then every token stays in its cap of height 2 eps.
    pub fn escape_time(&self) -> f64 {
        self.epsilon / self.n * ((1.0 - self.alpha) * self.beta).exp()
    }
}

/// The right-hand side of the collapse equation u' = u (1 - u) e^{beta (u - 1)} \[lean\].
pub fn collapse_rate(beta: f64, u: f64) -> f64 {
    u * (1.0 - u) * (beta * (u - 1.0)).exp()
}

/// A time by which the collapse equation from u0 in (0, 1) has reached 1 - u <= e^{-c beta}, beta > 1:
/// e^{beta (1 - u0)}/u0 + beta² c e/(beta - 1).
///
/// # References
/// Geshkovski et al. 2410.06833, lemma behind T_1 \[lean\].
pub fn collapse_time_bound(beta: f64, u0: f64, c: f64) -> f64 {
    (beta * (1.0 - u0)).exp() / u0 + beta * beta * c * 1.0_f64.exp() / (beta - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_opposite_caps_have_the_times_of_the_reference() {
        // Circle, n = 6, beta = 100, eps = .01 at angles 0 and pi: caps of height .02 are 2 arccos(.98) wide each, so
        // alpha = -cos(2 arccos .98) = 1 - 2·.98². Theory section 5: T_1 <= 3.8e4, T_2 = 4e80, to the digits given.
        let caps = Caps::new(6, 100.0, 0.01, 1.0 - 2.0 * 0.98_f64.powi(2)).unwrap();
        let t1 = caps.gathering_time(caps.largest_rate());
        assert!((3.75e4..3.9e4).contains(&t1), "{t1}");
        assert!((3.5e80..4.5e80).contains(&caps.escape_time()), "{}", caps.escape_time());
    }

    #[test]
    fn hypotheses_are_checked() {
        assert!(Caps::new(6, 0.5, 0.01, -0.9).is_err());
        assert!(Caps::new(6, 100.0, 0.1, -0.9).is_err());
        assert!(Caps::new(6, 10.0, 0.01, 0.9).is_err());
    }
}
