//! A tiny BERT with seeded random weights in a temporary folder, and its forward pass in naive f64.

use std::collections::BTreeMap;

use metastable_model::{Model, ModelError};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocab: usize,
    pub(crate) positions: usize,
}

/// More than one block of 128 tokens and two of 64 queries, and no side a multiple of a vector's width.
pub(crate) const SMALL: Shape = Shape { layers: 3, hidden: 21, heads: 3, intermediate: 37, vocab: 50, positions: 150 };

/// Config and weights as they will be written.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) shape: Shape,
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// splitmix64 (S. Vigna), as numbers in [-1, 1).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn ids(&mut self, n: usize, vocab: usize) -> Vec<u32> {
        (0..n).map(|_| ((self.next() + 1.0) * 0.5 * vocab as f32) as u32).collect()
    }
}

impl World {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut world = Self { shape, config: config(shape), tensors: BTreeMap::new() };
        let mut noise = Noise(7);
        let d = shape.hidden;
        for (name, rows) in
            [("word_embeddings", shape.vocab), ("position_embeddings", shape.positions), ("token_type_embeddings", 2)]
        {
            world.add(&format!("embeddings.{name}.weight"), &[rows, d], 1.0, 0.0, &mut noise);
        }
        world.add_norm("embeddings.LayerNorm", &mut noise);
        for layer in 0..shape.layers {
            let layer = format!("encoder.layer.{layer}");
            for (name, rows, columns) in [
                ("attention.self.query", d, d),
                ("attention.self.key", d, d),
                ("attention.self.value", d, d),
                ("attention.output.dense", d, d),
                ("intermediate.dense", shape.intermediate, d),
                ("output.dense", d, shape.intermediate),
            ] {
                // Entries of deviation near 1/sqrt(columns)·√2: signals keep their size, attention is not flat.
                let size = (6.0 / columns as f32).sqrt();
                world.add(&format!("{layer}.{name}.weight"), &[rows, columns], size, 0.0, &mut noise);
                world.add(&format!("{layer}.{name}.bias"), &[rows], 0.3, 0.0, &mut noise);
            }
            world.add_norm(&format!("{layer}.attention.output.LayerNorm"), &mut noise);
            world.add_norm(&format!("{layer}.output.LayerNorm"), &mut noise);
        }
        world
    }

    fn add(&mut self, name: &str, shape: &[usize], size: f32, offset: f32, noise: &mut Noise) {
        let values = (0..shape.iter().product()).map(|_| offset + size * noise.next()).collect();
        self.tensors.insert(name.into(), (shape.to_vec(), values));
    }

    fn add_norm(&mut self, name: &str, noise: &mut Noise) {
        let d = self.shape.hidden;
        self.add(&format!("{name}.weight"), &[d], 0.5, 1.0, noise);
        self.add(&format!("{name}.bias"), &[d], 0.3, 0.0, noise);
    }

    pub(crate) fn fill(&mut self, ending: &str, value: f32) {
        let matching = self.tensors.iter_mut().filter(|(name, _)| name.ends_with(ending));
        matching.for_each(|(_, (_, values))| values.fill(value));
    }

    pub(crate) fn rename(&mut self, rename: impl Fn(&str) -> String) {
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    }

    pub(crate) fn write(&self) -> TempDir {
        self.write_as(Dtype::F32, |value| value.to_le_bytes().to_vec())
    }

    pub(crate) fn write_as(&self, dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        let data: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| bytes(*v)).collect()))
            .collect();
        let views =
            data.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.to_vec(), data).unwrap()));
        let file = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        folder
    }

    pub(crate) fn open(&self) -> Result<Model, ModelError> {
        Model::open(self.write().path())
    }

    fn get(&self, name: &str) -> Vec<f64> {
        self.tensors[name].1.iter().map(|v| f64::from(*v)).collect()
    }

    /// Hidden states of all levels in f64, by loops that follow the formulas word by word.
    pub(crate) fn naive_forward(&self, ids: &[u32], keep: &[bool]) -> Vec<Vec<Vec<f64>>> {
        let d = self.shape.hidden;
        let [word, position, segment] = ["word_embeddings", "position_embeddings", "token_type_embeddings"]
            .map(|name| self.get(&format!("embeddings.{name}.weight")));
        let embed = |(i, id): (usize, &u32)| {
            (0..d).map(|c| word[*id as usize * d + c] + position[i * d + c] + segment[c]).collect()
        };
        let mut tokens: Vec<Vec<f64>> = ids.iter().enumerate().map(embed).collect();
        tokens = tokens.iter().map(|x| self.norm("embeddings.LayerNorm", x)).collect();
        let mut levels = vec![tokens.clone()];
        for layer in 0..self.shape.layers {
            tokens = self.naive_block(&format!("encoder.layer.{layer}"), &tokens, keep);
            levels.push(tokens.clone());
        }
        levels
    }

    fn naive_block(&self, layer: &str, tokens: &[Vec<f64>], keep: &[bool]) -> Vec<Vec<f64>> {
        let messages = self.naive_attention(layer, tokens, keep);
        let mut next = Vec::new();
        for (x, message) in tokens.iter().zip(messages) {
            let attended = self.linear(&format!("{layer}.attention.output.dense"), &message);
            let x = self.norm(&format!("{layer}.attention.output.LayerNorm"), &add(x, &attended));
            let inner = self.linear(&format!("{layer}.intermediate.dense"), &x);
            let inner: Vec<f64> = inner.iter().map(|v| gelu(*v)).collect();
            let update = self.linear(&format!("{layer}.output.dense"), &inner);
            next.push(self.norm(&format!("{layer}.output.LayerNorm"), &add(&x, &update)));
        }
        next
    }

    fn naive_attention(&self, layer: &str, tokens: &[Vec<f64>], keep: &[bool]) -> Vec<Vec<f64>> {
        let k = self.shape.hidden / self.shape.heads;
        let [query, key, value] = ["query", "key", "value"].map(|name| -> Vec<Vec<f64>> {
            tokens.iter().map(|x| self.linear(&format!("{layer}.attention.self.{name}"), x)).collect()
        });
        let mut messages = vec![vec![0.0; self.shape.hidden]; tokens.len()];
        for h in 0..self.shape.heads {
            let part = h * k..(h + 1) * k;
            for i in 0..tokens.len() {
                let weights = naive_softmax(&query[i][part.clone()], key.iter().map(|y| &y[part.clone()]), keep);
                for c in part.clone() {
                    messages[i][c] = weights.iter().zip(&value).map(|(w, v)| w * v[c]).sum();
                }
            }
        }
        messages
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = self.get(&format!("{name}.weight"));
        let rows = weight.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>());
        rows.zip(self.get(&format!("{name}.bias"))).map(|(y, b)| y + b).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let (gain, bias) = (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let scaled = x.iter().map(|v| (v - mean) / (variance + 1e-12).sqrt());
        scaled.zip(gain).zip(bias).map(|((v, g), b)| v * g + b).collect()
    }
}

fn config(shape: Shape) -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.positions, "type_vocab_size": 2,
    })
}

/// Softmax of <q, k_j>/sqrt(k) over the kept j.
pub(crate) fn naive_softmax<'a>(query: &[f64], keys: impl Iterator<Item = &'a [f64]>, keep: &[bool]) -> Vec<f64> {
    let score = |key: &[f64]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / (query.len() as f64).sqrt();
    let weights: Vec<f64> = keys.zip(keep).map(|(key, keep)| if *keep { score(key).exp() } else { 0.0 }).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// x Φ(x) with erf by its series without cancellation (Abramowitz & Stegun 7.1.6).
fn gelu(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let mut term = z;
    let mut sum = 0.0;
    for k in 1..300 {
        sum += term;
        term *= 2.0 * z * z / f64::from(2 * k + 1);
    }
    let erf = 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum;
    0.5 * x * (1.0 + erf.copysign(x))
}

/// The largest |found - expected| between a level [n, d] and naive tokens.
pub(crate) fn distance(found: &[f32], expected: &[Vec<f64>]) -> f64 {
    let expected = expected.iter().flatten();
    assert_eq!(found.len(), expected.clone().count());
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}
