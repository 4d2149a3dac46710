use std::collections::BTreeMap;

use super::*;

/// Everything below a folder: relative path to content.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

fn names(folder: &Path) -> Vec<String> {
    content(folder).into_keys().collect()
}

fn begin(folder: &Path, existing: Existing) -> Result<RunDir, LabError> {
    RunDir::begin(folder, existing, "mine")
}

fn finished(folder: &Path) {
    let mut run = begin(folder, Existing::Refuse).unwrap();
    run.write("config.resolved.toml", b"seed = 1\n").unwrap();
    run.write("figures/tokens.svg", b"<svg/>").unwrap();
    run.write("report.json", b"{}").unwrap();
    run.save_checkpoint(b"state").unwrap();
    run.finish().unwrap();
}

fn unfinished(folder: &Path) {
    let mut run = begin(folder, Existing::Refuse).unwrap();
    run.write("config.resolved.toml", b"seed = 1\n").unwrap();
    run.save_checkpoint(b"state").unwrap();
}

#[test]
fn a_finished_run_has_its_products_and_done_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("deep/run");
    finished(&folder);
    assert_eq!(names(&folder), ["DONE", "config.resolved.toml", "figures/tokens.svg", "report.json"]);
    let done: Done = serde_json::from_slice(&content(&folder)["DONE"]).unwrap();
    assert_eq!((done.schema, done.report_sha256), (SCHEMA, sha256_hex(b"{}")));
}

#[test]
fn a_finished_run_is_not_run_over() {
    let parent = tempfile::tempdir().unwrap();
    finished(parent.path());
    let before = content(parent.path());
    for existing in [Existing::Refuse, Existing::Resume] {
        assert!(matches!(begin(parent.path(), existing), Err(LabError::FinishedFolder { .. })));
    }
    assert_eq!(content(parent.path()), before);
}

#[test]
fn overwriting_removes_the_old_run_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    finished(parent.path());
    fs::write(parent.path().join("notes.txt"), b"mine").unwrap();
    fs::write(parent.path().join("figures/draft.pdf"), b"mine").unwrap();
    let mut run = begin(parent.path(), Existing::Overwrite).unwrap();
    assert!(!run.continues());
    run.write("report.json", b"{}").unwrap();
    let kept = ["checkpoint/fingerprint", "figures/draft.pdf", "notes.txt", "report.json"];
    assert_eq!(names(parent.path()).into_iter().filter(|name| name != ".lock").collect::<Vec<_>>(), kept);
}

#[test]
fn a_foreign_folder_is_never_touched() {
    for name in ["thesis.tex", "report.json", "DONE", "figures/a.svg"] {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, b"ten years of work").unwrap();
        for existing in [Existing::Refuse, Existing::Overwrite, Existing::Resume] {
            let error = begin(parent.path(), existing).unwrap_err();
            assert!(matches!(error, LabError::ForeignFolder { .. }), "{name}: {error}");
        }
        assert_eq!(names(parent.path()), [name]);
    }
}

#[test]
fn a_file_is_no_folder() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("run");
    fs::write(&file, b"x").unwrap();
    assert!(matches!(begin(&file, Existing::Overwrite), Err(LabError::NotAFolder { .. })));
}

#[test]
fn the_same_command_continues_an_unfinished_run() {
    let parent = tempfile::tempdir().unwrap();
    unfinished(parent.path());
    for existing in [Existing::Refuse, Existing::Resume] {
        let run = begin(parent.path(), existing).unwrap();
        assert!(run.continues());
        assert_eq!(run.load_checkpoint().unwrap(), Checkpoint::Intact(b"state".to_vec()));
    }
}

#[test]
fn an_unfinished_run_of_another_configuration_is_refused_by_both_names() {
    let parent = tempfile::tempdir().unwrap();
    unfinished(parent.path());
    let error = RunDir::begin(parent.path(), Existing::Refuse, "yours").unwrap_err();
    assert!(error.to_string().ends_with("unfinished run of configuration mine, expected yours"), "{error}");
    let run = RunDir::begin(parent.path(), Existing::Overwrite, "yours").unwrap();
    assert_eq!(run.load_checkpoint().unwrap(), Checkpoint::Absent);
}

