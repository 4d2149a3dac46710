//! The README's main job: a LoRA twin simulated, in one command.

use std::fs;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

use crate::util::{World, check_page, repository};

const FILES: [&str; 12] = [
    "DONE",
    "config.resolved.toml",
    "display.safetensors",
    "figures/clusters.svg",
    "figures/cosine.svg",
    "figures/distances.svg",
    "figures/energy.svg",
    "figures/trajectories.svg",
    "metrics.parquet",
    "report.html",
    "report.json",
    "trajectory.safetensors",
];

fn main_job() -> (World, String) {
    let world = World::new();
    let stdout = world.succeed(&["simulate", &repository("examples/lora-twin.toml"), "-o", "run"]).stdout;
    (world, stdout)
}

/// What `path` (keys joined by dots) leads to; it must be there.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| {
        let next = key.parse::<usize>().map_or_else(|_| value.get(key), |index| value.get(index));
        next.unwrap_or_else(|| panic!("no `{key}` of `{path}`"))
    })
}

#[test]
fn the_summary_shows_the_three_times_and_where_the_report_is() {
    let (_world, stdout) = main_job();
    for line in ["cluster time", "departure time", "second-cluster time"] {
        let shown =
            stdout.lines().find(|shown| shown.trim_start().starts_with(line)).unwrap_or_else(|| panic!("{stdout}"));
        assert!(shown.contains("t = "), "{shown}");
    }
    for word in ["20 tokens in R^2", "seed 42", "run/report.html", "2 clusters"] {
        assert!(stdout.contains(word), "`{word}` is not in {stdout}");
    }
}

#[test]
fn the_run_folder_holds_every_file_of_the_contract() {
    let (world, _) = main_job();
    let files = world.files("run");
    for file in FILES {
        assert!(files.contains_key(file), "{file}");
    }
    assert!(files.keys().all(|name| !name.starts_with('.') && !name.starts_with("checkpoint")), "{:?}", files.keys());
    let done: Value = serde_json::from_slice(&files["DONE"]).unwrap();
    let digest = metastable::provenance::sha256_hex(&files["report.json"]);
    assert_eq!(done, json!({ "program": "metastable", "schema": 1, "report_sha256": digest }));
    let written = |name: &str| fs::metadata(world.path().join("run").join(name)).unwrap().modified().unwrap();
    assert!(files.keys().all(|name| written(name) <= written("DONE")), "DONE is written last");
}

#[test]
fn the_report_has_every_key_of_the_contract() {
    let (world, _) = main_job();
    let report = world.report("run");
    for path in [
        "schema",
        "provenance.version",
        "provenance.commit",
        "provenance.seed",
        "provenance.machine",
        "provenance.dtype",
        "provenance.inputs",
        "stop.reason",
        "stop.time",
        "solver.steps",
        "solver.rejected",
        "solver.evaluations",
        "clusters.count",
        "clusters.labels",
        "clusters.centers",
        "clusters.radius",
        "twin.max_distance",
    ] {
        assert!(!at(&report, path).is_null(), "{path}");
    }
    assert_eq!((at(&report, "stop.reason"), at(&report, "stop.time")), (&json!("end_time"), &json!(30.0)));
    assert_eq!(at(&report, "provenance.seed"), 42);
    for series in ["series", "twin.series"] {
        for column in
            ["t", "energy", "log_energy", "n_clusters", "max_mass", "mean_cosine", "diameter", "effective_rank"]
        {
            let values = at(&report, &format!("{series}.{column}")).as_array().unwrap();
            assert_eq!(values.len(), 301, "{series}.{column}");
            // e^{S} of growing tokens leaves the range of f64; the logarithm of the energy does not.
            assert!(column == "energy" || values.iter().all(Value::is_number), "{series}.{column}");
        }
    }
    for column in ["twin.wasserstein2", "twin.bound", "twin.log_bound", "twin.paired_distance.max"] {
        assert_eq!(at(&report, column).as_array().unwrap().len(), 301, "{column}");
    }
    for time in ["cluster_time", "departure_time", "second_cluster_time"] {
        let value = at(&report, &format!("twin.{time}.value")).as_f64().unwrap();
        let [lo, hi] = [0, 1].map(|side| at(&report, &format!("twin.{time}.bracket.{side}")).as_f64().unwrap());
        assert!(lo <= value && value <= hi && hi - lo < 1e-6, "{time}: {value} in [{lo}, {hi}]");
    }
}

