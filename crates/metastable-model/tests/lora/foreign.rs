//! The layouts of mlx-lm and of kohya's tools mean the same matrices.

use std::fs;

use metastable_model::lora::{Adapter, Layout, PeftFiles, Strictness};
use serde_json::json;
use tempfile::TempDir;

use crate::world::{World, errors, noise, product};

/// mlx-lm's folder with one module: lora_a [5, 3], lora_b [3, 4].
fn mlx(a: &[usize; 2], b: &[usize; 2], config: serde_json::Value) -> TempDir {
    let mut world = World { config, tensors: Default::default() };
    world.add("model.layers.0.self_attn.q_proj.lora_a", a, 1);
    world.add("model.layers.0.self_attn.q_proj.lora_b", b, 2);
    let folder = world.write();
    fs::rename(folder.path().join("adapter_model.safetensors"), folder.path().join("adapters.safetensors")).unwrap();
    folder
}

fn mlx_config() -> serde_json::Value {
    json!({"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 3, "scale": 20.0, "dropout": 0.0}})
}

#[test]
fn mlx_factors_are_transposed_and_their_scale_is_taken_as_it_is() {
    let folder = mlx(&[5, 3], &[3, 4], mlx_config());
    let adapter = Adapter::open(folder.path(), Strictness::Closed).unwrap();
    let module = &adapter.modules()[0];
    assert_eq!((adapter.layout(), module.shape(), module.scale, module.alpha), (Layout::Mlx, [4, 5], 20.0, 60.0));
    // y = W x + 20 (x a) b, so ΔW_ij = 20 Σ_k a_jk b_ki.
    let (a, b) = (noise(1, 15), noise(2, 12));
    for i in 0..4 {
        for j in 0..5 {
            let expected: f64 = (0..3).map(|k| 20.0 * f64::from(a[j * 3 + k]) * f64::from(b[k * 4 + i])).sum();
            assert!((product(module)[i * 5 + j] - expected).abs() < 1e-12);
        }
    }
}

#[test]
fn mlx_factors_that_were_not_transposed_are_noticed() {
    let folder = mlx(&[3, 5], &[4, 3], mlx_config());
    let survey = Adapter::survey(folder.path()).unwrap();
    assert!(survey.findings[0].message.contains("not transposed"), "{:?}", survey.findings);
    // Of a square weight the product would fit, and be another function.
    let error = Adapter::open(mlx(&[3, 5], &[5, 3], mlx_config()).path(), Strictness::Closed).unwrap_err().to_string();
    assert!(error.contains("expected [in, 3], found [3, 5]"), "{error}");
    let mut config = mlx_config();
    config["lora_parameters"]["scale"] = json!(0);
    let error = Adapter::survey(mlx(&[5, 3], &[3, 4], config).path()).unwrap_err().to_string();
    assert!(error.contains("lora_parameters.scale: expected a finite number other than 0"), "{error}");
    let full = Adapter::survey(mlx(&[5, 3], &[3, 4], json!({"fine_tune_type": "full"})).path()).unwrap_err();
    assert!(full.to_string().contains("fine_tune_type: expected lora or dora, found full"), "{full}");
}

#[test]
fn an_mlx_adapter_becomes_a_peft_adapter_with_the_same_products() {
    let adapter = Adapter::open(mlx(&[5, 3], &[3, 4], mlx_config()).path(), Strictness::Closed).unwrap();
    let files = adapter.to_peft().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(PeftFiles::CONFIG), &files.config).unwrap();
    fs::write(folder.path().join(PeftFiles::WEIGHTS), &files.tensors).unwrap();
    let back = Adapter::open(folder.path(), Strictness::Closed).unwrap();
    assert_eq!((back.layout(), product(&back.modules()[0])), (Layout::Peft, product(&adapter.modules()[0])));
}

fn kohya(change: impl Fn(&mut World)) -> (TempDir, std::path::PathBuf) {
    let mut world = World { config: json!({}), tensors: Default::default() };
    world.add("lora_te_layers_0_q_proj.lora_down.weight", &[3, 5], 1);
    world.add("lora_te_layers_0_q_proj.lora_up.weight", &[4, 3], 2);
    world.tensors.insert("lora_te_layers_0_q_proj.alpha".into(), (vec![], vec![1.5]));
    change(&mut world);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("style.safetensors");
    fs::write(&path, world.bytes()).unwrap();
    (folder, path)
}

#[test]
fn kohya_factors_and_alpha_are_understood() {
    let (_folder, path) = kohya(|_| ());
    let adapter = Adapter::open(&path, Strictness::Closed).unwrap();
    let module = &adapter.modules()[0];
    assert_eq!((adapter.layout(), module.shape(), module.scale), (Layout::Kohya, [4, 5], 0.5));
    assert_eq!((&module.a.values, &module.b.values), (&noise(1, 15), &noise(2, 12)));
    assert!(adapter.to_peft().unwrap_err().to_string().contains("a base model must say what they mean"));
    let (_folder, path) = kohya(|world| drop(world.tensors.remove("lora_te_layers_0_q_proj.alpha")));
    assert_eq!(Adapter::open(&path, Strictness::Closed).unwrap().modules()[0].scale, 1.0);
}

#[test]
fn a_model_says_what_joined_names_mean() {
    let mut world = World { config: json!({}), tensors: Default::default() };
    world.add("lora_te_transformer_h_2_mlp_c_fc.lora_down.weight", &[2, 64], 1);
    world.add("lora_te_transformer_h_2_mlp_c_fc.lora_up.weight", &[256, 2], 2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("style.safetensors");
    fs::write(&path, world.bytes()).unwrap();
    let adapter = Adapter::open(&path, Strictness::Closed).unwrap();
    let named = adapter.named_after(&crate::world::stored("fixtures/tiny-gpt2")).unwrap();
    assert_eq!(named.modules()[0].name, "transformer.h.2.mlp.c_fc");
    assert!(named.to_peft().is_ok());
    let error = adapter.named_after(&crate::world::stored("fixtures/tiny-llama")).unwrap_err().to_string();
    assert!(error.contains("none that fits"), "{error}");
}

#[test]
fn broken_kohya_files_are_refused() {
    let up = "lora_te_layers_0_q_proj.lora_up.weight";
    type Damage = fn(&mut World);
    let cases: [(&str, Damage); 4] = [
        ("missing_partner", |world| drop(world.tensors.remove("lora_te_layers_0_q_proj.lora_up.weight"))),
        ("rank_mismatch", |world| world.add("lora_te_layers_0_q_proj.lora_up.weight", &[4, 2], 3)),
        ("untrained", |world| world.values("lora_te_layers_0_q_proj.lora_up.weight").fill(0.0)),
        ("zero_scale", |world| world.values("lora_te_layers_0_q_proj.alpha").fill(0.0)),
    ];
    for (code, change) in cases {
        let (_folder, path) = kohya(change);
        assert_eq!(errors(&Adapter::survey(&path).unwrap())[0], code, "{up}");
    }
    let folder = tempfile::tempdir().unwrap();
    let pickle = folder.path().join("style.pt");
    fs::write(&pickle, b"x").unwrap();
    assert!(Adapter::survey(&pickle).unwrap_err().to_string().contains("found only style.pt"));
}
