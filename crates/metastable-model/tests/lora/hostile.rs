//! The validation list of adapters, one test an item: everything that would silently do something else is refused.

use std::fs;

use metastable_model::lora::{Adapter, Strictness};
use metastable_model::{ModelError, ModelErrorKind};
use serde_json::json;

use crate::world::{PREFIX, QUERY_A, QUERY_B, World};

/// Refused with this finding and no other, and by `open` with these words.
#[track_caller]
fn refused(world: &World, code: &str, words: &str) {
    assert_eq!(world.errors(), [code], "{:?}", world.survey().findings);
    let error = world.open().unwrap_err();
    assert!(matches!(error, ModelError::Adapter { .. }), "{error}");
    assert!(error.to_string().contains(words), "no `{words}` in {error}");
    assert_eq!(error.kind(), ModelErrorKind::Input);
}

/// Weights that cannot be read at all.
#[track_caller]
fn unreadable(weights: &[u8], words: &str) {
    let folder = World::new().write_with(weights);
    let error = Adapter::survey(folder.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors: expected a safetensors file"), "{error}");
    assert!(error.contains(words), "no `{words}` in {error}");
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn a_sound_adapter_has_no_findings() {
    assert_eq!(World::new().survey().findings, []);
    World::new().open().unwrap();
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let whole = World::new().bytes();
    for length in [0, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        unreadable(&whole[..length], "bytes");
    }
}

#[test]
fn overlapping_tensors_and_holes_are_refused() {
    let entry =
        |name: &str, begin, end| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{begin},{end}]}}"#);
    unreadable(&file(&format!("{{{},{}}}", entry("a", 0, 4), entry("b", 2, 6)), &[0; 6]), "offset");
    unreadable(&file(&format!("{{{},{}}}", entry("a", 0, 4), entry("b", 8, 12)), &[0; 12]), "offset");
}

#[test]
fn huge_headers_and_shapes_take_no_memory() {
    unreadable(&u64::MAX.to_le_bytes(), "header");
    unreadable(&[&(1u64 << 40).to_le_bytes()[..], b"{}"].concat(), "header");
    let header = r#"{"a":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,4]}}"#;
    unreadable(&file(header, &[0; 4]), "overflow");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    unreadable(&file(&format!("{{\"a\":{deep}}}"), &[]), "JSON");
}

