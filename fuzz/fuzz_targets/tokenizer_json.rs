//! tokenizer.json, and a text through what it describes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metastable_model::doors;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = doors::tokenizer(bytes, 1 << 16) {
        let _ = text.encode_at_most("It was the best of times,\n 1234 — été 世界", 16);
    }
});
