//! LoRA+: B learns faster than A.

use crate::train::base::Rates;

/// η_B = λ·η_A.
///
/// # References
/// S. Hayou, N. Ghosh, B. Yu, "LoRA+", arXiv 2402.12354, 2024 \[code, as in PEFT\].
pub(super) fn rates(rates: Rates, ratio: f64) -> Rates {
    Rates { b: ratio * rates.a, ..rates }
}
