//! `metastable finetune`: files and keys that others rely on, runs that are killed, inputs that cannot be meant.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::util::{World, check_page, repository};

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
    assert!(
        page.contains("\"loss.svg\"") && page.contains("default-src 'none'") && !page.contains("<link"),
        "no network"
    );
    for figure in ["loss", "condition", "gap", "rank", "change", "gradient", "skipped", "speed"] {
        let svg = String::from_utf8(world.read(&format!("run/figures/{figure}.svg"))).unwrap();
        assert!(svg.contains("<path"), "{figure}");
    }
    check_page(&world.path().join("run/report.html"));
    world.succeed(&["render", "run"]);
    assert_eq!(String::from_utf8(world.read("run/report.html")).unwrap(), page);
}

#[test]
fn a_killed_run_continues_to_the_same_adapter() {
    let world = world();
    world.write("run.toml", config() + "[probe]\ntext = \"Speak again to the king\"\nevery = 3\n");
    world.succeed(&["finetune", "run.toml", "-o", "whole"]);
    // Every step of the eight at which a run can be killed with work still to do.
    for step in 1..=7 {
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
            let kept =
                |line: &Value| serde_json::json!([line["loss"], line["kappa"], line["eval_loss"], line["probe"]]);
            metrics(&world, folder).iter().map(kept).collect()
        };
        assert_eq!(losses("killed"), losses("whole"));
        // TensorBoard's events go on where the state was saved: every step once, in order.
        assert_eq!(steps_of(&events(&world, "killed")), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        std::fs::remove_dir_all(world.path().join("killed")).unwrap();
    }
}

/// An event of TensorBoard: its step and its scalars.
type Event = (u64, Vec<(String, f32)>);

/// Reads TensorBoard's file by the definition of its format, sharing nothing with the code that writes it.
fn events(world: &World, folder: &str) -> Vec<Event> {
    let bytes = world.read(&format!("{folder}/tensorboard/events.out.tfevents.1.metastable"));
    let number =
        |at: usize, count: usize| bytes[at..at + count].iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let length = number(at, 8) as usize;
        assert_eq!(number(at + 8, 4), u64::from(masked(&bytes[at..at + 8])), "the sum of a length");
        let event = &bytes[at + 12..at + 12 + length];
        assert_eq!(number(at + 12 + length, 4), u64::from(masked(event)), "the sum of an event");
        at += length + 16;
        let step = fields(event).iter().find(|field| field.0 == 2).map_or(0, |field| field.1);
        let mut scalars = Vec::new();
        for (_, _, summary) in fields(event).iter().filter(|field| field.0 == 5) {
            for (_, _, value) in fields(summary) {
                let parts = fields(value);
                let tag = String::from_utf8(parts[0].2.to_vec()).unwrap();
                scalars.push((tag, f32::from_bits(parts[1].1 as u32)));
            }
        }
        found.push((step, scalars));
    }
    found
}

/// CRC-32C bit by bit, turned and shifted as TensorFlow does.
fn masked(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
        }
    }
    let sum = !sum;
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Fields of a message of protocol buffers: number, value, bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut varint = || {
            let (mut value, mut shift) = (0_u64, 0);
            loop {
                let byte = bytes[0];
                bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        };
        let key = varint();
        let size = match key & 7 {
            0 => {
                found.push((key >> 3, varint(), &[][..]));
                continue;
            }
            1 => 8,
            2 => varint() as usize,
            _ => 4,
        };
        let (content, rest) = bytes.split_at(size);
        let value = content.iter().take(8).rev().fold(0, |n, b| n << 8 | u64::from(*b));
        found.push((key >> 3, value, content));
        bytes = rest;
    }
    found
}

fn steps_of(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.0).collect()
}

