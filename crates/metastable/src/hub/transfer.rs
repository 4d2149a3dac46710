//! One content from a server into the cache: continued where it stopped, counted and hashed, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use super::connection::{Connection, Trouble, header};
use super::digest::{Announced, Hasher};
use super::name::HubName;
use crate::error::{HubError, LabError};
use crate::watch::Watcher;

/// How often a server that gave nothing new is asked again, and how long before the first time.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const CHUNK: usize = 1 << 18;

/// A content to have.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a HubName,
    /// What the user sees.
    pub(super) file: &'a str,
    pub(super) url: String,
    /// Where it goes.
    pub(super) blob: PathBuf,
    pub(super) announced: Announced,
    pub(super) size: u64,
}

/// How much of everything has arrived.
pub(super) struct Arrived<'a> {
    pub(super) watcher: &'a mut dyn Watcher,
    pub(super) bytes: u64,
    pub(super) total: u64,
}

impl Arrived<'_> {
    fn add(&mut self, bytes: usize, file: &str) {
        self.bytes += bytes as u64;
        self.show(file);
    }

    pub(super) fn show(&mut self, file: &str) {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (done, total) = (megabytes(self.bytes), megabytes(self.total.max(self.bytes)));
        let message = format!("downloading {file}, {done:.1} of {total:.1} MB");
        self.watcher.progress(if total > 0.0 { done / total } else { 1.0 }, &message);
    }
}

/// Asks until an answer comes or it is clear that none will.
pub(super) fn patiently<T>(
    connection: &Connection,
    name: &HubName,
    mut ask: impl FnMut() -> Result<T, Trouble>,
) -> Result<T, LabError> {
    let mut pause = FIRST_PAUSE;
    for tries in 1.. {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(cause)) if tries == TRIES => return Err(unreachable(connection, name, cause)),
            Err(Trouble::Passing(_)) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
        }
    }
    unreachable!("the loop above ends at TRIES")
}

fn unreachable(connection: &Connection, name: &HubName, cause: String) -> LabError {
    HubError::Unreachable { name: name.to_string(), endpoint: connection.endpoint().into(), cause }.into()
}

/// Downloads a content, or the rest of it.
///
/// # Errors
/// [`HubError`]; [`LabError::Write`] if the disk is full, with what arrived kept; [`LabError::Stopped`].
pub(super) fn download(
    connection: &Connection,
    wanted: &Wanted<'_>,
    arrived: &mut Arrived<'_>,
) -> Result<(), LabError> {
    let before = arrived.bytes;
    let mut partial = Partial::open(wanted)?;
    arrived.add(usize::try_from(partial.length).unwrap_or(usize::MAX), wanted.file);
    let mut pause = FIRST_PAUSE;
    let mut fruitless = 0;
    while partial.length < wanted.size {
        let start = partial.length;
        match partial.receive(connection, wanted, arrived) {
            Ok(()) => {}
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(_)) if partial.length > start => fruitless = 0,
            Err(Trouble::Passing(cause)) => {
                fruitless += 1;
                if fruitless == TRIES {
                    return Err(unreachable(connection, wanted.name, cause));
                }
                std::thread::sleep(pause);
                pause *= 2;
            }
        }
        arrived.bytes = before + partial.length;
    }
    partial.finish(wanted)
}

/// A content that has arrived in part.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Hasher,
}

impl Partial {
    /// What an earlier run left, or nothing.
    fn open(wanted: &Wanted<'_>) -> Result<Self, LabError> {
        let mut name = wanted.blob.file_name().unwrap_or_default().to_os_string();
        name.push(".incomplete");
        let path = wanted.blob.with_file_name(name);
        let failed = |source| LabError::Write { file: path.clone(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(failed)?;
        let (hasher, length) = rehash(&mut file, wanted).map_err(failed)?;
        Ok(Self { path, file, length, hasher })
    }

    /// Asks for what is missing and takes what comes.
    fn receive(
        &mut self,
        connection: &Connection,
        wanted: &Wanted<'_>,
        arrived: &mut Arrived<'_>,
    ) -> Result<(), Trouble> {
        let answer = connection.get(&wanted.url, self.length)?;
        match answer.status().as_u16() {
            200 if self.length > 0 => self.start_over(wanted)?,
            200 => {}
            206 if continues(&answer, self.length) => {}
            // The server has another idea of the content's length or of the range: from the beginning.
            206 | 416 if self.length > 0 => return self.start_over(wanted).map_err(Trouble::from),
            _ => return Err(connection.refusal(wanted.name, &wanted.url, &answer)),
        }
        let mut body = answer.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            if let Some(interruption) = arrived.watcher.interrupted() {
                self.file.sync_all().map_err(|source| self.failed(source))?;
                return Err(LabError::Stopped { folder: self.path.clone(), interruption }.into());
            }
            let count = match body.read(&mut chunk) {
                Ok(0) if self.length < wanted.size => {
                    return Err(Trouble::Passing("the connection was closed early".into()));
                }
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Passing(error.to_string())),
            };
            if self.length + count as u64 > wanted.size {
                return Err(self.damaged(format!("{} bytes", wanted.size), "more".into()).into());
            }
            self.file.write_all(&chunk[..count]).map_err(|source| self.failed(source))?;
            self.hasher.update(&chunk[..count]);
            self.length += count as u64;
            arrived.add(count, wanted.file);
        }
    }

    fn start_over(&mut self, wanted: &Wanted<'_>) -> Result<(), LabError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|source| self.failed(source))?;
        self.hasher = Hasher::begin(&wanted.announced, wanted.size);
        self.length = 0;
        Ok(())
    }

    /// Compares the hash and gives the content its name.
    fn finish(mut self, wanted: &Wanted<'_>) -> Result<(), LabError> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::Opaque);
        if let Some((expected, found)) = hasher.difference() {
            return Err(self.damaged(expected, found));
        }
        let renamed = self.file.sync_all().and_then(|()| fs::rename(&self.path, &wanted.blob));
        renamed.map_err(|source| LabError::Write { file: wanted.blob.clone(), source })
    }

    fn damaged(&self, expected: String, found: String) -> LabError {
        // The error to tell is the hash; a file that stays is found out again by the next run.
        let _ = fs::remove_file(&self.path);
        HubError::Damaged { file: self.path.clone(), expected, found }.into()
    }

    fn failed(&self, source: io::Error) -> LabError {
        LabError::Write { file: self.path.clone(), source }
    }
}

/// Hashes what is there; a file longer than the content is emptied.
fn rehash(file: &mut File, wanted: &Wanted<'_>) -> io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::begin(&wanted.announced, wanted.size);
    if file.metadata()?.len() > wanted.size {
        file.set_len(0)?;
    }
    let (mut chunk, mut length) = (vec![0; CHUNK], 0);
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        hasher.update(&chunk[..count]);
        length += count as u64;
    }
    file.seek(SeekFrom::Start(length))?;
    Ok((hasher, length))
}

/// Whether a partial answer begins where we are.
fn continues(answer: &Response<Body>, start: u64) -> bool {
    let range = header(answer, "content-range").unwrap_or_default();
    let first = range.strip_prefix("bytes ").and_then(|range| range.split('-').next()?.trim().parse().ok());
    first == Some(start)
}

/// Whether a content is there already.
pub(super) fn is_there(blob: &Path, size: u64) -> bool {
    fs::metadata(blob).is_ok_and(|metadata| metadata.len() == size)
}
