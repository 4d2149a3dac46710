//! A checkpoint of the size of Mistral-7B, 14 GB of shards, is opened and analysed in a fraction of its size. The files
//! are holes: they take no place on the disk. One test alone in this binary, because memory is the process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use metastable_model::Weights;
use serde_json::{Map, Value, json};

const LAYERS: usize = 32;
const HIDDEN: usize = 4096;
const INNER: usize = 14336;
const KEYS: usize = 1024;
const VOCAB: usize = 32000;

/// The tensors of a shard: name and shape.
fn shard(index: usize) -> Vec<(String, Vec<usize>)> {
    let mut tensors = Vec::new();
    for layer in (0..LAYERS).filter(|layer| layer / 8 == index) {
        for (name, shape) in [
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![KEYS, HIDDEN]),
            ("self_attn.v_proj", vec![KEYS, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    if index == 0 {
        tensors.push(("model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN]));
        tensors.push(("model.norm.weight".into(), vec![HIDDEN]));
        tensors.push(("lm_head.weight".into(), vec![VOCAB, HIDDEN]));
    }
    tensors
}

/// Writes the folder; answers how many bytes its weights pretend to be.
fn write(folder: &Path) -> u64 {
    let config = json!({
        "model_type": "mistral", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": INNER, "vocab_size": VOCAB, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu", "sliding_window": null, "tie_word_embeddings": false,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (mut map, mut total) = (Map::new(), 0);
    for index in 0..LAYERS / 8 {
        let name = format!("model-{:05}-of-00004.safetensors", index + 1);
        let (mut header, mut end) = (Map::new(), 0_u64);
        for (tensor, shape) in shard(index) {
            let begin = end;
            end += 2 * shape.iter().product::<usize>() as u64;
            header.insert(tensor.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}));
            map.insert(tensor, name.clone().into());
        }
        let mut text = Value::Object(header).to_string();
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let mut file = File::create(folder.join(&name)).unwrap();
        file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        // A hole: zeros that no disk holds.
        file.set_len(8 + text.len() as u64 + end).unwrap();
        total += end;
    }
    fs::write(folder.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    total
}

/// The peak of this process's resident memory in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

#[test]
fn fourteen_gigabytes_of_weights_are_analysed_in_less_than_one() {
    let folder = tempfile::tempdir().unwrap();
    let size = write(folder.path());
    assert!(size > 14_000_000_000, "{size}");
    let before = peak();
    let weights = Weights::open(folder.path()).unwrap();
    assert_eq!(weights.summary().parameters as u64, size / 2);
    let opened = peak() - before;
    assert!(opened < 32 << 20, "opening took {opened} bytes: it costs the headers");
    for layer in [0, LAYERS - 1] {
        let heads = weights.spectra(layer).unwrap();
        assert_eq!(heads.len(), 32);
        assert!(heads.iter().all(|head| head.qk_norm == 0.0), "holes are zeros");
    }
    // Query, key, value and output of one layer: 84 MB as BF16, 168 MB as f32, the heads of it in f64 336 MB and what
    // their decompositions need. Nothing of an earlier layer stays.
    let used = peak() - before;
    assert!(used < 1 << 30, "{used} bytes for a checkpoint of {size}");
    eprintln!(
        "opening {:.1} MB, two layers {:.0} MB of {:.1} GB",
        opened as f64 / 1e6,
        used as f64 / 1e6,
        size as f64 / 1e9
    );
}