/// arXiv 2402.15415v1, section 6, integrated exactly: centres of V = I for the seed-42 tokens, of the oracle file of the
/// project's theory notes [checked].
#[test]
fn the_two_clusters_stand_where_the_theory_puts_them() {
    let (world, _) = main_job();
    let centers = at(&world.report("run"), "clusters.centers").clone();
    let expected = [[-0.736_620_222_5, 0.709_169_168_0], [-0.325_938_749_6, -0.386_272_174_6]];
    for point in expected {
        let near =
            |center: &Value| point.iter().enumerate().all(|(c, x)| (center[c].as_f64().unwrap() - x).abs() < 1e-8);
        assert!(centers.as_array().unwrap().iter().any(near), "{point:?} in {centers}");
    }
}

#[test]
fn trajectories_have_the_shapes_and_types_of_the_contract() {
    let (world, _) = main_job();
    let tensors = world.tensors("run/trajectory.safetensors");
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["time", "tokens", "tokens_lora"]);
    assert_eq!(tensors["time"].shape, [301]);
    let times = tensors["time"].values();
    assert!(times[0] == 0.0 && times[300] == 30.0 && times.is_sorted());
    for name in ["tokens", "tokens_lora"] {
        assert_eq!(tensors[name].shape, [301, 20, 2]);
        assert!(tensors[name].values().iter().all(|x| x.is_finite()));
    }
    let starts = ["tokens", "tokens_lora"].map(|name| tensors[name].values()[..40].to_vec());
    assert_eq!(starts[0], starts[1], "both runs begin with the same tokens");
}

