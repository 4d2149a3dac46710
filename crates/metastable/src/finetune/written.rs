//! The config of `finetune` as a user writes it; `meant` turns it into what is run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A fine-tuning run: a model, data, an adapter, an optimizer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Shown on the report; the config's file name by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A model folder or file, relative to the config, or a name on the Hub as organisation/name@revision; a bare name is
    /// also looked up where `scripts/fetch-models` puts models.
    #[serde(alias = "model_name_or_path")]
    pub model: String,
    /// Seed of starting points, the order of examples, and masks.
    #[serde(default)]
    pub seed: u64,
    /// What is learned from.
    pub data: DataConfig,
    /// The adapter.
    #[serde(default)]
    pub lora: LoraConfig,
    /// How it is trained.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// When it is evaluated.
    #[serde(default)]
    pub evaluation: EvaluationConfig,
    /// The text on which tokens are followed while training; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeConfig>,
}

/// What is learned from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A `.jsonl` file (one object a line) or, for language models, a `.txt` file, relative to the config; a bare name is
    /// also looked up where `scripts/fetch-data` puts data.
    pub file: String,
    /// Held-out examples of the same form; a part of `file` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_file: Option<String>,
    /// What the labels are.
    pub task: TaskName,
    /// The field with the text.
    #[serde(default = "text")]
    pub text_field: String,
    /// The field with the class.
    #[serde(default = "label")]
    pub label_field: String,
    /// Instead of `text_field`: the field with a prompt, whose tokens are not learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_field: Option<String>,
    /// With `prompt_field`: the field with the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_field: Option<String>,
    /// The names of the classes, in order; all that occur, sorted, by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Longer texts are cut, and a packed text is cut into pieces of this length.
    #[serde(default = "default_length", alias = "max_length")]
    pub max_seq_length: usize,
    /// The share of `file` that is held out.
    #[serde(default = "tenth")]
    pub eval_fraction: f64,
    /// Whether texts of a language model are joined and cut into pieces of equal length; always for `.txt`.
    #[serde(default)]
    pub packing: bool,
    /// The share of tokens that a masked language model has to guess.
    #[serde(default = "fifteen_percent")]
    pub mask_probability: f64,
}

fn text() -> String {
    "text".into()
}

fn label() -> String {
    "label".into()
}

fn default_length() -> usize {
    256
}

fn tenth() -> f64 {
    0.1
}

fn fifteen_percent() -> f64 {
    0.15
}

/// What the labels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskName {
    /// The next token.
    CausalLm,
    /// Hidden tokens.
    MaskedLm,
    /// One class a text.
    Classification,
}

/// The adapter.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// r.
    #[serde(alias = "r")]
    pub rank: usize,
    /// The scale is alpha/r.
    #[serde(alias = "lora_alpha")]
    pub alpha: f64,
    /// Whether it is alpha/sqrt(r).
    #[serde(alias = "use_rslora")]
    pub rslora: bool,
    /// Names of linear maps such as `q_proj`, a regular expression over whole paths, or `all-linear`.
    pub target_modules: TargetConfig,
    /// Where factors start.
    #[serde(alias = "init_lora_weights")]
    pub init: InitName,
    /// Whether the rows of adapted weights keep a trained length.
    #[serde(alias = "use_dora")]
    pub dora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            rslora: false,
            target_modules: TargetConfig::One("all-linear".into()),
            init: InitName::Kaiming,
            dora: false,
        }
    }
}

/// Which maps are adapted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetConfig {
    /// `all-linear`, or a regular expression.
    One(String),
    /// Last parts of paths.
    Many(Vec<String>),
}

/// Where factors start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitName {
    /// A uniform in ±1/sqrt(in), B = 0.
    Kaiming,
    /// A normal, B = 0.
    Gaussian,
    /// The leading singular triplets of the weight, which loses them.
    Pissa,
    /// The leading columns of its QR factors, likewise.
    Olora,
}

