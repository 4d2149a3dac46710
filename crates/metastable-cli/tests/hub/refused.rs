//! Names, servers and answers that cannot be used: one line, the exit code of the contract, nothing half-written.

use std::fs;
use std::net::TcpListener;

use super::server::Trick;
use super::{Hubbed, model};

const IDS: [&str; 4] = ["--ids", "5", "-o", "x.safetensors"];

fn refuse(hubbed: &Hubbed, name: &str, code: i32, error: &str, hint: &str) {
    let ended = hubbed.run(&[&["logits", name], &IDS[..]].concat());
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains(error), "no `{error}` in {ended:?}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "no `{hint}` in {ended:?}");
    assert!(!hubbed.world.path().join("x.safetensors").exists());
}

#[test]
fn absent_private_and_gated_models_are_told_apart() {
    let hubbed = Hubbed::new();
    hubbed.server.gate("org/gated");
    let server = hubbed.server.address.as_str();
    let absent = format!("org/absent: neither a path here nor a model that {server} shows (401 Unauthorized)");
    refuse(&hubbed, "org/absent", 4, &absent, "HF_TOKEN");
    let gated = format!("org/gated: {server} gives it only to those who were granted access");
    refuse(&hubbed, "org/gated", 4, &gated, &format!("accept its conditions at {server}/org/gated"));
    refuse(&hubbed, "org/tiny@v9", 4, "no revision `v9`", "NAME@REVISION");
}

#[test]
fn pickles_are_not_even_asked_for() {
    let hubbed = Hubbed::new();
    let files = model("tiny-llama").into_iter().filter(|(name, _)| !name.ends_with("safetensors"));
    let files = files.chain([("pytorch_model.bin", vec![0; 50])]).collect();
    hubbed.server.publish("org/pickled", files);
    refuse(&hubbed, "org/pickled", 4, "found weights in pickles alone: pytorch_model.bin", "never read");
    assert_eq!(hubbed.server.asked().len(), 1, "the list alone");
}

#[test]
fn no_network_is_a_failure_and_says_what_helps() {
    let mut hubbed = Hubbed::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    hubbed.server.address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    refuse(&hubbed, "org/tiny", 1, "org/tiny: not complete in the local cache, and http://127.0.0.1:", "--offline");
    hubbed.server.address = "ftp://somewhere".into();
    let ended = hubbed.run(&[&["logits", "org/tiny"], &IDS[..]].concat());
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("HF_ENDPOINT: expected an address beginning with https://"), "{ended:?}");
}

#[test]
fn offline_means_offline() {
    let hubbed = Hubbed::new();
    for (flag, variable) in [(&["--offline"][..], "0"), (&[], "1")] {
        let arguments = [flag, &["logits", "org/tiny"], &IDS].concat();
        let mut command = hubbed.command(&arguments);
        let ended = crate::util::Ended::from(command.env("HF_HUB_OFFLINE", variable).output().unwrap());
        assert_eq!(ended.code, Some(4), "{ended:?}");
        assert!(ended.stderr.contains("refs/main") && ended.stderr.contains("leave out --offline"), "{ended:?}");
    }
    assert_eq!(hubbed.server.asked(), []);
}

#[test]
fn a_wrong_hash_is_removed_and_said() {
    let hubbed = Hubbed::new();
    hubbed.server.play("model.safetensors", Some(Trick::WrongBit));
    refuse(&hubbed, "org/tiny", 1, ".incomplete: expected sha256 ", "download it anew");
    assert!(!hubbed.snapshot("org/tiny").join("model.safetensors").exists());
    assert!(!hubbed.blobs("org/tiny").iter().any(|name| name.ends_with(".incomplete")));
    assert!(!hubbed.cached("org/tiny").join("refs/main").exists());
    hubbed.server.play("model.safetensors", None);
    hubbed.check_logits("org/tiny", "good.safetensors");
}

#[test]
fn names_that_lead_out_of_the_cache_are_never_written() {
    let hubbed = Hubbed::new();
    let mut files = model("tiny-llama");
    files.push(("../../../../escaped/config.json", b"{}".to_vec()));
    let index = r#"{"weight_map": {"x": "../../../escaped.safetensors"}}"#;
    hubbed.server.publish("org/hostile", files);
    hubbed.check_logits("org/hostile", "fine.safetensors");
    let mut files = model("tiny-llama");
    files[1] = ("model.safetensors.index.json", index.into());
    hubbed.server.publish("org/index", files);
    let ended = hubbed.run(&[&["logits", "org/index"], &IDS[..]].concat());
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("which is no plain name"), "{ended:?}");
    let outside = fs::read_dir(hubbed.world.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(!outside.into_iter().any(|name| name.to_string_lossy().contains("escaped")));
}
