//! A small network learns what a teacher of low-rank difference says: y = W_2 relu(W_1 x), 24-48-8.

use metastable_dynamics::Matrix;

use super::normal;
use crate::adapted::{Part, Problem};

/// The student's frozen matrices, and the teacher's, which differ by updates of rank `rank`.
pub(crate) struct Teacher {
    weights: Vec<Matrix>,
    teacher: Vec<Matrix>,
    validation: (Matrix, Matrix),
    test: (Matrix, Matrix),
    seed: u64,
}

const SIDES: [usize; 3] = [24, 48, 8];
const BATCH: usize = 32;
const HELD_OUT: usize = 512;

impl Teacher {
    pub(crate) fn new(rank: usize, seed: u64) -> Self {
        let weight = |k: usize| normal(seed, 20 + k as u64, SIDES[k + 1], SIDES[k], (2.0 / SIDES[k] as f64).sqrt());
        let weights: Vec<Matrix> = (0..2).map(weight).collect();
        let changed = |(k, w): (usize, &Matrix)| {
            let b = normal(seed, 30 + k as u64, SIDES[k + 1], rank, 1.0);
            let a = normal(seed, 40 + k as u64, rank, SIDES[k], 1.0);
            let update = b.multiply(&a);
            // As large as the matrix it changes.
            w.add_scaled(w.frobenius_norm() / update.frobenius_norm(), &update)
        };
        let teacher: Vec<Matrix> = weights.iter().enumerate().map(changed).collect();
        let held_out = |stream: u64| {
            let x = normal(seed, stream, SIDES[0], HELD_OUT, 1.0);
            let y = hidden(&teacher, &x).1;
            (x, y)
        };
        let (validation, test) = (held_out(50), held_out(51));
        Self { weights, teacher, validation, test, seed }
    }

    /// Inputs and answers as columns.
    fn batch(&self, step: u64) -> (Matrix, Matrix) {
        let x = normal(self.seed, 1000 + step, SIDES[0], BATCH, 1.0);
        let y = hidden(&self.teacher, &x).1;
        (x, y)
    }
}

/// relu(W_1 x) and W_2 of it.
fn hidden(weights: &[Matrix], x: &Matrix) -> (Matrix, Matrix) {
    let inner = weights[0].multiply(x);
    let inner = inner.zip_with(&inner, |h, _| h.max(0.0));
    let outer = weights[1].multiply(&inner);
    (inner, outer)
}

/// ‖ŷ - y‖²/(2·count), column by column.
fn loss(weights: &[Matrix], (x, y): &(Matrix, Matrix)) -> f64 {
    let error = hidden(weights, x).1.add_scaled(-1.0, y);
    0.5 * error.frobenius_norm().powi(2) / x.columns() as f64
}

impl Problem for Teacher {
    fn weights(&self) -> &[Matrix] {
        &self.weights
    }

    fn loss(&self, weights: &[Matrix], part: Part) -> f64 {
        match part {
            Part::Batch(step) => loss(weights, &self.batch(step)),
            Part::Validation => loss(weights, &self.validation),
            Part::Test => loss(weights, &self.test),
        }
    }

    fn gradients(&self, weights: &[Matrix], batch: u64) -> Vec<Matrix> {
        let (x, y) = self.batch(batch);
        let (inner, outer) = hidden(weights, &x);
        let error = outer.add_scaled(-1.0, &y).scaled(1.0 / x.columns() as f64);
        let of_inner = weights[1].transpose().multiply(&error).zip_with(&inner, |g, h| if h > 0.0 { g } else { 0.0 });
        vec![of_inner.multiply(&x.transpose()), error.multiply(&inner.transpose())]
    }
}
