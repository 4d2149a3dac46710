//! `metastable inspect` without a text, over distances, and with a block exported as a flow.

use serde_json::{Value, json};

use crate::inspect::{T1, minilm};
use crate::util::{World, check_page, repository};

fn fixture(name: &str) -> String {
    repository(&format!("crates/metastable-model/tests/{name}"))
}

const TEXT: &str = "First Citizen: Before we proceed any further, hear me speak.";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn weights_alone_give_the_heads_of_a_run_with_a_text() {
    let world = World::new();
    let model = fixture("fixtures/tiny-llama");
    let ended = world.succeed(&["inspect", &model, "--distances", "0,1,8,64", "-o", "alone"]);
    assert!(ended.stdout.contains("regime") && ended.stdout.contains("no text was followed"), "{}", ended.stdout);
    world.succeed(&["inspect", &model, "--prompt", TEXT, "--distances", "0,1,8,64", "-o", "run"]);
    let (alone, run) = (world.report("alone"), world.report("run"));
    // All but how steep a head is at the text.
    let of_weights = |report: &Value| -> Vec<Value> {
        let mut heads = report["heads"].as_array().unwrap().clone();
        heads.iter_mut().for_each(|head| drop(head.as_object_mut().unwrap().remove("lipschitz")));
        heads
    };
    assert_eq!(of_weights(&alone), of_weights(&run));
    assert_eq!((&alone["tokens"]["count"], &alone["job"]), (&json!(0), &json!("inspect")));
    assert!(alone["layers"].is_null() && world.files("alone").contains_key("DONE"));
    let heads = alone["heads"].as_array().unwrap();
    assert_eq!(heads.len(), 16);
    for head in heads {
        for key in ["qk_effective_rank", "qk_frobenius", "effective_beta", "ov_stable_rank", "ov_gap"] {
            assert!(number(&head[key]) >= 0.0, "{key}");
        }
        let shares = number(&head["qk_symmetric_share"]) + number(&head["qk_antisymmetric_share"]);
        assert!((shares - 1.0).abs() < 1e-12);
        let curve = head["qk_by_distance"].as_array().unwrap();
        assert_eq!(curve.len(), 4);
        // Nothing turns at the same place.
        assert!((number(&curve[0]["norm"]) - number(&head["qk_norm"])).abs() < 1e-9 * number(&head["qk_norm"]));
        assert!(
            ["hyperplanes", "turned_away", "rotating", "reversing", "undecided"]
                .contains(&head["regime"].as_str().unwrap())
        );
        // The leading modulus is the largest of them all, to the six digits of the list.
        let modulus = |z: &Value| number(&z[0]).hypot(number(&z[1]));
        let all = head["ov_eigenvalues"].as_array().unwrap();
        assert_eq!(all.len(), 16);
        let largest = all.iter().map(modulus).fold(0.0, f64::max);
        assert!((largest - modulus(&head["ov_eigenvalues_top"][0])).abs() < 1e-5 * largest);
    }
    let arrays = world.tensors("alone/heads.safetensors");
    assert_eq!(arrays["ov_eigenvalues"].shape, [16, 16, 2]);
    assert_eq!(arrays["qk_singular_values"].shape, [16, 16]);
    let page = world.path().join("alone/report.html");
    check_page(&page);
    let before = world.files("alone");
    world.succeed(&["render", "alone"]);
    assert!(world.files("alone") == before);
}

#[test]
fn what_needs_a_text_or_rotary_positions_is_refused_without() {
    let world = World::new();
    let (llama, gpt2) = (fixture("fixtures/tiny-llama"), fixture("fixtures/tiny-gpt2"));
    for flags in [["--adapter", "x"], ["--export-head", "0.0"]] {
        let ended = world.run(&[&["inspect", &llama, "-o", "run"][..], &flags].concat());
        assert!(ended.code == Some(2) && ended.stderr.contains("--prompt"), "{ended:?}");
    }
    world.refuse(
        &["inspect", &gpt2, "--distances", "0,1", "-o", "run"],
        4,
        "distances: expected a model with rotary positions, found gpt2",
    );
    world.refuse(&["inspect", &llama, "--distances", "128", "-o", "run"], 4, "expected numbers below 128 positions");
    let chosen = |head| ["inspect", &gpt2, "--prompt", TEXT, "-o", "run", "--export-head", head];
    world.refuse(&chosen("4.0"), 2, "--export-head: expected a layer below 4, found 4");
    world.refuse(&chosen("0.9"), 2, "--export-head: expected a head below 4, found 9");
    world.refuse(&chosen("first"), 2, "--export-head: expected LAYER.HEAD, or LAYER for all its heads, found `first`");
    assert!(!world.path().join("run").exists());
}

