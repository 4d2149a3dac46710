//! `[gaussian]` in `metastable simulate`: files, keys of the report, and what is refused.

use crate::util::World;

const BLOW_UP: &str = r#"
time = { end = 4.0, save = 41 }
gaussian = { mean = [0.4, -0.7, 0.2], covariance = [[1.0, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 0.5]] }

[[head]]
query = [[0.6, -0.4, 0.2], [0.1, 0.5, -0.3], [-0.2, 0.3, 0.7]]
key = [[0.5, 0.2, -0.1], [-0.3, 0.4, 0.6], [0.2, -0.5, 0.3]]
"#;

const PLANE: &str = r#"
time = { end = 2.0, save = 5 }
gaussian = { covariance = [[1.0, 0.3], [0.3, 0.8]] }
head = [{ key = -1.0 }]
"#;

/// A run with overrides must be refused with this error, and leave nothing.
fn refused(overrides: &[&str], expected: &str) {
    let world = World::new();
    world.write("run.toml", PLANE);
    let sets = overrides.iter().flat_map(|text| ["--set", text]);
    let arguments: Vec<&str> = ["simulate", "run.toml", "-o", "out"].into_iter().chain(sets).collect();
    world.refuse(&arguments, 2, expected);
}

#[test]
fn a_blow_up_is_located_between_its_bounds() {
    let world = World::new();
    world.write("run.toml", BLOW_UP);
    world.succeed(&["simulate", "run.toml", "-o", "out"]);
    let report = world.report("out");
    assert_eq!(report["gaussian"]["regime"], "blow_up");
    assert!(report["gaussian"]["limit_rank"].is_null());
    let time = report["gaussian"]["blow_up_time"].as_f64().unwrap();
    // The printed digits of the theory; the closed form is exact to the rounding of an eigenvalue problem.
    assert!((time - 2.467462393483598).abs() < 1e-13, "{time}");
    let pole = |key: &str| report["gaussian"]["blow_up"][key].as_f64().unwrap();
    assert!(pole("not_before") < pole("lower") && pole("lower") <= time && time <= pole("upper"));
    assert_eq!(report["stop"]["reason"], "blow_up");
    // The run itself ends where rounding of t hides the pole.
    assert!((report["stop"]["time"].as_f64().unwrap() - time).abs() < 1e-9);
    let tensors = world.tensors("out/trajectory.safetensors");
    // 0, 0.1, ..., 2.4.
    assert_eq!(tensors["time"].shape, [25]);
    assert_eq!((&tensors["mean"].shape[..], &tensors["covariance"].shape[..]), (&[25, 3][..], &[25, 3, 3][..]));
    for file in
        ["report.html", "report.md", "metrics.parquet", "figures/eigenvalues.svg", "figures/ellipses.svg", "DONE"]
    {
        assert!(!world.read(&format!("out/{file}")).is_empty() || file == "DONE", "{file}");
    }
    for column in ["t", "trace", "log_det", "rank", "condition", "eigenvalues", "value_trace"] {
        assert_eq!(report["series"][column].as_array().unwrap().len(), 25, "{column}");
    }
    let ended = world.succeed(&["simulate", "run.toml", "-o", "again", "--format", "csv"]);
    assert!(
        ended
            .stdout
            .starts_with("run,regime,limit_rank,blow_up_time,blow_up_lower,blow_up_upper\nbase,blow_up,,2.467462")
    );
}

#[test]
fn a_twin_is_followed_beside_the_base_and_the_folder_renders_again() {
    let world = World::new();
    world.write("run.toml", PLANE);
    let lora = "lora={target=\"value\", delta=[[0.0, 0.0], [0.0, -0.5]]}";
    world.succeed(&["simulate", "run.toml", "-o", "out", "--set", lora]);
    let report = world.report("out");
    assert_eq!(report["gaussian"]["regime"], "collapse");
    assert_eq!(report["gaussian"]["limit_rank"], 0);
    assert_eq!(report["gaussian"]["certificate"]["is_proven"], true);
    assert_eq!(report["twin"]["gaussian"]["limit_rank"], 0);
    let distances = report["twin"]["wasserstein2"].as_array().unwrap();
    assert_eq!(distances.len(), 5);
    // The overlap of equal factors, up to rounding.
    assert!(distances[0].as_f64().unwrap() < 1e-14);
    assert!(distances[4].as_f64().unwrap() > 1e-3);
    assert_eq!(report["twin"]["wasserstein2"], report["twin"]["bures"], "the means stay at zero");
    let tensors = world.tensors("out/trajectory.safetensors");
    assert_eq!(tensors["covariance_lora"].shape, [5, 2, 2]);
    let before = world.files("out");
    world.succeed(&["render", "out"]);
    assert!(before == world.files("out"));
    world.succeed(&["simulate", "out/config.resolved.toml", "-o", "again"]);
    assert_eq!(world.read("out/trajectory.safetensors"), world.read("again/trajectory.safetensors"));
}

