//! One repository's folder of the cache: where contents, names and commits go.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::name::HubName;
use crate::error::LabError;
use crate::run_dir::write_file;
use crate::watch::Watcher;

/// How often a process that waits for another one's download looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// `models--organisation--name` in a cache.
pub(super) struct Place {
    cache: PathBuf,
    folder: PathBuf,
}

impl Place {
    pub(super) fn new(cache: &Path, name: &HubName) -> Self {
        Self { cache: cache.into(), folder: cache.join(name.folder()) }
    }

    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, tag: &str) -> PathBuf {
        self.folder.join("blobs").join(tag)
    }

    /// Notes which commit a branch or tag is.
    pub(super) fn set_reference(&self, revision: &str, commit: &str) -> Result<(), LabError> {
        if revision == commit {
            return Ok(());
        }
        let file = self.reference(revision);
        if fs::read_to_string(&file).is_ok_and(|found| found.trim() == commit) {
            return Ok(());
        }
        create_parent(&file)?;
        write_file(&file, commit.as_bytes())
    }

    /// Lets `file` of a snapshot point at a content: relative, so that the cache can be moved as a whole.
    pub(super) fn point(&self, commit: &str, file: &str, tag: &str) -> Result<(), LabError> {
        let (pointer, blob) = (self.snapshot(commit).join(file), self.blob(tag));
        if same_content(&pointer, &blob) {
            return Ok(());
        }
        create_parent(&pointer)?;
        let up = "../".repeat(file.split('/').count() + 1);
        let failed = |source| LabError::Write { file: pointer.clone(), source };
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // File systems without symbolic links get another name of the same file, or a copy.
        symbolic_link(Path::new(&format!("{up}blobs/{tag}")), &pointer)
            .or_else(|_| fs::hard_link(&blob, &pointer))
            .or_else(|_| fs::copy(&blob, &pointer).map(drop))
            .map_err(failed)
    }

    /// Waits until no other process downloads this content; the lock is the one that `huggingface_hub` takes.
    pub(super) fn lock(&self, tag: &str, watcher: &mut dyn Watcher) -> Result<Lock, LabError> {
        let name = self.folder.file_name().unwrap_or_default();
        let file = self.cache.join(".locks").join(name).join(format!("{tag}.lock"));
        create_parent(&file)?;
        let failed = |source| LabError::Write { file: file.clone(), source };
        let handle = File::options().create(true).append(true).open(&file).map_err(failed)?;
        let mut is_told = false;
        loop {
            match handle.try_lock() {
                Ok(()) => return Ok(Lock(Some(handle))),
                Err(TryLockError::WouldBlock) if !is_told => {
                    watcher.notice(&format!("waiting for another process that downloads {tag}"));
                    is_told = true;
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_AGAIN),
                // A file system without locks: the rename at the end is atomic all the same.
                Err(TryLockError::Error(_)) => return Ok(Lock(None)),
            }
            if let Some(interruption) = watcher.interrupted() {
                return Err(LabError::Stopped { folder: self.folder.clone(), interruption });
            }
        }
    }
}

/// Held while one content is downloaded.
pub(super) struct Lock(Option<File>);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would unlock it too.
        let _ = self.0.as_ref().map(File::unlock);
    }
}

fn same_content(pointer: &Path, blob: &Path) -> bool {
    let size = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.len());
    match (pointer.canonicalize(), blob.canonicalize()) {
        (Ok(pointer), Ok(blob)) => pointer == blob || size(&pointer) == size(&blob) && !pointer.is_symlink(),
        _ => false,
    }
}

#[cfg(unix)]
fn symbolic_link(target: &Path, pointer: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(not(unix))]
fn symbolic_link(_target: &Path, _pointer: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Creates the folder of a file.
pub(super) fn create_parent(file: &Path) -> Result<(), LabError> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).map_err(|source| LabError::Write { file: folder.into(), source })
}

/// The names of all files of a snapshot, with `/` between their parts; broken pointers do not count.
pub(super) fn files_of(snapshot: &Path) -> BTreeSet<String> {
    /// Deeper repositories than this do not hold what we look for.
    const DEEPEST: usize = 4;
    fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() && depth < DEEPEST => {
                    collect(&entry.path(), &format!("{name}/"), depth + 1, files);
                }
                Ok(metadata) if metadata.is_file() => {
                    files.insert(name);
                }
                _ => {}
            }
        }
    }
    let mut files = BTreeSet::new();
    collect(snapshot, "", 0, &mut files);
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_snapshot_point_at_contents_from_any_depth() {
        let cache = tempfile::tempdir().unwrap();
        let name = HubName::parse(Path::new("a/b")).unwrap();
        let place = Place::new(cache.path(), &name);
        create_parent(&place.blob("tag")).unwrap();
        fs::write(place.blob("tag"), "content").unwrap();
        for file in ["config.json", "sub/deep/x.gguf"] {
            place.point("commit", file, "tag").unwrap();
            place.point("commit", file, "tag").unwrap();
            assert_eq!(fs::read_to_string(place.snapshot("commit").join(file)).unwrap(), "content");
        }
        place.set_reference("main", "commit").unwrap();
        assert_eq!(fs::read_to_string(place.reference("main")).unwrap(), "commit");
        let found: Vec<String> = files_of(&place.snapshot("commit")).into_iter().collect();
        assert_eq!(found, ["config.json", "sub/deep/x.gguf"]);
        fs::remove_file(place.blob("tag")).unwrap();
        #[cfg(unix)]
        assert!(files_of(&place.snapshot("commit")).is_empty(), "broken pointers count");
    }
}
