//! `metastable lipschitz`: the constant of a config's attention, from both sides.

use serde_json::Value;

use crate::util::{World, npy};

/// s·sin(k + 1.7 r): the matrices of theory's section 5, [derived].
fn det(rows: usize, columns: usize, k: f64, s: f64) -> String {
    let row = |i: usize| -> Vec<String> {
        (0..columns).map(|j| format!("{:.17}", s * (k + 1.7 * (i * columns + j) as f64).sin())).collect()
    };
    let rows: Vec<String> = (0..rows).map(|i| format!("[{}]", row(i).join(", "))).collect();
    format!("[{}]", rows.join(", "))
}

fn golden_world() -> World {
    let world = World::new();
    let (x, a, v) = (det(5, 3, 0.3, 1.0), det(3, 3, 1.1, 0.8), det(3, 3, 2.2, 0.9));
    world.write("run.toml", format!("tokens.values = {x}\nhead = [{{query = {a}, key = 1.0, value = {v}}}]\n"));
    world
}

fn solve(world: &World, more: &[&str]) -> Value {
    let arguments: Vec<&str> = ["lipschitz", "run.toml", "--json"].into_iter().chain(more.iter().copied()).collect();
    serde_json::from_str(&world.succeed(&arguments).stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn the_golden_constants_are_enclosed() {
    let world = golden_world();
    for (mask, expected) in [("full", 2.747036943185), ("causal", 2.258053966333)] {
        let found = solve(&world, &["--set", &format!("kernel.mask=\"{mask}\"")]);
        let (lower, upper) = (number(&found["lower"]), number(&found["upper"]));
        // Printed to 12 decimals.
        assert!((lower - expected).abs() < 1e-11, "{mask}: {lower}");
        assert!(lower <= upper && upper < expected * (1.0 + 1e-11), "{mask}: {upper}");
        assert_eq!(found["method"], "golub_kahan_lanczos");
        assert!(found["iterations"].as_u64().unwrap() <= 15 && number(&found["residual"]) <= 1e-10);
        let names: Vec<&String> = found["bounds"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["three_term", "block_norm", "frobenius", "a_priori"]);
        for (name, bound) in found["bounds"].as_object().unwrap() {
            assert!(number(bound) >= upper && found["status"][name] == "proven", "{mask}: {name} {bound}");
            assert!((number(&found["ln_bounds"][name]) - number(bound).ln()).abs() < 1e-12);
        }
        assert_eq!(found["status"]["probable_upper"], "estimate");
    }
    let frobenius = number(&solve(&world, &[])["bounds"]["frobenius"]);
    // The reference, and the margin of 1e-12 for rounding.
    assert!((frobenius - 5.396941191370).abs() < 1e-10, "{frobenius}");
}

#[test]
fn the_singular_vectors_are_saved_and_stretched_by_the_constant() {
    let world = golden_world();
    let lower = number(&solve(&world, &["--singular-vector", "v.safetensors"])["lower"]);
    let tensors = world.tensors("v.safetensors");
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["left", "right", "singular_value"]);
    let (left, right) = (tensors["left"].values(), tensors["right"].values());
    assert_eq!((&tensors["right"].shape, tensors["singular_value"].values()), (&vec![5, 3], vec![lower]));
    solve(&world, &["--singular-vector", "v.npy"]);
    assert_eq!(world.read("v.npy").split_at(128).1.len(), 15 * 8);
    world.succeed(&["field", "run.toml", "-o", "f.safetensors", "--direction", "v.npy", "--set", "time.end=1"]);
    for (jvp, left) in world.tensors("f.safetensors")["jvp"].values().iter().zip(&left) {
        assert!((jvp - lower * left).abs() < 1e-12);
    }
    let size: f64 = right.iter().map(|x| x * x).sum();
    assert!((size - 1.0).abs() < 1e-13);
}

#[test]
fn an_adapter_has_its_own_answer() {
    let world = golden_world();
    let lora = "lora={target=\"value\",a=[[1.0,0.0,0.0]],b=[[3.0],[0.0],[0.0]]}";
    let found = solve(&world, &["--set", lora]);
    assert!(number(&found["lora"]["lower"]) > number(&found["upper"]) + 0.5, "{found}");
    assert!(found["lora"]["bounds"]["block_norm"].is_number());
    world.succeed(&["lipschitz", "run.toml", "--set", lora, "--singular-vector", "v.safetensors"]);
    assert!(world.tensors("v.safetensors").contains_key("right_lora"));
}

#[test]
fn one_token_equal_tokens_and_zero_matrices_have_their_exact_constants() {
    let world = World::new();
    for (tokens, value, expected) in [
        ("[[0.5, -2.0]]", "2.0", 2.0),
        ("[[0.5, -2.0], [0.5, -2.0], [0.5, -2.0]]", "2.0", 2.0),
        ("[[0.5, -2.0], [1.5, 7.0], [0.0, 0.0]]", "0.0", 0.0),
        ("[[0.0, 0.0], [0.0, 0.0]]", "1.0", 1.0),
    ] {
        world.write("run.toml", format!("tokens.values = {tokens}\nhead = [{{value = {value}}}]\n"));
        let found = solve(&world, &[]);
        let (lower, upper) = (number(&found["lower"]), number(&found["upper"]));
        assert!((lower - expected).abs() < 1e-14 && upper >= lower && upper <= expected * (1.0 + 1e-11), "{found}");
    }
}

#[test]
fn bounds_beyond_f64_are_null_with_a_logarithm() {
    let world = World::new();
    world.write("run.toml", "tokens.values = [[1000.0, 0.0], [0.0, 1000.0]]\n");
    let found = solve(&world, &[]);
    assert!(found["more_bounds"]["mean_field"].is_null());
    let ln = number(&found["ln_more_bounds"]["mean_field"]);
    assert!((ln - (1e6 + 1e6_f64.ln_1p())).abs() < 1e-6, "{ln}");
    assert!(number(&found["upper"]) >= number(&found["lower"]));
}

#[test]
fn constants_of_any_size_fit_a_line() {
    let world = World::new();
    world.write("run.toml", "seed = 1\ntokens = {law = \"uniform\", n = 6, d = 2}\n");
    let kernel = "kernel={normalization=\"linear\", beta=1e150}";
    let table = world.succeed(&["lipschitz", "run.toml", "--set", kernel]).stdout;
    let sentence = table.lines().next().unwrap();
    assert!(sentence.contains("e150") && sentence.len() < 250, "{sentence}");
}

#[test]
fn answers_are_the_same_on_any_number_of_threads_and_in_any_format() {
    let world = World::new();
    world.write("run.toml", "seed = 3\ntokens = {law = \"gaussian\", n = 130, d = 4}\n");
    let one = world.succeed(&["lipschitz", "run.toml", "--json", "--threads", "1"]).stdout;
    assert_eq!(one, world.succeed(&["lipschitz", "run.toml", "--format", "json", "--threads", "3"]).stdout);
    let csv = world.succeed(&["lipschitz", "run.toml", "--format", "csv"]).stdout;
    assert!(csv.starts_with("name,value,ln,status\nlower,"), "{csv}");
    let table = world.succeed(&["lipschitz", "run.toml"]).stdout;
    assert!(
        table.starts_with("local Lipschitz constant of attention at these tokens (residual not included): at least")
    );
}

#[test]
fn what_cannot_be_answered_is_refused_in_one_line() {
    let world = golden_world();
    world.write("nan.npy", npy(&[2, 2], &[0.0, f64::NAN, 1.0, 2.0]));
    world.write("nan.toml", "tokens.file = \"nan.npy\"\n");
    world.write("huge.toml", "tokens.values = [[1e200, 0.0], [-1e200, 0.0]]\n");
    world.refuse(&["lipschitz", "nan.toml"], 4, "nan.npy: tokens: entry 1 is NaN");
    world.refuse(
        &["lipschitz", "huge.toml"],
        2,
        "scores: expected attention scores within f64, found a score beyond f64",
    );
    world.refuse(
        &["lipschitz", "run.toml", "--singular-vector", "v.txt"],
        2,
        "--singular-vector: expected a file ending in .safetensors or .npy, found v.txt",
    );
    world.refuse(&["lipschitz", "run.toml", "--singular-vector", "absent/v.npy"], 1, "absent/v.npy: cannot be written");
    world.refuse(&["lipschitz", "absent.toml"], 4, "absent.toml: cannot be read: no such file");
}