#[test]
fn moments_that_are_none_are_refused() {
    let covariance = |rows: &str| format!("gaussian={{covariance={rows}}}");
    refused(
        &["gaussian={}"],
        "`gaussian.d`: expected the dimension, which neither mean nor covariance tells, found none",
    );
    let expected =
        "`gaussian.covariance`: expected \"identity\", or another [d, d] matrix, inline or in a file, found none";
    refused(&["gaussian={d=2}"], expected);
    refused(
        &[&covariance("[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]")],
        "`gaussian.covariance`: expected shape [2, 2], found [2, 3]",
    );
    refused(
        &["gaussian={mean=[1.0, 2.0, 3.0], covariance=[[1.0, 0.0], [0.0, 1.0]]}"],
        "`gaussian.covariance`: expected shape [3, 3], found [2, 2]",
    );
    refused(
        &[&covariance("[[1.0, 0.5], [0.25, 1.0]]")],
        "`gaussian.covariance`: expected a symmetric matrix, found an asymmetry of 2.5e-1",
    );
    refused(
        &[&covariance("[[1.0, 2.0], [2.0, 1.0]]")],
        "`gaussian.covariance`: expected a positive semidefinite matrix, found the eigenvalue -",
    );
    refused(&[&covariance("[[nan, 0.0], [0.0, 1.0]]")], "`gaussian.covariance`: expected finite numbers, found NaN");
    refused(
        &["gaussian={mean=[1.0, inf], covariance=1.0}"],
        "`gaussian.mean`: expected finite numbers, found inf at entry 1",
    );
    refused(&["gaussian={mean=[1.0, 2.0], covariance=1.0, d=3}"], "`gaussian.d`: expected 2");
    refused(
        &["gaussian={mean=\"m\", covariance=1.0, d=3}"],
        "`gaussian.mean`: expected a list of numbers, or a .npy or .safetensors file, found m",
    );
    refused(&["head=[{value=[[nan, 0.0], [0.0, 1.0]]}]"], "`head[0].value`: expected finite numbers, found NaN");
    refused(&["gaussian={mean=3, covariance=1.0}"], "a list of numbers, a file name, or {file, tensor}");
    refused(&["gaussian={covariance=1.0, d=2000}"], "a dimension of at most 1024, found 2000");
}

#[test]
fn kernels_under_which_a_gaussian_does_not_stay_one_are_refused_with_the_reason() {
    for (kernel, reason) in [
        ("kernel.normalization=\"exponential\"", "which is not affine and explodes in x"),
        ("kernel.normalization=\"sigmoid\"", "the excess kurtosis"),
        ("kernel.normalization=\"hardmax\"", "a Gaussian has no largest score"),
        ("kernel.mask=\"causal\"", "`kernel.mask`: expected a kernel under which a Gaussian stays Gaussian"),
        ("space.geometry=\"sphere\"", "the normalised tokens of a Gaussian are not Gaussian"),
    ] {
        refused(&[kernel], reason);
    }
    refused(&["kernel.beta=1e308"], "`kernel.beta`: expected scores and values whose products");
    refused(&["kernel={score=\"squared_distance\", beta=-1.0}"], "`kernel.beta`: expected a number >= 0");
}

