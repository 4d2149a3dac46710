//! Sizes and settings at the edge of what makes sense, which must work all the same.

use serde_json::Value;

use crate::util::{Ended, World, repository};

/// Runs a configuration and gives its report; the report is JSON, so every number in it is finite.
fn run(config: &str) -> (World, Value) {
    let world = World::new();
    world.write("run.toml", config);
    world.succeed(&["simulate", "run.toml", "-o", "run"]);
    let report = world.report("run");
    (world, report)
}

const LORA: &str = "lora = {target = \"value\", delta = -0.1}\n";

#[test]
fn one_token_and_one_dimension_work_with_a_twin_and_without() {
    for (n, d) in [(1, 1), (1, 2), (1, 3), (5, 1), (2, 1)] {
        for lora in ["", LORA] {
            for space in ["", "space.coordinates = \"rescaled\"\n", "space.geometry = \"sphere\"\n"] {
                let tokens =
                    format!("tokens = {{law = \"uniform\", n = {n}, d = {d}}}\ntime = {{end = 2.0, save = 5}}\n");
                let (world, report) = run(&format!("{tokens}{lora}{space}"));
                assert_eq!(report["stop"]["reason"], "end_time", "{n} {d} {space}");
                assert_eq!(report["clusters"]["labels"].as_array().unwrap().len(), n);
                assert_eq!(world.tensors("run/trajectory.safetensors")["tokens"].shape, [5, n, d]);
                assert_eq!(report["twin"].is_null(), lora.is_empty());
                if n == 1 {
                    assert!(report["series"]["mean_cosine"][0].is_null(), "one token has no pair");
                }
            }
        }
    }
}

/// One token attends to itself: x' = V x, so x(t) = e^t x(0) for V = I.
#[test]
fn a_lonely_token_grows_exponentially() {
    let (world, _) = run("tokens.values = [[0.5]]\ntime = {end = 2.0, save = 3}\n");
    let tokens = world.tensors("run/trajectory.safetensors")["tokens"].values();
    for (found, t) in tokens.iter().zip([0.0_f64, 1.0, 2.0]) {
        // The solver's relative tolerance is 1e-10 a step; errors add up over some tens of steps.
        assert!((found / (0.5 * t.exp()) - 1.0).abs() < 1e-8, "{found} at {t}");
    }
}

#[test]
fn more_than_three_dimensions_are_projected_and_the_report_says_so() {
    let (world, report) = run("tokens = {law = \"gaussian\", n = 12, d = 5}\ntime = {end = 1.0, save = 5}\n");
    let statement = report["projection"].as_str().unwrap();
    assert!(statement.contains("d = 5") && statement.contains("% of the variance"), "{statement}");
    let page = String::from_utf8(world.read("run/report.html")).unwrap();
    assert!(page.contains("three leading principal axes"));
    assert_eq!(world.tensors("run/trajectory.safetensors")["tokens"].shape, [5, 12, 5]);
    assert_eq!(world.tensors("run/display.safetensors")["base_positions"].shape, [5, 12, 3]);
    assert!(report["series"]["hull_vertices"][0].is_null(), "hulls are counted up to d = 3");
}

#[test]
fn attention_maps_of_many_tokens_are_grouped_and_the_report_says_so() {
    let (world, report) =
        run("tokens = {law = \"gaussian\", n = 300, d = 2}\ntime = {end = 0.2, save = 2, rtol = 1e-6, atol = 1e-8}\n");
    let maps = &world.tensors("run/display.safetensors")["base_attention"];
    assert_eq!((maps.shape.as_slice(), maps.dtype.as_str()), ([2, 64, 64].as_slice(), "U8"));
    assert!(report["attention"]["note"].as_str().unwrap().contains("300 tokens in 64 groups"));
    assert!(report["series"]["attention_rank"][0].is_null(), "the rank is computed up to 256 tokens");
}

#[test]
fn the_first_token_of_a_causal_flow_is_alone() {
    let (world, report) = run(
        "tokens = {law = \"gaussian\", n = 6, d = 2}\nkernel = {mask = \"causal\"}\ntime = {end = 1.0, save = 2}\n",
    );
    let tokens = world.tensors("run/trajectory.safetensors")["tokens"].values();
    for c in 0..2 {
        assert!((tokens[12 + c] / tokens[c] - 1.0_f64.exp()).abs() < 1e-8);
    }
    assert_eq!(report["config"]["kernel"]["mask"], "causal");
}

