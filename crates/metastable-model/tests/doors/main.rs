//! Every parser of untrusted bytes over thousands of mutated files: no panic, and no memory beyond a small multiple of
//! the file. The seeds are those of the fuzz targets (`fuzz/corpus`); the mutations are the same in every run.
//!
//! One test alone in this binary: the allocator counts the whole process.
#![allow(clippy::unwrap_used)]
// The system's allocator with a count beside it; nothing else here is unsafe.
#![allow(unsafe_code)]

mod mutate;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use metastable_model::doors;
use metastable_model::lora::{Adapter, Factor, LoraModule};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator with its arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a call allocates at most, beyond what there was before.
fn peak_of(call: impl FnOnce()) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    call();
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

/// A parser with its seeds and its bound: `multiple` times the file and `constant` bytes.
struct Door {
    name: &'static str,
    cases: usize,
    multiple: usize,
    constant: usize,
    open: fn(&[u8]),
}

const TEXT: &str = "It was the best of times,\n 1234 — été 世界";

/// The bounds are what was measured, doubled and rounded up. The constants are what a parser builds whatever the file
/// says: compiled regular expressions and messages, thread pools of the first call, tables of the normalisers.
const DOORS: [Door; 4] = [
    Door { name: "safetensors", cases: 4000, multiple: 64, constant: 1 << 20, open: safetensors },
    Door { name: "gguf", cases: 3000, multiple: 64, constant: 4 << 20, open: gguf },
    Door { name: "adapter_config", cases: 3000, multiple: 64, constant: 32 << 20, open: adapter_config },
    Door { name: "tokenizer_json", cases: 3000, multiple: 128, constant: 8 << 20, open: tokenizer_json },
];

fn safetensors(bytes: &[u8]) {
    const CONFIG: &[u8] = br#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": "all-linear"}"#;
    let _ = doors::safetensors(bytes);
    if let Ok(survey) = doors::adapter(CONFIG, bytes) {
        survey.adapter.modules().iter().for_each(|module| drop(module.spectrum()));
        let _ = survey.adapter.to_peft();
    }
}

fn gguf(bytes: &[u8]) {
    let _ = doors::gguf(bytes);
    if let Ok(text) = doors::gguf_tokenizer(bytes, 1 << 16) {
        let _ = text.encode(TEXT);
    }
}

fn adapter_config(bytes: &[u8]) {
    let factor = |rows, columns| Factor::new(rows, columns, vec![0.5; rows * columns]).unwrap();
    let module = |name| LoraModule::linear(name, factor(2, 4), factor(3, 2), 4.0, false).unwrap();
    let modules = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"].map(module).into();
    let weights = Adapter::from_modules(modules, Vec::new(), false, None, None).to_peft().unwrap().tensors;
    if let Ok(survey) = doors::adapter(bytes, &weights) {
        let _ = survey.require_sound();
        let _ = survey.adapter.to_peft();
    }
}

fn tokenizer_json(bytes: &[u8]) {
    if let Ok(text) = doors::tokenizer(bytes, 1 << 16) {
        let _ = text.encode_at_most(TEXT, 16);
    }
}

fn seeds(door: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(door);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Inputs that once broke something, with the door they came through.
const FOUND: [(&str, &[u8]); 2] = [
    // tokenizers 0.23.2 unwraps its own reading of a decoder, and of a Precompiled normaliser.
    ("tokenizer_json", br#"{"version":"1.0","added_tokens":[],"decoder":{"type":},"model":{"type":"BPE","vocab":{},"merges":[]}}"#),
    (
        "tokenizer_json",
        br#"{"version":"1.0","added_tokens":[],"normalizer":{"type":"Precompiled","precompiled_charsmap":"/////w=="},"model":{"type":"BPE","vocab":{},"merges":[]}}"#,
    ),
];

#[test]
fn no_bytes_make_a_parser_panic_or_take_memory_that_the_file_does_not_justify() {
    // The first call starts threads and compiles what is compiled once.
    DOORS.iter().for_each(|door| (door.open)(&seeds(door.name)[0]));
    for door in &DOORS {
        let seeds = seeds(door.name);
        assert!(seeds.len() >= 4, "{}: seeds", door.name);
        let found = FOUND.iter().filter(|(name, _)| *name == door.name).map(|(_, bytes)| bytes.to_vec());
        let mutated = (0..door.cases).map(|case| mutate::mutated(&seeds, case as u64));
        let mut worst = (0.0, 0, 0);
        for (case, bytes) in seeds.iter().cloned().chain(found).chain(mutated).enumerate() {
            let mut ended = Ok(());
            let peak = peak_of(|| ended = catch_unwind(AssertUnwindSafe(|| (door.open)(&bytes))).map_err(drop));
            assert!(ended.is_ok(), "{}: case {case} panics: {:?}", door.name, String::from_utf8_lossy(&bytes));
            let allowed = door.multiple * bytes.len() + door.constant;
            let share = peak as f64 / allowed as f64;
            if share > worst.0 {
                worst = (share, peak, bytes.len());
            }
            assert!(peak <= allowed, "{}: case {case} takes {peak} bytes for {}", door.name, bytes.len());
        }
        eprintln!("{}: worst {:.3} of the bound, {} bytes for a file of {}", door.name, worst.0, worst.1, worst.2);
    }
}
