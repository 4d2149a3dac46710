//! `metastable inspect` and `metastable logits`: a tiny BERT of random weights, and the real MiniLM where it is.

use std::env;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bert;
use crate::util::{World, check_page, safetensors, skip};

fn world() -> World {
    let world = World::new();
    bert::write(world.path());
    world
}

/// The real model, or none after saying why.
pub(crate) fn minilm() -> Option<String> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let models = variable("METASTABLE_MODELS")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("metastable/models")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/metastable/models")));
    let folder = models
        .map(|models| models.join("all-MiniLM-L6-v2"))
        .filter(|folder| folder.join("model.safetensors").is_file());
    if folder.is_none() {
        skip("all-MiniLM-L6-v2 is not in the model cache; run scripts/fetch-models");
    }
    folder.map(|folder| folder.to_str().unwrap().to_owned())
}

/// The text of the golden values.
pub(crate) const T1: &str = "Transformers are models in which tokens interact through self attention, and as depth grows the \
                  representations of the tokens tend to cluster together in a few groups.";

#[test]
fn a_run_folder_of_a_checkpoint_has_every_file_and_key_of_the_contract() {
    let world = world();
    let ended = world.succeed(&["inspect", "bert", "--prompt", "The cat sits outside", "-o", "run"]);
    assert!(ended.stdout.contains("mean cosine") && ended.stdout.contains("run/report.html"), "{}", ended.stdout);
    let files = world.files("run");
    for name in ["DONE", "config.resolved.toml", "hidden.safetensors", "layers.parquet", "heads.parquet", "report.html"]
    {
        assert!(files.contains_key(name), "{name}");
    }
    let report = world.report("run");
    assert_eq!(report["tokens"]["strings"], json!(["[CLS]", "the", "cat", "sit", "##s", "outside", "[SEP]"]));
    assert_eq!(report["tokens"]["special"], json!([true, false, false, false, false, false, true]));
    let model = &report["model"];
    assert_eq!((&model["family"], &model["layers"], &model["hidden"]), (&json!("bert"), &json!(2), &json!(12)));
    for key in ["heads", "kv_heads", "vocab", "parameters", "sha256"] {
        assert!(!model[key].is_null(), "{key}");
    }
    assert_eq!(report["layers"].as_array().unwrap().len(), 3);
    assert_eq!(report["heads"].as_array().unwrap().len(), 6);
    for key in ["index", "mean_cosine", "n_clusters", "effective_rank", "anisotropy", "energy", "radius_mean"] {
        assert!(report["layers"][2][key].is_number(), "{key}");
    }
    for key in ["layer", "head", "qk_rank", "qk_stable_rank", "qk_norm", "ov_norm", "ov_eigenvalues_top"] {
        assert!(!report["heads"][5][key].is_null(), "{key}");
    }
    let hidden = world.tensors("run/hidden.safetensors");
    assert_eq!((hidden["hidden"].shape.as_slice(), hidden["hidden"].dtype.as_str()), ([3, 7, 12].as_slice(), "F32"));
    assert_eq!((hidden["ids"].shape.as_slice(), hidden["ids"].dtype.as_str()), ([7].as_slice(), "I64"));
}

#[test]
fn a_script_in_the_text_is_shown_as_text() {
    let world = world();
    let text = "<script>alert(1)</script> the cat </textarea><img src=x onerror=alert(2)>";
    let file = world.write("text.txt", text);
    world.succeed(&["inspect", "bert", "--text", file.to_str().unwrap(), "-o", "run", "--max-tokens", "20"]);
    world.succeed(&["inspect", "bert", "--prompt", text, "-o", "prompt", "--max-tokens", "20"]);
    // Also as a whole token, which WordPiece would not make of it.
    let hostile = "<script>alert(1)</script>";
    let mut tokenizer: Value = serde_json::from_slice(&world.read("bert/tokenizer.json")).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let id = vocab.remove("outside").unwrap();
    vocab.insert(hostile.into(), id.clone());
    tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": id, "content": hostile, "special": false,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    }));
    world.write("bert/tokenizer.json", tokenizer.to_string());
    world.succeed(&["inspect", "bert", "--prompt", text, "-o", "token", "--max-tokens", "20"]);
    assert_eq!(world.report("token")["tokens"]["strings"][1], hostile);
    for folder in ["run", "prompt", "token"] {
        for (name, bytes) in world.files(folder) {
            let page = String::from_utf8_lossy(&bytes).to_lowercase();
            if name.ends_with(".html") || name.ends_with(".svg") {
                assert!(!page.contains("<script>alert") && !page.contains("<img src=x"), "{folder}/{name}");
            }
        }
    }
    check_page(&world.path().join("token/report.html"));
}

