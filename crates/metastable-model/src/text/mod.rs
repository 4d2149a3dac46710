//! From text to ids and back, by the tokenizer.json of a model folder or the tokenizer inside a GGUF file.

mod gguf;
mod guard;

use std::collections::HashSet;
use std::path::Path;

use tokenizers::{Tokenizer, TruncationDirection};

use crate::config::read_bounded;
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::mapped::map;
pub(crate) use gguf::tokenizer_json as gguf_tokenizer;
use guard::guarded;

/// A model's tokenizer, with padding and truncation of its file switched off.
pub struct Text {
    tokenizer: Tokenizer,
    special_ids: HashSet<u32>,
}

/// A text as the model takes it. All lists have one entry a token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// Rows of the token embedding.
    pub ids: Vec<u32>,
    /// What the tokenizer calls them, for people ("##ing" continues a word).
    pub tokens: Vec<String>,
    /// Whether a token is special (`[CLS]`, `[SEP]`, ...) and not a part of the text.
    pub special: Vec<bool>,
    /// Where a token stands in the text, [start, end) in bytes; (0, 0) for added ones.
    pub offsets: Vec<(usize, usize)>,
    /// How many tokens at the end of the text were left out; 0 unless truncation was asked for.
    pub dropped: usize,
}

/// Largest accepted tokenizer.json; those of multilingual models reach some 20 MB.
const LARGEST_TOKENIZER: u64 = 256 << 20;

impl Text {
    /// Reads a tokenizer.json for a model of `vocab` token embeddings.
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::Unreadable`], [`ModelError::Malformed`];
    /// [`ModelError::TokenizerMismatch`] if it knows an id that the model does not.
    pub fn open(path: &Path, vocab: usize) -> Result<Self, ModelError> {
        let bytes = read_bounded(path, "the tokenizer.json of a model folder", LARGEST_TOKENIZER)?;
        Self::from_bytes(path, &bytes, vocab)
    }

    /// Reads the tokenizer inside a GGUF file, for a model of `vocab` token embeddings.
    ///
    /// # Errors
    /// As [`Text::open`]; [`ModelError::Malformed`] if the file has none, or one of another kind than BPE.
    pub fn open_gguf(path: &Path, vocab: usize) -> Result<Self, ModelError> {
        Self::from_gguf_bytes(path, &map(path, "a GGUF file")?, vocab)
    }

    /// The same for the bytes of a GGUF file; `path` is for messages.
    pub(crate) fn from_gguf_bytes(path: &Path, bytes: &[u8], vocab: usize) -> Result<Self, ModelError> {
        let malformed = |expected, found| ModelError::Malformed { path: path.into(), expected, found };
        let gguf = Gguf::parse(bytes).map_err(|found| malformed("a GGUF file", found))?;
        let json = gguf::tokenizer_json(&gguf.metadata).map_err(|(expected, found)| malformed(expected, found))?;
        Self::from_bytes(path, json.to_string().as_bytes(), vocab)
    }

    /// The same for the bytes of a tokenizer.json; `path` is for messages.
    pub(crate) fn from_bytes(path: &Path, bytes: &[u8], vocab: usize) -> Result<Self, ModelError> {
        let malformed = |found: String| ModelError::Malformed {
            path: path.into(),
            expected: "a tokenizer of the `tokenizers` library",
            found,
        };
        guard::check(bytes).map_err(malformed)?;
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(bytes)).map_err(malformed)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refused(error.to_string()))?;
        // Of equal ids the smaller string, so that the message does not depend on a hash map's order.
        let largest = tokenizer.get_vocab(true).into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)));
        match largest {
            Some((token, largest_id)) if largest_id as usize >= vocab => {
                Err(ModelError::TokenizerMismatch { path: path.into(), largest_id, token, vocab })
            }
            _ => {
                let added = tokenizer.get_added_tokens_decoder();
                let special_ids = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
                Ok(Self { tokenizer, special_ids })
            }
        }
    }

    /// The number of tokens the tokenizer knows, added ones included.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The id of a token by its string, such as `[MASK]`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Whether an id is one of the tokenizer's special tokens.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// Encodes a whole text with the model's special tokens, however long.
    ///
    /// # Errors
    /// [`ModelError::EmptyText`] if the text has no token of its own; [`ModelError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Encoded, ModelError> {
        self.encode_at_most(text, usize::MAX)
    }

    /// Encodes a text and drops tokens at its end until at most `limit` are left, special ones included;
    /// [`Encoded::dropped`] says how many.
    ///
    /// # Errors
    /// As [`Text::encode`]; [`ModelError::Input`] if `limit` leaves no room for one token of the text.
    pub fn encode_at_most(&self, text: &str, limit: usize) -> Result<Encoded, ModelError> {
        let mut bare = guarded(|| self.tokenizer.encode(text, false)).map_err(refused)?;
        if bare.is_empty() {
            return Err(ModelError::EmptyText);
        }
        let length = bare.len();
        let added = self.added_tokens(&bare)?;
        if limit <= added {
            return Err(ModelError::input("token limit", format!("at least {}", added + 1), limit));
        }
        bare.truncate(limit - added, 0, TruncationDirection::Right);
        let kept = bare.len();
        let encoding = guarded(|| self.tokenizer.post_process(bare, None, true)).map_err(refused)?;
        // Special tokens that a user typed into the text are special to the model too.
        let is_special = |(id, mask): (&u32, &u32)| *mask == 1 || self.special_ids.contains(id);
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().to_vec(),
            special: encoding.get_ids().iter().zip(encoding.get_special_tokens_mask()).map(is_special).collect(),
            offsets: encoding.get_offsets().to_vec(),
            dropped: length - kept,
        })
    }

    /// The text of a list of ids, special tokens left out.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        guarded(|| self.tokenizer.decode(ids, true)).map_err(refused)
    }

    /// How many special tokens the post-processor puts around a text.
    fn added_tokens(&self, bare: &tokenizers::Encoding) -> Result<usize, ModelError> {
        let whole = guarded(|| self.tokenizer.post_process(bare.clone(), None, true)).map_err(refused)?;
        Ok(whole.len().saturating_sub(bare.len()))
    }
}

fn refused(reason: String) -> ModelError {
    ModelError::Tokenizer { reason }
}
