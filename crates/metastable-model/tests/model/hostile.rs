//! Folders and files that must be refused with one clear error, and never crash.

use std::fs;
use std::path::Path;

use metastable_model::{Model, ModelError, ModelErrorKind};
use serde_json::{Value, json};

use crate::world::{SMALL, World};

/// Opens and expects a refusal that blames the input and says `expected`.
fn refused(folder: &Path, expected: &str) -> ModelError {
    let error = Model::open(folder).err().unwrap_or_else(|| panic!("opened; expected `{expected}`"));
    assert!(error.to_string().contains(expected), "`{error}` does not say `{expected}`");
    assert_eq!(error.kind(), ModelErrorKind::Input);
    error
}

/// A safetensors file of this header and so many data bytes, in a folder with a good config.
fn with_weights(bytes: &[u8], expected: &str) {
    let folder = World::new(SMALL).write();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let message = refused(folder.path(), expected).to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}

fn with_header(header: &[u8], data: usize, expected: &str) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(vec![0; data]);
    with_weights(&bytes, expected);
}

fn with_tensors(header: &Value, data: usize, expected: &str) {
    with_header(header.to_string().as_bytes(), data, expected);
}

#[test]
fn header_lengths_beyond_the_file_or_beyond_reason_are_refused() {
    with_weights(&[], "header too small (the file has 0 bytes)");
    with_weights(&[1, 0, 0], "header too small");
    with_weights(&u64::MAX.to_le_bytes(), "header too large");
    with_weights(&(1u64 << 40).to_le_bytes(), "header too large");
    with_weights(&1_000_000_u64.to_le_bytes(), "invalid header length (the file has 8 bytes)");
}

#[test]
fn headers_that_are_no_tensor_list_are_refused() {
    with_header(b"{]", 0, "invalid JSON");
    with_header(&[0xff, 0xfe], 0, "invalid UTF-8");
    with_header("[".repeat(100_000).as_bytes(), 0, "invalid JSON");
    with_tensors(&json!({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}), 4, "unknown variant `F33`");
    with_tensors(&json!({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), 4, "invalid");
}

#[test]
fn a_tensor_that_is_there_twice_is_refused_although_the_library_lets_it_pass() {
    let entry = r#""x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    with_header(format!("{{{entry},{entry}}}").as_bytes(), 4, "two tensors `x`");
}

#[test]
fn offsets_that_do_not_tile_the_file_are_refused() {
    let pair = |first: [u64; 2], second: [u64; 2]| {
        json!({
            "a": {"dtype": "F32", "shape": [2], "data_offsets": first},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": second},
        })
    };
    with_tensors(&pair([0, 8], [4, 12]), 12, "invalid offset for tensor `b`");
    with_tensors(&pair([0, 8], [12, 20]), 20, "invalid offset for tensor `b`");
    with_tensors(&pair([0, 8], [8, 4]), 16, "invalid");
    with_tensors(&pair([0, 8], [8, 16]), 15, "file not fully covered");
    with_tensors(&pair([0, 8], [8, 16]), 17, "file not fully covered");
    with_tensors(&json!({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}), 8, "invalid");
    let huge = json!({"a": {"dtype": "F32", "shape": [u64::MAX, 3], "data_offsets": [0, 8]}});
    with_tensors(&huge, 8, "overflow");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let folder = World::new(SMALL).write();
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(folder.path(), "model.safetensors: expected a safetensors file");
    }
    fs::write(&path, &whole).unwrap();
    Model::open(folder.path()).unwrap();
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named_with_expected_and_found() {
    const KEY: &str = "encoder.layer.2.attention.self.key.weight";
    let mut world = World::new(SMALL);
    world.tensors.remove(KEY);
    let missing = format!("model.safetensors: tensor `{KEY}`: expected shape [21, 21], found no such tensor");
    refused(world.write().path(), &missing);

    let mut world = World::new(SMALL);
    world.tensors.get_mut(KEY).unwrap().0 = vec![441];
    refused(world.write().path(), &format!("tensor `{KEY}`: expected shape [21, 21], found [441]"));

    let mut world = World::new(SMALL);
    world.config["vocab_size"] = json!(51);
    refused(world.write().path(), "`embeddings.word_embeddings.weight`: expected shape [51, 21], found [50, 21]");

    let mut world = World::new(SMALL);
    world.config["num_hidden_layers"] = json!(1 << 24);
    refused(world.write().path(), "encoder.layer.3.");
}

#[test]
fn weights_that_are_no_finite_floats_are_refused() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut world = World::new(SMALL);
        world.tensors.get_mut("encoder.layer.0.output.dense.bias").unwrap().1[5] = value;
        let expected =
            format!("`encoder.layer.0.output.dense.bias`: expected finite numbers, found {value} at entry 5");
        refused(world.write().path(), &expected);
    }
    let integers = World::new(SMALL).write_as(safetensors::Dtype::I32, |v| (v as i32).to_le_bytes().to_vec());
    refused(integers.path(), "expected F32, F16 or BF16, found I32");
}