#[test]
fn tensorboard_gets_the_numbers_of_every_line_under_their_names() {
    let world = world();
    world.write("run.toml", config() + "[probe]\ntext = \"Speak again to the king\"\nevery = 4\n");
    world.succeed(&["finetune", "run.toml", "-o", "run"]);
    let (events, lines) = (events(&world, "run"), metrics(&world, "run"));
    assert_eq!(steps_of(&events), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    for (event, line) in events[1..].iter().zip(&lines) {
        let scalar = |name: &str| event.1.iter().find(|(tag, _)| tag == name).map(|(_, value)| *value);
        for key in ["loss", "eval_loss", "gap", "kappa", "grad_norm", "learning_rate"] {
            assert_eq!(scalar(key), line[key].as_f64().map(|x| x as f32), "{key} of step {}", line["step"]);
        }
        let shift = &line["probe"]["layers"][4]["shift_relative"];
        assert_eq!(scalar("probe/shift_relative/layer_04"), shift.as_f64().map(|x| x as f32));
    }
}

#[test]
fn the_last_probe_is_what_inspect_says_of_the_saved_adapter() {
    let world = world();
    let words = "Speak 3 to me, and 4 again, gentle king, or speak no more.";
    world.write("run.toml", config() + &format!("[probe]\ntext = {words:?}\nevery = 3\n"));
    // Starts that change the base weights are measured against the base as it was.
    for (folder, init) in [("plain", "kaiming"), ("pissa", "pissa")] {
        world.succeed(&["finetune", "run.toml", "-o", folder, "--set", &format!("lora.init={init:?}")]);
        let lines = metrics(&world, folder);
        let asked: Vec<u64> = lines.iter().filter(|line| line["probe"].is_object()).map(step).collect();
        assert_eq!(asked, [3, 6, 8]);
        let model = repository("crates/metastable-model/tests/fixtures/tiny-llama");
        let (adapter, output) = (format!("{folder}/checkpoints"), format!("{folder}-inspected"));
        world.succeed(&["inspect", &model, "--adapter", &adapter, "--prompt", words, "-o", &output]);
        let inspected = world.report(&output);
        let probe = &world.report(folder)["probe"];
        assert_eq!(probe, &lines[7]["probe"]);
        let layers = probe["layers"].as_array().unwrap();
        let expected = inspected["adapter"]["layers"].as_array().unwrap();
        assert_eq!((layers.len(), expected.len()), (5, 5));
        assert!(layers[4]["shift_relative"].as_f64().unwrap() > 1e-3, "the adapter does something");
        for (layer, expected) in layers.iter().zip(expected) {
            for key in ["index", "shift_relative", "cosine", "clusters_changed", "clusters_born", "clusters_died"] {
                assert_eq!(layer[key], expected[key], "{key} of level {}", layer["index"]);
            }
        }
        let departure = inspected["adapter"]["departure"]["value"].as_f64();
        assert_eq!(probe["departure"].as_f64(), departure);
        let svg = String::from_utf8(world.read(&format!("{folder}/figures/probe-shift.svg"))).unwrap();
        assert!(svg.matches("<path").count() > 15, "five layers at three steps");
    }
}

fn step(line: &Value) -> u64 {
    line["step"].as_u64().unwrap()
}

#[test]
fn a_probe_needs_one_text_that_can_be_read() {
    let cases = [
        ("every = 2", 2, "`probe.text`: expected either this or probe.file, found both or neither"),
        ("text = \"a\"\nevery = 0", 2, "`probe.every`: expected an integer >= 1, found 0"),
        ("file = \"nowhere.txt\"", 4, "nowhere.txt: cannot be read"),
        ("text = \"a\"\ncluster_radius = -1.0", 2, "`probe.cluster_radius`: expected a finite number > 0"),
    ];
    for (keys, code, expected) in cases {
        let world = world();
        world.write("run.toml", config() + &format!("[probe]\n{keys}\n"));
        world.refuse(&["finetune", "run.toml", "-o", "run"], code, expected);
    }
}

#[test]
fn runs_are_laid_side_by_side_from_their_reports() {
    let world = world();
    for method in ["lora", "balora"] {
        world.succeed(&["finetune", "run.toml", "-o", method, "--set", &format!("optimizer.method={method:?}")]);
    }
    let ended = world.succeed(&["render", "lora", "balora", "-o", "compared"]);
    assert!(ended.stdout.contains("The lowest held-out loss, "), "{}", ended.stdout);
    assert!(!ended.stdout.contains("warning"), "{}", ended.stdout);
    let report = world.report("compared");
    assert_eq!(report["job"], "comparison");
    for (run, method) in report["runs"].as_array().unwrap().iter().zip(["lora", "balora"]) {
        assert_eq!((&run["name"], &run["method"]), (&Value::from(method), &Value::from(method)));
        assert_eq!(run["eval_loss"], world.report(method)["eval_loss"]);
        assert_eq!(run["series"].as_array().unwrap().len(), 8);
    }
    let svg = String::from_utf8(world.read("compared/figures/loss.svg")).unwrap();
    for words in ["lora: held out", "balora: held out", "balora: training batch"] {
        assert!(svg.contains(words), "{words}");
    }
    let table = String::from_utf8(world.read("compared/report.md")).unwrap();
    assert!(table.contains("| balora | balora |"), "{table}");
    check_page(&world.path().join("compared/report.html"));
    let page = world.read("compared/report.html");
    world.succeed(&["render", "compared"]);
    assert_eq!(world.read("compared/report.html"), page);
    // What is no finished run of fine-tuning is refused by name.
    world.refuse(&["render", "lora", "balora"], 2, "--output: expected the folder of a comparison");
    world.refuse(&["render", "lora", "compared", "-o", "again"], 4, "expected the report of a fine-tuning run");
    std::fs::remove_file(world.path().join("lora/DONE")).unwrap();
    world.refuse(&["render", "lora", "balora", "-o", "again"], 4, "lora");
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
fn a_run_that_diverges_late_keeps_its_best_adapter_and_all_numbers_before() {
    let world = world();
    // A decay that multiplies the factors by -999 a step: good after one step, overflow after some more.
    let run = |folder: &str, steps: &str| {
        let sets = [
            "optimizer.base=\"sgd\"",
            "optimizer.method=\"lora\"",
            "optimizer.schedule=\"constant\"",
            "optimizer.weight_decay=1e5",
            "evaluation.every=1",
            steps,
        ];
        let mut arguments = vec!["finetune", "run.toml", "-o", folder];
        sets.iter().for_each(|change| arguments.extend(["--set", change]));
        world.run(&arguments)
    };
    let ended = run("run", "optimizer.max_steps=30");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("adapter/ holds the best adapter, of step 1\n"), "{}", ended.stderr);
    assert!(!world.path().join("run/DONE").exists());
    assert_eq!(run("short", "optimizer.max_steps=1").code, Some(0));
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        assert_eq!(world.read(&format!("run/adapter/{file}")), world.read(&format!("short/adapter/{file}")), "{file}");
    }
    let lines = metrics(&world, "run");
    assert!(ended.stderr.contains(&format!("after step {}: training diverged", lines.len())), "{}", ended.stderr);
    assert!(lines.iter().enumerate().all(|(i, line)| line["step"] == i + 1 && line["loss"].is_number()), "{lines:?}");
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