/// Exports, runs the exported configuration with `simulate`, and compares that with the overlay of the report.
fn exported(world: &World, model: &str, head: &str, text: &str) -> Value {
    // On a busy machine a long run tells of its progress.
    let quiet = ["--no-progress", "-o", "run"];
    let ended = world.succeed(&[&["inspect", model, "--prompt", text, "--export-head", head][..], &quiet].concat());
    assert!(ended.stdout.contains("run/idealised/head.toml"), "{}", ended.stdout);
    world.succeed(&["simulate", "run/idealised/head.toml", "--no-progress", "-o", "flow"]);
    let (inside, outside) =
        (world.tensors("run/idealised/trajectory.safetensors"), world.tensors("flow/trajectory.safetensors"));
    assert_eq!(inside["tokens"].shape, outside["tokens"].shape);
    assert!(inside["tokens"].data == outside["tokens"].data, "the same run");
    let report = world.report("run");
    let (levels, flow) = (report["idealised"]["levels"].as_array().unwrap(), world.report("flow"));
    assert_eq!(flow["stop"]["reason"], report["idealised"]["stop"]["reason"]);
    for (level, cosine) in levels.iter().zip(flow["series"]["mean_cosine"].as_array().unwrap()) {
        assert!((number(&level["mean_cosine_flow"]) - number(cosine)).abs() < 1e-12, "{level} {cosine}");
    }
    // The flow starts at the real tokens.
    assert!(number(&levels[0]["rms_distance"]) < 1e-12 && (number(&levels[0]["cosine"]) - 1.0).abs() < 1e-12);
    check_page(&world.path().join("run/report.html"));
    report
}

#[test]
fn a_shared_block_becomes_a_flow_that_is_laid_over_its_layers() {
    let world = World::new();
    let report = exported(&world, &fixture("fixtures/tiny-albert"), "0", TEXT);
    let flow = &report["idealised"];
    let levels = flow["levels"].as_array().unwrap();
    assert_eq!((levels.len(), &flow["time_per_layer"]), (7, &json!(1.0)));
    for (level, layer) in levels.iter().zip(report["layers"].as_array().unwrap()) {
        // Cosines do not see the lengths that the placement takes away.
        assert!((number(&level["mean_cosine"]) - number(&layer["mean_cosine"])).abs() < 1e-9);
        assert_eq!(number(&level["n_clusters"]), number(&layer["n_clusters"]));
    }
    assert!(!flow["left_out"].to_string().contains("later blocks"), "one block is all there is: {flow}");
    assert!(number(&levels[6]["rms_distance"]) > 1e-3, "the feed-forward layer does something");
}

#[test]
fn an_adapter_makes_the_flow_a_twin() {
    let world = World::new();
    let (model, adapter) = (fixture("fixtures/tiny-llama"), fixture("golden/adapters/llama-patterns"));
    let chosen = ["--prompt", TEXT, "--export-head", "0.1", "-o", "run"];
    world.succeed(&[&["inspect", &model, "--adapter", &adapter][..], &chosen].concat());
    let report = world.report("run");
    let flow = &report["idealised"];
    assert!(flow["left_out"].to_string().contains("RoPE"), "{flow}");
    assert!(flow["levels"][4]["mean_cosine_flow_lora"].is_number(), "{flow}");
    assert!(world.tensors("run/idealised/trajectory.safetensors").contains_key("tokens_lora"));
    // The twin's field is that of the merged model's head at the same tokens: block 0, whose input is not adapted.
    world.succeed(&["field", "run/idealised/head.toml", "-o", "field.safetensors"]);
    world.succeed(&["adapter", "merge", &model, &adapter, "merged"]);
    world.succeed(&["inspect", "merged", "--prompt", TEXT, "--export-head", "0.1", "-o", "other"]);
    world.succeed(&["field", "other/idealised/head.toml", "-o", "other.safetensors"]);
    let tensors = world.tensors("field.safetensors");
    let (base, twin) = (tensors["field"].values(), tensors["field_lora"].values());
    let merged = world.tensors("other.safetensors")["field"].values();
    let distance = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
    // Merged weights are rounded once more to f32.
    assert!(distance(&twin, &merged) < 1e-6 * distance(&base, &merged), "{}", distance(&twin, &merged));
    // The modules of the adapter are part of the report.
    let rows = report["adapter"]["module_rows"].as_array().unwrap();
    assert_eq!(rows.len() as u64, report["adapter"]["modules"].as_u64().unwrap());
    assert!(rows.iter().all(|row| row["gap"].is_number() && row["status"].is_string()));
}