#[test]
fn resuming_needs_something_to_resume() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("run");
    assert!(matches!(begin(&folder, Existing::Resume), Err(LabError::NothingToResume { .. })));
    assert!(!folder.exists());
}

#[test]
fn a_damaged_checkpoint_is_said_and_can_be_replaced() {
    let parent = tempfile::tempdir().unwrap();
    unfinished(parent.path());
    fs::write(parent.path().join(CHECKPOINT_FOLDER).join(STATE), b"garbage of forty bytes and more, really..").unwrap();
    let mut run = begin(parent.path(), Existing::Refuse).unwrap();
    assert!(matches!(run.load_checkpoint().unwrap(), Checkpoint::Damaged { .. }));
    run.save_checkpoint(b"better").unwrap();
    assert_eq!(run.load_checkpoint().unwrap(), Checkpoint::Intact(b"better".to_vec()));
}

#[test]
fn a_run_that_fails_early_leaves_no_trace() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("runs/a");
    let mut run = begin(&folder, Existing::Refuse).unwrap();
    run.write("config.resolved.toml", b"seed = 1\n").unwrap();
    drop(run);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    // A folder that was there before stays, empty as it was.
    drop(begin(parent.path(), Existing::Refuse).unwrap());
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn a_second_writer_is_refused_and_does_no_harm() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("run");
    let mut run = begin(&folder, Existing::Refuse).unwrap();
    for existing in [Existing::Refuse, Existing::Overwrite] {
        assert!(matches!(begin(&folder, existing), Err(LabError::LockedFolder { .. })));
    }
    run.write("report.json", b"{}").unwrap();
    run.finish().unwrap();
    assert_eq!(names(&folder), ["DONE", "report.json"]);
}

#[test]
fn what_a_killed_process_left_is_cleared_away() {
    let parent = tempfile::tempdir().unwrap();
    unfinished(parent.path());
    for name in [".lock", ".metastable-abc.tmp", "checkpoint/.metastable-xyz.tmp"] {
        fs::write(parent.path().join(name), b"half").unwrap();
    }
    let mut run = begin(parent.path(), Existing::Refuse).unwrap();
    run.write("report.json", b"{}").unwrap();
    run.finish().unwrap();
    assert_eq!(names(parent.path()), ["DONE", "config.resolved.toml", "report.json"]);
}

#[test]
fn a_half_removed_run_is_still_ours() {
    let parent = tempfile::tempdir().unwrap();
    finished(parent.path());
    fs::remove_file(parent.path().join("DONE")).unwrap();
    assert!(matches!(begin(parent.path(), Existing::Refuse), Err(LabError::OtherRun { .. })));
    assert!(begin(parent.path(), Existing::Overwrite).is_ok());
}

#[test]
fn only_finished_runs_are_reopened() {
    let parent = tempfile::tempdir().unwrap();
    assert!(matches!(RunDir::reopen(parent.path()), Err(LabError::NotFinished { .. })));
    unfinished(parent.path());
    assert!(matches!(RunDir::reopen(parent.path()), Err(LabError::NotFinished { .. })));
    let folder = parent.path().join("run");
    finished(&folder);
    let mut run = RunDir::reopen(&folder).unwrap();
    assert_eq!(run.read("report.json").unwrap(), b"{}");
    run.write("report.html", b"<html>").unwrap();
    drop(run);
    assert!(names(&folder).contains(&"report.html".to_owned()));
    assert!(!names(&folder).contains(&".lock".to_owned()));
}

#[test]
#[should_panic(expected = "in the list of a run's files")]
fn a_file_that_could_not_be_removed_again_is_not_written() {
    let parent = tempfile::tempdir().unwrap();
    let _ = begin(parent.path(), Existing::Refuse).unwrap().write("../escape", b"x");
}

