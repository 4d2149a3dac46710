//! The state of an unfinished run: bytes of the job, sealed with a digest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::atomic::write_file_with;
use crate::error::LabError;

/// Names the format; a later one gets another number.
const MAGIC: &[u8; 8] = b"MSTBCP01";
const DIGEST_LENGTH: usize = 32;

/// What a run folder knows about the state to continue from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checkpoint {
    /// None was saved: start at the beginning.
    Absent,
    /// The bytes that were saved.
    Intact(Vec<u8>),
    /// A file that is not what was saved: say so, and start at the beginning.
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Replaces the checkpoint in one step; the previous one stands until the new one is complete on disk.
pub(super) fn save(file: &Path, state: &[u8]) -> Result<(), LabError> {
    let digest = Sha256::new().chain_update(MAGIC).chain_update(state).finalize();
    write_file_with(file, |writer| {
        writer.write_all(MAGIC)?;
        writer.write_all(state)?;
        writer.write_all(&digest)
    })
}

/// Reads the checkpoint back.
pub(super) fn load(file: &Path) -> Result<Checkpoint, LabError> {
    match fs::read(file) {
        Ok(sealed) => Ok(unseal(file, sealed)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Checkpoint::Absent),
        Err(source) => Err(LabError::Read { file: file.to_owned(), source }),
    }
}

fn unseal(file: &Path, mut sealed: Vec<u8>) -> Checkpoint {
    let damaged = |reason| Checkpoint::Damaged { file: file.to_owned(), reason };
    if sealed.len() < MAGIC.len() + DIGEST_LENGTH {
        return damaged("it is too short");
    }
    if !sealed.starts_with(MAGIC) {
        return damaged("it was not written by this version of metastable");
    }
    let end = sealed.len() - DIGEST_LENGTH;
    if Sha256::digest(&sealed[..end])[..] != sealed[end..] {
        return damaged("its digest does not fit its content");
    }
    sealed.truncate(end);
    sealed.drain(..MAGIC.len());
    Checkpoint::Intact(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(state: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.bin");
        save(&file, state).unwrap();
        (folder, file)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        for state in [&b""[..], b"t = 3.5", &[0; 1000]] {
            let (_folder, file) = saved(state);
            assert_eq!(load(&file).unwrap(), Checkpoint::Intact(state.to_vec()));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (_folder, file) = saved(b"state");
        let whole = fs::read(&file).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, flipped).unwrap();
            assert!(matches!(load(&file).unwrap(), Checkpoint::Damaged { .. }), "bit {bit}");
        }
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(matches!(load(&file).unwrap(), Checkpoint::Damaged { .. }), "length {length}");
        }
    }

    #[test]
    fn no_file_is_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(&folder.path().join("state.bin")).unwrap(), Checkpoint::Absent);
    }
}
