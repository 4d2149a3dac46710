//! `metastable inspect --adapter`: the twin on a real forward pass.

use serde_json::Value;

use crate::util::{World, check_page, repository};

fn fixture(name: &str) -> String {
    repository(&format!("crates/metastable-model/tests/{name}"))
}

const TEXT: &str = "First Citizen: Before we proceed any further, hear me speak.";

fn arguments<'a>(model: &'a str, adapter: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["inspect", model, "--adapter", adapter, "--prompt", TEXT, "-o", "run"];
    arguments.extend(more);
    arguments
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn base_and_adapted_stand_side_by_side_in_every_file() {
    let world = World::new();
    let (model, adapter) = (fixture("fixtures/tiny-llama"), fixture("golden/adapters/llama-patterns"));
    let ended = world.succeed(&arguments(&model, &adapter, &["--scale-sweep", "0,0.5,1,2"]));
    assert!(ended.stdout.contains("The adapter moves the last level by"), "{}", ended.stdout);
    let report = world.report("run");
    let layers = report["adapter"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), report["layers"].as_array().unwrap().len());
    for key in ["index", "shift_relative", "cosine", "clusters_changed", "wasserstein2", "energy", "energy_change"] {
        assert!(layers[2][key].is_number(), "{key}");
    }
    assert!(report["adapter"]["verdict"].as_str().unwrap().ends_with('.'));
    // The model is the base, by its own hash; the adapter's files have theirs.
    let inputs = &report["provenance"]["inputs"];
    assert_eq!(report["model"]["sha256"], inputs["model.safetensors"]);
    assert!(inputs["adapter/adapter_model.safetensors"].is_string(), "{inputs}");
    // What the sweep found is said, and shown.
    let bracket = &report["adapter"]["bifurcation"]["bracket"];
    let said = if bracket.is_null() { "up to 2 times its scale" } else { "first change between" };
    assert!(ended.stdout.contains(said) && ended.stdout.contains("last layer, at other scales"), "{}", ended.stdout);
    // The arrays are what the numbers were computed from.
    let tensors = world.tensors("run/hidden.safetensors");
    let floats = |name: &str| -> Vec<f32> {
        tensors[name].data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (base, adapted) = (floats("hidden"), floats("hidden_lora"));
    assert_eq!(tensors["hidden"].shape, tensors["hidden_lora"].shape);
    let level = base.len() / layers.len();
    for (index, row) in layers.iter().enumerate() {
        let part = index * level..(index + 1) * level;
        let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let moved = squares(&mut base[part.clone()].iter().zip(&adapted[part.clone()]).map(|(x, y)| y - x));
        let expected = (moved / squares(&mut base[part].iter().copied())).sqrt();
        // Differences of f32 numbers are rounded here and not there.
        assert!(
            (number(&row["shift_relative"]) - expected).abs() <= 1e-6 * expected.max(1e-9),
            "{index}: {row} {expected}"
        );
    }
    // No module touches the embedding.
    assert_eq!(number(&layers[0]["shift_relative"]), 0.0);
    let sweep = report["adapter"]["scale_sweep"].as_array().unwrap();
    assert_eq!((number(&sweep[0]["shift_relative"]), sweep[0]["clusters_changed"].as_u64()), (0.0, Some(0)));
    assert_eq!(sweep[2]["shift_relative"], layers[layers.len() - 1]["shift_relative"]);
    assert!(number(&sweep[1]["shift_relative"]) < number(&sweep[2]["shift_relative"]));
    // Departure and sweep agree with the rows they summarise.
    let first = layers.iter().position(|row| row["clusters_changed"].as_u64() != Some(0));
    assert_eq!(report["adapter"]["departure"]["value"].as_f64(), first.map(|level| level as f64));
    let heads = report["adapter"]["heads"].as_array().unwrap();
    assert_eq!(heads.len(), report["heads"].as_array().unwrap().len());
    for head in heads {
        assert!(number(&head["ov_change"]) > 0.0 && number(&head["qk_change"]) > 0.0);
        if let (Some(bound), Some(tangent)) =
            (head["tan_double_angle_bound"].as_f64(), head["tan_double_angle"].as_f64())
        {
            // A theorem about symmetric matrices, so it holds for any head's symmetric part.
            assert!(tangent <= bound * (1.0 + 1e-9), "{head}");
        }
    }
    assert_eq!(report["twin"]["series"]["t"], report["series"]["t"]);
    check_page(&world.path().join("run/report.html"));
}

#[test]
fn the_change_of_the_constant_is_that_of_the_merged_model() {
    let world = World::new();
    let (model, adapter) = (fixture("fixtures/tiny-llama"), fixture("golden/adapters/llama-patterns"));
    world.succeed(&["adapter", "merge", &model, &adapter, "merged"]);
    world.succeed(&arguments(&model, &adapter, &["--layers", "1"]));
    world.succeed(&["inspect", "merged", "--prompt", TEXT, "-o", "alone"]);
    let (report, alone) = (world.report("run"), world.report("alone"));
    let rows = report["adapter"]["layers"].as_array().unwrap();
    for (level, row) in rows.iter().enumerate() {
        let change = &row["lipschitz_change"];
        if level != 2 {
            // Level 0 is made by no block, and the other blocks were not asked for.
            assert!(change.is_null(), "{level}: {change}");
            continue;
        }
        let base = &report["layers"][level]["lipschitz"];
        let merged = &alone["layers"][level]["lipschitz"];
        for bound in ["lower", "upper"] {
            assert_eq!(change["base"][bound], base[bound], "the same numbers as of the base");
            let (found, expected) = (number(&change["adapted"][bound]), number(&merged[bound]));
            // Weights rounded once in either order, products in f32, Lanczos to a residual of 1e-3: the value's error
            // is of second order in it.
            assert!((found - expected).abs() < 1e-5 * expected, "{bound}: {found} {expected}");
        }
        let (before, after) = (&change["base"], &change["adapted"]);
        let ratio = number(&after["lower"]) / number(&before["lower"]);
        assert!((number(&change["ratio"]) - ratio).abs() < 1e-15 && (ratio - 1.0).abs() > 1e-4, "{change}");
        let apart = |x: &Value, y: &Value| number(&x["upper"]) < number(&y["lower"]);
        assert_eq!(change["separated"], apart(before, after) || apart(after, before));
    }
}

#[test]
fn thresholds_end_with_three_and_keep_the_report() {
    let world = World::new();
    let (model, adapter) = (fixture("fixtures/tiny-gpt2"), fixture("golden/adapters/gpt2-conv1d"));
    let ended = world.run(&arguments(&model, &adapter, &["--fail-if", "shift_relative>0.0001"]));
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("check --fail-if: expected not shift_relative>0.0001, found 0."), "{ended:?}");
    assert!(world.files("run").contains_key("DONE"));
    world.succeed(&arguments(&model, &adapter, &["--overwrite", "--fail-if", "cosine < -0.9"]));
    world.refuse(
        &arguments(&model, &adapter, &["--overwrite", "--fail-if", "shift>1"]),
        2,
        "expected one of shift_relative",
    );
}

#[test]
fn an_adapter_that_does_not_fit_leaves_no_folder() {
    let world = World::new();
    let (model, adapter) = (fixture("fixtures/tiny-gpt2"), fixture("golden/adapters/llama-dora"));
    world.refuse(&arguments(&model, &adapter, &[]), 4, "the adapter does not fit the model");
    world.refuse(&arguments(&model, "nowhere", &[]), 4, "nowhere: not found, expected an adapter");
}
