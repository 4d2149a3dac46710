//! Output folders that must not be touched, cannot be written, or are full.

use std::fs;
use std::process::{Command, Stdio};

use crate::util::{Ended, World, skip};

fn tiny() -> World {
    let world = World::new();
    world.write("run.toml", "tokens.values = [[1.0, 0.0], [0.0, 1.0]]\ntime.end = 0.5\ntime.save = 3\n");
    world
}

const RUN: [&str; 4] = ["simulate", "run.toml", "-o", "run"];

#[test]
fn a_folder_that_no_run_wrote_is_never_touched() {
    let world = tiny();
    fs::create_dir(world.path().join("run")).unwrap();
    world.write("run/thesis.tex", "years of work");
    for flag in [None, Some("--overwrite"), Some("--resume")] {
        let arguments: Vec<&str> = RUN.into_iter().chain(flag).collect();
        world.refuse(&arguments, 2, "run: expected an empty folder or a run folder, found `thesis.tex`");
        assert_eq!(world.files("run").keys().collect::<Vec<_>>(), ["thesis.tex"]);
    }
}

#[test]
fn a_finished_run_is_kept_unless_it_may_be_overwritten() {
    let world = tiny();
    world.succeed(&RUN);
    let before = world.files("run");
    world.refuse(&RUN, 2, "run: holds a finished run");
    world.refuse(&["simulate", "run.toml", "-o", "run", "--resume"], 2, "run: holds a finished run");
    assert!(world.files("run") == before);
    world.write("run/notes.txt", "mine");
    world.succeed(&["simulate", "run.toml", "-o", "run", "--overwrite", "--set", "time.end=0.25"]);
    assert_eq!(world.report("run")["stop"]["time"], 0.25);
    assert_eq!(world.read("run/notes.txt"), b"mine", "files that are not ours stay");
}

#[test]
fn an_output_that_is_a_file_or_inside_one_is_refused() {
    let world = tiny();
    world.write("file", "content");
    world.refuse(&["simulate", "run.toml", "-o", "file"], 2, "file: expected a folder, found a file");
    assert_eq!(world.read("file"), b"content");
    let ended = world.run(&["simulate", "run.toml", "-o", "file/run"]);
    assert!(ended.code.is_some_and(|code| code != 0 && code != 101), "{ended:?}");
    assert!(ended.stderr.starts_with("error: file/run: "), "{ended:?}");
}

#[test]
fn an_empty_folder_is_taken_and_resuming_nothing_is_refused() {
    let world = tiny();
    world.refuse(&["simulate", "run.toml", "-o", "run", "--resume"], 2, "run: expected an unfinished run to resume");
    fs::create_dir(world.path().join("run")).unwrap();
    world.succeed(&RUN);
    assert!(world.files("run").contains_key("DONE"));
}

#[test]
fn rendering_needs_a_finished_run() {
    let world = tiny();
    let expected = "expected the folder of a finished run, found no DONE file of ours";
    world.refuse(&["render", "absent"], 4, expected);
    fs::create_dir(world.path().join("run")).unwrap();
    world.refuse(&["render", "run"], 4, expected);
    world.write("run/DONE", "something else\n");
    world.refuse(&["render", "run"], 4, expected);
    fs::remove_dir_all(world.path().join("run")).unwrap();
    world.succeed(&RUN);
    fs::remove_file(world.path().join("run/display.safetensors")).unwrap();
    world.refuse(&["render", "run"], 4, "run/display.safetensors: cannot be read: no such file");
    world.write("run/report.json", "{\"schema\": ");
    world.refuse(&["render", "run"], 4, "run/report.json: expected the JSON report of a run");
}

/// Runs a shell script in a user namespace of its own, in which tests may mount; none where the system forbids it.
#[cfg(target_os = "linux")]
pub(crate) fn in_a_namespace(world: &World, script: &str) -> Option<Ended> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_metastable"),
        ]);
        command.current_dir(world.path()).stdin(Stdio::null()).output().ok().map(Ended::from)
    };
    fs::create_dir(world.path().join("disk")).unwrap();
    let permitted = unshare("mount -t tmpfs -o size=64k none disk").is_some_and(|ended| ended.code == Some(0));
    if !permitted {
        skip("mounting a small tmpfs needs user namespaces");
        return None;
    }
    unshare(script)
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_clear_error_and_no_half_written_file() {
    let world = tiny();
    let script = "mount -t tmpfs -o size=128k none disk && \"$1\" simulate run.toml -o disk/run --set tokens='{law=\"uniform\",n=40,d=3}' \
                  --set time.save=301; code=$?; find disk -type f; exit $code";
    let Some(ended) = in_a_namespace(&world, script) else { return };
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.starts_with("error: disk/run/") && ended.stderr.contains("no space left on the device"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("\nhint: free some space and run the same command again"), "{ended:?}");
    assert!(!ended.stdout.contains("DONE") && !ended.stdout.contains(".tmp"), "{ended:?}");
    assert!(ended.stderr.lines().count() == 2, "{ended:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_may_not_be_written_is_an_error_that_names_it() {
    let world = tiny();
    // Read-only for everybody, root included.
    let script = "mount -t tmpfs -o ro none disk && \"$1\" simulate run.toml -o disk/run";
    let Some(ended) = in_a_namespace(&world, script) else { return };
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.starts_with("error: disk/run: cannot be written: "), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}
