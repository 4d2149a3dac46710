//! Sweeps as scripts see them: one table whatever the threads and interruptions, failures that lose nothing but their
//! point, and refusals that leave no trace.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::util::{World, check_page};

const BASE: &str = "[base]\ntokens = {law = \"uniform\", n = 6, d = 2}\ntime = {end = 1.0, save = 3}\n\
                    space.coordinates = \"rescaled\"\nkernel = {beta = 1.0}\n";

fn world(rest: &str) -> World {
    let world = World::new();
    world.write("sweep.toml", format!("{rest}\n{BASE}"));
    world
}

fn lines(world: &World, file: &str) -> Vec<String> {
    String::from_utf8(world.read(file)).unwrap().lines().map(str::to_owned).collect()
}

const GRID: &str = "seeds = 3\nvary = [{key = \"kernel.beta\", name = \"beta\", linspace = {from = 0.5, to = 2.0, count = 4}}]\n\
                    keep = [\"clusters.count\", \"series.mean_cosine\", \"stop.reason\"]";

#[test]
fn a_sweep_has_one_row_for_every_point_and_its_statistics() {
    let world = world(GRID);
    world.succeed(&["sweep", "sweep.toml", "-o", "run"]);
    let rows = lines(&world, "run/points.csv");
    assert_eq!(rows[0], "point,beta,seed,clusters_count,mean_cosine,stop_reason,error");
    assert_eq!(rows.len(), 13);
    assert!(rows[1].starts_with("0,0.5,0,") && rows[12].starts_with("11,2.0,2,"), "{rows:?}");
    let report = world.report("run");
    assert_eq!((report["job"].as_str(), report["points"]["total"].as_u64()), (Some("sweep"), Some(12)));
    // The mean of the three rows of beta = 0.5, in the order of the table.
    let cosine = |row: &String| row.split(',').nth(4).unwrap().parse::<f64>().unwrap();
    let mean = rows[1..4].iter().map(cosine).sum::<f64>() / 3.0;
    assert_eq!(report["columns"][1]["mean"][0].as_f64(), Some(mean));
    assert_eq!(report["columns"][2]["shares"][0]["value"], "end_time");
    assert_eq!(report["columns"][2]["shares"][0]["hits"], serde_json::json!([3, 3, 3, 3]));
    for file in ["DONE", "config.resolved.toml", "points.parquet", "report.html", "figures/curve-mean_cosine.svg"] {
        assert!(world.path().join("run").join(file).exists(), "{file}");
    }
    assert!(!world.path().join("run/checkpoint").exists());
    check_page(&world.path().join("run/report.html"));
    // Again from the run folder, and every rendering from the report alone.
    world.succeed(&["sweep", "run/config.resolved.toml", "-o", "again"]);
    assert_eq!(world.read("run/points.parquet"), world.read("again/points.parquet"));
    let before = world.files("run");
    world.succeed(&["render", "run"]);
    assert!(world.files("run") == before);
}

#[test]
fn a_point_of_a_sweep_is_the_simulation_of_its_values() {
    let world = world(GRID);
    world.succeed(&["sweep", "sweep.toml", "-o", "run"]);
    world.write("alone.toml", BASE.replace("[base]\n", "seed = 2\n").replace("beta = 1.0", "beta = 2.0"));
    world.succeed(&["simulate", "alone.toml", "-o", "alone"]);
    let series = world.report("alone")["series"]["mean_cosine"].clone();
    let row = lines(&world, "run/points.csv")[12].clone();
    assert_eq!(row.split(',').nth(4).unwrap().parse::<f64>().unwrap(), series[2].as_f64().unwrap());
}

#[test]
fn one_thread_and_two_give_the_same_bytes_in_every_file() {
    let world = world(GRID);
    for threads in ["1", "2"] {
        world.succeed(&["sweep", "sweep.toml", "-o", threads, "--threads", threads]);
    }
    world.assert_same("1", "2");
}