#[test]
fn a_head_of_minilm_runs_as_a_flow_beside_the_layers() {
    let Some(model) = minilm() else { return };
    let world = World::new();
    let report = exported(&world, &model, "2.0", T1);
    let flow = &report["idealised"];
    assert_eq!((&flow["layer"], &flow["head"]), (&json!(2), &json!(0)));
    let levels = flow["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 5, "levels 2 to 6");
    // Post-norm BERT keeps directions: cosines of the real tokens are those of the layer table.
    for level in levels {
        let index = level["index"].as_u64().unwrap() as usize;
        let table = number(&report["layers"][index]["mean_cosine"]);
        assert!((number(&level["mean_cosine"]) - table).abs() < 1e-9);
    }
    for what in ["the feed-forward layer", "the other heads of the block", "the later blocks", "the biases of queries"]
    {
        assert!(flow["left_out"].to_string().contains(what), "{what}: {flow}");
    }
}

#[test]
fn every_level_has_a_surrogate_and_a_mean_field_prediction() {
    let world = World::new();
    for model in ["tiny-gpt2", "tiny-llama", "tiny-albert"] {
        world.succeed(&["inspect", &fixture(&format!("fixtures/{model}")), "--prompt", TEXT, "-o", model]);
        let report = world.report(model);
        let layers = report["layers"].as_array().unwrap();
        for (index, layer) in layers.iter().enumerate() {
            let row = &layer["gaussian_surrogate"];
            assert!(number(&row["spread"]) > 0.0, "{model}");
            assert_eq!(row["one_block"].is_number(), index > 0, "{model}: {row}");
            if index > 0 {
                let ratio = number(&row["one_block"]) / number(&row["moved"]);
                assert!((ratio - number(&row["one_block_relative"])).abs() < 1e-12);
                assert!(number(&row["one_block_covariance"]) <= number(&row["one_block"]));
            }
        }
        assert_eq!(layers[0]["gaussian_surrogate"]["composed"], json!(0.0), "{model}: nothing to predict");
        let field = &report["mean_field"];
        let levels = field["levels"].as_array().unwrap();
        assert_eq!((levels.len(), number(&levels[0]["residual"])), (layers.len(), 0.0), "{model}");
        let squares: f64 = levels.iter().map(|level| number(&level["residual"]).powi(2)).sum();
        let rms = (squares / levels.len() as f64).sqrt();
        assert!((rms - number(&field["rms_residual"])).abs() < 1e-12 && number(&field["time_per_layer"]) >= 0.0);
        let is_causal = model != "tiny-albert";
        assert_eq!(layers[2]["first_token"].is_object(), is_causal, "{model}");
        if is_causal {
            let attention = number(&layers[2]["first_token"]["attention"]);
            assert!(attention > 0.0 && attention < 1.0 && layers[0]["first_token"]["attention"].is_null());
            for key in ["energy", "diameter", "min_cosine", "max_cosine", "max_mass", "close_pairs"] {
                assert!(layers[2]["without_first"][key].is_number(), "{model} {key}");
            }
        }
    }
}

#[test]
fn a_text_of_more_tokens_than_dimensions_has_a_surrogate_too() {
    let world = World::new();
    let source = fixture("fixtures/tiny-llama");
    std::fs::create_dir(world.path().join("long")).unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(format!("{source}/{file}"), world.path().join("long").join(file)).unwrap();
    }
    // Rotations go on for as long as one likes.
    let config = std::fs::read_to_string(format!("{source}/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = json!(1024);
    world.write("long/config.json", config.to_string());
    let lines = (0..60).map(|i| format!("Speak {} to me, and {} again, my lord.\n", i % 7, i % 5));
    world.write("text.txt", lines.collect::<String>());
    world.succeed(&["inspect", "long", "--text", "text.txt", "--max-tokens", "600", "--layers", "0", "-o", "run"]);
    let report = world.report("run");
    assert_eq!(report["tokens"]["count"], 600);
    for layer in &report["layers"].as_array().unwrap()[1..] {
        let row = &layer["gaussian_surrogate"];
        let values = ["one_block", "one_block_covariance", "composed", "moved", "spread"].map(|key| number(&row[key]));
        assert!(values.iter().all(|value| value.is_finite() && *value > 0.0), "{row}");
        // A block moves a cloud of tokens by less than a few of its radii, and so does its surrogate.
        assert!(values[0] < 3.0 * values[4], "{row}");
    }
    let definitions = report["config"]["definitions"].as_array().unwrap();
    let surrogate =
        definitions.iter().map(|text| text.as_str().unwrap()).find(|text| text.starts_with("gaussian_surrogate"));
    assert!(surrogate.is_some_and(|text| !text.contains("Left out")), "{surrogate:?}");
    assert!(report["warnings"].as_array().is_none_or(|list| list.iter().all(|w| !w.to_string().contains("surrogate"))));
}

#[test]
fn a_page_of_an_adapter_has_a_row_for_every_module() {
    let world = World::new();
    let (model, adapter) = (fixture("fixtures/tiny-llama"), fixture("golden/adapters/llama-patterns"));
    world.succeed(&["adapter", "info", &adapter, "--base", &model, "-o", "page"]);
    let report = world.report("page");
    let rows = report["adapter"]["modules"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["kappa"].is_number() && row["intruders"].is_object()));
    assert_eq!(report["job"], "adapter");
    assert!(world.files("page").contains_key("modules.parquet") && world.files("page").contains_key("DONE"));
    check_page(&world.path().join("page/report.html"));
    let before = world.files("page");
    world.succeed(&["render", "page"]);
    assert!(world.files("page") == before);
    world.refuse(&["adapter", "info", &adapter, "-o", "page"], 2, "page");
}
