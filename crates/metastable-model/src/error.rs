//! What can be wrong with a checkpoint, a tokenizer or a text.

use std::io;
use std::path::{Path, PathBuf};

use metastable_dynamics::DynamicsError;

/// A rejected folder, file, text or request: names the culprit, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file or folder does not exist.
    #[error("{}: not found, expected {expected}", path.display())]
    Missing {
        /// Where we looked.
        path: PathBuf,
        /// What should stand there.
        expected: &'static str,
    },
    /// The system refused to give a file's bytes.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file's bytes do not follow its format.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format.
        expected: &'static str,
        /// Where it is broken.
        found: String,
    },
    /// The folder holds weights only in a format we do not read.
    #[error("{}: expected model.safetensors, found only {found}", path.display())]
    WeightFormat {
        /// The folder.
        path: PathBuf,
        /// The file with the weights.
        found: String,
    },
    /// The model family has no forward pass here.
    #[error("{}: model_type `{found}` is not supported, expected one of: {supported}", path.display())]
    UnsupportedFamily {
        /// The config file.
        path: PathBuf,
        /// The family asked for.
        found: String,
        /// All families we have.
        supported: String,
    },
    /// A config value is missing, out of its range or not supported.
    #[error("{}: {name}: expected {expected}, found {found}", path.display())]
    Config {
        /// The config file.
        path: PathBuf,
        /// The key.
        name: &'static str,
        /// Its domain.
        expected: String,
        /// The value.
        found: String,
    },
    /// A tensor is absent, or has the wrong shape, type or entries.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// The name as the file would spell it.
        tensor: String,
        /// What the config promises.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// The tokenizer has ids that the model has no embedding for.
    #[error(
        "{}: the tokenizer knows ids up to {largest_id} (`{token}`), but the model's vocab_size is {vocab}; they do not belong together",
        path.display()
    )]
    TokenizerMismatch {
        /// The tokenizer file.
        path: PathBuf,
        /// The largest id of the tokenizer.
        largest_id: u32,
        /// Its token.
        token: String,
        /// The model's vocabulary.
        vocab: usize,
    },
    /// The tokenizer library refused a text or a list of ids.
    #[error("the tokenizer failed: {reason}")]
    Tokenizer {
        /// The library's words.
        reason: String,
    },
    /// A text without a single token of its own.
    #[error("the text is empty: expected at least one token besides the special ones")]
    EmptyText,
    /// An input, or a request about one, lies outside what the model can take.
    #[error("{name}: expected {expected}, found {found}")]
    Input {
        /// Which input.
        name: &'static str,
        /// Its domain.
        expected: String,
        /// The value.
        found: String,
    },
    /// Scores of tokens were asked of a model without an output map.
    #[error("logits: expected a decoder with its output map, found a {family} checkpoint without one")]
    NoOutput {
        /// `model_type`.
        family: &'static str,
    },
    /// Finite weights led to an infinite or undefined hidden state.
    #[error("the hidden states overflow: token {token} of level {level} is not finite")]
    NotFinite {
        /// 0 for the embeddings, l for the output of block l.
        level: usize,
        /// The position of the token.
        token: usize,
    },
    /// A decomposition or a shape check of the mathematics failed.
    #[error(transparent)]
    Mathematics(#[from] DynamicsError),
}

/// Whom an error speaks to; faces map it to exit codes and exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelErrorKind {
    /// An input is missing, unreadable or incompatible: the user can repair it.
    Input,
    /// The computation failed on accepted input.
    Internal,
}

impl ModelError {
    /// Whether the input or the computation is to blame.
    pub fn kind(&self) -> ModelErrorKind {
        match self {
            Self::Mathematics(_) | Self::NotFinite { .. } => ModelErrorKind::Internal,
            _ => ModelErrorKind::Input,
        }
    }

    /// What the user may try, where there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::WeightFormat { .. } => Some(
                "pickle files can run code when opened and are never read; save the model once with \
                 `save_pretrained(folder, safe_serialization=True)` into a single file",
            ),
            Self::Missing { .. } => {
                Some("a Hugging Face folder holds config.json, model.safetensors and tokenizer.json")
            }
            Self::Malformed { .. } => Some("the download may be incomplete: compare its size and hash with the source"),
            Self::TokenizerMismatch { .. } => Some("take tokenizer.json from the folder the weights came from"),
            _ => None,
        }
    }

    /// A failed read of `path`: absent or refused.
    pub(crate) fn reading(path: &Path, expected: &'static str, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path, expected },
            _ => Self::Unreadable { path, source },
        }
    }

    /// A [`ModelError::Input`] from displayable parts.
    pub(crate) fn input(name: &'static str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Input { name, expected: expected.to_string(), found: found.to_string() }
    }
}
