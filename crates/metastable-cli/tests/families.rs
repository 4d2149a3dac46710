//! `metastable inspect` and `metastable logits` on decoders, on ALBERT, on GGUF files and on names of the Hub's cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::util::{Ended, World, check_page, skip};

/// The trained tiny models of the model crate.
fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../metastable-model/tests/fixtures");
    folder.join(name).to_str().unwrap().to_owned()
}

const TEXT: &str = "Arise, fair sun, and kill the envious moon, who is already sick and pale with grief.";

fn inspect(world: &World, model: &str, folder: &str) -> Value {
    world.succeed(&["inspect", model, "--prompt", TEXT, "-o", folder]);
    world.report(folder)
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn decoders_are_shown_before_and_after_their_final_norm_with_the_first_token_apart() {
    for (model, family, kv_heads) in
        [("tiny-gpt2", "gpt2", 4), ("tiny-llama", "llama", 2), ("tiny-llama.gguf", "llama", 2)]
    {
        let world = World::new();
        let report = inspect(&world, &fixture(model), "run");
        let summary = &report["model"];
        assert_eq!((&summary["family"], &summary["kv_heads"]), (&json!(family), &json!(kv_heads)), "{model}");
        assert_eq!((&summary["attention"], &summary["vocab"]), (&json!("causal"), &json!(512)), "{model}");
        assert_eq!(summary["sha256"].as_str().unwrap().len(), 64, "{model}");
        let layers = report["layers"].as_array().unwrap();
        let count = report["tokens"]["count"].as_u64().unwrap();
        assert_eq!(layers.len(), 5, "{model}");
        for layer in layers {
            assert!(layer["mean_cosine"].is_number(), "{model}");
            assert_eq!(layer["without_first"]["count"], json!(count - 1), "{model}");
            assert_eq!(layer["without_special"]["count"], json!(count), "{model}: no special token in the text");
        }
        let before = &report["before_final_norm"];
        assert_eq!((&before["all"]["count"], &before["without_first"]["count"]), (&json!(count), &json!(count - 1)));
        let change = before["all"]["mean_cosine"].as_f64().unwrap() - layers[4]["mean_cosine"].as_f64().unwrap();
        assert!(change.abs() > 1e-4, "{model}: the norm changes the cosines");
        let hidden = world.tensors("run/hidden.safetensors");
        let n = count as usize;
        assert_eq!(hidden["hidden"].shape, [5, n, 64], "{model}");
        assert_eq!(hidden["hidden_before_norm"].shape, [n, 64], "{model}");
        assert!(!hidden["hidden"].data.ends_with(&hidden["hidden_before_norm"].data), "{model}");
        let heads = report["heads"].as_array().unwrap();
        assert_eq!((heads.len(), &heads[3]["kv_head"]), (16, &json!(3 / (4 / kv_heads))), "{model}");
        check_page(&world.path().join("run/report.html"));
    }
}

#[test]
fn albert_is_an_encoder_with_one_block_for_all_layers() {
    let world = World::new();
    let report = inspect(&world, &fixture("tiny-albert"), "run");
    assert_eq!((&report["model"]["family"], &report["model"]["attention"]), (&json!("albert"), &json!("full")));
    assert_eq!(report["layers"].as_array().unwrap().len(), 7);
    assert!(report["before_final_norm"].is_null() && report["layers"][3]["without_first"].is_null());
    assert_eq!(report["heads"][1]["qk_norm"], report["heads"][5]["qk_norm"], "the same block");
    let definitions = report["config"]["definitions"].to_string();
    assert!(definitions.contains("1 distinct blocks are shared by 6 layers"), "{definitions}");
    world.succeed(&["logits", &fixture("tiny-albert"), "--ids", "5,6,7", "-o", "x.safetensors"]);
    assert_eq!(world.tensors("x.safetensors")["hidden_last"].shape, [3, 64]);
}

#[test]
fn logits_of_decoders_have_a_score_for_every_token() {
    let world = World::new();
    let mut ids = String::new();
    for model in ["tiny-gpt2", "tiny-llama", "tiny-llama.gguf"] {
        inspect(&world, &fixture(model), model);
        let hidden = world.tensors(&format!("{model}/hidden.safetensors"));
        let numbers: Vec<i64> = hidden["ids"].data.as_chunks().0.iter().map(|id| i64::from_le_bytes(*id)).collect();
        ids = numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let file = format!("{model}.safetensors");
        world.succeed(&["logits", &fixture(model), "--ids", &ids, "-o", &file]);
        let logits = &world.tensors(&file)["logits"];
        assert_eq!((logits.shape.as_slice(), logits.dtype.as_str()), ([numbers.len(), 512].as_slice(), "F32"));
    }
    // The GGUF file holds the same model in four to sixteen bits: its scores are near, and not the same.
    let (exact, near) = (world.tensors("tiny-llama.safetensors"), world.tensors("tiny-llama.gguf.safetensors"));
    let (exact, near) = (floats(&exact["logits"].data), floats(&near["logits"].data));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    let error = square(&mut exact.iter().zip(&near).map(|(a, b)| a - b)) / square(&mut exact.iter().copied());
    assert!(error > 1e-4 && error < 0.2, "{error} for {ids}");
}

#[test]
fn a_hub_name_leads_to_its_snapshot_in_the_cache() {
    let world = World::new();
    let model = world.path().join("hub/models--someone--tiny-gpt2");
    let snapshot = model.join("snapshots/0123");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "0123").unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(Path::new(&fixture("tiny-gpt2")).join(file), snapshot.join(file)).unwrap();
    }
    let cache = world.path().join("hub");
    let run = |arguments: &[&str]| Ended::from(world.command(arguments).env("HF_HUB_CACHE", &cache).output().unwrap());
    let ended = run(&["logits", "someone/tiny-gpt2", "--ids", "5,6,7", "-o", "x.safetensors"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = run(&["logits", "someone/else", "--ids", "5", "-o", "y.safetensors"]);
    assert_eq!(ended.code, Some(4), "{ended:?}");
    let place = cache.join("models--someone--else/refs/main");
    assert!(ended.stderr.contains(place.to_str().unwrap()), "{ended:?}");
    assert!(ended.stderr.contains("hint: nothing was downloaded"), "{ended:?}");
}

#[test]
fn broken_gguf_files_are_refused_with_one_line() {
    let world = World::new();
    let whole = fs::read(fixture("tiny-llama.gguf")).unwrap();
    world.write("half.gguf", &whole[..whole.len() / 2]);
    world.refuse(
        &["inspect", "half.gguf", "--prompt", "x", "-o", "run"],
        4,
        "half.gguf: expected a GGUF file, found tensor",
    );
    world.write("text.gguf", "not a model");
    let expected = "text.gguf: expected a model folder or a GGUF file, found a file without GGUF's magic number";
    world.refuse(&["inspect", "text.gguf", "--prompt", "x", "-o", "run"], 4, expected);
    let mut counts = whole.clone();
    counts[8..16].fill(0xff);
    world.write("counts.gguf", &counts);
    world.refuse(&["logits", "counts.gguf", "--ids", "1", "-o", "x.safetensors"], 4, "tensors, of which at most");
}

#[test]
fn smollm2_clusters_as_the_reference_does() {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let models = variable("METASTABLE_MODELS")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("metastable/models")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/metastable/models")));
    let file = models
        .map(|models| models.join("SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf"))
        .filter(|file| file.is_file());
    let Some(file) = file else {
        return skip("SmolLM2-135M-Instruct is not in the model cache; run scripts/fetch-models");
    };
    let world = World::new();
    let text = "The quick brown fox jumps over the lazy dog. It was the best of times, it was the worst of times, \
                it was the age of wisdom, it was the age of foolishness.";
    // Long enough to show its progress on a busy machine.
    let ended = world.run(&["inspect", file.to_str().unwrap(), "--prompt", text, "--layers", "0,29", "-o", "run"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = world.report("run");
    assert_eq!(report["tokens"]["count"], 39);
    // Golden values of transformers (F32) on the same weights [checked]: embeddings, two layers, after the final norm.
    for (level, expected) in [(0, 0.1371), (1, 0.3088), (2, 0.5760), (30, 0.4709)] {
        let found = report["layers"][level]["mean_cosine"].as_f64().unwrap();
        assert!((found - expected).abs() < 2e-4, "level {level}: {found}");
    }
    assert_eq!((&report["model"]["parameters"], &report["model"]["kv_heads"]), (&json!(134_515_008), &json!(3)));
    assert_eq!(report["heads"].as_array().unwrap().len(), 18);
}
