//! Configurations: TOML, YAML or JSON in, any type out, with errors that name the place.
//!
//! A file becomes a tree ([`toml::Table`]), `--set` overrides change the tree, and the tree becomes the type. One way
//! for all formats, so that they accept the same things and complain in the same words. Whether the values make sense
//! is for the owner of the type to say.

mod explain;
mod key_path;
mod overrides;
mod tree;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::{LabError, Location};

/// Larger configurations are refused: arrays belong into files of their own.
const MAX_SIZE: u64 = 64 << 20;

/// How a configuration is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML, the native one.
    Toml,
    /// YAML, as other tools of the field use.
    Yaml,
    /// JSON, as programs write.
    Json,
}

impl Format {
    /// The format that a file's extension promises.
    ///
    /// # Errors
    /// [`LabError::ConfigFormat`].
    pub fn of_file(file: &Path) -> Result<Self, LabError> {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("json") => Ok(Self::Json),
            _ => Err(LabError::ConfigFormat { file: file.to_owned() }),
        }
    }
}

/// Reads a configuration file and applies `--set` overrides (`key.path=value`) to it.
///
/// # Errors
/// [`LabError::Read`], [`LabError::ConfigFormat`], and as [`parse_document`].
pub fn read_document<T: DeserializeOwned>(file: &Path, overrides: &[String]) -> Result<T, LabError> {
    let format = Format::of_file(file)?;
    parse_document(file, &read_text(file)?, format, overrides)
}

/// Turns the text of a configuration into a type; `file` is for messages.
///
/// # Errors
/// [`LabError::ConfigSyntax`], [`LabError::UnknownName`], [`LabError::MissingKey`], [`LabError::WrongValue`],
/// [`LabError::Override`].
///
/// # Example
/// ```
/// use metastable::document::{Format, parse_document};
///
/// #[derive(serde::Deserialize, Debug)]
/// #[serde(deny_unknown_fields)]
/// struct Kernel {
///     beta: f64,
/// }
/// let parse = |text| parse_document::<Kernel>("run.toml".as_ref(), text, Format::Toml, &[]);
///
/// assert_eq!(parse("beta = 2").unwrap().beta, 2.0);
/// let error = parse("beta = 2\nbet = 1").unwrap_err();
/// assert_eq!(error.to_string(), "run.toml:2:1: unknown key `bet`; expected `beta`");
/// assert_eq!(error.hint().unwrap(), "did you mean `beta`?");
/// ```
pub fn parse_document<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    format: Format,
    overrides: &[String],
) -> Result<T, LabError> {
    let mut table = tree::parse(file, text, format)?;
    for argument in overrides {
        overrides::apply(&mut table, argument)?;
    }
    key_path::deserialize(table).map_err(|failure| {
        let location = if overrides.is_empty() { locate::<T>(text, format) } else { Location::default() };
        explain::explain(file, location, failure)
    })
}

/// Reads a configuration file as the tree it is, with `--set` overrides applied: for configurations that hold another
/// one, which is changed before it is read.
///
/// # Errors
/// As [`read_document`], but for the type.
pub(crate) fn read_tree(file: &Path, overrides: &[String]) -> Result<Table, LabError> {
    let mut table = tree::parse(file, &read_text(file)?, Format::of_file(file)?)?;
    overrides.iter().try_for_each(|argument| overrides::apply(&mut table, argument))?;
    Ok(table)
}

/// Turns a tree into a type; `file` is for messages, which know no line.
///
/// # Errors
/// As [`parse_document`].
pub(crate) fn from_tree<T: DeserializeOwned>(file: &Path, table: Table) -> Result<T, LabError> {
    key_path::deserialize(table).map_err(|failure| explain::explain(file, Location::default(), failure))
}

/// Puts a value under a dotted key of a tree, as `--set` does; else what was expected and what was found.
pub(crate) fn set_key(table: &mut Table, key: &str, value: Value) -> Result<(), (String, String)> {
    overrides::put(table, key, value)
}

/// The resolved configuration as TOML, for `config.resolved.toml`.
///
/// # Errors
/// [`LabError::Resolve`] for what TOML cannot hold, such as integers above 2^63 - 1.
pub fn to_toml<T: Serialize>(config: &T) -> Result<String, LabError> {
    toml::to_string_pretty(config).map_err(|source| LabError::Resolve { source })
}

/// The place where the format's own reader meets the same error, if it does.
fn locate<T: DeserializeOwned>(text: &str, format: Format) -> Location {
    let found = match format {
        Format::Toml => {
            let span = toml::from_str::<T>(text).err().and_then(|error| error.span());
            return span.map_or(Location::default(), |span| Location::of_offset(text, span.start));
        }
        Format::Yaml => serde_yaml_ng::from_str::<T>(text)
            .err()
            .and_then(|error| error.location())
            .map(|location| (location.line(), location.column())),
        Format::Json => serde_json::from_str::<T>(text).err().map(|error| (error.line(), error.column())),
    };
    // Line 0 is how both say that they do not know.
    found.filter(|&(line, _)| line > 0).map_or(Location::default(), |(line, column)| Location::new(line, column))
}

fn read_text(file: &Path) -> Result<String, LabError> {
    let failed = |source| LabError::Read { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    // One byte more than allowed tells whether there is more, also for pipes, whose size nobody knows.
    opened.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let content =
        |expected: String, found: &str| LabError::Content { file: file.to_owned(), expected, found: found.into() };
    if bytes.len() as u64 > MAX_SIZE {
        return Err(content(format!("a configuration of at most {} MB", MAX_SIZE >> 20), "a larger file"));
    }
    String::from_utf8(bytes).map_err(|_| content("text in UTF-8".into(), "other bytes"))
}

#[cfg(test)]
mod tests;
