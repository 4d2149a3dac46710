//! What PEFT writes is what we read; what we write is what PEFT would have written.

use std::fs;

use metastable_model::lora::{
    Adapter, Factor, Layout, LoraModule, ModuleKind, PeftFiles, Status, Strictness, WholeTensor,
};
use serde_json::json;

use crate::world::{QUERY_A, World, errors, noise, stored};

/// Adapters that the real library wrote: see tests/golden/adapters/README.md.
const REAL: [&str; 7] = [
    "golden/adapters/llama-patterns",
    "golden/adapters/llama-dora",
    "golden/adapters/llama-embedding",
    "golden/adapters/gpt2-conv1d",
    "golden/adapters/gpt2-dora",
    "golden/adapters/gpt2-bias",
    "golden/adapters/albert-shared",
];

#[test]
fn adapters_of_the_real_library_are_sound_and_are_written_back_to_the_bit() {
    for name in REAL.iter().chain(&["fixtures/minilm-spam-lora"]) {
        let folder = stored(name);
        let survey = Adapter::survey(&folder).unwrap();
        assert_eq!(errors(&survey), [""; 0], "{name}: {:?}", survey.findings);
        let files = survey.adapter.to_peft().unwrap();
        assert!(files.config == fs::read(folder.join(PeftFiles::CONFIG)).unwrap(), "{name}");
        assert!(files.tensors == fs::read(folder.join(PeftFiles::WEIGHTS)).unwrap(), "{name}");
    }
}

#[test]
fn the_spam_adapter_is_what_its_note_says() {
    let adapter = Adapter::open(&stored("fixtures/minilm-spam-lora"), Strictness::Closed).unwrap();
    assert_eq!((adapter.modules().len(), adapter.layout(), adapter.task()), (12, Layout::Peft, Some("SEQ_CLS")));
    let first = &adapter.modules()[0];
    assert_eq!(first.name, "bert.encoder.layer.0.attention.self.query");
    assert_eq!((first.rank(), first.alpha, first.scale, first.shape()), (8, 16.0, 2.0, [384, 384]));
    let whole: Vec<&str> = adapter.whole_tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(whole, ["classifier.bias", "classifier.weight"]);
    // 74,498 trainable numbers: the adapter's note; 384·2 + 2 of them are the classifier.
    let numbers: usize = adapter.modules().iter().map(LoraModule::parameters).sum();
    assert_eq!(numbers + 770, 74_498);
    assert!(adapter.modules().iter().all(|module| module.spectrum().unwrap().status == Status::Ok));
}

#[test]
fn patterns_set_ranks_and_scales_module_by_module_in_file_order() {
    let adapter = Adapter::open(&stored("golden/adapters/llama-patterns"), Strictness::Closed).unwrap();
    let of = |name: &str| adapter.modules().iter().find(|module| module.name.ends_with(name)).unwrap();
    // rsLoRA: alpha/sqrt(r), alpha = 6.5 unless a pattern says otherwise.
    let cases = [
        ("layers.0.self_attn.q_proj", 5, 6.5),
        ("layers.1.self_attn.q_proj", 2, 6.5),
        ("layers.1.self_attn.k_proj", 4, 6.5),
        ("layers.0.mlp.down_proj", 3, 1.25),
        ("layers.3.mlp.up_proj", 4, 9.0),
        ("layers.3.mlp.gate_proj", 4, 6.5),
    ];
    for (name, rank, alpha) in cases {
        let module = of(name);
        assert_eq!((module.rank(), module.alpha), (rank, alpha), "{name}");
        assert!((module.scale - alpha / (rank as f64).sqrt()).abs() < 1e-15, "{name}");
    }
    assert_eq!(adapter.modules().len(), 28);
}

#[test]
fn every_kind_of_tensor_finds_its_place() {
    let open = |name: &str| Adapter::open(&stored(&format!("golden/adapters/{name}")), Strictness::Closed).unwrap();
    let embedding = open("llama-embedding");
    let first = &embedding.modules()[0];
    assert_eq!(
        (first.name.as_str(), &first.kind, first.shape()),
        ("model.embed_tokens", &ModuleKind::Embedding, [64, 512])
    );
    let whole: Vec<&str> = embedding.whole_tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert!(
        whole.contains(&"model.norm.weight") && whole.contains(&"model.embed_tokens.base_layer.weight"),
        "{whole:?}"
    );
    assert!(open("llama-dora").modules().iter().all(|m| m.magnitude.as_ref().unwrap().len() == m.b.rows));
    assert!(open("gpt2-bias").modules().iter().all(|m| m.bias.as_ref().unwrap().len() == m.b.rows));
}