#[test]
fn texts_that_cannot_be_followed_are_refused() {
    let world = world();
    for text in ["", "   "] {
        world.refuse(&["inspect", "bert", "--prompt", text, "-o", "run"], 4, "the text is empty");
    }
    world.write("empty.txt", "");
    world.refuse(&["inspect", "bert", "--text", "empty.txt", "-o", "run"], 4, "the text is empty");
    world.write("latin.txt", b"caf\xe9");
    world.refuse(
        &["inspect", "bert", "--text", "latin.txt", "-o", "run"],
        4,
        "latin.txt: expected UTF-8 text, found a byte that is not, at position 3",
    );
    world.refuse(
        &["inspect", "bert", "--text", "absent.txt", "-o", "run"],
        4,
        "absent.txt: cannot be read: no such file",
    );
    world.refuse(
        &["inspect", "bert", "--prompt", "cat", "-o", "run", "--max-tokens", "2"],
        4,
        "token limit: expected at least 3, found 2",
    );
    world.refuse(
        &["inspect", "bert", "--prompt", "cat", "-o", "run", "--layers", "2"],
        2,
        "--layers: expected layers below 2, found 2",
    );
    for radius in ["0", "nan", "-1"] {
        let flag = format!("--cluster-radius={radius}");
        world.refuse(
            &["inspect", "bert", "--prompt", "cat", "-o", "run", &flag],
            2,
            "--cluster-radius: expected a positive number",
        );
    }
}

#[test]
fn a_text_of_special_tokens_alone_has_no_content_rows() {
    let world = world();
    world.succeed(&["inspect", "bert", "--prompt", "[SEP]", "-o", "run"]);
    let report = world.report("run");
    assert_eq!(report["tokens"]["special"], json!([true, true, true]));
    assert!(report["layers"].as_array().unwrap().iter().all(|layer| layer["without_special"].is_null()));
}

#[test]
fn a_text_longer_than_the_model_is_cut_and_the_report_says_so() {
    let world = world();
    world.write("long.txt", "cat ".repeat(100));
    world.succeed(&["inspect", "bert", "--text", "long.txt", "-o", "run"]);
    let report = world.report("run");
    assert_eq!(report["tokens"]["count"], bert::POSITIONS);
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.contains("78 tokens were dropped"), "{warning}");
}

#[test]
fn one_token_of_content_is_enough() {
    let world = world();
    world.succeed(&["inspect", "bert", "--prompt", "cat", "-o", "run"]);
    assert!(world.report("run")["layers"][0]["without_special"]["mean_cosine"].is_null(), "no pair");
}

/// Refuses the model after `change`.
fn refused(change: impl FnOnce(&World), expected: &str) {
    let world = world();
    change(&world);
    world.refuse(&["inspect", "bert", "--prompt", "cat", "-o", "run"], 4, expected);
}

#[test]
fn models_that_are_broken_hostile_or_of_another_family_are_refused() {
    const WEIGHTS: &str = "bert/model.safetensors";
    let weights = |world: &World, bytes: &[u8]| drop(world.write(WEIGHTS, bytes));
    refused(|world| weights(world, &(1_u64 << 62).to_le_bytes()), "model.safetensors: expected a safetensors file");
    refused(|world| weights(world, &world.read(WEIGHTS)[..1000]), "model.safetensors: expected a safetensors file");
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    refused(
        |world| weights(world, &safetensors(overlapping, &[0; 12])),
        "model.safetensors: expected a safetensors file",
    );
    refused(|world| weights(world, &safetensors("{}", &[])), "found no such tensor");
    refused(|world| fs::remove_file(world.path().join(WEIGHTS)).unwrap(), "model.safetensors: not found");
    refused(|world| fs::remove_file(world.path().join("bert/tokenizer.json")).unwrap(), "tokenizer.json: not found");
    refused(|world| drop(world.write("bert/tokenizer.json", "{")), "tokenizer.json: expected a tokenizer");
    let config = |key: &str, value: Value| {
        let mut config = bert::config();
        config[key] = value;
        config.to_string()
    };
    refused(
        |world| drop(world.write("bert/config.json", config("model_type", json!("mamba")))),
        "config.json: model_type `mamba` is not supported, expected one of: bert",
    );
    refused(|world| drop(world.write("bert/config.json", config("hidden_size", json!(16)))), "config.json");
    refused(
        |world| drop(world.write("bert/config.json", config("intermediate_size", json!(21)))),
        "expected shape [21, 12], found [20, 12]",
    );
    refused(|world| drop(world.write("bert/config.json", "not json")), "config.json: expected a JSON object");
    let world = world();
    world.refuse(
        &["inspect", "absent", "--prompt", "cat", "-o", "run"],
        4,
        "absent: not found, expected a model folder",
    );
}

