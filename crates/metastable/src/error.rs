//! Everything that can go wrong in the lab, with the culprit inside.
//!
//! The message says what was expected and what was found; [`LabError::hint`] says what to do about it;
//! [`LabError::kind`] is what a face turns into an exit code or an exception.

mod hub;

use std::io;
use std::path::{Path, PathBuf};

use metastable_dynamics::DynamicsError;
use metastable_model::{ModelError, ModelErrorKind};

use crate::watch::Interruption;
pub use hub::HubError;

/// What kind of trouble an error is, for exit codes and exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something went wrong while running: a full disk, a decomposition that did not converge.
    Failure,
    /// The command line or the configuration asks for something impossible.
    Config,
    /// A check that was asked for did not pass.
    Check,
    /// An input is missing, unreadable or does not fit.
    Input,
    /// The run was asked to stop and saved its state; submit the same command again.
    Checkpointed,
    /// The user interrupted the run.
    Interrupted,
}

/// An error of the lab.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A configuration whose extension names no known format.
    #[error("{}: expected a configuration ending in .toml, .yaml, .yml or .json", file.display())]
    ConfigFormat {
        /// The configuration.
        file: PathBuf,
    },
    /// A configuration that is not well-formed TOML, YAML or JSON.
    #[error("{}{location}: {message}", file.display())]
    ConfigSyntax {
        /// The configuration.
        file: PathBuf,
        /// Where in the file.
        location: Location,
        /// What the parser says.
        message: String,
    },
    /// A key or a choice that does not exist.
    #[error("{}{location}: unknown {what} `{found}`{}; expected {}", file.display(), at(key), one_of(expected))]
    UnknownName {
        /// The configuration.
        file: PathBuf,
        /// Where in the file.
        location: Location,
        /// The path of the key, as `head[0].value`; empty at the top.
        key: String,
        /// "key" or "value".
        what: &'static str,
        /// The name that came.
        found: String,
        /// The names that exist there.
        expected: Box<[String]>,
    },
    /// A required key that is absent.
    #[error("{}{location}: the key `{missing}` is missing{}", file.display(), at(key))]
    MissingKey {
        /// The configuration.
        file: PathBuf,
        /// Where in the file.
        location: Location,
        /// The path of the table; empty at the top.
        key: String,
        /// The absent key.
        missing: String,
    },
    /// A value of the wrong type or outside its domain.
    #[error("{}{location}: `{key}`: expected {expected}, found {found}", file.display())]
    WrongValue {
        /// The configuration.
        file: PathBuf,
        /// Where in the file.
        location: Location,
        /// The path of the key.
        key: String,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// An unusable `--set key=value`.
    #[error("--set {argument}: expected {expected}, found {found}")]
    Override {
        /// The argument as given.
        argument: String,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// An unusable flag, or two settings that contradict each other.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The flag or key.
        name: String,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// A resolved configuration that TOML cannot hold, such as an integer above 2^63 - 1.
    #[error("the configuration cannot be written as TOML")]
    Resolve {
        /// What TOML says.
        #[source]
        source: toml::ser::Error,
    },
    /// A file that cannot be read.
    #[error("{}: cannot be read: {}", file.display(), describe(source))]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file that cannot be written; nothing half-written remains.
    #[error("{}: cannot be written: {}", file.display(), describe(source))]
    Write {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file whose content is not what its name promises, or not what the job needs.
    #[error("{}: expected {expected}, found {found}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// A tensor that a file does not hold.
    #[error("{}: expected a tensor `{tensor}`, found {}", file.display(), list(found))]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensors it holds.
        found: Vec<String>,
    },
    /// Mathematics that refuses numbers read from a file.
    #[error("{}: {source}", file.display())]
    InFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with its numbers.
        #[source]
        source: DynamicsError,
    },
    /// Mathematics that refuses a configured value.
    #[error(transparent)]
    Dynamics(#[from] DynamicsError),
    /// A checkpoint, tokenizer or text that is refused.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// A model or adapter that the Hub does not give.
    #[error(transparent)]
    Hub(Box<HubError>),
    /// A model that is neither a path nor in the Hub's cache, where the network was not asked.
    #[error(
        "{}: not found, expected a model folder, a GGUF file or a Hub model in the local cache; looked for {}",
        model.display(),
        list_paths(looked)
    )]
    UnknownModel {
        /// The model as given.
        model: PathBuf,
        /// Every place that was looked at.
        looked: Vec<PathBuf>,
    },
    /// An output path that is a file.
    #[error("{}: expected a folder, found a file", folder.display())]
    NotAFolder {
        /// The path.
        folder: PathBuf,
    },
    /// A folder with files that no run of ours wrote.
    #[error("{}: expected an empty folder or a run folder, found `{found}`", folder.display())]
    ForeignFolder {
        /// The folder.
        folder: PathBuf,
        /// One of its files.
        found: String,
    },
    /// A run folder that is complete.
    #[error("{}: holds a finished run", folder.display())]
    FinishedFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// A run folder that belongs to an unfinished run of another configuration.
    #[error("{}: holds an unfinished run of configuration {found}, expected {expected}", folder.display())]
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// The fingerprint of this configuration.
        expected: String,
        /// The fingerprint in the folder.
        found: String,
    },
    /// `--resume` where there is nothing to resume.
    #[error("{}: expected an unfinished run to resume, found none", folder.display())]
    NothingToResume {
        /// The folder.
        folder: PathBuf,
    },
    /// A folder without a finished run where one is needed.
    #[error("{}: expected the folder of a finished run, found no DONE file of ours", folder.display())]
    NotFinished {
        /// The folder.
        folder: PathBuf,
    },
    /// A run folder that another process is writing.
    #[error("{}: another process is writing this run folder", folder.display())]
    LockedFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// A table whose columns do not fit together.
    #[error("table {table}, column {column}: expected {expected}, found {found}")]
    Column {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// Parquet refused a table.
    #[error("table {table}: cannot be written as Parquet: {source}")]
    Parquet {
        /// The table.
        table: String,
        /// The cause.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// The worker threads cannot be started.
    #[error("--threads {count}: the threads cannot be started: {source}")]
    Threads {
        /// How many.
        count: usize,
        /// The cause.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
    /// A check that was asked for did not pass.
    #[error("check {check}: expected {expected}, found {found}")]
    CheckFailed {
        /// The check.
        check: String,
        /// The threshold.
        expected: String,
        /// The measured value.
        found: String,
    },
    /// Points of a sweep that failed; all others are in its folder, which is complete.
    #[error("{}: {failed} of {total} points failed; the first: {first}", folder.display())]
    PointsFailed {
        /// The run folder.
        folder: PathBuf,
        /// How many failed.
        failed: usize,
        /// Of how many.
        total: usize,
        /// Where the first is, and its error.
        first: String,
    },
    /// Training left the finite numbers; nothing that was good is lost.
    #[error("{}: after step {step}: {source}; what was saved before is kept{}", folder.display(), kept_adapter(*kept))]
    Diverged {
        /// The run folder.
        folder: PathBuf,
        /// The last step that was made.
        step: u64,
        /// The step of the adapter in `adapter/`, if one had been evaluated.
        kept: Option<u64>,
        /// What is not finite.
        #[source]
        source: Box<ModelError>,
    },
    /// The run was asked to stop, and did after saving its state.
    #[error("{}: {interruption}; the state is saved", folder.display())]
    Stopped {
        /// The run folder.
        folder: PathBuf,
        /// Who asked.
        interruption: Interruption,
    },
}

impl LabError {
    /// A value of a configuration that is read but makes no sense.
    pub(crate) fn wrong_value(file: &Path, key: &str, expected: String, found: String) -> Self {
        Self::WrongValue { file: file.to_owned(), location: Location(None), key: key.into(), expected, found }
    }

    /// What kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ConfigFormat { .. }
            | Self::ConfigSyntax { .. }
            | Self::UnknownName { .. }
            | Self::MissingKey { .. }
            | Self::WrongValue { .. }
            | Self::Override { .. }
            | Self::Setting { .. }
            | Self::Resolve { .. }
            | Self::NotAFolder { .. }
            | Self::ForeignFolder { .. }
            | Self::FinishedFolder { .. }
            | Self::OtherRun { .. }
            | Self::NothingToResume { .. }
            | Self::Threads { .. } => ErrorKind::Config,
            Self::Model(source) => match source.kind() {
                ModelErrorKind::Input => ErrorKind::Input,
                _ => ErrorKind::Failure,
            },
            Self::Hub(source) => source.kind(),
            Self::Dynamics(source) => match source {
                DynamicsError::Decomposition { .. } | DynamicsError::NotConverged { .. } => ErrorKind::Failure,
                _ => ErrorKind::Config,
            },
            Self::Read { .. }
            | Self::UnknownModel { .. }
            | Self::Content { .. }
            | Self::MissingTensor { .. }
            | Self::InFile { .. }
            | Self::NotFinished { .. } => ErrorKind::Input,
            Self::Write { .. }
            | Self::LockedFolder { .. }
            | Self::Column { .. }
            | Self::Parquet { .. }
            | Self::PointsFailed { .. }
            | Self::Diverged { .. } => ErrorKind::Failure,
            Self::CheckFailed { .. } => ErrorKind::Check,
            Self::Stopped { interruption: Interruption::Terminate, .. } => ErrorKind::Checkpointed,
            Self::Stopped { interruption: Interruption::Interrupt, .. } => ErrorKind::Interrupted,
        }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownName { found, expected, .. } => {
                nearest(found, expected).map(|name| format!("did you mean `{name}`?"))
            }
            Self::UnknownModel { looked, .. } if looked.len() > 1 => {
                Some("nothing was downloaded: leave out --offline and HF_HUB_OFFLINE, or name a folder".into())
            }
            Self::Hub(source) => source.hint(),
            Self::Diverged { source, .. } => source.hint().map(str::to_owned),
            Self::Override { .. } => Some("write --set table.key=value or --set list.0.key=value".into()),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("paths in a configuration are relative to the configuration".into())
            }
            Self::Write { file, source } if source.kind() == io::ErrorKind::StorageFull && is_download(file) => {
                Some("free some space and run the same command again; HF_HOME says where downloads are kept".into())
            }
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space and run the same command again, or choose another folder with -o".into())
            }
            Self::Dynamics(DynamicsError::NotConverged { .. }) => {
                Some("raise kernel.epsilon, kernel.max_iterations or kernel.tolerance".into())
            }
            Self::ForeignFolder { .. } | Self::NotAFolder { .. } => Some("choose another folder with -o".into()),
            Self::FinishedFolder { .. } => Some("choose another folder with -o, or replace it with --overwrite".into()),
            Self::OtherRun { .. } => {
                Some("choose another folder with -o, go back to that configuration, or --overwrite it".into())
            }
            Self::NothingToResume { .. } => Some("leave --resume out to start from the beginning".into()),
            Self::LockedFolder { .. } => Some("wait for it, or choose another folder with -o".into()),
            Self::PointsFailed { .. } => Some("the column `error` of points.csv has the reason of each".into()),
            Self::Stopped { .. } => Some("run the same command again to continue".into()),
            _ => None,
        }
    }
}

