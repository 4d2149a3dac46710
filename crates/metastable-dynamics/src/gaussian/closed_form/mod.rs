//! Gaussian flows in closed form: the oracles of the solver, and answers that need no solver.
//!
//! [`scalar_value`] (V = vI, softmax, any dimension), [`feed_forward`] (the same with a linear feed-forward part: one
//! matrix exponential), `line` (d = 1: softmax, L2, Sinkhorn, noise), [`plane`] (rotation in two dimensions);
//! [`coupling`] (the rate of Sinkhorn's
//! alternation); [`open`] has the fields of kernels that do not keep Gaussians.

pub mod coupling;
pub mod feed_forward;
pub mod line;
pub mod open;
pub mod plane;
pub mod scalar_value;

pub use feed_forward::FeedForwardRiccati;
pub use line::{LineHead, LineMoments};
pub use plane::PlaneRotation;
pub use scalar_value::ScalarValue;
