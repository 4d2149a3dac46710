//! A LoRA adapter, whatever tool wrote it: factors, scales, magnitudes, and tensors that replace the base's.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::settings::{Settings, scale};
use super::tensor_file::TensorFile;
use crate::error::ModelError;

/// A matrix of f32, row-major, as files hold it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Factor {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// rows·columns values, row after row.
    pub values: Vec<f32>,
}

impl Factor {
    /// Joins a shape and its values.
    ///
    /// # Errors
    /// [`ModelError::Input`] if their numbers differ or a side is 0.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Result<Self, ModelError> {
        if rows == 0 || columns == 0 || rows.checked_mul(columns) != Some(values.len()) {
            let expected = format!("[{rows}, {columns}] with both sides >= 1");
            return Err(ModelError::input("factor", expected, format!("{} values", values.len())));
        }
        Ok(Self { rows, columns, values })
    }

    /// Whether every entry is 0.
    pub fn is_zero(&self) -> bool {
        self.values.iter().all(|value| *value == 0.0)
    }

    /// The transpose.
    pub fn transposed(&self) -> Self {
        let values = (0..self.values.len()).map(|k| self.values[k % self.rows * self.columns + k / self.rows]);
        Self { rows: self.columns, columns: self.rows, values: values.collect() }
    }

    /// The values as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        self.values.iter().map(|value| f64::from(*value)).collect()
    }
}

/// What kind of map a module adapts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleKind {
    /// A linear map; ΔW = scale·B A, [out, in].
    Linear,
    /// An embedding; ΔE = scale·(B A)ᵀ, [vocab, dim]. A is the factor that starts at 0.
    Embedding,
    /// A convolution with these kernel sides, A flattened to [r, in·kernel]; no model here has one.
    Convolution(Vec<usize>),
}

/// The low-rank update of one module, in PEFT's letters: ΔW = scale·B A.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoraModule {
    /// The path in the base model, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// What it adapts.
    pub kind: ModuleKind,
    /// A, [r, in].
    pub a: Factor,
    /// B, [out, r].
    pub b: Factor,
    /// alpha as the config gives it for this module.
    pub alpha: f64,
    /// alpha/r, or alpha/sqrt(r) for rsLoRA.
    pub scale: f64,
    /// DoRA's magnitudes, [out].
    pub magnitude: Option<Vec<f32>>,
    /// A bias that comes with B (`lora_bias`), [out]; it is scaled as the product is.
    pub bias: Option<Vec<f32>>,
}

impl LoraModule {
    /// A linear module with scale alpha/r, or alpha/sqrt(r) for rsLoRA.
    ///
    /// # Errors
    /// [`ModelError::Input`] unless B has as many columns as A has rows, and the scale is finite and not 0.
    ///
    /// # Example
    /// ```
    /// use metastable_model::lora::{Factor, LoraModule};
    /// let a = Factor::new(1, 2, vec![0.0, 1.0])?;
    /// let b = Factor::new(3, 1, vec![1.0, 0.0, -1.0])?;
    /// let module = LoraModule::linear("encoder.layer.0.attention.self.query", a.clone(), b, 16.0, false)?;
    /// assert_eq!((module.rank(), module.scale), (1, 16.0));
    /// assert!(LoraModule::linear("x", a.clone(), a, 16.0, false).is_err());
    /// # Ok::<(), metastable_model::ModelError>(())
    /// ```
    pub fn linear(name: &str, a: Factor, b: Factor, alpha: f64, rslora: bool) -> Result<Self, ModelError> {
        if b.columns != a.rows {
            let expected = format!("[out, {}] for an A of [{}, {}]", a.rows, a.rows, a.columns);
            return Err(ModelError::input("lora_B", expected, format!("[{}, {}]", b.rows, b.columns)));
        }
        let scale = scale(alpha, a.rows, rslora);
        if !scale.is_finite() || scale == 0.0 {
            return Err(ModelError::input("alpha", "a finite number other than 0", alpha));
        }
        Ok(Self { name: name.into(), kind: ModuleKind::Linear, a, b, alpha, scale, magnitude: None, bias: None })
    }

    /// The nominal rank r.
    pub fn rank(&self) -> usize {
        self.a.rows
    }

    /// [out, in] of ΔW.
    pub fn shape(&self) -> [usize; 2] {
        [self.b.rows, self.a.columns]
    }

    /// Numbers in A and B.
    pub fn parameters(&self) -> usize {
        self.a.values.len() + self.b.values.len()
    }
}

/// A tensor that replaces one of the base model's, such as a trained classifier (`modules_to_save`).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WholeTensor {
    /// The name in the base model, such as `classifier.weight`.
    pub name: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Vec<f32>,
}

/// Which tool's names and orientations a file follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// Hugging Face PEFT.
    Peft,
    /// mlx-lm: `lora_a` [in, r], `lora_b` [r, out], scale given directly.
    Mlx,
    /// kohya-ss: `lora_down`, `lora_up`, one `alpha` tensor a module, names joined by underscores.
    Kohya,
}