#[test]
fn two_heads_with_output_matrices_add_up() {
    // W₁ V₁ + W₂ V₂ = 0 with equal attention: nothing moves.
    let (world, report) = run("tokens = {law = \"gaussian\", n = 6, d = 2}\ntime = {end = 1.0, save = 2}\n\
         head = [{value = [[1.0, 2.0]], output = [[1.0], [3.0]]}, {value = [[2.0, 4.0]], output = [[-0.5], [-1.5]]}]\n");
    let tokens = world.tensors("run/trajectory.safetensors")["tokens"].values();
    assert_eq!(tokens[..12], tokens[12..]);
    assert_eq!(report["stop"]["reason"], "end_time");
    let (_, report) =
        run("tokens = {law = \"gaussian\", n = 6, d = 2}\ntime = {end = 1.0, save = 2}\nhead = [{}, {value = -0.5}]\n\
         lora = {target = \"query\", heads = [1], delta = 0.3}\n");
    assert!(report["twin"]["max_distance"].as_f64().unwrap() > 0.0);
    assert!(report["twin"]["bound_reason"].as_str().unwrap().contains("one head"));
}

#[test]
fn unnormalised_attention_on_the_sphere_stays_there() {
    let (world, report) =
        run("tokens = {law = \"sphere\", n = 10, d = 3}\nspace.geometry = \"sphere\"\ntime = {end = 5.0, save = 11}\n\
         kernel = {normalization = \"exponential\", beta = 2.0}\nlora = {target = \"value\", delta = -0.2}\n");
    for name in ["tokens", "tokens_lora"] {
        for token in world.tensors("run/trajectory.safetensors")[name].values().chunks_exact(3) {
            let norm = token.iter().map(|x| x * x).sum::<f64>().sqrt();
            // Interpolated states are not retracted; the interpolant has the order of the tolerance.
            assert!((norm - 1.0).abs() < 1e-8, "{norm}");
        }
    }
    assert_eq!(report["stop"]["reason"], "end_time");
}

/// Layers are Euler steps of size T / L: x(T) of one token is (1 + T/L)^L x(0).
#[test]
fn discrete_layers_are_euler_steps() {
    let (world, report) =
        run("tokens.values = [[1.0]]\ntime = {end = 1.0, layers = 4, save = [0.25, 0.5, 0.75, 1.0]}\n");
    let tokens = world.tensors("run/trajectory.safetensors")["tokens"].values();
    for (layer, found) in tokens.iter().enumerate() {
        assert!((found - 1.25_f64.powi(i32::try_from(layer).unwrap())).abs() < 1e-15, "{layer}: {found}");
    }
    assert_eq!(report["solver"]["steps"], 4);
}

#[test]
fn a_run_that_escapes_to_infinity_is_a_result_and_not_an_error() {
    for lora in ["", LORA] {
        let (world, report) =
            run(&format!("tokens = {{law = \"uniform\", n = 8, d = 2}}\ntime = {{end = 2000.0, save = 101}}\n{lora}"));
        assert_eq!(report["stop"]["reason"], "blow_up");
        // e^t of tokens near 1 leaves the range of f64 (1.8e308) at t = ln 1.8e308 = 709.8, or earlier where the
        // solver's squares overflow (t near 355).
        let time = report["stop"]["time"].as_f64().unwrap();
        assert!((300.0..715.0).contains(&time), "{time}");
        let tensors = world.tensors("run/trajectory.safetensors");
        assert_eq!(tensors["time"].shape[0], tensors["tokens"].shape[0]);
        assert!(tensors["time"].values().iter().all(|t| *t <= time));
        assert!(tensors["tokens"].values().iter().all(|x| x.is_finite()));
        let warnings = report["warnings"].as_array().unwrap();
        assert!(
            warnings.iter().any(|warning| warning.as_str().unwrap().contains("saved times were reached")),
            "{warnings:?}"
        );
        world.succeed(&["render", "run"]);
    }
}

#[test]
fn the_rescaled_flow_runs_to_a_hundred_thousand_without_overflow() {
    let (world, report) = run("tokens = {law = \"uniform\", n = 20, d = 2}\nspace.coordinates = \"rescaled\"\n\
         time = {end = 1e5, save = 11}\nlora = {target = \"value\", delta = [[0.0, 0.0], [0.0, -0.001]]}\n");
    assert_eq!(
        (&report["stop"]["reason"], &report["twin"]["stop"]["reason"]),
        (&"end_time".into(), &"end_time".into())
    );
    for name in ["tokens", "tokens_lora"] {
        // z stays in the convex hull of the initial tokens, in [-1, 1]²; rounding aside.
        let values = world.tensors("run/trajectory.safetensors")[name].values();
        assert!(values.iter().all(|x| x.abs() <= 1.0 + 1e-9), "{name}");
    }
}

