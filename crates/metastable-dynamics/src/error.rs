//! What can be wrong with the mathematics' inputs.

/// A rejected input: names the culprit, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DynamicsError {
    /// A matrix or cloud has the wrong shape.
    #[error("{name}: expected shape {expected}, found {found}")]
    Shape {
        /// Which input.
        name: String,
        /// The shape that fits.
        expected: String,
        /// The shape that came.
        found: String,
    },
    /// An entry is NaN or infinite.
    #[error("{name}: entry {index} is {value}, expected finite numbers")]
    NotFinite {
        /// Which input.
        name: String,
        /// Position in row-major order.
        index: usize,
        /// The offending entry.
        value: f64,
    },
    /// A number lies outside its domain.
    #[error("{name}: expected {expected}, found {found}")]
    Domain {
        /// Which input.
        name: String,
        /// The domain.
        expected: String,
        /// The value that came.
        found: String,
    },
    /// A matrix that must be symmetric is not.
    #[error("{name}: expected a symmetric matrix, found an asymmetry of {asymmetry:e}")]
    NotSymmetric {
        /// Which input.
        name: String,
        /// max |M - Mᵀ|.
        asymmetry: f64,
    },
    /// A kernel under which a Gaussian does not stay Gaussian.
    #[error("{kernel} attention does not keep Gaussians Gaussian: {reason}")]
    NoGaussianClosure {
        /// Which kernel.
        kernel: &'static str,
        /// Why, from the mathematics.
        reason: &'static str,
    },
    /// Sinkhorn's alternation did not make both marginals uniform.
    #[error(
        "sinkhorn attention does not converge at epsilon = {epsilon}: after {iterations} iterations the residual is \
         {residual:.3e}, expected at most {tolerance:e}"
    )]
    NotConverged {
        /// ε.
        epsilon: f64,
        /// The largest relative error of a column sum (or, for derivatives, of the linear system).
        residual: f64,
        /// What it should have been.
        tolerance: f64,
        /// Passes over all pairs and back that were taken.
        iterations: u32,
    },
    /// A decomposition did not converge.
    #[error("{name}: the {what} did not converge")]
    Decomposition {
        /// Which input.
        name: String,
        /// Which decomposition.
        what: &'static str,
    },
}

impl DynamicsError {
    /// A [`DynamicsError::Shape`] from displayable parts.
    pub(crate) fn shape(name: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Shape { name: name.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// A [`DynamicsError::Domain`] from displayable parts.
    pub(crate) fn domain(name: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Domain { name: name.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// Rejects the first entry that is not a finite number.
///
/// # Errors
/// [`DynamicsError::NotFinite`] with its position.
pub(crate) fn require_finite(name: &str, values: &[f64]) -> Result<(), DynamicsError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(DynamicsError::NotFinite { name: name.into(), index, value: values[index] }),
    }
}
