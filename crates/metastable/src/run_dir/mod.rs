//! The run folder: the only place where the lab writes.
//!
//! A run begins with [`RunDir::begin`], which decides whether the folder may be used; writes whole files with
//! [`RunDir::write`]; saves its state with [`RunDir::save_checkpoint`], or what is done piece
//! by piece with [`RunDir::append`]; and ends with [`RunDir::finish`], which
//! writes DONE. Product present = run complete. Every file is complete or absent, whatever happens.

mod atomic;
mod checkpoint;
mod journal;
mod lock;
mod survey;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(crate) use atomic::TEMPORARY_PREFIX;
pub use atomic::{write_file, write_file_with};
pub use checkpoint::Checkpoint;
pub use survey::Done;

use crate::error::LabError;
use crate::provenance::sha256_hex;
use journal::Journal;
use lock::Lock;
use survey::{CHECKPOINT_FOLDER, CHECKPOINTS_FOLDER, CONFIG, DONE, FINGERPRINT, JOURNAL, REPORT, STATE, Survey};

/// The schema number of run folders and reports.
pub const SCHEMA: u32 = 1;

/// What to do with a folder that already holds a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Continue an unfinished run of the same configuration, refuse everything else.
    #[default]
    Refuse,
    /// Remove the run that is there, finished or not, and start anew. A folder that is not ours is still refused.
    Overwrite,
    /// As [`Existing::Refuse`], but there must be an unfinished run.
    Resume,
}

/// A run folder that this process alone may write.
///
/// # Example
/// ```
/// use metastable::run_dir::{Checkpoint, Existing, RunDir};
/// let parent = tempfile::tempdir().unwrap();
/// let path = parent.path().join("run");
///
/// let mut run = RunDir::begin(&path, Existing::Refuse, "fingerprint").unwrap();
/// run.save_checkpoint(b"t = 1").unwrap();
/// drop(run); // interrupted
///
/// let mut run = RunDir::begin(&path, Existing::Refuse, "fingerprint").unwrap();
/// assert_eq!(run.load_checkpoint().unwrap(), Checkpoint::Intact(b"t = 1".to_vec()));
/// run.write("report.json", b"{}").unwrap();
/// run.finish().unwrap();
///
/// let refused = RunDir::begin(&path, Existing::Refuse, "fingerprint").unwrap_err();
/// assert!(refused.to_string().ends_with("holds a finished run"));
/// ```
#[derive(Debug)]
pub struct RunDir {
    folder: PathBuf,
    /// Folders this run created, outermost first: removed again if it fails before anything useful is in them.
    created: Vec<PathBuf>,
    continued: bool,
    /// The name of the folder with the state.
    checkpoints: &'static str,
    state: State,
    journal: Option<Journal>,
    // Dropped last, after our Drop has tidied up.
    _lock: Lock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing worth keeping is in the folder.
    Fresh,
    /// A checkpoint or a product is in the folder.
    Useful,
    /// DONE is written, or was there from the start.
    Finished,
}

impl RunDir {
    /// Begins a run in `folder`, or continues the unfinished one of the same configuration.
    ///
    /// Call it late, when the configuration has been validated: it creates the folder.
    /// `config_fingerprint` is one line that changes whenever the results would.
    ///
    /// # Errors
    /// [`LabError::NotAFolder`], [`LabError::ForeignFolder`], [`LabError::FinishedFolder`], [`LabError::OtherRun`],
    /// [`LabError::NothingToResume`], [`LabError::LockedFolder`]; [`LabError::Write`] if the disk refuses.
    pub fn begin(folder: &Path, existing: Existing, config_fingerprint: &str) -> Result<Self, LabError> {
        Self::begin_in(folder, existing, config_fingerprint, CHECKPOINT_FOLDER)
    }

