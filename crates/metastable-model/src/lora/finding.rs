//! What is wrong, or worth knowing, about an adapter's files.

use std::fmt;

/// Whether a finding stops the adapter from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// The adapter would not do what its files say.
    Error,
    /// The adapter works; somebody should look.
    Warning,
}

/// What a finding is about; its name is stable, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// A config key that changes the meaning in a way that is not applied here.
    UnknownSetting,
    /// The adapter belongs to a base model that its initialisation changed.
    MutatedBase,
    /// alpha = 0.
    ZeroScale,
    /// A tensor that is neither a factor nor announced by the config.
    UnknownKey,
    /// A key without `base_model.model.` in front.
    PrefixMissing,
    /// A key with that prefix twice.
    PrefixDoubled,
    /// A key with the name of an adapter inside, as models in memory have it.
    AdapterNameInKey,
    /// Two tensors for one place.
    Duplicate,
    /// A factor without its partner.
    MissingPartner,
    /// The inner sides of A and B differ.
    RankMismatch,
    /// The tensors have another rank than the config says.
    RankOfConfig,
    /// A tensor of an unusable shape.
    Shape,
    /// A tensor of an unusable type.
    Dtype,
    /// NaN or infinity.
    NotFinite,
    /// A and B are both 0: nothing will ever train.
    Dead,
    /// One factor is 0: the adapter does nothing.
    Untrained,
    /// DoRA is announced without magnitudes, or magnitudes are there without DoRA.
    Dora,
    /// A module of the file that the config does not target: PEFT would drop it silently.
    NotTargeted,
    /// A target of the config that the file does not hold.
    TargetAbsent,
    /// Several patterns match one module.
    AmbiguousPattern,
    /// No module at all.
    Empty,
    /// A convolution, which no model here has.
    Convolution,
}

impl Code {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownSetting => "unknown_setting",
            Self::MutatedBase => "mutated_base",
            Self::ZeroScale => "zero_scale",
            Self::UnknownKey => "unknown_key",
            Self::PrefixMissing => "prefix_missing",
            Self::PrefixDoubled => "prefix_doubled",
            Self::AdapterNameInKey => "adapter_name_in_key",
            Self::Duplicate => "duplicate",
            Self::MissingPartner => "missing_partner",
            Self::RankMismatch => "rank_mismatch",
            Self::RankOfConfig => "rank_of_config",
            Self::Shape => "shape",
            Self::Dtype => "dtype",
            Self::NotFinite => "not_finite",
            Self::Dead => "dead",
            Self::Untrained => "untrained",
            Self::Dora => "dora",
            Self::NotTargeted => "not_targeted",
            Self::TargetAbsent => "target_absent",
            Self::AmbiguousPattern => "ambiguous_pattern",
            Self::Empty => "empty",
            Self::Convolution => "convolution",
        }
    }
}

/// One thing found in an adapter's files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Whether it stops the adapter from being used.
    pub severity: Severity,
    /// What it is about.
    pub code: Code,
    /// The tensor, module or key.
    pub subject: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Finding {
    pub(super) fn error(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, subject: subject.into(), message: message.into() }
    }

    pub(super) fn warning(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, code, subject: subject.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.subject, self.message)
    }
}
