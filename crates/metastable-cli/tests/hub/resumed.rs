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