#[cfg(unix)]
#[test]
fn overwriting_does_not_follow_links_out_of_the_folder() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (parent.path().join("run"), parent.path().join("elsewhere"));
    finished(&folder);
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("keep.svg"), b"mine").unwrap();
    fs::remove_dir_all(folder.join("figures")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.join("figures")).unwrap();
    drop(begin(&folder, Existing::Overwrite).unwrap());
    assert_eq!(names(&elsewhere), ["keep.svg"]);
}

/// A file system of 64 kB, if this machine lets us mount one.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(disk.0.path())
            .stderr(std::process::Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(disk)
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_last_checkpoint_and_names_the_file() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small file system needs privileges that this user does not have");
        return;
    };
    let folder = disk.0.path().join("run");
    let mut run = begin(&folder, Existing::Refuse).unwrap();
    run.save_checkpoint(b"good").unwrap();
    let before = content(&folder);
    let large = vec![7; 1 << 20];
    let error = run.save_checkpoint(&large).unwrap_err();
    assert!(error.to_string().ends_with("state.bin: cannot be written: no space left on the device"), "{error}");
    assert!(error.hint().unwrap().starts_with("free some space"));
    let error = run.write("trajectory.safetensors", &large).unwrap_err();
    assert!(error.to_string().contains("trajectory.safetensors"), "{error}");
    assert_eq!(content(&folder), before);
    assert_eq!(run.load_checkpoint().unwrap(), Checkpoint::Intact(b"good".to_vec()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_fresh_run_on_a_full_disk_leaves_no_trace() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small file system needs privileges that this user does not have");
        return;
    };
    let mut run = begin(&disk.0.path().join("run"), Existing::Refuse).unwrap();
    run.write("config.resolved.toml", b"seed = 1\n").unwrap();
    run.write("trajectory.safetensors", &vec![7; 1 << 20]).unwrap_err();
    drop(run);
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 0);
}

#[test]
fn what_a_kill_after_done_leaves_is_removed_by_the_next_command() {
    for next in [
        |folder: &Path| drop(begin(folder, Existing::Refuse).unwrap_err()),
        |folder: &Path| {
            drop(RunDir::reopen(folder).unwrap());
        },
    ] {
        let parent = tempfile::tempdir().unwrap();
        finished(parent.path());
        let before = content(parent.path());
        for checkpoint in [CHECKPOINT_FOLDER, CHECKPOINTS_FOLDER] {
            fs::create_dir(parent.path().join(checkpoint)).unwrap();
            for leftover in [FINGERPRINT, STATE] {
                fs::write(parent.path().join(checkpoint).join(leftover), b"").unwrap();
            }
            fs::write(parent.path().join(lock::LOCK_FILE), b"").unwrap();
            next(parent.path());
            assert_eq!(content(parent.path()), before);
            assert!(!parent.path().join(checkpoint).exists());
        }
    }
}

#[test]
fn checkpoints_that_are_products_stay_and_the_state_beside_them_goes() {
    let parent = tempfile::tempdir().unwrap();
    let begin = |existing| RunDir::begin_with_checkpoints(parent.path(), existing, "mine");
    let mut run = begin(Existing::Refuse).unwrap();
    run.save_checkpoint(b"state").unwrap();
    drop(run);
    assert_eq!(names(parent.path()), ["checkpoints/fingerprint", "checkpoints/state.bin"]);
    let other = RunDir::begin_with_checkpoints(parent.path(), Existing::Resume, "other");
    assert!(matches!(other, Err(LabError::OtherRun { .. })));
    let mut run = begin(Existing::Resume).unwrap();
    assert!(run.continues());
    assert_eq!(run.load_checkpoint().unwrap(), Checkpoint::Intact(b"state".to_vec()));
    run.write("checkpoints/adapter_config.json", b"{}").unwrap();
    run.write("report.json", b"{}").unwrap();
    run.finish().unwrap();
    let products = ["DONE", "checkpoints/adapter_config.json", "report.json"];
    assert_eq!(names(parent.path()), products);
    drop(RunDir::reopen(parent.path()).unwrap());
    assert_eq!(names(parent.path()), products);
    drop(begin(Existing::Overwrite).unwrap());
    assert!(names(parent.path()).is_empty());
}
