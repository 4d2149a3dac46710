//! The command line, as written. What it means is for the commands to say.

mod lipschitz;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use metastable::Existing;

pub(crate) use self::lipschitz::{LipschitzArgs, LipschitzModelArgs};

/// Transformers as dynamical systems: tokens are particles, layers are time.
#[derive(Debug, Parser)]
#[command(name = "metastable", version, styles = Styles::plain(), max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Example:\n  metastable simulate examples/lora-twin.toml -o runs/lora-twin")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Settings of every command.
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Settings of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Computes with N threads [default: all cores]; results do not depend on it
    #[arg(long, value_name = "N", global = true)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Asks no network: models and adapters come from folders and the Hub's local cache
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Shows no progress
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Says nothing but errors on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Says more on stderr, such as when the state of a long run was saved
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How data are written to stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    pub(crate) format: OutputFormat,
}

/// How data are written to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A table for eyes.
    #[default]
    Table,
    /// JSON for scripts.
    Json,
    /// CSV for spreadsheets.
    Csv,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Follows tokens through an attention flow, with or without a LoRA twin
    Simulate(SimulateArgs),
    /// Runs a simulation over named parameters and seeds, on all cores, into one table
    Sweep(SweepArgs),
    /// Evaluates the vector field of a configuration once, without integrating
    Field(FieldArgs),
    /// Encloses local Lipschitz constants from both sides: of a configuration's attention, or of a model's layers and heads
    Lipschitz(LipschitzArgs),
    /// Reads a checkpoint and follows real text through its layers
    Inspect(InspectArgs),
    /// Looks at LoRA adapters, and writes other files for the same update
    Adapter(AdapterArgs),
    /// Trains an adapter of a checkpoint on text: LoRA, BaLoRA and their rivals
    Finetune(FinetuneArgs),
    /// Writes the logits (decoders) or last hidden states (encoders) of a checkpoint for given token ids
    Logits(LogitsArgs),
    /// Rebuilds report.html, tables and figures of a finished run from its report.json
    Render(RenderArgs),
    /// Prints the JSON Schema of a configuration
    Schema(SchemaArgs),
    /// Compares this build with the closed forms of the papers; exit code 3 if one fails
    Selftest,
}

/// Where a run goes and what happens to a run that is there.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The run folder [default: runs/ and the name of the input]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Demands that DIR holds an unfinished run to continue (one of the same configuration is continued anyway)
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Replaces the run that is in DIR; never touches a folder that no run wrote
    #[arg(long)]
    pub(crate) overwrite: bool,
}

impl RunArgs {
    /// What to do with a folder that already holds a run.
    pub(crate) fn existing(&self) -> Existing {
        match (self.overwrite, self.resume) {
            (true, _) => Existing::Overwrite,
            (false, true) => Existing::Resume,
            (false, false) => Existing::Refuse,
        }
    }
}