    /// As [`RunDir::begin`] for a run whose checkpoints are products too: its state is in `checkpoints/`, and what it
    /// writes there besides stays when the run is finished.
    ///
    /// # Errors
    /// As [`RunDir::begin`].
    pub fn begin_with_checkpoints(
        folder: &Path,
        existing: Existing,
        config_fingerprint: &str,
    ) -> Result<Self, LabError> {
        Self::begin_in(folder, existing, config_fingerprint, CHECKPOINTS_FOLDER)
    }

    fn begin_in(
        folder: &Path,
        existing: Existing,
        config_fingerprint: &str,
        checkpoints: &'static str,
    ) -> Result<Self, LabError> {
        refuse_unusable(folder, existing, config_fingerprint)?;
        let created = create_folders(folder)?;
        let lock = Lock::take(folder).inspect_err(|_| remove_empty(&created))?;
        // From here on an early return drops `run`, which removes what it created.
        let mut run = Self {
            folder: folder.to_owned(),
            created,
            continued: false,
            checkpoints,
            state: State::Useful,
            journal: None,
            _lock: lock,
        };
        let found = run.survey()?;
        // Looked at again under the lock: another process may have been quicker.
        check(folder, existing, config_fingerprint, &found)?;
        survey::remove_leftovers(folder).map_err(|source| run.failed("", source))?;
        run.continued = matches!(found, Survey::Unfinished(_)) && existing != Existing::Overwrite;
        if !run.continued {
            run.start_anew(config_fingerprint)?;
        }
        Ok(run)
    }

