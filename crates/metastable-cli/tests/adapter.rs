//! `metastable adapter`: contract keys, exit codes, nothing half-written.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::util::{World, repository};

fn fixture(name: &str) -> String {
    repository(&format!("crates/metastable-model/tests/{name}"))
}

fn spam() -> String {
    fixture("fixtures/minilm-spam-lora")
}

fn json(world: &World, arguments: &[&str]) -> Value {
    serde_json::from_str(&world.succeed(arguments).stdout).unwrap()
}

/// A copy of the spam adapter that may be broken.
fn copy(world: &World, name: &str) {
    fs::create_dir(world.path().join(name)).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(Path::new(&spam()).join(file), world.path().join(name).join(file)).unwrap();
    }
}

/// Sets all bytes of a tensor to 0.
fn zero(world: &World, file: &str, tensor: &str) {
    let path = world.path().join(file);
    let mut bytes = fs::read(&path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let offset = |i: usize| usize::try_from(header[tensor]["data_offsets"][i].as_u64().unwrap()).unwrap();
    bytes[8 + length + offset(0)..8 + length + offset(1)].fill(0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn intruders_are_counted_against_a_base_model_of_any_layout() {
    let world = World::new();
    // GPT-2's query, key and value share one tensor; DoRA rescales rows; a shared block of ALBERT is one module.
    for (model, adapter) in [
        ("tiny-gpt2", "gpt2-conv1d"),
        ("tiny-llama", "llama-patterns"),
        ("tiny-llama", "llama-dora"),
        ("tiny-albert", "albert-shared"),
    ] {
        let (model, adapter) = (fixture(&format!("fixtures/{model}")), fixture(&format!("golden/adapters/{adapter}")));
        let report = json(&world, &["adapter", "info", &adapter, "--base", &model, "--json"]);
        for module in report["modules"].as_array().unwrap() {
            let found = &module["intruders"];
            let cosines: Vec<f64> =
                found["largest_cosines"].as_array().unwrap().iter().map(|c| c.as_f64().unwrap()).collect();
            assert_eq!(found["judged"], 10, "{module}");
            assert!(cosines.iter().all(|cosine| (0.0..1.0 + 1e-12).contains(cosine)), "{module}");
            let below = cosines.iter().filter(|cosine| **cosine < 0.5).count();
            assert_eq!(found["count"], below, "{module}");
        }
        let sentence = report["summary"].as_array().unwrap().last().unwrap().as_str().unwrap();
        assert!(sentence.contains("intruders among"), "{sentence}");
    }
    let alone = json(&world, &["adapter", "info", &spam(), "--json"]);
    assert!(alone["modules"][0]["intruders"].is_null());
    let (other, spam) = (fixture("fixtures/tiny-gpt2"), spam());
    let report = json(&world, &["adapter", "info", &spam, "--base", &other, "--json"]);
    assert!(report["modules"][0]["intruders"].is_null(), "no map of that model");
    world.refuse(&["adapter", "info", &spam, "--base", "nowhere"], 4, "nowhere");
}

#[test]
fn info_has_every_key_of_the_contract() {
    let world = World::new();
    let report = json(&world, &["adapter", "info", &spam(), "--json"]);
    let modules = report["modules"].as_array().unwrap();
    assert_eq!(modules.len(), 12);
    for key in [
        "name",
        "r",
        "alpha",
        "scale",
        "shape",
        "norm",
        "stable_rank",
        "effective_rank",
        "singular_values",
        "gap",
        "kappa",
        "kappa_balanced",
        "status",
    ] {
        assert!(!modules[0][key].is_null(), "{key}");
    }
    assert_eq!(modules[0]["name"], "bert.encoder.layer.0.attention.self.query");
    assert_eq!((modules[0]["r"].as_u64(), modules[0]["scale"].as_f64()), (Some(8), Some(2.0)));
    let values: Vec<f64> =
        modules[0]["singular_values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let (norm, first) = (modules[0]["norm"].as_f64().unwrap(), values[0]);
    let squares: f64 = values.iter().map(|value| value * value).sum();
    assert!((norm * norm / squares - 1.0).abs() < 1e-12);
    assert!((modules[0]["stable_rank"].as_f64().unwrap() - squares / (first * first)).abs() < 1e-12);
    let table = world.succeed(&["adapter", "info", &spam()]).stdout;
    assert!(table.contains("kappa_balanced") && table.contains("12 modules, 12 of full rank."), "{table}");
    let csv = world.succeed(&["adapter", "info", &spam(), "--format", "csv"]).stdout;
    assert_eq!(csv.lines().count(), 13);
}

#[test]
fn check_ends_with_three_where_an_adapter_must_not_be_used_and_four_where_nothing_can_be_read() {
    let world = World::new();
    assert_eq!(json(&world, &["adapter", "check", &spam(), "--json"])["sound"], true);
    copy(&world, "broken");
    zero(
        &world,
        "broken/adapter_model.safetensors",
        "base_model.model.bert.encoder.layer.3.attention.self.value.lora_B.weight",
    );
    let ended = world.run(&["adapter", "check", "broken"]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stdout.contains("untrained") && ended.stderr.contains("findings of severity error"), "{ended:?}");
    // Looking is allowed, using is not.
    let report = json(&world, &["adapter", "info", "broken", "--json"]);
    assert_eq!(report["modules"][7]["status"], "untrained");
    world.refuse(&["adapter", "rebalance", "broken", "out"], 4, "B is 0: it was never trained");
    world.succeed(&["adapter", "rebalance", "broken", "out", "--allow-partial"]);
    let mut bytes = world.read("broken/adapter_model.safetensors");
    bytes.truncate(1000);
    world.write("broken/adapter_model.safetensors", bytes);
    world.refuse(&["adapter", "check", "broken"], 4, "expected a safetensors file");
    world.refuse(&["adapter", "info", "nowhere"], 4, "nowhere: not found, expected an adapter");
}

#[test]
fn rebalancing_keeps_the_update_and_is_undone() {
    let world = World::new();
    let report = json(&world, &["adapter", "rebalance", &spam(), "balanced", "--json"]);
    assert!(report["max_product_error"].as_f64().unwrap() <= 1e-6);
    assert!(report["max_gap"].as_f64().unwrap() <= 1e-5);
    assert_eq!(world.names(), ["balanced"]);
    let expected = ["adapter_config.json", "adapter_model.safetensors", "rebalance.safetensors"];
    assert!(world.files("balanced").keys().eq(expected.iter()));
    let after = json(&world, &["adapter", "info", "balanced", "--json"]);
    let before = json(&world, &["adapter", "info", &spam(), "--json"]);
    for (after, before) in after["modules"].as_array().unwrap().iter().zip(before["modules"].as_array().unwrap()) {
        let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
        assert!((number(after, "kappa") / number(after, "kappa_balanced") - 1.0).abs() < 1e-5);
        assert!((number(after, "norm") / number(before, "norm") - 1.0).abs() < 1e-7);
        let sigma = |i: usize| after["singular_values"][i].as_f64().unwrap();
        assert!((number(after, "kappa_balanced") / (2.0 * sigma(0) / sigma(7)) - 1.0).abs() < 1e-12);
    }
    let same = json(&world, &["adapter", "compare", &spam(), "balanced", "--json"]);
    assert!((same["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    world.succeed(&["adapter", "rebalance", "balanced", "back", "--undo"]);
    let back = json(&world, &["adapter", "info", "back", "--json"]);
    for (back, before) in back["modules"].as_array().unwrap().iter().zip(before["modules"].as_array().unwrap()) {
        // κ of the original comes back to rounding: it squares the smallest singular value of a factor.
        assert!((back["kappa"].as_f64().unwrap() / before["kappa"].as_f64().unwrap() - 1.0).abs() < 1e-3);
    }
    world.refuse(&["adapter", "rebalance", &spam(), "balanced"], 2, "expected an empty folder");
}

#[test]
fn comparing_tells_one_adapter_from_another() {
    let world = World::new();
    let report = json(&world, &["adapter", "compare", &spam(), &spam(), "--json"]);
    let first = &report["modules"][0];
    assert!((first["output_overlap"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    assert!((first["input_overlap"].as_f64().unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(first["k"], 8);
    assert!(first["distance"].as_f64().unwrap() < 1e-7);
    let llama = fixture("golden/adapters/llama-dora");
    let other = fixture("golden/adapters/llama-patterns");
    let report = json(&world, &["adapter", "compare", &llama, &other, "--json"]);
    // Independent random factors: overlaps near chance, k/d.
    let (overlap, chance) = (&report["modules"][0]["output_overlap"], &report["modules"][0]["output_chance"]);
    assert!((overlap.as_f64().unwrap() - chance.as_f64().unwrap()).abs() < 0.15, "{overlap} {chance}");
    assert!(report["only_second"].as_array().unwrap().len() > 10);
    world.refuse(&["adapter", "compare", &spam(), &llama], 2, "expected a module of both");
}

#[test]
fn a_merge_is_verified_and_written_whole_or_not_at_all() {
    let world = World::new();
    let (base, adapter) = (fixture("fixtures/tiny-gpt2"), fixture("golden/adapters/gpt2-conv1d"));
    let report = json(&world, &["adapter", "merge", &base, &adapter, "merged", "--json"]);
    assert!(report["error"].as_f64().unwrap() <= 1e-5 && report["change"].as_f64().unwrap() > 1e-2, "{report}");
    assert_eq!(report["compared"], "logits");
    let names: Vec<String> = world.files("merged").into_keys().collect();
    assert!(names.contains(&"config.json".into()) && names.contains(&"tokenizer.json".into()), "{names:?}");
    world.succeed(&["logits", "merged", "--ids", "1,2,3", "-o", "x.safetensors"]);
    world.refuse(&["adapter", "merge", &base, &spam(), "other"], 4, "the adapter does not fit the model");
    world.refuse(&["adapter", "merge", &base, &adapter, "merged"], 2, "expected an empty folder");
}

/// A folder with the weights of tiny-gpt2 stored as `dtype` in two shards.
fn sharded(world: &World, folder: &str, dtype: &str, encode: fn(f32) -> Vec<u8>) {
    let source = fixture("fixtures/tiny-gpt2");
    let bytes = fs::read(Path::new(&source).join("model.safetensors")).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let path = world.path().join(folder);
    fs::create_dir_all(&path).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(Path::new(&source).join(file), path.join(file)).unwrap();
    }
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (mut shards, mut map) = ([Vec::new(), Vec::new()], serde_json::Map::new());
    let mut headers = [serde_json::Map::new(), serde_json::Map::new()];
    for (i, (name, entry)) in header.iter().filter(|(name, _)| *name != "__metadata__").enumerate() {
        let at = |k: usize| 8 + length + usize::try_from(entry["data_offsets"][k].as_u64().unwrap()).unwrap();
        // Three and three, so that weights and constants come apart and both shards have some of each.
        let shard = i / 3 % 2;
        let begin = shards[shard].len();
        let numbers = bytes[at(0)..at(1)].as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number));
        shards[shard].extend(numbers.flat_map(encode));
        let offsets = [begin, shards[shard].len()];
        let entry = serde_json::json!({"dtype": dtype, "shape": entry["shape"], "data_offsets": offsets});
        headers[shard].insert(name.clone(), entry);
        map.insert(name.clone(), names[shard].into());
    }
    for (i, name) in names.iter().enumerate() {
        let mut header = Value::Object(headers[i].clone()).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        fs::write(path.join(name), crate::util::safetensors(&header, &shards[i])).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_of_every_type_are_merged_within_the_rounding_of_their_type() {
    let world = World::new();
    let adapter = fixture("golden/adapters/gpt2-conv1d");
    let half: fn(f32) -> Vec<u8> = |x: f32| half::f16::from_f32(x).to_le_bytes().to_vec();
    let single: fn(f32) -> Vec<u8> = |x: f32| x.to_le_bytes().to_vec();
    let brain: fn(f32) -> Vec<u8> = |x: f32| half::bf16::from_f32(x).to_le_bytes().to_vec();
    // Logits of a model whose merged weights are rounded to 11 and 8 bits: a few units in the last place.
    let cases = [("F32", single, 1e-5), ("F16", half, 4e-3), ("BF16", brain, 3e-2)];
    let mut errors = Vec::new();
    for (dtype, encode, bound) in cases {
        sharded(&world, dtype, dtype, encode);
        let output = format!("merged-{dtype}");
        let report = json(&world, &["adapter", "merge", dtype, &adapter, &output, "--json"]);
        assert_eq!(report["dtypes"], serde_json::json!([dtype]));
        let error = report["error"].as_f64().unwrap();
        assert!(error < bound && error < report["tolerance"].as_f64().unwrap(), "{dtype}: {error}");
        errors.push(error);
        let names: Vec<String> = world.files(&output).into_keys().collect();
        assert!(names.contains(&"model.safetensors.index.json".into()) && names.len() == 5, "{names:?}");
        // Tensors that no module touches keep their bytes and their types.
        let file = "model-00001-of-00002.safetensors";
        let (before, after) = (world.tensors(&format!("{dtype}/{file}")), world.tensors(&format!("{output}/{file}")));
        assert!(before.keys().eq(after.keys()));
        let same = before.iter().filter(|(name, tensor)| tensor.data == after[*name].data).count();
        assert!(0 < same && same < before.len() && before.iter().all(|(name, t)| t.dtype == after[name].dtype));
    }
    // Coarser types round more: the errors are roundings, not mistakes.
    assert!(errors[0] < errors[1] && errors[1] < errors[2], "{errors:?}");
}

#[test]
fn a_gguf_base_becomes_a_folder_with_the_adapter_merged_in() {
    let world = World::new();
    let (base, adapter) = (fixture("fixtures/tiny-llama.gguf"), fixture("golden/adapters/llama-dora"));
    let report = json(&world, &["adapter", "merge", &base, &adapter, "merged", "--json"]);
    assert!(report["error"].as_f64().unwrap() <= 1e-5 && report["change"].as_f64().unwrap() > 1e-2, "{report}");
    assert_eq!((&report["dtypes"], &report["compared"]), (&serde_json::json!(["F32"]), &Value::from("logits")));
    assert!(report["notes"].to_string().contains("F32 numbers they encode"), "{report}");
    assert_eq!(world.names(), ["merged"], "nothing else remains");
    let files: Vec<String> = world.files("merged").into_keys().collect();
    assert_eq!(files, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    // The words of the file, and the twin of the base are those of the merged folder.
    world.succeed(&["inspect", "merged", "--prompt", "to be", "-o", "alone"]);
    world.succeed(&["inspect", &base, "--adapter", &adapter, "--prompt", "to be", "-o", "twin"]);
    let (alone, twin) = (world.report("alone"), world.report("twin"));
    assert_eq!(alone["tokens"], twin["tokens"]);
    let last = |report: &Value| report["adapter"]["layers"].as_array().unwrap().last().unwrap().clone();
    let energies = alone["series"]["energy"].as_array().unwrap();
    let (found, expected) = (energies.last().unwrap().as_f64().unwrap(), last(&twin)["energy"].as_f64().unwrap());
    // Weights rounded to f32 once, in either order.
    assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
    world.refuse(&["adapter", "merge", &base, &adapter, "merged"], 2, "expected an empty folder");
    world.refuse(&["adapter", "merge", &base, &spam(), "other"], 4, "the adapter does not fit the model");
}

#[test]
fn an_mlx_adapter_is_converted() {
    let world = World::new();
    fs::create_dir(world.path().join("mlx")).unwrap();
    world.write("mlx/adapter_config.json", r#"{"fine_tune_type":"lora","lora_parameters":{"rank":1,"scale":3.0}}"#);
    let header = r#"{"model.layers.0.self_attn.q_proj.lora_a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"model.layers.0.self_attn.q_proj.lora_b":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}"#;
    let data: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    world.write("mlx/adapters.safetensors", crate::util::safetensors(header, &data));
    world.succeed(&["adapter", "convert", "mlx", "peft"]);
    let report = json(&world, &["adapter", "info", "peft", "--json"]);
    assert_eq!((&report["layout"], report["modules"][0]["scale"].as_f64()), (&Value::from("peft"), Some(3.0)));
    // ‖3·b aᵀ‖ = 3·|a|·|b| = 3·√5·5.
    assert!((report["modules"][0]["norm"].as_f64().unwrap() / (15.0 * 5.0_f64.sqrt()) - 1.0).abs() < 1e-12);
}
