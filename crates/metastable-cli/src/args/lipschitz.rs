//! `metastable lipschitz`, as written.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

/// `metastable lipschitz`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  metastable lipschitz examples/lora-twin.toml --json\n  metastable lipschitz models/all-MiniLM-L6-v2 --prompt \"The cat sits outside\" --explain"
)]
pub(crate) struct LipschitzArgs {
    /// A configuration (.toml, .yaml, .yml or .json); with --text or --prompt a model: a folder, a .gguf file, or a name
    /// on the Hub
    #[arg(value_name = "CONFIG|MODEL")]
    pub(crate) target: PathBuf,
    /// Prints JSON, as --format json
    #[arg(long)]
    pub(crate) json: bool,
    /// Saves the singular vectors: .safetensors (`right`, `left` [n, d]) or .npy (the right one)
    #[arg(long, value_name = "FILE", conflicts_with = "words")]
    pub(crate) singular_vector: Option<PathBuf>,
    /// The seed of Lanczos, and of a configuration in place of its own
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Changes a key of a configuration, as kernel.beta=2 or head.0.value=identity; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "words")]
    pub(crate) overrides: Vec<String>,
    /// The text for a model.
    #[command(flatten)]
    pub(crate) words: LipschitzWords,
    /// What is asked of a model.
    #[command(flatten)]
    pub(crate) model: LipschitzModelArgs,
}

/// The text at which a model is looked at.
#[derive(Debug, Args)]
#[group(id = "words", multiple = false)]
pub(crate) struct LipschitzWords {
    /// Looks at a model at the text of a file
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Looks at a model at this text
    #[arg(long, value_name = "STRING")]
    pub(crate) prompt: Option<String>,
}

/// What is asked of a model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for a model")]
pub(crate) struct LipschitzModelArgs {
    /// Looks at these blocks only, as 0,3,5 [default: all]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', requires = "words")]
    pub(crate) layers: Vec<usize>,
    /// Cuts the text after N tokens [default: 256]
    #[arg(long, value_name = "N", requires = "words")]
    pub(crate) max_tokens: Option<NonZeroUsize>,
    /// Says why: shares of value, query and key paths, tokens, sinks, values alone
    #[arg(long, requires = "words")]
    pub(crate) explain: bool,
    /// Also encloses the constant of all blocks one after another
    #[arg(long, requires = "words")]
    pub(crate) depth: bool,
    /// Also follows the constants of prefixes of the text, with fitted exponents
    #[arg(long, requires = "words")]
    pub(crate) growth: bool,
    /// Also builds and climbs to worst clouds of N tokens for every head
    #[arg(long, value_name = "N", requires = "words")]
    pub(crate) worst: Option<usize>,
    /// Steps that the climb tries
    #[arg(long, value_name = "STEPS", default_value_t = 40, requires = "worst")]
    pub(crate) ascent_steps: usize,
    /// Also searches the vocabulary for the worst token at this place, from 0, for every head of the first block
    #[arg(long, value_name = "PLACE", requires = "words")]
    pub(crate) worst_token: Option<usize>,
    /// Compares with the model under this LoRA adapter; may be given again, as all that follow
    #[arg(long, value_name = "ADAPTER", requires = "words")]
    pub(crate) adapter: Vec<PathBuf>,
    /// Uses what can be used of an adapter with findings
    #[arg(long, requires = "adapter")]
    pub(crate) allow_partial: bool,
    /// Compares with the weights of all blocks rounded: q8_0 or q4_0
    #[arg(long, value_name = "TYPE", requires = "words")]
    pub(crate) quantize: Vec<String>,
    /// Compares with another model of the same shape, such as a quantised file
    #[arg(long, value_name = "MODEL", requires = "words")]
    pub(crate) against: Vec<PathBuf>,
    /// Compares with stretched rotary positions: linear=2, dynamic=2 or yarn=2
    #[arg(long, value_name = "KIND=FACTOR", requires = "words")]
    pub(crate) rope_scaling: Vec<String>,
}
