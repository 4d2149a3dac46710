//! A transformer of one tied block for arithmetic modulo p, trained in full by a reverse pass of its own.
//!
//! \[a, op, b, =\] ↦ a op b. One head, causal, no norms, no feed-forward part: h ← h + W_O Σ_j softmax(<Q h_i, K h_j>/√d)
//! V h_j, `depth` times with the same matrices, and scores U h at the last token \[code, at a smaller size\].

use metastable_dynamics::Matrix;
use metastable_dynamics::linalg::dot;

use crate::problems::normal;

/// Tokens of a question.
const LENGTH: usize = 4;

/// What is asked of a and b.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Addition,
    Subtraction,
}

/// a op b and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    tokens: [usize; LENGTH],
    answer: usize,
}

/// All questions of an operation modulo p.
pub(crate) fn questions(p: usize, operation: Operation) -> Vec<Question> {
    let all = (0..p).flat_map(|a| (0..p).map(move |b| (a, b)));
    let question = |(a, b)| match operation {
        Operation::Addition => Question { tokens: [a, p, b, p + 2], answer: (a + b) % p },
        Operation::Subtraction => Question { tokens: [a, p + 1, b, p + 2], answer: (a + p - b) % p },
    };
    all.map(question).collect()
}

/// The place of each matrix in the list of parameters.
pub(crate) const EMBEDDING: usize = 0;
const POSITIONS: usize = 1;
const QUERY: usize = 2;
const KEY: usize = 3;
pub(crate) const VALUE: usize = 4;
const OUTPUT: usize = 5;
const SCORES: usize = 6;

/// The shape of a model; its numbers are a list of seven matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Modular {
    pub(crate) p: usize,
    pub(crate) dim: usize,
    pub(crate) depth: usize,
}

/// What the reverse pass needs of one application of the block.
struct Kept {
    x: Matrix,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    /// Attention weights, LENGTH x LENGTH for every question.
    weights: Vec<f64>,
    z: Matrix,
}

impl Modular {
    /// Normal numbers of deviation 1/√d.
    pub(crate) fn start(&self, seed: u64) -> Vec<Matrix> {
        let d = self.dim;
        let shapes = [(self.p + 3, d), (LENGTH, d), (d, d), (d, d), (d, d), (d, d), (self.p, d)];
        let draw = |(k, (rows, columns)): (usize, (usize, usize))| {
            normal(seed, 100 + k as u64, rows, columns, 1.0 / (d as f64).sqrt())
        };
        shapes.into_iter().enumerate().map(draw).collect()
    }

    /// Mean cross-entropy and share of right answers.
    pub(crate) fn evaluate(&self, parameters: &[Matrix], questions: &[Question]) -> (f64, f64) {
        let mut h = embedded(parameters, questions);
        for _ in 0..self.depth {
            h = self.block(parameters, h).1;
        }
        let (loss, right, _) = self.head(parameters, &h, questions);
        (loss, right)
    }