/// Whether a file is one that the Hub's cache was receiving.
fn is_download(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "incomplete")
}

fn list_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl From<HubError> for LabError {
    fn from(source: HubError) -> Self {
        Self::Hub(Box::new(source))
    }
}

impl From<ModelError> for LabError {
    fn from(source: ModelError) -> Self {
        Self::Model(Box::new(source))
    }
}

/// A line and a column of a text, both from 1; nothing where they are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Location(Option<(u32, u32)>);

impl Location {
    /// A known place.
    pub fn new(line: usize, column: usize) -> Self {
        // Configurations are smaller than 4 GB: saturating loses nothing.
        let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self(Some((small(line), small(column))))
    }

    /// The place of byte `offset` of `text`; columns count characters.
    pub fn of_offset(text: &str, offset: usize) -> Self {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Self::new(line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }

    /// Line and column, if known.
    pub fn line_and_column(self) -> Option<(u32, u32)> {
        self.0
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |(line, column)| write!(f, ":{line}:{column}"))
    }
}

/// The name that `found` was most likely meant to be: at most one slip in three letters, at least one allowed.
fn nearest<'a>(found: &str, names: &'a [String]) -> Option<&'a String> {
    let found = found.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&found, &name.to_lowercase());
    let allowed = (found.chars().count() / 3).max(1);
    names.iter().filter(|name| distance(name.as_str()) <= allowed).min_by_key(|name| distance(name.as_str()))
}

