//! Runs that are killed, stopped or interrupted, and continued by the same command: the bytes are those of a run that
//! nobody disturbed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::util::{Ended, World, repository};

/// The main job until t = 20: base run, twin run, and a second look at the twin from its departure, of some 200, 500 and
/// 400 steps.
fn twin() -> String {
    format!(
        "time = {{end = 20.0, save = 81}}\nspace.coordinates = \"rescaled\"\ntokens.file = \"{}\"\n\
         lora = {{target = \"value\", delta = [[0.0, 0.0], [0.0, -0.1]]}}\n",
        repository("examples/tokens/seed-42.npy")
    )
}

const PHASES: [&str; 3] = ["base run", "twin run", "second clusters"];

fn world() -> World {
    let world = World::new();
    world.write("twin.toml", twin());
    world.succeed(&["simulate", "twin.toml", "-o", "whole"]);
    for time in ["cluster_time", "departure_time", "second_cluster_time"] {
        assert!(world.report("whole")["twin"][time]["value"].is_number(), "every phase has something to do: {time}");
    }
    world
}

/// A run under way that saves its state after every step and says so.
struct Started {
    child: Child,
    lines: BufReader<ChildStderr>,
}

impl Started {
    fn new(world: &World, folder: &str) -> Self {
        let mut command = world.command(&["simulate", "twin.toml", "-o", folder, "-v", "--no-progress"]);
        command.env("METASTABLE_CHECKPOINT_SECONDS", "0").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self { child, lines }
    }

    /// Waits until the state of a phase was saved some times.
    fn wait_for(&mut self, phase: &str) {
        let (mut line, mut seen) = (String::new(), 0);
        while seen < 5 {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the run ended before `{phase}`");
            seen += usize::from(line.starts_with(&format!("note: state saved: {phase}")));
        }
    }

    /// The last words, and how the process ended.
    fn end(mut self) -> (String, std::process::ExitStatus) {
        let rest: Vec<String> = self.lines.lines().map(Result::unwrap).collect();
        let last = rest.into_iter().filter(|line| !line.starts_with("note: ")).collect::<Vec<_>>().join("\n");
        (last, self.child.wait().unwrap())
    }

    fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(status.success());
    }
}

/// The same command again, which must say `words` on stderr and complete the run.
fn continued(world: &World, folder: &str, words: &str) {
    let ended = world.run(&["simulate", "twin.toml", "-o", folder, "--no-progress"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), words), "{}", ended.stdout);
    world.assert_same("whole", folder);
}

#[test]
fn a_run_killed_in_any_phase_continues_to_the_same_bytes() {
    let world = world();
    for phase in PHASES {
        let mut run = Started::new(&world, "killed");
        run.wait_for(phase);
        run.child.kill().unwrap();
        let (_, status) = run.end();
        assert_eq!(status.signal(), Some(9));
        let files = world.files("killed");
        assert!(files.contains_key("checkpoint/state.bin") && !files.contains_key("DONE"), "{phase}");
        continued(&world, "killed", "");
        fs::remove_dir_all(world.path().join("killed")).unwrap();
    }
}

/// Warm starts of Sinkhorn, cuts between layers and noise are all in the saved state.
#[test]
fn runs_with_memory_layers_or_noise_killed_at_any_step_continue_to_the_same_bytes() {
    let tokens = "tokens = {law = \"gaussian\", n = 30, d = 3}\nlora = {target = \"value\", delta = 0.1}\n";
    for kind in [
        "time = {end = 3.0, save = 11}\nkernel = {normalization = \"sinkhorn\", epsilon = 2.0}\nhead = [{value = 0.3}]",
        "time = {end = 2.0, save = 11}\nlayer = [{head = [{value = -0.5}]}, {head = [{value = 0.5}]}]",
        "time = {end = 3.0, save = 11, method = \"euler\", dt = 0.02}\nnoise.temperature = 0.1\nhead = [{value = -0.3}]",
    ] {
        let world = World::new();
        world.write("twin.toml", format!("{tokens}{kind}\n"));
        world.succeed(&["simulate", "twin.toml", "-o", "whole"]);
        for phase in &PHASES[..2] {
            let mut run = Started::new(&world, "killed");
            run.wait_for(phase);
            run.child.kill().unwrap();
            run.end();
        }
        continued(&world, "killed", "");
    }
}

#[test]
fn a_run_killed_again_and_again_continues_to_the_same_bytes() {
    let world = world();
    for phase in [PHASES[0], PHASES[0], PHASES[1], PHASES[1], PHASES[2], PHASES[2]] {
        let mut run = Started::new(&world, "killed");
        run.wait_for(phase);
        run.child.kill().unwrap();
        run.end();
    }
    continued(&world, "killed", "");
}

