//! The learning rate over time.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Shape {
    /// Not at all.
    #[default]
    Constant,
    /// Along a line to 0.
    Linear,
    /// Along half a cosine to 0.
    Cosine,
}

/// Warm-up along a line, then a shape; as `transformers` counts: step 0 of a warm-up has rate 0.
///
/// # Example
/// ```
/// use metastable_model::train::{Schedule, Shape};
/// let schedule = Schedule { peak: 1e-3, warmup: 10, steps: 110, shape: Shape::Cosine };
/// assert_eq!(schedule.rate(0), 0.0);
/// assert_eq!(schedule.rate(10), 1e-3);
/// assert!((schedule.rate(60) - 5e-4).abs() < 1e-18);
/// assert!(schedule.rate(110).abs() < 1e-18);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The rate after warm-up.
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// What happens after warm-up.
    pub shape: Shape,
}

impl Schedule {
    /// The rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / length).min(1.0);
        match self.shape {
            Shape::Constant => self.peak,
            Shape::Linear => self.peak * (1.0 - progress),
            Shape::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}
