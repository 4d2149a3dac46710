//! Which settings are the same run: (learning rate, alpha, r, init) against (lr_eff, σ).

/// What a config of any tool says about one adapter trained with Adam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// The learning rate.
    pub learning_rate: f64,
    /// alpha.
    pub alpha: f64,
    /// r.
    pub rank: usize,
    /// Whether the scale is alpha/sqrt(r) instead of alpha/r.
    pub rslora: bool,
    /// What the initial A is multiplied with, relative to the tool's default: 1 if nothing is said.
    pub init_scale: f64,
}

/// The two numbers that matter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effective {
    /// lr·σ.
    pub learning_rate: f64,
    /// σ, the square root of the scale, times the scale of the initial A.
    pub sigma: f64,
}

impl Setting {
    /// s, what B A is multiplied with.
    pub fn scale(&self) -> f64 {
        let r = self.rank as f64;
        if self.rslora { self.alpha / r.sqrt() } else { self.alpha / r }
    }

    /// The equivalent of this setting at scale 1: with Adam (ε → 0), (s = σ², lr) moves W exactly as
    /// (s = 1, initial A times σ, lr·σ) does \[derived, checked\]. Grids over (lr, alpha, r, init) shrink to two numbers.
    ///
    /// # Example
    /// ```
    /// use metastable_model::train::Setting;
    /// let peft = Setting { learning_rate: 1e-4, alpha: 32.0, rank: 8, rslora: false, init_scale: 1.0 };
    /// assert_eq!(peft.effective().sigma, 2.0);
    /// assert_eq!(peft.effective().learning_rate, 2e-4);
    /// ```
    pub fn effective(&self) -> Effective {
        let sigma = self.scale().sqrt();
        Effective { learning_rate: self.learning_rate * sigma, sigma: sigma * self.init_scale }
    }
}

impl Effective {
    /// The setting with this alpha and r that moves W in the same way.
    pub fn setting(&self, alpha: f64, rank: usize, rslora: bool) -> Setting {
        let plain = Setting { learning_rate: 0.0, alpha, rank, rslora, init_scale: 1.0 };
        let sigma = plain.scale().sqrt();
        Setting { learning_rate: self.learning_rate / sigma, init_scale: self.sigma / sigma, ..plain }
    }
}
