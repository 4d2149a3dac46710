//! Tokens on a sphere whose mutual cosines are all equal: n of them stay so, and one number tells their story.

use super::romberg::integrate;

/// How the attention weights e^{beta <x_i, x_j>} are normalised on the sphere, V = Q = K = I.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// Softmax: divided by their row sum (SA, model M3).
    Softmax,
    /// Divided by n (USA, model M4).
    Unnormalised,
}

/// The velocity of the common cosine g of n equiangular tokens:
///
/// SA  g' = 2 e^{b g} (1 - g) ((n-1) g + 1) / (e^b + (n-1) e^{b g});
/// USA g' = (2/n) e^{b g} (1 - g) ((n-1) g + 1).
///
/// The SA form is evaluated with e^{b g} divided out, so it overflows for no b. O(1).
///
/// # References
/// Geshkovski et al. 2312.10794, section 5 (orthogonal start) \[text\]\[code\].
pub fn cosine_rate(weights: Weights, n: usize, beta: f64, cosine: f64) -> f64 {
    let others = n as f64 - 1.0;
    let shape = 2.0 * (1.0 - cosine) * (others * cosine + 1.0);
    match weights {
        Weights::Softmax => shape / ((beta * (1.0 - cosine)).exp() + others),
        Weights::Unnormalised => shape * (beta * cosine).exp() / n as f64,
    }
}

/// The common cosine at time t for beta = 0 (either normalisation):
/// g(t) = (K e^{2t} - 1)/(K e^{2t} + n - 1), K = (1 + (n-1) g0)/(1 - g0) \[derived\]\[checked\].
///
/// Evaluated with e^{-2t}, so that it tends to 1 for large t. `initial` < 1.
///
/// # Example
/// ```
/// use metastable_dynamics::closed_form::equiangular::{cosine_at_beta_zero, two_token_cosine};
/// assert!((cosine_at_beta_zero(2, 0.1, 0.7) - two_token_cosine(0.1, 0.7)).abs() < 1e-15);
/// ```
pub fn cosine_at_beta_zero(n: usize, initial: f64, t: f64) -> f64 {
    let others = n as f64 - 1.0;
    let k = (1.0 + others * initial) / (1.0 - initial);
    let decay = (-2.0 * t).exp();
    (k - decay) / (k + others * decay)
}

/// Two tokens at beta = 0: <x_1, x_2> = tanh(t + artanh g0) \[derived\]\[checked\].
pub fn two_token_cosine(initial: f64, t: f64) -> f64 {
    (t + initial.atanh()).tanh()
}

/// Two tokens under causal attention at beta = 0: x_1 rests and <x_1, x_2> = tanh(t/2 + artanh g0) \[derived\]\[checked\].
pub fn causal_two_token_cosine(initial: f64, t: f64) -> f64 {
    (0.5 * t + initial.atanh()).tanh()
}

/// The time the common cosine of n equiangular tokens takes from `from` to `to`, both in (-1/(n-1), 1):
/// int dg / g', by quadrature in u = -ln(1 - g), where the integrand is smooth up to g = 1.
///
/// Relative error about 1e-12. Two tokens from .1 to .9 (SA): 1.3718841419 for beta = 0, 6.0833373566 for 4,
/// 1684421.68 for 20: exponentially long, which is metastability in one line \[derived\]\[checked\].
pub fn crossing_time(weights: Weights, n: usize, beta: f64, from: f64, to: f64) -> f64 {
    let slowness = |u: f64| {
        let gap = (-u).exp();
        gap / cosine_rate(weights, n, beta, 1.0 - gap)
    };
    integrate(slowness, -(-from).ln_1p(), -(-to).ln_1p())
}

/// The common cosine of the *outputs* Σ_j P_ij x_j of one softmax layer, beta = g ln n, on n equiangular tokens of
/// cosine rho. With a = 1/(1 + (n-1) n^{-g(1-rho)}) and o = (1-a)/(n-1):
///
/// [a² rho + 2 a o (1 + (n-2) rho) + o² ((n-2) + ((n-1)² - (n-2)) rho)]
///   / [a² + 2 a o (n-1) rho + o² ((n-1) + (n-1)(n-2) rho)].
///
/// As n -> inf it tends to 1 for g < 1/(1-rho), to 4 rho/(1 + 3 rho) at g = 1/(1-rho), to rho beyond. `n` is a float
/// so that the limit can be looked at.
///
/// # References
/// arXiv 2510.05554 \[text\] for the limits; the formula for finite n \[derived\]\[checked\].
pub fn layer_cosine(n: f64, rho: f64, gain: f64) -> f64 {
    let others = n - 1.0;
    let own = 1.0 / (1.0 + others * (-gain * (1.0 - rho) * n.ln()).exp());
    let other = (1.0 - own) / others;
    let two = n - 2.0;
    let product =
        own * own * rho + 2.0 * own * other * (1.0 + two * rho) + other * other * (two + (others * others - two) * rho);
    let square = own * own + 2.0 * own * other * others * rho + other * other * (others + others * two * rho);
    product / square
}

/// 4 rho/(1 + 3 rho): the limit of [`layer_cosine`] at the critical gain 1/(1 - rho) \[text\].
pub fn critical_layer_cosine(rho: f64) -> f64 {
    4.0 * rho / (1.0 + 3.0 * rho)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quadrature_agrees_with_the_closed_form_at_beta_zero() {
        for n in [2, 7, 128] {
            let t = crossing_time(Weights::Softmax, n, 0.0, 0.05, 0.95);
            // The quadrature's own precision, amplified by nothing: g moves at speed of order one.
            assert!((cosine_at_beta_zero(n, 0.05, t) - 0.95).abs() < 1e-12, "n = {n}");
        }
    }

    #[test]
    fn the_closed_form_survives_long_times() {
        assert_eq!(cosine_at_beta_zero(5, 0.2, 1e4), 1.0);
    }

    #[test]
    fn crossing_times_match_the_reference() {
        // scipy.integrate.quad at 1e-12, theory section 6 item 1; relative agreement of two quadratures.
        let reference = [
            (0.0, 1.3718841418521448),
            (1.0, 1.7370981838852348),
            (4.0, 6.0833373565997855),
            (10.0, 429.49192145794547),
            (20.0, 1684421.6845149514),
        ];
        for (beta, time) in reference {
            let found = crossing_time(Weights::Softmax, 2, beta, 0.1, 0.9);
            assert!((found / time - 1.0).abs() < 1e-11, "beta = {beta}: {found}");
        }
    }
}
