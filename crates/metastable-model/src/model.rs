//! An opened model: what the lab asks for.

use std::path::Path;

use metastable_dynamics::{Head, Matrix};

use crate::config::Config;
use crate::error::ModelError;
use crate::heads::{DistancePoint, HeadSpectrum, chosen, distance, heads, turns};
use crate::probe::Hidden;
use crate::text::{Encoded, Text};
use crate::transformer::Transformer;
use crate::weights::{Source, Summary, Weights};

/// One checkpoint, ready for forward passes. Holds its weights in f32; the files are closed again.
/// [`Weights`] holds none and reads single layers.
///
/// # Example
/// ```no_run
/// use std::path::Path;
/// use metastable_model::{Input, Model};
///
/// let model = Model::open(Path::new("all-MiniLM-L6-v2"))?;
/// let encoded = model.text()?.encode("The cat sits outside")?;
/// let hidden = model.forward(&Input::from(&encoded))?;
/// for (level, tokens) in hidden.trajectory()?.iter().enumerate() {
///     println!("level {level}: {} tokens of R^{}", tokens.count(), tokens.dim());
/// }
/// # Ok::<(), metastable_model::ModelError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Model {
    source: Source,
    transformer: Transformer,
    summary: Summary,
}

/// The ids of one text, and which of them are text rather than padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    ids: Vec<u32>,
    keep: Vec<bool>,
}

impl Input {
    /// A text without padding.
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no id.
    pub fn new(ids: Vec<u32>) -> Result<Self, ModelError> {
        let keep = vec![true; ids.len()];
        Self::padded(ids, keep)
    }

    /// A text with padding, `keep` false at padded positions: those get hidden states but nobody attends to them.
    ///
    /// # Errors
    /// [`ModelError::Input`] unless there is one flag for each id and a token to keep.
    pub fn padded(ids: Vec<u32>, keep: Vec<bool>) -> Result<Self, ModelError> {
        if keep.len() != ids.len() {
            return Err(ModelError::input("attention mask", format!("{} entries", ids.len()), keep.len()));
        }
        if !keep.contains(&true) {
            return Err(ModelError::input("ids", "at least one token that is no padding", "none"));
        }
        Ok(Self { ids, keep })
    }

    /// The ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl From<&Encoded> for Input {
    fn from(encoded: &Encoded) -> Self {
        Self { ids: encoded.ids.clone(), keep: vec![true; encoded.ids.len()] }
    }
}

