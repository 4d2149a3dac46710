//! What can go wrong between a name of the Hub and its files.

use std::path::PathBuf;

use super::ErrorKind;

/// Why a repository of the Hub could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The server cannot be reached, or stops answering.
    #[error("{name}: not complete in the local cache, and {endpoint} cannot be reached: {cause}")]
    Unreachable {
        /// The repository.
        name: String,
        /// The server.
        endpoint: String,
        /// What the network says.
        cause: String,
    },
    /// The server knows no such repository, or hides it.
    #[error("{name}: neither a path here nor a model that {endpoint} shows ({status})")]
    NoRepository {
        /// The repository.
        name: String,
        /// The server.
        endpoint: String,
        /// What it answered.
        status: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{name}: {endpoint} has this model, but no revision `{revision}`")]
    NoRevision {
        /// The repository.
        name: String,
        /// The server.
        endpoint: String,
        /// The revision.
        revision: String,
    },
    /// The repository is shown to some people only.
    #[error("{name}: {endpoint} gives it only to those who were granted access ({status})")]
    Gated {
        /// The repository.
        name: String,
        /// The server.
        endpoint: String,
        /// What it answered.
        status: String,
    },
    /// An answer that no server of the Hub should give.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        /// The address.
        url: String,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// The repository has no files that can be used.
    #[error("{name}: expected {expected}, found {found}")]
    Files {
        /// The repository.
        name: String,
        /// What fits.
        expected: String,
        /// What it has.
        found: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A download whose bytes are not those that the server announced; it was removed.
    #[error("{}: expected {expected}, found {found}; the download was removed", file.display())]
    Damaged {
        /// The download.
        file: PathBuf,
        /// The announced size or hash.
        expected: String,
        /// The size or hash of what came.
        found: String,
    },
}

impl HubError {
    /// What kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Answer { .. } | Self::Damaged { .. } => ErrorKind::Failure,
            Self::NoRepository { .. } | Self::NoRevision { .. } | Self::Gated { .. } | Self::Files { .. } => {
                ErrorKind::Input
            }
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => Some(
                "the same command continues where it stopped; HTTPS_PROXY and HF_ENDPOINT are honoured, \
                 --offline uses the cache alone"
                    .into(),
            ),
            Self::NoRepository { .. } => {
                Some("check the path or name; a private model needs a token in HF_TOKEN".into())
            }
            Self::NoRevision { .. } => Some("name a branch, tag or commit that exists, as NAME@REVISION".into()),
            Self::Gated { name, endpoint, .. } => Some(format!(
                "accept its conditions at {endpoint}/{}, and set HF_TOKEN to a token of that account",
                name.split('@').next().unwrap_or(name)
            )),
            Self::Damaged { .. } => Some("run the same command again to download it anew".into()),
            Self::Files { hint, .. } => hint.clone(),
            Self::Answer { .. } => None,
        }
    }
}
