//! adapter_config.json beside weights that are sound.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use metastable_model::doors;
use metastable_model::lora::{Adapter, Factor, LoraModule};

/// Two modules of rank 2, as PEFT would write them.
static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let factor = |rows, columns| Factor::new(rows, columns, vec![0.5; rows * columns]).expect("the shape fits");
    let module = |name| LoraModule::linear(name, factor(2, 4), factor(3, 2), 4.0, false).expect("the ranks fit");
    let modules = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"].map(module).into();
    Adapter::from_modules(modules, Vec::new(), false, None, None).to_peft().expect("PEFT has a place for it").tensors
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(survey) = doors::adapter(bytes, &WEIGHTS) {
        let _ = survey.require_sound();
        let _ = survey.adapter.to_peft();
    }
});