#[test]
fn duplicate_keys_are_refused() {
    let entry = r#""x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    unreadable(&file(&format!("{{{entry},{entry}}}"), &[0; 4]), "`x` twice");
    let folder = World::new().write();
    let config = folder.path().join("adapter_config.json");
    fs::write(&config, r#"{"peft_type": "LORA", "r": 3, "r": 4}"#).unwrap();
    let error = Adapter::survey(folder.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json") && error.contains("`r` twice"), "{error}");
}

#[test]
fn keys_that_mean_one_tensor_are_refused() {
    let mut world = World::new();
    world.config["use_dora"] = json!(true);
    for module in ["layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"] {
        world.add(&format!("{PREFIX}{module}.lora_magnitude_vector"), &[6], 30);
    }
    assert_eq!(world.errors(), [""; 0]);
    world.add(&format!("{PREFIX}layers.0.q_proj.dora_scale"), &[6], 31);
    refused(&world, "duplicate", "stands for the same tensor as");
}

#[test]
fn integers_and_unknown_types_are_refused() {
    let world = World::new();
    let integers = world.bytes_as(safetensors::Dtype::I32, |value| (value as i32).to_le_bytes().to_vec());
    let folder = world.write_with(&integers);
    let error = Adapter::open(folder.path(), Strictness::Closed).unwrap_err().to_string();
    assert!(error.contains("expected F32, F16 or BF16, found I32"), "{error}");
    let header = r#"{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#;
    unreadable(&file(header, &[0; 4]), "F33");
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut world = World::new();
        world.values(QUERY_B)[4] = value;
        // The module is not assembled, so its A has no partner either.
        assert_eq!(world.errors(), ["not_finite", "missing_partner"]);
        let error = world.open().unwrap_err().to_string();
        assert!(error.contains(&format!("`{QUERY_B}`: expected finite numbers, found {value} at entry 4")), "{error}");
    }
}

#[test]
fn a_factor_without_its_partner_is_refused() {
    for (gone, present, letter) in [(QUERY_B, QUERY_A, "B"), (QUERY_A, QUERY_B, "A")] {
        let mut world = World::new();
        world.tensors.remove(gone);
        refused(&world, "missing_partner", &format!("`{present}`: has no lora_{letter} beside it"));
    }
}

#[test]
fn factors_that_do_not_multiply_are_refused() {
    let mut world = World::new();
    world.add(QUERY_B, &[6, 2], 40);
    refused(&world, "rank_mismatch", "expected [out, 3] for a lora_A of [3, 8], found [6, 2]");
}

#[test]
fn a_rank_that_the_config_does_not_promise_is_refused() {
    let mut world = World::new();
    world.config["rank_pattern"] = json!({"layers.1.v_proj": 2});
    refused(&world, "rank_of_config", "`layers.1.v_proj`: expected rank 2 as the config says, found 3");
}

#[test]
fn a_matrix_must_be_a_matrix() {
    let mut world = World::new();
    world.add(QUERY_A, &[24], 41);
    refused(&world, "shape", "expected a matrix, found shape [24]");
    world.add(QUERY_A, &[0, 8], 41);
    refused(&world, "shape", "found shape [0, 8]");
}

#[test]
fn factors_of_zeros_are_refused_as_untrained_or_dead() {
    let mut world = World::new();
    world.values(QUERY_B).fill(0.0);
    refused(&world, "untrained", "B is 0: it was never trained, and does nothing");
    world.values(QUERY_A).fill(0.0);
    refused(&world, "dead", "both factors are 0");
    // The survey still hands the module out, for reports.
    assert_eq!(world.survey().adapter.modules().len(), 4);
}

#[test]
fn an_adapters_name_inside_a_key_is_refused() {
    let mut world = World::new();
    world.rename(QUERY_A, &QUERY_A.replace("lora_A.", "lora_A.default."));
    refused(&world, "adapter_name_in_key", "has the name of an adapter inside");
}

#[test]
fn prefixes_must_be_there_once() {
    let mut world = World::new();
    world.rename(QUERY_A, QUERY_A.strip_prefix(PREFIX).unwrap());
    refused(&world, "prefix_missing", "expected `base_model.model.` in front");
    let mut world = World::new();
    world.rename(QUERY_A, &format!("{PREFIX}{QUERY_A}"));
    refused(&world, "prefix_doubled", "has `base_model.model.` twice");
}

#[test]
fn dora_and_its_magnitudes_come_together() {
    let mut world = World::new();
    world.add(&format!("{PREFIX}layers.0.q_proj.lora_magnitude_vector"), &[6], 42);
    refused(&world, "dora", "has DoRA magnitudes, but use_dora is false");
    world.config["use_dora"] = json!(true);
    assert_eq!(world.errors(), ["dora"; 3]);
    let mut world = World::new();
    world.add(&format!("{PREFIX}layers.0.q_proj.lora_magnitude_vector"), &[5], 42);
    assert!(world.errors().contains(&"shape"));
}

#[test]
fn targets_and_modules_must_agree() {
    let mut world = World::new();
    world.config["target_modules"] = json!(["q_proj"]);
    assert_eq!(world.errors(), ["not_targeted"; 2]);
    world.config["target_modules"] = json!(["q_proj", "v_proj", "k_proj"]);
    refused(&world, "target_absent", "`k_proj`: is in target_modules but no module of the file has that name");
    world.config["target_modules"] = json!(r".*\.(q|v)_proj");
    assert_eq!(world.errors(), [""; 0]);
    world.config["target_modules"] = json!("all-linear");
    assert_eq!(world.errors(), [""; 0]);
    world.config["target_modules"] = json!("(");
    let error = world.open().unwrap_err().to_string();
    assert!(error.contains("target_modules: expected a regular expression"), "{error}");
}

#[test]
fn tensors_that_nobody_announced_are_refused() {
    let mut world = World::new();
    world.add(&format!("{PREFIX}layers.0.mlp.up_proj.weight"), &[2, 2], 43);
    refused(&world, "unknown_key", "is neither a factor nor announced");
    world.config["modules_to_save"] = json!(["up_proj"]);
    assert_eq!(world.errors(), [""; 0]);
    world.add(&format!("{PREFIX}layers.0.q_proj.lora_diag"), &[3], 44);
    refused(&world, "unknown_key", "is no tensor of a LoRA adapter");
}

#[test]
fn settings_that_change_the_meaning_are_refused() {
    for (key, value) in [
        ("kasa_config", json!({"beta": 1})),
        ("alora_invocation_tokens", json!([1, 2])),
        ("layer_replication", json!([[0, 2], [1, 3]])),
        ("trainable_token_indices", json!([5])),
        ("target_parameters", json!(["experts.w"])),
        ("use_qalora", json!(true)),
        ("a_key_of_the_future", json!(0.5)),
    ] {
        let mut world = World::new();
        world.config[key] = value;
        refused(&world, "unknown_setting", &format!("`{key}`: is set to"));
        world.config[key] = json!(null);
        assert_eq!(world.errors(), [""; 0], "{key}");
    }
    let mut world = World::new();
    world.config["init_lora_weights"] = json!("pissa_niter_16");
    refused(&world, "mutated_base", "belongs to a changed base model");
    let mut world = World::new();
    world.config["lora_alpha"] = json!(0);
    refused(&world, "zero_scale", "would do nothing");
}

#[test]
fn a_scale_that_is_not_finite_is_refused() {
    // JSON has no infinity; a number beyond all floats is the way to write one.
    let folder = World::new().write();
    let config = folder.path().join("adapter_config.json");
    for (key, text) in [("lora_alpha", "1e999"), ("lora_alpha", "NaN"), ("alpha_pattern", r#"{"q_proj": -1e999}"#)] {
        fs::write(&config, format!(r#"{{"peft_type": "LORA", "r": 3, "{key}": {text}}}"#)).unwrap();
        let error = Adapter::survey(folder.path()).unwrap_err().to_string();
        assert!(error.contains("adapter_config.json: expected "), "{key} = {text}: {error}");
    }
}

#[test]
fn patterns_that_both_fit_a_module_are_pointed_out() {
    let mut world = World::new();
    world.config["alpha_pattern"] = json!({"q_proj": 2.0, "layers.0.q_proj": 4.0});
    let survey = world.survey();
    let ambiguous: Vec<_> =
        survey.findings.iter().filter(|finding| finding.code.name() == "ambiguous_pattern").collect();
    assert!(ambiguous.len() == 1 && ambiguous[0].subject == "layers.0.q_proj", "{:?}", survey.findings);
    // The first in the file decides, as in PEFT, so the adapter can be used.
    assert_eq!(world.errors(), [""; 0]);
}

#[test]
fn other_tuners_and_wrong_values_name_their_key() {
    for (key, value, expected) in [
        ("peft_type", json!("LOHA"), "peft_type: expected LORA, found LOHA"),
        ("peft_type", json!(null), "peft_type: expected LORA, found none"),
        ("r", json!(0), "r: expected an integer from 1 to 2^20, found 0"),
        ("r", json!(1u64 << 60), "r: expected an integer"),
        ("lora_alpha", json!("16"), "lora_alpha: expected a finite number"),
        ("use_rslora", json!(1), "use_rslora: expected true or false"),
        ("rank_pattern", json!({"q_proj": -1}), "rank_pattern: expected an integer"),
        ("alpha_pattern", json!({"q_proj": 0}), "alpha_pattern: expected finite numbers other than 0"),
        ("alpha_pattern", json!({"(": 1}), "alpha_pattern: expected regular expressions"),
        ("target_modules", json!([1]), "target_modules: expected a list of strings"),
    ] {
        let mut world = World::new();
        world.config[key] = value;
        let error = Adapter::survey(world.write().path()).unwrap_err().to_string();
        assert!(error.contains(expected), "no `{expected}` in {error}");
    }
}

#[test]
fn pickled_and_absent_files_say_what_is_there() {
    let folder = World::new().write();
    fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    let error = Adapter::survey(folder.path()).unwrap_err();
    assert!(error.to_string().contains("adapter_model.safetensors: not found"), "{error}");
    fs::write(folder.path().join("adapter_model.bin"), b"\x80\x02}q\x00.").unwrap();
    let error = Adapter::survey(folder.path()).unwrap_err();
    assert!(error.to_string().contains("expected adapter_model.safetensors, found only adapter_model.bin"), "{error}");
    assert!(error.hint().unwrap().contains("never read"));
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    let error = Adapter::survey(folder.path()).unwrap_err();
    assert!(error.to_string().contains("adapter_config.json: not found"), "{error}");
    assert!(Adapter::survey(&folder.path().join("nowhere")).unwrap_err().to_string().contains("not found"));
}

#[test]
fn what_is_usable_is_there_for_those_who_ask_for_it() {
    let mut world = World::new();
    world.tensors.remove(QUERY_B);
    let folder = world.write();
    assert_eq!(Adapter::open(folder.path(), Strictness::Partial).unwrap().modules().len(), 3);
    let error = Adapter::open(folder.path(), Strictness::Closed).unwrap_err();
    assert!(error.hint().unwrap().contains("--allow-partial"));
}