    /// The loss and its gradients with respect to all matrices.
    pub(crate) fn gradients(&self, parameters: &[Matrix], questions: &[Question]) -> (f64, Vec<Matrix>) {
        let mut kept = Vec::with_capacity(self.depth);
        let mut h = embedded(parameters, questions);
        for _ in 0..self.depth {
            let (block, next) = self.block(parameters, h);
            kept.push(block);
            h = next;
        }
        let (loss, _, slopes) = self.head(parameters, &h, questions);
        let mut gradients: Vec<Matrix> = parameters.iter().map(|matrix| matrix.scaled(0.0)).collect();
        let last = last_tokens(&h, questions.len());
        gradients[SCORES] = slopes.transpose().multiply(&last);
        let of_last = slopes.multiply(&parameters[SCORES]);
        let mut dh = Matrix::from_fn(h.rows(), h.columns(), |i, j| {
            if i % LENGTH == LENGTH - 1 { of_last.at(i / LENGTH, j) } else { 0.0 }
        });
        for block in kept.iter().rev() {
            dh = self.reverse(parameters, block, &dh, &mut gradients);
        }
        for (index, rows) in [(EMBEDDING, self.p + 3), (POSITIONS, LENGTH)] {
            let mut sums = vec![0.0; rows * self.dim];
            for (i, row) in dh.as_slice().chunks_exact(self.dim).enumerate() {
                let (question, position) = (i / LENGTH, i % LENGTH);
                let to = if index == EMBEDDING { questions[question].tokens[position] } else { position };
                sums[to * self.dim..][..self.dim].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            gradients[index] = Matrix::from_fn(rows, self.dim, |i, j| sums[i * self.dim + j]);
        }
        (loss, gradients)
    }

    /// h + attention, and what is kept.
    fn block(&self, parameters: &[Matrix], x: Matrix) -> (Kept, Matrix) {
        let through = |index: usize| x.multiply(&parameters[index].transpose());
        let (q, k, v) = (through(QUERY), through(KEY), through(VALUE));
        let count = x.rows() / LENGTH;
        let mut weights = vec![0.0; count * LENGTH * LENGTH];
        let mut z = vec![0.0; x.rows() * self.dim];
        let scale = 1.0 / (self.dim as f64).sqrt();
        for question in 0..count {
            for i in 0..LENGTH {
                let row = question * LENGTH + i;
                let here = &mut weights[row * LENGTH..][..=i];
                for (j, weight) in here.iter_mut().enumerate() {
                    *weight = scale * dot(q.row(row), k.row(question * LENGTH + j));
                }
                softmax(here);
                let out = &mut z[row * self.dim..][..self.dim];
                for (j, weight) in here.iter().enumerate() {
                    out.iter_mut().zip(v.row(question * LENGTH + j)).for_each(|(z, v)| *z += weight * v);
                }
            }
        }
        let z = Matrix::from_fn(x.rows(), self.dim, |i, j| z[i * self.dim + j]);
        let next = x.add_scaled(1.0, &z.multiply(&parameters[OUTPUT].transpose()));
        (Kept { x, q, k, v, weights, z }, next)
    }

    /// Adds the block's part to the gradients; answers dx for dh of its output.
    fn reverse(&self, parameters: &[Matrix], kept: &Kept, dh: &Matrix, gradients: &mut [Matrix]) -> Matrix {
        let d = self.dim;
        let mut add = |index: usize, more: Matrix| gradients[index] = gradients[index].add_scaled(1.0, &more);
        add(OUTPUT, dh.transpose().multiply(&kept.z));
        let dz = dh.multiply(&parameters[OUTPUT]);
        let side = kept.x.rows();
        let (mut dq, mut dk, mut dv) = (vec![0.0; side * d], vec![0.0; side * d], vec![0.0; side * d]);
        let scale = 1.0 / (d as f64).sqrt();
        for row in 0..side {
            let first = row - row % LENGTH;
            let weights = &kept.weights[row * LENGTH..][..=row % LENGTH];
            let slopes: Vec<f64> = (0..weights.len()).map(|j| dot(dz.row(row), kept.v.row(first + j))).collect();
            let mean = dot(&slopes, weights);
            for (j, weight) in weights.iter().enumerate() {
                let slope = scale * weight * (slopes[j] - mean);
                let other = first + j;
                for c in 0..d {
                    dv[other * d + c] += weight * dz.at(row, c);
                    dq[row * d + c] += slope * kept.k.at(other, c);
                    dk[other * d + c] += slope * kept.q.at(row, c);
                }
            }
        }
        let mut dx = dh.clone();
        for (index, values) in [(QUERY, dq), (KEY, dk), (VALUE, dv)] {
            let slopes = Matrix::from_fn(side, d, |i, j| values[i * d + j]);
            add(index, slopes.transpose().multiply(&kept.x));
            dx = dx.add_scaled(1.0, &slopes.multiply(&parameters[index]));
        }
        dx
    }

    /// Loss, share of right answers, and d(loss)/d(scores) [questions, p].
    fn head(&self, parameters: &[Matrix], h: &Matrix, questions: &[Question]) -> (f64, f64, Matrix) {
        let scores = last_tokens(h, questions.len()).multiply(&parameters[SCORES].transpose());
        let (mut loss, mut right) = (0.0, 0.0);
        let mut slopes = scores.as_slice().to_vec();
        let count = questions.len() as f64;
        for (row, question) in slopes.chunks_exact_mut(self.p).zip(questions) {
            let best = (0..self.p).fold(0, |b, k| if row[k] > row[b] { k } else { b });
            right += f64::from(u8::from(best == question.answer));
            softmax(row);
            loss -= row[question.answer].max(f64::MIN_POSITIVE).ln();
            row[question.answer] -= 1.0;
            row.iter_mut().for_each(|slope| *slope /= count);
        }
        (loss / count, right / count, Matrix::from_fn(questions.len(), self.p, |i, j| slopes[i * self.p + j]))
    }
}

/// Token vectors, question after question.
fn embedded(parameters: &[Matrix], questions: &[Question]) -> Matrix {
    let (tokens, positions) = (&parameters[EMBEDDING], &parameters[POSITIONS]);
    Matrix::from_fn(questions.len() * LENGTH, tokens.columns(), |i, j| {
        tokens.at(questions[i / LENGTH].tokens[i % LENGTH], j) + positions.at(i % LENGTH, j)
    })
}

fn last_tokens(h: &Matrix, count: usize) -> Matrix {
    Matrix::from_fn(count, h.columns(), |i, j| h.at(i * LENGTH + LENGTH - 1, j))
}

/// e^{x - max} over its sum, in place.
fn softmax(row: &mut [f64]) {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}
