//! Jacobian products of one head on the tiles of the forward pass: O(n (k + m)) memory, in `f32` and `f64`.
//!
//! With P_ij the weights, S_ij the scores, y_i = Σ_j P_ij v_j, a dot for tangents and a bar for cotangents:
//!
//! ```text
//! softmax           ẏ_i = Σ_j P_ij v̇_j + Σ_j P_ij Ṡ_ij (v_j - y_i)      S̄_ij = P_ij (<ȳ_i, v_j> - <ȳ_i, y_i>)
//! sigmoid, linear   ẏ_i = Σ_j P_ij v̇_j + Σ_j w'(S_ij)/N_i Ṡ_ij v_j       S̄_ij = w'(S_ij)/N_i <ȳ_i, v_j>
//!
//! v̄_j = Σ_i P_ij ȳ_i,   q̄_i = Σ_j S̄_ij ∂S_ij/∂q_i,   k̄_j = Σ_i S̄_ij ∂S_ij/∂k_j
//! ```
//!
//! The log-sums and messages of the point are kept, so that no product needs a maximum: a JVP is one sweep over the
//! pairs, a VJP is one with queries in lanes and one with keys in lanes (`sweep`).
//!
//! Softmax does not change when all keys move together, nor do its Jacobian products when all values do. Keys, values
//! and tangents of keys are therefore measured from those of token 0, which every query sees: where tokens coincide
//! nothing is left to round, and a prefix under a causal mask has the products of its own \[derived\]. Squared
//! distances are products of extended vectors, -β|q - k|² = <(2βq, 1), (k, -β|k|²)> - β|q|², around token 0.
//!
//! # References
//! Formulas as in [`crate::attention::jacobian`] \[derived\], the naive twin and oracle; the row mean <ȳ_i, y_i> in place
//! of stored weights: Dao et al., FlashAttention, 2205.14135, appendix B \[2nd\].

pub(super) mod sweep;
pub(super) mod table;

use std::f64::consts::{LN_2, LOG2_E};

use super::super::kernel::{AttentionKernel, Mask, Normalization, Score};
use super::{Answer, Level, Problem, Real, Rows, answer, problem};
use sweep::{Sides, Sight, Weigh};
use table::Table;

/// The Jacobian of y = [`attend`](super::attend) at one point, with respect to queries, keys and values.
///
/// In `f32` a product errs by a few 1e-7 of the sizes of its terms, plus what rounding of the scores does: 6e-8·max |S|.
///
/// # Example
/// ```
/// use metastable_dynamics::attention::AttentionKernel;
/// use metastable_dynamics::attention::fused::{HeadJacobian, Rows};
///
/// let (query, keys, values) = ([1.0], [0.0, 0.0], [0.0, 1.0]);
/// let [query, keys, values] = [Rows::new(&query, 1), Rows::new(&keys, 1), Rows::new(&values, 1)];
/// let jacobian = HeadJacobian::new(query, keys, values, &AttentionKernel::softmax(1.0)?).expect("softmax");
/// // Both weights are 1/2; along k̇ = (0, 1) the second changes by P (1 - P) = 1/4.
/// let (still, moved) = ([0.0, 0.0], [0.0, 1.0]);
/// let tangent = jacobian.jvp(Rows::new(&still[..1], 1), Rows::new(&moved, 1), Rows::new(&still, 1));
/// assert!((tangent[0] - 0.25_f64).abs() < 1e-15);
/// # Ok::<(), metastable_dynamics::DynamicsError>(())
/// ```
#[derive(Debug, Clone)]
pub struct HeadJacobian<T> {
    /// (e_i, \[1,\] q_i in units of the score): their products with `keys` are exponents of 2, or scores.
    queries: Table<T>,
    /// (1, \[κ_j,\] k_j).
    keys: Table<T>,
    /// (1, v_j).
    values: Table<T>,
    /// y_i, measured as values are; zeros unless softmax.
    messages: Table<T>,
    /// 1/N_i for weights that are divided by it, else 1.
    shares: Vec<T>,
    weigh: Weigh,
    score: Score,
    mask: Mask,
    beta: f64,
    level: Level,
}

/// Gradients with respect to queries \[n_q, k\], keys \[n, k\] and values \[n, m\].
#[derive(Debug, Clone, PartialEq)]
pub struct HeadCotangents<T> {
    /// \[n_q, k\].
    pub queries: Vec<T>,
    /// \[n, k\].
    pub keys: Vec<T>,
    /// \[n, m\].
    pub values: Vec<T>,
}

