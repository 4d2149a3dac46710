//! What an unfinished run of many pieces has done so far: records, one after the other, each with its digest.
//!
//! Unlike a checkpoint it is only ever appended to, so that a piece that is done costs one short write. A kill can leave
//! the last record incomplete; it is cut off when the journal is opened again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::LabError;

/// Length (4 bytes, little endian) and digest (8 bytes) stand before every record.
const HEAD: usize = 12;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens or creates a journal; answers it and its complete records.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Vec<u8>>), LabError> {
        let read = |source| LabError::Read { file: path.to_owned(), source };
        let write = |source| LabError::Write { file: path.to_owned(), source };
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(write)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(read)?;
        let (records, complete) = records(&bytes);
        file.set_len(complete as u64).map_err(write)?;
        file.seek(SeekFrom::End(0)).map_err(write)?;
        Ok((Self { file, path: path.to_owned() }, records))
    }

    /// Appends one record, in one write.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), LabError> {
        let length = u32::try_from(record.len()).expect("a record is far shorter than 4 GB");
        let framed = [&length.to_le_bytes()[..], &digest(record), record].concat();
        self.file.write_all(&framed).map_err(|source| LabError::Write { file: self.path.clone(), source })
    }

    /// Makes what was appended durable.
    pub(super) fn sync(&mut self) -> Result<(), LabError> {
        self.file.sync_data().map_err(|source| LabError::Write { file: self.path.clone(), source })
    }
}

fn digest(record: &[u8]) -> [u8; 8] {
    let whole = Sha256::digest(record);
    std::array::from_fn(|k| whole[k])
}

/// The records of a journal up to the first that is not whole, and where that begins.
fn records(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let (mut records, mut start) = (Vec::new(), 0);
    while let Some(record) = record_at(&bytes[start..]) {
        start += HEAD + record.len();
        records.push(record.to_vec());
    }
    (records, start)
}

fn record_at(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<8>()?;
    let record = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (digest(record) == *expected).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_cut_anywhere_keeps_its_whole_records_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.bin");
        let records: [&[u8]; 3] = [b"first", b"", b"third record"];
        let (mut journal, found) = Journal::open(&path).unwrap();
        assert!(found.is_empty());
        records.iter().for_each(|record| journal.append(record).unwrap());
        journal.sync().unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, found) = Journal::open(&path).unwrap();
            // 17, 29 and 53 bytes hold one, two and three records.
            let expected = [17, 29, 53].iter().filter(|end| **end <= length).count();
            assert_eq!(found, records[..expected], "{length} bytes");
            journal.append(b"new").unwrap();
            let (_, again) = Journal::open(&path).unwrap();
            assert_eq!((again.len(), again[expected].as_slice()), (expected + 1, &b"new"[..]), "{length} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_ends_a_journal_before_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.bin");
        let (mut journal, _) = Journal::open(&path).unwrap();
        [&b"first"[..], b"second"].iter().for_each(|record| journal.append(record).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for bit in 17 * 8..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(Journal::open(&path).unwrap().1, [b"first"], "bit {bit}");
        }
    }
}
