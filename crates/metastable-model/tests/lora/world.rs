//! A small adapter that tests can break in every way before it is written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use metastable_model::ModelError;
use metastable_model::lora::{Adapter, Severity, Strictness, Survey};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Config and tensors as they will be written.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) config: Value,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

pub(crate) const PREFIX: &str = "base_model.model.";
pub(crate) const QUERY_A: &str = "base_model.model.layers.0.q_proj.lora_A.weight";
pub(crate) const QUERY_B: &str = "base_model.model.layers.0.q_proj.lora_B.weight";

/// Numbers in [-1, 1] that repeat nowhere soon (splitmix64, S. Vigna).
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

impl World {
    /// Query and value of two layers: A [3, 8], B [6, 3].
    pub(crate) fn new() -> Self {
        let config = json!({
            "peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"],
            "task_type": "CAUSAL_LM", "base_model_name_or_path": "nowhere", "rank_pattern": {}, "alpha_pattern": {},
        });
        let mut world = Self { config, tensors: BTreeMap::new() };
        for (seed, module) in
            ["layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"].iter().enumerate()
        {
            world.add(&format!("{PREFIX}{module}.lora_A.weight"), &[3, 8], 2 * seed as u64);
            world.add(&format!("{PREFIX}{module}.lora_B.weight"), &[6, 3], 2 * seed as u64 + 1);
        }
        world
    }

    pub(crate) fn add(&mut self, name: &str, shape: &[usize], seed: u64) {
        self.tensors.insert(name.into(), (shape.to_vec(), noise(seed, shape.iter().product())));
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let tensor = self.tensors.remove(from).unwrap();
        self.tensors.insert(to.into(), tensor);
    }

    pub(crate) fn values(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.tensors.get_mut(name).unwrap().1
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_as(Dtype::F32, |value| value.to_le_bytes().to_vec())
    }

    pub(crate) fn bytes_as(&self, dtype: Dtype, encode: impl Fn(f32) -> Vec<u8>) -> Vec<u8> {
        let data: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|value| encode(*value)).collect()))
            .collect();
        let views =
            data.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.to_vec(), data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    pub(crate) fn write(&self) -> TempDir {
        self.write_with(&self.bytes())
    }

    pub(crate) fn write_with(&self, weights: &[u8]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("adapter_config.json"), self.config.to_string()).unwrap();
        fs::write(folder.path().join("adapter_model.safetensors"), weights).unwrap();
        folder
    }

    pub(crate) fn survey(&self) -> Survey {
        Adapter::survey(self.write().path()).unwrap()
    }

    /// The stable names of the errors found.
    pub(crate) fn errors(&self) -> Vec<&'static str> {
        errors(&self.survey())
    }

    pub(crate) fn open(&self) -> Result<Adapter, ModelError> {
        Adapter::open(self.write().path(), Strictness::Closed)
    }
}

pub(crate) fn errors(survey: &Survey) -> Vec<&'static str> {
    let errors = survey.findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| finding.code.name()).collect()
}

/// A folder of this crate's tests.
pub(crate) fn stored(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// The product scale·B A in f64 by plain loops.
pub(crate) fn product(module: &metastable_model::lora::LoraModule) -> Vec<f64> {
    let (out, inputs, r) = (module.b.rows, module.a.columns, module.rank());
    let mut product = vec![0.0; out * inputs];
    for i in 0..out {
        for j in 0..inputs {
            product[i * inputs + j] = (0..r)
                .map(|k| {
                    module.scale * f64::from(module.b.values[i * r + k]) * f64::from(module.a.values[k * inputs + j])
                })
                .sum();
        }
    }
    product
}