impl Model {
    /// Opens a Hugging Face folder (config.json and safetensors, in one file or in shards) or a GGUF file. O(weights).
    ///
    /// # Errors
    /// [`ModelError`] of kind `Input` naming the file, what was expected and what was found; nothing is half-opened.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::load(&Weights::open(path)?)
    }

    /// Takes all weights of an opened checkpoint into memory, in f32. O(weights).
    ///
    /// # Errors
    /// [`ModelError::Tensor`] naming the first tensor that is missing or does not fit.
    pub fn load(weights: &Weights) -> Result<Self, ModelError> {
        let checkpoint = weights.checkpoint();
        let transformer = Transformer::load(&checkpoint.tensors(), checkpoint.config())?;
        Ok(Self { source: weights.source(), summary: weights.summary(), transformer })
    }

    /// The validated config.
    pub fn config(&self) -> &Config {
        &self.transformer.config
    }

    /// The weights.
    pub(crate) fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// The figures for a report.
    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }

    /// What an adapter may call this model so that other tools find it: `given`, unless it is a GGUF file, which PEFT
    /// cannot load; then the name in its metadata of the checkpoint that it was made of, where there is one.
    pub(crate) fn name_for_peft(&self, given: &str) -> Option<String> {
        match self.source {
            Source::Folder(_) => Some(given.into()),
            Source::Gguf(_) => self.source.made_from(),
        }
    }

    /// Reads the tokenizer.json of the folder, or the tokenizer inside the GGUF file.
    ///
    /// # Errors
    /// As [`Text::open`] and [`Text::open_gguf`].
    pub fn text(&self) -> Result<Text, ModelError> {
        self.source.text(self.config().vocab)
    }

    /// Runs the model on one text and keeps the hidden states of all levels.
    ///
    /// Time O(L·(n·d² + n²·d)), memory O(n·(L·d + intermediate)) besides the weights. Identical to the bit on any
    /// number of threads; padding changes the tokens of the text by rounding at most.
    ///
    /// # Errors
    /// [`ModelError::Input`] if an id is outside the vocabulary or the text longer than the model's positions;
    /// [`ModelError::NotFinite`] if the weights overflow.
    pub fn forward(&self, input: &Input) -> Result<Hidden, ModelError> {
        let (n, positions, vocab) = (input.ids.len(), self.config().positions, self.config().vocab);
        if n > positions {
            return Err(ModelError::input("text", format!("at most {positions} tokens"), n));
        }
        if let Some(id) = input.ids.iter().find(|id| **id as usize >= vocab) {
            return Err(ModelError::input("ids", format!("numbers below the model's vocab_size = {vocab}"), id));
        }
        let levels = self.transformer.forward(&input.ids, &input.keep);
        Hidden::new(self.config().hidden, input.keep.clone(), levels)
    }

    /// The scores of all tokens of the vocabulary as the next one, [n, vocab] row-major: W·(last level, after the final
    /// norm). O(n·vocab·d).
    ///
    /// # Errors
    /// [`ModelError::NoOutput`] for encoders, and for decoders saved without their head.
    pub fn logits(&self, hidden: &Hidden) -> Result<Vec<f32>, ModelError> {
        self.require_states(hidden)?;
        let refusal = || ModelError::NoOutput { family: self.config().family.name() };
        self.transformer.logits(hidden.last()).ok_or_else(refusal)
    }

    /// The attention weights P_ij of one head of block `layer` (from 0) at the tokens of level `layer`: row i says how
    /// token i looks at all tokens. [n, n], padding included; padded columns are exactly 0.
    ///
    /// Computed on demand from the hidden states, O(n·d² + n²·d/heads).
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such layer or head, or the states are not of this model.
    pub fn attention_weights(&self, hidden: &Hidden, layer: usize, head: usize) -> Result<Matrix, ModelError> {
        self.config().require_layer(layer)?;
        if head >= self.config().heads {
            return Err(ModelError::input("head", format!("a number below {}", self.config().heads), head));
        }
        self.require_states(hidden)?;
        let weights = self.transformer.attention_weights(hidden.level(layer), hidden.keep(), layer, head);
        let weights = weights.iter().map(|weight| f64::from(*weight)).collect();
        Ok(Matrix::new("attention weights", hidden.count(), hidden.count(), weights)?)
    }

    /// The mean over all heads of [`Model::attention_weights`], [n, n]. O(n·d² + n²·d), parallel over heads' rows.
    ///
    /// # Errors
    /// As [`Model::attention_weights`].
    pub fn mean_attention_weights(&self, hidden: &Hidden, layer: usize) -> Result<Matrix, ModelError> {
        self.config().require_layer(layer)?;
        self.require_states(hidden)?;
        let n = hidden.count();
        let mean = self.transformer.mean_attention_weights(hidden.level(layer), hidden.keep(), layer);
        Ok(Matrix::new("attention weights", n, n, mean)?)
    }

    /// The heads of block `layer` (from 0) in f64, biases left out: query (scaled by 1/sqrt(head_dim)), key and value
    /// [head_dim, d], output [d, head_dim].
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such layer.
    pub fn head_matrices(&self, layer: usize) -> Result<Vec<Head>, ModelError> {
        self.config().require_layer(layer)?;
        heads(&self.transformer.block(layer).attention)
    }

    /// The spectra of the QK and OV circuits of all heads of block `layer` (from 0). O(heads·d·head_dim²).
    ///
    /// # Errors
    /// As [`Model::head_matrices`]; [`ModelError::Mathematics`] if a decomposition does not converge.
    pub fn spectra(&self, layer: usize) -> Result<Vec<HeadSpectrum>, ModelError> {
        HeadSpectrum::of_all(&self.head_matrices(layer)?)
    }

    /// How strongly a token scores one that stands δ places before it, for every δ of `distances`: the circuit
    /// Qᵀ R_{-δ} K of a head of block `layer` (from 0), in the order given. O(head_dim³) a distance.
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such layer or head, if positions are not rotary, or a distance is longer than
    /// any text.
    pub fn query_key_by_distance(
        &self,
        layer: usize,
        head: usize,
        distances: &[usize],
    ) -> Result<Vec<DistancePoint>, ModelError> {
        let turns = turns(self.config(), self.transformer.rotary_divisors(), distances)?;
        distance::curve(&chosen(self.head_matrices(layer)?, head)?, &turns, distances)
    }

    /// The weights, for those who change them.
    pub(crate) fn transformer_mut(&mut self) -> &mut Transformer {
        &mut self.transformer
    }

    pub(crate) fn require_states(&self, hidden: &Hidden) -> Result<(), ModelError> {
        if (hidden.dim(), hidden.levels()) != (self.config().hidden, self.config().layers + 1) {
            let shape = |levels, dim| format!("{levels} levels of width {dim}");
            let expected = shape(self.config().layers + 1, self.config().hidden);
            return Err(ModelError::input("hidden states", expected, shape(hidden.levels(), hidden.dim())));
        }
        Ok(())
    }
}
