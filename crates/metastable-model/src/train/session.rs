//! A training session: a model, its adapters, and batches; one optimizer step at a time.

use metastable_dynamics::{DynamicsError, Matrix, random};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::{Family, OutputHead};
use crate::error::ModelError;
use crate::lora::{Adapter, WholeTensor};
use crate::model::Model;
use crate::train::adapted::{Adapted, Diagnostics, Trained, diagnose};
use crate::train::base::{Base, MatrixMoments};
use crate::train::clip::clip;
use crate::train::init::Init;
use crate::train::method::Method;
use crate::train::targets::{TargetModules, chosen, places};
use crate::transformer::reverse::{
    Goal, HeadKind, HeadValues, Keeps, Likelihood, ModuleValues, Pass, Places, Ragged, Sums,
};

/// What is trained, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionSettings {
    /// What the labels are.
    pub task: Task,
    /// Which maps get an adapter.
    pub targets: TargetModules,
    /// r.
    pub rank: usize,
    /// alpha.
    pub alpha: f64,
    /// Whether the scale is alpha/sqrt(r).
    pub rslora: bool,
    /// Where pairs start.
    pub init: Init,
    /// Whether rows keep a trained length (DoRA).
    pub dora: bool,
    /// The method.
    pub method: Method,
    /// What moves factors along gradients.
    pub base: Base,
    /// The decoupled weight decay.
    pub weight_decay: f64,
    /// The global norm that gradients are clipped to; 0 for none.
    pub max_grad_norm: f64,
    /// Whether activations are made a second time instead of being kept.
    pub recompute: bool,
    /// Of the starting points.
    pub seed: u64,
}

impl SessionSettings {
    /// s.
    pub fn scale(&self) -> f64 {
        let r = self.rank as f64;
        if self.rslora { self.alpha / r.sqrt() } else { self.alpha / r }
    }
}

/// What the labels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The next token.
    CausalLm,
    /// Hidden tokens.
    MaskedLm,
    /// One of so many classes for a text.
    Classification(usize),
}

/// A sequence and its labels: (position, id) for language models, (0, class) for classification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// What is to be predicted where.
    pub labels: Vec<(usize, u32)>,
}

/// The outcome of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The mean loss over the labels of the batch, before the step.
    pub loss: f64,
    /// The global gradient norm, before clipping.
    pub grad_norm: f64,
    /// Whether it was clipped.
    pub clipped: bool,
    /// Modules whose projection was due and not made.
    pub skipped: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
}

/// The loss on held-out examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The mean over labels.
    pub loss: f64,
    /// The share of labels with the highest score.
    pub accuracy: f64,
    /// Labels.
    pub labels: usize,
}

/// All that changes in a session; a session of the same settings that takes it up continues to the bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionState {
    modules: Vec<Trained>,
    head: Option<TrainedHead>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TrainedHead {
    weight: Matrix,
    bias: Option<Matrix>,
    moments: MatrixMoments,
    bias_moments: Option<MatrixMoments>,
}

/// A model with adapters in training.
#[derive(Debug, Clone)]
pub struct Session {
    model: Model,
    settings: SessionSettings,
    places: Places,
    modules: Vec<Adapted>,
    head: Option<(HeadKind, TrainedHead)>,
}

impl Session {
    /// Puts adapters on a model.
    ///
    /// # Errors
    /// [`ModelError::NoTarget`] with the names there are; [`ModelError::Input`] if the rank is larger than a side, or the
    /// task not for this model.
    pub fn new(mut model: Model, settings: SessionSettings) -> Result<Self, ModelError> {
        let head = head(&model, &settings)?;
        let candidates = chosen(model.transformer(), &settings.targets)?;
        let places = places(model.transformer(), &candidates);
        let transformer = model.transformer_mut();
        let start = |(index, candidate)| Adapted::start(transformer, candidate, index, &settings);
        let modules = candidates.into_iter().enumerate().map(start).collect::<Result<_, _>>()?;
        Ok(Self { model, settings, places, modules, head })
    }

    /// The model under the adapters.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The names of the adapted modules.
    pub fn module_names(&self) -> Vec<&str> {
        self.modules.iter().map(|module| module.candidate.name.as_str()).collect()
    }

