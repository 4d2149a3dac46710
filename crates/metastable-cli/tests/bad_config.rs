//! Configurations that cannot be meant: one line that names the key, code 2, nothing written.

use crate::util::World;

/// Three tokens of the plane, one unit of time.
const GOOD: &str = "[tokens]\nvalues = [[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]]\n[time]\nend = 1.0\nsave = 3\n";

/// Refuses the good configuration with these overrides.
fn refused(overrides: &[&str], expected: &str) {
    let world = World::new();
    world.write("run.toml", GOOD);
    let mut arguments = vec!["simulate", "run.toml", "-o", "run"];
    overrides.iter().for_each(|change| arguments.extend(["--set", change]));
    world.refuse(&arguments, 2, expected);
}

/// Refuses a configuration written like this.
fn refused_text(text: &str, expected: &str) {
    let world = World::new();
    world.write("run.toml", text);
    world.refuse(&["simulate", "run.toml", "-o", "run"], 2, expected);
}

#[test]
fn the_good_configuration_runs() {
    let world = World::new();
    world.write("run.toml", GOOD);
    world.succeed(&["simulate", "run.toml", "-o", "run"]);
}

#[test]
fn unknown_keys_and_choices_are_placed_and_suggested() {
    let cases = [
        ("sav = 4\n", "run.toml:6:1: unknown key `sav` in `time`", "did you mean `save`?"),
        ("method = \"tsit6\"\n", "run.toml:6:10: unknown value `tsit6` in `time.method`", "did you mean `tsit5`?"),
        ("[kernel]\nmask = \"cuasal\"\n", "unknown value `cuasal` in `kernel.mask`", "did you mean `causal`?"),
        ("[kernel]\nnormalization = \"softmx\"\n", "unknown value `softmx`", "did you mean `softmax`?"),
        ("[[head]]\nvlaue = 1.0\n", "unknown key `vlaue` in `head[0]`", "did you mean `value`?"),
        ("[lora]\ntarget = \"vlaue\"\n", "unknown value `vlaue`", "did you mean `value`?"),
    ];
    for (addition, expected, hint) in cases {
        let world = World::new();
        world.write("run.toml", format!("{GOOD}{addition}"));
        world.refuse(&["simulate", "run.toml", "-o", "run"], 2, expected);
        let stderr = world.run(&["simulate", "run.toml", "-o", "run"]).stderr;
        assert!(stderr.ends_with(&format!("hint: {hint}\n")), "{stderr}");
    }
    refused(&["kernel.bta=2"], "unknown key `bta` in `kernel`");
    for tolerance in ["rtol", "atol"] {
        let set = format!("time.{tolerance}=1e-9");
        let expected = format!("`time.{tolerance}`: expected 1e-6 or more with precision \"f32\", found 1e-9");
        refused(&["precision=\"f32\"", &set], &expected);
    }
    refused(&["precision=\"f16\""], "unknown value `f16` in `precision`; expected one of `f64`, `f32`");
    refused(&["head=[{value=\"identiti\"}]"], "`head[0].value`: expected \"identity\", \"zero\"");
}

#[test]
fn broken_and_incomplete_configurations_are_refused() {
    refused_text("[tokens\n", "run.toml:1:8: unclosed table");
    refused_text("seed = 1\nseed = 2\n", "run.toml:2:1: duplicate key");
    refused_text(
        "[time]\nend = 1\n",
        "`tokens`: expected exactly one of file, values and law, or a [gaussian], found none",
    );
    refused_text("[tokens]\nvalues = [[1.0]]\n", "the key `time` is missing");
    refused_text("[tokens]\n[time]\nend = 1\n", "`tokens`: expected exactly one of file, values and law");
    refused(&["tokens.law=\"uniform\""], "`tokens`: expected exactly one of file, values and law");
    refused(&["time"], "--set time: expected key=value, found no `=`");
}

#[test]
fn shapes_that_do_not_fit_are_named_with_expected_and_found() {
    refused(&["head=[{value=[[1.0]]}]"], "`head[0].value`: expected shape [r, 2], found [1, 1]");
    refused(&["head=[{value=[[1.0, 2.0]]}]"], "`head[0] (value)`: expected shape [2, 2], found [1, 2]");
    refused(&["head=[{query=[[1.0, 2.0, 3.0]]}]"], "`head[0].query`: expected shape [r, 2], found [1, 3]");
    refused(&["head=[{key=[[1.0, 2.0]]}]"], "`head[0] (key)`: expected shape [2, 2], found [1, 2]");
    refused(&["head=[{output=[[1.0, 2.0, 3.0]]}]"], "`head[0].output`: expected shape [2, 2], found [1, 3]");
    refused(&["head=[{value=[[1.0, 2.0], [1.0]]}]"], "`head[0].value, row 1`: expected 2 entries, found 1");
    refused(&["head=[{value=[]}]"], "`head[0].value`: expected shape");
    refused(&["tokens.values=[[1.0], [1.0, 2.0]]"], "row 1)`: expected 1 entries, found 2");
    refused(&["head=[]"], "`head`: expected at least one [[head]] table, found none");
    refused(&["tokens={law=\"gaussian\", n=2, d=2, mean=[1.0]}"], "`tokens.mean`: expected 2 numbers, found 1");
}

