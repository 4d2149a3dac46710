//! The methods, and one step of each: change the gradient, move the factors, change the factors.

use metastable_dynamics::DynamicsError;
use metastable_dynamics::balance::{LowRankPair, Skip};
use serde::{Deserialize, Serialize};

use crate::train::balora::{self, Balora};
use crate::train::base::{Base, Gradient, Moments, Rates};
use crate::train::lora_rite::{LoraRite, RiteMemory};
use crate::train::{lora_fa, lora_plus, lora_pro, norm_balance, reflora, riemannian};

/// What is done to a pair besides following its gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Method {
    /// Nothing: LoRA, rsLoRA (another scale), PiSSA and OLoRA (other starting points), DoRA (another forward).
    Lora,
    /// B learns `ratio` times faster than A.
    LoraPlus {
        /// λ >= 1; 16 is usual.
        ratio: f64,
    },
    /// A stays where it started.
    LoraFa,
    /// Gradients are preconditioned by the other factor's Gram matrix.
    Riemannian {
        /// δ, what is added to the Gram matrices.
        damping: f64,
    },
    /// Gradients are preconditioned so that the step is that of the balanced pair.
    RefLora {
        /// Plain steps at the start.
        warmup: u64,
    },
    /// Gradients whose effect on W is nearest to the full gradient's.
    LoraPro,
    /// Matrix Adam in the coordinates of the factors' own bases.
    LoraRite(LoraRite),
    /// Both factors get equal norms after every step.
    NormBalance {
        /// Whether Adam's moments follow.
        transport: bool,
    },
    /// The balanced manifold.
    Balora(Balora),
}

/// The optimizer of one pair: a method, a base, and what they remember.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairOptimizer {
    method: Method,
    base: Base,
    scale: f64,
    steps: u64,
    moments: Moments,
    rite: Option<RiteMemory>,
}

/// The outcome of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Stepped {
    /// The new factors.
    pub pair: LowRankPair,
    /// Why a projection that was due was not made.
    pub skipped: Option<Skip>,
}

impl Stepped {
    pub(crate) fn plain(pair: LowRankPair) -> Self {
        Self { pair, skipped: None }
    }
}

impl PairOptimizer {
    /// For a pair of these shapes whose product enters W with `scale`.
    pub fn new(method: Method, base: Base, pair: &LowRankPair, scale: f64) -> Self {
        let rite = matches!(method, Method::LoraRite(_)).then(|| RiteMemory::of(pair));
        Self { method, base, scale, steps: 0, moments: Moments::zero(pair), rite }
    }

    /// One step at a learning rate with a decoupled weight decay. O((in + out)·r² + r³) at most.
    ///
    /// # Errors
    /// [`DynamicsError::NotFinite`] if the factors overflow; [`DynamicsError::Decomposition`].
    pub fn step(
        &mut self,
        pair: &LowRankPair,
        gradient: &Gradient,
        rate: f64,
        decay: f64,
    ) -> Result<Stepped, DynamicsError> {
        self.steps += 1;
        let even = Rates { a: rate, b: rate, decay };
        match self.method {
            Method::Lora => self.follow(pair, gradient, even).map(Stepped::plain),
            Method::LoraPlus { ratio } => {
                self.follow(pair, gradient, lora_plus::rates(even, ratio)).map(Stepped::plain)
            }
            Method::LoraFa => {
                let gradient = lora_fa::precondition(pair, gradient, self.scale)?;
                self.follow(pair, &gradient, lora_fa::rates(even)).map(Stepped::plain)
            }
            Method::Riemannian { damping } => {
                let gradient = riemannian::precondition(pair, gradient, damping)?;
                self.follow(pair, &gradient, even).map(Stepped::plain)
            }
            Method::LoraPro => {
                let gradient = lora_pro::precondition(pair, gradient, self.scale)?;
                self.follow(pair, &gradient, even).map(Stepped::plain)
            }
            Method::RefLora { warmup } => {
                let (gradient, skipped) = reflora::precondition(pair, gradient, self.steps > warmup)?;
                Ok(Stepped { pair: self.follow(pair, &gradient, even)?, skipped })
            }
            Method::LoraRite(settings) => {
                let memory = self.rite.get_or_insert_with(|| RiteMemory::of(pair));
                settings.step(pair, gradient, even, memory).map(Stepped::plain)
            }
            Method::NormBalance { transport } => {
                let moved = self.follow(pair, gradient, even)?;
                norm_balance::apply(moved, transport.then_some(&mut self.moments))
            }
            Method::Balora(settings) => {
                let moved = self.follow(pair, gradient, even)?;
                balora::apply(settings, moved, self.steps, &mut self.moments)
            }
        }
    }

    fn follow(&mut self, pair: &LowRankPair, gradient: &Gradient, rates: Rates) -> Result<LowRankPair, DynamicsError> {
        self.base.step(pair, gradient, rates, &mut self.moments)
    }
}
