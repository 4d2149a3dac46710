//! A large batch as two halves in flight.
//!
//! A product shared by all threads ends when its last thread does, and the next begins when all have been woken: in a
//! step of a dozen layers that happens thousands of times. Two halves of the batch need nothing of each other before
//! their gradients are added, so while one waits the other works. Where the cut falls depends on the lengths of the
//! sequences alone, and sums are added in the order of the halves: results are the same on any number of threads.

use super::adapters::{ModuleValues, Places};
use super::loss::Likelihood;
use super::pass::{Goal, HeadValues, Pass, Ragged, Sums};
use super::real::Real;

/// Batches of fewer tokens stay whole: each half packs every frozen matrix for itself.
const LEAST_TOKENS: usize = 256;

impl<T: Real> Pass<'_, T> {
    /// The loss of a batch, and, if `sums` is given, its gradients times `weight` added there.
    ///
    /// Time of a forward and, above the first adapted layer, about twice that; memory O(n·(hidden + intermediate)) a
    /// layer above it.
    pub(crate) fn run(
        &self,
        batch: &Ragged<'_>,
        places: &Places,
        modules: &[ModuleValues<T>],
        goal: &Goal<'_, T>,
        weight: f64,
        sums: Option<Sums<'_, T>>,
    ) -> Likelihood {
        let Some(cut) = cut(batch) else {
            return self.run_whole(batch, places, modules, goal, weight, sums);
        };
        let [first, second] = batch.split(cut);
        let labels = Labels::of(goal, cut, first.tokens());
        let [first_goal, second_goal] = labels.goals();
        let mut own = sums.as_ref().map(OwnSums::like);
        let second_sums = own.as_mut().map(OwnSums::lend);
        let mut sums = sums;
        let first_sums = sums.as_mut().map(|sums| Sums { modules: sums.modules, head: sums.head.as_deref_mut() });
        let (one, other) = rayon::join(
            || self.run_whole(&first, places, modules, &first_goal, weight, first_sums),
            || self.run_whole(&second, places, modules, &second_goal, weight, second_sums),
        );
        if let (Some(sums), Some(own)) = (sums, own) {
            own.add_to(sums);
        }
        Likelihood { sum: one.sum + other.sum, correct: one.correct + other.correct }
    }
}

/// The number of sequences in the first half: the cut that leaves the larger half smallest.
fn cut(batch: &Ragged<'_>) -> Option<usize> {
    let total = batch.tokens();
    if total < LEAST_TOKENS {
        return None;
    }
    let mut before = 0;
    let larger = batch.sequences.iter().enumerate().skip(1).map(|(at, _)| {
        before += batch.sequences[at - 1].len();
        (before.max(total - before), at)
    });
    larger.min().map(|(_, at)| at)
}

impl<'a> Ragged<'a> {
    fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.len()).sum()
    }

    fn split(&self, cut: usize) -> [Self; 2] {
        let (first, second) = self.sequences.split_at(cut);
        [Self { sequences: first.to_vec() }, Self { sequences: second.to_vec() }]
    }
}

/// What each half is asked, with tokens counted from its own start.
enum Labels<'a, T> {
    Tokens([Vec<(usize, u32)>; 2]),
    Classes { labels: [&'a [u32]; 2], head: &'a HeadValues<T> },
}

impl<'a, T> Labels<'a, T> {
    fn of(goal: &Goal<'a, T>, cut: usize, tokens: usize) -> Self {
        match goal {
            Goal::Tokens(labels) => {
                let (first, second): (Vec<_>, Vec<_>) = labels.iter().partition(|(token, _)| *token < tokens);
                let second = second.into_iter().map(|(token, id): (usize, u32)| (token - tokens, id)).collect();
                Self::Tokens([first, second])
            }
            Goal::Classes { labels, head } => {
                let (first, second) = labels.split_at(cut);
                Self::Classes { labels: [first, second], head }
            }
        }
    }

    fn goals(&self) -> [Goal<'_, T>; 2] {
        match self {
            Self::Tokens([first, second]) => [Goal::Tokens(first), Goal::Tokens(second)],
            Self::Classes { labels, head } => labels.map(|labels| Goal::Classes { labels, head }),
        }
    }
}

/// Sums of the second half until the first is done.
struct OwnSums<T> {
    modules: Vec<ModuleValues<T>>,
    head: Option<HeadValues<T>>,
}

impl<T: Real> OwnSums<T> {
    fn like(sums: &Sums<'_, T>) -> Self {
        Self {
            modules: sums.modules.iter().map(ModuleValues::zeros_like).collect(),
            head: sums.head.as_deref().map(HeadValues::zeros_like),
        }
    }

    fn lend(&mut self) -> Sums<'_, T> {
        Sums { modules: &mut self.modules, head: self.head.as_mut() }
    }

    fn add_to(&self, sums: Sums<'_, T>) {
        for (into, own) in sums.modules.iter_mut().zip(&self.modules) {
            add(&mut into.a, &own.a);
            add(&mut into.b, &own.b);
            if let (Some(into), Some(own)) = (&mut into.row_factors, &own.row_factors) {
                add(into, own);
            }
        }
        if let (Some(into), Some(own)) = (sums.head, &self.head) {
            add(&mut into.weight, &own.weight);
            add(&mut into.bias, &own.bias);
        }
    }
}

fn add<T: Real>(into: &mut [T], values: &[T]) {
    into.iter_mut().zip(values).for_each(|(sum, x)| *sum += *x);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_of(lengths: &[usize]) -> Option<usize> {
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|n| vec![0; *n]).collect();
        cut(&Ragged { sequences: sequences.iter().map(Vec::as_slice).collect() })
    }

    #[test]
    fn halves_are_as_equal_as_whole_sequences_allow() {
        assert_eq!(cut_of(&[128; 8]), Some(4));
        assert_eq!(cut_of(&[10, 20, 300]), Some(2));
        assert_eq!(cut_of(&[300, 10, 20]), Some(1));
        // [100 | 130, 100] and [100, 130 | 100] are equally good: the earlier cut.
        assert_eq!(cut_of(&[100, 130, 100]), Some(1));
    }

    #[test]
    fn one_sequence_and_small_batches_stay_whole() {
        assert_eq!(cut_of(&[1000]), None);
        assert_eq!(cut_of(&[128, 127]), None);
    }
}
