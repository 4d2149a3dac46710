//! The doors through which untrusted bytes come in, on bytes alone: what fuzzing and whoever judges a file before it
//! is stored call.
//!
//! Each answers with what it read or with one error, for any input, without panicking and without memory beyond a
//! small multiple of the input's length. The functions that open files use the same code.

use std::path::Path;

use crate::error::ModelError;
use crate::lora::Survey;
use crate::text::Text;

/// Reads a safetensors file of a checkpoint and decodes its tensors; answers how many there are. O(length).
///
/// # Errors
/// [`ModelError::Malformed`].
///
/// # Example
/// ```
/// use metastable_model::doors;
///
/// let mut file = 61_u64.to_le_bytes().to_vec();
/// file.extend(br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}       "#);
/// file.extend(1.5_f32.to_le_bytes());
/// assert_eq!(doors::safetensors(&file)?, 1);
/// assert!(doors::safetensors(&file[..40]).is_err());
/// # Ok::<(), metastable_model::ModelError>(())
/// ```
pub fn safetensors(bytes: &[u8]) -> Result<usize, ModelError> {
    crate::checkpoint::check_safetensors(Path::new("model.safetensors"), bytes)
}

/// Reads a GGUF file: metadata, directory, config and every block; answers how many tensors there are. O(length).
///
/// # Errors
/// [`ModelError`] of kind `Input`.
pub fn gguf(bytes: &[u8]) -> Result<usize, ModelError> {
    crate::checkpoint::check_gguf(Path::new("model.gguf"), bytes)
}

/// Builds the tokenizer inside a GGUF file for a model of `vocab` token embeddings. O(length).
///
/// # Errors
/// As [`Text::open_gguf`].
pub fn gguf_tokenizer(bytes: &[u8], vocab: usize) -> Result<Text, ModelError> {
    Text::from_gguf_bytes(Path::new("model.gguf"), bytes, vocab)
}

/// Reads and judges PEFT's two files. O(length).
///
/// # Errors
/// As [`Adapter::survey`](crate::lora::Adapter::survey).
pub fn adapter(config: &[u8], weights: &[u8]) -> Result<Survey, ModelError> {
    crate::lora::survey_of_bytes(Path::new("adapter"), config, weights)
}

/// Builds the tokenizer of a tokenizer.json for a model of `vocab` token embeddings. O(length).
///
/// # Errors
/// As [`Text::open`].
pub fn tokenizer(bytes: &[u8], vocab: usize) -> Result<Text, ModelError> {
    Text::from_bytes(Path::new("tokenizer.json"), bytes, vocab)
}
