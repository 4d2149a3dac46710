//! Where a transformer normalises, in continuous time: what attention sees of a token, and what its output moves.

/// Where tokens are normalised. With A the attention (and feed-forward) output, u/|u| the direction of a vector,
/// θ = x/|x|, r = |x| and Proj_x y = y - <x, y> x:
///
/// ```text
/// Ambient        x' = A(x)                       no normalisation, or residual layers normalised afterwards
/// Tangent        x' = Proj_x A(x), |x| = 1       post-LN                θ' = Proj A
/// PreNorm        x' = A(θ)                       pre-LN     r' = <θ, A>,      θ' = Proj A / r
/// PeriNorm       x' = A(θ)/|A(θ)|                peri-LN    r' = <θ, A>/|A|,  θ' = Proj A / (r |A|)
/// Hyperspherical x' = α Proj_x A(x)/|A(x)|       nGPT, |x| = 1          θ' = α Proj A / |A|
/// ```
///
/// Normalisation is to the unit sphere: layer norm without centring, gain and the factor √d.
///
/// Limits: directions of a zero token do not exist (tokens must not be 0), and a zero output has direction 0.
///
/// # References
/// Geshkovski et al. 2312.10794 for post-LN \[text\]\[lean\]; 2510.22026, where the angular speeds are written
/// s_i^{-1} Proj A_i with s = 1, r_i and α^{-1} |A_i| \[text\]\[lean\]; the radial parts and peri-LN \[derived\].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Placement {
    /// Anywhere in R^d: residual attention (M1), and residual layers that are normalised afterwards.
    Ambient,
    /// In the tangent space of the token's sphere: post-LN attention in continuous time (M3, M4).
    Tangent,
    /// Attention sees directions; its output moves the token in R^d: pre-LN.
    PreNorm,
    /// As `PreNorm`, and the output is normalised too: peri-LN.
    PeriNorm,
    /// Normalised output in the tangent space, at speed α: nGPT.
    Hyperspherical {
        /// The step α of the update, a rate here.
        alpha: f64,
    },
}

impl Placement {
    /// Whether tokens live on unit spheres.
    pub fn is_tangent(self) -> bool {
        matches!(self, Self::Tangent | Self::Hyperspherical { .. })
    }

    /// Whether attention sees x/|x|.
    pub fn normalizes_input(self) -> bool {
        matches!(self, Self::PreNorm | Self::PeriNorm)
    }

    /// Whether the output is divided by its norm.
    pub fn normalizes_output(self) -> bool {
        matches!(self, Self::PeriNorm | Self::Hyperspherical { .. })
    }

    /// The factor of the velocity.
    pub(super) fn speed(self) -> f64 {
        if let Self::Hyperspherical { alpha } = self { alpha } else { 1.0 }
    }
}

/// Every vector of a cloud divided by its norm; zero stays zero.
pub(super) fn directions(dim: usize, cloud: &[f64]) -> Vec<f64> {
    let mut out = cloud.to_vec();
    out.chunks_exact_mut(dim).for_each(|u| {
        let norm = crate::linalg::norm(u);
        if norm > 0.0 {
            u.iter_mut().for_each(|c| *c /= norm);
        }
    });
    out
}

/// The derivative of [`directions`] at `cloud` applied to `rates`, which is its own transpose: (ẏ - w <w, ẏ>)/|u|
/// with w = u/|u|; zero at zero.
pub(super) fn direction_rates(dim: usize, cloud: &[f64], rates: &[f64]) -> Vec<f64> {
    let mut out = rates.to_vec();
    for (u, rate) in cloud.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let norm = crate::linalg::norm(u);
        if norm == 0.0 {
            rate.fill(0.0);
            continue;
        }
        let along = crate::linalg::dot(u, rate) / (norm * norm);
        rate.iter_mut().zip(u).for_each(|(rate, u)| *rate = (*rate - along * u) / norm);
    }
    out
}
