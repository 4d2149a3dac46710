//! GGUF files that must be refused with one clear error, quickly, and without memory that the file's length does not
//! justify.

use std::fs;

use metastable_model::{Model, ModelError, ModelErrorKind, Text, Weights};
use proptest::prelude::*;

use crate::gguf::fixture;

/// Writes bytes to a file and opens it.
fn open(bytes: &[u8]) -> Result<Model, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    Model::open(&path)
}

fn refused(bytes: &[u8], expected: &str) {
    let error = open(bytes).err().unwrap_or_else(|| panic!("opened; expected `{expected}`"));
    assert!(error.to_string().contains(expected), "`{error}` does not say `{expected}`");
    assert!(error.to_string().contains("model.gguf"), "{error}");
    assert_eq!(error.kind(), ModelErrorKind::Input);
}

/// A file of a header and what follows it.
struct Gguf(Vec<u8>);

impl Gguf {
    fn new(tensors: u64, entries: u64) -> Self {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        Self(bytes)
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn entry(self, key: &str, value: &str) -> Self {
        self.text(key).u32(8).text(value)
    }

    fn tensor(self, name: &str, sides: &[u64], kind: u32, offset: u64) -> Self {
        let written = self.text(name).u32(sides.len() as u32);
        sides.iter().fold(written, |written, side| written.u64(*side)).u32(kind).u64(offset)
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    fn refused(self, expected: &str) {
        refused(&self.0, expected);
    }
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused() {
    Gguf::new(u64::MAX, 0).refused("18446744073709551615 tensors, of which at most");
    Gguf::new(0, 1 << 40).refused("1099511627776 metadata entries, of which at most 0 fit");
    Gguf::new(0, 1).zeros(40).refused("model_type `none`");
    Gguf::new(0, 1).text("key").u32(9).u32(4).u64(1 << 60).zeros(64).refused("elements of `key`, of which at most");
    Gguf::new(0, 1)
        .text("key")
        .u32(9)
        .u32(12)
        .u64(60)
        .zeros(64)
        .refused("`key` that reaches beyond the end of the file");
    Gguf::new(0, 1).u64(u64::MAX).zeros(64).refused("the name of entry 0");
    Gguf::new(0, 1).text("key").u32(8).u64(1 << 50).zeros(64).refused("beyond the end of the file");
}

#[test]
fn values_without_sense_are_refused() {
    Gguf::new(0, 1).text("key").u32(13).zeros(64).refused("unknown type 13 at `key`");
    Gguf::new(0, 1).text("key").u32(9).u32(9).u64(1).zeros(64).refused("an array of arrays at `key`");
    Gguf::new(0, 2).entry("a", "b").entry("a", "c").refused("two entries `a`");
    Gguf::new(0, 1).text(&"k".repeat(70_000)).u32(0).zeros(8).refused("a name of 70000 bytes");
    let mut file = Gguf::new(0, 1).entry("ab", "b");
    let at = file.0.len() - 1;
    file.0[at] = 0xff;
    file.refused("no UTF-8");
    Gguf::new(0, 1).text("general.alignment").u32(4).u32(3).zeros(8).refused("general.alignment = 3");
    refused(b"GGUF", "a version");
    refused(b"GGML\x03\0\0\0", "without GGUF's magic number");
    refused(b"", "model.gguf");
    let mut version = Gguf::new(0, 0).0;
    version[4] = 9;
    refused(&version, "version 9");
}

#[test]
fn tensors_that_do_not_lie_in_the_file_are_refused() {
    let one = |sides: &[u64], kind, offset| Gguf::new(1, 0).tensor("x", sides, kind, offset).zeros(256);
    one(&[1 << 40], 0, 0).refused("tensor `x` of 4398046511104 bytes at offset 0, beyond the end");
    one(&[u64::MAX, u64::MAX], 0, 0).refused("tensor `x` with more numbers than 64 bits can count");
    one(&[8], 0, u64::MAX - 31).refused("beyond the end");
    one(&[8], 0, 7).refused("tensor `x` at offset 7, which is no multiple of 32");
    one(&[33], 2, 0).refused("rows of 33 numbers in blocks of 32");
    one(&[8], 10, 0).refused("tensor `x` of type Q2_K, expected F32");
    one(&[8], 77, 0).refused("unknown type 77");
    one(&[1, 1, 1, 1, 1], 0, 0).refused("tensor `x` with 5 sides");
    let two = |first, second| Gguf::new(2, 0).tensor("x", &[16], 0, 0).tensor(first, &[16], 0, second).zeros(256);
    two("y", 32).refused("tensors `x` and `y` that overlap");
    two("x", 64).refused("two tensors `x`");
}

#[test]
fn architectures_without_a_forward_pass_are_named() {
    Gguf::new(0, 0).refused("model_type `none` is not supported");
    Gguf::new(0, 1).entry("general.architecture", "rwkv7").refused("`rwkv7` is not supported, expected one of: llama");
    Gguf::new(0, 1)
        .entry("general.architecture", "llama")
        .refused("expected an integer from 1 to 2^24, found no such key");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let whole = fs::read(fixture()).unwrap();
    for length in (0..whole.len()).step_by(997).chain([whole.len() - 1]) {
        refused(&whole[..length], "model.gguf");
    }
    assert!(open(&whole).is_ok());
}

#[test]
fn numbers_that_are_not_finite_are_refused_by_name() {
    let mut bytes = fs::read(fixture()).unwrap();
    let length = bytes.len();
    // The last tensor is the final norm in F32.
    bytes[length - 64..].fill(0xff);
    refused(&bytes, "tensor `output_norm.weight`: expected finite numbers, found NaN");
}

#[test]
fn a_gguf_file_without_a_tokenizer_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, Gguf::new(0, 0).0).unwrap();
    let error = Text::open_gguf(&path, 10).err().unwrap().to_string();
    assert!(error.contains("tokenizer.ggml.model = gpt2") && error.contains("found none"), "{error}");
    let tokens = |file: Gguf| file.text("tokenizer.ggml.tokens").u32(9).u32(8).u64(2).text("a").text("b");
    fs::write(&path, tokens(Gguf::new(0, 2).entry("tokenizer.ggml.model", "llama")).0).unwrap();
    let error = Text::open_gguf(&path, 10).err().unwrap().to_string();
    assert!(error.contains("a score a token at tokenizer.ggml.scores") && error.contains("0 for 2 tokens"), "{error}");
    let file = Gguf::new(0, 2).entry("tokenizer.ggml.model", "gpt2").entry("tokenizer.ggml.pre", "tekken");
    fs::write(&path, file.0).unwrap();
    let error = Text::open_gguf(&path, 10).err().unwrap().to_string();
    assert!(error.contains("tokenizer.ggml.pre = smollm") && error.contains("found tekken"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to some bytes of the header, opening gives a model or an error, never a panic.
    #[test]
    fn mutated_headers_never_panic(changes in prop::collection::vec((0_usize..12_000, any::<u8>()), 1..6)) {
        let mut bytes = fs::read(fixture()).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, &bytes).unwrap();
        if let Ok(weights) = Weights::open(&path) {
            let _ = weights.spectra(0);
        }
        let _ = Text::open_gguf(&path, 512);
    }

    /// The same for the header of a safetensors file and for config.json.
    #[test]
    fn mutated_folders_never_panic(
        changes in prop::collection::vec((0_usize..3_000, any::<u8>()), 1..6),
        config in prop::collection::vec((0_usize..600, any::<u8>()), 0..3),
    ) {
        let source = fixture().with_extension("");
        let folder = tempfile::tempdir().unwrap();
        for (name, changes) in [("model.safetensors", changes), ("config.json", config)] {
            let mut bytes = fs::read(source.join(name)).unwrap();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            fs::write(folder.path().join(name), &bytes).unwrap();
        }
        if let Ok(weights) = Weights::open(folder.path()) {
            let _ = weights.spectra(0);
        }
    }
}
