//! From records to examples: tokens, labels, pieces, masks, and the order in which they are seen.
//!
//! The order is a function of seed and position alone, so a resumed run needs no cursor but the number of its step.

use metastable_dynamics::random;
use metastable_model::Text;
use metastable_model::train::Example;

use super::data::Record;
use super::written::{DataConfig, TaskName};
use crate::error::LabError;

/// Tokenised examples, and what happened to them.
#[derive(Debug, Clone, Default)]
pub(super) struct Examples {
    pub(super) all: Vec<Example>,
    /// Texts that were longer than `max_seq_length`.
    pub(super) cut: usize,
    /// Texts without a token of their own, or without anything to predict.
    pub(super) empty: usize,
}

/// Encodes records for a task. `classes` are the names of the labels.
///
/// # Errors
/// [`LabError::Model`] from the tokenizer.
pub(super) fn encode(
    text: &Text,
    records: &[Record],
    config: &DataConfig,
    classes: &[String],
    is_packed: bool,
) -> Result<Examples, LabError> {
    let mut examples = Examples::default();
    let mut stream = Vec::new();
    for record in records {
        let Some((ids, first)) = ids(text, record)? else {
            examples.empty += 1;
            continue;
        };
        if is_packed {
            stream.extend(ids);
            continue;
        }
        examples.cut += usize::from(ids.len() > config.max_seq_length);
        let example = match config.task {
            TaskName::Classification => classified(text, record, config, classes)?,
            TaskName::CausalLm => next_tokens(ids, first, config.max_seq_length),
            TaskName::MaskedLm => plain(text, record, config)?,
        };
        match example {
            Some(example) => examples.all.push(example),
            None => examples.empty += 1,
        }
    }
    for piece in stream.chunks(config.max_seq_length).filter(|piece| piece.len() > 1) {
        examples.all.push(match config.task {
            TaskName::MaskedLm => Example { ids: piece.to_vec(), labels: Vec::new() },
            _ => Example { ids: piece.to_vec(), labels: (0..piece.len() - 1).map(|i| (i, piece[i + 1])).collect() },
        });
    }
    Ok(examples)
}

/// The tokens of prompt and text, and how many of them are prompt.
fn ids(text: &Text, record: &Record) -> Result<Option<(Vec<u32>, usize)>, LabError> {
    if record.text.trim().is_empty() {
        return Ok(None);
    }
    let Some(prompt) = &record.prompt else {
        return Ok(Some((text.encode(&record.text)?.ids, 0)));
    };
    let whole = text.encode(&format!("{prompt}{}", record.text))?;
    // The first token that reaches beyond the prompt is the first to be learned.
    let first = whole.offsets.iter().position(|(_, end)| *end > prompt.len()).unwrap_or(whole.ids.len());
    Ok(Some((whole.ids, first)))
}

/// The next tokens from position `first` on, cut after `limit` tokens.
fn next_tokens(mut ids: Vec<u32>, first: usize, limit: usize) -> Option<Example> {
    ids.truncate(limit);
    let labels: Vec<(usize, u32)> =
        (1..ids.len()).filter(|next| *next >= first).map(|next| (next - 1, ids[next])).collect();
    (!labels.is_empty()).then_some(Example { ids, labels })
}

fn classified(
    text: &Text,
    record: &Record,
    config: &DataConfig,
    classes: &[String],
) -> Result<Option<Example>, LabError> {
    let ids = text.encode_at_most(&record.text, config.max_seq_length)?.ids;
    let class = classes.iter().position(|name| Some(name) == record.label.as_ref());
    Ok(class.map(|class| Example { ids, labels: vec![(0, class as u32)] }))
}

/// For masked language models: labels are drawn each time anew.
fn plain(text: &Text, record: &Record, config: &DataConfig) -> Result<Option<Example>, LabError> {
    let ids = text.encode_at_most(&record.text, config.max_seq_length)?.ids;
    Ok(Some(Example { ids, labels: Vec::new() }))
}

/// How tokens are hidden.
#[derive(Debug, Clone, Copy)]
pub(super) struct Masking {
    pub(super) mask: u32,
    pub(super) vocab: usize,
    pub(super) probability: f64,
    pub(super) seed: u64,
}

/// Of the tokens that have to be guessed, so many become the mask and so many any token; the rest stay.
const MASKED: f64 = 0.8;
const REPLACED: f64 = 0.1;

