//! The question of this project, asked while training: how far does the adapter move the tokens of one text, layer by
//! layer, and where do they change clusters?
//!
//! The numbers are those of `inspect --adapter` for the adapter as it is at that step.

use std::path::Path;

use metastable_dynamics::Tokens;
use metastable_model::lora::Strictness;
use metastable_model::train::Session;
use metastable_model::{Encoded, Input, Model, Text};
use serde::{Deserialize, Serialize};

use super::meant;
use super::written::ProbeConfig;
use crate::error::LabError;
use crate::inspect::drift::{LayerDrift, drift};

/// A text in the base model, ready to be compared.
pub(super) struct Probe {
    base: Model,
    encoded: Encoded,
    clouds: Vec<Tokens>,
    radius: f64,
    every: u64,
}

/// What the adapter of one step does to the probe text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// The first level at which some token is in another cluster; null if none is.
    pub departure: Option<usize>,
    /// A row a level: 0 is the embedding, l the output of block l.
    pub layers: Vec<LayerDrift>,
}

impl Probe {
    /// Runs the text through the model as it is before training.
    ///
    /// # Errors
    /// [`LabError::Read`], [`LabError::Content`] for the file; [`LabError::Model`] if the text has no token.
    pub(super) fn of(config: &ProbeConfig, file: &Path, model: &Model, text: &Text) -> Result<Self, LabError> {
        let source = config.file.as_ref().map(|name| meant::data_path(file, name));
        let words = match (&config.text, source) {
            (Some(words), _) => words.clone(),
            (None, Some(source)) => read(&source)?,
            (None, None) => String::new(),
        };
        let limit = config.max_tokens.min(model.config().positions);
        let encoded = text.encode_at_most(&words, limit)?;
        let clouds = model.forward(&Input::from(&encoded))?.trajectory()?;
        Ok(Self { base: model.clone(), encoded, clouds, radius: config.cluster_radius, every: config.every })
    }

    /// Whether the step is one to ask at.
    pub(super) fn is_due(&self, step: u64, is_last: bool) -> bool {
        step.is_multiple_of(self.every) || is_last
    }

    /// Two clouds a level compared, after one forward pass of the adapted model.
    ///
    /// # Errors
    /// [`LabError::Model`] if the adapter left the finite numbers.
    pub(super) fn measure(&self, session: &Session, model: &str) -> Result<ProbeRow, LabError> {
        let adapter = session.adapter(model)?;
        // A trained head is no part of the hidden states.
        let adapted = self.base.with_adapter(&adapter, Strictness::Partial)?.model;
        let clouds = adapted.forward(&Input::from(&self.encoded))?.trajectory()?;
        let (layers, departure) = drift(&self.clouds, &clouds, self.radius)?;
        Ok(ProbeRow { departure, layers })
    }
}

fn read(file: &Path) -> Result<String, LabError> {
    let bytes = std::fs::read(file).map_err(|source| LabError::Read { file: file.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|error| LabError::Content {
        file: file.to_owned(),
        expected: "UTF-8 text".into(),
        found: format!("a byte that is not, at position {}", error.utf8_error().valid_up_to()),
    })
}