    /// Opens the folder of a finished run to rebuild its renderings.
    ///
    /// # Errors
    /// [`LabError::NotFinished`] without a DONE of ours; [`LabError::LockedFolder`]; [`LabError::Read`].
    pub fn reopen(folder: &Path) -> Result<Self, LabError> {
        let not_finished = || LabError::NotFinished { folder: folder.to_owned() };
        let read = |source| LabError::Read { file: folder.join(DONE), source };
        survey::done(folder).map_err(read)?.ok_or_else(not_finished)?;
        complete_finish(folder);
        let lock = Lock::take(folder)?;
        survey::done(folder).map_err(read)?.ok_or_else(not_finished)?;
        let folder = folder.to_owned();
        let (created, checkpoints) = (Vec::new(), CHECKPOINT_FOLDER);
        Ok(Self { folder, created, continued: false, checkpoints, state: State::Finished, journal: None, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether the run continues one that was interrupted (it may still have no checkpoint).
    pub fn continues(&self) -> bool {
        self.continued
    }

    /// Reads a file of the run.
    ///
    /// # Errors
    /// [`LabError::Read`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, LabError> {
        let file = self.folder.join(name);
        fs::read(&file).map_err(|source| LabError::Read { file, source })
    }

    /// Writes a file of the run, such as `report.json` or `figures/tokens.svg`.
    ///
    /// # Errors
    /// [`LabError::Write`]; the file is then as it was before.
    ///
    /// # Panics
    /// If the name is not in the list of a run's files: [`Existing::Overwrite`] could not remove it again.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), LabError> {
        self.write_with(name, |writer| writer.write_all(bytes))
    }

    /// Writes what `fill` produces, for content that should not be held in memory twice.
    ///
    /// # Errors
    /// As [`RunDir::write`].
    ///
    /// # Panics
    /// As [`RunDir::write`].
    pub fn write_with(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), LabError> {
        assert!(survey::is_ours(name), "`{name}` is in the list of a run's files");
        let file = self.folder.join(name);
        self.make_parent(&file)?;
        write_file_with(&file, fill)?;
        // The configuration alone is nothing to keep: it can be had again from the command.
        if self.state == State::Fresh && name != CONFIG {
            self.state = State::Useful;
        }
        Ok(())
    }

    /// Opens a file of the run that grows while it is watched, created if absent. Such a file is never replaced, so
    /// that its watchers keep it; whoever writes it makes it good again after a kill.
    ///
    /// # Errors
    /// [`LabError::Write`].
    ///
    /// # Panics
    /// As [`RunDir::write`].
    pub fn open_growing(&mut self, name: &str) -> Result<fs::File, LabError> {
        assert!(survey::is_ours(name), "`{name}` is in the list of a run's files");
        let file = self.folder.join(name);
        self.make_parent(&file)?;
        let open = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
        let open = open.map_err(|source| LabError::Write { file, source })?;
        if self.state == State::Fresh {
            self.state = State::Useful;
        }
        Ok(open)
    }

    /// Saves the state of an unfinished run; the previous checkpoint stands until the new one is complete on disk.
    ///
    /// # Errors
    /// [`LabError::Write`].
    pub fn save_checkpoint(&mut self, state: &[u8]) -> Result<(), LabError> {
        let file = self.checkpoint_file(STATE);
        self.make_parent(&file)?;
        checkpoint::save(&file, state)?;
        if self.state == State::Fresh {
            self.state = State::Useful;
        }
        Ok(())
    }

    /// Loads the state that was saved last.
    ///
    /// # Errors
    /// [`LabError::Read`]; a damaged file is no error but [`Checkpoint::Damaged`].
    pub fn load_checkpoint(&self) -> Result<Checkpoint, LabError> {
        checkpoint::load(&self.checkpoint_file(STATE))
    }

    /// Opens the journal of an unfinished run and answers its records, those that a kill left incomplete left out.
    ///
    /// # Errors
    /// [`LabError::Read`], [`LabError::Write`].
    pub fn open_journal(&mut self) -> Result<Vec<Vec<u8>>, LabError> {
        let file = self.checkpoint_file(JOURNAL);
        self.make_parent(&file)?;
        let (journal, records) = Journal::open(&file)?;
        self.journal = Some(journal);
        Ok(records)
    }

    /// Appends a record to the journal: it outlives a kill of this process from now on, a power cut from the next
    /// [`RunDir::sync_journal`] on.
    ///
    /// # Errors
    /// [`LabError::Write`].
    ///
    /// # Panics
    /// If the journal is not open.
    pub fn append(&mut self, record: &[u8]) -> Result<(), LabError> {
        self.journal.as_mut().expect("the journal was opened before").append(record)?;
        if self.state == State::Fresh {
            self.state = State::Useful;
        }
        Ok(())
    }

    /// Makes the journal durable.
    ///
    /// # Errors
    /// [`LabError::Write`].
    pub fn sync_journal(&mut self) -> Result<(), LabError> {
        self.journal.as_mut().map_or(Ok(()), Journal::sync)
    }

    /// Marks the run as complete: writes DONE, then removes the checkpoint.
    ///
    /// # Errors
    /// [`LabError::Read`] if there is no `report.json`; [`LabError::Write`].
    pub fn finish(mut self) -> Result<Done, LabError> {
        let report_sha256 = sha256_hex(&self.read(REPORT)?);
        let done = Done { program: "metastable".into(), schema: SCHEMA, report_sha256 };
        let file = self.folder.join(DONE);
        let failed = |source: serde_json::Error| LabError::Write { file: file.clone(), source: source.into() };
        let mut text = serde_json::to_string_pretty(&done).map_err(failed)?;
        text.push('\n');
        write_file(&file, text.as_bytes())?;
        self.state = State::Finished;
        remove_checkpoint(&self.folder).map_err(|source| self.failed(self.checkpoints, source))?;
        Ok(done)
    }

    fn checkpoint_file(&self, name: &str) -> PathBuf {
        self.folder.join(self.checkpoints).join(name)
    }

    fn survey(&self) -> Result<Survey, LabError> {
        survey_or_error(&self.folder)
    }

    fn start_anew(&mut self, fingerprint: &str) -> Result<(), LabError> {
        survey::remove_run(&self.folder).map_err(|source| self.failed("", source))?;
        self.state = State::Fresh;
        let file = self.checkpoint_file(FINGERPRINT);
        self.make_parent(&file)?;
        write_file(&file, format!("{fingerprint}\n").as_bytes())
    }

    fn make_parent(&self, file: &Path) -> Result<(), LabError> {
        let parent = file.parent().unwrap_or(&self.folder);
        if parent.is_dir() {
            return Ok(());
        }
        let failed = |source| LabError::Write { file: parent.to_owned(), source };
        fs::create_dir(parent).map_err(failed)?;
        atomic::sync_folder(&self.folder).map_err(failed)
    }

    fn failed(&self, name: &str, source: io::Error) -> LabError {
        LabError::Write { file: self.folder.join(name), source }
    }
}

impl Drop for RunDir {
    /// Leaves no trace of a run that failed before anything useful was written.
    fn drop(&mut self) {
        if self.state == State::Fresh {
            // Nothing to be done if this fails too: the error that led here is the one to show.
            let _ = remove_checkpoint(&self.folder);
            let _ = remove_if_there(&self.folder.join(CONFIG));
            let _ = remove_if_there(&self.folder.join(lock::LOCK_FILE));
            remove_empty(&self.created);
        }
    }
}

fn refuse_unusable(folder: &Path, existing: Existing, fingerprint: &str) -> Result<(), LabError> {
    if fs::metadata(folder).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(LabError::NotAFolder { folder: folder.to_owned() });
    }
    let found = survey_or_error(folder)?;
    if found == Survey::Finished {
        complete_finish(folder);
    }
    check(folder, existing, fingerprint, &found)
}