/// `metastable simulate`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  metastable simulate examples/lora-twin.toml --set kernel.beta=2 -o runs/beta-2")]
pub(crate) struct SimulateArgs {
    /// The configuration (.toml, .yaml, .yml or .json)
    #[arg(value_name = "CONFIG")]
    pub(crate) config: PathBuf,
    /// Where the run goes.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// The seed, in place of the configuration's
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Changes a key, as kernel.beta=2 or head.0.value=identity; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Checks everything, prints the resolved configuration, writes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `metastable sweep`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  metastable sweep examples/rank-histogram.toml -o runs/ranks")]
pub(crate) struct SweepArgs {
    /// The configuration (.toml, .yaml, .yml or .json): a simulation, what varies in it, what is kept
    #[arg(value_name = "CONFIG")]
    pub(crate) config: PathBuf,
    /// Where the run goes.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// The seed of the simulation, in place of the configuration's
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Changes a key of the sweep, as seeds=10 or base.kernel.beta=2; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Checks everything, prints the resolved configuration, writes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `metastable field`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  metastable field examples/lora-twin.toml --weights -o field.safetensors")]
pub(crate) struct FieldArgs {
    /// The configuration (.toml, .yaml, .yml or .json)
    #[arg(value_name = "CONFIG")]
    pub(crate) config: PathBuf,
    /// The file to write: `field` [n, d] and what else is asked for
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Adds the attention weights, `weights` [heads, n, n]
    #[arg(long)]
    pub(crate) weights: bool,
    /// Adds the derivative along this [n, d] array, `jvp`
    #[arg(long, value_name = "E.npy")]
    pub(crate) direction: Option<PathBuf>,
    /// Adds the transposed derivative applied to this [n, d] array, `vjp`
    #[arg(long, value_name = "G.npy")]
    pub(crate) cotangent: Option<PathBuf>,
    /// The seed, in place of the configuration's
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Changes a key, as kernel.beta=2 or head.0.value=identity; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

/// `metastable inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  metastable inspect models/all-MiniLM-L6-v2 --prompt \"The cat sits outside\" -o runs/cat"
)]
pub(crate) struct InspectArgs {
    /// A folder with config.json, safetensors and tokenizer.json, a .gguf file, or a Hub name as organisation/name@revision
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// The text to follow.
    #[command(flatten)]
    pub(crate) input: InspectInput,
    /// Where the run goes.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Analyses the heads of these blocks only, as 0,3,5 [default: all]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    pub(crate) layers: Vec<usize>,
    /// Cuts the text after N tokens [default: what the model allows]
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<NonZeroUsize>,
    /// Measures the query-key circuits of rotary models at these relative positions, as 0,1,16,256
    #[arg(long, value_name = "PLACES", value_delimiter = ',')]
    pub(crate) distances: Vec<usize>,
    /// Writes head LAYER.HEAD (or all heads of LAYER) as a configuration of simulate, runs it from the tokens of the text,
    /// and compares that flow with the layers that really follow
    #[arg(long, value_name = "LAYER.HEAD", requires = "InspectInput")]
    pub(crate) export_head: Option<String>,
    /// Links normalised tokens nearer than this into one cluster [default: 0.7]
    #[arg(long, value_name = "R")]
    pub(crate) cluster_radius: Option<f64>,
    /// Follows the text through the model with this LoRA adapter as well, and says what changed
    #[arg(long, value_name = "ADAPTER", requires = "InspectInput")]
    pub(crate) adapter: Option<PathBuf>,
    /// Also tries the adapter at these factors on its scale, as 0,0.5,1,2
    #[arg(long, value_name = "FACTORS", value_delimiter = ',', requires = "adapter", allow_hyphen_values = true)]
    pub(crate) scale_sweep: Vec<f64>,
    /// Ends with exit code 3 if this holds, as shift_relative>0.5 or clusters_changed>0; may be given again
    #[arg(long, value_name = "EXPR", requires = "adapter")]
    pub(crate) fail_if: Vec<String>,
    /// Uses what can be used of an adapter with findings
    #[arg(long, requires = "adapter")]
    pub(crate) allow_partial: bool,
}

/// The text of `metastable inspect`: one of the two, or none for the weights alone.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct InspectInput {
    /// Follows the text of a file
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// Follows this text
    #[arg(long, value_name = "STRING")]
    pub(crate) prompt: Option<String>,
}

/// `metastable adapter`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "Example:\n  metastable adapter info my-adapter")]
pub(crate) struct AdapterArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub(crate) action: AdapterAction,
}

/// What to do with an adapter.
#[derive(Debug, Subcommand)]
pub(crate) enum AdapterAction {
    /// Spectra, ranks and conditioning of every module
    Info {
        /// The adapter.
        #[command(flatten)]
        input: AdapterInput,
        /// Also counts the leading directions of every adapted weight that this base model's weight does not have
        #[arg(long, value_name = "MODEL")]
        base: Option<PathBuf>,
        /// Also writes a run folder with a page
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Replaces the run that is in DIR; never touches a folder that no run wrote
        #[arg(long, requires = "output")]
        overwrite: bool,
    },
    /// Lists everything wrong with the files; exit code 3 if the adapter must not be used as it is
    Check(AdapterInput),
    /// How much the updates of two adapters point the same way
    Compare {
        /// A folder of PEFT or mlx-lm, a .safetensors file of kohya's tools, or a Hub name
        #[arg(value_name = "ADAPTER")]
        first: PathBuf,
        /// Another
        #[arg(value_name = "OTHER")]
        second: PathBuf,
        /// As --format json
        #[arg(long)]
        json: bool,
    },
    /// Writes balanced factors (BᵀB = A Aᵀ) of the same update; the product is kept to rounding
    Rebalance {
        /// The adapter
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// The folder to write
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// Restores the factors before a rebalancing, from the undo file in IN
        #[arg(long)]
        undo: bool,
        /// Uses what can be used of an adapter with findings
        #[arg(long)]
        allow_partial: bool,
        /// As --format json
        #[arg(long)]
        json: bool,
    },
    /// Writes the base model with the adapter merged in, after comparing logits
    Merge {
        /// The base model: a folder, a .gguf file (written as the F32 numbers it encodes), or a Hub name
        #[arg(value_name = "MODEL")]
        model: PathBuf,
        /// The adapter
        #[arg(value_name = "ADAPTER")]
        adapter: PathBuf,
        /// The folder to write
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// Uses what can be used of an adapter with findings
        #[arg(long)]
        allow_partial: bool,
        /// As --format json
        #[arg(long)]
        json: bool,
    },
    /// Writes an adapter of mlx-lm or kohya's tools as a PEFT adapter
    Convert {
        /// The adapter
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// The folder to write
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// A model folder that says what kohya's joined names mean
        #[arg(long, value_name = "MODEL")]
        base: Option<PathBuf>,
        /// Uses what can be used of an adapter with findings
        #[arg(long)]
        allow_partial: bool,
        /// As --format json
        #[arg(long)]
        json: bool,
    },
}

