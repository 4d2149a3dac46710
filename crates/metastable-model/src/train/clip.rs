//! Clipping by the global norm.

/// The factor that brings a gradient of norm `norm` to at most `max_norm`: max_norm/(norm + 1e-6), at most 1, as PyTorch
/// has it; 1 if `max_norm` is 0, which means no clipping.
///
/// The norm of factor gradients depends on the gauge: clipping breaks the invariance of every invariant method, so a
/// run counts how often it happened.
///
/// # Example
/// ```
/// assert_eq!(metastable_model::train::clip(0.5, 1.0), 1.0);
/// assert!((metastable_model::train::clip(4.0, 1.0) - 0.25).abs() < 1e-7);
/// assert_eq!(metastable_model::train::clip(4.0, 0.0), 1.0);
/// ```
pub fn clip(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}
