//! The f64 build of the pass against central differences, for every family and every target module.

use std::path::Path;

use metastable_dynamics::random;
use rayon::prelude::*;
use safetensors::SafeTensors;

use super::{Goal, HeadKind, HeadValues, Keeps, ModuleValues, Pass, Place, Places, Ragged, Slot, Sums};
use crate::linear::Linear;
use crate::model::{Input, Model};

/// Decoders: every choice that the way back has to know (shared keys, norms of queries, windows, biases, rotations).
const DECODERS: [&str; 5] = ["qwen3", "mistral-window", "llama-biases", "gpt2-narrow", "qwen2-window"];

/// Encoders without a kink in their nonlinearity; ALBERT's layers share their adapters.
const ENCODERS: [&str; 5] = ["bert-smooth", "roberta", "xlm-roberta", "distilbert", "albert-groups"];

/// A trained fixture, or one of the random models (tests/golden/families.md says where they come from), two of them with
/// another entry of their configs: a BERT without kinks, a RoBERTa for many languages.
pub(crate) fn fixture(name: &str) -> Model {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    if name.starts_with("tiny") {
        return Model::open(&fixtures.join(name)).unwrap();
    }
    let (name, change) = match name {
        "bert-smooth" => ("bert-relu", Some(("\"hidden_act\": \"relu\"", "\"hidden_act\": \"gelu\""))),
        "xlm-roberta" => ("roberta", Some(("\"model_type\": \"roberta\"", "\"model_type\": \"xlm-roberta\""))),
        other => (other, None),
    };
    let bytes = std::fs::read(fixtures.join("random.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let metadata = SafeTensors::read_metadata(&bytes).unwrap().1;
    let mut config = metadata.metadata().as_ref().unwrap()[name].clone();
    if let Some((from, to)) = change {
        assert!(config.contains(from), "{config}");
        config = config.replace(from, to);
    }
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let prefix = format!("{name}/");
    let own = file.iter().filter_map(|(key, view)| Some((key.strip_prefix(&prefix)?.to_owned(), view)));
    let own: Vec<_> = own.collect();
    std::fs::write(folder.path().join("model.safetensors"), safetensors::serialize(own, None).unwrap()).unwrap();
    Model::open(folder.path()).unwrap()
}

/// Rank 2 at every map of every distinct block; query, key and value joined in one module if asked for.
fn everywhere(model: &Model, joined: bool, dora: bool) -> (Places, Vec<ModuleValues<f64>>) {
    let transformer = model.transformer();
    let map = |block: usize, slot: Slot| transformer.blocks[block].map(slot).unwrap();
    let mut places = Places::none(transformer.blocks.len());
    let mut modules = Vec::new();
    let mut module = |rows: usize, columns: usize, seed: u64| {
        let draw = |seed, n, d, size: f64| {
            random::standard_normal(seed, n, d).into_iter().map(|x| size * x).collect::<Vec<f64>>()
        };
        modules.push(ModuleValues {
            a: draw(seed, 2, columns, 0.1),
            b: draw(seed + 1, rows, 2, 0.1),
            rank: 2,
            scale: 1.5,
            row_factors: dora.then(|| draw(seed + 2, 1, rows, 0.1).iter().map(|x| 1.0 + x).collect()),
        });
        modules.len() - 1
    };
    for (block, frozen) in transformer.blocks.iter().enumerate() {
        let slots =
            Slot::ALL.into_iter().filter(|slot| *slot != Slot::FeedForwardGate || frozen.feed_forward.gate.is_some());
        let inputs = [Slot::Query, Slot::Key, Slot::Value];
        if joined {
            let rows: Vec<usize> = inputs.iter().map(|slot| map(block, *slot).outputs()).collect();
            let index = module(rows.iter().sum(), map(block, Slot::Query).inputs(), 100 * block as u64);
            let mut first_row = 0;
            for (slot, rows) in inputs.into_iter().zip(rows) {
                places.set(block, slot, Place { module: index, first_row, rows });
                first_row += rows;
            }
        }
        for slot in slots.filter(|slot| !joined || !inputs.contains(slot)) {
            let map = map(block, slot);
            let index = module(map.outputs(), map.inputs(), 100 * block as u64 + 10 * slot as u64 + 3);
            places.set(block, slot, Place { module: index, first_row: 0, rows: map.outputs() });
        }
    }
    (places, modules)
}

fn ids(model: &Model, seed: u64, n: usize) -> Vec<u32> {
    let vocab = model.config().vocab as u64;
    (0..n as u64).map(|i| (((seed + i * i * 31 + i * 7) % (vocab - 5)) + 4) as u32).collect()
}

struct Case {
    model: Model,
    places: Places,
    modules: Vec<ModuleValues<f64>>,
    head: Option<HeadValues<f64>>,
    batch: Vec<Vec<u32>>,
}

impl Case {
    fn new(name: &str, joined: bool, dora: bool, head: Option<HeadKind>) -> Self {
        let mut model = fixture(name);
        let (places, modules) = everywhere(&model, joined, dora);
        let hidden = model.config().hidden;
        let draw = |seed, n: usize, d: usize| random::standard_normal(seed, n, d).into_iter().map(|x| 0.3 * x);
        let head = head.map(|kind| HeadValues {
            kind,
            weight: draw(900, 3, hidden).collect(),
            bias: if kind == HeadKind::Pooler { draw(901, 1, 3).collect() } else { Vec::new() },
        });
        let single = |seed, n, d| draw(seed, n, d).map(|x| x as f32).collect();
        let pooler = Linear::from_parts(single(902, hidden, hidden), Some(single(903, 1, hidden)), hidden, hidden);
        model.transformer_mut().heads.pooler.get_or_insert(pooler);
        let batch = vec![ids(&model, 1, 7), ids(&model, 2, 4)];
        Self { model, places, modules, head, batch }
    }

    fn run<T: super::real::Real>(
        &self,
        keeps: Keeps,
        modules: &[ModuleValues<T>],
        head: Option<&HeadValues<T>>,
        sums: Option<Sums<'_, T>>,
    ) -> f64 {
        let pass = Pass::<T>::of(self.model.transformer(), keeps);
        let batch = Ragged { sequences: self.batch.iter().map(Vec::as_slice).collect() };
        // Positions 0..6 of the first sequence, 7..10 of the second: the next token of each but the last.
        let labels: Vec<(usize, u32)> =
            [(0, 1), (1, 2), (2, 3), (4, 5), (7, 8), (9, 10)].map(|(at, next)| (at, self.flat()[next])).into();
        let goal = match head {
            Some(head) => Goal::Classes { labels: &[2, 0], head },
            None => Goal::Tokens(&labels),
        };
        0.25 * pass.run(&batch, &self.places, modules, &goal, 0.25, sums).sum
    }

    fn flat(&self) -> Vec<u32> {
        self.batch.concat()
    }

    fn gradients(&self, keeps: Keeps) -> (f64, Vec<ModuleValues<f64>>, Option<HeadValues<f64>>) {
        let mut modules: Vec<_> = self.modules.iter().map(ModuleValues::zeros_like).collect();
        let mut head = self.head.clone().map(|head| HeadValues {
            weight: vec![0.0; head.weight.len()],
            bias: vec![0.0; head.bias.len()],
            ..head
        });
        let sums = Sums { modules: &mut modules, head: head.as_mut() };
        let loss = self.run(keeps, &self.modules, self.head.as_ref(), Some(sums));
        (loss, modules, head)
    }
}

/// The buffers of a module that are trained.
fn buffers(module: &mut ModuleValues<f64>) -> Vec<(&'static str, &mut Vec<f64>)> {
    let mut buffers = vec![("a", &mut module.a), ("b", &mut module.b)];
    buffers.extend(module.row_factors.as_mut().map(|c| ("c", c)));
    buffers
}

/// Central differences of order two with h = 1e-5: error h²·L'''/6 + eps·L/h, about 1e-10 absolute for losses of a few
/// nats; gradients here are between 1e-4 and 1, hence 1e-6 relative plus 1e-9.
fn agrees(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-6 * expected.abs() + 1e-9
}

/// Every entry of every trained buffer.
fn check(case: &Case) {
    let h = 1e-5;
    let (_, mut gradients, head) = case.gradients(Keeps::Activations);
    let mut entries = Vec::new();
    for (m, gradient) in gradients.iter_mut().enumerate() {
        for (k, (name, gradient)) in buffers(gradient).into_iter().enumerate() {
            assert!(gradient.iter().any(|g| g.abs() > 1e-8), "module {m}, {name}: no gradient arrives");
            // Factors start from random numbers, so not one entry of a gradient is exactly zero by chance.
            assert!(gradient.iter().all(|g| *g != 0.0), "module {m}, {name}: a parameter is left out");
            entries.extend(gradient.iter().enumerate().map(|(entry, found)| (m, k, entry, *found)));
        }
    }
    entries.into_par_iter().for_each(|(m, k, entry, found)| {
        let loss = |delta: f64| {
            let mut modules = case.modules.clone();
            buffers(&mut modules[m])[k].1[entry] += delta;
            case.run(Keeps::Activations, &modules, case.head.as_ref(), None)
        };
        let difference = (loss(h) - loss(-h)) / (2.0 * h);
        assert!(agrees(found, difference), "module {m}, buffer {k}[{entry}]: {found} {difference}");
    });
    let (Some(head), Some(values)) = (head, &case.head) else { return };
    let of_weight = head.weight.iter().enumerate().map(|(entry, found)| (true, entry, *found));
    let of_bias = head.bias.iter().enumerate().map(|(entry, found)| (false, entry, *found));
    for (is_weight, entry, found) in of_weight.chain(of_bias) {
        let loss = |delta: f64| {
            let mut values = values.clone();
            let buffer = if is_weight { &mut values.weight } else { &mut values.bias };
            buffer[entry] += delta;
            case.run(Keeps::Activations, &case.modules, Some(&values), None)
        };
        let difference = (loss(h) - loss(-h)) / (2.0 * h);
        assert!(agrees(found, difference), "head, weight: {is_weight} [{entry}]: {found} {difference}");
    }
}

#[test]
fn gradients_of_every_module_of_decoders_agree_with_central_differences() {
    for name in DECODERS {
        check(&Case::new(name, false, false, None));
    }
    // GPT-2 joins query, key and value in one module.
    check(&Case::new("gpt2-narrow", true, false, None));
}

#[test]
fn gradients_of_classifiers_agree_with_central_differences() {
    for name in ENCODERS {
        check(&Case::new(name, false, false, Some(HeadKind::Pooler)));
    }
    check(&Case::new(DECODERS[0], false, false, Some(HeadKind::Last)));
}

#[test]
fn gradients_of_masked_language_models_agree_with_central_differences() {
    check(&Case::new("tiny-albert", false, false, None));
}

#[test]
fn gradients_under_dora_agree_with_central_differences() {
    check(&Case::new(DECODERS[0], false, true, None));
    check(&Case::new("gpt2-narrow", true, true, None));
}

#[test]
fn recomputation_changes_no_bit() {
    let case = Case::new(DECODERS[0], false, false, None);
    assert_eq!(case.gradients(Keeps::Streams).1, case.gradients(Keeps::Activations).1);
}

#[test]
fn single_precision_gradients_are_the_double_ones_rounded() {
    for name in DECODERS.into_iter().chain(ENCODERS) {
        let head = ENCODERS.contains(&name).then_some(HeadKind::Pooler);
        let case = Case::new(name, false, false, head);
        let (loss, expected, _) = case.gradients(Keeps::Activations);
        let narrow = |values: &Vec<f64>| values.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let modules: Vec<ModuleValues<f32>> = case
            .modules
            .iter()
            .map(|m| ModuleValues {
                a: narrow(&m.a),
                b: narrow(&m.b),
                rank: m.rank,
                scale: m.scale as f32,
                row_factors: None,
            })
            .collect();
        let head =
            case.head.as_ref().map(|h| HeadValues { kind: h.kind, weight: narrow(&h.weight), bias: narrow(&h.bias) });
        let mut sums: Vec<_> = modules.iter().map(ModuleValues::zeros_like).collect();
        let single =
            case.run(Keeps::Activations, &modules, head.as_ref(), Some(Sums { modules: &mut sums, head: None }));
        // Roundings of 1e-7, amplified by norms of tokens that hardly vary (ALBERT: five layers of them), relative to
        // the largest entry: what is shown is that both builds are one formula.
        assert!((single - loss).abs() < 1e-5 * loss, "{name}: {single} {loss}");
        for (found, expected) in sums.iter().zip(&expected) {
            let largest = expected.a.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            for (found, expected) in found.a.iter().zip(&expected.a) {
                assert!((f64::from(*found) - expected).abs() < 1e-3 * largest, "{name}: {found} {expected}");
            }
        }
    }
}

#[test]
fn the_training_forward_is_the_forward() {
    for name in DECODERS {
        let case = Case::new(name, false, false, None);
        let none = Places::none(case.model.transformer().blocks.len());
        let pass = Pass::<f32>::of(case.model.transformer(), Keeps::Activations);
        let ids = &case.batch[0];
        let labels: Vec<(usize, u32)> = (0..ids.len() - 1).map(|i| (i, ids[i + 1])).collect();
        let batch = Ragged { sequences: vec![ids] };
        let found = pass.run(&batch, &none, &[], &Goal::Tokens(&labels), 1.0, None).sum;
        let hidden = case.model.forward(&Input::new(ids.clone()).unwrap()).unwrap();
        let logits = case.model.logits(&hidden).unwrap();
        let vocab = case.model.config().vocab;
        let expected: f64 = labels
            .iter()
            .map(|(i, label)| {
                let row = &logits[i * vocab..(i + 1) * vocab];
                let total: f64 = row.iter().map(|s| f64::from(*s).exp()).sum();
                total.ln() - f64::from(row[*label as usize])
            })
            .sum();
        assert!((found - expected).abs() < 1e-4 * expected, "{name}: {found} {expected}");
    }
}

#[test]
fn two_halves_of_a_batch_add_to_the_whole() {
    for (name, head) in [("roberta", Some(HeadKind::Pooler)), ("tiny-llama", None), ("tiny-gpt2", None)] {
        let case = Case::new(name, false, true, head);
        let pass = Pass::<f64>::of(case.model.transformer(), Keeps::Activations);
        // Ragged, and more tokens than the least that is cut.
        let batch: Vec<Vec<u32>> = (0..36).map(|k| ids(&case.model, k, 7 + k as usize % 4)).collect();
        let flat = batch.concat();
        assert!(flat.len() >= 256);
        let labels: Vec<(usize, u32)> = (0..flat.len()).step_by(3).map(|at| (at, flat[at])).collect();
        let classes: Vec<u32> = (0..36).map(|k| k % 3).collect();
        let goal = match &case.head {
            Some(head) => Goal::Classes { labels: &classes, head },
            None => Goal::Tokens(&labels),
        };
        let run = |halves: bool| {
            let mut modules: Vec<_> = case.modules.iter().map(ModuleValues::zeros_like).collect();
            let mut head = case.head.as_ref().map(HeadValues::zeros_like);
            let sums = Some(Sums { modules: &mut modules, head: head.as_mut() });
            let batch = Ragged { sequences: batch.iter().map(Vec::as_slice).collect() };
            let found = match halves {
                true => pass.run(&batch, &case.places, &case.modules, &goal, 0.5, sums),
                false => pass.run_whole(&batch, &case.places, &case.modules, &goal, 0.5, sums),
            };
            (found, modules, head)
        };
        let ((cut, cut_modules, cut_head), (whole, modules, head)) = (run(true), run(false));
        assert_eq!(cut.correct, whole.correct, "{name}");
        assert!((cut.sum - whole.sum).abs() < 1e-11 * whole.sum, "{name}: {} {}", cut.sum, whole.sum);
        assert_ne!(cut_modules, modules, "{name}: another order of sums leaves its trace, so a cut was made");
        // f64: roundings of 1e-16 along sums of some hundred numbers.
        let close = |found: &[f64], expected: &[f64]| {
            let largest = expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-11 * largest)
        };
        for (found, expected) in cut_modules.iter().zip(&modules) {
            assert!(close(&found.a, &expected.a) && close(&found.b, &expected.b), "{name}");
            assert!(close(found.row_factors.as_deref().unwrap_or(&[]), expected.row_factors.as_deref().unwrap_or(&[])));
        }
        if let (Some(found), Some(expected)) = (cut_head, head) {
            assert!(close(&found.weight, &expected.weight) && close(&found.bias, &expected.bias), "{name}");
        }
    }
}