#[test]
fn rows_can_be_saved_times() {
    let world = world(&format!("rows = \"time\"\n{GRID}"));
    world.succeed(&["sweep", "sweep.toml", "-o", "run"]);
    let rows = lines(&world, "run/points.csv");
    assert_eq!(rows[0], "point,beta,seed,t,clusters_count,mean_cosine,stop_reason,error");
    assert_eq!(rows.len(), 1 + 12 * 3);
    let axes = &world.report("run")["axes"];
    assert_eq!((axes[1]["name"].as_str(), axes[1]["values"].clone()), (Some("t"), serde_json::json!([0.0, 0.5, 1.0])));
    assert!(world.path().join("run/figures/map-mean_cosine.svg").exists());
}

#[test]
fn a_point_that_fails_is_recorded_and_loses_no_other() {
    let sweep = "vary = [{key = \"kernel.beta\", values = [1.0, nan, 2.0]}]\nkeep = [\"clusters.count\"]";
    let world = world(sweep);
    let ended = world.run(&["sweep", "sweep.toml", "-o", "run"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let expected = "error: run: 1 of 3 points failed; the first: kernel.beta = NaN, seed 0: sweep.toml: `kernel";
    assert!(ended.stderr.starts_with(expected), "{ended:?}");
    let rows = lines(&world, "run/points.csv");
    assert!(rows[1].ends_with(",") && rows[3].ends_with(",") && rows[2].contains("sweep.toml: `kernel"), "{rows:?}");
    assert!(world.path().join("run/DONE").exists());
    assert_eq!(world.report("run")["points"]["failed"], 1);
}

#[test]
fn a_dry_run_writes_nothing() {
    let world = world(GRID);
    let before = world.names();
    let shown = world.succeed(&["sweep", "sweep.toml", "--dry-run", "--set", "seeds=5"]).stdout;
    assert!(shown.contains("seeds = 5") && shown.contains("[base.tokens]"), "{shown}");
    assert_eq!(world.names(), before);
}

#[test]
fn the_base_may_be_a_file_beside_the_sweep() {
    let world = World::new();
    std::fs::create_dir(world.path().join("configs")).unwrap();
    world.write("configs/x.npy", crate::util::npy(&[3, 2], &[1.0, 0.0, 0.0, 1.0, -1.0, 0.5]));
    world.write("configs/base.toml", "tokens.file = \"x.npy\"\ntime = {end = 1.0, save = 2}\n");
    world.write("sweep.toml", "base = \"configs/base.toml\"\nset = {\"time.end\" = 2.0}\nseeds = [4, 9]\n");
    world.succeed(&["sweep", "sweep.toml", "-o", "run"]);
    let report = world.report("run");
    assert!(report["provenance"]["inputs"]["x.npy"].is_string());
    let rows = lines(&world, "run/points.csv");
    assert!(rows[1].starts_with("0,4,end_time,2.0,") && rows[2].starts_with("1,9,"), "{rows:?}");
    world.succeed(&["sweep", "run/config.resolved.toml", "-o", "again"]);
    assert_eq!(world.read("run/points.csv"), world.read("again/points.csv"));
}

#[test]
fn what_cannot_be_a_sweep_is_refused_without_a_trace() {
    let cases = [
        ("seeds = 0", "sweep.toml: `seeds`: expected at least one seed, found 0"),
        ("seeds = [1, 1]", "`seeds`: expected every seed once, found 1 twice"),
        ("seeds = -3", "`seeds`"),
        ("sedes = 3", "unknown key `sedes`"),
        ("confidence = 1.0", "`confidence`: expected a number between 0 and 1"),
        ("vary = [{key = \"kernel.beta\"}]", "`vary[0]`: expected one of values, linspace, logspace, range and case"),
        ("vary = [{key = \"kernel.betta\", values = [1, 2]}]", "unknown key `betta` in `kernel`"),
        ("vary = [{key = \"kernel.beta.x\", values = [1, 2]}]", "`kernel.beta.x`: expected a table or a list"),
        ("vary = [{key = \"kernel.beta\", values = [\"hot\"]}]", "`kernel.beta`: expected a number"),
        ("vary = [{key = \"seed\", values = [1]}]", "expected `seeds` for what varies the seed"),
        ("vary = [{key = \"a\", range = {to = 9999}}, {key = \"b\", range = {to = 9999}}]", "at most 10000000 points"),
        ("keep = [\"clusters.cuont\"]", "`keep[0]`: expected a path of the report, where there is `count`"),
        ("keep = [\"twin.departure_time\"]", "`keep[0]`"),
        ("keep = [{path = \"series.energy\", att = 1.0}]", "unknown key `att` in `keep[0]`"),
        (
            "overlay = [{curve = \"gamma\"}]",
            "`overlay[0].curve`: expected an entry of vary with the key \"kernel.beta\"",
        ),
        ("set = {\"tokens..n\" = 3}", "`set.tokens..n`"),
    ];
    for (config, expected) in cases {
        world(config).refuse(&["sweep", "sweep.toml", "-o", "run"], 2, expected);
    }
    let world = World::new();
    world.write("sweep.toml", "base = 3\n");
    world.refuse(&["sweep", "sweep.toml", "-o", "run"], 2, "`base`: expected the name of a config of simulate");
    world.write("sweep.toml", "base = \"absent.toml\"\n");
    world.refuse(&["sweep", "sweep.toml", "-o", "run"], 4, "absent.toml: cannot be read: no such file");
    world.write("sweep.toml", "seeds = 2\n");
    world.refuse(&["sweep", "sweep.toml", "-o", "run"], 2, "the key `base` is missing");
}

#[test]
fn laws_of_matrices_are_read_and_refused_by_key() {
    let base = |query: &str| {
        format!(
            "seeds = 2\nkeep = [\"gaussian.regime\", \"gaussian.limit_rank\"]\n[base]\ntime = {{end = 1.0, save = 2}}\n\
             gaussian.covariance = {{law = \"normal\", shape = [3, 3], form = \"outer\"}}\nhead = [{{query = {query}, \
             key = {{law = \"normal\", shape = [1, 3], stream = 1, scale = -1.0}}}}]\n"
        )
    };
    let world = World::new();
    world.write("sweep.toml", base("{law = \"normal\", shape = [1, 3], stream = 1}"));
    world.succeed(&["sweep", "sweep.toml", "-o", "run"]);
    // K = -Q of rank one and V = I: the limit has rank 2, by a theorem.
    let rows = lines(&world, "run/points.csv");
    assert!(rows[1].starts_with("0,0,collapse,2.0,") && rows[2].starts_with("1,1,collapse,2.0,"), "{rows:?}");
    for (query, expected) in [
        ("{law = \"normal\", shape = [1, 2]}", "`head[0].query`: expected shape"),
        ("{law = \"gauss\"}", "unknown value `gauss` in `head[0].query.law`"),
        ("{lwa = \"normal\"}", "unknown key `lwa` in `head[0].query`"),
        ("{law = \"numpy_randn\", seed = 4294967296}", "`head[0].query.seed`: expected at most 4294967295"),
        ("{law = \"uniform\", low = 2.0}", "`head[0].query.low`: expected finite low < high"),
    ] {
        world.write("bad.toml", base(query));
        world.refuse(&["sweep", "bad.toml", "-o", "bad"], 2, expected);
    }
}

#[test]
fn the_schema_of_a_sweep_names_its_keys() {
    let schema: serde_json::Value = serde_json::from_str(&World::new().succeed(&["schema", "sweep"]).stdout).unwrap();
    for key in ["base", "seeds", "vary", "keep", "rows", "confidence", "overlay"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

/// A sweep under way that says after every point that it is saved.
struct Started {
    child: Child,
    lines: BufReader<ChildStderr>,
}

impl Started {
    fn new(world: &World, folder: &str) -> Self {
        let mut command = world.command(&["sweep", "sweep.toml", "-o", folder, "-v", "--threads", "2"]);
        command.env("METASTABLE_CHECKPOINT_SECONDS", "0").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines }
    }

    /// Waits until so many points are saved.
    fn wait_for(&mut self, points: usize) {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the sweep ended before {points} points");
            let saved = line.strip_prefix("note: state saved: ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            if saved.is_some_and(|saved: usize| saved >= points) {
                return;
            }
        }
    }
}

/// Enough points to be killed among: some milliseconds each.
const LONG: &str = "seeds = 200\nvary = [{key = \"kernel.beta\", values = [1.0, 2.0]}]\nset = {\"time.end\" = 30.0}";

#[test]
fn a_sweep_killed_again_and_again_continues_to_the_same_bytes_and_keeps_what_is_done() {
    let world = world(LONG);
    world.succeed(&["sweep", "sweep.toml", "-o", "whole"]);
    for points in [3, 40, 90] {
        let mut sweep = Started::new(&world, "killed");
        sweep.wait_for(points);
        sweep.child.kill().unwrap();
        sweep.child.wait().unwrap();
        let files = world.files("killed");
        assert!(files.contains_key("checkpoint/journal.bin") && !files.contains_key("DONE"));
    }
    // What was done before is not done again: at most 310 points are left, and one more line each is said.
    let ended = world
        .command(&["sweep", "sweep.toml", "-o", "killed", "-v"])
        .env("METASTABLE_CHECKPOINT_SECONDS", "0")
        .output()
        .unwrap();
    let said = String::from_utf8(ended.stderr).unwrap().lines().filter(|line| line.contains("state saved")).count();
    assert!(ended.status.success() && said <= 310, "{said}");
    world.assert_same("whole", "killed");
}

#[test]
fn a_journal_with_a_torn_end_loses_one_point() {
    let world = world(LONG);
    world.succeed(&["sweep", "sweep.toml", "-o", "whole"]);
    let mut sweep = Started::new(&world, "torn");
    sweep.wait_for(10);
    sweep.child.kill().unwrap();
    sweep.child.wait().unwrap();
    let mut bytes = world.read("torn/checkpoint/journal.bin");
    bytes.truncate(bytes.len() - 5);
    world.write("torn/checkpoint/journal.bin", bytes);
    world.succeed(&["sweep", "sweep.toml", "-o", "torn", "--resume"]);
    world.assert_same("whole", "torn");
}

#[test]
fn schedulers_and_users_stop_a_sweep_with_their_own_codes_and_it_continues() {
    let world = world(LONG);
    world.succeed(&["sweep", "sweep.toml", "-o", "whole"]);
    for (signal, code) in [("TERM", 75), ("INT", 130)] {
        let mut sweep = Started::new(&world, "stopped");
        sweep.wait_for(2);
        let kill = Command::new("sh").args(["-c", &format!("kill -{signal} {}", sweep.child.id())]).status().unwrap();
        assert!(kill.success());
        // The pipe must not fill up while we wait.
        let rest: Vec<String> = sweep.lines.lines().map(Result::unwrap).collect();
        assert_eq!(sweep.child.wait().unwrap().code(), Some(code), "{rest:?}");
        assert!(rest.iter().any(|line| line.ends_with("the state is saved")), "{rest:?}");
    }
    // Another sweep does not continue this one.
    let other = ["sweep", "sweep.toml", "-o", "stopped", "--set", "seeds=201"];
    world.refuse(&other, 2, "stopped: holds an unfinished run of configuration");
    world.succeed(&["sweep", "sweep.toml", "-o", "stopped"]);
    world.assert_same("whole", "stopped");
}
