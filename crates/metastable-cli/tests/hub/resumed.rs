//! Downloads that are cut, refused, killed or shared, and what the next try makes of them.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::Hubbed;
use super::server::{Asked, Trick};

const WEIGHTS: &str = "model.safetensors";
const COMMAND: [&str; 5] = ["logits", "org/tiny", "--ids", "5,6,7", "-o"];

/// The ranges of the requests for the weights' bytes.
fn ranges(asked: &[Asked]) -> Vec<Option<String>> {
    asked.iter().filter(|asked| asked.host == "second").map(|asked| asked.range.clone()).collect()
}

#[test]
fn a_cut_connection_is_continued_in_the_same_run() {
    let hubbed = Hubbed::new();
    hubbed.server.play(WEIGHTS, Some(Trick::CutOnce(300_000)));
    hubbed.check_logits("org/tiny", "x.safetensors");
    assert_eq!(ranges(&hubbed.server.asked()), [None, Some("bytes=300000-".into())]);
}

#[test]
fn a_busy_server_is_asked_again() {
    let hubbed = Hubbed::new();
    hubbed.server.play(WEIGHTS, Some(Trick::BusyOnce));
    hubbed.check_logits("org/tiny", "x.safetensors");
    assert_eq!(ranges(&hubbed.server.asked()), [None, None]);
}

/// A run that has received some of the weights from a server that then fell silent.
fn stalled(hubbed: &Hubbed) -> (Child, u64) {
    hubbed.server.play(WEIGHTS, Some(Trick::Stall(300_000)));
    let mut command = hubbed.command(&[&COMMAND[..], &["x.safetensors"]].concat());
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let length = loop {
        if let Some(length) = partial_length(hubbed) {
            break length;
        }
        std::thread::yield_now();
    };
    assert!(hubbed.server.is_silent());
    (child, length)
}

/// How much of the weights lies in the cache, once all that the server gives has arrived.
fn partial_length(hubbed: &Hubbed) -> Option<u64> {
    let name = hubbed.blobs("org/tiny").into_iter().find(|name| name.ends_with(".incomplete"))?;
    let length = fs::metadata(hubbed.cached("org/tiny").join("blobs").join(name)).ok()?.len();
    (length == 300_000).then_some(length)
}

#[test]
fn a_killed_download_continues_where_it_was() {
    let hubbed = Hubbed::new();
    let (mut child, length) = stalled(&hubbed);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!hubbed.snapshot("org/tiny").join(WEIGHTS).exists());
    hubbed.server.play(WEIGHTS, None);
    hubbed.server.asked();
    hubbed.check_logits("org/tiny", "x.safetensors");
    assert_eq!(ranges(&hubbed.server.asked()), [Some(format!("bytes={length}-"))]);
}

#[cfg(unix)]
#[test]
fn a_stopped_download_says_so_and_keeps_what_it_has() {
    for (signal, code) in [("TERM", 75), ("INT", 130)] {
        let hubbed = Hubbed::new();
        let (child, length) = stalled(&hubbed);
        let status = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status().unwrap();
        assert!(status.success());
        // The server is silent: the run notices the signal when its patience (one second here) ends.
        let ended = crate::util::Ended::from(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains("run the same command again to continue"), "{ended:?}");
        hubbed.server.play(WEIGHTS, None);
        hubbed.server.asked();
        hubbed.check_logits("org/tiny", "x.safetensors");
        assert_eq!(ranges(&hubbed.server.asked()), [Some(format!("bytes={length}-"))]);
    }
}

#[test]
fn a_silent_server_is_given_up_with_what_arrived_kept() {
    let hubbed = Hubbed::new();
    hubbed.server.play(WEIGHTS, Some(Trick::Stall(300_000)));
    let ended = hubbed.run(&[&COMMAND[..], &["x.safetensors"]].concat());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("cannot be reached: ") && ended.stderr.contains("continues where it stopped"));
    hubbed.server.play(WEIGHTS, None);
    hubbed.server.asked();
    hubbed.check_logits("org/tiny", "x.safetensors");
    assert_eq!(ranges(&hubbed.server.asked()), [Some("bytes=300000-".into())]);
}

