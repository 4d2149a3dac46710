//! Files mapped into memory: bytes are read when they are looked at, so opening a file does not cost its size.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::ModelError;

/// Maps a regular file, read-only; `expected` says what it should be.
///
/// # Errors
/// [`ModelError::Missing`], [`ModelError::Unreadable`], [`ModelError::Malformed`] if it is no regular file.
#[allow(unsafe_code)]
pub(crate) fn map(path: &Path, expected: &'static str) -> Result<Mmap, ModelError> {
    let reading = |error| ModelError::reading(path, expected, error);
    let file = File::open(path).map_err(reading)?;
    if !file.metadata().map_err(reading)?.is_file() {
        let found = "something that is no regular file".into();
        return Err(ModelError::Malformed { path: path.into(), expected, found });
    }
    // SAFETY: the map is read-only and never leaves this crate, which copies numbers and words out of it and makes no
    // reference outlive its owner. The contract left to the user is the usual one of mapped files: nobody truncates or
    // rewrites a weights file while it is open.
    unsafe { Mmap::map(&file) }.map_err(reading)
}