impl<T: Real> HeadJacobian<T> {
    /// Evaluates the messages at `queries` \[n_q, k\], `keys` \[n, k\] and `values` \[n, m\]: one field of attention.
    ///
    /// None for kernels that are not differentiated here: exponential and Sinkhorn, and hardmax, whose weights are
    /// locally constant.
    ///
    /// # Panics
    /// As [`attend`](super::attend).
    pub fn new(queries: Rows<'_, T>, keys: Rows<'_, T>, values: Rows<'_, T>, kernel: &AttentionKernel) -> Option<Self> {
        Self::at_level(queries, keys, values, kernel, Level::best())
    }

    fn at_level(
        queries: Rows<'_, T>,
        keys: Rows<'_, T>,
        values: Rows<'_, T>,
        kernel: &AttentionKernel,
        level: Level,
    ) -> Option<Self> {
        let weigh = match kernel.normalization() {
            Normalization::Softmax => Weigh::Power,
            Normalization::Sigmoid { .. } => Weigh::Logistic,
            Normalization::Linear => Weigh::Linear,
            Normalization::Exponential | Normalization::Hardmax | Normalization::Sinkhorn(_) => return None,
        };
        let Centred { queries, keys, values } = Centred::of([queries, keys, values], kernel);
        let rows = [&queries, &keys, &values].map(|table| Rows::new(table.numbers(), table.width()));
        let problem = problem(rows[0], rows[1], rows[2], kernel);
        let (messages, log_sums) = messages(&problem, weigh, level);
        let (beta, unit) = (kernel.beta(), if weigh == Weigh::Linear { 1.0 } else { LOG2_E });
        let shift = |i: usize| match (kernel.normalization(), kernel.score()) {
            (Normalization::Softmax, Score::Dot) => -log_sums[i].to_f64(),
            (Normalization::Softmax, Score::SquaredDistance) => -log_sums[i].to_f64() - beta * square(queries.row(i)),
            (Normalization::Sigmoid { bias }, Score::Dot) => bias,
            (Normalization::Sigmoid { bias }, Score::SquaredDistance) => bias - beta * square(queries.row(i)),
            (_, Score::Dot) => 0.0,
            (_, Score::SquaredDistance) => -beta * square(queries.row(i)),
        };
        let (lead, factor) = lead_and_factor(kernel.score(), beta);
        let score_queries = Table::filled(queries.count(), queries.width() + lead, |i, out| {
            out[0] = T::from_f64(shift(i) * unit);
            out[1..lead].fill(T::from_f64(1.0));
            fill_scaled(&mut out[lead..], queries.row(i), factor * unit);
        });
        let score_keys = Table::filled(keys.count(), keys.width() + lead, |j, out| {
            out[0] = T::from_f64(1.0);
            out[1..lead].fill_with(|| T::from_f64(-beta * square(keys.row(j)) * unit));
            out[lead..].copy_from_slice(keys.row(j));
        });
        let share = |i: usize| match weigh {
            Weigh::Power => 1.0,
            Weigh::Logistic | Weigh::Linear => 1.0 / kernel.mask().visible(i, keys.count()) as f64,
        };
        Some(Self {
            shares: (0..queries.count()).map(|i| T::from_f64(share(i))).collect(),
            queries: score_queries,
            keys: score_keys,
            values: Table::filled(values.count(), values.width() + 1, |j, out| with_one(out, values.row(j))),
            messages,
            weigh,
            score: kernel.score(),
            mask: kernel.mask(),
            beta,
            level,
        })
    }

