//! Files that are complete or absent: temporary name, fsync, rename, fsync of the folder.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::LabError;

/// How the names of unfinished files begin; a crash may leave some behind, the next run removes them.
pub(crate) const TEMPORARY_PREFIX: &str = ".metastable-";

/// Writes `bytes` to `path`, replacing a file there in one step.
///
/// After an error (a full disk, say) `path` is as it was before and no temporary file remains.
///
/// # Errors
/// [`LabError::Write`] with the path and the cause.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), LabError> {
    write_file_with(path, |writer| writer.write_all(bytes))
}

/// Writes what `fill` produces to `path`, for content that should not be held in memory twice.
///
/// # Errors
/// As [`write_file`]; also if `fill` fails.
pub fn write_file_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), LabError> {
    write_durably(path, fill).map_err(|source| LabError::Write { file: path.to_owned(), source })
}

fn write_durably(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let folder = parent_folder(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(".tmp");
    // Files of a run are shared like other files of the user: the umask decides, not tempfile's private default.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(&folder)?;
    let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder(&folder)
}

/// Makes the names in a folder durable; only Unix can.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn parent_folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Removes the unfinished files that a killed process left in `folder`.
pub(super) fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_temporary(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a name is one of our unfinished files.
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY_PREFIX) && name.ends_with(".tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        write_file(&path, b"old").unwrap();
        let error = write_file_with(&path, |writer| {
            writer.write_all(b"half of the ne")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(error.to_string().contains("report.json: cannot be written: no space left"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_file(&folder.path().join("absent/x.npy"), b"x").unwrap_err();
        assert!(error.to_string().contains("absent/x.npy"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn files_are_readable_by_the_group_as_the_umask_allows() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        fs::write(&plain, b"x").unwrap();
        let ours = folder.path().join("ours");
        write_file(&ours, b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
