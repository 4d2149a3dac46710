//! Folders that are complete or absent.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::error::LabError;
use crate::run_dir::{TEMPORARY_PREFIX, write_file};

/// Writes a folder with `fill` and gives it its name at the end; `folder` must not exist, or be empty.
///
/// # Errors
/// [`LabError::NotAFolder`], [`LabError::ForeignFolder`], [`LabError::Write`]; no half-written folder remains.
pub(super) fn write_folder<T>(folder: &Path, fill: impl FnOnce(&Path) -> Result<T, LabError>) -> Result<T, LabError> {
    let temporary = beside(folder)?;
    let writing = |source| LabError::Write { file: folder.to_owned(), source };
    let result = fill(temporary.path())?;
    if folder.exists() {
        fs::remove_dir(folder).map_err(writing)?;
    }
    fs::rename(temporary.path(), folder).map_err(writing)?;
    // The folder has its name now: nothing is left to remove.
    let _ = temporary.keep();
    Ok(result)
}

/// A folder beside `folder`, removed when it is dropped; `folder` must not exist, or be empty.
///
/// # Errors
/// As [`write_folder`].
pub(super) fn beside(folder: &Path) -> Result<TempDir, LabError> {
    refuse_content(folder)?;
    let writing = |source| LabError::Write { file: folder.to_owned(), source };
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(writing)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX).suffix(".tmp");
    // Results are shared like other folders of the user: the umask decides, not tempfile's private default.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(parent).map_err(writing)
}

/// One file of such a folder.
pub(super) fn write_into(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), LabError> {
    write_file(&folder.join(name), bytes)
}

fn refuse_content(folder: &Path) -> Result<(), LabError> {
    let Ok(metadata) = fs::metadata(folder) else { return Ok(()) };
    if !metadata.is_dir() {
        return Err(LabError::NotAFolder { folder: folder.to_owned() });
    }
    let reading = |source| LabError::Read { file: folder.to_owned(), source };
    match fs::read_dir(folder).map_err(reading)?.next() {
        None => Ok(()),
        Some(entry) => {
            let found = entry.map_err(reading)?.file_name().to_string_lossy().into_owned();
            Err(LabError::ForeignFolder { folder: folder.to_owned(), found })
        }
    }
}