    /// Replaces the initial A of a module.
    #[cfg(test)]
    pub(crate) fn start_from(&mut self, name: &str, a: Vec<f64>) {
        let module = self.modules.iter_mut().find(|module| module.candidate.name == name).unwrap();
        module.set_a(a);
    }

    /// How many numbers are trained.
    pub fn parameters(&self) -> usize {
        let module = |module: &Adapted| self.settings.rank * (module.candidate.inputs + module.candidate.outputs);
        let head = self.head.as_ref().map_or(0, |(_, head)| {
            head.weight.as_slice().len() + head.bias.as_ref().map_or(0, |bias| bias.as_slice().len())
        });
        self.modules.iter().map(module).sum::<usize>() + head
    }

    /// One optimizer step on the examples of several micro-batches; the loss is the mean over all their labels.
    ///
    /// # Errors
    /// [`ModelError::Diverged`] if the loss or a gradient is not finite: nothing has changed then.
    pub fn step(&mut self, batches: &[Vec<&Example>], rate: f64) -> Result<StepReport, ModelError> {
        let labels: usize = batches.iter().flatten().map(|example| example.labels.len()).sum();
        let values = self.values()?;
        let mut sums: Vec<_> = values.iter().map(ModuleValues::zeros_like).collect();
        let head = self.head_values();
        let mut head_sums = head.as_ref().map(|head| HeadValues {
            kind: head.kind,
            weight: vec![0.0; head.weight.len()],
            bias: vec![0.0; head.bias.len()],
        });
        let weight = 1.0 / labels.max(1) as f64;
        let mut total = 0.0;
        for batch in batches {
            let into = Sums { modules: &mut sums, head: head_sums.as_mut() };
            total += self.run(batch, &values, head.as_ref(), weight, Some(into)).sum;
        }
        let loss = total * weight;
        require_finite("the loss", loss)?;
        for (module, sum) in self.modules.iter().zip(&mut sums) {
            module.finish_gradient(self.model.transformer(), sum)?;
        }
        let grad_norm = squared_norm(&sums, head_sums.as_ref()).sqrt();
        require_finite("the gradient's norm", grad_norm)?;
        let factor = clip(grad_norm, self.settings.max_grad_norm);
        let skipped = self.update(&sums, head_sums.as_ref(), factor, rate)?;
        let tokens = batches.iter().flatten().map(|example| example.ids.len()).sum();
        Ok(StepReport { loss, grad_norm, clipped: factor < 1.0, skipped, tokens })
    }

    fn update(
        &mut self,
        sums: &[ModuleValues<f32>],
        head_sums: Option<&HeadValues<f32>>,
        factor: f64,
        rate: f64,
    ) -> Result<usize, ModelError> {
        let (decay, base) = (self.settings.weight_decay, self.settings.base);
        let step = |(module, sum): (&mut Adapted, &ModuleValues<f32>)| module.step(sum, factor, (rate, decay), base);
        // On copies: a step that overflows somewhere is made nowhere.
        let (mut modules, mut head) = (self.modules.clone(), self.head.clone());
        let skips: Vec<_> = modules.par_iter_mut().zip(sums).map(step).collect::<Result<_, _>>().map_err(overflow)?;
        if let (Some((_, head)), Some(sums)) = (&mut head, head_sums) {
            head.step(sums, factor, (rate, decay), base).map_err(overflow)?;
        }
        (self.modules, self.head) = (modules, head);
        Ok(skips.iter().flatten().count())
    }

    /// The loss on examples, `batch_size` at a time.
    ///
    /// # Errors
    /// [`ModelError::Diverged`] if it is not finite.
    pub fn evaluate(&self, examples: &[Example], batch_size: usize) -> Result<Evaluation, ModelError> {
        let (values, head) = (self.values()?, self.head_values());
        let (mut total, mut labels) = (Likelihood::default(), 0);
        for batch in examples.chunks(batch_size.max(1)) {
            let batch: Vec<&Example> = batch.iter().collect();
            let found = self.run(&batch, &values, head.as_ref(), 1.0, None);
            total.sum += found.sum;
            total.correct += found.correct;
            labels += batch.iter().map(|example| example.labels.len()).sum::<usize>();
        }
        let count = labels.max(1) as f64;
        require_finite("the evaluation loss", total.sum)?;
        Ok(Evaluation { loss: total.sum / count, accuracy: total.correct as f64 / count, labels })
    }

