//! Weights in several files with an index.

use std::fs;
use std::path::Path;

use metastable_model::{Input, Model, ModelError, ModelErrorKind, Weights};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::world::{Noise, SMALL, World};

/// The small BERT, its tensors dealt out to two files.
fn split() -> (tempfile::TempDir, Value) {
    let folder = World::new(SMALL).write();
    let whole = folder.path().join("model.safetensors");
    let bytes = fs::read(&whole).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let mut tensors = file.tensors();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let own: Vec<_> = tensors.into_iter().skip(shard).step_by(2).collect();
        weight_map.extend(own.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        fs::write(folder.path().join(name), safetensors::serialize(own, None).unwrap()).unwrap();
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    fs::remove_file(whole).unwrap();
    write(folder.path(), &index);
    (folder, index)
}

fn write(folder: &Path, index: &Value) {
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn refused(folder: &Path, expected: &str) -> ModelError {
    let error = Model::open(folder).err().unwrap_or_else(|| panic!("opened; expected `{expected}`"));
    assert!(error.to_string().contains(expected), "`{error}` does not say `{expected}`");
    assert_eq!(error.kind(), ModelErrorKind::Input);
    error
}

#[test]
fn shards_are_one_model() {
    let (folder, _) = split();
    let input = Input::new(Noise(1).ids(20, SMALL.vocab)).unwrap();
    let (sharded, whole) = (Model::open(folder.path()).unwrap(), World::new(SMALL).open().unwrap());
    assert_eq!(sharded.forward(&input).unwrap(), whole.forward(&input).unwrap());
    assert_eq!(sharded.summary(), whole.summary());
    let files = Weights::open(folder.path()).unwrap().files();
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    const KEY: &str = "embeddings.LayerNorm.bias";
    let (folder, mut index) = split();
    let shard = index["weight_map"][KEY].as_str().unwrap().to_owned();
    let other = shard.replace("00001-of", "00009-of");
    let map = index["weight_map"].as_object_mut().unwrap();
    map.insert("no.such.tensor".into(), json!(shard));
    write(folder.path(), &index);
    refused(folder.path(), "`no.such.tensor`: expected a tensor of this file, as model.safetensors.index.json says");

    let map = index["weight_map"].as_object_mut().unwrap();
    map.remove("no.such.tensor");
    map.remove(KEY);
    write(folder.path(), &index);
    refused(folder.path(), &format!("tensor `{KEY}`: expected shape [21], found no such tensor"));

    index["weight_map"][KEY] = json!(other);
    write(folder.path(), &index);
    refused(folder.path(), &format!("{other}: not found, expected a shard"));

    for outside in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""] {
        index["weight_map"][KEY] = json!(outside);
        write(folder.path(), &index);
        refused(folder.path(), "which is no plain name");
    }
    for (text, expected) in [("{", "EOF"), ("[]", "expected a JSON object"), ("{\"weight_map\": 3}", "expected a map")]
    {
        fs::write(folder.path().join("model.safetensors.index.json"), text).unwrap();
        refused(folder.path(), expected);
    }
}

#[test]
fn a_broken_shard_is_the_one_that_is_named() {
    let (folder, _) = split();
    let second = folder.path().join("model-00002-of-00002.safetensors");
    let bytes = fs::read(&second).unwrap();
    fs::write(&second, &bytes[..bytes.len() - 1]).unwrap();
    refused(folder.path(), "model-00002-of-00002.safetensors: expected a safetensors file");
}