#[test]
fn a_new_adapter_is_read_back_as_it_was_made() {
    let factor = |seed, rows, columns| Factor::new(rows, columns, noise(seed, rows * columns)).unwrap();
    let module =
        |name: &str, r, alpha| LoraModule::linear(name, factor(1, r, 5), factor(2, 7, r), alpha, false).unwrap();
    let modules = vec![
        module("model.layers.0.self_attn.q_proj", 2, 4.0),
        module("model.layers.1.self_attn.q_proj", 3, 4.0),
        module("model.layers.10.self_attn.q_proj", 2, 0.5),
    ];
    let adapter = Adapter::from_modules(modules.clone(), vec![], false, Some("base"), Some("CAUSAL_LM"));
    let files = adapter.to_peft().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(PeftFiles::CONFIG), &files.config).unwrap();
    fs::write(folder.path().join(PeftFiles::WEIGHTS), &files.tensors).unwrap();
    let back = Adapter::open(folder.path(), Strictness::Closed).unwrap();
    assert_eq!(back.modules(), modules);
    assert_eq!((back.base(), back.task()), (Some("base"), Some("CAUSAL_LM")));
    // Layers 2 to 9 are not adapted, so the targets must be whole paths.
    let config: serde_json::Value = serde_json::from_slice(&files.config).unwrap();
    assert_eq!(config["target_modules"][2], "model.layers.10.self_attn.q_proj");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(2), &json!(4)));
}

#[test]
fn a_classifier_in_modules_to_save_survives_a_new_adapter() {
    let world = World::new().open().unwrap();
    let head = Adapter::open(&stored("fixtures/minilm-spam-lora"), Strictness::Closed).unwrap();
    let whole: Vec<WholeTensor> = head.whole_tensors().to_vec();
    let files = Adapter::from_modules(world.modules().to_vec(), whole.clone(), false, None, None).to_peft().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(PeftFiles::CONFIG), &files.config).unwrap();
    fs::write(folder.path().join(PeftFiles::WEIGHTS), &files.tensors).unwrap();
    assert_eq!(Adapter::open(folder.path(), Strictness::Closed).unwrap().whole_tensors(), whole);
}

#[test]
fn an_adapter_with_a_name_lives_in_a_folder_of_that_name() {
    let inner = World::new().write();
    let outer = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = outer.path().join(name);
        fs::create_dir(&to).unwrap();
        for file in [PeftFiles::CONFIG, PeftFiles::WEIGHTS] {
            fs::copy(inner.path().join(file), to.join(file)).unwrap();
        }
    };
    copy("mine");
    assert_eq!(Adapter::open(outer.path(), Strictness::Closed).unwrap().modules().len(), 4);
    copy("yours");
    let error = Adapter::open(outer.path(), Strictness::Closed).unwrap_err().to_string();
    assert!(error.contains("expected one adapter, found several: mine, yours"), "{error}");
}

#[test]
fn missing_numbers_mean_what_peft_means() {
    let mut world = World::new();
    world.config.as_object_mut().unwrap().remove("lora_alpha");
    assert_eq!(world.open().unwrap().modules()[0].alpha, 8.0);
    world.config["rank_pattern"] = json!({"_proj": 3, "q_proj": 3});
    let survey = world.survey();

    // `_proj` matches no whole part of a path, so one pattern is left for each query.
    assert!(survey.findings.is_empty(), "{:?}", survey.findings);
    world.config["rank_pattern"] = json!({".*_proj": 3, "q_proj": 3});
    let survey = world.survey();
    assert!(survey.findings.iter().all(|finding| finding.code.name() == "ambiguous_pattern"), "{:?}", survey.findings);
    assert_eq!(survey.findings.len(), 2);
    survey.require_sound().unwrap();
}

#[test]
fn half_precision_factors_are_read_and_kept_as_they_are() {
    let world = World::new();
    let bytes = world.bytes_as(safetensors::Dtype::BF16, |value| value.to_bits().to_le_bytes()[2..].to_vec());
    let folder = world.write_with(&bytes);
    let adapter = Adapter::open(folder.path(), Strictness::Closed).unwrap();
    let expected = world.tensors[QUERY_A].1.iter().map(|value| f32::from_bits(value.to_bits() & 0xffff_0000));
    assert!(adapter.modules()[0].a.values.iter().copied().eq(expected));
    assert_eq!(adapter.to_peft().unwrap().tensors, bytes);
}