impl Masking {
    /// The example with hidden tokens, as it is seen at `position` of the order. At least one token is hidden.
    ///
    /// # References
    /// J. Devlin et al., BERT, 2018, section 3.1 \[2nd\].
    pub(super) fn apply(&self, example: &Example, position: u64, is_special: &dyn Fn(u32) -> bool) -> Example {
        let n = example.ids.len();
        // Three numbers in [0, 1) a token, from a stream of this position.
        let seed = self.seed ^ (position + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let draws = random::uniform(seed, n, 3, 0.0, 1.0);
        let candidates: Vec<usize> = (0..n).filter(|i| !is_special(example.ids[*i])).collect();
        let mut chosen: Vec<usize> = candidates.iter().copied().filter(|i| draws[3 * i] < self.probability).collect();
        if chosen.is_empty() {
            chosen.extend(candidates.first());
        }
        let mut hidden = Example { ids: example.ids.clone(), labels: Vec::new() };
        for i in chosen {
            hidden.labels.push((i, example.ids[i]));
            let (fate, token) = (draws[3 * i + 1], draws[3 * i + 2]);
            if fate < MASKED {
                hidden.ids[i] = self.mask;
            } else if fate < MASKED + REPLACED {
                hidden.ids[i] = (token * self.vocab as f64) as u32;
            }
        }
        hidden
    }
}

/// A permutation of 0..n, the same for the same seed and epoch.
pub(super) fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let keys = random::uniform(seed ^ (epoch + 1).wrapping_mul(0xd134_2543_de82_ef95), n, 1, 0.0, 1.0);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| keys[*i].total_cmp(&keys[*j]));
    order
}

/// The order of examples, one epoch kept.
#[derive(Debug, Clone)]
pub(super) struct Order {
    n: usize,
    seed: u64,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    pub(super) fn new(n: usize, seed: u64) -> Self {
        Self { n, seed, epoch: None }
    }

    /// The example at a position of the endless order.
    pub(super) fn at(&mut self, position: u64) -> usize {
        let (epoch, within) = (position / self.n as u64, (position % self.n as u64) as usize);
        match &self.epoch {
            Some((known, order)) if *known == epoch => order[within],
            _ => {
                let order = shuffled(self.n, self.seed, epoch);
                let found = order[within];
                self.epoch = Some((epoch, order));
                found
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_sees_every_example_once_in_an_order_of_its_own() {
        let mut order = Order::new(7, 3);
        let epochs: Vec<Vec<usize>> = (0..3).map(|epoch| (0..7).map(|i| order.at(7 * epoch + i)).collect()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        // No cursor: a position says it all.
        assert_eq!(Order::new(7, 3).at(16), epochs[2][2]);
    }

    #[test]
    fn labels_are_the_next_tokens_behind_the_prompt() {
        let example = next_tokens(vec![10, 11, 12, 13], 2, 100).unwrap();
        assert_eq!(example.labels, [(1, 12), (2, 13)]);
        assert_eq!(next_tokens(vec![10, 11, 12, 13], 0, 3).unwrap().labels, [(0, 11), (1, 12)]);
        // Nothing is left to learn when the cut takes the answer.
        assert_eq!(next_tokens(vec![10, 11, 12, 13], 2, 2), None);
    }

    #[test]
    fn hidden_tokens_are_labelled_and_special_ones_stay() {
        let masking = Masking { mask: 4, vocab: 50, probability: 0.3, seed: 1 };
        let example = Example { ids: (0..40).map(|i| if i == 0 { 2 } else { 10 + i }).collect(), labels: vec![] };
        let special = |id: u32| id == 2;
        let (first, second) = (masking.apply(&example, 0, &special), masking.apply(&example, 1, &special));
        assert_ne!(first, second);
        assert_eq!(first, masking.apply(&example, 0, &special));
        for hidden in [first, second] {
            assert!((3..=24).contains(&hidden.labels.len()), "{}", hidden.labels.len());
            assert!(hidden.labels.iter().all(|(i, id)| *i > 0 && *id == example.ids[*i]));
            let changed = (0..40).filter(|i| hidden.ids[*i] != example.ids[*i]);
            assert!(changed.into_iter().all(|i| hidden.labels.iter().any(|(at, _)| *at == i)));
        }
    }
}
