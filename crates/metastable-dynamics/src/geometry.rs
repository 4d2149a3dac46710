//! The space that tokens live in: where a velocity may point, and how to come back.

/// A space of clouds: projects velocities to the tangent space and retracts points to the space.
///
/// Both work in place on whole states (n·d values, token after token).
pub trait Geometry: Sync {
    /// Whether [`Geometry::retract`] changes nothing, so that callers may skip it.
    fn is_flat(&self) -> bool;

    /// Moves every point back to the space.
    fn retract(&self, state: &mut [f64]);

    /// Removes from each velocity what leaves the tangent space at its point.
    fn project(&self, state: &[f64], velocity: &mut [f64]);
}

/// R^d: nothing to do.
#[derive(Debug, Clone, Copy)]
pub struct Euclidean;

impl Geometry for Euclidean {
    fn is_flat(&self) -> bool {
        true
    }

    fn retract(&self, _state: &mut [f64]) {}

    fn project(&self, _state: &[f64], _velocity: &mut [f64]) {}
}

/// A product of unit spheres S^{d-1}, one a token.
///
/// Retraction: x / |x|. Projection: Proj_x y = y - <x, y> x.
#[derive(Debug, Clone, Copy)]
pub struct Spheres {
    /// The dimension d of the space around each sphere.
    pub dim: usize,
}

impl Geometry for Spheres {
    fn is_flat(&self) -> bool {
        false
    }

    fn retract(&self, state: &mut [f64]) {
        for token in state.chunks_exact_mut(self.dim) {
            let norm = token.iter().map(|c| c * c).sum::<f64>().sqrt();
            token.iter_mut().for_each(|c| *c /= norm);
        }
    }

    fn project(&self, state: &[f64], velocity: &mut [f64]) {
        for (token, y) in state.chunks_exact(self.dim).zip(velocity.chunks_exact_mut(self.dim)) {
            let radial: f64 = token.iter().zip(&*y).map(|(a, b)| a * b).sum();
            y.iter_mut().zip(token).for_each(|(b, a)| *b -= radial * a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projected_velocities_are_tangent_and_retracted_points_are_unit() {
        let sphere = Spheres { dim: 3 };
        let mut state = vec![3.0, 0.0, 4.0, 1.0, -1.0, 0.5];
        sphere.retract(&mut state);
        let mut velocity = vec![0.3, -0.2, 0.9, 1.0, 2.0, 3.0];
        sphere.project(&state, &mut velocity);
        for (x, y) in state.chunks(3).zip(velocity.chunks(3)) {
            let dot: f64 = x.iter().zip(y).map(|(a, b)| a * b).sum();
            let norm: f64 = x.iter().map(|a| a * a).sum();
            assert!(dot.abs() < 1e-15 && (norm - 1.0).abs() < 1e-15, "{dot} {norm}");
        }
    }
}