#[test]
fn a_twin_without_a_change_is_the_base_run_to_the_bit() {
    let (world, report) = run(
        "tokens = {law = \"uniform\", n = 20, d = 2}\nspace.coordinates = \"rescaled\"\ntime = {end = 20.0, save = 21}\n\
         lora = {target = [\"query\", \"key\", \"value\"], a = [[0.0, 1.0]], b = [[0.0], [0.0]]}\nobserve.cluster_radius = 0.3\n",
    );
    let tensors = world.tensors("run/trajectory.safetensors");
    assert!(tensors["tokens"].data == tensors["tokens_lora"].data);
    let twin = &report["twin"];
    assert_eq!(twin["max_distance"], 0.0);
    assert!(twin["cluster_time"]["value"].is_number());
    for time in ["departure_time", "second_cluster_time"] {
        assert!(twin[time]["value"].is_null() && twin[time]["bracket"].is_null(), "{time}: {}", twin[time]);
    }
    assert!(twin["wasserstein2"].as_array().unwrap().iter().all(|w| w == 0.0));
}

#[test]
fn a_twin_that_departs_and_never_settles_has_no_second_cluster_time() {
    let config = format!(
        "space.coordinates = \"rescaled\"\nlora = {{target = \"value\", delta = [[0.0, 0.0], [0.0, -0.1]]}}\ntokens.file = \"{}\"\n",
        repository("examples/tokens/seed-42.npy")
    );
    let (_, long) = run(&format!("{config}time = {{end = 20.0, save = 3}}\n"));
    let departure = long["twin"]["departure_time"]["value"].as_f64().unwrap();
    let second = long["twin"]["second_cluster_time"]["value"].as_f64().unwrap();
    assert!(departure < second);
    // Never departing: the end comes first.
    let (_, early) = run(&format!("{config}time = {{end = {}, save = 3}}\n", departure - 0.5));
    let twin = &early["twin"];
    if twin["cluster_time"]["value"].is_null() || twin["departure_time"]["value"].is_null() {
        assert!(twin["second_cluster_time"]["value"].is_null());
        assert!(twin["second_cluster_time"]["bracket"].is_null());
    }
    // Whatever the end, the order of the three times holds.
    for end in [departure + 0.1, 0.5 * (departure + second), second + 1.0] {
        let (_, report) = run(&format!("{config}time = {{end = {end}, save = 3}}\n"));
        let time = |name: &str| report["twin"][name]["value"].as_f64();
        let order = [time("cluster_time"), time("departure_time"), time("second_cluster_time")];
        let known: Vec<f64> = order.iter().map_while(|time| *time).collect();
        assert!(known.is_sorted(), "{order:?}");
        assert!(order.iter().skip(known.len()).all(Option::is_none), "no time after a missing one: {order:?}");
        assert!(known.iter().all(|time| *time <= end), "{order:?} by {end}");
    }
}

#[test]
fn a_save_list_gets_the_start_and_the_end() {
    let (world, _) = run("tokens.values = [[1.0], [2.0]]\ntime = {end = 1.0, save = [0.25, 0.5]}\n");
    assert_eq!(world.tensors("run/trajectory.safetensors")["time"].values(), [0.0, 0.25, 0.5, 1.0]);
}

#[test]
fn tokens_that_overflow_at_once_end_in_a_report_of_one_time() {
    let (_, report) = run("tokens.values = [[1e200, 0.0], [0.0, 1e200]]\ntime = {end = 1.0, save = 3}\n");
    assert_eq!((&report["stop"]["reason"], &report["stop"]["time"]), (&"blow_up".into(), &0.0.into()));
    assert_eq!(report["series"]["t"].as_array().unwrap().len(), 1);
}

#[test]
fn titles_are_text_in_every_rendering() {
    let world = World::new();
    world.write(
        "run.toml",
        "title = \"<script>alert(1)</script><b> & \\\"q\\\"\"\ntokens.values = [[1.0, 0.0], [0.0, 1.0]]\ntime = {end = 0.1, save = 2}\n",
    );
    world.succeed(&["simulate", "run.toml", "-o", "run"]);
    for (name, bytes) in world.files("run") {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if name.ends_with(".html") || name.ends_with(".svg") {
            assert!(!text.contains("<script>alert") && !text.contains("</script><b>"), "{name}");
        }
    }
    crate::util::check_page(&world.path().join("run/report.html"));
}

#[test]
fn all_formats_of_a_configuration_mean_the_same() {
    let world = World::new();
    world.write("a.toml", "title = \"x\"\ntokens.values = [[1.0], [2.0]]\ntime = {end = 1, save = 3}\n");
    world.write("b.json", r#"{"title": "x", "tokens": {"values": [[1], [2]]}, "time": {"end": 1.0, "save": 3}}"#);
    world.write("c.yaml", "title: x\ntokens:\n  values: [[1], [2]]\ntime:\n  end: 1\n  save: 3\n");
    let dry = |name: &str| -> Ended { world.succeed(&["simulate", name, "--dry-run"]) };
    assert_eq!(dry("a.toml").stdout, dry("b.json").stdout);
    assert_eq!(dry("a.toml").stdout, dry("c.yaml").stdout);
}
