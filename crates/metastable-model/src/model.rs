//! An opened model: what the lab asks for.

use std::path::{Path, PathBuf};

use metastable_dynamics::{Head, Matrix};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::ModelError;
use crate::heads::{HeadSpectrum, heads};
use crate::probe::Hidden;
use crate::text::{Encoded, Text};
use crate::transformer::Transformer;

/// One checkpoint, ready for forward passes. Holds its weights in f32; the files are closed again.
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
    folder: PathBuf,
    config: Config,
    transformer: Transformer,
    parameters: usize,
}

/// The figures that name a model in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// `model_type` of config.json.
    pub family: &'static str,
    /// Blocks.
    pub layers: usize,
    /// Width of a token.
    pub hidden: usize,
    /// Query heads a layer.
    pub heads: usize,
    /// Key and value heads a layer; fewer than `heads` where queries share them.
    pub kv_heads: usize,
    /// Token embeddings.
    pub vocab: usize,
    /// Floating-point numbers in the weights file, poolers and task heads included.
    pub parameters: usize,
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
    /// Opens a Hugging Face folder: config.json and model.safetensors. O(size of the weights).
    ///
    /// # Errors
    /// [`ModelError`] of kind `Input` naming the file, what was expected and what was found; nothing is half-opened.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(folder)?;
        let tensors = checkpoint.tensors()?;
        let config = checkpoint.config().clone();
        let transformer = Transformer::load(&tensors, &config)?;
        Ok(Self { folder: folder.into(), parameters: tensors.parameters(), config, transformer })
    }

    /// The validated config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The figures for a report.
    pub fn summary(&self) -> Summary {
        Summary {
            family: self.config.family.name(),
            layers: self.config.layers,
            hidden: self.config.hidden,
            heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            vocab: self.config.vocab,
            parameters: self.parameters,
        }
    }

    /// Reads the folder's tokenizer.json.
    ///
    /// # Errors
    /// As [`Text::open`].
    pub fn text(&self) -> Result<Text, ModelError> {
        Text::open(&self.folder.join("tokenizer.json"), self.config.vocab)
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
        let (n, positions, vocab) = (input.ids.len(), self.config.positions, self.config.vocab);
        if n > positions {
            return Err(ModelError::input("text", format!("at most {positions} tokens"), n));
        }
        if let Some(id) = input.ids.iter().find(|id| **id as usize >= vocab) {
            return Err(ModelError::input("ids", format!("numbers below the model's vocab_size = {vocab}"), id));
        }
        let levels = self.transformer.forward(&input.ids, &input.keep);
        Hidden::new(self.config.hidden, input.keep.clone(), levels)
    }

    /// The scores of all tokens of the vocabulary as the next one, [n, vocab] row-major: W·(last level, after the final
    /// norm). O(n·vocab·d).
    ///
    /// # Errors
    /// [`ModelError::NoOutput`] for encoders, and for decoders saved without their head.
    pub fn logits(&self, hidden: &Hidden) -> Result<Vec<f32>, ModelError> {
        self.require_states(hidden)?;
        let refusal = || ModelError::NoOutput { family: self.config.family.name() };
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
        self.require_layer(layer)?;
        if head >= self.config.heads {
            return Err(ModelError::input("head", format!("a number below {}", self.config.heads), head));
        }
        self.require_states(hidden)?;
        let weights = self.transformer.attention_weights(hidden.level(layer), hidden.keep(), layer, head);
        let weights = weights.iter().map(|weight| f64::from(*weight)).collect();
        Ok(Matrix::new("attention weights", hidden.count(), hidden.count(), weights)?)
    }

    /// The heads of block `layer` (from 0) in f64, biases left out: query (scaled by 1/sqrt(head_dim)), key and value
    /// [head_dim, d], output [d, head_dim].
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such layer.
    pub fn head_matrices(&self, layer: usize) -> Result<Vec<Head>, ModelError> {
        self.require_layer(layer)?;
        heads(&self.transformer.block(layer).attention)
    }

    /// The spectra of the QK and OV circuits of all heads of block `layer` (from 0). O(heads·d·head_dim²).
    ///
    /// # Errors
    /// As [`Model::head_matrices`]; [`ModelError::Mathematics`] if a decomposition does not converge.
    pub fn spectra(&self, layer: usize) -> Result<Vec<HeadSpectrum>, ModelError> {
        self.head_matrices(layer)?.iter().map(HeadSpectrum::of).collect()
    }

    fn require_states(&self, hidden: &Hidden) -> Result<(), ModelError> {
        if (hidden.dim(), hidden.levels()) != (self.config.hidden, self.config.layers + 1) {
            let shape = |levels, dim| format!("{levels} levels of width {dim}");
            let expected = shape(self.config.layers + 1, self.config.hidden);
            return Err(ModelError::input("hidden states", expected, shape(hidden.levels(), hidden.dim())));
        }
        Ok(())
    }

    fn require_layer(&self, layer: usize) -> Result<(), ModelError> {
        if layer < self.config.layers {
            return Ok(());
        }
        Err(ModelError::input("layer", format!("a number below {}", self.config.layers), layer))
    }
}
