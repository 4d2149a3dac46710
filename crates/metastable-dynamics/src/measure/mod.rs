//! Clouds as measures: distances between them, and Gaussians as the measures that two moments describe.

pub mod conditional;
pub mod gaussian;
pub mod transport;

pub use gaussian::Gaussian;
