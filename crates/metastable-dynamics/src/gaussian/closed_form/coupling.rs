//! How fast Sinkhorn's alternation finds the coupling of a Gaussian with itself.

/// r⁴ with r = 2s / (1 + √(1 + 4s²)): by so much a full sweep (row step and column step) of Sinkhorn's alternation
/// shrinks the error of the potentials in the direction of the singular value s of Σ^{1/2} A Σ^{1/2} / ε \[checked\].
///
/// It tends to one like 1 - 2/s: a sweep gains less and less for small ε.
///
/// # Example
/// ```
/// use metastable_dynamics::gaussian::closed_form::coupling::sweep_contraction;
/// assert!((sweep_contraction(1.17) - 0.1899046834).abs() < 1e-10);
/// ```
pub fn sweep_contraction(s: f64) -> f64 {
    let r = 2.0 * s / (1.0 + 1.0_f64.hypot(2.0 * s));
    r.powi(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F ← s²/(1 + G), G ← s²/(1 + F): the alternation on quadratic potentials for Σ = 1.
    #[test]
    fn quadratic_potentials_contract_by_r_to_the_fourth_a_sweep() {
        for (s, printed) in [(1.17_f64, Some(0.1899046834)), (0.2, None), (6.0, None)] {
            let sweep = |g: f64| s * s / (1.0 + s * s / (1.0 + g));
            let limit = 0.5 * (1.0_f64.hypot(2.0 * s) - 1.0);
            assert!((sweep(limit) - limit).abs() < 1e-14 * (1.0 + limit), "the fixed point");
            let h = 1e-4;
            let observed = (sweep(limit + h) - sweep(limit - h)) / (2.0 * h);
            // h² third derivatives.
            assert!((observed - sweep_contraction(s)).abs() < 1e-7, "{s}: {observed}");
            if let Some(printed) = printed {
                // Ten digits are printed.
                assert!((sweep_contraction(s) - printed).abs() < 1e-10);
            }
        }
    }
}
