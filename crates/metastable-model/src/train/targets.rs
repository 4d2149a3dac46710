//! The linear maps of a model by the names that PEFT gives them, and which of them `target_modules` means.

use crate::config::Config;
use crate::error::ModelError;
use crate::lora::pattern::{Pattern, Targets};
use crate::names::{LayerParameter, Parameter, Part, spellings};
use crate::transformer::Transformer;
use crate::transformer::reverse::{Place, Places, Slot};

/// A map, or several that one tensor joins, under its path in the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    /// Such as `model.layers.0.self_attn.q_proj`.
    pub(crate) name: String,
    pub(crate) block: usize,
    pub(crate) slots: Vec<Slot>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// What a config says under `target_modules`.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetModules(Targets);

impl TargetModules {
    /// A regular expression over whole paths, or `all-linear`.
    ///
    /// # Errors
    /// [`ModelError::Input`] if the expression cannot be compiled.
    pub fn expression(text: &str) -> Result<Self, ModelError> {
        if text == "all-linear" {
            return Ok(Self(Targets::AllLinear));
        }
        let refuse =
            |error| ModelError::input("target_modules", "`all-linear`, a list of names or an expression", error);
        Ok(Self(Targets::Expression(Pattern::whole(text).map_err(refuse)?)))
    }

    /// Last parts of paths, such as `q_proj`.
    pub fn names(names: Vec<String>) -> Self {
        Self(Targets::Suffixes(names))
    }
}

impl std::fmt::Display for TargetModules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Targets::Unsaid | Targets::AllLinear => f.write_str("all-linear"),
            Targets::Suffixes(names) => write!(f, "{names:?}"),
            Targets::Expression(pattern) => write!(f, "`{}`", pattern.text),
        }
    }
}

fn parameter(slot: Slot) -> LayerParameter {
    match slot {
        Slot::Query => LayerParameter::Query,
        Slot::Key => LayerParameter::Key,
        Slot::Value => LayerParameter::Value,
        Slot::AttentionOutput => LayerParameter::AttentionOutput,
        Slot::FeedForwardIn => LayerParameter::FeedForwardIn,
        Slot::FeedForwardGate => LayerParameter::FeedForwardGate,
        Slot::FeedForwardOut => LayerParameter::FeedForwardOut,
    }
}

/// All linear maps of the blocks, in order.
pub(crate) fn candidates(transformer: &Transformer) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    for (block, maps) in transformer.blocks.iter().enumerate() {
        for slot in Slot::ALL {
            let Some(map) = maps.map(slot) else { continue };
            let name = path(&transformer.config, block, slot);
            match found.last_mut() {
                Some(last) if last.name == name => {
                    last.slots.push(slot);
                    last.outputs += map.outputs();
                }
                _ => found.push(Candidate {
                    name,
                    block,
                    slots: vec![slot],
                    inputs: map.inputs(),
                    outputs: map.outputs(),
                }),
            }
        }
    }
    found
}

/// The longest spelling: the one with the prefix that models with a task's head have.
fn path(config: &Config, block: usize, slot: Slot) -> String {
    let spellings = spellings(config.family, Parameter::Layer(block, parameter(slot), Part::Weight));
    let longest = spellings.into_iter().map(|spelling| spelling.name).max_by_key(String::len).unwrap_or_default();
    longest.strip_suffix(".weight").unwrap_or(&longest).to_owned()
}

/// The candidates that are meant.
///
/// # Errors
/// [`ModelError::NoTarget`] if there is none, or if a name of a list matches nothing.
pub(crate) fn chosen(transformer: &Transformer, targets: &TargetModules) -> Result<Vec<Candidate>, ModelError> {
    let all = candidates(transformer);
    let refuse = |found: String| {
        let mut names: Vec<String> = Vec::new();
        for candidate in &all {
            let last = candidate.name.rsplit('.').next().unwrap_or_default().to_owned();
            if !names.contains(&last) {
                names.push(last);
            }
        }
        ModelError::NoTarget { family: transformer.config.family.name(), found, names }
    };
    if let Targets::Suffixes(names) = &targets.0 {
        let matches = |name: &&String| all.iter().any(|c| crate::lora::pattern::ends_with(&c.name, name));
        if let Some(name) = names.iter().find(|name| !matches(name)) {
            return Err(refuse(format!("`{name}`")));
        }
    }
    let meant: Vec<Candidate> = all.iter().filter(|candidate| targets.0.contain(&candidate.name)).cloned().collect();
    if meant.is_empty() { Err(refuse(targets.to_string())) } else { Ok(meant) }
}

/// Where modules sit.
pub(crate) fn places(transformer: &Transformer, modules: &[Candidate]) -> Places {
    let mut places = Places::none(transformer.blocks.len());
    for (module, candidate) in modules.iter().enumerate() {
        let mut first_row = 0;
        for slot in &candidate.slots {
            let rows = transformer.blocks[candidate.block].map(*slot).map_or(0, |map| map.outputs());
            places.set(candidate.block, *slot, Place { module, first_row, rows });
            first_row += rows;
        }
    }
    places
}
