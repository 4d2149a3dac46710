//! What a random start guarantees: an upper value that holds with a stated probability.

/// An upper value for ‖J‖_2 that fails with probability at most `failure` over the random start, after `steps` steps
/// of Lanczos on a map with `inputs` inputs that found `value`.
///
/// With N = inputs, P(relative error of λ_max = ‖J‖² exceeds ε) ≤ 1.648 √N e^{-√ε (2k - 1)}, so that
/// ‖J‖ ≤ value / √(1 - ε) for the ε that makes the right-hand side `failure`; `None` while ε ≥ 1, when k steps say
/// nothing. It assumes exact arithmetic, which full reorthogonalisation approximates, and a start that is uniform on
/// the sphere.
///
/// # References
/// J. Kuczyński, H. Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random
/// start", 1992: constants as recalled \[guess\], not compared with the print.
///
/// # Example
/// A million inputs, 60 steps, one failure in a million: 1.6 % above the value.
/// ```
/// use metastable_dynamics::smoothness::probable_upper;
/// let upper = probable_upper(1.0, 1_000_000, 60, 1e-6).unwrap();
/// assert!((upper - 1.0163).abs() < 1e-4);
/// assert!(probable_upper(1.0, 1_000_000, 3, 1e-6).is_none());
/// ```
///
/// # Panics
/// If `failure` is not in (0, 1).
pub fn probable_upper(value: f64, inputs: usize, steps: usize, failure: f64) -> Option<f64> {
    assert!(failure > 0.0 && failure < 1.0, "a probability of failure in (0, 1)");
    let root = (1.648 * (inputs as f64).sqrt() / failure).ln() / (2.0 * steps as f64 - 1.0);
    let error = root * root;
    (error < 1.0).then(|| value / (1.0 - error).sqrt())
}
