//! The spectral norm of p M + u wᵀ, the block of an attention Jacobian, without a decomposition a block.

/// What is asked of one block p M + u wᵀ, in the right singular basis W of M = U Σ Wᵀ.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The squared singular values Σ², any order.
    pub squares: &'a [f64],
    /// The largest of them, and the second (0 if there is none).
    pub largest: [f64; 2],
    /// p >= 0.
    pub weight: f64,
    /// Wᵀ Mᵀ u = Σ Uᵀ u.
    pub pulled: &'a [f64],
    /// |u|².
    pub size: f64,
    /// Wᵀ w.
    pub along: &'a [f64],
}

/// Bisections at most; the bracket halves each time.
const MAX_BISECTIONS: usize = 60;
/// Stops when the bracket of the squared norm is this narrow, relative.
const ENOUGH: f64 = 1e-10;

impl Block<'_> {
    /// ‖p M + u wᵀ‖_2, from above, to a relative 1e-10. O(d) a bisection.
    ///
    /// (p M + u wᵀ)ᵀ (p M + u wᵀ) is p² Σ² (in W's basis) plus Y S Yᵀ with Y = [y, w], y = Σ Uᵀ u,
    /// S = [[0, p], [p, |u|²]]: rank two, one eigenvalue of either sign. Hence its largest eigenvalue is not below
    /// p² σ_2². By the inertia of the bordered matrix [[λ - p² Σ², Y], [Yᵀ, S⁻¹]] a number λ is above all
    /// eigenvalues iff, with <a, b>_λ = Σ_l a_l b_l / (λ - p² σ_l²),
    ///
    /// ```text
    /// f = (1 - p <y, w>_λ)² - <w, w>_λ (|u|² + p² <y, y>_λ) > 0                   for λ > p² σ_1²
    /// f < 0 and <w, w>_λ < 0                                                       for p² σ_2² < λ < p² σ_1²
    /// ```
    ///
    /// \[derived\]. Bisection keeps its upper end above, hence the result is never below the norm.
    pub fn norm_upper(&self) -> f64 {
        let [own, second] = self.largest.map(|square| self.weight * square.sqrt());
        let added = (self.size * self.along.iter().map(|w| w * w).sum::<f64>()).sqrt();
        if added == 0.0 {
            return own;
        }
        let (mut low, mut high) = (second * second, (own + added) * (own + added));
        for _ in 0..MAX_BISECTIONS {
            if high - low <= ENOUGH * high {
                break;
            }
            let middle = low + (high - low) / 2.0;
            if self.is_above(middle) { high = middle } else { low = middle }
        }
        // The sign of f is known up to the rounding of numbers of this size.
        (high + 8.0 * f64::EPSILON * (own + added) * (own + added)).sqrt()
    }

    /// Whether `lambda` > p² σ_2² is above all eigenvalues.
    fn is_above(&self, lambda: f64) -> bool {
        let p = self.weight;
        let (mut yy, mut yw, mut ww) = (0.0, 0.0, 0.0);
        for ((square, y), w) in self.squares.iter().zip(self.pulled).zip(self.along) {
            let share = 1.0 / (lambda - p * p * square);
            yy += y * y * share;
            yw += y * w * share;
            ww += w * w * share;
        }
        let f = (1.0 - p * yw) * (1.0 - p * yw) - ww * (self.size + p * p * yy);
        if lambda > p * p * self.largest[0] { f > 0.0 } else { f < 0.0 && ww < 0.0 }
    }
}