/// s' = 2as² + 2ws + 2τ on the line under repulsion: the balance of attention, W x and noise.
#[test]
fn feed_forward_and_noise_have_the_keys_of_tokens() {
    let world = World::new();
    world.write("run.toml", "time = { end = 40.0, save = 3 }\ngaussian = { mean = [1.0], covariance = [[0.7]] }\n");
    let sets = ["head=[{ key = -1.0 }]", "feed_forward={ weight = 0.5, bias = [0.25] }", "noise={ temperature = 0.2 }"];
    let arguments = sets.iter().flat_map(|text| ["--set", *text]);
    world.succeed(&["simulate", "run.toml", "-o", "out"].into_iter().chain(arguments).collect::<Vec<_>>());
    let report = world.report("out");
    assert_eq!(report["gaussian"]["regime"], "bounded");
    let covariance = world.tensors("out/trajectory.safetensors")["covariance"].values()[2];
    // -s² + s/2 + 0.2 = 0; approached like e^{-2t}.
    let expected = 0.25 + (0.0625 + 0.2_f64).sqrt();
    assert!((covariance - expected).abs() < 1e-10, "{covariance} {expected}");
    let resolved = String::from_utf8(world.read("out/config.resolved.toml")).unwrap();
    assert!(resolved.contains("[feed_forward]") && resolved.contains("[noise]"), "{resolved}");
}

#[test]
fn tables_that_exclude_each_other_are_refused() {
    refused(&["tokens={values=[[1.0, 0.0]]}"], "`gaussian`: expected either [tokens] or [gaussian], found both");
    refused(&["space.coordinates=\"rescaled\""], "`space.coordinates`: expected \"plain\" for a Gaussian");
    refused(&["noise.temperature=-1.0"], "`noise.temperature`: expected a finite number > 0, found -1");
    refused(&["noise.temperature=0.1", "time={end=1.0, layers=4}"], "no noise beside a finite number of layers");
    refused(&["noise.temperature=0.1", "gaussian.particles=8"], "`gaussian.particles`: expected attention alone");
    refused(&["gaussian.noise=0.1"], "`gaussian.noise`: expected [noise] at the top level, with the key `temperature`");
    refused(
        &["gaussian.feed_forward={weight=1.0}"],
        "`gaussian.feed_forward`: expected [feed_forward] at the top level, with the same keys",
    );
    refused(&["gaussian.repeats=2"], "`gaussian.repeats`: expected `particles` beside it");
    refused(&["gaussian.particles=[]", "gaussian.repeats=2"], "`gaussian.repeats`");
    refused(&["gaussian.particles=1000000000"], "`gaussian.particles`: expected at least 2 particles");
    refused(&["gaussian.grid={points=1}"], "`gaussian.grid.points`: expected between 2 and 200");
    refused(&["gaussian.grid={points=9, reach=2.0}"], "`gaussian.grid.reach`: expected a number in (0, 1]");
    refused(&["feed_forward={weight=[[1.0]]}"], "`feed_forward.weight`: expected shape [2, 2]");
    refused(&["feed_forward={weight=1.0, bias=[1.0]}"], "`feed_forward.bias`: expected 2 numbers, found 1");
    refused(&["gaussian.colour=1"], "unknown key `colour` in `gaussian`");
    let world = World::new();
    world.write("run.toml", PLANE);
    world.refuse(&["field", "run.toml", "-o", "f.safetensors"], 2, "`gaussian`: expected [tokens] for this command");
}

#[test]
fn the_page_of_a_gaussian_with_all_its_parts_is_quiet() {
    let world = World::new();
    world.write("run.toml", PLANE);
    let parts = [
        "gaussian.grid={points=8}",
        "gaussian.particles=[16, 32]",
        "lora={target=\"value\", delta=[[0.0, 0.0], [0.0, -2.5]]}",
    ];
    let sets = parts.iter().flat_map(|text| ["--set", text]);
    world.succeed(&["simulate", "run.toml", "-o", "out"].into_iter().chain(sets).collect::<Vec<_>>());
    let report = world.report("out");
    // Of 64 grid points on [-1, 1]², those in the unit disc.
    let family = report["gaussian"]["family"]["count"].as_u64().unwrap();
    assert_eq!(report["cluster_history"]["labels"][0].as_array().unwrap().len() as u64, family + 1);
    assert_eq!(report["gaussian"]["particles"].as_array().unwrap().len(), 2);
    let tensors = world.tensors("out/trajectory.safetensors");
    assert_eq!(tensors["family_covariance"].shape, [5, family as usize, 2, 2]);
    for figure in ["cone.svg", "eigenvalues.svg", "ellipses.svg", "distances.svg"] {
        let svg = String::from_utf8(world.read(&format!("out/figures/{figure}"))).unwrap();
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{figure}");
    }
    crate::util::check_page(&world.path().join("out/report.html"));
}
