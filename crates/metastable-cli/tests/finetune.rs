//! `metastable finetune`: files and keys that others rely on, runs that are killed, inputs that cannot be meant.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::util::{World, repository};

/// Eight steps of a tiny Llama on a made-up text: a second at most.
fn config() -> String {
    format!(
        "model = {:?}\nseed = 3\n[data]\nfile = \"text.txt\"\ntask = \"causal_lm\"\nmax_seq_length = 32\neval_fraction = 0.2\n\
         [lora]\nrank = 4\nalpha = 8\ntarget_modules = [\"q_proj\", \"v_proj\", \"down_proj\"]\n\
         [optimizer]\nlearning_rate = 1e-2\nbatch_size = 2\ngradient_accumulation_steps = 2\nmax_steps = 8\n\
         [evaluation]\nevery = 4\n",
        repository("crates/metastable-model/tests/fixtures/tiny-llama")
    )
}

fn world() -> World {
    let world = World::new();
    world.write("run.toml", config());
    let text: String = (0..120).map(|i| format!("Speak {} to me, and {} again.\n", i % 7, i % 5)).collect();
    world.write("text.txt", text);
    world
}

fn metrics(world: &World, folder: &str) -> Vec<Value> {
    let text = String::from_utf8(world.read(&format!("{folder}/metrics.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_run_leaves_an_adapter_metrics_and_a_report() {
    let world = world();
    let ended = world.succeed(&["finetune", "run.toml", "-o", "run"]);
    assert!(ended.stdout.contains("Held-out loss:"), "{}", ended.stdout);
    let lines = metrics(&world, "run");
    assert_eq!(lines.len(), 8);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], i + 1);
        for key in ["loss", "tokens_per_second", "gap", "grad_norm", "skipped"] {
            assert!(line[key].is_number(), "{key}: {line}");
        }
        assert_eq!(line["eval_loss"].is_number(), i % 4 == 3, "{line}");
    }
    // Balanced after the first projection, and as well conditioned as its product allows.
    let last = &lines[7];
    assert!(last["gap"].as_f64().unwrap() < 1e-12, "{last}");
    assert!((last["kappa"].as_f64().unwrap() / last["kappa_balanced"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{last}");
    let report = world.report("run");
    for key in ["final_loss", "eval_loss", "tokens_per_second"] {
        assert!(report[key].is_number(), "{key}");
    }
    assert!(report["eval_loss"].as_f64() < report["base_eval_loss"].as_f64());
    assert_eq!(report["adapter"]["modules"].as_array().unwrap().len(), 12);
    let adapter: Value = serde_json::from_slice(&world.read("run/adapter/adapter_config.json")).unwrap();
    assert_eq!((adapter["r"].as_u64(), adapter["peft_type"].as_str()), (Some(4), Some("LORA")));
    assert!(String::from_utf8(world.read("run/adapter/README.md")).unwrap().contains("library_name: peft"));
    // What the contract says of the folder: the adapter of the last step is there, the state of the run no longer.
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert_eq!(
            world.read(&format!("run/checkpoints/{file}")),
            world.read(&format!("run/adapter/{file}")),
            "{file}"
        );
    }
    assert_eq!(std::fs::read_dir(world.path().join("run/checkpoints")).unwrap().count(), 2);
    assert!(!world.path().join("run/checkpoint").exists());
    let page = String::from_utf8(world.read("run/report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("src=") && !page.contains("href="), "a page that needs no network");
    world.succeed(&["render", "run"]);
    assert_eq!(String::from_utf8(world.read("run/report.html")).unwrap(), page);
}

#[test]
fn a_killed_run_continues_to_the_same_adapter() {
    let world = world();
    world.succeed(&["finetune", "run.toml", "-o", "whole"]);
    for step in [1, 5] {
        let mut command = world.command(&["finetune", "run.toml", "-o", "killed", "-v"]);
        command.env("METASTABLE_CHECKPOINT_SECONDS", "0").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let found = lines.map(Result::unwrap).any(|line| line.contains(&format!("saved the state of step {step}")));
        assert!(found, "the run ended before step {step}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(world.path().join("killed/checkpoints/state.bin").is_file());
        world.succeed(&["finetune", "run.toml", "-o", "killed", "--resume"]);
        for file in [
            "adapter/adapter_model.safetensors",
            "adapter/adapter_config.json",
            "adapter/README.md",
            "checkpoints/adapter_model.safetensors",
        ] {
            assert_eq!(world.read(&format!("killed/{file}")), world.read(&format!("whole/{file}")), "{file}");
        }
        let losses = |folder| -> Vec<Value> {
            metrics(&world, folder).iter().map(|line| serde_json::json!([line["loss"], line["kappa"]])).collect()
        };
        assert_eq!(losses("killed"), losses("whole"));
        std::fs::remove_dir_all(world.path().join("killed")).unwrap();
    }
}

#[test]
fn every_method_runs_and_lowers_the_loss() {
    let world = world();
    let methods =
        ["lora", "lora_plus", "lora_fa", "riemannian", "reflora", "lora_pro", "lora_rite", "norm_balance", "balora"];
    for method in methods {
        let set = format!("optimizer.method=\"{method}\"");
        let ended = world.run(&["finetune", "run.toml", "-o", method, "--set", &set]);
        assert_eq!(ended.code, Some(0), "{method}: {}", ended.stderr);
        let report = world.report(method);
        let (after, before) = (report["eval_loss"].as_f64().unwrap(), report["base_eval_loss"].as_f64().unwrap());
        assert!(after < before, "{method}: {before} {after}");
    }
}

fn refused(changes: &[&str], code: i32, expected: &str) {
    let world = world();
    let mut arguments = vec!["finetune", "run.toml", "-o", "run"];
    changes.iter().for_each(|change| arguments.extend(["--set", change]));
    world.refuse(&arguments, code, expected);
}

#[test]
fn settings_that_cannot_be_meant_name_the_key_and_what_there_is() {
    refused(&["lora.target_modules=[\"c_attn\"]"], 4, "found `c_attn`; it has q_proj, k_proj, v_proj, o_proj");
    refused(&["lora.target_modules=\"nothing.*\""], 4, "found `nothing.*`; it has q_proj");
    refused(&["lora.rank=65"], 4, "rank: expected a number from 1 to 64");
    refused(&["lora.rank=0"], 2, "`lora.rank`: expected an integer >= 1, found 0");
    refused(&["data.max_seq_length=129"], 2, "`data.max_seq_length`: expected at most 128");
    refused(&["optimizer.learning_rate=-1.0"], 2, "`optimizer.learning_rate`: expected a finite number > 0");
    refused(&["optimizer.method=\"balroa\""], 2, "unknown value `balroa` in `optimizer.method`");
    refused(&["data.task=\"masked_lm\""], 4, "task: expected an encoder saved with its masked language model head");
    refused(&["model=\"nowhere\""], 4, "nowhere: not found");
    refused(&["data.file=\"nowhere.txt\""], 4, "nowhere.txt: cannot be read");
}

#[test]
fn lines_that_cannot_be_learned_from_are_named() {
    let cases = [
        (
            "{\"text\": \"a\", \"label\": \"x\"}\n{\"label\": \"y\"}\n",
            "data.jsonl:2: expected a field `text`, found only `label`",
        ),
        ("{\"text\": \"a\", \"label\": \"x\"}\n\n{\"text\": \"b\"\n", "data.jsonl:3: expected a JSON object"),
        ("{\"text\": 3, \"label\": \"x\"}\n", "data.jsonl:1: expected a string in `text`, found a number"),
        ("{\"text\": \"a\", \"label\": \"z\"}\n", "data.jsonl:1: expected one of the labels x, y, found `z`"),
        ("[1]\n", "data.jsonl:1: expected a JSON object, found a list"),
        ("", "data.jsonl: expected at least one text, found none"),
    ];
    for (data, expected) in cases {
        let world = world();
        world.write("data.jsonl", data);
        let arguments = ["data.file=\"data.jsonl\"", "data.task=\"classification\"", "data.labels=[\"x\", \"y\"]"];
        let mut all = vec!["finetune", "run.toml", "-o", "run"];
        arguments.iter().for_each(|change| all.extend(["--set", change]));
        world.refuse(&all, 4, expected);
    }
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_what_was_good() {
    let world = world();
    let sets =
        ["optimizer.learning_rate=1e30", "optimizer.base=\"sgd\"", "optimizer.method=\"lora\"", "evaluation.every=1"];
    let mut arguments = vec!["finetune", "run.toml", "-o", "run"];
    sets.iter().for_each(|change| arguments.extend(["--set", change]));
    let ended = world.run(&arguments);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("training diverged") && ended.stderr.contains("is kept"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: lower learning_rate"), "{}", ended.stderr);
    assert!(!world.path().join("run/DONE").exists());
}

#[test]
fn a_classifier_of_a_decoder_learns_two_kinds_of_lines() {
    let world = world();
    let line = |i: usize| {
        let (text, label) =
            if i.is_multiple_of(2) { ("speak again, my lord", "lord") } else { ("the king the king the", "king") };
        format!("{{\"text\": \"{text} {}\", \"label\": \"{label}\"}}\n", i % 9)
    };
    world.write("data.jsonl", (0..80).map(line).collect::<String>());
    let mut arguments = vec!["finetune", "run.toml", "-o", "run"];
    let sets = ["data.file=\"data.jsonl\"", "data.task=\"classification\"", "optimizer.max_steps=20"];
    sets.iter().for_each(|change| arguments.extend(["--set", change]));
    world.succeed(&arguments);
    let report = world.report("run");
    assert_eq!(report["data"]["labels"], serde_json::json!(["king", "lord"]));
    assert!(report["eval_accuracy"].as_f64().unwrap() > 0.9, "{}", report["eval_accuracy"]);
    let weights = world.read("run/adapter/adapter_model.safetensors");
    let header = String::from_utf8_lossy(&weights[..weights.len().min(20_000)]).into_owned();
    assert!(header.contains("base_model.model.score.weight"), "the trained head is saved");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_while_training_is_one_clear_error_and_the_last_checkpoint_continues() {
    let world = world();
    world.succeed(&["finetune", "run.toml", "-o", "whole"]);
    // The state after the first evaluation holds the best adapter besides: it finds no room beside the one before.
    let script = "mount -t tmpfs -o size=440k none disk && METASTABLE_CHECKPOINT_SECONDS=0 \"$1\" finetune run.toml -o disk/run; \
                  code=$?; find disk -type f; cp -r disk/run kept; exit $code";
    let Some(ended) = crate::folders::in_a_namespace(&world, script) else { return };
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("error: disk/run/checkpoints/state.bin"), "{ended:?}");
    assert!(ended.stderr.contains("no space left on the device"), "{ended:?}");
    assert!(!ended.stdout.contains("DONE") && !ended.stdout.contains(".tmp"), "{ended:?}");
    let resumed = world.run(&["finetune", "run.toml", "-o", "kept", "--resume", "-v"]);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(resumed.stderr.contains("continuing after step 3"), "{resumed:?}");
    for file in ["adapter/adapter_model.safetensors", "checkpoints/adapter_model.safetensors"] {
        assert_eq!(world.read(&format!("kept/{file}")), world.read(&format!("whole/{file}")), "{file}");
    }
}
