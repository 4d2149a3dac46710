//! The header and tensors of a safetensors file, as a checkpoint's and as an adapter's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metastable_model::doors;

const CONFIG: &[u8] = br#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": "all-linear"}"#;

fuzz_target!(|bytes: &[u8]| {
    let _ = doors::safetensors(bytes);
    if let Ok(survey) = doors::adapter(CONFIG, bytes) {
        let _ = survey.adapter.modules().iter().map(|module| module.spectrum()).collect::<Vec<_>>();
        let _ = survey.adapter.to_peft();
    }
});