#[test]
fn a_server_without_ranges_is_asked_for_everything() {
    let hubbed = Hubbed::new();
    let (mut child, _) = stalled(&hubbed);
    child.kill().unwrap();
    child.wait().unwrap();
    hubbed.server.play(WEIGHTS, Some(Trick::RefuseRange));
    hubbed.check_logits("org/tiny", "x.safetensors");
}

#[test]
fn a_wrong_beginning_of_an_earlier_run_is_found_out() {
    let hubbed = Hubbed::new();
    let (mut child, _) = stalled(&hubbed);
    child.kill().unwrap();
    child.wait().unwrap();
    let name = hubbed.blobs("org/tiny").into_iter().find(|name| name.ends_with(".incomplete")).unwrap();
    let partial = hubbed.cached("org/tiny").join("blobs").join(name);
    fs::write(&partial, vec![7; 300_000]).unwrap();
    hubbed.server.play(WEIGHTS, None);
    let ended = hubbed.run(&[&COMMAND[..], &["x.safetensors"]].concat());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("expected sha256 ") && !partial.exists(), "{ended:?}");
    // One that is too long cannot be a beginning at all.
    fs::write(&partial, vec![7; 2_000_000]).unwrap();
    hubbed.check_logits("org/tiny", "x.safetensors");
}

#[test]
fn two_runs_at_once_download_once() {
    let hubbed = Hubbed::new();
    let children = ["x.safetensors", "y.safetensors"].map(|file| {
        let mut command = hubbed.command(&[&["-q"], &COMMAND[..], &[file]].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for child in children {
        let ended = crate::util::Ended::from(child.wait_with_output().unwrap());
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    }
    assert_eq!(ranges(&hubbed.server.asked()), [None]);
    assert_eq!(hubbed.world.read("x.safetensors"), hubbed.world.read("y.safetensors"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_clear_error_and_what_arrived_is_continued() {
    let hubbed = Hubbed::new();
    // The weights have 862 kB; configuration and tokenizer come before them and find room.
    let script = "mount -t tmpfs -o size=400k none disk && HF_HUB_OFFLINE=0 HF_HOME=disk HF_ENDPOINT=\"$HUB\" \
                  \"$1\" logits org/tiny --ids 5,6,7 -o x.safetensors; code=$?; cp -a disk/. hf; exit $code";
    let script = script.replace("$HUB", &hubbed.server.address);
    let Some(ended) = crate::folders::in_a_namespace(&hubbed.world, &script) else { return };
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines[0].starts_with("error: disk/hub/models--org--tiny/blobs/") && lines.len() == 2, "{ended:?}");
    assert!(lines[0].contains(".incomplete: cannot be written: no space left on the device"), "{ended:?}");
    assert!(lines[1].starts_with("hint: free some space and run the same command again; HF_HOME"), "{ended:?}");
    // No name points at a part of a file, and nothing says that the model is there.
    assert!(!hubbed.world.path().join("x.safetensors").exists());
    assert!(!hubbed.snapshot("org/tiny").join(WEIGHTS).exists());
    assert!(!hubbed.cached("org/tiny").join("refs").exists());
    let blobs = hubbed.blobs("org/tiny");
    let parts: Vec<&String> = blobs.iter().filter(|name| name.ends_with(".incomplete")).collect();
    assert!(parts.len() == 1 && !blobs.iter().any(|name| name.contains(".tmp")), "{blobs:?}");
    // With room again, the rest is asked for and nothing else.
    let length = fs::metadata(hubbed.cached("org/tiny").join("blobs").join(parts[0])).unwrap().len();
    assert!(length > 0, "nothing arrived");
    hubbed.server.asked();
    hubbed.check_logits("org/tiny", "x.safetensors");
    assert_eq!(ranges(&hubbed.server.asked()), [Some(format!("bytes={length}-"))]);
}