    /// ẏ \[n_q, m\] along tangents of queries \[n_q, k\], keys \[n, k\] and values \[n, m\]. O(n_q n (3k + 2m)) time.
    ///
    /// # Panics
    /// If shapes differ from those of the point.
    pub fn jvp(&self, queries: Rows<'_, T>, keys: Rows<'_, T>, values: Rows<'_, T>) -> Vec<T> {
        let (lead, factor) = lead_and_factor(self.score, self.beta);
        let (k, m) = (self.keys.width() - lead, self.values.width() - 1);
        assert_eq!([queries.count(), queries.width()], [self.queries.count(), k], "a tangent for each query");
        assert_eq!([keys.count(), keys.width()], [self.keys.count(), k], "a tangent for each key");
        assert_eq!([values.count(), values.width()], [self.values.count(), m], "a tangent for each value");
        let (softmax, distance) = (self.weigh == Weigh::Power, self.score == Score::SquaredDistance);
        let still = vec![T::default(); k];
        // What moves all scores of a row alike moves no weight of softmax; what moves queries and keys alike, no distance.
        let key_origin = if softmax || distance { keys.row(0) } else { &still };
        let query_origin = if distance { keys.row(0) } else { &still };
        let moved_query = |i: usize, out: &mut [T]| fill_difference(out, queries.row(i), query_origin, factor);
        let moved_key = |j: usize, out: &mut [T]| fill_difference(out, keys.row(j), key_origin, self.unit());
        // Ṡ = <q̇, k> + <q, k̇> with the factor of the score; for distances also -2β <k, k̇> and, of the query, -2β <q, q̇>.
        let pairs = (lead - 1) * 2;
        let slope_queries = Table::filled(queries.count(), pairs + 2 * k, |i, out| {
            let (ends, products) = out.split_at_mut(pairs);
            let (tangent, query) = products.split_at_mut(k);
            moved_query(i, tangent);
            query.copy_from_slice(&self.queries.row(i)[lead..]);
            if let [own, one] = ends {
                let slope =
                    if softmax { 0.0 } else { -dot_difference(query, queries.row(i), query_origin) * self.unit() };
                (*own, *one) = (T::from_f64(slope), T::from_f64(1.0));
            }
        });
        let slope_keys = Table::filled(keys.count(), pairs + 2 * k, |j, out| {
            let (ends, products) = out.split_at_mut(pairs);
            let (key, tangent) = products.split_at_mut(k);
            key.copy_from_slice(&self.keys.row(j)[lead..]);
            moved_key(j, tangent);
            if let [one, own] = ends {
                let slope = -dot_difference(key, keys.row(j), key_origin) * factor;
                (*one, *own) = (T::from_f64(1.0), T::from_f64(slope));
            }
        });
        let moved = Table::filled(values.count(), m, |j, out| out.copy_from_slice(values.row(j)));
        let sums = Sides {
            lanes: [&self.queries, &slope_queries],
            broadcast: [&self.keys, &slope_keys],
            summed: [(&self.values, 0), (&moved, 0)],
            weigh: self.weigh,
            sight: self.sight(Sight::Back),
        }
        .sums(self.level);
        let mut out = vec![T::default(); queries.count() * m];
        for (i, (sums, out)) in sums.rows().zip(out.chunks_exact_mut(m)).enumerate() {
            let (mean, share) = (sums[0].to_f64(), self.shares[i].to_f64());
            let terms = sums[1..].iter().zip(&sums[m + 1..]).zip(self.messages.row(i));
            for (out, ((through_weights, through_values), message)) in out.iter_mut().zip(terms) {
                let through_weights = through_weights.to_f64() - mean * message.to_f64();
                *out = T::from_f64(share * (through_weights + through_values.to_f64()));
            }
        }
        out
    }

    /// The gradients of Σ_i <ȳ_i, y_i> for ȳ \[n_q, m\]. O(n_q n (4k + 3m)) time.
    ///
    /// # Panics
    /// If there is not one cotangent a message.
    pub fn vjp(&self, cotangent: Rows<'_, T>) -> HeadCotangents<T> {
        let (lead, factor) = lead_and_factor(self.score, self.beta);
        let (k, m) = (self.keys.width() - lead, self.values.width() - 1);
        assert_eq!([cotangent.count(), cotangent.width()], [self.queries.count(), m], "a cotangent for each message");
        let cotangents = Table::filled(cotangent.count(), m + 1, |i, out| {
            out[0] = T::from_f64(-dot(cotangent.row(i), self.messages.row(i)));
            fill_scaled(&mut out[1..], cotangent.row(i), self.shares[i].to_f64());
        });
        // Of a distance, the sum of slopes too: it stands where the other side has a 1.
        let by_queries = self.sweep_queries(&cotangents, lead);
        let by_keys = self.sweep_keys(&cotangents);
        let extra = lead - 1;
        let mut found = HeadCotangents {
            queries: vec![T::default(); by_queries.count() * k],
            keys: vec![T::default(); by_keys.count() * k],
            values: vec![T::default(); by_keys.count() * m],
        };
        let softmax = self.weigh == Weigh::Power;
        for (i, (sums, out)) in by_queries.rows().zip(found.queries.chunks_exact_mut(k)).enumerate() {
            fill_scaled(out, &sums[sums.len() - k..], factor);
            // Of softmax the slopes of a row sum to zero.
            if extra > 0 && !softmax {
                subtract(out, sums[0].to_f64() * self.unit(), &self.queries.row(i)[lead..]);
            }
        }
        let parts = found.keys.chunks_exact_mut(k).zip(found.values.chunks_exact_mut(m));
        for (j, (sums, (key, value))) in by_keys.rows().zip(parts).enumerate() {
            fill_scaled(key, &sums[extra..extra + k], self.unit());
            if extra > 0 {
                subtract(key, sums[0].to_f64() * factor, &self.keys.row(j)[lead..]);
            }
            value.copy_from_slice(&sums[extra + k..]);
        }
        found
    }

