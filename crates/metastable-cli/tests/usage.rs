//! The command line itself.

use std::process::Stdio;

use crate::util::{Ended, World};

const COMMANDS: [&str; 7] = ["simulate", "field", "inspect", "logits", "render", "schema", "selftest"];

#[test]
fn help_goes_to_stdout_names_every_command_and_shows_an_example() {
    let ended = World::new().run(&["--help"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    for command in COMMANDS {
        assert!(ended.stdout.contains(command), "{command}");
    }
    assert!(ended.stdout.contains("metastable simulate examples/lora-twin.toml"));
}

#[test]
fn every_command_helps() {
    let world = World::new();
    for command in COMMANDS {
        let ended = world.run(&[command, "--help"]);
        assert_eq!(ended.code, Some(0), "{command}");
        assert!(ended.stdout.contains(&format!("Usage: metastable {command}")), "{}", ended.stdout);
    }
}

#[test]
fn the_version_is_one_line() {
    let ended = World::new().run(&["--version"]);
    assert_eq!(ended.stdout, format!("metastable {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_end_with_code_2_talk_on_stderr_and_write_nothing() {
    let world = World::new();
    let config = world.write("run.toml", "seed = 1\n");
    let config = config.to_str().unwrap();
    let cases: [&[&str]; 9] = [
        &[],
        &["simulat", config],
        &["simulate"],
        &["simulate", config, "--tread", "2"],
        &["simulate", config, "--threads", "0"],
        &["simulate", config, "--seed", "-1"],
        &["simulate", config, "--resume", "--overwrite"],
        &["inspect", "model", "--text", "a.txt", "--prompt", "b"],
        &["logits", "model", "--ids", "1,x", "-o", "y.safetensors"],
    ];
    for arguments in cases {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{arguments:?}");
        assert!(!ended.stderr.is_empty(), "{arguments:?}");
    }
    assert_eq!(world.names(), ["run.toml"]);
}

#[test]
fn misspelt_commands_and_flags_are_suggested() {
    let world = World::new();
    assert!(world.run(&["simulat", "x.toml"]).stderr.contains("'simulate'"));
    assert!(world.run(&["simulate", "x.toml", "--overwrit"]).stderr.contains("'--overwrite'"));
}

#[test]
fn nothing_is_coloured_when_piped() {
    let world = World::new();
    for arguments in [&["--help"][..], &["simulat"], &["simulate"]] {
        let ended = world.run(arguments);
        assert!(!ended.stdout.contains('\u{1b}') && !ended.stderr.contains('\u{1b}'), "{ended:?}");
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let world = World::new();
    let mut child = world.command(&["--help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}