    /// What training has done to the modules so far.
    ///
    /// # Errors
    /// [`ModelError::Mathematics`] if a decomposition does not converge.
    pub fn diagnostics(&self) -> Result<Diagnostics, ModelError> {
        Ok(diagnose(&self.modules)?)
    }

    /// All that changes.
    pub fn state(&self) -> SessionState {
        SessionState {
            modules: self.modules.iter().map(|module| module.trained.clone()).collect(),
            head: self.head.as_ref().map(|(_, head)| head.clone()),
        }
    }

    /// Takes up where [`Session::state`] was taken.
    ///
    /// # Errors
    /// [`ModelError::Input`] if the state is of other modules.
    pub fn restore(&mut self, state: SessionState) -> Result<(), ModelError> {
        if state.modules.len() != self.modules.len() || state.head.is_some() != self.head.is_some() {
            return Err(ModelError::input("state", format!("{} modules", self.modules.len()), state.modules.len()));
        }
        for (module, trained) in self.modules.iter_mut().zip(state.modules) {
            module.trained = trained;
        }
        if let (Some((_, head)), Some(trained)) = (&mut self.head, state.head) {
            *head = trained;
        }
        Ok(())
    }

    /// The adapter as PEFT stores it, with the trained head beside it; `base` is the name of the model. Of a GGUF
    /// file, which PEFT cannot load, the files name the checkpoint that it was made of instead, or none.
    ///
    /// # Errors
    /// [`ModelError::Input`] if a factor cannot be stored.
    pub fn adapter(&self, base: &str) -> Result<Adapter, ModelError> {
        let (alpha, rslora) = (self.settings.alpha, self.settings.rslora);
        let modules = self.modules.iter().map(|module| module.exported(alpha, rslora)).collect::<Result<_, _>>()?;
        let whole = self.head.as_ref().map(|(kind, head)| head.exported(*kind)).unwrap_or_default();
        let task = match self.settings.task {
            Task::CausalLm => Some("CAUSAL_LM"),
            Task::Classification(_) => Some("SEQ_CLS"),
            Task::MaskedLm => None,
        };
        let base = self.model.name_for_peft(base);
        Ok(Adapter::from_modules(modules, whole, rslora, base.as_deref(), task))
    }

    fn values(&self) -> Result<Vec<ModuleValues<f32>>, ModelError> {
        self.modules.iter().map(|module| module.values(self.model.transformer())).collect()
    }

    fn head_values(&self) -> Option<HeadValues<f32>> {
        let narrow = |m: &Matrix| m.as_slice().iter().map(|x| *x as f32).collect::<Vec<f32>>();
        self.head.as_ref().map(|(kind, head)| HeadValues {
            kind: *kind,
            weight: narrow(&head.weight),
            bias: head.bias.as_ref().map(narrow).unwrap_or_default(),
        })
    }

    fn run(
        &self,
        batch: &[&Example],
        values: &[ModuleValues<f32>],
        head: Option<&HeadValues<f32>>,
        weight: f64,
        sums: Option<Sums<'_, f32>>,
    ) -> Likelihood {
        let keeps = if self.settings.recompute { Keeps::Streams } else { Keeps::Activations };
        let pass = Pass::<f32>::of(self.model.transformer(), keeps);
        let ragged = Ragged { sequences: batch.iter().map(|example| example.ids.as_slice()).collect() };
        let mut first = 0;
        let mut labels = Vec::new();
        for example in batch {
            labels.extend(example.labels.iter().map(|(position, id)| (first + position, *id)));
            first += example.ids.len();
        }
        let classes: Vec<u32> = labels.iter().map(|(_, class)| *class).collect();
        let goal = match head {
            Some(head) => Goal::Classes { labels: &classes, head },
            None => Goal::Tokens(&labels),
        };
        pass.run(&ragged, &self.places, values, &goal, weight, sums)
    }
}

