//! A checkpoint that stays in its files: everything that needs no forward pass, one layer at a time.
//!
//! Opening costs the headers; a layer's heads cost that layer. A checkpoint of 7 billion weights is analysed in a few
//! hundred megabytes.

use std::path::{Path, PathBuf};

use metastable_dynamics::Head;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::heads::{DistancePoint, HeadSpectrum, chosen, distance, heads, turns};
use crate::mapped::map;
use crate::text::Text;
use crate::transformer::{Attention, rotary_divisors};

/// The figures that name a model in a report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// `model_type` of config.json, or what a GGUF file calls it.
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
    /// Floating-point numbers in the weights files, poolers and task heads included.
    pub parameters: usize,
}

/// An opened checkpoint: a Hugging Face folder or a GGUF file, validated, with its weights left where they are.
///
/// # Example
/// ```no_run
/// use std::path::Path;
/// use metastable_model::Weights;
///
/// let weights = Weights::open(Path::new("SmolLM2-135M-Instruct.Q4_1.gguf"))?;
/// for layer in 0..weights.config().layers {
///     let strongest = weights.spectra(layer)?.iter().map(|head| head.qk_norm).fold(0.0, f64::max);
///     println!("layer {layer}: |QK| up to {strongest:.2}");
/// }
/// # Ok::<(), metastable_model::ModelError>(())
/// ```
pub struct Weights {
    checkpoint: Checkpoint,
}

impl Weights {
    /// Opens a folder with config.json and safetensors (one file, or shards with their index), or a GGUF file.
    /// O(headers).
    ///
    /// # Errors
    /// [`ModelError`] of kind `Input` naming the file, what was expected and what was found.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Ok(Self { checkpoint: Checkpoint::open(path)? })
    }

    /// The validated config.
    pub fn config(&self) -> &Config {
        self.checkpoint.config()
    }

    /// The figures for a report.
    pub fn summary(&self) -> Summary {
        let config = self.config();
        Summary {
            family: config.family.name(),
            layers: config.layers,
            hidden: config.hidden,
            heads: config.heads,
            kv_heads: config.kv_heads,
            vocab: config.vocab,
            parameters: self.checkpoint.tensors().parameters(),
        }
    }

    /// The files that the model's numbers depend on: config.json, weights, tokenizer.json where there is one.
    pub fn files(&self) -> Vec<PathBuf> {
        let beside = |name: &str| Some(self.checkpoint.path().join(name)).filter(|path| path.is_file());
        let weights = self.checkpoint.weight_files().map(Path::to_path_buf);
        beside("config.json").into_iter().chain(weights).chain(beside("tokenizer.json")).collect()
    }

    /// For a GGUF file, the name `organisation/name` of the checkpoint that it was made of, where its metadata say one.
    pub fn made_from(&self) -> Option<String> {
        self.source().made_from()
    }

    /// Whether the weights are one GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.checkpoint.is_gguf()
    }

    /// Reads the tokenizer.json of the folder, or the tokenizer inside the GGUF file.
    ///
    /// # Errors
    /// As [`Text::open`] and [`Text::open_gguf`].
    pub fn text(&self) -> Result<Text, ModelError> {
        self.source().text(self.config().vocab)
    }

    /// The heads of block `layer` (from 0), as [`Model::head_matrices`](crate::Model::head_matrices) gives them.
    /// Reads the four maps of this block. O(d²).
    ///
    /// # Errors
    /// [`ModelError::Input`] if there is no such layer; [`ModelError::Tensor`].
    pub fn head_matrices(&self, layer: usize) -> Result<Vec<Head>, ModelError> {
        let config = self.config();
        config.require_layer(layer)?;
        heads(&Attention::load(&self.checkpoint.tensors(), config, config.block_of(layer))?)
    }

    /// The spectra of the QK and OV circuits of all heads of block `layer` (from 0). O(heads·d·head_dim²).
    ///
    /// # Errors
    /// As [`Weights::head_matrices`]; [`ModelError::Mathematics`] if a decomposition does not converge.
    pub fn spectra(&self, layer: usize) -> Result<Vec<HeadSpectrum>, ModelError> {
        HeadSpectrum::of_all(&self.head_matrices(layer)?)
    }

    /// As [`Model::query_key_by_distance`](crate::Model::query_key_by_distance), reading this block alone.
    ///
    /// # Errors
    /// As there, and as [`Weights::head_matrices`].
    pub fn query_key_by_distance(
        &self,
        layer: usize,
        head: usize,
        distances: &[usize],
    ) -> Result<Vec<DistancePoint>, ModelError> {
        let divisors = rotary_divisors(&self.checkpoint.tensors(), self.config())?;
        let turns = turns(self.config(), divisors.as_deref(), distances)?;
        distance::curve(&chosen(self.head_matrices(layer)?, head)?, &turns, distances)
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub(crate) fn source(&self) -> Source {
        let path = self.checkpoint.path().to_path_buf();
        if self.checkpoint.is_gguf() { Source::Gguf(path) } else { Source::Folder(path) }
    }
}

/// Where a checkpoint came from, and with it its tokenizer.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Folder(PathBuf),
    Gguf(PathBuf),
}

impl Source {
    /// The name on the Hub of the checkpoint that a GGUF file was made of, where its metadata say one.
    pub(crate) fn made_from(&self) -> Option<String> {
        let Self::Gguf(file) = self else { return None };
        let bytes = map(file, "a GGUF file").ok()?;
        Gguf::parse(&bytes).ok()?.metadata.origin()
    }

    pub(crate) fn text(&self, vocab: usize) -> Result<Text, ModelError> {
        match self {
            Self::Folder(folder) => Text::open(&folder.join("tokenizer.json"), vocab),
            Self::Gguf(file) => Text::open_gguf(file, vocab),
        }
    }
}