/// An adapter to look at.
#[derive(Debug, Args)]
pub(crate) struct AdapterInput {
    /// A folder of PEFT or mlx-lm, a .safetensors file of kohya's tools, or a Hub name
    #[arg(value_name = "ADAPTER")]
    pub(crate) adapter: PathBuf,
    /// As --format json
    #[arg(long)]
    pub(crate) json: bool,
}

/// `metastable finetune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  metastable finetune examples/finetune/shakespeare.toml --set optimizer.method=lora -o runs/lora"
)]
pub(crate) struct FinetuneArgs {
    /// The configuration (.toml, .yaml, .yml or .json)
    #[arg(value_name = "CONFIG")]
    pub(crate) config: PathBuf,
    /// Where the run goes.
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// The seed, in place of the configuration's
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Changes a key, as optimizer.learning_rate=1e-4; may be given again
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Checks the configuration, prints it, reads no data and writes nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `metastable logits`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  metastable logits models/all-MiniLM-L6-v2 --ids 101,1996,4937,102 -o last.safetensors"
)]
pub(crate) struct LogitsArgs {
    /// A folder with config.json and safetensors, a .gguf file, or a Hub name as organisation/name@revision
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Token ids
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    pub(crate) ids: Vec<u32>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// `metastable render`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  metastable render runs/lora-twin\n  metastable render runs/lora runs/balora -o runs/compared"
)]
pub(crate) struct RenderArgs {
    /// The folder of a finished run; with --output, of the fine-tuning runs to lay side by side
    #[arg(value_name = "DIR", required = true)]
    pub(crate) folders: Vec<PathBuf>,
    /// Where the comparison of fine-tuning runs goes
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Replaces the comparison that is there
    #[arg(long, requires = "output")]
    pub(crate) overwrite: bool,
}

/// `metastable schema`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  metastable schema simulate > simulate.schema.json")]
pub(crate) struct SchemaArgs {
    /// Whose schema
    #[arg(value_name = "WHAT", value_enum, default_value_t)]
    pub(crate) what: SchemaOf,
}

/// Whose schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum SchemaOf {
    /// The configuration of `simulate`.
    #[default]
    Simulate,
    /// The configuration of `sweep`.
    Sweep,
    /// The configuration of `finetune`.
    Finetune,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_but_selftest_shows_a_real_example() {
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "selftest") {
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let line = example.lines().nth(1).unwrap_or_default();
            // The shell would take the quotes off and the redirection away.
            let line = line.replace("\"The cat sits outside\"", "text").replace("> simulate.schema.json", "");
            assert!(line.contains(&format!("metastable {} ", command.get_name())), "{example}");
            parse(&line).unwrap();
        }
    }

    #[test]
    fn overwriting_and_resuming_exclude_each_other() {
        let existing = |flags: &str| match parse(&format!("metastable simulate x.toml {flags}")).unwrap().command {
            Command::Simulate(args) => args.run.existing(),
            other => panic!("{other:?}"),
        };
        assert_eq!(existing(""), Existing::Refuse);
        assert_eq!(existing("--resume"), Existing::Resume);
        assert_eq!(existing("--overwrite"), Existing::Overwrite);
        assert!(parse("metastable simulate x.toml --resume --overwrite").is_err());
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in ["metastable --threads 2 --format json selftest", "metastable selftest --threads 2 --format json"] {
            let global = parse(line).unwrap().global;
            assert_eq!((global.threads.map(NonZeroUsize::get), global.format), (Some(2), OutputFormat::Json));
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let cli = parse("metastable logits model --ids 1,2,3 -o x.safetensors").unwrap();
        assert!(matches!(cli.command, Command::Logits(args) if args.ids == [1, 2, 3]));
    }
}
