//! The same trained layer at every depth: an ALBERT made of MiniLM's embeddings and one of its layers.
//!
//! Not a trained ALBERT. It is the autonomous dynamics of the papers with real matrices, and its tokens cluster.

use std::fs;

use metastable_model::{Input, Model};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

use crate::golden::Golden;
use crate::minilm::{GOLDEN, folder, mean_cosine, minilm};

/// MiniLM's name of a tensor of ALBERT's only layer.
const NAMES: [(&str, &str); 8] = [
    ("attention.query", "attention.self.query"),
    ("attention.key", "attention.self.key"),
    ("attention.value", "attention.self.value"),
    ("attention.dense", "attention.output.dense"),
    ("attention.LayerNorm", "attention.output.LayerNorm"),
    ("ffn", "intermediate.dense"),
    ("ffn_output", "output.dense"),
    ("full_layer_layer_norm", "output.LayerNorm"),
];

/// A folder with layer `layer` of MiniLM at 24 depths.
fn albert(layer: usize) -> TempDir {
    let bytes = fs::read(folder().unwrap().join("model.safetensors")).unwrap();
    let minilm = SafeTensors::deserialize(&bytes).unwrap();
    let mut identity = vec![0_u8; 384 * 384 * 4];
    identity.chunks_exact_mut(4).step_by(385).for_each(|entry| entry.copy_from_slice(&1.0_f32.to_le_bytes()));
    let zeros = vec![0_u8; 384 * 4];
    let mapping = "encoder.embedding_hidden_mapping_in";
    let mut tensors: Vec<(String, TensorView<'_>)> = vec![
        (format!("{mapping}.weight"), TensorView::new(Dtype::F32, vec![384, 384], &identity).unwrap()),
        (format!("{mapping}.bias"), TensorView::new(Dtype::F32, vec![384], &zeros).unwrap()),
    ];
    let embeddings = minilm.iter().filter(|(name, _)| name.starts_with("embeddings.") && !name.ends_with("_ids"));
    tensors.extend(embeddings.map(|(name, view)| (name.to_owned(), view)));
    for (albert, bert) in NAMES {
        for part in ["weight", "bias"] {
            let view = minilm.tensor(&format!("encoder.layer.{layer}.{bert}.{part}")).unwrap();
            tensors.push((format!("encoder.albert_layer_groups.0.albert_layers.0.{albert}.{part}"), view));
        }
    }
    let config = json!({
        "model_type": "albert", "num_hidden_layers": 24, "hidden_size": 384, "embedding_size": 384,
        "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30_522, "max_position_embeddings": 512,
        "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    folder
}

/// Golden values: `AlbertModel` of transformers 4.40.2 on the same folder, text T1 of golden/minilm.md, at depths
/// 0, 3, ..., 24; known to three digits.
#[test]
fn tokens_cluster_under_one_layer_repeated() {
    let Some(minilm) = minilm() else { return };
    let text = Golden::of(GOLDEN).text("t1");
    let ids = minilm.text().unwrap().encode(&text).unwrap().ids;
    for (layer, expected) in [
        (0, [0.051, 0.290, 0.601, 0.837, 0.907, 0.926, 0.937, 0.947, 0.953]),
        (2, [0.051, 0.268, 0.478, 0.656, 0.815, 0.897, 0.928, 0.934, 0.935]),
        (5, [0.051, 0.448, 0.923, 0.994, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ] {
        let folder = albert(layer);
        let hidden = Model::open(folder.path()).unwrap().forward(&Input::new(ids.clone()).unwrap()).unwrap();
        let trajectory = hidden.trajectory().unwrap();
        for (depth, expected) in (0..=24).step_by(3).zip(expected) {
            let mean = mean_cosine(&trajectory[depth]);
            assert!((mean - expected).abs() < 6e-4, "layer {layer} at depth {depth}: {mean}");
        }
    }
}
