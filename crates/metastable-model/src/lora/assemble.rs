//! From single tensors to modules: partners found, shapes and ranks compared.

use std::collections::BTreeMap;

use super::adapter::{Factor, LoraModule, ModuleKind};
use super::finding::{Code, Finding};
use super::settings::Settings;

/// Where in a module a tensor belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
    Bias,
}

/// A tensor on its way into a module.
#[derive(Debug)]
struct Part {
    key: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The tensors of all modules so far.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    parts: BTreeMap<String, BTreeMap<Place, Part>>,
}

impl Assembly {
    /// Puts a tensor into its module; a second one for the same place is a finding.
    pub(super) fn put(
        &mut self,
        module: &str,
        place: Place,
        key: &str,
        shape: &[usize],
        values: Vec<f32>,
        findings: &mut Vec<Finding>,
    ) {
        let places = self.parts.entry(module.to_owned()).or_default();
        if let Some(other) = places.get(&place) {
            let message = format!("stands for the same tensor as `{}`", other.key);
            findings.push(Finding::error(Code::Duplicate, key, message));
            return;
        }
        places.insert(place, Part { key: key.into(), shape: shape.into(), values });
    }

    /// The modules whose factors fit together; everything else becomes a finding.
    pub(super) fn modules(self, settings: &Settings, findings: &mut Vec<Finding>) -> Vec<LoraModule> {
        let modules = self.parts.into_iter().filter_map(|(name, parts)| module(name, parts, settings, findings));
        modules.collect()
    }
}

fn module(
    name: String,
    mut parts: BTreeMap<Place, Part>,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Option<LoraModule> {
    let embedding = parts.contains_key(&Place::EmbeddingA) || parts.contains_key(&Place::EmbeddingB);
    let (place_a, place_b) = if embedding { (Place::EmbeddingA, Place::EmbeddingB) } else { (Place::A, Place::B) };
    let (a, b) = match (parts.remove(&place_a), parts.remove(&place_b)) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => {
            let missing = if a.is_none() { "A" } else { "B" };
            let present = a.or(b).map_or(name.clone(), |part| part.key);
            findings.push(Finding::error(Code::MissingPartner, present, format!("has no lora_{missing} beside it")));
            return None;
        }
    };
    let (a, b, kind) = factors(a, b, embedding, findings)?;
    let alpha = settings.alpha_of(&name);
    let promised = settings.rank_of(&name);
    if promised != a.rows {
        let message = format!("expected rank {promised} as the config says, found {}", a.rows);
        findings.push(Finding::error(Code::RankOfConfig, &name, message));
    }
    let scale = settings.scale(alpha, a.rows);
    let mut vector = |place, what: &str| take_vector(&mut parts, place, b.rows, what, findings);
    let magnitude = vector(Place::Magnitude, "magnitudes");
    let bias = vector(Place::Bias, "a bias");
    judge_dora(&name, magnitude.is_some(), settings.dora, findings);
    judge_zeros(&name, &a, &b, findings);
    Some(LoraModule { name, kind, a, b, alpha, scale, magnitude, bias })
}

/// Both factors as matrices, if their shapes fit each other.
fn factors(a: Part, b: Part, embedding: bool, findings: &mut Vec<Finding>) -> Option<(Factor, Factor, ModuleKind)> {
    for part in [&a, &b] {
        if part.shape.len() < 2 || part.shape.contains(&0) {
            let message = format!("expected a matrix, found shape {:?}", part.shape);
            findings.push(Finding::error(Code::Shape, &part.key, message));
            return None;
        }
    }
    let kernel = a.shape[2..].to_vec();
    if b.shape[2..].iter().any(|side| *side != 1) || (b.shape.len() > 2) != (a.shape.len() > 2) {
        let message = format!("expected [out, r], found shape {:?}", b.shape);
        findings.push(Finding::error(Code::Shape, &b.key, message));
        return None;
    }
    if b.shape[1] != a.shape[0] {
        let message = format!("expected [out, {}] for a lora_A of {:?}, found {:?}", a.shape[0], a.shape, b.shape);
        findings.push(Finding::error(Code::RankMismatch, &b.key, message));
        return None;
    }
    let kind = match (embedding, kernel.is_empty()) {
        (true, _) => ModuleKind::Embedding,
        (false, true) => ModuleKind::Linear,
        (false, false) => {
            findings.push(Finding::warning(Code::Convolution, &a.key, "is a convolution: spectra only"));
            ModuleKind::Convolution(kernel)
        }
    };
    let matrix = |part: Part| {
        let rows = part.shape[0];
        Factor { rows, columns: part.values.len() / rows, values: part.values }
    };
    Some((matrix(a), matrix(b), kind))
}

/// A vector with one number an output.
fn take_vector(
    parts: &mut BTreeMap<Place, Part>,
    place: Place,
    outputs: usize,
    what: &str,
    findings: &mut Vec<Finding>,
) -> Option<Vec<f32>> {
    let part = parts.remove(&place)?;
    if part.values.len() == outputs {
        return Some(part.values);
    }
    let message = format!("expected {what} of shape [{outputs}], found {:?}", part.shape);
    findings.push(Finding::error(Code::Shape, part.key, message));
    None
}

fn judge_dora(name: &str, found: bool, announced: bool, findings: &mut Vec<Finding>) {
    if found != announced {
        let message = match found {
            true => "has DoRA magnitudes, but use_dora is false: PEFT would drop them silently",
            false => "has no magnitudes, although use_dora is true",
        };
        findings.push(Finding::error(Code::Dora, name, message));
    }
}

pub(super) fn judge_zeros(name: &str, a: &Factor, b: &Factor, findings: &mut Vec<Finding>) {
    let (code, message) = match (a.is_zero(), b.is_zero()) {
        (true, true) => (Code::Dead, "both factors are 0: it does nothing, and no gradient will ever change that"),
        (false, true) => (Code::Untrained, "B is 0: it was never trained, and does nothing"),
        (true, false) => (Code::Untrained, "A is 0: it does nothing"),
        (false, false) => return,
    };
    findings.push(Finding::error(code, name, message));
}
