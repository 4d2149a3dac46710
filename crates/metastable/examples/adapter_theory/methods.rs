//! The methods that are compared: one line each.

use metastable_model::train::{Balora, Form, Init, LoraRite, Method};

/// A method with the start, scale and forward that belong to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rival {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    /// Where pairs start.
    pub(crate) start: Init,
    /// Whether the scale is alpha/sqrt(r) instead of alpha/r.
    pub(crate) rslora: bool,
    /// Whether rows keep a trained length.
    pub(crate) dora: bool,
    /// Whether signs of singular pairs are flipped at random after each projection, as LAPACK's decomposition does.
    pub(crate) flips: bool,
}

const fn plain(name: &'static str, method: Method) -> Rival {
    Rival { name, method, start: Init::Kaiming, rslora: false, dora: false, flips: false }
}

const BALORA: Balora = Balora { form: Form::Canonical, transport: true, every: 1 };
const AUTHORS: Balora = Balora { form: Form::Canonical, transport: false, every: 1 };
const NEAREST: Balora = Balora { form: Form::Nearest, transport: false, every: 1 };
const EVERY_TENTH: Balora = Balora { form: Form::Canonical, transport: true, every: 10 };
const RITE: LoraRite = LoraRite { beta1: 0.9, beta2: 0.999, epsilon: 1e-6, max_norm: 1.0 };

/// The name of the negative control, which is left out of what is said of "all methods".
pub(crate) const CONTROL: &str = "balora-unsigned";

/// All methods, the adapter of every other comparison first.
pub(crate) const RIVALS: [Rival; 20] = [
    plain("lora", Method::Lora),
    plain("balora", Method::Balora(BALORA)),
    plain("balora-authors", Method::Balora(AUTHORS)),
    plain("balora-nearest", Method::Balora(NEAREST)),
    plain("balora-every-10", Method::Balora(EVERY_TENTH)),
    // RefLoRA's scalar mode.
    plain("norm-balance", Method::NormBalance { transport: true }),
    plain("norm-balance-left", Method::NormBalance { transport: false }),
    plain("reflora", Method::RefLora { warmup: 0 }),
    plain("scaled-gd-1e-6", Method::Riemannian { damping: 1e-6 }),
    plain("scaled-gd-1e-2", Method::Riemannian { damping: 1e-2 }),
    plain("lora-pro", Method::LoraPro),
    plain("lora-rite", Method::LoraRite(RITE)),
    plain("lora-plus-4", Method::LoraPlus { ratio: 4.0 }),
    plain("lora-plus-16", Method::LoraPlus { ratio: 16.0 }),
    plain("lora-fa", Method::LoraFa),
    Rival { rslora: true, ..plain("rslora", Method::Lora) },
    Rival { dora: true, ..plain("dora", Method::Lora) },
    Rival { start: Init::Pissa, ..plain("pissa", Method::Lora) },
    Rival { start: Init::Olora, ..plain("olora", Method::Lora) },
    Rival { flips: true, ..plain(CONTROL, Method::Balora(AUTHORS)) },
];

/// The method of that name.
pub(crate) fn rival(name: &str) -> Option<Rival> {
    RIVALS.into_iter().find(|rival| rival.name == name)
}