/// Removes what a process leaves that is killed between DONE and the end of [`RunDir::finish`].
fn complete_finish(folder: &Path) {
    let leftovers =
        [CHECKPOINT_FOLDER, CHECKPOINTS_FOLDER, lock::LOCK_FILE].iter().any(|name| folder.join(name).exists());
    // A process that still holds the lock will do it itself; and the run is complete even where it cannot be done.
    if leftovers && let Ok(_lock) = Lock::take(folder) {
        let _ = remove_checkpoint(folder);
    }
}

fn remove_checkpoint(folder: &Path) -> io::Result<()> {
    for checkpoint in [CHECKPOINT_FOLDER, CHECKPOINTS_FOLDER].map(|name| folder.join(name)) {
        for name in [STATE, JOURNAL, FINGERPRINT] {
            remove_if_there(&checkpoint.join(name))?;
        }
        if checkpoint.is_dir() {
            atomic::remove_leftovers(&checkpoint)?;
            remove_if_empty(&checkpoint)?;
        }
    }
    Ok(())
}

/// Products in a folder keep it.
fn remove_if_empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

fn survey_or_error(folder: &Path) -> Result<Survey, LabError> {
    survey::survey(folder).map_err(|source| LabError::Read { file: folder.to_owned(), source })
}

/// The whole policy: may this run use that folder?
fn check(folder: &Path, existing: Existing, fingerprint: &str, found: &Survey) -> Result<(), LabError> {
    let folder = folder.to_owned();
    match (found, existing) {
        (Survey::Foreign(name), _) => Err(LabError::ForeignFolder { folder, found: name.clone() }),
        (_, Existing::Overwrite) | (Survey::Empty, Existing::Refuse) => Ok(()),
        (Survey::Empty, Existing::Resume) => Err(LabError::NothingToResume { folder }),
        (Survey::Finished, _) => Err(LabError::FinishedFolder { folder }),
        (Survey::Unfinished(other), _) if other != fingerprint => {
            Err(LabError::OtherRun { folder, expected: fingerprint.to_owned(), found: other.clone() })
        }
        (Survey::Unfinished(_), _) => Ok(()),
    }
}

/// Creates a folder and its missing parents; answers those it created, outermost first.
fn create_folders(folder: &Path) -> Result<Vec<PathBuf>, LabError> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let mut created: Vec<PathBuf> = folder.ancestors().take_while(missing).map(Path::to_owned).collect();
    created.reverse();
    fs::create_dir_all(folder).map_err(|source| {
        remove_empty(&created);
        LabError::Write { file: folder.to_owned(), source }
    })?;
    Ok(created)
}

fn remove_empty(created: &[PathBuf]) {
    for folder in created.iter().rev() {
        // A folder that somebody else uses by now is not empty and stays.
        let _ = fs::remove_dir(folder);
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