    /// (\[Σ_j S̄_ij,\] … Σ_j S̄_ij k_j) for every query.
    fn sweep_queries(&self, cotangents: &Table<T>, lead: usize) -> Table<T> {
        let first = if lead > 1 && self.weigh != Weigh::Power { 0 } else { lead };
        Sides {
            lanes: [&self.queries, cotangents],
            broadcast: [&self.keys, &self.values],
            summed: [(&self.keys, first), (&self.keys, self.keys.width())],
            weigh: self.weigh,
            sight: self.sight(Sight::Back),
        }
        .sums(self.level)
    }

    /// (\[Σ_i S̄_ij,\] Σ_i S̄_ij q_i, Σ_i P_ij ȳ_i) for every key, q in units of the score.
    fn sweep_keys(&self, cotangents: &Table<T>) -> Table<T> {
        Sides {
            lanes: [&self.keys, &self.values],
            broadcast: [&self.queries, cotangents],
            summed: [(&self.queries, 1), (cotangents, 1)],
            weigh: self.weigh,
            sight: self.sight(Sight::Ahead),
        }
        .sums(self.level)
    }

    /// What `causal` lanes see under the mask.
    fn sight(&self, causal: Sight) -> Sight {
        if self.mask == Mask::Causal { causal } else { Sight::All }
    }

    /// The score of one unit of `queries`.
    fn unit(&self) -> f64 {
        if self.weigh == Weigh::Linear { 1.0 } else { LN_2 }
    }
}

/// Queries, keys and values, measured from token 0 where nothing depends on it.
struct Centred<T> {
    queries: Table<T>,
    keys: Table<T>,
    values: Table<T>,
}

impl<T: Real> Centred<T> {
    fn of(rows: [Rows<'_, T>; 3], kernel: &AttentionKernel) -> Self {
        let [queries, keys, values] = rows;
        let (softmax, distance) =
            (kernel.normalization() == Normalization::Softmax, kernel.score() == Score::SquaredDistance);
        let first = |rows: Rows<'_, T>, wanted: bool| match wanted {
            true => rows.row(0).to_vec(),
            false => vec![T::default(); rows.width()],
        };
        let (key, value) = (first(keys, softmax || distance), first(values, softmax));
        let query = if distance { key.clone() } else { vec![T::default(); queries.width()] };
        let from = |rows: Rows<'_, T>, origin: &[T]| {
            Table::filled(rows.count(), rows.width(), |i, out| fill_difference(out, rows.row(i), origin, 1.0))
        };
        Self { queries: from(queries, &query), keys: from(keys, &key), values: from(values, &value) }
    }
}

/// The messages and log-sums of softmax; zeros and nothing for other weights, whose products need neither.
fn messages<T: Real>(problem: &Problem<'_, T>, weigh: Weigh, level: Level) -> (Table<T>, Vec<T>) {
    let (count, width) = (problem.counts[0], problem.value_width);
    if weigh != Weigh::Power {
        return (Table::filled(count, width, |_, _| ()), Vec::new());
    }
    let problem = Problem { answer: Answer::MessageAndLogSum, ..*problem };
    let mut answers = vec![T::default(); count * (width + 1)];
    answer(&problem, level, &mut answers);
    let row = |i: usize| &answers[i * (width + 1)..][..width];
    let log_sums = answers.chunks_exact(width + 1).map(|answer| answer[width]).collect();
    (Table::filled(count, width, |i, out| out.copy_from_slice(row(i))), log_sums)
}

/// Components before the queries themselves, and the factor of <q, k> in the score.
fn lead_and_factor(score: Score, beta: f64) -> (usize, f64) {
    match score {
        Score::Dot => (1, beta),
        Score::SquaredDistance => (2, 2.0 * beta),
    }
}

fn square<T: Real>(row: &[T]) -> f64 {
    dot(row, row)
}

fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
}

/// <a, b - origin>.
fn dot_difference<T: Real>(a: &[T], b: &[T], origin: &[T]) -> f64 {
    a.iter().zip(b).zip(origin).map(|((a, b), origin)| a.to_f64() * (b.to_f64() - origin.to_f64())).sum()
}

/// factor·a.
fn fill_scaled<T: Real>(out: &mut [T], a: &[T], factor: f64) {
    out.iter_mut().zip(a).for_each(|(out, a)| *out = T::from_f64(a.to_f64() * factor));
}

/// factor·(a - b).
fn fill_difference<T: Real>(out: &mut [T], a: &[T], b: &[T], factor: f64) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = T::from_f64((a.to_f64() - b.to_f64()) * factor);
    }
}

/// out - factor·a.
fn subtract<T: Real>(out: &mut [T], factor: f64, a: &[T]) {
    out.iter_mut().zip(a).for_each(|(out, a)| *out = T::from_f64(out.to_f64() - factor * a.to_f64()));
}

/// (1, a).
fn with_one<T: Real>(out: &mut [T], a: &[T]) {
    out[0] = T::from_f64(1.0);
    out[1..].copy_from_slice(a);
}

#[cfg(test)]
mod tests;
