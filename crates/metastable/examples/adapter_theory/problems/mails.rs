//! Spam or ham from what MiniLM makes of a mail: the adapter changes the pooler's matrix, on real features.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use metastable::arrays::{Tensor, TensorData, parse_safetensors, safetensors_bytes};
use metastable_dynamics::{Matrix, random};
use metastable_model::{Input, Model};

use super::normal;
use crate::adapted::{Part, Problem};

/// What does not depend on the seed of a run: features of mails, and the pooler that reads them.
pub(crate) struct Features {
    /// The last level at \[CLS\], a column a mail.
    states: Matrix,
    /// 1 for spam.
    labels: Vec<usize>,
    /// The pooler's W [d, d] and bias.
    weight: Matrix,
    bias: Vec<f64>,
}

/// Mails to train on, to choose settings by, and to report.
const PARTS: [usize; 3] = [512, 256, 512];
const TOKENS: usize = 64;
const BATCH: usize = 32;

impl Features {
    /// Runs the model over mails of a JSON Lines file, or takes what an earlier call made of them.
    pub(crate) fn of(model: &Path, mails: &Path, cache: Option<&[u8]>) -> Result<(Self, Vec<u8>), Box<dyn Error>> {
        let file = model.join("model.safetensors");
        let mut tensors = parse_safetensors(&file, &std::fs::read(&file)?)?;
        let mut take = |name: &str| tensors.remove(name).ok_or_else(|| format!("{}: no `{name}`", file.display()));
        let weight = take("pooler.dense.weight")?.into_matrix(&file)?;
        let bias = take("pooler.dense.bias")?.into_vector(&file)?;
        let bytes = match cache {
            Some(bytes) => bytes.to_vec(),
            None => features(model, mails, weight.rows())?,
        };
        let mut stored = parse_safetensors(Path::new("hidden.safetensors"), &bytes)?;
        let mut take = |name: &str| stored.remove(name).ok_or("hidden.safetensors is of another run");
        let states = take("states")?.into_matrix(Path::new("states"))?.transpose();
        // Labels are 0 and 1.
        let labels = take("labels")?.as_slice().iter().map(|label| *label as usize).collect();
        Ok((Self { states, labels, weight, bias }, bytes))
    }
}

/// Hidden states at [CLS] and labels, of mails drawn without replacement, as the bytes of a file.
fn features(model: &Path, mails: &Path, dim: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let text = std::fs::read_to_string(mails)?;
    let mut lines: Vec<&str> = text.lines().collect();
    let wanted: usize = PARTS.iter().sum();
    if lines.len() < wanted {
        return Err(format!("{}: expected at least {wanted} mails, found {}", mails.display(), lines.len()).into());
    }
    let draws = random::uniforms(0, 7, lines.len());
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|i, j| draws[*i].total_cmp(&draws[*j]));
    lines = order[..wanted].iter().map(|i| lines[*i]).collect();
    let model = Model::open(model)?;
    let words = model.text()?;
    let (mut states, mut labels) = (Vec::with_capacity(wanted * dim), Vec::with_capacity(wanted));
    for line in lines {
        let mail: serde_json::Value = serde_json::from_str(line)?;
        let encoded = words.encode_at_most(mail["text"].as_str().unwrap_or_default(), TOKENS)?;
        states.extend_from_slice(&model.forward(&Input::from(&encoded))?.last()[..dim]);
        labels.push(f32::from(u8::from(mail["label"] == "spam")));
    }
    let tensors = [
        Tensor::new("states", &[wanted, dim], TensorData::F32(&states)),
        Tensor::new("labels", &[wanted], TensorData::F32(&labels)),
    ];
    Ok(safetensors_bytes(&tensors, &BTreeMap::new()))
}

/// The mean cross-entropy of H tanh(W x + b), H normal of deviation 1/sqrt(d) and frozen: the adapter learns alone.
pub(crate) struct Mails<'a> {
    features: &'a Features,
    weights: Vec<Matrix>,
    head: Matrix,
    seed: u64,
}

impl<'a> Mails<'a> {
    pub(crate) fn new(features: &'a Features, seed: u64) -> Self {
        let d = features.weight.rows();
        let head = normal(seed, 60, 2, d, 1.0 / (d as f64).sqrt());
        Self { features, weights: vec![features.weight.clone()], head, seed }
    }

    fn places(&self, part: Part) -> Vec<usize> {
        let [train, validation, test] = PARTS;
        match part {
            Part::Batch(step) => {
                let draws = random::uniforms(self.seed, 5000 + step, BATCH);
                // A uniform number below 1 times n is below n.
                draws.iter().map(|u| (u * train as f64) as usize).collect()
            }
            Part::Validation => (train..train + validation).collect(),
            Part::Test => (train + validation..train + validation + test).collect(),
        }
    }

    /// The states x, tanh(W x + b), and d(mean loss)/d(logits), with the loss.
    fn forward(&self, weight: &Matrix, part: Part) -> (f64, Matrix, Matrix, Matrix) {
        let places = self.places(part);
        let count = places.len();
        let features = self.features;
        let x = Matrix::from_fn(features.states.rows(), count, |i, j| features.states.at(i, places[j]));
        let inner = weight.multiply(&x);
        let pooled = Matrix::from_fn(inner.rows(), count, |i, j| (inner.at(i, j) + features.bias[i]).tanh());
        let logits = self.head.multiply(&pooled);
        let mut loss = 0.0;
        let mut slopes = vec![0.0; 2 * count];
        for (j, place) in places.iter().enumerate() {
            let label = features.labels[*place];
            let sign = if label == 1 { 1.0 } else { -1.0 };
            // ln(1 + e^{-m}) of the margin m, without overflow.
            let margin = sign * (logits.at(1, j) - logits.at(0, j));
            loss += (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
            let slope = -sign / (1.0 + margin.exp()) / count as f64;
            (slopes[j], slopes[count + j]) = (-slope, slope);
        }
        (loss / count as f64, x, pooled, Matrix::from_fn(2, count, |i, j| slopes[i * count + j]))
    }
}

impl Problem for Mails<'_> {
    fn weights(&self) -> &[Matrix] {
        &self.weights
    }

    fn loss(&self, weights: &[Matrix], part: Part) -> f64 {
        self.forward(&weights[0], part).0
    }

    fn gradients(&self, weights: &[Matrix], batch: u64) -> Vec<Matrix> {
        let (_, x, pooled, slopes) = self.forward(&weights[0], Part::Batch(batch));
        let of_pooled = self.head.transpose().multiply(&slopes);
        let of_inner = of_pooled.zip_with(&pooled, |g, h| g * (1.0 - h * h));
        vec![of_inner.multiply(&x.transpose())]
    }
}