/// How the adapter is trained.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// What is done to the factors besides following gradients.
    pub method: MethodName,
    /// What follows gradients.
    pub base: BaseName,
    /// The learning rate after warm-up.
    pub learning_rate: f64,
    /// Examples at a time.
    #[serde(alias = "per_device_train_batch_size")]
    pub batch_size: usize,
    /// Batches a step.
    pub gradient_accumulation_steps: usize,
    /// Steps.
    pub max_steps: u64,
    /// How the rate falls.
    #[serde(alias = "lr_scheduler_type")]
    pub schedule: ScheduleName,
    /// Steps at the start during which the rate rises.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are clipped to this global norm; 0 for never.
    pub max_grad_norm: f64,
    /// Adam's decay of the first moment.
    #[serde(alias = "adam_beta1")]
    pub beta1: f64,
    /// Adam's decay of the second moment.
    #[serde(alias = "adam_beta2")]
    pub beta2: f64,
    /// Adam's epsilon.
    #[serde(alias = "adam_epsilon")]
    pub epsilon: f64,
    /// How much faster B learns under `lora_plus`.
    pub ratio: f64,
    /// What `riemannian` adds to Gram matrices.
    pub damping: f64,
    /// Which balanced pair `balora` takes.
    pub projection: ProjectionName,
    /// Whether moments follow a change of factors.
    pub transport: bool,
    /// `balora` projects after so many steps.
    pub project_every: u64,
    /// Whether activations are made twice instead of kept: less memory, more time.
    #[serde(alias = "gradient_checkpointing")]
    pub recompute: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            method: MethodName::Balora,
            base: BaseName::Adamw,
            learning_rate: 2e-4,
            batch_size: 8,
            gradient_accumulation_steps: 1,
            max_steps: 100,
            schedule: ScheduleName::Linear,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            ratio: 16.0,
            damping: 1e-2,
            projection: ProjectionName::Canonical,
            transport: true,
            project_every: 1,
            recompute: false,
        }
    }
}

/// The methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// Plain LoRA.
    Lora,
    /// B learns faster.
    LoraPlus,
    /// A rests.
    LoraFa,
    /// ScaledGD.
    #[serde(alias = "scaled_gd")]
    Riemannian,
    /// RefLoRA, matrix mode.
    Reflora,
    /// LoRA-Pro.
    LoraPro,
    /// LoRA-RITE.
    LoraRite,
    /// One number a pair.
    NormBalance,
    /// The balanced manifold.
    Balora,
}

/// What follows gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseName {
    /// AdamW.
    Adamw,
    /// Plain descent.
    Sgd,
    /// Descent along signs.
    Sign,
}

/// How the rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Not at all.
    Constant,
    /// Along a line to 0.
    Linear,
    /// Along half a cosine to 0.
    Cosine,
}

/// Which balanced pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionName {
    /// Diagonal, signs kept.
    Canonical,
    /// The one nearest to the factors.
    Nearest,
}

/// When the adapter is evaluated.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// After so many steps, and at the end.
    #[serde(alias = "eval_steps")]
    pub every: u64,
    /// Stops after so many evaluations without a better one; never by default.
    #[serde(skip_serializing_if = "Option::is_none", alias = "early_stopping_patience")]
    pub patience: Option<u64>,
    /// At most so many held-out examples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_examples: Option<usize>,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: 50, patience: None, max_examples: None }
    }
}

/// A text whose tokens are followed through base and adapted model while training.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// The text itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Or a UTF-8 file with it, relative to the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// After so many steps, and at the end.
    #[serde(default = "fifty")]
    pub every: u64,
    /// Longer texts are cut.
    #[serde(default = "default_length")]
    pub max_tokens: usize,
    /// The linking radius of clusters between normalised tokens, as in `inspect`.
    #[serde(default = "cluster_radius")]
    pub cluster_radius: f64,
}

fn fifty() -> u64 {
    50
}

fn cluster_radius() -> f64 {
    crate::inspect::DEFAULT_CLUSTER_RADIUS
}