impl Layout {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Mlx => "mlx",
            Self::Kohya => "kohya",
        }
    }
}

/// A LoRA adapter, read and validated.
///
/// Modules are in natural order of their names (layer 2 before layer 10).
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub(super) folder: PathBuf,
    pub(super) layout: Layout,
    pub(super) modules: Vec<LoraModule>,
    pub(super) whole: Vec<WholeTensor>,
    pub(super) settings: Option<Settings>,
    pub(super) source: Option<Source>,
}

/// The files an adapter came from, kept for lossless writing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    pub(super) config: Vec<u8>,
    pub(super) tensors: TensorFile,
}

/// How forgiving [`Adapter::open`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strictness {
    /// Every finding of severity error refuses the adapter.
    Closed,
    /// What can be used is used; findings are left to the caller.
    Partial,
}

/// An adapter with everything found about it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Survey {
    /// What could be read.
    pub adapter: Adapter,
    /// What is wrong or worth knowing, errors first.
    pub findings: Vec<Finding>,
}

impl Adapter {
    /// Opens an adapter: a folder of PEFT or mlx-lm, or a .safetensors file of kohya's tools. O(size).
    ///
    /// A folder without an adapter_config.json of its own but with exactly one sub-folder that has one (PEFT's
    /// non-default adapter names) means that sub-folder. Nothing is ever unpickled.
    ///
    /// # Errors
    /// [`ModelError`] of kind `Input` naming the file, key or tensor; with [`Strictness::Closed`] also
    /// [`ModelError::Adapter`] for the first finding that would make the adapter do something else than its files say.
    ///
    /// # Example
    /// ```no_run
    /// use std::path::Path;
    /// use metastable_model::lora::{Adapter, Strictness};
    /// let adapter = Adapter::open(Path::new("my-adapter"), Strictness::Closed)?;
    /// for module in adapter.modules() {
    ///     println!("{}: rank {}, scale {}", module.name, module.rank(), module.scale);
    /// }
    /// # Ok::<(), metastable_model::ModelError>(())
    /// ```
    pub fn open(path: &Path, strictness: Strictness) -> Result<Self, ModelError> {
        let survey = Self::survey(path)?;
        if strictness == Strictness::Closed {
            survey.require_sound()?;
        }
        Ok(survey.adapter)
    }

    /// Reads what can be read and says everything that is wrong with it.
    ///
    /// # Errors
    /// [`ModelError`] only where nothing can be read: absent, truncated or pickled files, a config that is no LoRA.
    pub fn survey(path: &Path) -> Result<Survey, ModelError> {
        let mut survey = super::locate::survey(path)?;
        survey.findings.sort_by_key(|finding| finding.severity);
        Ok(survey)
    }

    /// Where it was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Which tool's files it came from.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The adapted modules.
    pub fn modules(&self) -> &[LoraModule] {
        &self.modules
    }

    /// Tensors that replace the base model's.
    pub fn whole_tensors(&self) -> &[WholeTensor] {
        &self.whole
    }

    /// The base model as the adapter names it; often a path of somebody else's machine, never to be trusted.
    pub fn base(&self) -> Option<&str> {
        self.settings.as_ref().and_then(|settings| settings.base.as_deref())
    }

    /// PEFT's `task_type`.
    pub fn task(&self) -> Option<&str> {
        self.settings.as_ref().and_then(|settings| settings.task.as_deref())
    }

    /// The same adapter with every scale multiplied by `factor`.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let mut scaled = self.clone();
        for module in &mut scaled.modules {
            module.alpha *= factor;
            module.scale *= factor;
        }
        scaled.source = None;
        scaled
    }
}

impl Survey {
    /// Refuses an adapter with a finding of severity error.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] with the first such finding and the number of others.
    pub fn require_sound(&self) -> Result<(), ModelError> {
        let mut errors = self.findings.iter().filter(|finding| finding.severity == super::Severity::Error);
        let Some(first) = errors.next() else { return Ok(()) };
        Err(ModelError::Adapter {
            path: self.adapter.folder.clone(),
            finding: first.to_string(),
            others: errors.count(),
        })
    }
}

/// A key by which `layer.2` stands before `layer.10`: runs of digits compare as numbers.
pub(super) fn natural_key(name: &str) -> Vec<(String, u64)> {
    let mut parts: Vec<(String, u64)> = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((text.into(), number.parse().unwrap_or(0)));
        rest = tail;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["layers.10.q", "layers.2.v", "layers.2.q"];
        names.sort_by_key(|name| natural_key(name));
        assert_eq!(names, ["layers.2.q", "layers.2.v", "layers.10.q"]);
    }

    #[test]
    fn the_transpose_of_the_transpose_is_the_matrix() {
        let factor = Factor::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(factor.transposed().values, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(factor.transposed().transposed(), factor);
    }
}
