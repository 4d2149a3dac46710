//! Where the text comes from.

use std::path::PathBuf;

use crate::error::LabError;

/// Where the text comes from.
#[derive(Debug, Clone)]
pub enum TextSource {
    /// A UTF-8 file.
    File(PathBuf),
    /// Given as it is.
    Prompt(String),
}

/// The text, and what the report calls its origin.
pub(crate) fn read_text(source: &TextSource) -> Result<(String, String), LabError> {
    let file = match source {
        TextSource::Prompt(text) => return Ok((text.clone(), "prompt".into())),
        TextSource::File(file) => file,
    };
    let bytes = std::fs::read(file).map_err(|source| LabError::Read { file: file.clone(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| LabError::Content {
        file: file.clone(),
        expected: "UTF-8 text".into(),
        found: format!("a byte that is not, at position {}", error.utf8_error().valid_up_to()),
    })?;
    Ok((text, file.display().to_string()))
}