fn kept_adapter(step: Option<u64>) -> String {
    step.map_or(String::new(), |step| format!(", and adapter/ holds the best adapter, of step {step}"))
}

fn at(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(" in `{key}`") }
}

fn one_of(names: &[String]) -> String {
    match names {
        [] => "no keys there".into(),
        [one] => format!("`{one}`"),
        many => format!("one of {}", list(many)),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::StorageFull => "no space left on the device".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_count_lines_and_characters_from_one() {
        assert_eq!(Location::of_offset("a\nβγ = 1\n", 2).to_string(), ":2:1");
        assert_eq!(Location::of_offset("a\nβγ = 1\n", 6).to_string(), ":2:3");
        assert_eq!(Location::of_offset("", 7).to_string(), ":1:1");
        assert_eq!(Location::default().to_string(), "");
    }

    #[test]
    fn stopping_distinguishes_the_scheduler_from_the_user() {
        let stopped = |interruption| LabError::Stopped { folder: "run".into(), interruption };
        assert_eq!(stopped(Interruption::Terminate).kind(), ErrorKind::Checkpointed);
        assert_eq!(stopped(Interruption::Interrupt).kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn a_failed_decomposition_is_no_fault_of_the_configuration() {
        let failed = LabError::from(DynamicsError::Decomposition { name: "value".into(), what: "eigenvalues" });
        let negative =
            LabError::from(DynamicsError::Domain { name: "beta".into(), expected: ">= 0".into(), found: "-1".into() });
        assert_eq!((failed.kind(), negative.kind()), (ErrorKind::Failure, ErrorKind::Config));
    }

    #[test]
    fn messages_name_file_place_and_neighbours() {
        let error = LabError::UnknownName {
            file: "run.toml".into(),
            location: Location::new(3, 1),
            key: "head[0]".into(),
            what: "key",
            found: "vlaue".into(),
            expected: ["query".into(), "value".into()].into(),
        };
        assert_eq!(
            error.to_string(),
            "run.toml:3:1: unknown key `vlaue` in `head[0]`; expected one of `query`, `value`"
        );
        assert_eq!(error.hint().as_deref(), Some("did you mean `value`?"));
    }
}