#[test]
fn numbers_that_are_not_finite_are_refused_where_they_stand() {
    for (value, name) in [("nan", "NaN"), ("inf", "inf"), ("-inf", "-inf")] {
        let found = format!("found {name}");
        for key in [
            format!("tokens.values=[[1.0, 0.0], [0.0, {value}]]"),
            format!("head=[{{value=[[1.0, 0.0], [0.0, {value}]]}}]"),
            format!("head=[{{query={value}}}]"),
            format!("kernel.beta={value}"),
            format!("time.end={value}"),
            format!("time.rtol={value}"),
            format!("observe.cluster_radius={value}"),
            format!("lora={{target=\"value\", a=[[1.0, 0.0]], b=[[1.0], [0.0]], alpha={value}}}"),
            format!("tokens={{law=\"gaussian\", n=2, d=1, mean=[{value}]}}"),
            format!("tokens={{law=\"uniform\", n=2, d=1, low={value}}}"),
        ] {
            refused(&[&key], if key.contains("low=") { "`tokens.low`: expected finite low < high" } else { &found });
        }
    }
}

#[test]
fn times_that_cannot_be_are_refused() {
    refused(&["time.end=-1.0"], "`time.end`: expected a positive number, found -1");
    refused(&["time.end=0"], "`time.end`: expected a positive number, found 0");
    for save in ["0", "1"] {
        refused(&[&format!("time.save={save}")], &format!("`time.save`: expected at least 2 times, found {save}"));
    }
    for save in ["[0.5, 0.2]", "[0.5, 0.5]", "[2.0]", "[-1.0]", "[]"] {
        let expected = format!("`time.save`: expected increasing times in [0, 1], found {save}");
        refused(&[&format!("time.save={save}")], &expected);
    }
    refused(&["time.save=2.5"], "`time.save`: expected a number of times to save, or a list of times");
    for save in ["1000000000000", "9223372036854775807"] {
        refused(&[&format!("time.save={save}")], "`time.save`: expected at most 357913941 times of 6 numbers each");
    }
}

#[test]
fn methods_and_steps_that_exclude_each_other_are_refused() {
    refused(&["time.layers=0"], "`time.layers`: expected a positive number");
    refused(&["time.layers=3", "time.dt=0.1"], "`time.layers`: expected a positive number, without dt");
    refused(
        &["time.dt=0.1", "time.rtol=1e-5"],
        "`time.dt`: expected either a fixed step dt, or rtol and atol, found both",
    );
    refused(&["time.dt=-0.1"], "`time.dt`: expected a positive number, found -0.1");
    refused(&["time.method=\"euler\""], "`time.dt`: expected a step for a fixed-step method, found none");
    refused(&["time.rtol=0"], "`time.rtol`: expected a positive number, found 0");
    refused(&["time.max_steps=0"], "`time.max_steps`: expected a positive number, found 0");
}

#[test]
fn symmetric_matrices_are_checked_where_mathematics_needs_them() {
    let cascade = "lora={target=\"value\", delta=[[0.0, 0.1], [0.0, 0.0]]}";
    let rescaled = "space.coordinates=\"rescaled\"";
    refused(
        &["observe.cascade=true", cascade, rescaled],
        "`observe.cascade`: expected a symmetric update, found an asymmetry of 1e-1",
    );
    refused(&["observe.cascade=true"], "`observe.cascade`: expected a [lora] update, found none");
    let covariance = |rows: &str| format!("tokens={{law=\"gaussian\", n=5, d=2, covariance={rows}}}");
    refused(
        &[&covariance("[[1.0, 0.5], [0.2, 1.0]]")],
        "`tokens.covariance`: expected a symmetric matrix, found an asymmetry of 3e-1",
    );
    refused(
        &[&covariance("[[1.0, 2.0], [2.0, 1.0]]")],
        "`tokens.covariance`: expected a positive semidefinite matrix, found an eigenvalue of -1e0",
    );
    refused(&[&covariance("[[1.0]]")], "`tokens.covariance`: expected shape [2, 2], found [1, 1]");
}

#[test]
fn clouds_of_no_token_or_of_too_many_are_refused() {
    refused(&["tokens={law=\"uniform\", n=0, d=2}"], "`tokens.n`: expected at least 1, found 0");
    refused(&["tokens={law=\"uniform\", n=2, d=0}"], "`tokens.d`: expected at least 1, found 0");
    refused(&["tokens={law=\"uniform\", n=-1, d=2}"], "`tokens.n`: expected a whole number that is not negative");
    refused(&["tokens={law=\"uniform\", n=1000000000000, d=2}"], "`tokens.n`: expected n·d of at most 2147483648");
    refused(
        &["tokens={law=\"uniform\", n=4294967296, d=4294967296}"],
        "`tokens.n`: expected n·d of at most 2147483648",
    );
    refused(
        &["tokens={law=\"orthonormal\", n=3, d=2}"],
        "`tokens.n`: expected at most d = 2 orthonormal tokens, found 3",
    );
    for values in ["[]", "[[]]", "[[], []]"] {
        refused(&[&format!("tokens.values={values}")], "expected shape [n, d] with n >= 1 and d >= 1");
    }
}

