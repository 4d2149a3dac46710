//! One key of a config at a time: its domain is checked where it is read, and its error names it.

use std::path::Path;

use serde_json::{Map, Value};

use super::Activation;
use crate::error::ModelError;

/// The entries of a JSON object, and the file they come from.
pub(crate) struct Keys<'a> {
    path: &'a Path,
    entries: Map<String, Value>,
}

/// Largest accepted side: products of two sides and a size of 8 bytes then fit 64 bits.
pub(crate) const LARGEST_SIDE: u64 = 1 << 24;

impl<'a> Keys<'a> {
    pub(crate) fn new(path: &'a Path, entries: Map<String, Value>) -> Self {
        Self { path, entries }
    }

    /// The value of a key; `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.entries.get(name).filter(|value| !value.is_null())
    }

    /// Whether the key is there, `null` included.
    pub(super) fn written(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The object that stands at a key.
    pub(super) fn object(&self, name: &'static str) -> Result<Option<Keys<'a>>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(entries)) => Ok(Some(Keys { path: self.path, entries: entries.clone() })),
            Some(other) => Err(self.refuse(name, "an object", other)),
        }
    }

    pub(super) fn refuse(&self, name: &'static str, expected: impl ToString, found: impl ToString) -> ModelError {
        ModelError::Config { path: self.path.into(), name, expected: expected.to_string(), found: found.to_string() }
    }

    fn missing(&self, name: &'static str, expected: &str) -> ModelError {
        self.refuse(name, expected, "no such key")
    }

    /// An integer from 1 to 2^24.
    pub(super) fn side(&self, name: &'static str) -> Result<usize, ModelError> {
        const DOMAIN: &str = "an integer from 1 to 2^24";
        let value = self.get(name).ok_or_else(|| self.missing(name, DOMAIN))?;
        match value.as_u64() {
            Some(side @ 1..=LARGEST_SIDE) => Ok(side as usize),
            _ => Err(self.refuse(name, DOMAIN, value)),
        }
    }

    /// An integer from 1 to 2^24, or `default` where the key is absent.
    pub(super) fn side_or(&self, name: &'static str, default: usize) -> Result<usize, ModelError> {
        if self.get(name).is_some() { self.side(name) } else { Ok(default) }
    }

    /// A token id, if there is one.
    pub(super) fn id(&self, name: &'static str) -> Result<Option<u32>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let id = value.as_u64().filter(|id| *id < LARGEST_SIDE).and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| self.refuse(name, "a token id", value))
    }

    /// A finite number in (low, high], or `default`.
    pub(super) fn number(
        &self,
        name: &'static str,
        (low, high): (f64, f64),
        default: Option<f64>,
    ) -> Result<f64, ModelError> {
        let domain = || format!("a number between {low} and {high}");
        match (self.get(name), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.missing(name, &domain())),
            (Some(value), _) => {
                let number = value.as_f64().filter(|number| *number > low && *number <= high);
                number.ok_or_else(|| self.refuse(name, domain(), value))
            }
        }
    }

    /// What a norm adds below its root.
    pub(super) fn epsilon(&self, name: &'static str, default: f64) -> Result<f64, ModelError> {
        self.number(name, (0.0, 1.0), Some(default))
    }

    pub(super) fn flag(&self, name: &'static str, default: bool) -> Result<bool, ModelError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.refuse(name, "true or false", value)),
        }
    }

    /// A flag that only has one value here; `why` says what the other would mean.
    pub(super) fn fixed(&self, name: &'static str, value: bool, why: &str) -> Result<(), ModelError> {
        match self.flag(name, value)? == value {
            true => Ok(()),
            false => Err(self.refuse(name, format!("{value}: {why}"), !value)),
        }
    }

    pub(super) fn text(&self, name: &'static str, default: &str) -> Result<String, ModelError> {
        match self.get(name) {
            None => Ok(default.into()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.refuse(name, "a string", other)),
        }
    }

    /// A nonlinearity by its name in `transformers`.
    pub(super) fn activation(&self, name: &'static str, default: &str) -> Result<Activation, ModelError> {
        let found = self.text(name, default)?;
        match found.as_str() {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "silu" | "swish" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            _ => Err(self.refuse(name, "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu or relu", found)),
        }
    }

    /// A divisor of `whole`, the value of `of`.
    pub(super) fn divisor(
        &self,
        name: &'static str,
        value: usize,
        (of, whole): (&str, usize),
    ) -> Result<usize, ModelError> {
        if whole.is_multiple_of(value) {
            return Ok(value);
        }
        Err(self.refuse(name, format!("a divisor of {of} = {whole}"), value))
    }
}
