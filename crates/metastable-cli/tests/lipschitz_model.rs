//! `metastable lipschitz MODEL`: constants of layers, heads and depth at a text, why, how they grow, what changes them.

use std::path::Path;

use serde_json::{Value, json};

use crate::util::World;

/// The trained tiny models of the model crate, and adapters that PEFT made for them.
fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../metastable-model/tests");
    let inside = if name.contains("llama-") { "golden/adapters" } else { "fixtures" };
    folder.join(inside).join(name).to_str().unwrap().to_owned()
}

const TEXT: &str = "Arise, fair sun, and kill the envious moon, who is already sick and pale with grief.";

fn solve(world: &World, model: &str, more: &[&str]) -> Value {
    let model = fixture(model);
    let arguments: Vec<&str> = ["lipschitz", &model, "--prompt", TEXT, "--json", "--no-progress"]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    serde_json::from_str(&world.succeed(&arguments).stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn every_layer_and_every_head_is_enclosed() {
    for (model, layers, heads) in [("tiny-llama", 4, 4), ("tiny-gpt2", 4, 4), ("tiny-albert", 6, 4)] {
        let found = solve(&World::new(), model, &[]);
        assert_eq!((list(&found["layers"]).len(), &found["status"]["upper"]), (layers, &json!("proven")), "{model}");
        for row in list(&found["layers"]) {
            for part in ["attention", "with_norm", "with_residual", "block"] {
                let (lower, upper) = (number(&row[part]["lower"]), number(&row[part]["upper"]));
                assert!(0.0 < lower && lower <= upper, "{model} {part}: {lower} {upper}");
                assert!(
                    (number(&row[part]["ln_upper"]) - upper.ln()).abs() < 1e-9 && row[part]["converged"] == json!(true)
                );
            }
            assert_eq!(list(&row["heads"]).len(), heads, "{model}");
            for head in list(&row["heads"]) {
                assert!(number(&head["lower"]) <= number(&head["upper"]), "{model}: {head}");
                assert!(head["explanation"].is_null());
            }
        }
    }
}

#[test]
fn explanations_add_up_and_name_tokens() {
    let found = solve(&World::new(), "tiny-llama", &["--explain", "--layers", "1,3"]);
    assert_eq!(list(&found["layers"])[1]["layer"], json!(3));
    for row in list(&found["layers"]) {
        let shares: f64 = list(&row["explanation"]["heads"])
            .iter()
            .flat_map(|head| ["value", "query", "key"].map(|path| number(&head[path])))
            .sum();
        // Products in f32.
        let lower = number(&row["attention"]["lower"]);
        assert!((shares / lower - 1.0).abs() < 1e-3, "{shares} {lower}");
        for head in list(&row["heads"]) {
            let (why, lower) = (&head["explanation"], number(&head["lower"]));
            let shares: f64 = ["value", "query", "key"].map(|path| number(&why[path])).iter().sum();
            assert!((shares / lower - 1.0).abs() < 1e-3, "{shares} {lower}");
            assert!(number(&why["value_path_lower"]) <= lower * 1.001, "{head}");
            assert!(number(&why["column_lower"]) <= number(&why["value_path_lower"]) * 1.001, "{head}");
            // d - 2k of a head with d = 64 and k = 16.
            assert_eq!(why["blind_dimension"], json!(32));
            let moved = list(&why["moved"]);
            assert_eq!(moved.len(), 5);
            assert!(moved[0]["token"].is_string() && number(&moved[0]["energy"]) >= number(&moved[1]["energy"]));
            assert!(number(&why["sink"]["energy"]) >= 1.0 && number(&why["sink_ratio"]) > 0.0, "{why}");
        }
    }
}

#[test]
fn an_adapter_coarser_weights_another_file_and_stretched_positions_are_compared() {
    let (adapter, gguf) = (fixture("llama-patterns"), fixture("tiny-llama.gguf"));
    let more = ["--layers", "0,2", "--depth", "--adapter", &adapter, "--quantize", "q8_0", "--quantize", "q4_0"];
    let more = [&more[..], &["--against", &gguf, "--rope-scaling", "linear=4"]].concat();
    let found = solve(&World::new(), "tiny-llama", &more);
    let variants = list(&found["variants"]);
    assert_eq!(variants.len(), 5);
    let largest_change = |variant: &Value| {
        let heads = list(&variant["layers"]).iter().flat_map(|row| list(&row["heads"]));
        heads.map(|head| number(&head["ratio"]).ln().abs()).fold(0.0, f64::max)
    };
    for variant in variants {
        for (row, base) in list(&variant["layers"]).iter().zip(list(&found["layers"])) {
            assert_eq!(row["attention"]["base"]["lower"], base["attention"]["lower"]);
            assert_eq!(list(&row["heads"]).len(), 4);
            let (change, head) = (&list(&row["heads"])[1], &list(&base["heads"])[1]);
            assert_eq!(change["base"]["upper"], head["upper"]);
            let apart = number(&change["other"]["lower"]) > number(&change["base"]["upper"])
                || number(&change["base"]["lower"]) > number(&change["other"]["upper"]);
            assert_eq!(change["separated"], json!(apart));
        }
        let depth = &variant["depth"];
        assert!(
            (number(&depth["ratio"]) * number(&depth["base_lower"]) / number(&depth["other"]["lower"]) - 1.0).abs()
                < 1e-9
        );
    }
    // Eight bits change less than four; an adapter and other positions change something.
    let [adapter, fine, coarse, _, stretched] = [0, 1, 2, 3, 4].map(|which| largest_change(&variants[which]));
    assert!(fine < 0.1 && fine < coarse && adapter > 1e-3 && stretched > 1e-3, "{fine} {coarse} {adapter} {stretched}");
    let depth = &found["depth"];
    assert!(number(&depth["lower"]).ln() <= number(&depth["ln_upper"]));
}

#[test]
fn growth_worst_clouds_and_the_worst_token_are_found() {
    let more = ["--layers", "0", "--growth", "--worst", "12", "--ascent-steps", "10", "--worst-token", "3"];
    let found = solve(&World::new(), "tiny-gpt2", &more);
    let growth = &found["growth"][0];
    let values: Vec<f64> = list(&growth["points"]).iter().map(|point| number(&point["value"])).collect();
    // Causal: a longer prefix is never smoother, but for the residual of 1e-3.
    assert!(values.windows(2).all(|pair| pair[1] >= pair[0] * 0.998), "{values:?}");
    let (low, high) = (number(&growth["interval"][0]), number(&growth["interval"][1]));
    assert!(low <= number(&growth["exponent"]) && number(&growth["exponent"]) <= high);
    let clouds = list(&found["worst"]["clouds"]);
    assert_eq!(clouds.len(), 4);
    for row in clouds {
        let mut best = 0.0_f64;
        for cloud in
            ["two_points", "three_clusters"].map(|name| &row[name]).into_iter().filter(|cloud| !cloud.is_null())
        {
            assert!(number(&cloud["proven"]) <= number(&cloud["constant"]) * (1.0 + 1e-6), "{row}");
            best = best.max(number(&cloud["constant"]));
        }
        let climbed = number(&row["ascent"]["constant"]);
        assert!(climbed >= best * (1.0 - 1e-6) && climbed.ln() <= number(&row["ln_upper"]) + 1e-9, "{row}");
        assert!(number(&row["large_radius_limit"]) > 0.0);
    }
    for row in list(&found["worst"]["tokens"]) {
        assert!(number(&row["after"]) >= number(&row["before"]), "{row}");
        assert_eq!((&row["screened"], &row["position"]), (&json!(512), &json!(3)));
    }
}

#[test]
fn encoders_grow_by_one_forward_a_prefix_and_tables_are_for_eyes() {
    let world = World::new();
    let model = fixture("tiny-albert");
    let arguments = ["lipschitz", &model, "--prompt", TEXT, "--layers", "2", "--growth", "--explain"];
    let shown = world.succeed(&[&arguments[..], &["--no-progress"]].concat()).stdout;
    for expected in ["local Lipschitz constants of", "attention", "head 3", "Layer 2: grows like n^", "values alone"] {
        assert!(shown.contains(expected), "no `{expected}` in {shown}");
    }
    let csv = world.succeed(&[&arguments[..6], &["--format", "csv"]].concat()).stdout;
    assert!(csv.starts_with("layer,of,lower,upper,probable_upper,steps\n2,attention,"), "{csv}");
    let one = world.succeed(&[&arguments[..6], &["--json", "--threads", "1"]].concat()).stdout;
    assert_eq!(one, world.succeed(&[&arguments[..6], &["--json", "--threads", "3"]].concat()).stdout);
}

/// One token sees itself: D = W V for every head, whatever its queries and keys.
#[test]
fn one_token_has_the_norm_of_output_and_value() {
    let world = World::new();
    let model = fixture("tiny-llama");
    world.succeed(&["inspect", &model, "--prompt", TEXT, "--layers", "0,2", "-o", "run"]);
    let report = world.report("run");
    let arguments = ["lipschitz", &model, "--prompt", TEXT, "--max-tokens", "1", "--layers", "0,2", "--json"];
    let found: Value = serde_json::from_str(&world.succeed(&arguments).stdout).unwrap();
    assert_eq!((&found["tokens"], found["dropped_tokens"].as_u64().unwrap() > 0), (&json!(1), true));
    let mut spectra = list(&report["heads"]).iter();
    for head in list(&found["layers"]).iter().flat_map(|row| list(&row["heads"])) {
        let expected = number(&spectra.next().unwrap()["ov_norm"]);
        // f32 products, residual 1e-3 of which the error is about the square.
        assert!((number(&head["lower"]) / expected - 1.0).abs() < 1e-4, "{head} {expected}");
        assert!(number(&head["upper"]) < expected * 1.001, "{head} {expected}");
    }
}

#[test]
fn inspect_shows_the_constants_of_heads_and_what_an_adapter_changes() {
    let world = World::new();
    let (model, adapter) = (fixture("tiny-llama"), fixture("llama-patterns"));
    world.succeed(&["inspect", &model, "--prompt", TEXT, "--layers", "1", "--adapter", &adapter, "-o", "run"]);
    let report = world.report("run");
    let alone = solve(&world, "tiny-llama", &["--layers", "1"]);
    for (head, same) in list(&report["heads"]).iter().zip(list(&alone["layers"][0]["heads"])) {
        assert_eq!((&head["lipschitz"]["lower"], &head["lipschitz"]["upper"]), (&same["lower"], &same["upper"]));
    }
    for (row, head) in list(&report["adapter"]["heads"]).iter().zip(list(&report["heads"])) {
        let change = &row["lipschitz_change"];
        assert_eq!(change["base"]["lower"], head["lipschitz"]["lower"]);
        assert!(number(&change["ratio"]) > 0.0 && change["separated"].is_boolean());
    }
    let level = &report["layers"][2]["lipschitz"];
    for part in ["with_norm", "with_residual"] {
        assert!(number(&level[part]) <= number(&level[&format!("{part}_upper")]), "{level}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_refused_in_one_line() {
    let world = World::new();
    let (llama, gpt2, albert) = (fixture("tiny-llama"), fixture("tiny-gpt2"), fixture("tiny-albert"));
    let refuse = |more: &[&str], code, expected: &str| {
        let arguments = [&["lipschitz"][..], more].concat();
        world.refuse(&arguments, code, expected);
    };
    refuse(&[&llama], 2, "--text: expected a text, or --prompt, found none beside the model");
    refuse(&["absent", "--offline", "--prompt", "x"], 4, "absent");
    refuse(&[&llama, "--text", "absent.txt"], 4, "absent.txt: cannot be read");
    refuse(&[&llama, "--prompt", TEXT, "--layers", "9"], 2, "--layers: expected layers below 4, found 9");
    refuse(&[&llama, "--prompt", TEXT, "--quantize", "q3"], 2, "--quantize: expected q8_0 or q4_0, found q3");
    refuse(&[&llama, "--prompt", TEXT, "--rope-scaling", "linear"], 2, "--rope-scaling: expected linear=FACTOR");
    refuse(&[&gpt2, "--prompt", TEXT, "--rope-scaling", "linear=2"], 4, "a family with rotary positions");
    refuse(&[&llama, "--prompt", TEXT, "--against", &albert], 2, "layers of width 64, 4 heads");
    refuse(&[&llama, "--prompt", TEXT, "--worst", "2"], 2, "--worst: expected between 3 and");
    refuse(&[&llama, "--prompt", TEXT, "--worst-token", "999"], 2, "--worst-token: expected a place below the");
    let both = world.run(&["lipschitz", &llama, "--prompt", TEXT, "--set", "seed=1"]);
    assert_eq!(both.code, Some(2), "{both:?}");
    let alone = world.run(&["lipschitz", "run.toml", "--explain"]);
    assert_eq!(alone.code, Some(2), "{alone:?}");
}
