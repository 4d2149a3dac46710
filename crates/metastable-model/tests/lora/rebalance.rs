//! Rebalancing keeps what an adapter computes, and can be undone.

use std::fs;

use metastable_model::lora::{Adapter, PeftFiles, Strictness, UNDO_FILE};

use crate::world::{QUERY_A, QUERY_B, World, product, stored};

fn distance(x: &[f64], y: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut x.iter().zip(y).map(|(x, y)| x - y)) / norm(&mut y.iter().copied())
}

#[test]
fn real_adapters_keep_their_products_and_reach_the_least_condition_number() {
    for name in ["fixtures/minilm-spam-lora", "golden/adapters/llama-patterns", "golden/adapters/llama-embedding"] {
        let adapter = Adapter::open(&stored(name), Strictness::Closed).unwrap();
        let rebalanced = adapter.rebalanced().unwrap();
        for ((old, new), row) in adapter.modules().iter().zip(rebalanced.adapter.modules()).zip(&rebalanced.modules) {
            assert_eq!(row.skipped, None);
            // Both factors are rounded to f32 once: 2^-24 each, and the reported error is the true one.
            let error = distance(&product(new), &product(old));
            assert!(error < 3e-7, "{name} {}: {error}", row.name);
            assert!((row.product_error - error).abs() < 1e-10, "{} {error}", row.product_error);
            assert!(row.gap_after < 1e-5 && row.gap_after < 1e-6 * row.gap_before.max(1e-3), "{row:?}");
            // κ changes by the relative rounding of the smallest singular value's factor.
            assert!((row.kappa_after / row.kappa_balanced - 1.0).abs() < 1e-5, "{row:?}");
            assert!(row.kappa_before >= row.kappa_balanced * (1.0 - 1e-9), "{row:?}");
        }
    }
}

#[test]
fn only_factors_change_in_the_files_and_peft_reads_them_as_f32() {
    let folder = stored("fixtures/minilm-spam-lora");
    let adapter = Adapter::open(&folder, Strictness::Closed).unwrap();
    let files = adapter.rebalanced().unwrap().adapter.to_peft().unwrap();
    assert!(files.config == fs::read(folder.join(PeftFiles::CONFIG)).unwrap());
    let (old, new) = (fs::read(folder.join(PeftFiles::WEIGHTS)).unwrap(), files.tensors);
    let (old, new) =
        (safetensors::SafeTensors::deserialize(&old).unwrap(), safetensors::SafeTensors::deserialize(&new).unwrap());
    assert_eq!(old.names().len(), new.names().len());
    for (name, tensor) in old.iter() {
        let same = new.tensor(name).unwrap();
        assert_eq!((same.shape(), same.dtype()), (tensor.shape(), safetensors::Dtype::F32));
        assert_eq!(same.data() == tensor.data(), !name.contains("lora_"), "{name}");
    }
}

#[test]
fn rebalancing_is_undone_to_rounding() {
    let adapter = Adapter::open(&stored("golden/adapters/llama-patterns"), Strictness::Closed).unwrap();
    let rebalanced = adapter.rebalanced().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let undo = folder.path().join(UNDO_FILE);
    fs::write(&undo, &rebalanced.undo).unwrap();
    let back = rebalanced.adapter.unbalanced(&undo).unwrap();
    for (old, new) in adapter.modules().iter().zip(back.modules()) {
        for (old, new) in [(&old.a, &new.a), (&old.b, &new.b)] {
            // Two roundings to f32, enlarged by the condition of the gauge (about 10 here).
            assert!(distance(&new.to_f64(), &old.to_f64()) < 2e-6);
        }
    }
    let mut other = World::new().open().unwrap().rebalanced().unwrap().undo;
    other.truncate(40);
    fs::write(&undo, other).unwrap();
    assert!(rebalanced.adapter.unbalanced(&undo).is_err());
}

#[test]
fn pairs_that_must_not_be_projected_are_left_alone_and_say_so() {
    let mut world = World::new();
    world.values(QUERY_B).fill(0.0);
    let row = world.values("base_model.model.layers.0.v_proj.lora_A.weight")[..8].to_vec();
    world.values("base_model.model.layers.0.v_proj.lora_A.weight")[8..16].copy_from_slice(&row);
    let adapter = Adapter::open(world.write().path(), Strictness::Partial).unwrap();
    let rebalanced = adapter.rebalanced().unwrap();
    assert!(rebalanced.modules[0].skipped.is_some() && rebalanced.modules[1].skipped.is_some());
    assert!(rebalanced.modules[2].skipped.is_none());
    assert_eq!(rebalanced.adapter.modules()[..2], adapter.modules()[..2]);
    let files = rebalanced.adapter.to_peft().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&files.tensors).unwrap();
    let expected: Vec<u8> = world.tensors[QUERY_A].1.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(tensors.tensor(QUERY_A).unwrap().data(), expected);
}