#[test]
fn a_tokenizer_of_another_model_is_refused_naming_both_numbers() {
    let words: Vec<String> = (0..=bert::vocabulary()).map(|id| format!("word{id}")).collect();
    let mut tokenizer = bert::tokenizer(&words);
    tokenizer["added_tokens"] = json!([]);
    tokenizer["post_processor"] = Value::Null;
    tokenizer["model"]["unk_token"] = json!("word0");
    let expected = format!("ids up to {0} (`word{0}`), but the model's vocab_size is {0}", bert::vocabulary());
    refused(|world| drop(world.write("bert/tokenizer.json", tokenizer.to_string())), &expected);
}

#[test]
fn logits_gives_the_last_hidden_states_and_refuses_impossible_ids() {
    let world = world();
    world.succeed(&["inspect", "bert", "--prompt", "The cat sits outside", "-o", "run"]);
    let ended = world.succeed(&["logits", "bert", "--ids", "2,4,5,6,7,8,3", "-o", "last.safetensors"]);
    assert_eq!(ended.stdout, "last.safetensors\n");
    let last = &world.tensors("last.safetensors")["hidden_last"];
    assert_eq!((last.shape.as_slice(), last.dtype.as_str()), ([7, 12].as_slice(), "F32"));
    let hidden = &world.tensors("run/hidden.safetensors")["hidden"];
    assert!(hidden.data.ends_with(&last.data), "the last level");
    let vocabulary = bert::vocabulary().to_string();
    world.refuse(&["logits", "bert", "--ids", &vocabulary, "-o", "x.safetensors"], 4, &vocabulary);
    world.refuse(
        &["logits", "bert", "--ids", &["4"; 25].join(","), "-o", "x.safetensors"],
        4,
        "expected at most 24 tokens, found 25",
    );
    world.refuse(
        &["logits", "bert", "--ids", "4", "-o", "x.npy"],
        2,
        "--output: expected a file ending in .safetensors",
    );
}

#[test]
fn rendering_a_checkpoint_run_again_gives_the_same_bytes() {
    let world = world();
    world.succeed(&["inspect", "bert", "--prompt", "The cat sits outside", "-o", "run"]);
    let before = world.files("run");
    world.succeed(&["render", "run"]);
    assert!(world.files("run") == before);
}

#[test]
fn minilm_clusters_with_depth_as_the_reference_does() {
    let Some(model) = minilm() else { return };
    let world = World::new();
    world.write("t1.txt", T1);
    for threads in ["1", "2"] {
        world.succeed(&["inspect", &model, "--text", "t1.txt", "-o", &format!("run-{threads}"), "--threads", threads]);
    }
    world.assert_same("run-1", "run-2");
    // Mean off-diagonal cosine per level by transformers 4.40.2 in F32 [checked]; printed to four decimals, of which the
    // issue asks for 2e-4.
    let expected = [0.0513, 0.1429, 0.1756, 0.2223, 0.2636, 0.3573, 0.4133];
    let report = world.report("run-1");
    for (level, expected) in expected.iter().enumerate() {
        for found in [&report["layers"][level]["mean_cosine"], &report["series"]["mean_cosine"][level]] {
            assert!((found.as_f64().unwrap() - expected).abs() < 2e-4, "level {level}: {found}");
        }
    }
    let hidden = world.tensors("run-1/hidden.safetensors");
    assert_eq!(hidden["hidden"].shape, [7, 33, 384]);
    let ids: Vec<i64> = hidden["ids"].data.as_chunks().0.iter().map(|id| i64::from_le_bytes(*id)).collect();
    assert_eq!((ids.len(), ids[0], ids[1], ids[32]), (33, 101, 19081, 102), "[CLS] transformers … [SEP]");
    let list = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    world.succeed(&["logits", &model, "--ids", &list, "-o", "last.safetensors"]);
    assert!(hidden["hidden"].data.ends_with(&world.tensors("last.safetensors")["hidden_last"].data));
    assert_eq!(report["heads"].as_array().unwrap().len(), 72);
    check_page(&world.path().join("run-1/report.html"));
}
