//! One writer per run folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::LabError;

/// The file that is locked; the lock, not the file, is what counts: a killed process leaves the file behind.
pub(super) const LOCK_FILE: &str = ".lock";

/// An exclusive lock on a folder; dropping it removes the file and lets go.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of `folder` without waiting.
    ///
    /// # Errors
    /// [`LabError::LockedFolder`] if another process (or another run of this one) has it.
    pub(super) fn take(folder: &Path) -> Result<Self, LabError> {
        let path = folder.join(LOCK_FILE);
        let failed = |source| LabError::Write { file: path.clone(), source };
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(LabError::LockedFolder { folder: folder.to_owned() }),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                // A process that just finished may have removed the file between our opening and our locking it;
                // then the lock guards nothing, and we try again with the file that is there now.
                Ok(()) if is_same_file(&file, &path).map_err(failed)? => return Ok(Self { file, path }),
                Ok(()) => {}
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still locked, so that nobody else's file is removed. A file that stays is harmless.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((opened.dev(), opened.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_same_file(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap();
        assert!(matches!(Lock::take(folder.path()), Err(LabError::LockedFolder { .. })));
        drop(first);
        assert!(Lock::take(folder.path()).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_file_of_a_killed_process_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(LOCK_FILE), b"").unwrap();
        assert!(Lock::take(folder.path()).is_ok());
    }
}