#[test]
fn the_metrics_table_is_readable_parquet_with_a_row_per_run_and_time() {
    let (world, _) = main_job();
    let file = fs::File::open(world.path().join("run/metrics.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let metadata = reader.metadata().file_metadata();
    assert_eq!(metadata.num_rows(), 602);
    let columns: Vec<&str> = metadata.schema_descr().columns().iter().map(|column| column.name()).collect();
    for column in ["run", "t", "energy", "n_clusters", "mean_cosine", "wasserstein2", "bound"] {
        assert!(columns.contains(&column), "{columns:?}");
    }
    assert_eq!(reader.get_row_iter(None).unwrap().map(Result::unwrap).count(), 602);
}

#[test]
fn render_rebuilds_the_same_bytes_from_the_report_alone() {
    let (world, _) = main_job();
    let before = world.files("run");
    for name in before.keys().filter(|name| name.ends_with(".svg") || name.ends_with(".html") || name.ends_with(".md"))
    {
        fs::remove_file(world.path().join("run").join(name)).unwrap();
    }
    fs::remove_file(world.path().join("run/trajectory.safetensors")).unwrap();
    let ended = world.succeed(&["render", "run"]);
    assert_eq!(ended.stdout, "run/report.html\n");
    let after = world.files("run");
    for (name, bytes) in before.iter().filter(|(name, _)| *name != "trajectory.safetensors") {
        assert!(after.get(name) == Some(bytes), "{name}");
    }
}

#[test]
fn the_resolved_config_gives_the_same_trajectory() {
    let (world, _) = main_job();
    world.succeed(&["simulate", "run/config.resolved.toml", "-o", "again"]);
    assert!(world.read("run/trajectory.safetensors") == world.read("again/trajectory.safetensors"));
    assert!(world.read("run/config.resolved.toml") == world.read("again/config.resolved.toml"));
    assert_eq!(world.report("run")["title"], world.report("again")["title"]);
}

#[test]
fn a_dry_run_prints_the_resolved_config_and_writes_nothing() {
    let world = World::new();
    let config = repository("examples/lora-twin.toml");
    let ended = world.succeed(&["simulate", &config, "--dry-run", "--seed", "7", "--set", "kernel.beta=2"]);
    assert!(ended.stdout.contains("seed = 7") && ended.stdout.contains("beta = 2.0"), "{}", ended.stdout);
    assert!(world.names().is_empty());
    world.write("resolved.toml", &ended.stdout);
    assert_eq!(world.succeed(&["simulate", "resolved.toml", "--dry-run"]).stdout, ended.stdout);
}

#[test]
fn without_an_output_the_run_goes_to_runs_and_the_name_of_the_config() {
    let world = World::new();
    world.write("tiny.toml", "tokens.values = [[1.0], [2.0]]\ntime.end = 0.1\ntime.save = 2\n");
    world.succeed(&["simulate", "tiny.toml"]);
    assert!(world.files("runs/tiny").contains_key("DONE"));
}

#[test]
fn machine_readable_summaries_are_whole_documents() {
    let world = World::new();
    world.write(
        "tiny.toml",
        "tokens.values = [[1.0], [2.0]]\ntime.end = 0.1\nlora = {target = \"value\", delta = 0.1}\n",
    );
    let ended = world.succeed(&["simulate", "tiny.toml", "-o", "json", "--format", "json"]);
    let summary: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(summary["twin"].get("departure_time").is_some() && summary["stop"]["reason"] == "end_time");
    let ended = world.succeed(&["simulate", "tiny.toml", "-o", "csv", "--format", "csv"]);
    assert_eq!(ended.stdout.lines().count(), 4, "{}", ended.stdout);
    assert!(ended.stdout.starts_with("event,time\n"), "{}", ended.stdout);
}

/// Follows `$ref`s and `anyOf`s: whether the schema knows this key path (list numbers left out).
fn knows(root: &Value, schema: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target =
            root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} leads nowhere"));
        return knows(root, target, path);
    }
    let choices = ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    choices.into_iter().any(|choice| knows(root, choice, path))
        || schema.get("items").is_some_and(|items| knows(root, items, path))
        || schema.get("properties").and_then(|all| all.get(first)).is_some_and(|next| knows(root, next, rest))
        || schema
            .get("additionalProperties")
            .is_some_and(|any| *any == true || any.is_object() && knows(root, any, rest))
}

fn key_paths(value: &toml::Value, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                path.push(key.clone());
                paths.push(path.clone());
                key_paths(value, path, paths);
                path.pop();
            }
        }
        toml::Value::Array(list) => list.iter().for_each(|value| key_paths(value, path, paths)),
        _ => {}
    }
}

#[test]
fn the_schema_knows_every_key_of_every_example() {
    let world = World::new();
    let schema_of = |job| serde_json::from_str::<Value>(&world.succeed(&["schema", job]).stdout).unwrap();
    let [simulate, sweep, finetune] = ["simulate", "sweep", "finetune"].map(schema_of);
    assert!(!knows(&simulate, &simulate, &["time", "ned"]), "the test can fail");
    let files = ["examples", "examples/finetune"].map(|folder| fs::read_dir(repository(folder)).unwrap());
    let mut seen = [0; 3];
    for entry in files.into_iter().flatten() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let (mut path, mut paths) = (Vec::new(), Vec::new());
        let config = toml::Value::Table(toml::from_str(&fs::read_to_string(&file).unwrap()).unwrap());
        key_paths(&config, &mut path, &mut paths);
        let (job, command, schema) = match (config.get("model"), config.get("base")) {
            (Some(_), _) => (2, "finetune", &finetune),
            (None, Some(_)) => (1, "sweep", &sweep),
            (None, None) => (0, "simulate", &simulate),
        };
        seen[job] += 1;
        for keys in paths {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            assert!(knows(schema, schema, &keys), "{}: {keys:?}", file.display());
        }
        world.succeed(&[command, file.to_str().unwrap(), "--dry-run"]);
    }
    assert!(seen.iter().all(|jobs| *jobs > 0), "{seen:?}");
}

#[test]
fn the_page_loads_in_a_browser_without_a_console_error() {
    let (world, _) = main_job();
    check_page(&world.path().join("run/report.html"));
}
