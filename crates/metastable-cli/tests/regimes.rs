//! Sinkhorn attention, placements of norms, feed-forward layers, layers of weights and noise, from configurations.

use crate::util::{World, npy};

/// Four tokens and one head, of the transformer-PDE dossier of the theory notes, section 5.3 [checked].
const CONFIG: &str = "tokens.values = [[1.0, 0.0], [0.5, -0.5], [-0.25, 0.75], [-1.0, -0.5]]\n\
    time = {end = 1.0, save = 11}\n\
    head = [{query = [[0.6, -0.4], [0.1, 0.5]], key = [[0.5, 0.2], [-0.3, 0.4]], value = [[0.3, -0.2], [0.4, 0.2]]}]\n";

fn world() -> World {
    let world = World::new();
    world.write("run.toml", CONFIG);
    world
}

fn arguments<'a>(command: &'a str, output: &'a str, overrides: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![command, "run.toml", "-o", output];
    overrides.iter().for_each(|change| arguments.extend(["--set", change]));
    arguments
}

fn refused(overrides: &[&str], code: i32, expected: &str) {
    world().refuse(&arguments("simulate", "run", overrides), code, expected);
}

fn simulated(overrides: &[&str]) -> World {
    let world = world();
    world.succeed(&arguments("simulate", "run", overrides));
    world
}

fn end_of(world: &World) -> Vec<f64> {
    let tokens = &world.tensors("run/trajectory.safetensors")["tokens"];
    let size: usize = tokens.shape[1..].iter().product();
    let values = tokens.values();
    values[values.len() - size..].to_vec()
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{found} {expected}");
    }
}

const SINKHORN: &str = "kernel.normalization=\"sinkhorn\"";

#[test]
fn sinkhorn_fields_weights_and_products() {
    let world = world();
    let (e, g): (Vec<f64>, Vec<f64>) =
        (0..8).map(|i| (f64::from(i) * 0.37 - 1.0, 1.0 - f64::from(i * i) * 0.03)).unzip();
    world.write("e.npy", npy(&[4, 2], &e));
    world.write("g.npy", npy(&[4, 2], &g));
    let mut asked = arguments("field", "f.safetensors", &[SINKHORN, "kernel.epsilon=1.0"]);
    asked.extend(["--weights", "--direction", "e.npy", "--cotangent", "g.npy"]);
    world.succeed(&asked);
    let tensors = world.tensors("f.safetensors");
    #[rustfmt::skip]
    let expected = [0.06142687961793, 0.07337651411189, 0.07558002012612, 0.07566938626333, -0.03064410518199, -0.06797803720145, 0.01863720543794, -0.03106786317377];
    // The default tolerance: a hundredth of the default rtol 1e-10.
    assert_near(&tensors["field"].values(), &expected, 1e-12);
    let weights = tensors["weights"].values();
    for i in 0..4 {
        let (row, column): (f64, f64) =
            (weights[4 * i..4 * i + 4].iter().sum(), (0..4).map(|j| weights[4 * j + i]).sum());
        assert!((row - 1.0).abs() < 1e-14 && (column - 1.0).abs() < 1e-12, "{row} {column}");
    }
    let pair = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (left, right) = (pair(&tensors["jvp"].values(), &g), pair(&tensors["vjp"].values(), &e));
    // The linear system is solved to 1e-14.
    assert!((left - right).abs() < 1e-13, "{left} {right}");
}

#[test]
fn one_half_step_at_epsilon_one_is_softmax() {
    let world = world();
    world.succeed(&arguments("field", "one.safetensors", &[SINKHORN, "kernel.half_steps=1"]));
    world.succeed(&arguments("field", "soft.safetensors", &[]));
    let field = |file: &str| world.tensors(file)["field"].values();
    assert_near(&field("one.safetensors"), &field("soft.safetensors"), 1e-15);
}

#[test]
fn a_sinkhorn_run_reports_its_mean_law() {
    let world = simulated(&[SINKHORN, "kernel.epsilon=0.5"]);
    let report = world.report("run");
    let law = &report["laws"][0];
    assert_eq!((law["name"].as_str(), law["behaviour"].as_str()), (Some("sinkhorn_mean"), Some("zero")));
    // Column sums are one within 1e-12 at every stage, the solver is exact on linear laws of its state to 1e-10.
    assert!(law["largest_violation"].as_f64().unwrap() < 1e-9, "{law}");
    let figure = String::from_utf8(world.read("run/figures/laws.svg")).unwrap();
    assert!(figure.contains("sinkhorn mean: ") && figure.ends_with("</svg>\n"));
    assert!(!figure.contains("NaN") && !figure.contains("inf"));
    let end = end_of(&world);
    let mean = [0, 1].map(|c| end.iter().skip(c).step_by(2).sum::<f64>() / 4.0);
    assert_near(&mean, &[0.1363829612228, 0.0005412375282], 1e-9);
}