#[test]
fn a_run_killed_while_the_report_is_written_continues_to_the_same_bytes() {
    let world = world();
    for file in ["trajectory.safetensors", "report.json", "report.html", "DONE"] {
        let mut run = world.command(&["simulate", "twin.toml", "-o", "killed"]).stdout(Stdio::null()).spawn().unwrap();
        // Not a sleep: the kill is to come as soon as the file is there, or never if the run is faster.
        while !world.path().join("killed").join(file).exists() && run.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        run.kill().unwrap();
        run.wait().unwrap();
        if world.files("killed").contains_key("DONE") {
            // Killed after the end, or not at all: the next command tidies up what the kill left, and changes nothing else.
            assert_eq!(world.run(&["simulate", "twin.toml", "-o", "killed"]).code, Some(2));
        } else {
            continued(&world, "killed", "");
        }
        world.assert_same("whole", "killed");
        fs::remove_dir_all(world.path().join("killed")).unwrap();
    }
}

#[test]
fn schedulers_and_users_stop_a_run_with_their_own_codes_and_it_continues() {
    let world = world();
    let request = "stopped on request";
    let cases: [(&str, i32, &str, &[&str]); 3] = [
        ("TERM", 75, request, &PHASES),
        ("USR1", 75, request, &PHASES[1..2]),
        ("INT", 130, "interrupted", &[PHASES[0], PHASES[2]]),
    ];
    for (signal, code, word, phases) in cases {
        for phase in phases {
            let mut run = Started::new(&world, "stopped");
            run.wait_for(phase);
            run.signal(signal);
            let (words, status) = run.end();
            assert_eq!(status.code(), Some(code), "{signal} in {phase}: {words}");
            let expected =
                format!("error: stopped: {word}; the state is saved\nhint: run the same command again to continue");
            assert_eq!(words, expected);
        }
        let ended = world.run(&["simulate", "twin.toml", "-o", "stopped", "--resume", "--no-progress"]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        world.assert_same("whole", "stopped");
        fs::remove_dir_all(world.path().join("stopped")).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_run_starts_over() {
    let world = world();
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("its digest does not fit its content", |bytes| bytes[20] ^= 1),
        ("its digest does not fit its content", |bytes| bytes.truncate(bytes.len() - 100)),
        ("it is too short", Vec::clear),
    ];
    for (reason, damage) in damages {
        let mut run = Started::new(&world, "damaged");
        run.wait_for(PHASES[1]);
        run.child.kill().unwrap();
        run.end();
        let mut bytes = world.read("damaged/checkpoint/state.bin");
        damage(&mut bytes);
        world.write("damaged/checkpoint/state.bin", bytes);
        continued(&world, "damaged", &format!("note: the checkpoint is damaged ({reason}): starting over\n"));
        fs::remove_dir_all(world.path().join("damaged")).unwrap();
    }
}

#[test]
fn an_unfinished_run_of_another_configuration_is_refused() {
    let world = world();
    let mut run = Started::new(&world, "run");
    run.wait_for(PHASES[0]);
    run.child.kill().unwrap();
    run.end();
    let before = world.files("run");
    let other = ["simulate", "twin.toml", "-o", "run", "--seed", "4"];
    world.refuse(&other, 2, "run: holds an unfinished run of configuration");
    assert!(world.files("run") == before);
    world.succeed(&["simulate", "twin.toml", "-o", "run", "--seed", "4", "--overwrite"]);
    assert_eq!(world.report("run")["provenance"]["seed"], 4);
}

#[test]
fn a_second_process_is_refused_while_the_first_one_writes() {
    let world = world();
    let mut run = Started::new(&world, "run");
    run.wait_for(PHASES[0]);
    for flag in ["--resume", "--overwrite"] {
        let second = world.run(&["simulate", "twin.toml", "-o", "run", flag]);
        assert_eq!(second.code, Some(1), "{second:?}");
        assert!(
            second.stderr.starts_with("error: run: another process is writing this run folder\nhint: "),
            "{second:?}"
        );
    }
    let (words, status) = run.end();
    assert_eq!((words.as_str(), status.code()), ("", Some(0)));
    world.assert_same("whole", "run");
}

#[test]
fn the_second_interrupt_does_not_wait() {
    let world = world();
    let mut run = Started::new(&world, "run");
    run.wait_for(PHASES[0]);
    run.signal("INT");
    // Whether the first one was quick enough or not, the code is that of an interrupted run and the run continues.
    let _ = Command::new("sh").args(["-c", &format!("kill -INT {} 2>/dev/null", run.child.id())]).status().unwrap();
    let (_, status) = run.end();
    assert_eq!(status.code(), Some(130));
    let ended = Ended::from(world.command(&["simulate", "twin.toml", "-o", "run"]).output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    world.assert_same("whole", "run");
}