impl TrainedHead {
    /// Normal with deviation 0.02 and no bias, as `transformers` starts its heads.
    fn start(classes: usize, hidden: usize, biased: bool, seed: u64) -> Self {
        let draws = random::standard_normal(seed ^ 0x6865_6164, classes, hidden);
        let weight = Matrix::from_fn(classes, hidden, |i, j| 0.02 * draws[i * hidden + j]);
        let bias = biased.then(|| Matrix::from_fn(1, classes, |_, _| 0.0));
        let bias_moments = bias.as_ref().map(MatrixMoments::zero);
        Self { moments: MatrixMoments::zero(&weight), weight, bias, bias_moments }
    }

    fn step(
        &mut self,
        sums: &HeadValues<f32>,
        factor: f64,
        (rate, decay): (f64, f64),
        base: Base,
    ) -> Result<(), ModelError> {
        let widen = |values: &[f32], like: &Matrix| {
            let values = values.iter().map(|x| factor * f64::from(*x)).collect();
            Matrix::new("gradient of the head", like.rows(), like.columns(), values)
        };
        self.weight =
            base.step_matrix(&self.weight, &widen(&sums.weight, &self.weight)?, rate, decay, &mut self.moments);
        if let (Some(bias), Some(moments)) = (&mut self.bias, &mut self.bias_moments) {
            *bias = base.step_matrix(bias, &widen(&sums.bias, bias)?, rate, decay, moments);
        }
        Ok(())
    }

    fn exported(&self, kind: HeadKind) -> Vec<WholeTensor> {
        let name = match kind {
            HeadKind::Pooler => "classifier",
            HeadKind::Last => "score",
        };
        let tensor = |end: &str, shape: Vec<usize>, m: &Matrix| WholeTensor {
            name: format!("{name}.{end}"),
            shape,
            values: m.as_slice().iter().map(|x| *x as f32).collect(),
        };
        let shape = vec![self.weight.rows(), self.weight.columns()];
        let bias = self.bias.as_ref().map(|bias| tensor("bias", vec![bias.columns()], bias));
        std::iter::once(tensor("weight", shape, &self.weight)).chain(bias).collect()
    }
}

/// The trained head that the task needs on this model.
fn head(model: &Model, settings: &SessionSettings) -> Result<Option<(HeadKind, TrainedHead)>, ModelError> {
    let (config, transformer) = (model.config(), model.transformer());
    let refuse = |expected: &str| ModelError::input("task", expected, format!("a {} model", config.family.name()));
    match settings.task {
        Task::CausalLm if config.output == OutputHead::None || transformer.output_map().is_none() => {
            Err(refuse("a decoder with its output map for causal_lm"))
        }
        Task::MaskedLm if transformer.heads.masked.is_none() => {
            Err(refuse("an encoder saved with its masked language model head for masked_lm"))
        }
        Task::Classification(classes) if classes < 2 => Err(ModelError::input("labels", "at least 2 classes", classes)),
        Task::CausalLm | Task::MaskedLm => Ok(None),
        Task::Classification(classes) => {
            let kind = match config.family {
                Family::Bert | Family::Albert if transformer.heads.pooler.is_some() => HeadKind::Pooler,
                Family::Gpt2 | Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => HeadKind::Last,
                _ => return Err(refuse("a decoder, or a BERT or ALBERT with its pooler, for classification")),
            };
            let biased = kind == HeadKind::Pooler;
            Ok(Some((kind, TrainedHead::start(classes, config.hidden, biased, settings.seed))))
        }
    }
}

fn squared_norm(sums: &[ModuleValues<f32>], head: Option<&HeadValues<f32>>) -> f64 {
    let square = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let modules =
        sums.iter().map(|sum| square(&sum.a) + square(&sum.b) + sum.row_factors.as_deref().map_or(0.0, square));
    modules.sum::<f64>() + head.map_or(0.0, |head| square(&head.weight) + square(&head.bias))
}

/// A factor that leaves the finite numbers is a divergence, not a mistake of somebody's file.
fn overflow(error: ModelError) -> ModelError {
    match error {
        ModelError::Mathematics(DynamicsError::NotFinite { name, value, .. }) => {
            ModelError::Diverged { what: format!("a number of `{name}`"), value }
        }
        other => other,
    }
}

fn require_finite(what: &str, value: f64) -> Result<(), ModelError> {
    if value.is_finite() { Ok(()) } else { Err(ModelError::Diverged { what: what.into(), value }) }
}