/// V = Qᵀ K = I: softmax climbs its energy, Sinkhorn descends its cost; with V = -I the other way round.
#[test]
fn runs_whose_value_is_a_multiple_of_the_scores_report_a_monotone_energy() {
    for (normalization, name, up) in [
        ("softmax", "attention_energy", "increasing"),
        ("exponential", "attention_energy", "increasing"),
        ("sigmoid", "attention_energy", "increasing"),
        ("linear", "attention_energy", "increasing"),
        ("sinkhorn", "sinkhorn_cost", "decreasing"),
    ] {
        let normalization = format!("kernel.normalization=\"{normalization}\"");
        for (value, behaviour) in [(0.7, up), (-0.7, if up == "increasing" { "decreasing" } else { "increasing" })] {
            let head = format!("head=[{{value={value}}}]");
            // The exponential and linear flows escape before t = 1.
            let world = simulated(&[&normalization, &head, "time.end=0.3"]);
            let report = world.report("run");
            let law = report["laws"].as_array().unwrap().iter().find(|law| law["name"] == name).unwrap().clone();
            assert_eq!(law["behaviour"], behaviour, "{normalization}");
            let values: Vec<f64> = law["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            // It moves, and never the wrong way beyond the solver's 1e-10.
            assert!(values.len() == 11 && (values[0] - values[10]).abs() > 1e-3, "{values:?}");
            assert!(law["largest_violation"].as_f64().unwrap() <= 1e-12, "{law}");
        }
    }
    assert_eq!(simulated(&[]).report("run")["laws"].as_array().unwrap().len(), 0, "V is no multiple of QᵀK there");
}

#[test]
fn sinkhorn_that_cannot_converge_or_be_is_refused_and_nothing_is_written() {
    let expected = "does not converge at epsilon = 0.01: after 2 iterations the residual is ";
    let hard = [SINKHORN, "kernel.epsilon=0.01", "kernel.max_iterations=2"];
    refused(&hard, 1, expected);
    let world = world();
    world.refuse(&arguments("field", "f.safetensors", &hard), 1, expected);
    refused(&[SINKHORN, "kernel.mask=\"causal\""], 2, "expected full for sinkhorn");
    refused(&[SINKHORN, "kernel.epsilon=0.0"], 2, "`kernel (epsilon)`: expected a finite number > 0, found 0");
    refused(&["kernel.epsilon=1.0"], 2, "`kernel.epsilon`: expected normalization = \"sinkhorn\" beside it");
    refused(
        &[SINKHORN, "kernel.half_steps=2", "kernel.tolerance=1e-3"],
        2,
        "`kernel.half_steps`: expected either a count",
    );
    refused(&[SINKHORN, "kernel.half_steps=0"], 2, "`kernel.half_steps`: expected 1 to 10000, found 0");
    refused(&[SINKHORN, "space.coordinates=\"rescaled\""], 2, "softmax or hardmax weights");
}

#[test]
fn a_beta_that_overflows_is_refused() {
    let overrides = ["kernel.normalization=\"exponential\"", "kernel.beta=2000.0", "head=[{}]"];
    let expected =
        "`kernel.beta`: expected weights with which the initial tokens have velocities below 1e154 (here up to ";
    refused(&overrides, 2, expected);
    // On the sphere every score is at most beta: e^705 is finite, but no step follows such velocities.
    let sphere = ["kernel.normalization=\"exponential\"", "space.geometry=\"sphere\"", "head=[{}]"];
    let far = [&sphere[..], &["kernel.beta=705.0"]].concat();
    refused(&far, 2, expected);
    refused(&far, 2, "found 705.0, with which they overflow");
    // e^350 = 1e152.
    let near = [&sphere[..], &["kernel.beta=350.0"]].concat();
    world().succeed(&arguments("field", "f.safetensors", &near));
}

#[test]
fn placements_run_where_they_belong() {
    for overrides in [
        &["space.placement=\"pre\""][..],
        &["space.placement=\"peri\""],
        &["space={geometry=\"sphere\", placement=\"ngpt\", alpha=0.5}"],
        &["space={geometry=\"sphere\", placement=\"post\"}"],
        &["space={placement=\"pre\"}", "time={end=1.0, save=11, layers=10}"],
    ] {
        let world = simulated_with_unit_tokens(overrides);
        assert_eq!(world.report("run")["stop"]["reason"], "end_time", "{overrides:?}");
    }
    let post = simulated_with_unit_tokens(&["space={geometry=\"sphere\"}"]);
    let named = simulated_with_unit_tokens(&["space={geometry=\"sphere\", placement=\"post\"}"]);
    assert_eq!(end_of(&post), end_of(&named), "post-LN is the sphere's own");
}

fn simulated_with_unit_tokens(overrides: &[&str]) -> World {
    let mut all = vec!["tokens.values=[[1.0, 0.0], [0.6, -0.8], [-0.8, 0.6]]"];
    all.extend(overrides);
    simulated(&all)
}

/// Mix-LN is post-LN until the cut and pre-LN after it: the second half is a pre-LN run from where the first one ends.
#[test]
fn mix_is_post_and_then_pre() {
    let mix = simulated_with_unit_tokens(&["space={placement=\"mix\", mix_until=0.5}"]);
    let first = simulated_with_unit_tokens(&["space={geometry=\"sphere\"}", "time.end=0.5"]);
    let tokens = end_of(&first);
    let world = world();
    world.write("x.npy", npy(&[3, 2], &tokens));
    world.succeed(&arguments(
        "simulate",
        "run",
        &["tokens={file=\"x.npy\"}", "space.placement=\"pre\"", "time.end=0.5"],
    ));
    // Solver tolerance 1e-10 a step; the second run begins with a step size of its own.
    assert_near(&end_of(&mix), &end_of(&world), 1e-9);
}

/// Layers of weights: two tables are two runs, the second from where the first ends; also as residual layers.
#[test]
fn layers_of_weights_are_runs_one_after_the_other() {
    let layers = "layer=[{head=[{value=0.5}]}, {head=[{value=-0.8}, {value=[[0.0, 1.0], [-1.0, 0.0]]}]}]";
    for time in ["time={end=1.0, save=11}", "time={end=1.0, save=11, layers=8}"] {
        let half = time.replace("end=1.0", "end=0.5").replace("layers=8", "layers=4");
        let whole = simulated(&["head=[{}]", layers, time]);
        let first = simulated(&["head=[{value=0.5}]", &half]);
        let world = world();
        world.write("x.npy", npy(&[4, 2], &end_of(&first)));
        let second = "head=[{value=-0.8}, {value=[[0.0, 1.0], [-1.0, 0.0]]}]";
        world.succeed(&arguments("simulate", "run", &["tokens={file=\"x.npy\"}", second, &half]));
        // Solver tolerance 1e-10 a step; equal to rounding for residual layers.
        assert_near(&end_of(&whole), &end_of(&world), if time.contains("layers") { 1e-15 } else { 1e-9 });
    }
    let early = "layer=[{head=[{value=0.5}], end=0.3}, {head=[{}], end=1.0}]";
    assert_eq!(simulated(&["head=[{}]", early]).report("run")["stop"]["time"], 1.0);
    refused(&[layers], 2, "`layer`: expected either [[head]] or [[layer]] tables, found both");
    refused(&["head=[{}]", layers, "time.layers=3"], 2, "`time.layers`: expected a multiple of the 2 layers");
    refused(&["head=[{}]", "layer=[{head=[{}], end=0.5}]"], 2, "`layer.end`: expected in all tables or none");
    refused(&["head=[{}]", "layer=[{head=[{value=[[1.0]]}]}]"], 2, "`layer[0].head[0].value`: expected shape [r, 2]");
    refused(&["head=[{}]", layers, "space.coordinates=\"rescaled\""], 2, "`layer`: expected plain coordinates");
}

/// A table with `repeat` is so many tables; random matrices are drawn anew for each, and adapters too where they say so.
#[test]
fn repeated_layers_are_drawn_one_by_one() {
    let fixed = "layer=[{head=[{value=0.5}], repeat=3}, {head=[{value=-0.5}]}]";
    let tables = "layer=[{head=[{value=0.5}]}, {head=[{value=0.5}]}, {head=[{value=0.5}]}, {head=[{value=-0.5}]}]";
    let same = |a: &str, b: &str| end_of(&simulated(&["head=[{}]", a])) == end_of(&simulated(&["head=[{}]", b]));
    assert!(same(fixed, tables));
    let random = |count: u32| format!("layer=[{{head=[{{value={{law=\"normal\"}}}}], repeat={count}}}]");
    assert!(!same(&random(1), &random(2)), "the second half has a draw of its own");
    let twin = |each: &str| {
        let lora = format!(
            "lora={{target=\"value\", each_layer={each}, a={{law=\"normal\", shape=[1, 2]}}, b={{law=\"normal\", shape=[2, 1]}}}}"
        );
        let world = simulated(&["head=[{}]", "layer=[{head=[{}], repeat=4}]", &lora]);
        world.tensors("run/trajectory.safetensors")["tokens_lora"].values()
    };
    assert_ne!(twin("true"), twin("false"));
    assert_eq!(twin("true"), twin("true"));
    refused(&["head=[{}]", "layer=[{head=[{}], repeat=0}]"], 2, "`layer[0].repeat`: expected at least 1");
    refused(&["head=[{}]", "layer=[{head=[{}], repeat=1000000}]"], 2, "at most 65536 layers");
    refused(&["head=[{}]", "layer=[{head=[{}], repeat=2, end=1.0}]"], 2, "`layer[0].repeat`: expected equal shares");
}

/// No attention, so x(t) = e^{tW} x.
#[test]
fn a_feed_forward_layer_moves_tokens() {
    let world = simulated(&["head=[{value=0.0}]", "feed_forward={weight=-0.5, bias=[0.0, 1.0]}"]);
    let decay = (-0.5_f64).exp();
    let expected: Vec<f64> = [1.0, 0.0, 0.5, -0.5, -0.25, 0.75, -1.0, -0.5]
        .chunks(2)
        .flat_map(|x: &[f64]| [decay * x[0], 2.0 + decay * (x[1] - 2.0)])
        .collect();
    assert_near(&end_of(&world), &expected, 1e-9);
    refused(&["feed_forward={weight=1.0, bias=[1.0]}"], 2, "`feed_forward.bias`: expected 2 numbers, found 1");
}

#[test]
fn noise_depends_on_the_seed_and_on_nothing_else() {
    let euler = "time={end=1.0, save=11, method=\"euler\", dt=0.02}";
    let run = |seed: &str, threads: &str| {
        let world = world();
        let mut all = arguments("simulate", "run", &["noise.temperature=0.3", euler]);
        all.extend(["--seed", seed, "--threads", threads]);
        world.succeed(&all);
        end_of(&world)
    };
    assert_eq!(run("5", "1"), run("5", "2"));
    assert_ne!(run("5", "1"), run("6", "1"));
    assert_ne!(run("5", "1"), end_of(&simulated(&[euler])));
    refused(&["noise.temperature=0.3"], 2, "`time.method`: expected \"euler\" with dt beside [noise]");
    refused(&["noise.temperature=-1.0", euler], 2, "`noise (temperature)`: expected a finite number > 0");
    let off = "time={end=1.0, save=8, method=\"euler\", dt=0.02}";
    refused(&["noise.temperature=0.3", off], 2, "on the grid of dt = 0.02");
}

#[test]
fn placements_that_have_no_meaning_are_refused() {
    refused(&["space.placement=\"post\""], 2, "`space.placement`: expected \"none\", \"pre\", \"peri\" or \"mix\"");
    refused(&["space={geometry=\"sphere\", placement=\"pre\"}"], 2, "`space.placement`: expected \"post\" or \"ngpt\"");
    refused(&["space.placement=\"mix\""], 2, "`space.mix_until`: expected a time inside the run");
    refused(&["space.alpha=2.0"], 2, "`space.alpha`: expected placement = \"ngpt\" beside it");
    refused(
        &["space={coordinates=\"rescaled\", placement=\"pre\"}"],
        2,
        "`space.placement`: expected plain coordinates",
    );
    refused(&["feed_forward.weight=1.0", "space.coordinates=\"rescaled\""], 2, "`feed_forward`: expected plain");
    refused(
        &["tokens.values=[[0.0, 0.0], [1.0, 0.0]]", "space.placement=\"pre\""],
        2,
        "`tokens`: expected tokens other than 0",
    );
}