#[test]
fn folders_without_readable_weights_say_what_is_there() {
    let nowhere = Path::new("no/such/folder");
    refused(nowhere, "no/such/folder: not found, expected a model folder");

    let folder = World::new(SMALL).write();
    let weights = folder.path().join("model.safetensors");
    refused(&weights, "expected a model folder or a GGUF file, found a file without");
    fs::remove_file(&weights).unwrap();
    assert!(matches!(refused(folder.path(), "model.safetensors: not found"), ModelError::Missing { .. }));
    fs::create_dir(&weights).unwrap();
    refused(folder.path(), "model.safetensors");
    fs::remove_dir(&weights).unwrap();

    for other in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let path = folder.path().join(other);
        fs::write(&path, "{}").unwrap();
        let error = refused(folder.path(), &format!("model.safetensors.index.json, found only {other}"));
        assert!(error.hint().unwrap().contains("safe_serialization"));
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(folder.path().join("config.json")).unwrap();
    refused(folder.path(), "config.json: not found");
}

#[test]
fn configs_of_other_families_or_without_sense_are_refused() {
    let mut world = World::new(SMALL);
    world.config["model_type"] = json!("mamba");
    refused(world.write().path(), "config.json: model_type `mamba` is not supported, expected one of: bert");

    let folder = World::new(SMALL).write();
    let config = folder.path().join("config.json");
    for (text, expected) in [
        ("", "expected a JSON object"),
        ("[1, 2]", "expected a JSON object"),
        ("{\"model_type\": \"bert\"}", "no such key"),
    ] {
        fs::write(&config, text).unwrap();
        refused(folder.path(), expected);
    }
    fs::write(&config, " ".repeat((1 << 20) + 1)).unwrap();
    refused(folder.path(), "more than 1048576 bytes");
}

#[test]
fn a_tokenizer_of_another_model_is_refused_naming_both_numbers() {
    let folder = World::new(SMALL).write();
    let path = folder.path().join("tokenizer.json");
    let model = Model::open(folder.path()).unwrap();
    assert!(model.text().err().unwrap().to_string().contains("tokenizer.json: not found"));
    fs::write(&path, "{").unwrap();
    assert!(model.text().err().unwrap().to_string().contains("expected a tokenizer"));
    fs::write(&path, crate::text::tokenizer_json(50)).unwrap();
    model.text().unwrap();
    fs::write(&path, crate::text::tokenizer_json(51)).unwrap();
    let error = model.text().err().unwrap();
    assert!(matches!(error, ModelError::TokenizerMismatch { largest_id: 50, vocab: 50, .. }), "{error}");
    assert_eq!(error.kind(), ModelErrorKind::Input);
    assert!(error.to_string().contains("ids up to 50") && error.to_string().contains("vocab_size is 50"), "{error}");
}
