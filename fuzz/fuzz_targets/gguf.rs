//! A GGUF file: metadata, directory, blocks, config and the tokenizer inside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metastable_model::doors;

fuzz_target!(|bytes: &[u8]| {
    let _ = doors::gguf(bytes);
    if let Ok(text) = doors::gguf_tokenizer(bytes, 1 << 16) {
        let _ = text.encode("It was the best of times,\n 1234 — été 世界");
    }
});