#[test]
fn lora_updates_that_are_incomplete_or_do_not_fit_are_refused() {
    let lora = |keys: &str| format!("lora={{target=\"value\"{keys}}}");
    let either = "`lora[0]`: expected either a and b, or delta";
    refused(&[&lora("")], either);
    refused(&[&lora(", a=[[1.0, 0.0]]")], either);
    refused(&[&lora(", a=[[1.0, 0.0]], b=[[1.0], [0.0]], delta=0.1")], either);
    refused(&["lora={delta=0.1}"], "the key `target` is missing in `lora`");
    refused(
        &["lora={target=[], delta=0.1}"],
        "`lora[0].target`: expected \"query\", \"key\" or \"value\", found an empty list",
    );
    refused(&[&lora(", a=[[1.0, 0.0, 2.0]], b=[[1.0], [0.0]]")], "`lora[0].a`: expected shape [r, 2], found [1, 3]");
    refused(&[&lora(", a=[[1.0, 0.0]], b=[[1.0]]")], "`lora[0].b`: expected shape [2, 1], found [1, 1]");
    refused(&[&lora(", delta=[[1.0]]")], "`lora[0].delta`: expected shape [2, 2], found [1, 1]");
    refused(&[&lora(", delta=0.1, alpha=2.0")], "`lora[0].delta`: expected no alpha or rslora beside a dense update");
    refused(&[&lora(", delta=0.1, heads=[1]")], "`lora[0].heads`: expected head numbers below 1, found 1");
    refused(&[&lora(", delta=0.1, heads=[]")], "`lora[0].heads`: expected at least one head, found an empty list");
    refused(&[&lora(", delta=0.1, heads=[0, 0]")], "`lora[0].heads`: expected each head once, found head 0 twice");
}

#[test]
fn spaces_and_kernels_that_exclude_each_other_are_refused() {
    let rescaled = "space.coordinates=\"rescaled\"";
    refused(&[rescaled, "space.geometry=\"sphere\""], "`space.coordinates`: expected \"plain\" on the sphere");
    for kernel in ["exponential", "linear", "sigmoid"] {
        let kernel = format!("kernel.normalization=\"{kernel}\"");
        refused(&[rescaled, &kernel], "expected softmax or hardmax weights for rescaled coordinates");
    }
    refused(&[rescaled, "precision=\"f32\""], "`precision`: expected \"f64\" in rescaled coordinates");
    refused(&[rescaled, "head=[{}, {}]"], "expected one head for \"rescaled\", found 2 heads");
    refused(&[rescaled, "head=[{output=\"identity\"}]"], "expected a head without output matrix");
    refused(
        &["space.geometry=\"sphere\"", "tokens.values=[[0.0, 0.0], [1.0, 0.0]]"],
        "`tokens`: expected tokens other than 0 on the sphere",
    );
    refused(&["kernel.bias=1.0"], "`kernel.bias`: expected a sigmoid normalization beside it");
    for radius in ["0", "-1"] {
        refused(&[&format!("observe.cluster_radius={radius}")], "`observe.cluster_radius`: expected a positive number");
    }
}

#[test]
fn seeds_that_the_resolved_config_could_not_hold_are_refused() {
    let world = World::new();
    world.write("run.toml", GOOD);
    for seed in ["9223372036854775808", "18446744073709551615"] {
        let expected = "seed: expected at most 9223372036854775807";
        world.refuse(&["simulate", "run.toml", "-o", "run", "--seed", seed], 2, expected);
    }
    assert_eq!(world.run(&["simulate", "run.toml", "--seed", "18446744073709551616"]).code, Some(2));
    refused(&["seed=-1"], "`seed`: expected a whole number that is not negative");
    refused(&["seed=1.5"], "`seed`: expected a whole number that is not negative");
    world.succeed(&["simulate", "run.toml", "-o", "run", "--seed", "9223372036854775807"]);
    world.succeed(&["simulate", "run/config.resolved.toml", "-o", "again"]);
    assert_eq!(world.report("again")["provenance"]["seed"], 9_223_372_036_854_775_807_u64);
}

#[test]
fn a_wrong_time_between_checkpoints_is_refused() {
    let world = World::new();
    world.write("run.toml", GOOD);
    let output =
        world.command(&["simulate", "run.toml"]).env("METASTABLE_CHECKPOINT_SECONDS", "soon").output().unwrap();
    let ended = crate::util::Ended::from(output);
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.stderr,
        "error: METASTABLE_CHECKPOINT_SECONDS: expected a number of seconds, 0 or more, found soon\n"
    );
    assert_eq!(world.names(), ["run.toml"]);
}
